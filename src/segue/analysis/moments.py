"""Four moments of a switch with a ramp, and what other curves say at each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from segue.analysis.curves import Curve, points

__all__ = ["Moments", "find_moments", "ramp_end", "value_by"]


@dataclass(frozen=True)
class Moments:
    """Steps of one run at which it is looked at; None where the run has no such moment.

    Attributes:
        before: The switch, step 0.
        lowest: Where the score is lowest at the evaluations within the ramp, the switch aside.
        after: The first evaluation at which the source weight is 0.
        end: The last evaluation.
    """

    before: int
    lowest: int | None
    after: int | None
    end: int


def ramp_end(weight: Curve) -> float | None:
    """The step at which a falling source weight reaches 0; None if it never does or never was above.

    Between the last evaluation above 0 and the first at 0, the line through the last two evaluations
    above 0 is carried on: for a linear ramp that is exact, however rarely it was evaluated.

    >>> ramp_end({"step": [0, 4, 8, 20], "value": [1.0, 0.6, 0.2, 0.0]})
    10.0
    """
    steps, values = points(weight)
    above = np.flatnonzero(values > 0.0)
    if not above.size or above[-1] == len(values) - 1:
        return None
    last = int(above[-1])
    end = float(steps[last + 1])
    if above.size > 1 and above[-2] == last - 1 and values[last - 1] > values[last]:
        slope = (values[last - 1] - values[last]) / (steps[last] - steps[last - 1])
        end = min(end, float(steps[last]) + float(values[last]) / float(slope))
    return end


def find_moments(
    score: Curve, weight: Curve | None, *, window: tuple[int, int] | None = None
) -> Moments:
    """Find the moments of one run.

    Args:
        score: Its score over steps since the switch, higher being better.
        weight: Its source weight; None is a weight of 0.
        window: Of a run without a ramp: the last step within and the first step after that of the run
            it is compared with.

    Raises:
        ValueError: If the score does not start at step 0.
    """
    steps, values = points(score)
    if steps[0] != 0:
        raise ValueError(f"score must start at step 0, the switch, got step {steps[0]}")
    inside, after = window if window is not None else (None, None)
    if weight is not None:
        at, weights = points(weight)
        above = np.flatnonzero(weights > 0.0)
        if above.size:
            inside = int(at[above[-1]])
            after = int(at[above[-1] + 1]) if above[-1] + 1 < len(at) else None
    lowest = None
    if inside is not None:
        within = (steps > 0) & (steps <= inside) & np.isfinite(values)
        if np.any(within):
            lowest = int(steps[within][int(np.argmin(values[within]))])
    return Moments(
        0, lowest, after if after is None or after <= steps[-1] else None, int(steps[-1])
    )


def value_by(curves: Mapping[str, Curve], name: str, step: int | None) -> float | None:
    """The curve's last finite value at or before a step; None where there is none."""
    if step is None or name not in curves:
        return None
    steps, values = points(curves[name])
    known = np.flatnonzero((steps <= step) & np.isfinite(values))
    value = float(values[known[-1]]) if known.size else math.nan
    return value if math.isfinite(value) else None
