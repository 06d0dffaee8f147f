"""Measures of one run's curve: its fall after the switch, its recovery, its speed.

A curve is what a record holds: ``{"step": [...], "value": [...]}``, optimizer steps since the
switch (0 = evaluated at the switch, before the first step) and values that higher is better for
unless told otherwise. ``None`` and ``nan`` stand for a value that was not finite; a measure that
would have to look at one is ``nan`` (or ``None`` for a step) rather than guessed around.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segue.analysis.statistics import t_interval

Curve = Mapping[str, Sequence[Any]]


class Point(NamedTuple):
    """One evaluation: an optimizer step and the value there."""

    step: int
    value: float


@dataclass(frozen=True)
class SwitchDrop:
    """What the switch cost, in the curve's unit and in optimizer steps.

    Attributes:
        start: Value at the switch (step 0).
        lowest: Lowest value after the switch; ``lowest_step`` is the first step it occurs at.
        lowest_step: See ``lowest``.
        drop: ``start - lowest``; negative where the curve never goes below its start.
        relative_drop: ``drop / start``; ``nan`` where ``start`` is 0.
        area_below_start: Area between ``start`` and the curve where it is below, in value x steps.
        steps_to_regain: First evaluated step from which on the curve stays at or above
            ``start``; ``None`` if it ends below.
    """

    start: float
    lowest: float
    lowest_step: int | None
    drop: float
    relative_drop: float
    area_below_start: float
    steps_to_regain: int | None


@dataclass(frozen=True)
class MeanCurve:
    """Mean over runs at each step, with a pointwise t interval.

    ``num_runs[i]`` is how many runs have a finite value at ``step[i]``: runs that end early are
    neither cut away nor carried on.
    """

    step: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    num_runs: tuple[int, ...]


def points(curve: Curve) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the checked steps (n,) and values (n,) of a curve, ``None`` as ``nan``.

    Raises:
        ValueError: Missing keys, unequal lengths, no points, or steps that do not increase.
    """
    for key in ("step", "value"):
        if key not in curve:
            raise ValueError(f"curve must have the keys 'step' and 'value', got {sorted(curve)}")
    steps = np.asarray(curve["step"], dtype=np.int64)
    values = np.array([math.nan if v is None else float(v) for v in curve["value"]])
    if steps.size != values.size:
        raise ValueError(f"curve must have one value a step, got {steps.size} and {values.size}")
    if steps.size == 0:
        raise ValueError("curve must have at least one point, got none")
    if np.any(np.diff(steps) <= 0):
        raise ValueError("curve steps must increase strictly")
    return steps, values


def value_at(curve: Curve, step: float, *, interpolate: bool = False) -> float:
    """Value of the curve at ``step``.

    Args:
        curve: The curve.
        step: A step from the first to the last evaluated one.
        interpolate: Draw a line between the two neighbours; else take the last evaluation at or
            before ``step``.

    Raises:
        ValueError: If ``step`` lies outside the evaluated steps: nothing is extrapolated.

    >>> value_at({"step": [0, 10], "value": [0.0, 1.0]}, 5, interpolate=True)
    0.5
    """
    steps, values = points(curve)
    if not steps[0] <= step <= steps[-1]:
        raise ValueError(f"step must be in [{steps[0]}, {steps[-1]}], got {step}")
    at = int(np.searchsorted(steps, step, side="right")) - 1
    if steps[at] == step or not interpolate:
        return float(values[at])
    share = (step - steps[at]) / (steps[at + 1] - steps[at])
    return float((1.0 - share) * values[at] + share * values[at + 1])


def final_value(curve: Curve) -> float:
    """The last value of the curve."""
    return float(points(curve)[1][-1])


def lowest_after_switch(curve: Curve, *, after: int = 0) -> Point:
    """The lowest evaluation at a step greater than ``after``, and the first step it occurs at.

    The evaluation at the switch itself is left out: it shows the source model, not the switch.

    Raises:
        ValueError: If nothing was evaluated after ``after``.
    """
    steps, values = points(curve)
    later = steps > after
    if not np.any(later):
        raise ValueError(f"curve must have a step > {after}, its last is {steps[-1]}")
    steps, values = steps[later], values[later]
    if np.any(np.isnan(values)):
        return Point(int(steps[int(np.argmax(np.isnan(values)))]), math.nan)
    lowest = int(np.argmin(values))
    return Point(int(steps[lowest]), float(values[lowest]))


def steps_to_reach(
    curve: Curve, score: float, *, sustained: bool = False, higher_is_better: bool = True
) -> int | None:
    """First evaluated step at which the curve is at least ``score``; ``None`` if it never is.

    Args:
        curve: The curve; its resolution is the result's resolution.
        score: The score to reach, finite.
        sustained: Count only a step from which on the curve stays there to its end.
        higher_is_better: ``False`` for losses: at most ``score``.

    >>> steps_to_reach({"step": [0, 10, 20], "value": [0.1, 0.6, 0.5]}, 0.6)
    10
    """
    if not math.isfinite(score):
        raise ValueError(f"score must be finite, got {score}")
    steps, values = points(curve)
    with np.errstate(invalid="ignore"):
        reached = values >= score if higher_is_better else values <= score
    if sustained:
        reached = np.logical_and.accumulate(reached[::-1])[::-1]
    return int(steps[int(np.argmax(reached))]) if np.any(reached) else None


