"""Agents and MuJoCo environments as plain tensors and numbers, for checkpoints without pickles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.serialization
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import torch
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from segue.rl.td3 import Agent

__all__ = [
    "agent_from_state",
    "agent_state",
    "check_restorable",
    "environment_state",
    "restore_environment",
]


def agent_state(agent: Agent) -> dict[str, Any]:
    """Networks, targets and optimizers as nested dicts of tensors."""
    tree = flax.serialization.to_state_dict(agent)
    state: dict[str, Any] = jax.tree.map(lambda leaf: torch.from_numpy(np.array(leaf)), tree)
    return state


def agent_from_state(template: Agent, state: Mapping[str, Any]) -> Agent:
    """Restore an agent, bit for bit.

    Args:
        template: Of the same configuration, such as a fresh one.
        state: From :func:`agent_state`.

    Raises:
        ValueError: If a part is missing or of another shape; names it.
    """
    found = _paths(state)
    for path, leaf in _paths(flax.serialization.to_state_dict(template)).items():
        if path not in found:
            raise ValueError(f"the saved agent must hold {path}, which is missing")
        if tuple(found[path].shape) != tuple(np.shape(leaf)):
            raise ValueError(
                f"{path} of the saved agent must have shape {tuple(np.shape(leaf))}, "
                f"got {tuple(found[path].shape)}"
            )
    arrays = jax.tree.map(
        lambda leaf: jnp.asarray(torch.as_tensor(leaf).numpy().copy()), dict(state)
    )
    restored: Agent = flax.serialization.from_state_dict(template, arrays)
    return restored


_BODIES = ("xpos", "xipos")
"""MuJoCo's derived arrays that Gymnasium's environments read before a step."""


def check_restorable(env: gymnasium.Env[Any, Any]) -> None:
    """Refuse an environment whose state :func:`environment_state` could not save.

    Raises:
        TypeError: If it is no Gymnasium MuJoCo environment, or has a wrapper with a state of its own.
    """
    _simulator(env)


def environment_state(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """Everything the next step of a Gymnasium MuJoCo environment depends on.

    That is MuJoCo's full integration state (time, positions, velocities, actuators, controls and the
    solver's warm start), where the bodies are (a reward may measure from there, and it lags behind the
    positions by a step), the counter of the time limit, and the environment's random generator.

    Raises:
        TypeError: If the environment is not such a one, or has a wrapper with a state of its own.
    """
    import mujoco

    simulator = _simulator(env)
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    vector = np.empty(mujoco.mj_stateSize(simulator.model, kind))
    mujoco.mj_getState(simulator.model, simulator.data, vector, kind)
    return {
        "simulator": torch.from_numpy(vector),
        "bodies": {
            name: torch.from_numpy(getattr(simulator.data, name).copy()) for name in _BODIES
        },
        "elapsed_steps": [wrapper._elapsed_steps for wrapper in _time_limits(env)],
        "generator": simulator.np_random.bit_generator.state,
    }


def restore_environment(env: gymnasium.Env[Any, Any], state: Mapping[str, Any]) -> None:
    """Put an environment of the same kind into a saved state, bit for bit."""
    import mujoco

    simulator = _simulator(env)
    env.reset(seed=0)  # wrappers refuse to step before a reset
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    vector = np.asarray(state["simulator"], np.float64)
    size = mujoco.mj_stateSize(simulator.model, kind)
    if vector.shape != (size,):
        raise ValueError(f"simulator must be a state of {size} numbers, got shape {vector.shape}")
    mujoco.mj_setState(simulator.model, simulator.data, vector, kind)
    # What is derived from the state is computed anew, which moves the warm start: set it again.
    mujoco.mj_forward(simulator.model, simulator.data)
    mujoco.mj_setState(simulator.model, simulator.data, vector, kind)
    for name in _BODIES:
        getattr(simulator.data, name)[:] = np.asarray(state["bodies"][name])
    for wrapper, elapsed in zip(_time_limits(env), state["elapsed_steps"], strict=True):
        wrapper._elapsed_steps = elapsed
    simulator.np_random.bit_generator.state = state["generator"]


def _simulator(env: gymnasium.Env[Any, Any]) -> Any:
    unwrapped: Any = env.unwrapped
    if not hasattr(unwrapped, "model") or not hasattr(unwrapped, "data"):
        raise TypeError(f"env must be a Gymnasium MuJoCo environment, got {env}")
    for wrapper in _wrappers(env):
        if not isinstance(wrapper, TimeLimit | OrderEnforcing | PassiveEnvChecker):
            raise TypeError(
                "env must have no wrappers but those of gymnasium.make (TimeLimit, OrderEnforcing, "
                f"PassiveEnvChecker), whose state is known, got {type(wrapper).__name__}"
            )
    return unwrapped


def _wrappers(env: Any) -> list[Any]:
    found = []
    while isinstance(env, gymnasium.Wrapper):
        found.append(env)
        env = env.env
    return found


def _time_limits(env: gymnasium.Env[Any, Any]) -> list[Any]:
    return [wrapper for wrapper in _wrappers(env) if isinstance(wrapper, TimeLimit)]


def _paths(tree: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {name: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found.update(_paths(value, f"{name}.{key}" if name else str(key)))
    return found
