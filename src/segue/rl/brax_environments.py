"""Brax's tasks as environments of this package, with gravity and the reward's scale as data.

Brax ends an episode where the task does; the time limit of 1,000 steps is added by
:func:`segue.rl.environments.step`, told apart from a terminal state as in every other task.
"""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from segue.checks import unknown_name

if TYPE_CHECKING:
    from segue.rl.environments import EnvironmentSpec

__all__ = ["BACKENDS", "BRAX_PREFIX", "brax_environment"]

BRAX_PREFIX = "brax/"
"""How the names of these tasks begin."""
BACKENDS = ("spring", "generalized", "positional", "mjx")
"""Brax's physics, the fastest first."""
_MAX_EPISODE_STEPS = 1_000  # what Brax's own training uses


@functools.cache
def brax_environment(name: str, backend: str = "spring") -> EnvironmentSpec:
    """Return one of Brax's tasks.

    Args:
        name: Brax's name, such as ``hopper`` or ``inverted_pendulum``.
        backend: Its physics; tasks under different ones are different tasks.

    Raises:
        ImportError: If brax is not installed.
        ValueError: If Brax has no such task or backend.
    """
    from segue.rl.environments import Box, EnvironmentSpec

    if backend not in BACKENDS:
        raise ValueError(unknown_name("backend", backend, BACKENDS))
    envs = _brax_envs()
    if name not in envs._envs:
        raise ValueError(unknown_name("Brax environment", name, envs._envs))
    task = envs.get_environment(name, backend=backend)
    gravity = float(task.sys.gravity[2])

    def advance(state: Any, action: jax.Array, constants: dict[str, Any]) -> tuple[Any, Any, Any]:
        moved = copy.copy(task)  # with another system, whose gravity is data
        moved.sys = task.sys.replace(
            gravity=jnp.asarray(task.sys.gravity).at[2].set(constants["gravity"])
        )
        after = moved.step(state, jnp.clip(action, -1.0, 1.0))
        return after, after.reward, after.done > 0.0

    return EnvironmentSpec(
        name=f"{BRAX_PREFIX}{name}" + ("" if backend == "spring" else f":{backend}"),
        observation_size=int(task.observation_size),
        action_space=Box(int(task.action_size), -1.0, 1.0),
        max_episode_steps=_MAX_EPISODE_STEPS,
        constants={"gravity": gravity, "reward_scale": 1.0},
        start=task.reset,
        advance=advance,
        observe=lambda state: state.obs,
    )


def _brax_envs() -> Any:
    try:
        from brax import envs
    except ImportError as error:
        raise ImportError('Brax\'s tasks need brax: pip install "segue[brax]"') from error
    return envs
