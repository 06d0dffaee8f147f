"""Measures of a curve, by hand."""

from __future__ import annotations

import math
from functools import partial

import pytest

from segue.analysis import (
    area_under_curve,
    final_value,
    forgetting,
    gradient_examples,
    lowest_after_switch,
    mean_curve,
    min_accuracy,
    steps_to_reach,
    switch_drop,
    value_at,
    value_at_compute,
    worst_case_accuracy,
)

FALL = {"step": [0, 10, 20, 40], "value": [0.8, 0.4, 0.6, 0.9]}


def test_value_between_evaluations_is_the_last_one_or_on_the_line() -> None:
    assert value_at(FALL, 15) == 0.4
    assert value_at(FALL, 15, interpolate=True) == pytest.approx(0.5)
    assert value_at(FALL, 20, interpolate=True) == 0.6


@pytest.mark.parametrize("step", [-1, 41])
def test_nothing_is_extrapolated(step: int) -> None:
    with pytest.raises(ValueError, match=rf"step must be in \[0, 40\], got {step}"):
        value_at(FALL, step)


def test_lowest_point_leaves_the_evaluation_at_the_switch_out() -> None:
    rising = {"step": [0, 10, 20], "value": [0.1, 0.3, 0.2]}
    assert lowest_after_switch(rising) == (20, 0.2)
    assert lowest_after_switch(FALL) == (10, 0.4)


def test_lowest_point_of_a_diverged_curve_is_nan_at_its_step() -> None:
    step, value = lowest_after_switch({"step": [0, 10, 20], "value": [0.5, 0.4, None]})
    assert step == 20
    assert math.isnan(value)


def test_steps_to_reach_first_and_for_good() -> None:
    curve = {"step": [0, 10, 20, 30, 40], "value": [0.1, 0.7, 0.5, 0.6, 0.8]}
    assert steps_to_reach(curve, 0.6) == 10
    assert steps_to_reach(curve, 0.6, sustained=True) == 30
    assert steps_to_reach(curve, 0.9) is None
    assert steps_to_reach(curve, 0.1, higher_is_better=False) == 0


def test_a_value_that_is_not_finite_reaches_nothing() -> None:
    curve = {"step": [0, 10, 20], "value": [0.1, None, 0.9]}
    assert steps_to_reach(curve, 0.05, sustained=True) == 20
    with pytest.raises(ValueError, match="score must be finite"):
        steps_to_reach(curve, math.nan)


def test_area_is_trapezoidal_over_uneven_steps() -> None:
    assert area_under_curve(FALL, normalise=False) == pytest.approx(6.0 + 5.0 + 15.0)
    assert area_under_curve(FALL) == pytest.approx(26.0 / 40.0)


def test_forgetting_and_final_value() -> None:
    assert forgetting(FALL) == pytest.approx(-0.1)
    assert final_value(FALL) == 0.9


def test_switch_drop_by_hand() -> None:
    drop = switch_drop(FALL)
    assert (drop.start, drop.lowest, drop.lowest_step) == (0.8, 0.4, 10)
    assert drop.drop == pytest.approx(0.4)
    assert drop.relative_drop == pytest.approx(0.5)
    # Triangle 10 x 0.4 / 2, trapezium 10 x 0.3, triangle 13.3 x 0.2 / 2 up to the crossing.
    assert drop.area_below_start == pytest.approx(2.0 + 3.0 + 4.0 / 3.0)
    assert drop.steps_to_regain == 40


def test_switch_drop_of_a_curve_that_ends_below_its_start_is_never_regained() -> None:
    drop = switch_drop({"step": [0, 1, 2, 3], "value": [0.5, 0.4, 0.6, 0.3]})
    assert drop.steps_to_regain is None


def test_switch_drop_needs_the_value_at_the_switch() -> None:
    with pytest.raises(ValueError, match="start at step 0"):
        switch_drop({"step": [5, 10], "value": [0.5, 0.4]})


def test_stability_gap_measures_by_hand() -> None:
    first = {"step": [0, 10, 20, 30], "value": [0.1, 0.9, 0.5, 0.7]}
    second = {"step": [0, 10, 20, 30], "value": [0.1, 0.2, 0.8, 0.6]}
    current = {"step": [20, 30], "value": [0.3, 0.9]}
    assert min_accuracy([first, second], [10, 20], 30) == pytest.approx((0.5 + 0.6) / 2)
    worst = worst_case_accuracy(current, [first, second], [10, 20], 30)
    assert worst == pytest.approx(0.9 / 3 + 2 / 3 * 0.55)


def test_minimum_accuracy_leaves_the_tasks_own_training_out() -> None:
    curve = {"step": [0, 10, 20], "value": [0.0, 0.9, 0.8]}
    assert min_accuracy([curve], [10], 20) == 0.8
    with pytest.raises(ValueError, match=r"a step in \(20, 20\]"):
        min_accuracy([curve], [20], 20)
    with pytest.raises(ValueError, match="one entry per earlier task"):
        min_accuracy([], [], 20)


def test_equal_compute_looks_a_smoothed_run_up_at_an_earlier_step() -> None:
    curve = {"step": [0, 10, 20, 30], "value": [0.0, 0.3, 0.6, 0.9]}
    cost = partial(gradient_examples, batch_size=8, source_batch_size=8, num_smoothing_steps=10)
    # 30 plain steps cost 240. The ramp's 10 steps cost 160, and 10 more the other 80: step 20.
    assert value_at_compute(curve, 240, cost) == pytest.approx(0.6)
    with pytest.raises(ValueError, match=r"budget must be in \[0, 320\], got 400"):
        value_at_compute(curve, 400, cost)
    with pytest.raises(ValueError, match="cost must not decrease"):
        value_at_compute(curve, 1, lambda step: -step)


def test_mean_curve_keeps_long_runs_and_counts_who_is_left() -> None:
    short = {"step": [0, 10], "value": [0.2, 0.4]}
    long = {"step": [0, 10, 20], "value": [0.4, None, 0.8]}
    mean = mean_curve([short, long])
    assert mean.step == (0, 10, 20)
    assert mean.num_runs == (2, 1, 1)
    assert mean.mean == pytest.approx((0.3, 0.4, 0.8))
    assert math.isnan(mean.low[1])


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ({"step": [0]}, "keys 'step' and 'value'"),
        ({"step": [0, 1], "value": [1.0]}, "one value a step, got 2 and 1"),
        ({"step": [], "value": []}, "at least one point"),
        ({"step": [0, 0], "value": [1.0, 1.0]}, "increase strictly"),
    ],
)
def test_broken_curves_are_named(curve: dict[str, list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        final_value(curve)
