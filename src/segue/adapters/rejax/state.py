"""What a smoothed learner of rejax has more than a plain one: a schedule and a field of its state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import jax.numpy as jnp
from flax import struct

from segue.adapters.jax import traceable
from segue.schedules import Schedule

__all__ = ["check_state", "static", "with_absent_source", "with_field"]

_field: Callable[..., Any] = struct.field  # flax leaves it untyped


def static(default: Any) -> Any:
    """Return a field that is part of the program and no array."""
    return _field(pytree_node=False, default=default)


def with_absent_source(schedule: Schedule) -> Schedule:
    """Step 0: there is no source yet. Step n + 1: n updates into the ramp."""
    within = traceable(schedule)

    def source_weight(step: Any) -> Any:
        return jnp.where(step == 0, 0.0, within(jnp.maximum(step - 1, 0)))

    return source_weight


def with_field(state: Any, name: str, value: Any) -> Any:
    """Return rejax's state with one more field; its own registry would draw one more key."""
    kind = type(state)
    body = {name: _field(pytree_node=True), "__annotations__": {name: type(value)}}
    values = {field.name: getattr(state, field.name) for field in fields(state)}
    return type(kind.__name__, (kind,), body)(**values, **{name: value})


def check_state(algorithm: Any, state: Any, name: str) -> None:
    """Raise a TypeError if a state has no such field: it is one of plain rejax."""
    if not hasattr(state, name):
        raise TypeError(
            f"train_state must come from {type(algorithm).__name__}.init_state with a schedule that "
            f"smooths, got a {type(state).__name__} without {name!r}"
        )
