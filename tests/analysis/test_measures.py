"""Steps to the baseline's final score."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from segue.analysis import steps_to_baseline_score

Make = Callable[..., Any]


def curve(*values: float | None) -> dict[str, Any]:
    return {"target_accuracy": {"step": [10 * i for i in range(len(values))], "value": [*values]}}


def test_steps_to_the_hard_switchs_final_score_by_hand(make_record: Make) -> None:
    records = []
    smoothed = [(0.1, 0.7, 0.8), (0.1, 0.2, 0.7), (0.1, 0.2, 0.3)]
    for seed, values in enumerate(smoothed):
        records.append(make_record("hard", seed, 0.6, curves=curve(0.1, 0.4, 0.6)))
        records.append(make_record("smoothing", seed, 0.8, curves=curve(*values)))
    (row,) = steps_to_baseline_score(records, treatment="smoothing", baseline="hard")
    assert [pair.treatment_steps for pair in row.pairs] == [10, 20, None]
    assert (row.num_reached, row.median_treatment_steps) == (2, 20)


def test_a_majority_that_never_gets_there_has_an_infinite_median(make_record: Make) -> None:
    records = [
        make_record("hard", 0, 0.6, curves=curve(0.1, 0.9)),
        make_record("smoothing", 0, 0.8, curves=curve(0.1, 0.3)),
    ]
    (row,) = steps_to_baseline_score(records, treatment="smoothing", baseline="hard")
    assert row.num_reached == 0
    assert row.median_treatment_steps == math.inf


def test_failed_and_diverged_runs_are_named(make_record: Make) -> None:
    error = {"type": "E", "message": "m"}
    records = [
        make_record("hard", 0, 0.6, curves=curve(0.1, None)),
        make_record("smoothing", 0, 0.8, curves=curve(0.1, 0.3)),
        make_record("hard", 1, 0.6, curves=curve(0.1, 0.5)),
        make_record("smoothing", 1, error=error),
    ]
    (row,) = steps_to_baseline_score(records, treatment="smoothing", baseline="hard")
    assert row.pairs == ()
    assert math.isnan(row.median_treatment_steps)
    assert "the final target_accuracy is not finite" in row.notes[0]
    assert "seed 1" in row.notes[1]
    assert "failed" in row.notes[1]
