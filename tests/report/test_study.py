"""How records are sorted into regimes, claims and sweeps."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import pytest

from segue.analysis.matching import lookup
from segue.report.ablations import find_sweeps, safest_share
from segue.report.claims import judge
from segue.report.scores import at_equal_compute
from segue.report.sentences import summarise
from segue.report.study import build_study
from segue.runs.records import Record

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def study(records: list[Record]) -> Any:
    return build_study(records)


def test_first_regime_holds_each_shift_method_and_seed_once(study: Any) -> None:
    regime = study.regimes[0]
    cells = [
        (r.config["shift"]["name"], r.config["method"]["name"], r.config["seed"])
        for r in regime.records
    ]
    assert len(cells) == len(set(cells)) == 9 * 8 * 10
    assert regime.methods[:2] == ("hard_switch", "smoothing")
    assert regime.settings["num_target_steps"] == 600


def test_ablation_runs_do_not_enter_the_main_tables(study: Any) -> None:
    ks = {
        lookup(r.config, "method.schedule.num_smoothing_steps")
        for r in study.regimes[0].records
        if r.config["method"]["name"] == "smoothing"
    }
    assert ks == {150}


def test_tuning_runs_are_not_test_runs(study: Any) -> None:
    regime = study.regimes[0]
    assert {r.config["split"] for r in regime.records} == {"test"}
    assert {r.config["seed"] for r in regime.tuning} == {1000, 1001}


def test_order_of_records_does_not_matter(records: list[Record]) -> None:
    shuffled = random.Random(0).sample(records, len(records))
    assert build_study(shuffled) == build_study(records)


def test_known_effects_are_found_with_their_signs(study: Any) -> None:
    claims = judge(study.regimes[0]).claims
    decisions = {row.group["shift.name"]: row.verdict.decision for row in claims[0].rows}
    assert decisions["blur"] == "helps"
    assert decisions["pixel_permutation"] == "hurts"
    assert decisions["warm_start"] == "undecided"
    assert claims[0].decision == "mixed"
    assert claims[0].sentence.startswith("Helps on 5, hurts on 1, undecided on 3 of 9 shifts; +1.1")


def test_smoothing_methods_are_no_baseline_of_smoothing(make_records: Make) -> None:
    verdicts = judge(build_study(make_records(ablations=False, short_budget=False)).regimes[0])
    chosen = {choice.settings["method.name"] for choice in verdicts.choices if choice.settings}
    assert chosen
    assert not any("smoothing" in name for name in chosen)


@pytest.mark.parametrize("num_seeds", [1, 2, 5])
def test_fewer_than_six_pairs_never_decide(make_records: Make, num_seeds: int) -> None:
    study = build_study(make_records(num_seeds=num_seeds, broken=False))
    rows = [
        row
        for regime in study.regimes
        for verdicts in [judge(regime)]
        for part in [*(c.rows for c in verdicts.claims), *verdicts.by_method.values()]
        for row in part
    ]
    assert rows
    assert {row.verdict.decision for row in rows} == {"undecided"}
    assert all("p " in row.verdict.sentence for row in rows)


def test_primary_verdict_needs_ten_fresh_seeds(make_records: Make) -> None:
    study = build_study(make_records(num_seeds=9, ablations=False, broken=False))
    verdicts = judge(study.regimes[0])
    assert [claim.decision for claim in verdicts.leading] == ["undecided", "undecided"]
    assert not any(claim.primary for claim in verdicts.claims)
    assert "no primary verdict: 9 fresh seeds on a shift, not 10" in verdicts.leading[0].notes


def test_sweeps_change_one_setting_only(study: Any) -> None:
    sweeps = {sweep.path: sweep for sweep in find_sweeps(study)}
    assert sweeps["method.schedule.num_smoothing_steps"].values == (30, 150, 300, 600)
    assert sweeps["method.num_bank_examples"].values == (64, 256, 1024, "all")
    assert sweeps["optimizer.name"].values == ("adamw", "sgd")
    assert sweeps["source.model.norm"].values == ("batch", "group")
    assert sweeps["num_target_examples"].values == (1000, 5000)
    assert sweeps["num_target_steps"].values == (300, 600)
    assert "method.replay_batch_size" not in sweeps


def test_a_sweep_of_the_setting_is_found_at_a_budget_that_is_not_the_main_one(
    make_record: Make,
) -> None:
    records = [
        make_record("blur", name, seed, gain, num_steps=steps, norm=norm)
        for name, gain in (("hard_switch", 0.0), ("smoothing", 1.0))
        for seed in range(6)
        for steps, norms in ((600, ("group",)), (1200, ("group", "batch")))
        for norm in norms
    ]
    # More methods at the short budget, so that it is the main one.
    records += [make_record("blur", "l2sp", seed, 0.0) for seed in range(6)]
    sweep = next(s for s in find_sweeps(build_study(records)) if s.path == "source.model.norm")
    assert sweep.num_target_steps == 1200
    assert sweep.values == ("batch", "group")


def test_a_sweep_does_not_mix_source_models_that_were_trained_for_other_times(
    make_record: Make,
) -> None:
    records = [
        make_record("blur", name, seed, 0.0, num_steps=steps)
        for name in ("hard_switch", "smoothing")
        for seed in range(6)
        for steps in (300, 600)
    ]
    assert any(s.path == "num_target_steps" for s in find_sweeps(build_study(records)))

    def trained_for(record: Record, num_steps: int) -> Record:
        source = record.config["source"] | {"num_training_steps": num_steps}
        return dataclasses.replace(record, config=record.config | {"source": source})

    records = [
        trained_for(record, 10) if record.config["num_target_steps"] == 300 else record
        for record in records
    ]
    assert not any(s.path == "num_target_steps" for s in find_sweeps(build_study(records)))


def test_safest_k_is_the_best_in_its_worst_shift(study: Any) -> None:
    sweep = next(s for s in find_sweeps(study) if s.path.endswith("num_smoothing_steps"))
    safest = safest_share(sweep)
    assert safest is not None
    k, share, worst = safest
    assert (k, share, worst.shift) == (150, 0.25, "gaussian_noise")
    others = [min(p.mean for p in sweep.points if p.value == v) for v in (30, 300, 600)]
    assert worst.mean > max(others)


def test_shifts_without_a_swept_value_are_not_in_the_sweep(study: Any) -> None:
    sweep = next(s for s in find_sweeps(study) if s.path.endswith("num_smoothing_steps"))
    assert {p.shift for p in sweep.points} == {"blur", "gaussian_noise", "label_permutation"}


def test_equal_compute_reads_the_curve_where_the_budget_was_spent(records: list[Record]) -> None:
    run = next(
        r
        for r in records
        if r.config["method"]["name"] == "smoothing" and r.curves
        and r.config["num_target_steps"] == 600 and r.config["split"] == "test"
    )  # fmt: skip
    curve = run.curves["target_accuracy"]
    # 150 steps of 64 source examples on top: the 600 * 64 are spent at step 450.
    exact = {"step": [0, 450, 600], "value": [0.0, 0.7, 1.0]}
    changed = dataclasses.replace(run, curves={**run.curves, "target_accuracy": exact})
    assert at_equal_compute(changed) == pytest.approx(0.7)
    assert curve["step"][-1] == 600
    hard = dataclasses.replace(run, metrics={**run.metrics, "num_gradient_examples": 600 * 64})
    assert at_equal_compute(hard) == pytest.approx(curve["value"][-1])


def test_broken_curves_and_text_metrics_are_left_out_and_do_not_raise(make_records: Make) -> None:
    records = make_records(num_seeds=6, shifts=("blur",), ablations=False, tuning=False)
    bad = dataclasses.replace(
        records[0],
        metrics={**records[0].metrics, "target_accuracy": "high"},
        curves={"target_accuracy": {"step": [3, 1], "value": [0.1, 0.2]}},
    )
    regime = build_study([bad, *records[1:]]).regimes[0]
    rows = judge(regime).by_method["smoothing"]
    assert rows[0].difference.num_pairs == 5
    assert any(bad.run_id in str(run) for run in rows[0].unusable)


def test_one_word_for_all_shifts_must_hold_for_most_of_them(make_records: Make) -> None:
    regime = build_study(make_records(shifts=("blur", "contrast"), ablations=False)).shown[0]
    row = next(row for row in judge(regime).claims[0].rows if row.verdict.decision == "helps")
    undecided = dataclasses.replace(
        row, verdict=dataclasses.replace(row.verdict, decision="undecided")
    )
    hurts = dataclasses.replace(row, verdict=dataclasses.replace(row.verdict, decision="hurts"))

    def word(*rows: object) -> str:
        return summarise(rows, None, "hard switch")[0]  # type: ignore[arg-type]

    assert word(row, row, undecided) == "helps"
    assert word(row, undecided, undecided) == "mixed"
    assert word(row, row, row, hurts) == "mixed"
    assert word(undecided, undecided) == "undecided"
    assert word(hurts, hurts, undecided) == "hurts"
