"""Running mean and variance of observations, for learners that normalise them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["RunningStatistics", "include", "no_statistics", "normalized"]

_SMALLEST_VARIANCE = 1e-8


class RunningStatistics(NamedTuple):
    """Moments of all observations so far; a pytree.

    Attributes:
        mean: Shape (num_observations,).
        variance: Shape (num_observations,), not corrected for bias.
        number: Of observations, 0-d.
    """

    mean: jax.Array
    variance: jax.Array
    number: jax.Array


def no_statistics(num_observations: int) -> RunningStatistics:
    """Before the first observation: mean 0 and variance 1, which normalise nothing."""
    return RunningStatistics(
        jnp.zeros(num_observations), jnp.ones(num_observations), jnp.float32(0.0)
    )


def include(statistics: RunningStatistics, observations: jax.Array) -> RunningStatistics:
    """Include observations of shape (..., num_observations).

    Source: Chan, Golub and LeVeque's update of two samples' moments.

    >>> found = include(no_statistics(1), jnp.array([[1.0], [3.0]]))
    >>> float(found.mean[0]), float(found.variance[0]), float(found.number)
    (2.0, 1.0, 2.0)
    """
    seen = observations.reshape(-1, observations.shape[-1])
    before, new = statistics.number, jnp.float32(seen.shape[0])
    number = before + new
    difference = seen.mean(axis=0) - statistics.mean
    mean = statistics.mean + difference * new / number
    squares = statistics.variance * before + seen.var(axis=0) * new
    squares += difference**2 * before * new / number
    return RunningStatistics(mean, squares / number, number)


def normalized(statistics: RunningStatistics | tuple[()], observations: jax.Array) -> jax.Array:
    """Return observations with mean 0 and variance 1, as far as the statistics go; () leaves them."""
    if not isinstance(statistics, RunningStatistics):
        return observations
    return (observations - statistics.mean) / jnp.sqrt(statistics.variance + _SMALLEST_VARIANCE)
