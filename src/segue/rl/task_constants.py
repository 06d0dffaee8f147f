"""Constants of a task over training: those of a changing task switch at one iteration."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from segue.checks import check_count
from segue.rl.environments import Constants, EnvironmentSpec, changed_constants
from segue.rl.ppo_settings import TaskChange

__all__ = ["TaskConstants"]


class TaskConstants:
    """Constants of a task, some of which may change during training.

    Args:
        environment: The task.
        change: What changes, and before which iteration; None for nothing.

    Raises:
        ValueError: If the task has no such constant, or the iteration is negative.
    """

    def __init__(self, environment: EnvironmentSpec, change: TaskChange | None) -> None:
        self._before = changed_constants(environment, {})
        self._change = change
        self._after = changed_constants(environment, {} if change is None else change.constants)
        if change is not None:
            check_count("iteration", change.iteration)

    def at(self, iteration: int | jax.Array) -> Constants:
        """Constants at an iteration; for compiled code."""
        changed = jnp.asarray(False)
        if self._change is not None:
            changed = jnp.asarray(iteration) >= self._change.iteration
        return {
            name: jnp.where(changed, jnp.float32(self._after[name]), jnp.float32(old))
            for name, old in self._before.items()
        }
