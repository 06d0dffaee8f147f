"""What happens at a switch, in numbers: the fall, its depth, and how long it lasts.

NumPy only. A curve holds scores over environment steps since the switch; its first point, at step 0, is
S₀, taken over more episodes than the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from segue.checks import check_count, unknown_name

__all__ = [
    "D4RL_REFERENCES",
    "SwitchMeasures",
    "d4rl_reference_score",
    "evaluation_env_steps",
    "measure_switch",
]

D4RL_REFERENCES: dict[str, tuple[float, float]] = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "antmaze": (0.0, 1.0),
    "kitchen": (0.0, 4.0),
    "pen": (96.262799, 3076.8331017826877),
    "hammer": (-274.856578, 12794.134825156867),
    "relocate": (-6.425911, 4233.877797728884),
    "door": (-56.512833, 2880.5693087298737),
    "maze2d-umaze": (23.85, 161.86),
    "maze2d-medium": (13.13, 277.39),
    "maze2d-large": (6.7, 273.99),
}
"""Returns of a random and of an expert policy, measured by D4RL in MuJoCo-py v2 environments."""


def d4rl_reference_score(environment: str, mean_return: float) -> float:
    """Scale a return by D4RL's references: 0 is their random policy, 100 their expert.

    Their environments were older ones: print the raw return too, and compare with no published score.

    Args:
        environment: Name, with or without a version, such as ``Hopper-v5``.
        mean_return: Undiscounted return.

    >>> round(d4rl_reference_score("Hopper-v5", 3234.3), 1)
    100.0
    """
    names = [name for name in D4RL_REFERENCES if environment.lower().startswith(name)]
    if not names:
        raise ValueError(unknown_name("environment", environment, D4RL_REFERENCES))
    low, high = D4RL_REFERENCES[max(names, key=len)]
    return 100.0 * (mean_return - low) / (high - low)


def evaluation_env_steps(num_env_steps: int) -> list[int]:
    """Environment steps after the switch at which the policy is evaluated.

    Dense at first: the fall is over before an evaluation every 5,000 steps would see it.

    >>> evaluation_env_steps(20_000)
    [0, 1, 100, 500, 1000, 2000, 5000, 10000, 15000, 20000]
    """
    check_count("num_env_steps", num_env_steps)
    steps = {0, 1, 100, 500, 1_000, 2_000, *range(5_000, num_env_steps + 1, 5_000), num_env_steps}
    return sorted(step for step in steps if step <= num_env_steps)


@dataclass(frozen=True)
class SwitchMeasures:
    """Measures of one curve; scores in its unit, steps in environment steps.

    Attributes:
        start: S₀, the score at the switch.
        lowest: Lowest score after it.
        lowest_env_step: Where.
        largest_drop: S₀ − lowest, at least 0.
        relative_drop: Its share of S₀'s height above ``floor``; None where S₀ is not above it.
        fell_over_10: Whether the drop is over 10 (for scores scaled to 100).
        area_below_start: ∫ max(0, S₀ − S(t)) dt by trapezoids, over all steps.
        num_env_steps_to_regain: First step from which the score never again falls below S₀ (within
            ``tolerance``); 0 if it never does; None if the curve ends below.
        mean_score: Area under the whole curve, divided by its length.
        final: Last score.
    """

    start: float
    lowest: float
    lowest_env_step: int
    largest_drop: float
    relative_drop: float | None
    fell_over_10: bool
    area_below_start: float
    num_env_steps_to_regain: int | None
    mean_score: float
    final: float

    def as_metrics(self, prefix: str = "") -> dict[str, float | int | bool | None]:
        """As metrics of a record, by name."""
        return {f"{prefix}{name}": value for name, value in asdict(self).items()}


def measure_switch(
    env_steps: Sequence[int],
    scores: Sequence[float],
    *,
    tolerance: float = 0.0,
    floor: float = 0.0,
) -> SwitchMeasures:
    """Measure a curve of scores after a switch.

    Args:
        env_steps: Strictly increasing, from 0.
        scores: Score at each; finite.
        tolerance: How far below S₀ still counts as regained: evaluation is noisy.
        floor: Score of doing nothing, from which the relative drop is taken.

    Raises:
        ValueError: If the curve has fewer than two points, does not start at 0 or is not finite.

    >>> m = measure_switch([0, 100, 200, 300], [50.0, 30.0, 60.0, 60.0])
    >>> m.largest_drop, m.relative_drop, round(m.area_below_start, 1), m.num_env_steps_to_regain
    (20.0, 0.4, 1666.7, 200)
    """
    steps, values = np.asarray(env_steps, np.int64), np.asarray(scores, np.float64)
    if steps.shape != values.shape or steps.ndim != 1 or len(steps) < 2:
        raise ValueError(
            f"env_steps and scores must be equally long, at least 2, got {len(steps)}, {len(values)}"
        )
    if steps[0] != 0 or (np.diff(steps) <= 0).any():
        raise ValueError(f"env_steps must start at 0 and increase, got {list(env_steps)}")
    if not np.isfinite(values).all():
        raise ValueError(f"scores must be finite, got {list(scores)}")
    start = float(values[0])
    place = 1 + int(np.argmin(values[1:]))
    drop = max(0.0, start - float(values[place]))
    below = np.flatnonzero(values < start - tolerance)
    regained: int | None = 0
    if len(below):
        regained = None if below[-1] == len(values) - 1 else int(steps[below[-1] + 1])
    return SwitchMeasures(
        start=start,
        lowest=float(values[place]),
        lowest_env_step=int(steps[place]),
        largest_drop=drop,
        relative_drop=drop / (start - floor) if start > floor else None,
        fell_over_10=drop > 10.0,
        area_below_start=_area_below(steps, start - values),
        num_env_steps_to_regain=regained,
        mean_score=float(np.trapezoid(values, steps) / steps[-1]),
        final=float(values[-1]),
    )


def _area_below(steps: np.ndarray, depth: np.ndarray) -> float:
    """∫ max(0, depth) of a piecewise linear curve, with its crossings of 0 where they are."""
    area = 0.0
    for width, left, right in zip(np.diff(steps), depth[:-1], depth[1:], strict=True):
        if left <= 0.0 and right <= 0.0:
            continue
        if left >= 0.0 and right >= 0.0:
            area += 0.5 * float(width * (left + right))
        else:
            height = max(left, right)
            area += 0.5 * float(width * height * height / abs(left - right))
    return area
