"""What methods gain and keep, and batch-norm policies side by side, on records with known scores."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from segue.report.batch_norms import batch_norm_markdown, batch_norm_table
from segue.report.claims import judge
from segue.report.gains import gains, gains_markdown, gains_tables
from segue.report.page import write_report
from segue.report.study import build_study
from segue.runs.records import Record

Make = Callable[..., Record]
SEEDS = range(6)
# Target and source accuracy against the hard switch, in percent; each seed adds the same to all.
METHODS = {
    "hard_switch": (0.0, 0.0),
    "smoothing": (1.0, 10.0),
    "smoothing_features": (2.0, 8.0),
    "target_ramp": (1.5, -2.0),
    "l2sp": (3.0, 1.0),
}


def run(
    make: Make,
    shift: str,
    method: str,
    seed: int,
    *,
    target: float | None = None,
    source: float | None = None,
    split: str = "test",
    policy: str = "shared",
    dropout: float = 0.2,
    no_data: bool = False,
) -> Record:
    """A run of the vision family whose scores are given in percent."""
    record = make(shift, "smoothing" if "smoothing" in method else "hard_switch", seed, 0.0)
    config = copy.deepcopy(record.config)
    config["method"]["name"] = method
    config |= {"split": split, "batch_norm": policy, "network": {"dropout": dropout}}
    if no_data:
        config["source"] = None
    gain, kept = METHODS.get(method, (0.0, 0.0))
    target = 60.0 + seed + gain if target is None else target
    source = 50.0 + 2 * seed + kept * (1 + 0.05 * seed) if source is None else source
    metrics = {**record.metrics, "target_accuracy": target / 100, "source_accuracy": source / 100}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    return dataclasses.replace(
        record, family="vision", config=config, metrics=metrics, run_id=digest[:16]
    )


def everything(make: Make) -> list[Record]:
    return [
        run(make, shift, method, seed)
        for shift in ("a_to_b", "b_to_a")
        for method in METHODS
        for seed in SEEDS
    ]


def test_gains_are_paired_differences_and_shares_of_what_replay_keeps(make_record: Make) -> None:
    regime = build_study(everything(make_record)).regimes[0]
    by_method = {gain.method: gain for gain in gains(regime, ("a_to_b", "b_to_a"))}
    assert set(by_method) == set(METHODS) - {"hard_switch"}
    features = by_method["smoothing_features"]
    assert features.target.mean == pytest.approx(0.02)
    assert features.over_control is not None
    assert features.over_control.mean == pytest.approx(0.005)
    assert features.source.mean == pytest.approx(0.08 * 1.125)
    assert features.share is not None
    assert (features.share.mean, features.share.low) == pytest.approx((0.8, 0.8))
    assert by_method["target_ramp"].over_control is None
    assert by_method["smoothing"].share is None
    shares = [by_method[name].share for name in ("target_ramp", "l2sp")]
    assert [share and round(share.mean, 6) for share in shares] == [-0.2, 0.1]


def test_the_share_is_left_out_where_replay_keeps_nothing_for_sure(make_record: Make) -> None:
    records = [
        run(
            make_record,
            "a_to_b",
            method,
            seed,
            source=50.0 + (method == "smoothing") * (-1) ** seed,
        )
        for method in ("hard_switch", "smoothing", "l2sp")
        for seed in SEEDS
    ]
    (table,) = gains_tables(build_study(records).regimes[0])
    assert not any("share" in column for column in table.columns)
    assert not any("target ramp" in column for column in table.columns)


def test_gains_are_over_the_shifts_of_all_methods_and_over_those_of_the_treatment(
    make_record: Make,
) -> None:
    records = everything(make_record)
    records += [
        run(make_record, "c_to_a", method, seed, target=60.0 + gain)
        for method, gain in (("hard_switch", 0.0), ("smoothing", 4.0))
        for seed in SEEDS
    ]
    text = gains_markdown(build_study(records))
    first, second = text.split("shares with Fieller")[0], text.split("shares with Fieller")[1]
    assert "mean over 2 shifts (a to b, b to a)" in first
    assert "| smoothing features | +2.0 (2.0 to 2.0) | +0.5 (0.5 to 0.5) | +9.0" in first
    assert "80 (80 to 80)" in first
    assert "mean over 3 shifts (a to b, b to a, c to a)" in second
    assert "| smoothing | +2.0 (2.0 to 2.0) |" in second
    assert "features" not in second


def test_methods_that_share_no_shift_leave_those_that_do(make_record: Make) -> None:
    records = everything(make_record)
    records += [run(make_record, "c_to_a", "ewc", seed) for seed in SEEDS]
    (table,) = gains_tables(build_study(records).regimes[0])
    assert "ewc" not in {row[0] for row in table.rows}
    assert len(table.rows) == len(METHODS) - 1


def test_a_row_says_how_many_seeds_each_difference_has(make_record: Make) -> None:
    records = [
        r for r in everything(make_record)
        if r.config["method"]["name"] != "target_ramp" or r.config["seed"] < 4
    ]  # fmt: skip
    failed = next(
        i for i, r in enumerate(records)
        if (r.config["method"]["name"], r.config["seed"]) == ("l2sp", 5)
    )  # fmt: skip
    records[failed] = dataclasses.replace(records[failed], status="failed", metrics={})
    (table,) = gains_tables(build_study(records).regimes[0])
    seeds = {row[0]: row[-1] for row in table.rows}
    assert seeds == {
        "smoothing": "4 to 6", "smoothing features": "4 to 6", "l2sp": "4 to 5", "target ramp": "4",
    }  # fmt: skip


def test_batch_norm_policies_stand_side_by_side(make_record: Make) -> None:
    records = [run(make_record, "a_to_b", "hard_switch", seed) for seed in SEEDS]
    for policy, gain in (("shared", 0.0), ("target_only", 4.0), ("frozen_source", -3.0)):
        records += [
            run(make_record, "a_to_b", "constant_mix", s, target=60.0 + s + gain, policy=policy)
            for s in SEEDS
        ]
    records += [
        run(make_record, "a_to_b", "constant_mix", s, target=61.0 + s, dropout=0.0) for s in SEEDS
    ]
    # Another mix, that has no second policy, is another thing.
    other = [run(make_record, "a_to_b", "constant_mix", s, target=0.0) for s in SEEDS]
    for record in other:
        record.config["method"]["num_bank_examples"] = 16
    records += [dataclasses.replace(r, run_id=f"zz{i}") for i, r in enumerate(other)]
    # Seeds that only one policy has are not compared with others.
    records += [run(make_record, "a_to_b", "constant_mix", s, target=0.0) for s in (8, 9)]
    table = batch_norm_table(build_study(records))
    assert table is not None
    rows = {row[:3]: row[5] for row in table.rows}
    assert rows == {
        ("hard switch", "–", "0.2"): "–",
        ("constant mix", "shared", "0.2"): "–",
        ("constant mix", "target_only", "0.2"): "+4.0 (4.0 to 4.0)",
        ("constant mix", "frozen_source", "0.2"): "−3.0 (−3.0 to −3.0)",
        ("constant mix", "shared", "0.0"): "+1.0 (1.0 to 1.0)",
    }
    assert "6 seeds" in table.caption
    assert batch_norm_markdown(build_study(everything(make_record))) == "No runs yet."


def test_the_page_has_both_tables_and_the_shifts_without_source_data(
    tmp_path: Path, make_record: Make
) -> None:
    records = everything(make_record)
    records += [
        run(make_record, "imagenet_to_a", method, seed, no_data=True)
        for method in ("hard_switch", "smoothing_features")
        for seed in SEEDS
    ]
    records += [
        run(make_record, "a_to_b", "smoothing", seed, policy="target_only") for seed in SEEDS
    ]
    study = build_study(records)
    assert [study.title_of(regime) for regime in study.shown][-1] == "no source data"
    text = write_report(records, tmp_path / "page.html").read_text()
    for words in (
        "What each method gains on the target and keeps of the source",
        "Batch-norm policies and dropout",
        "imagenet to a",
        "no source data",
    ):
        assert words in text, words


def test_the_ramp_without_a_term_is_a_control_and_no_chosen_baseline(make_record: Make) -> None:
    records = everything(make_record)
    for shift in ("a_to_b", "b_to_a"):
        for seed in (1000, 1001):
            for method in METHODS:
                # On the tuning seeds the ramp without a term is the best of all.
                score = 90.0 if method == "target_ramp" else 60.0 + METHODS[method][0]
                records.append(
                    run(make_record, shift, method, seed, target=score, split="validation")
                )
    verdicts = judge(build_study(records).regimes[0])
    chosen = {str(choice.settings["method.name"]) for choice in verdicts.choices if choice.settings}
    assert chosen == {"l2sp"}
