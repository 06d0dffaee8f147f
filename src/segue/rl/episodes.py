"""Whole episodes of a policy, in environments that training does not see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from segue.rl.environments import (
    Constants,
    EnvironmentSpec,
    EnvironmentState,
    StepResult,
    reset,
    step_or_start,
)

__all__ = ["act", "returns_of_episodes"]


def act(
    spec: EnvironmentSpec,
    states: EnvironmentState,
    actions: jax.Array,
    starts: Any,
    constants: Constants,
) -> tuple[EnvironmentState, StepResult]:
    """Step many environments at once; ``starts`` are where episodes begin that follow on others."""
    advance: Callable[..., tuple[EnvironmentState, StepResult]] = jax.vmap(
        lambda state, action, start: step_or_start(spec, state, action, start, constants)
    )
    return advance(states, actions, starts)


def returns_of_episodes(
    spec: EnvironmentSpec,
    choose: Callable[[jax.Array, jax.Array], jax.Array],
    key: jax.Array,
    constants: Constants,
    *,
    num_episodes: int,
) -> jax.Array:
    """Return of every one of ``num_episodes`` whole episodes, side by side; for compiled code.

    Args:
        spec: The task.
        choose: ``choose(observations, key)`` → actions as the environment takes them.
        key: Draws first states and actions.
        constants: Of the task.
        num_episodes: How many.
    """
    starting, running = jax.random.split(key)
    start = jax.vmap(lambda key: reset(spec, key))(jax.random.split(starting, num_episodes))

    def unfinished(carry: Any) -> jax.Array:
        alive: jax.Array = carry[2]
        return alive.any()

    def one(carry: Any) -> Any:
        states, observations, alive, returns, key = carry
        key, acting, resetting = jax.random.split(key, 3)
        actions = choose(observations, acting)
        starts = jax.vmap(spec.start)(jax.random.split(resetting, num_episodes))
        states, result = act(spec, states, actions, starts, constants)
        returns = returns + jnp.where(alive, result.reward, 0.0)
        alive = alive & ~(result.terminated | result.truncated)
        return states, result.observation, alive, returns, key

    carry = (*start, jnp.ones(num_episodes, bool), jnp.zeros(num_episodes), running)
    returns: jax.Array = lax.while_loop(unfinished, one, carry)[3]
    return returns
