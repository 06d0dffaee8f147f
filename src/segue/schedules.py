r"""When to smooth: schedules map an optimizer step to the source weight λ.

A schedule is a pure function of the step ``t >= 0`` (optimizer steps since the switch) that returns
the source's share of the loss, in [0, 1]. Any callable ``int -> float`` will do; the ones made here
also know their horizon, so that whatever stands for the source can be freed when the ramp is over.

Every decay has the form

.. math:: \lambda_t = \lambda_K + (\lambda_0 - \lambda_K)\, s(t / K), \qquad s(0) = 1,\ s(p \ge 1) = 0

with a shape :math:`s`, the initial weight :math:`\lambda_0`, the final weight :math:`\lambda_K` and
the number of smoothing steps :math:`K`. This module needs nothing but the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from segue.checks import check_count, check_positive, check_share

__all__ = [
    "DEFAULT_SMOOTHING_SHARE",
    "Joined",
    "Ramp",
    "Schedule",
    "constant",
    "cosine_decay",
    "exponential_decay",
    "hard_switch",
    "join",
    "linear_decay",
    "polynomial_decay",
    "resolve_num_smoothing_steps",
    "sigmoid_decay",
]

Schedule = Callable[[int], float]
"""Anything that maps an optimizer step to a source weight in [0, 1]."""


def _linear(progress: float, _: float) -> float:
    return 1.0 - progress


def _cosine(progress: float, _: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _polynomial(progress: float, power: float) -> float:
    return float((1.0 - progress) ** power)


def _exponential(progress: float, rate: float) -> float:
    if rate < 1e-9:  # linear to rounding
        return 1.0 - progress
    # expm1 keeps the shape exact for small rates, where it tends to the linear one.
    return math.expm1(rate * (1.0 - progress)) / math.expm1(rate)


def _sigmoid(progress: float, steepness: float) -> float:
    if steepness < 1e-6:  # the logistic curve is its own tangent to rounding
        return 1.0 - progress
    # The difference of two logistics by tanh, which does not cancel where the steepness is small.
    end = math.tanh(0.25 * steepness)
    return 0.5 * (1.0 + math.tanh(0.5 * steepness * (0.5 - progress)) / end)


_SHAPES: dict[str, Callable[[float, float], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "polynomial": _polynomial,
    "exponential": _exponential,
    "sigmoid": _sigmoid,
}


@dataclass(frozen=True, slots=True)
class Ramp:
    """A decay from ``initial_weight`` to ``final_weight`` over ``num_smoothing_steps``.

    Made by the functions of this module; comparable, hashable and picklable.

    Attributes:
        shape: Name of the shape of the decay.
        num_smoothing_steps: Horizon K in optimizer steps; ``final_weight`` from there on.
        initial_weight: Weight at step 0 (if K > 0).
        final_weight: Weight from step K on.
        parameter: Parameter of the shape, where it has one.
    """

    shape: str
    num_smoothing_steps: int
    initial_weight: float
    final_weight: float
    parameter: float = 0.0

    def __call__(self, step: int) -> float:
        """Return the source weight at ``step``."""
        step = _check_step(step)
        if step >= self.num_smoothing_steps:
            return self.final_weight
        share = _SHAPES[self.shape](step / self.num_smoothing_steps, self.parameter)
        # Interpolating this way returns both ends exactly, whatever the rounding.
        weight = share * self.initial_weight + (1.0 - share) * self.final_weight
        return min(max(weight, self.final_weight), self.initial_weight)


@dataclass(frozen=True, slots=True)
class Joined:
    """Schedules one after the other; made by :func:`join`."""

    schedules: tuple[Schedule, ...]
    boundaries: tuple[int, ...]

    @property
    def num_smoothing_steps(self) -> int | None:
        """Step from which the weight no longer changes; None if the last part does not know."""
        last = horizon(self.schedules[-1])
        start = self.boundaries[-1] if self.boundaries else 0
        return None if last is None else start + last

    @property
    def final_weight(self) -> float:
        """Weight from ``num_smoothing_steps`` on."""
        last = self.schedules[-1]
        return float(last(horizon(last) or 0))

    def __call__(self, step: int) -> float:
        """Return the source weight at ``step``."""
        step = _check_step(step)
        part, start = 0, 0
        for index, boundary in enumerate(self.boundaries, start=1):
            if step >= boundary:
                part, start = index, boundary
        return self.schedules[part](step - start)


def hard_switch() -> Ramp:
    """Never smooth: the target loss alone from the first step. The baseline.

    >>> weight = hard_switch()
    >>> [weight(t) for t in (0, 1, 1000)]
    [0.0, 0.0, 0.0]
    """
    return Ramp("linear", 0, 0.0, 0.0)


def constant(weight: float) -> Ramp:
    """Keep the source weight at ``weight`` for ever (constant mix, experience replay).

    Args:
        weight: Source weight in [0, 1].

    Raises:
        ValueError: If ``weight`` is outside [0, 1].

    >>> [constant(0.5)(t) for t in (0, 10, 1000)]
    [0.5, 0.5, 0.5]
    """
    value = check_share("weight", weight, 1.0)
    return Ramp("linear", 0, value, value)


def linear_decay(
    num_smoothing_steps: int, *, initial_weight: float = 1.0, final_weight: float = 0.0
) -> Ramp:
    r"""Anneal the source weight linearly from ``initial_weight`` to ``final_weight``.

    .. math:: \lambda_t = \lambda_K + (\lambda_0 - \lambda_K) \max(0, 1 - t / K)

    Args:
        num_smoothing_steps: Horizon K in optimizer steps (not micro-batches, epochs or
            environment steps). 0 never smooths: ``final_weight`` at every step.
        initial_weight: Weight at step 0, in [0, 1].
        final_weight: Weight from step K on, in [0, ``initial_weight``]. Above 0 it is a floor that
            is kept for ever, and the source is never released.

    Returns:
        A pure function of the step ``t >= 0``; exactly ``final_weight`` for every ``t >= K``.

    Raises:
        TypeError: If ``num_smoothing_steps`` is not an integer or a weight is not a number.
        ValueError: If ``num_smoothing_steps < 0`` or a weight is outside its range.

    Source: arXiv 2607.00634, linear interpolation at the start of adaptation.

    >>> weight = linear_decay(4)
    >>> [weight(t) for t in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    >>> floor = linear_decay(4, final_weight=0.5)
    >>> [floor(t) for t in range(6)]
    [1.0, 0.875, 0.75, 0.625, 0.5, 0.5]
    >>> linear_decay(0)(0)
    0.0
    """
    return _ramp("linear", num_smoothing_steps, initial_weight, final_weight)


def cosine_decay(
    num_smoothing_steps: int, *, initial_weight: float = 1.0, final_weight: float = 0.0
) -> Ramp:
    r"""Anneal along half a cosine: slow at both ends, :math:`s(p) = (1 + \cos \pi p) / 2`.

    Arguments, result and errors as in :func:`linear_decay`.

    >>> weight = cosine_decay(2)
    >>> [round(weight(t), 12) for t in range(4)]
    [1.0, 0.5, 0.0, 0.0]
    """
    return _ramp("cosine", num_smoothing_steps, initial_weight, final_weight)


def polynomial_decay(
    num_smoothing_steps: int,
    *,
    power: float = 2.0,
    initial_weight: float = 1.0,
    final_weight: float = 0.0,
) -> Ramp:
    r"""Anneal as a power of the steps left: :math:`s(p) = (1 - p)^{\text{power}}`.

    A power above 1 leaves the source early, one below 1 late. Other arguments, result and errors
    as in :func:`linear_decay`; ``power`` must be positive and finite.

    >>> weight = polynomial_decay(4, power=2)
    >>> [weight(t) for t in range(6)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """
    value = check_positive("power", power)
    return _ramp("polynomial", num_smoothing_steps, initial_weight, final_weight, value)


def exponential_decay(
    num_smoothing_steps: int,
    *,
    rate: float = 5.0,
    initial_weight: float = 1.0,
    final_weight: float = 0.0,
) -> Ramp:
    r"""Anneal exponentially, shifted and scaled to end at exactly ``final_weight``.

    .. math:: s(p) = (e^{-r p} - e^{-r}) / (1 - e^{-r})

    Args:
        num_smoothing_steps: As in :func:`linear_decay`.
        rate: Decay rate r over the whole ramp; positive. The larger, the sooner the source goes.
        initial_weight: As in :func:`linear_decay`.
        final_weight: As in :func:`linear_decay`.

    >>> weight = exponential_decay(2, rate=2.0)
    >>> [round(weight(t), 4) for t in range(4)]
    [1.0, 0.2689, 0.0, 0.0]
    """
    value = check_positive("rate", rate)
    if value > 700.0:
        raise ValueError(f"rate must be <= 700, got {rate!r}")
    return _ramp("exponential", num_smoothing_steps, initial_weight, final_weight, value)


def sigmoid_decay(
    num_smoothing_steps: int,
    *,
    steepness: float = 10.0,
    initial_weight: float = 1.0,
    final_weight: float = 0.0,
) -> Ramp:
    r"""Anneal along a logistic curve centred in the ramp, scaled to reach both ends exactly.

    With :math:`\sigma` the logistic function and :math:`k` the steepness,
    :math:`s(p) = (\sigma(k(1/2 - p)) - \sigma(-k/2)) / (\sigma(k/2) - \sigma(-k/2))`.
    Arguments, result and errors as in :func:`linear_decay`; ``steepness`` must be positive.

    >>> weight = sigmoid_decay(4)
    >>> [round(weight(t), 4) for t in range(6)]
    [1.0, 0.9299, 0.5, 0.0701, 0.0, 0.0]
    """
    value = check_positive("steepness", steepness)
    return _ramp("sigmoid", num_smoothing_steps, initial_weight, final_weight, value)


def join(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Joined:
    """Run schedules one after the other, for a sequence of shifts.

    Part ``i`` starts at ``boundaries[i - 1]`` (part 0 at step 0) and sees steps counted from its
    own start, so that every switch begins at its own step 0.

    Args:
        schedules: At least one schedule.
        boundaries: First step of every part but the first: positive, strictly increasing,
            ``len(schedules) - 1`` of them.

    Raises:
        TypeError: If a schedule is not callable or a boundary is not an integer.
        ValueError: If the numbers do not match or the boundaries do not increase.

    >>> weight = join([linear_decay(2), linear_decay(4)], boundaries=[3])
    >>> [weight(t) for t in range(8)]
    [1.0, 0.5, 0.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if not schedules:
        raise ValueError("schedules must hold at least one schedule, got none")
    for part in schedules:
        if not callable(part):
            raise TypeError(f"schedules must map a step to a source weight, got {part!r}")
    if not isinstance(boundaries, Sequence):
        raise TypeError(f"boundaries must be a sequence of steps, got {boundaries!r}")
    if len(boundaries) != len(schedules) - 1:
        raise ValueError(
            f"boundaries must hold one step fewer than there are schedules "
            f"({len(schedules) - 1}), got {len(boundaries)}"
        )
    steps = tuple(check_count("boundaries", step) for step in boundaries)
    if any(later <= earlier for earlier, later in zip((0, *steps), steps, strict=False)):
        raise ValueError(f"boundaries must be > 0 and strictly increasing, got {list(boundaries)}")
    return Joined(tuple(schedules), steps)


DEFAULT_SMOOTHING_SHARE = 0.025
"""Share of training to smooth when nothing is known: the one that loses least in its worst shift.

Measured on CIFAR-10 at 1,200 steps, see ``docs/choosing.md``. Pass it as ``num_smoothing_steps`` to an
adapter, or through :func:`resolve_num_smoothing_steps`.
"""


def resolve_num_smoothing_steps(num_smoothing_steps: int | float, num_training_steps: int) -> int:
    """Turn an integer or a share of training into a number of optimizer steps.

    Args:
        num_smoothing_steps: An ``int`` is a number of optimizer steps; a ``float`` in (0, 1) is a
            share of ``num_training_steps``, rounded up.
        num_training_steps: Optimizer steps of the whole training.

    Raises:
        TypeError: If ``num_smoothing_steps`` is neither ``int`` nor ``float``.
        ValueError: If it is negative, longer than training, or a float outside (0, 1): ``300.0``
            could mean either, so it means neither.

    >>> resolve_num_smoothing_steps(300, 1000), resolve_num_smoothing_steps(0.25, 1001)
    (300, 251)
    """
    if not isinstance(num_smoothing_steps, float):  # NumPy's integers are no int
        if isinstance(num_smoothing_steps, bool) or not hasattr(num_smoothing_steps, "__index__"):
            raise TypeError(
                "num_smoothing_steps must be an int (optimizer steps) or a float in (0, 1) "
                f"(share of training), got {num_smoothing_steps!r}"
            )
        num_steps = check_count("num_smoothing_steps", num_smoothing_steps)
        if num_steps > check_count("num_training_steps", num_training_steps):
            raise ValueError(
                f"num_smoothing_steps must be <= num_training_steps ({num_training_steps}), "
                f"got {num_steps}"
            )
        return num_steps
    if not 0.0 < num_smoothing_steps < 1.0:
        raise ValueError(
            "num_smoothing_steps as a float is a share of training and must be in (0, 1), "
            f"got {num_smoothing_steps!r}; pass an int for a number of optimizer steps"
        )
    # The decimal the user wrote, not its binary neighbour: ceil(0.07 * 100) must be 7.
    share = Fraction(repr(float(num_smoothing_steps)))
    return math.ceil(share * check_count("num_training_steps", num_training_steps))


def horizon(schedule: Schedule) -> int | None:
    """Return the step from which ``schedule`` is constant, or None if it does not say."""
    value = getattr(schedule, "num_smoothing_steps", None)
    return None if value is None else int(value)


def check_horizon(schedule: Schedule, most: int, what: str) -> int | None:
    """Return the horizon of a schedule that must fit into ``most`` steps, ``what`` in words.

    Raises:
        ValueError: If the schedule reaches 0 only after them.

    >>> check_horizon(linear_decay(10), 8, "the updates of an iteration (8)")
    Traceback (most recent call last):
        ...
    ValueError: num_smoothing_steps must be <= the updates of an iteration (8), got 10
    """
    num_smoothing_steps = horizon(schedule)
    if num_smoothing_steps is not None and num_smoothing_steps > most:
        raise ValueError(f"num_smoothing_steps must be <= {what}, got {num_smoothing_steps}")
    return num_smoothing_steps


def describe(schedule: Schedule) -> str | None:
    """Return a text that identifies ``schedule`` in another process too, or None.

    Only those made here have one: a function's ``repr`` holds its address.
    """
    if isinstance(schedule, Joined):
        known = all(describe(part) is not None for part in schedule.schedules)
        return repr(schedule) if known else None
    return repr(schedule) if isinstance(schedule, Ramp) else None


def _ramp(
    shape: str,
    num_smoothing_steps: int,
    initial_weight: float,
    final_weight: float,
    parameter: float = 0.0,
) -> Ramp:
    steps = check_count("num_smoothing_steps", num_smoothing_steps)
    initial = check_share("initial_weight", initial_weight, 1.0)
    final = check_share("final_weight", final_weight, initial, "initial_weight")
    return Ramp(shape, steps, initial, final, parameter)


def _check_step(step: int) -> int:
    if type(step) is int and step >= 0:
        return step
    return check_count("step", step)
