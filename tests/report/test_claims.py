"""What a claim rests on: borrowed tuning, equal compute, the fall, forgetting, shared seeds."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from segue.report.claims import RegimeVerdicts, judge
from segue.report.listing import method_rows
from segue.report.scores import fall, forgetting_in
from segue.report.study import Regime, Study, build_study
from segue.runs.records import Record

Make = Callable[..., list[Record]]
SHIFTS = ("blur", "contrast")


def changed(record: Record, metrics: dict[str, Any] | None = None, **paths: Any) -> Record:
    """The record with other metrics, and other values at paths such as ``optimizer__learning_rate``."""
    config = copy.deepcopy(record.config)
    for path, value in paths.items():
        *parents, last = path.split("__")
        inner = config
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    run_id = f"{record.run_id}-{sorted(paths.items())}"
    metrics = {**record.metrics, **(metrics or {})}
    return dataclasses.replace(record, run_id=run_id, config=config, metrics=metrics)


def lengthened(record: Record) -> Record:
    """The same run at twice the steps and five times the examples, its ramps longer alike."""
    ramps: dict[str, Any] = {}
    if record.config["method"]["schedule"]["num_smoothing_steps"]:
        ramps["method__schedule__num_smoothing_steps"] = 300
    if record.config["method"]["num_warmup_steps"]:
        ramps["method__num_warmup_steps"] = 300
    return changed(record, num_target_steps=1200, num_target_examples=5000, **ramps)


def method(record: Record) -> str:
    return str(record.config["method"]["name"])


def shift(record: Record) -> str:
    return str(record.config["shift"]["name"])


def runs_of(records: list[Record], *methods: str) -> list[Record]:
    return [r for r in records if r.config["split"] == "test" and method(r) in methods]


def at(study: Study, num_steps: int) -> Regime:
    return next(r for r in study.regimes if r.settings["num_target_steps"] == num_steps)


def claim(verdicts: RegimeVerdicts, start: str) -> Any:
    return next(c for c in verdicts.claims if c.question.startswith(start))


@pytest.fixture
def plain(make_records: Make) -> list[Record]:
    """Two shifts, ten seeds, tuning at the one budget; no ablations and nothing broken."""
    return make_records(shifts=SHIFTS, ablations=False, short_budget=False, broken=False)


def with_long(plain: list[Record]) -> list[Record]:
    return plain + [lengthened(r) for r in plain if r.config["split"] == "test"]


def test_a_budget_without_tuning_runs_takes_those_of_the_other_budget(plain: list[Record]) -> None:
    study = build_study(with_long(plain))
    long, short = at(study, 1200), at(study, 600)
    verdicts = judge(long)
    assert long.tuned_at == "1,000 target examples and 600 target steps"
    assert [c.primary for c in verdicts.leading] == [True, True]
    assert all(long.tuned_at in c.basis for c in verdicts.leading)
    assert verdicts.choices == judge(short).choices
    assert short.tuned_at == ""
    assert judge(short).leading[0].basis == ""


def test_borrowed_choices_are_matched_by_learning_rate(plain: list[Record]) -> None:
    records = [
        changed(r, optimizer__learning_rate=0.02)
        if r.config["num_target_steps"] == 1200 and method(r) == "hard_switch"
        and shift(r) == "blur"
        else r
        for r in with_long(plain)
    ]  # fmt: skip
    first = judge(at(build_study(records), 1200)).leading[0]
    pairs = {row.group["shift.name"]: row.difference.num_pairs for row in first.rows}
    assert pairs == {"blur": 0, "contrast": 10}
    assert not first.primary


def test_tuning_runs_of_another_network_are_not_borrowed(plain: list[Record]) -> None:
    records = [
        changed(r, source__model__norm="batch") if r.config["num_target_steps"] == 1200 else r
        for r in with_long(plain)
    ]
    long = at(build_study(records), 1200)
    assert long.tuning == ()
    assert not judge(long).leading[0].primary


def longer_hard_switch(records: list[Record], *shifts: str, **other: Any) -> list[Record]:
    # 150 smoothing steps of 64 source examples are 150 more steps of 64 target examples.
    return [
        changed(r, {"target_accuracy": 0.9}, num_target_steps=750, **other)
        for r in runs_of(records, "hard_switch")
        if shift(r) in shifts
    ]


def test_equal_compute_is_against_the_longer_hard_switch(plain: list[Record]) -> None:
    study = build_study(plain + longer_hard_switch(plain, *SHIFTS))
    found = claim(judge(at(study, 600)), "At equal compute")
    assert found.decision == "hurts"
    for row in found.rows:
        assert set(row.baseline_scores) == {0.9}
        smoothed = [r.metrics["target_accuracy"] for r in runs_of(plain, "smoothing")]
        assert set(row.treatment_scores) <= set(smoothed)
    assert found.basis == "the hard switch was trained for 750 steps, which cost as much"
    assert "20 runs of the hard switch with more steps" in study.notes[0]


def test_shifts_without_longer_runs_are_read_from_the_curve_and_named(plain: list[Record]) -> None:
    records = plain + longer_hard_switch(plain, "blur")
    found = claim(judge(at(build_study(records), 600)), "At equal compute")
    own = claim(judge(at(build_study(plain), 600)), "At equal compute")
    assert set(found.rows[0].baseline_scores) == {0.9}
    assert found.rows[1].difference == own.rows[1].difference
    assert "on contrast, where it was not: read from each run's own curve" in found.basis
    assert own.basis.startswith("read from each run's own curve")


def test_longer_runs_at_another_learning_rate_are_no_baseline_and_are_named(
    plain: list[Record],
) -> None:
    records = plain + longer_hard_switch(plain, *SHIFTS, optimizer__learning_rate=0.02)
    study = build_study(records)
    assert at(study, 600).equal_compute == ()
    assert study.notes == (
        "20 runs at settings that lack the hard switch or a smoothing method: compared with "
        "nothing (750 target steps)",
    )


def test_forgetting_is_against_the_source_model_not_against_redrawn_weights(
    plain: list[Record],
) -> None:
    regime = build_study(plain).regimes[0]
    forgetting = forgetting_in(regime)
    fresh = runs_of(plain, "fresh_head")[0]
    redrawn = {"source_accuracy_before": 0.1, "source_accuracy": 0.25}
    assert forgetting(
        changed(fresh, {**redrawn, "source_model_accuracy": 0.8})
    ) == pytest.approx(0.55)  # fmt: skip
    # An older record: what the hard switch of this shift and seed started from, 0.75.
    for old in (redrawn, {**redrawn, "source_model_accuracy": None}):
        assert forgetting(changed(fresh, old)) == pytest.approx(0.5)
    assert forgetting(changed(fresh, redrawn, seed=77)) is None
    assert forgetting(changed(fresh, {"source_accuracy": None})) is None


def test_the_table_shows_forgetting_against_the_source_model(plain: list[Record]) -> None:
    metrics = {"source_accuracy_before": 0.1, "source_accuracy": 0.25, "source_model_accuracy": 0.8}
    records = [changed(r, metrics) if method(r) == "fresh_head" else r for r in plain]
    regime = build_study(records).regimes[0]
    rows = {row.method: row for row in method_rows(regime, judge(regime))["blur"]}
    assert rows["fresh_head"].forgotten == "55.0"


def with_curve(record: Record, *values: float) -> Record:
    curve = {"step": [10 * i for i in range(len(values))], "value": list(values)}
    return dataclasses.replace(record, curves={**record.curves, "target_accuracy": curve})


def test_a_fall_is_measured_from_the_runs_own_start(plain: list[Record]) -> None:
    run = plain[0]
    assert fall(with_curve(run, 0.5, 0.3, 0.9)) == pytest.approx(0.2)
    assert fall(with_curve(run, 0.1, 0.2, 0.9)) == 0.0
    assert fall(with_curve(run, 0.1)) is None
    assert fall(dataclasses.replace(run, curves={})) is None


def falling(plain: list[Record], **starts: float) -> list[Record]:
    """Smoothing's lowest point lies at 0.4 and the hard switch's at 0.3, on each shift."""
    return [
        with_curve(r, starts[shift(r)], 0.4 if method(r) == "smoothing" else 0.3, 0.6)
        if r.curves else r
        for r in plain
    ]  # fmt: skip


def test_a_smaller_fall_helps(plain: list[Record]) -> None:
    found = claim(
        judge(build_study(falling(plain, blur=0.5, contrast=0.5)).regimes[0]),
        "Does smoothing fall less below where it started?",
    )
    assert found.decision == "helps"
    assert found.rows[0].difference.mean == pytest.approx(-0.1)
    assert "−10.0 points on average" in found.sentence


def test_without_any_fall_there_is_none_to_remove(plain: list[Record]) -> None:
    start = "Does smoothing fall less"
    none = claim(judge(build_study(falling(plain, blur=0.1, contrast=0.2)).regimes[0]), start)
    assert none.sentence == "Undecided: no fall to remove, neither ever falls below its start."
    assert none.notes == ()
    some = claim(judge(build_study(falling(plain, blur=0.5, contrast=0.2)).regimes[0]), start)
    assert some.sentence.startswith("Helps on 1, no fall to remove on 1 of 2 shifts")
    assert "no fall to remove" in some.rows[1].verdict.sentence


def test_only_tuned_verdicts_on_ten_seeds_are_primary(make_records: Make) -> None:
    parts: dict[str, Any] = {"shifts": SHIFTS, "ablations": False, "broken": False}
    whole = judge(build_study(make_records(**parts)).regimes[0])
    assert [c.primary for c in whole.claims] == [True, True, False, False, False]
    untuned = judge(build_study(make_records(**parts, tuning=False)).regimes[0])
    assert not any(c.primary for c in untuned.claims)
    assert len(untuned.leading) == 1
    assert untuned.leading[0].basis.startswith("no tuning runs of both methods")


def test_a_failed_run_does_not_unmake_the_primary_verdict(make_records: Make) -> None:
    records = make_records(shifts=SHIFTS, ablations=False, broken=False, short_budget=False)
    error = {"type": "E", "message": "m", "traceback": ""}
    broken = runs_of(records, "smoothing")[0]
    bad = dataclasses.replace(broken, status="failed", error=error, metrics={}, curves={})
    records[records.index(broken)] = bad
    first = judge(build_study(records).regimes[0]).leading[0]
    assert first.primary
    assert first.rows[0].difference.num_pairs == 9


def test_the_hard_switch_is_no_baseline_of_itself(plain: list[Record]) -> None:
    records = [
        changed(r, {"target_accuracy": 0.99})
        if method(r) == "hard_switch" and r.config["split"] == "validation"
        and r.config["optimizer"]["learning_rate"] == 0.05
        else r
        for r in plain
    ]  # fmt: skip
    choices = judge(build_study(records).regimes[0]).choices
    chosen = {choice.settings["method.name"] for choice in choices if choice.settings}
    assert chosen
    assert "hard_switch" not in chosen


def test_uneven_seeds_are_pooled_over_those_that_all_shifts_have(plain: list[Record]) -> None:
    def without(seeds: set[int]) -> Any:
        kept = [
            r for r in plain
            if not (shift(r) == "blur" and method(r) == "smoothing" and r.config["seed"] in seeds)
        ]  # fmt: skip
        verdicts = judge(build_study(kept).regimes[0])
        return verdicts.leading[0], verdicts.pooled_by_method["smoothing"]

    first, _ = without({3, 4})
    assert "points on average against the hard switch (95 % interval" in first.sentence
    assert first.sentence.count("8 seeds") == 1
    assert any("left out: seed 3, 4" in note for note in first.notes)
    first, pooled = without(set(range(9)))
    assert "no interval: the shifts share fewer than two seeds" in first.sentence
    assert pooled.probability.low != pooled.probability.low  # nan: there is none
