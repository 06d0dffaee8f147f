"""Offline transitions for Stable-Baselines3, checked and in the form that its losses expect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

__all__ = ["FIELDS", "normalized", "transitions"]

FIELDS = ("observations", "actions", "rewards", "next_observations", "terminations")
"""What an offline transition consists of. A time limit is no termination."""


def transitions(
    source: Any, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> dict[str, Tensor]:
    """Return the transitions of ``source``, with actions scaled to [-1, 1] as SB3's policies see them.

    Args:
        source: A ``ReplayBuffer`` of SB3; a dataset of Minari; or a mapping of arrays of equal length
            with the keys of :data:`FIELDS`, actions in the environment's units.
        observation_space: The agent's.
        action_space: The agent's.

    Returns:
        Float32 tensors by the names of :data:`FIELDS`, of shapes (n, *observation), (n, *action),
        (n, 1), (n, *observation) and (n, 1).

    Raises:
        TypeError: If ``source`` is none of these.
        ValueError: If a space is not a box, or a field is missing, of another shape than the space
            says, or not finite somewhere; the message names the field and the index.
    """
    for name, space in (("observation_space", observation_space), ("action_space", action_space)):
        if not isinstance(space, spaces.Box):
            raise ValueError(f"{name} must be a Box, got {space}")
    arrays, scaled = _arrays(source)
    if not scaled:
        low, high = action_space.low, action_space.high  # type: ignore[attr-defined]
        actions = np.asarray(arrays["actions"], dtype=np.float32)
        _check_inside(actions, low, high)
        arrays = {**arrays, "actions": 2.0 * (actions - low) / (high - low) - 1.0}
    shapes = {
        "observations": observation_space.shape,
        "next_observations": observation_space.shape,
        "actions": action_space.shape,
        "rewards": (1,),
        "terminations": (1,),
    }
    count = len(arrays["observations"])
    tensors = {}
    for name in FIELDS:
        array = np.asarray(arrays[name], dtype=np.float32)
        shape = shapes[name]
        if shape == (1,) and array.ndim == 1:
            array = array[:, None]
        if array.shape != (count, *(shape or ())):
            raise ValueError(
                f"source[{name!r}] must have shape {(count, *(shape or ()))}, got {array.shape}"
            )
        bad = np.flatnonzero(~np.isfinite(array.reshape(count, -1)).all(axis=1))
        if len(bad):
            raise ValueError(f"source[{name!r}] must be finite, it is not at index {bad[0]}")
        tensors[name] = torch.from_numpy(np.ascontiguousarray(array))
    return tensors


def normalized(batch: dict[str, Tensor], normalizer: VecNormalize | None) -> dict[str, Tensor]:
    """A batch of offline transitions normalised as the agent's own replay buffer does it."""
    if normalizer is None:
        return batch
    result = dict(batch)
    for name in ("observations", "next_observations"):
        array = normalizer.normalize_obs(batch[name].cpu().numpy())
        result[name] = torch.as_tensor(array, dtype=torch.float32, device=batch[name].device)
    rewards = normalizer.normalize_reward(batch["rewards"].cpu().numpy())
    result["rewards"] = torch.as_tensor(
        rewards, dtype=torch.float32, device=batch["rewards"].device
    )
    return result


def _arrays(source: Any) -> tuple[Mapping[str, Any], bool]:
    """The arrays of any source, and whether their actions are scaled already."""
    if isinstance(source, ReplayBuffer):
        return _of_buffer(source), True
    if callable(getattr(source, "iterate_episodes", None)):
        return _of_minari(source), False
    if not isinstance(source, Mapping):
        raise TypeError(
            "source must be a stable_baselines3 ReplayBuffer, a Minari dataset or a mapping of "
            f"arrays, got {type(source).__name__}"
        )
    missing = [name for name in FIELDS if name not in source]
    if missing:
        hint = (
            "; 'dones' will not do, because it may hold time limits, which are no terminations"
            if "dones" in source and "terminations" in missing
            else ""
        )
        raise ValueError(f"source must have the keys {list(FIELDS)}, it lacks {missing}{hint}")
    return source, False


def _of_buffer(buffer: ReplayBuffer) -> dict[str, np.ndarray[Any, Any]]:
    if not isinstance(buffer.observations, np.ndarray):
        raise ValueError("source must hold plain observations, got a buffer of dictionaries")
    size = buffer.buffer_size if buffer.full else buffer.pos
    if size == 0:
        raise ValueError("source must hold at least one transition, got an empty buffer")
    rows = np.arange(size)
    if buffer.optimize_memory_usage:
        rows = rows[rows != buffer.pos] if buffer.full else rows
        following = buffer.observations[(rows + 1) % buffer.buffer_size]
    else:
        following = buffer.next_observations[rows]

    def flat(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return array.reshape(-1, *array.shape[2:])

    terminations = buffer.dones[rows] * (1.0 - buffer.timeouts[rows])
    return {
        "observations": flat(buffer.observations[rows]),
        "actions": flat(buffer.actions[rows]),
        "rewards": flat(buffer.rewards[rows]),
        "next_observations": flat(following),
        "terminations": flat(terminations),
    }


def _of_minari(dataset: Any) -> dict[str, np.ndarray[Any, Any]]:
    parts: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in FIELDS}
    for number, episode in enumerate(dataset.iterate_episodes()):
        if len(episode.observations) != len(episode.actions) + 1:
            raise ValueError(
                f"episode {number} must hold one observation more than actions, got "
                f"{len(episode.observations)} and {len(episode.actions)}"
            )
        parts["observations"].append(episode.observations[:-1])
        parts["next_observations"].append(episode.observations[1:])
        for name in ("actions", "rewards", "terminations"):
            parts[name].append(getattr(episode, name))
    if not parts["actions"]:
        raise ValueError("source must hold at least one episode, got none")
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _check_inside(
    actions: np.ndarray[Any, Any], low: np.ndarray[Any, Any], high: np.ndarray[Any, Any]
) -> None:
    slack = 1e-4 * (high - low)
    inside = ((actions >= low - slack) & (actions <= high + slack)).reshape(len(actions), -1)
    outside = np.flatnonzero(~inside.all(axis=1))
    if len(outside):
        raise ValueError(
            f"source['actions'] must lie in the action space, [{low.min()}, {high.max()}], "
            f"they do not at index {outside[0]}"
        )
