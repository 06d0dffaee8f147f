"""Traceable twins of the schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from segue.checks import check_count, check_source_weight
from segue.objective import interpolate
from segue.schedules import Joined, Ramp, Schedule

__all__ = [
    "LAST_STEP",
    "Step",
    "TraceableSchedule",
    "as_step",
    "never_smooths",
    "tabulated",
    "traceable",
]

Step: TypeAlias = "int | jax.Array"
"""An integer step, traced or not."""
TraceableSchedule = Callable[[Step], "jax.Array"]
"""Maps an integer step, traced or not, to a float32 source weight."""

LAST_STEP = int(np.iinfo(np.int32).max)
"""JAX's integers have 32 bits."""


def traceable(schedule: Schedule) -> TraceableSchedule:
    """Return the twin of a schedule that JAX can trace.

    The twin equals the Python schedule at every integer step, to an absolute 1e-6 (it computes in
    float32), exactly where the weight is an initial or final one, under ``jit``, ``scan`` and
    ``vmap``; a weight too small for float32 is 0. A traced step below 0 gives NaN, since a traced
    function cannot raise.

    Args:
        schedule: Made by :mod:`segue.schedules`, or any function of the step that JAX can trace,
            such as an Optax schedule with values in [0, 1].

    Raises:
        TypeError: If ``schedule`` is not callable, or is a Python function that cannot be traced;
            raised here, before anything is compiled.
        ValueError: If a horizon does not fit a 32-bit step.

    >>> import segue
    >>> weight = traceable(segue.linear_decay(4))
    >>> [float(weight(t)) for t in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    twin = _twin(schedule)

    def source_weight(step: Step) -> jax.Array:
        return twin(as_step(step))

    return source_weight


def tabulated(schedule: Schedule, num_steps: int) -> TraceableSchedule:
    """Return a traceable twin of any Python schedule, by tabulating its first steps.

    For a schedule of your own that JAX cannot trace. From step ``num_steps`` on the weight is the
    schedule's at ``num_steps``. The table takes four bytes a step.

    Raises:
        TypeError, ValueError: If the schedule gives something else than a weight in [0, 1].

    >>> weight = tabulated(lambda step: 0.5 if step < 2 else 0.0, num_steps=2)
    >>> [float(weight(t)) for t in range(4)]
    [0.5, 0.5, 0.0, 0.0]
    """
    last = check_count("num_steps", num_steps)
    weights = [check_source_weight(schedule(step), step) for step in range(last + 1)]
    table = np.asarray(weights, np.float32)

    def source_weight(step: Step) -> jax.Array:
        index = as_step(step)
        return _nan_before_zero(index, jnp.asarray(table)[jnp.clip(index, 0, last)])

    return source_weight


def never_smooths(schedule: Schedule) -> bool:
    """Whether ``schedule`` is 0 at every step, as far as can be told without running it."""
    if isinstance(schedule, Joined):
        return all(never_smooths(part) for part in schedule.schedules)
    if not isinstance(schedule, Ramp):
        return False
    starts_at_zero = schedule.num_smoothing_steps == 0 or schedule.initial_weight == 0.0
    return starts_at_zero and schedule.final_weight == 0.0


def _twin(schedule: Schedule) -> Callable[[jax.Array], jax.Array]:
    if isinstance(schedule, Ramp):
        _check_horizon(schedule.num_smoothing_steps)
        return lambda step: _ramp_weight(schedule, step)
    if isinstance(schedule, Joined):
        for boundary in schedule.boundaries:
            _check_horizon(boundary)
        parts = [_twin(part) for part in schedule.schedules]
        return lambda step: _joined_weight(parts, schedule.boundaries, step)
    if not callable(schedule):
        raise TypeError(f"schedule must map a step to a source weight, got {schedule!r}")
    function: Callable[[Any], Any] = schedule
    try:
        found = jax.eval_shape(function, jnp.zeros((), jnp.int32))
    except Exception as error:  # whatever a Python function raises when it meets a tracer
        raise TypeError(
            f"schedule must be made by segue.schedules or be traceable by JAX, got {schedule!r}, "
            f"which cannot be traced ({type(error).__name__}); "
            "segue.adapters.jax.tabulated(schedule, num_steps) makes a table of it"
        ) from error
    if getattr(found, "shape", None) != ():
        raise TypeError(f"schedule must return a scalar, got {found!r} from {schedule!r}")
    return lambda step: _nan_before_zero(step, jnp.asarray(function(step), jnp.float32))


def _ramp_weight(ramp: Ramp, step: jax.Array) -> jax.Array:
    num_steps = ramp.num_smoothing_steps
    final = jnp.float32(ramp.final_weight)
    if num_steps == 0:
        return _nan_before_zero(step, final)
    initial = jnp.float32(ramp.initial_weight)
    # Clipped before dividing, so that no shape sees a progress outside [0, 1].
    progress = jnp.clip(step, 0, num_steps).astype(jnp.float32) / np.float32(num_steps)
    share = _SHAPES[ramp.shape](progress, ramp.parameter)
    weight = jnp.clip(interpolate(share, initial, final), final, initial)
    weight = jnp.where(step <= 0, initial, weight)
    return _nan_before_zero(step, jnp.where(step >= num_steps, final, weight))


def _joined_weight(
    parts: list[Callable[[jax.Array], jax.Array]], boundaries: tuple[int, ...], step: jax.Array
) -> jax.Array:
    weight = parts[0](step)
    for boundary, part in zip(boundaries, parts[1:], strict=True):
        weight = jnp.where(step >= boundary, part(jnp.maximum(step - boundary, 0)), weight)
    return _nan_before_zero(step, weight)


def _exponential(progress: jax.Array, rate: float) -> jax.Array:
    if rate < 1e-9:
        return 1.0 - progress
    # The reference's form times e^-rate above and below: float32 overflows from a rate of 89 on.
    falling = jnp.exp(-rate * progress)
    return falling * jnp.expm1(-rate * (1.0 - progress)) / np.float32(np.expm1(-rate))


def _sigmoid(progress: jax.Array, steepness: float) -> jax.Array:
    if steepness < 1e-6:
        return 1.0 - progress
    end = np.float32(np.tanh(0.25 * steepness))
    return 0.5 * (1.0 + jnp.tanh(0.5 * steepness * (0.5 - progress)) / end)


_SHAPES: dict[str, Callable[[jax.Array, float], jax.Array]] = {
    "linear": lambda progress, _: 1.0 - progress,
    "cosine": lambda progress, _: 0.5 * (1.0 + jnp.cos(np.pi * progress)),
    "polynomial": lambda progress, power: (1.0 - progress) ** power,
    "exponential": _exponential,
    "sigmoid": _sigmoid,
}


def _check_horizon(num_steps: int) -> None:
    if num_steps > LAST_STEP:
        raise ValueError(
            f"num_smoothing_steps must be <= {LAST_STEP} (steps are 32-bit), got {num_steps}"
        )


def as_step(step: Step) -> jax.Array:
    """Return ``step`` as an integer array; a Python integer must be >= 0."""
    if isinstance(step, int):
        return jnp.asarray(check_count("step", step))
    array = jnp.asarray(step)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"step must be an integer, got an array of {array.dtype}")
    return array


def _nan_before_zero(step: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.where(step >= 0, weight, jnp.float32(np.nan))