def area_under_curve(curve: Curve, *, normalise: bool = True) -> float:
    """Area under the curve by the trapezoidal rule, in value x steps.

    Args:
        curve: The curve.
        normalise: Divide by the steps spanned, which gives the mean value along training.
    """
    steps, values = points(curve)
    if steps.size == 1:
        return float(values[0]) if normalise else 0.0
    area = float(np.trapezoid(values, steps))
    return area / float(steps[-1] - steps[0]) if normalise else area


def forgetting(source_curve: Curve) -> float:
    """How far the source score fell from the switch to the end; negative where it rose."""
    _, values = points(source_curve)
    return float(values[0] - values[-1])


def switch_drop(curve: Curve) -> SwitchDrop:
    """Measure the fall below the score at the switch and the way back.

    Raises:
        ValueError: If the curve does not start at step 0 or has no later point.
    """
    steps, values = points(curve)
    if steps[0] != 0:
        raise ValueError(f"curve must start at step 0, the switch, got step {steps[0]}")
    start = float(values[0])
    lowest = lowest_after_switch(curve)
    if math.isnan(start) or math.isnan(lowest.value):
        return SwitchDrop(start, lowest.value, None, math.nan, math.nan, math.nan, None)
    drop = start - lowest.value
    later = {"step": curve["step"][1:], "value": curve["value"][1:]}
    return SwitchDrop(
        start=start,
        lowest=lowest.value,
        lowest_step=lowest.step,
        drop=drop,
        relative_drop=drop / start if start else math.nan,
        area_below_start=_area_below(steps, values, start),
        steps_to_regain=steps_to_reach(later, start, sustained=True),
    )


def _area_below(steps: NDArray[np.int64], values: NDArray[np.float64], level: float) -> float:
    """Area between ``level`` and the piecewise linear curve where the curve is below it."""
    area = 0.0
    gaps = level - values
    for width, left, right in zip(np.diff(steps), gaps[:-1], gaps[1:], strict=True):
        if left >= 0.0 and right >= 0.0:
            area += float(width) * (left + right) / 2.0
        elif left > 0.0 or right > 0.0:  # the line crosses the level: a triangle is below
            below = max(left, right)
            area += float(width) * below**2 / (2.0 * abs(left - right))
    return float(area)


def gradient_examples(
    step: float, *, batch_size: int, source_batch_size: float, num_smoothing_steps: int
) -> float:
    """Examples that went through a backward pass in the first ``step`` optimizer steps.

    A target batch each step and, during the ramp, a source batch as well. ``join``-ed schedules
    and mixed batches cost otherwise: read their own count from the record.

    >>> gradient_examples(10, batch_size=32, source_batch_size=16, num_smoothing_steps=4)
    384
    """
    return step * batch_size + min(step, num_smoothing_steps) * source_batch_size


def value_at_compute(curve: Curve, budget: float, cost: Callable[[int], float]) -> float:
    """Value of the curve where its run had spent ``budget``, for an equal-compute comparison.

    Args:
        curve: The curve over optimizer steps.
        budget: What may be spent, in the unit of ``cost``, often gradient examples.
        cost: What the run has spent after a step, never decreasing, such as a partial of
            :func:`gradient_examples`. It is evaluated at the curve's steps; in between, both
            cost and curve are taken as straight lines.

    Raises:
        ValueError: If the run ends below ``budget`` (nothing is extrapolated), starts above it, or
            ``cost`` decreases.
    """
    steps, _ = points(curve)
    spent = np.array([float(cost(int(step))) for step in steps])
    if np.any(np.diff(spent) < 0.0):
        raise ValueError("cost must not decrease along the curve")
    if not spent[0] <= budget <= spent[-1]:
        raise ValueError(f"budget must be in [{spent[0]:g}, {spent[-1]:g}], got {budget:g}")
    return value_at(curve, float(np.interp(budget, spent, steps)), interpolate=True)


def mean_curve(curves: Sequence[Curve], *, confidence: float = 0.95) -> MeanCurve:
    """Average curves of several runs at every step that any of them was evaluated at."""
    by_step: dict[int, list[float]] = {}
    for curve in curves:
        for step, value in zip(*points(curve), strict=True):
            by_step.setdefault(int(step), []).append(float(value))
    steps = sorted(by_step)
    intervals = [
        t_interval([v for v in by_step[step] if math.isfinite(v)], confidence=confidence)
        for step in steps
    ]
    return MeanCurve(
        step=tuple(steps),
        mean=tuple(interval.mean for interval in intervals),
        low=tuple(interval.low for interval in intervals),
        high=tuple(interval.high for interval in intervals),
        num_runs=tuple(interval.num_values for interval in intervals),
    )
