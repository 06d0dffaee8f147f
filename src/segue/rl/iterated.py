"""What learners that run in iterations share: the loop, the task's constants, and ramps that restart."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from segue.adapters.jax import traceable
from segue.checks import check_count, check_positive
from segue.rl.environments import Constants
from segue.rl.task_constants import TaskConstants
from segue.schedules import Schedule

__all__ = ["IteratedLearner", "check_start", "restarting"]

StateT = TypeVar("StateT")


class IteratedLearner(Generic[StateT]):
    """A learner whose iterations are compiled into one loop; give it ``_constants`` and ``iterate``."""

    _constants: TaskConstants

    def iterate(
        self, state: StateT, iteration: jax.Array, constants: Constants
    ) -> tuple[StateT, dict[str, jax.Array]]:
        """One iteration; returns the state after it and what it measured."""
        raise NotImplementedError

    def train(
        self, state: StateT, first_iteration: int | jax.Array, num_iterations: int
    ) -> tuple[StateT, dict[str, jax.Array]]:
        """Run iterations; return the state after them and what each measured.

        ``first_iteration`` counts from the start of training. ``num_iterations`` is static. Under
        ``vmap`` over seeds leave the iteration unbatched (``in_axes=(0, None, None)``), so that the
        source branch is still skipped.
        """

        def one(state: StateT, iteration: jax.Array) -> tuple[StateT, dict[str, jax.Array]]:
            return self.iterate(state, iteration, self.constants_at(iteration))

        iterations = jnp.asarray(first_iteration, jnp.int32) + jnp.arange(num_iterations)
        return lax.scan(one, state, iterations)

    def constants_at(self, iteration: int | jax.Array) -> Constants:
        """Constants of the task at an iteration."""
        return self._constants.at(iteration)


def check_start(seed: int | jax.Array, learning_rate: float | jax.Array) -> None:
    """Check what a state is made from, as far as it is not traced.

    Raises:
        ValueError: If ``seed`` is negative or does not fit 32 bits, or the rate is not positive.
    """
    if isinstance(seed, int) and check_count("seed", seed) >= 2**32:
        raise ValueError(f"seed must be < 2**32, got {seed}")
    if isinstance(learning_rate, int | float):
        check_positive("learning_rate", learning_rate)


def restarting(schedule: Schedule, period: int, first: int) -> Schedule:
    """A schedule over all updates that starts over after every ``period``; 0 before update ``first``."""
    within = traceable(schedule)

    def source_weight(step: Any) -> Any:
        return jnp.where(step >= first, within(step % period), 0.0)

    return source_weight
