"""Tables and comparisons over records: what is paired, named and refused."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segue.analysis import (
    Arm,
    compare,
    count_decisions,
    curve_metric,
    forgetting,
    holm,
    lowest_after_switch,
    pool,
    table,
)

Make = Callable[..., Any]
NAN = {"type": "FloatingPointError", "message": "source loss is nan\nat step 7"}


def grid(make: Make, gains: dict[str, float], seeds: range = range(10)) -> list[Any]:
    """Hard and smoothing runs; the seed moves both arms, the gain varies a little by seed."""
    records = []
    for shift, gain in gains.items():
        for seed in seeds:
            base = 0.5 + 0.03 * math.sin(7.0 * seed)
            records.append(make("hard", seed, base, shift=shift))
            records.append(
                make("smoothing", seed, base + gain + 0.001 * math.cos(seed), shift=shift)
            )
    return records


def test_every_shift_gets_a_row_with_holm_over_the_shifts(make_record: Make) -> None:
    records = grid(make_record, {"noise": 0.02, "blur": -0.02, "contrast": 0.0})
    rows = compare(records, treatment="smoothing", baseline="hard")
    assert [row.group for row in rows] == [
        {"shift.name": name} for name in ("blur", "contrast", "noise")
    ]
    assert [row.verdict.decision for row in rows] == ["hurts", "undecided", "helps"]
    assert [row.adjusted_p for row in rows] == list(holm([r.difference.p_value for r in rows]))
    assert rows[2].adjusted_p == 3 * 2 / 1024
    assert rows[2].seeds == tuple(range(10))
    assert count_decisions(rows) == {"helps": 1, "hurts": 1, "undecided": 1}


def test_the_arms_difference_is_listed(make_record: Make) -> None:
    records = [
        make_record("hard", 0, 0.5),
        make_record("smoothing", 0, 0.6, method_settings={"K": 30}, learning_rate=0.3),
    ]
    (row,) = compare(records, treatment="smoothing", baseline="hard")
    assert row.differs_in == {
        "learning_rate": (0.3, 0.1),
        "method.K": (30, None),
        "method.name": ("smoothing", "hard"),
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 2**32))
def test_the_order_of_records_changes_nothing(make_record: Make, seed: int) -> None:
    records = grid(make_record, {"noise": 0.02, "blur": -0.01}, range(6))
    shuffled = random.Random(seed).sample(records, len(records))
    assert compare(shuffled, treatment="smoothing", baseline="hard") == compare(
        records, treatment="smoothing", baseline="hard"
    )
    assert table(shuffled) == table(records)


def test_a_failed_treatment_run_is_named_and_blocks_the_verdict(make_record: Make) -> None:
    records = grid(make_record, {"noise": 0.02})
    records[1] = make_record("smoothing", 0, error=NAN)
    (row,) = compare(records, treatment="smoothing", baseline="hard")
    assert row.verdict.decision == "undecided"
    assert row.difference.num_pairs == 9
    assert row.seeds == tuple(range(1, 10))
    assert row.verdict.notes[0] == "smoothing has no usable run where hard has one: seed 0"
    assert "failed, FloatingPointError: source loss is nan at step 7" in row.verdict.notes[1]
    assert row.unusable[0].run_id == records[1].run_id


def test_a_nan_score_counts_as_a_failed_run(make_record: Make) -> None:
    records = grid(make_record, {"noise": 0.02})
    for i, value in ((1, None), (3, math.nan)):
        records[i] = make_record("smoothing", i // 2, value)
    (row,) = compare(records, treatment="smoothing", baseline="hard")
    assert [run.seed for run in row.unusable] == [0, 1]
    assert all("target_accuracy was not finite" in run.reason for run in row.unusable)
    assert row.difference.num_pairs == 8


def test_runs_that_fail_in_both_arms_block_nothing(make_record: Make) -> None:
    records = grid(make_record, {"noise": 0.02})
    records[:2] = [make_record(name, 0, error=NAN) for name in ("hard", "smoothing")]
    (row,) = compare(records, treatment="smoothing", baseline="hard")
    assert row.verdict.decision == "helps"
    assert len(row.unusable) == 2


def test_unpaired_seeds_are_named(make_record: Make) -> None:
    records = grid(make_record, {"noise": 0.02})
    records.append(make_record("smoothing", 11, 0.9))
    records.append(make_record("hard", 12, error=NAN))
    (row,) = compare(records, treatment="smoothing", baseline="hard")
    assert row.unpaired == (
        "hard, seed 12 (failed), has no partner: smoothing has no run with this seed",
        "smoothing, seed 11, has no partner: hard has no run with this seed",
    )
    assert set(row.unpaired) <= set(row.verdict.notes)


def test_runs_that_differ_in_a_matched_path_are_not_paired_and_say_why(make_record: Make) -> None:
    records = [
        make_record("hard", 0, 0.5, num_target_steps=1200),
        make_record("smoothing", 0, 0.6),
    ]
    (row,) = compare(records, treatment="smoothing", baseline="hard")
    assert row.difference.num_pairs == 0
    assert row.verdict.sentence == "undecided: no pairs with hard"
    assert "hard has num_target_steps 1200 instead of 300" in row.unpaired[1]
    (equal_compute,) = compare(
        records, treatment="smoothing", baseline="hard", match=("shift.name", "seed", "split")
    )
    assert equal_compute.difference.num_pairs == 1


def test_a_group_without_pairs_still_counts_in_holm(make_record: Make) -> None:
    records = [
        *grid(make_record, {"noise": 0.02}),
        make_record("smoothing", 0, 0.5, shift="blur"),
    ]
    rows = compare(records, treatment="smoothing", baseline="hard")
    assert rows[0].difference.num_pairs == 0
    assert rows[1].adjusted_p == 2 * 2 / 1024


def test_fewer_than_six_pairs_never_decide(make_record: Make) -> None:
    rows = compare(
        grid(make_record, {"noise": 0.3}, range(5)), treatment="smoothing", baseline="hard"
    )
    assert rows[0].verdict.decision == "undecided"
    assert "0.062" in rows[0].verdict.sentence


def test_smallest_adjusted_p_is_what_unanimous_pairs_reach(make_record: Make) -> None:
    records = [
        *grid(make_record, {"noise": 0.02}, range(6)),
        *grid(make_record, {"blur": 0.02}, range(10)),
    ]
    rows = compare(records, treatment="smoothing", baseline="hard")
    assert [row.smallest_adjusted_p for row in rows] == [2 * 2 / 1024, 2 / 64]
    assert [row.adjusted_p for row in rows] == [row.smallest_adjusted_p for row in rows]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"split": "validation"}, "split: ['test', 'validation']"),
        ({"num_target_steps": 1200}, "num_target_steps: [300, 1200]"),
        ({"method_settings": {"K": 30}}, "method.K: [30, 150]"),
    ],
)
def test_an_arm_of_mixed_settings_is_an_error_that_names_them(
    make_record: Make, change: dict[str, Any], path: str
) -> None:
    one = {"method_settings": {"K": 150}} if "method_settings" in change else {}
    records = [
        make_record("hard", 0, 0.5),
        make_record("smoothing", 0, 0.6, **one),
        make_record("smoothing", 1, 0.6, **change),
    ]
    with pytest.raises(ValueError, match="must be one setting") as caught:
        compare(records, treatment="smoothing", baseline="hard")
    assert path in str(caught.value)


def test_an_arm_picks_one_setting(make_record: Make) -> None:
    records = [
        make_record("hard", 0, 0.5),
        make_record("smoothing", 0, 0.6, method_settings={"K": 30}),
        make_record("smoothing", 0, 0.9, method_settings={"K": 150}),
    ]
    arm = Arm("smoothing, K = 30", {"method.name": "smoothing", "method.K": 30})
    (row,) = compare(records, treatment=arm, baseline="hard")
    assert row.treatment_scores == (0.6,)


def test_a_config_field_added_later_does_not_split_an_arm(make_record: Make) -> None:
    records = [
        make_record("hard", 0, 0.5),
        make_record("hard", 1, 0.5, label_smoothing=0.0),
        make_record("smoothing", 0, 0.6),
    ]
    (row,) = compare(records, treatment="smoothing", baseline="hard")
    assert row.difference.num_pairs == 1


def test_the_same_seed_twice_is_an_error(make_record: Make) -> None:
    records = [make_record("hard", 0, 0.5), make_record("smoothing", 0, 0.6)]
    with pytest.raises(ValueError, match="each seed once, seed 0 occurs in the runs"):
        compare([*records, records[1]], treatment="smoothing", baseline="hard")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"metric": "target_acuracy"}, "did you mean 'target_accuracy'"),
        ({"group_by": ("shift.nam",)}, "did you mean 'shift.name'"),
        ({"match": ("seed", "num_target_step")}, "did you mean 'num_target_steps'"),
        ({"where": {"splt": "test"}}, "did you mean 'split'"),
        ({"match": ("shift.name",)}, "match must contain 'seed'"),
        ({"treatment": "smooth", "baseline": "hardd"}, "no record belongs to 'smooth'"),
        ({"min_pairs": 2}, "min_pairs must be >= 6, got 2"),
    ],
)
def test_wrong_arguments_are_named(make_record: Make, kwargs: dict[str, Any], message: str) -> None:
    arguments = {"treatment": "smoothing", "baseline": "hard", **kwargs}
    with pytest.raises(ValueError, match=message):
        compare(grid(make_record, {"noise": 0.02}), **arguments)


def test_a_metric_that_is_text_is_an_error(make_record: Make) -> None:
    records = [make_record("hard", 0, "0.5"), make_record("smoothing", 0, 0.6)]
    with pytest.raises(TypeError, match=r"'target_accuracy' must be a number, got '0\.5'"):
        compare(records, treatment="smoothing", baseline="hard")


def test_table_reports_values_spread_and_failures(make_record: Make) -> None:
    records = [
        make_record("hard", 10, 0.3),
        make_record("hard", 9, 0.1),
        make_record("hard", 2, error=NAN),
        make_record("fresh", 2, None),
    ]
    fresh, hard = table(records)
    assert hard.group == {"shift.name": "noise", "method.name": "hard"}
    assert (hard.mean, hard.num_runs) == (pytest.approx(0.2), 2)
    assert hard.sd == pytest.approx(np.std([0.1, 0.3], ddof=1))
    assert hard.values == ((9, 0.1), (10, 0.3))
    assert [run.seed for run in hard.unusable] == [2]
    assert fresh.num_runs == 0
    assert math.isnan(fresh.mean)
    assert "not finite" in fresh.unusable[0].reason


def test_table_refuses_to_average_over_settings(make_record: Make) -> None:
    records = [make_record("hard", s, 0.5, learning_rate=0.1 * (s + 1)) for s in range(2)]
    with pytest.raises(ValueError, match=r"differ in learning_rate: \[0.1, 0.2\]"):
        table(records)
    assert len(table(records, group_by=("method.name", "learning_rate"))) == 2


def test_curve_measures_are_metrics(make_record: Make) -> None:
    source = {"step": [0, 10, 20], "value": [0.9, 0.5, 0.7]}
    records = [
        make_record("hard", 0, 0.5, curves={"source_accuracy": source}),
        make_record("hard", 1, 0.5),
    ]
    (row,) = table(records, metric=curve_metric("source_accuracy", forgetting))
    assert row.mean == pytest.approx(0.2)
    assert row.unusable[0].reason == "forgetting of source_accuracy has no value"
    (row,) = table(records, metric=curve_metric("source_accuracy", lowest_after_switch))
    assert row.mean == 0.5


def test_pool_over_shifts_equals_the_pooled_differences(make_record: Make) -> None:
    rows = compare(
        grid(make_record, {"noise": 0.02, "blur": 0.04}), treatment="smoothing", baseline="hard"
    )
    pooled = pool(rows, np.random.default_rng(0))
    assert pooled.num_groups == 2
    assert pooled.num_pairs == 20
    assert pooled.mean is not None
    assert pooled.mean_by_seed is not None
    assert pooled.mean.value == pytest.approx(pooled.mean_by_seed.mean)
    assert pooled.mean.value == pytest.approx(0.03, abs=0.001)
    assert pooled.mean_by_seed.num_values == 10
    assert any("share their seeds" in note for note in pooled.notes)
    assert pool(rows, np.random.default_rng(0)) == pooled
    assert pool(rows, np.random.default_rng(1)) != pooled


def test_pool_of_one_shift_refuses_a_bootstrap(make_record: Make) -> None:
    rows = compare(grid(make_record, {"noise": 0.02}), treatment="smoothing", baseline="hard")
    pooled = pool(rows, np.random.default_rng(0))
    assert pooled.iqm is None
    assert "fewer than two groups" in pooled.notes[-1]


def test_joint_pooling_is_over_the_seeds_that_all_groups_have(make_record: Make) -> None:
    noise = grid(make_record, {"noise": 0.02})
    rows = compare(
        noise + grid(make_record, {"blur": 0.04}, range(6)), treatment="smoothing", baseline="hard"
    )
    joint = pool(rows, np.random.default_rng(0), joint=True)
    same = compare(
        [r for r in noise if r.config["seed"] < 6] + grid(make_record, {"blur": 0.04}, range(6)),
        treatment="smoothing",
        baseline="hard",
    )
    alike = pool(same, np.random.default_rng(0), joint=True)
    assert dataclasses.replace(joint, notes=()) == dataclasses.replace(alike, notes=())
    assert joint.num_pairs == 12
    assert joint.mean_by_seed is not None
    assert joint.mean_by_seed.num_values == 6
    assert joint.notes == (
        "pooled over the 6 seeds that every group has; left out: seed 6, 7, 8, 9",
    )
    assert pool(rows, np.random.default_rng(0)).mean_by_seed is None


def test_joint_pooling_gives_no_interval_below_two_shared_seeds(make_record: Make) -> None:
    records = grid(make_record, {"noise": 0.02}) + grid(make_record, {"blur": 0.02}, range(9, 19))
    rows = compare(records, treatment="smoothing", baseline="hard")
    pooled = pool(rows, np.random.default_rng(0), joint=True)
    assert pooled.mean_by_seed is None
    for estimate in (pooled.iqm, pooled.mean, pooled.probability):
        assert estimate is not None
        assert math.isfinite(estimate.value)
        assert math.isnan(estimate.low)
        assert math.isnan(estimate.high)
    assert pooled.notes == ("fewer than two seeds are in every group: no interval over the groups",)
