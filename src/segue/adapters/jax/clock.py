"""The clock, in the manner of an Optax state."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from segue.adapters.jax.schedules import LAST_STEP

__all__ = ["SmoothingState", "increment", "init_state"]


class SmoothingState(NamedTuple):
    """The clock, in the manner of an Optax state: carry and checkpoint it with the optimizer's.

    Attributes:
        num_steps: Applied optimizer steps since the switch, int32.
    """

    num_steps: jax.Array


def init_state() -> SmoothingState:
    """Return the state at the switch."""
    return SmoothingState(jnp.zeros((), jnp.int32))


def increment(state: SmoothingState, applied: bool | jax.Array = True) -> SmoothingState:
    """Count one optimizer step, if it was applied.

    Args:
        state: State before the step.
        applied: Whether the optimizer really stepped. With ``optax.MultiSteps`` pass
            ``multi_steps.has_updated(opt_state)``, with ``optax.apply_if_finite``
            ``opt_state.last_finite``. The count stays at the largest int32 once there.
    """
    step = jnp.asarray(applied).astype(jnp.int32)
    return SmoothingState(
        jnp.where(state.num_steps < LAST_STEP, state.num_steps + step, state.num_steps)
    )
