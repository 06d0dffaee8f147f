"""What is wrong with a data set, by field and index, before any training starts."""

from __future__ import annotations

import importlib.metadata
import warnings
from typing import Any

import gymnasium
import numpy as np

from segue.rl.data.dataset import FIELDS, DatasetError, OfflineDataset

__all__ = ["check_matches_environment", "validate"]

_WIDTHS = {"observations": 2, "actions": 2, "next_observations": 2}


def validate(dataset: OfflineDataset, *, max_episode_steps: int | None = None) -> OfflineDataset:
    """Return the data set, or say which field is wrong at which index.

    Checks shapes and types; that everything is finite; that each transition leads to the next one
    within an episode; that episodes end, and not in two ways at once.

    Args:
        dataset: Any data set.
        max_episode_steps: Time limit; a longer episode lacks an end somewhere.

    Raises:
        DatasetError: Names field, index and rule.
    """
    _check_shapes(dataset)
    for name in ("observations", "actions", "rewards", "next_observations"):
        _check_finite(name, getattr(dataset, name))
    _check_ends(dataset)
    _check_alignment(dataset)
    if max_episode_steps is not None:
        for episode in dataset.episodes():
            if episode.stop - episode.start > max_episode_steps:
                raise DatasetError(
                    f"terminations and truncations must end an episode within {max_episode_steps} "
                    f"steps, got none from index {episode.start} to {episode.stop - 1}: "
                    "an end is missing"
                )
    return dataset


def _check_shapes(dataset: OfflineDataset) -> None:
    if np.ndim(dataset.rewards) != 1 or len(dataset) == 0:
        raise DatasetError(
            f"rewards must have shape (N > 0,), got shape {np.shape(dataset.rewards)}"
        )
    for name in FIELDS:
        array = getattr(dataset, name)
        if array.ndim != _WIDTHS.get(name, 1) or len(array) != len(dataset):
            dimensions = "(N, D)" if name in _WIDTHS else "(N,)"
            raise DatasetError(
                f"{name} must have shape {dimensions} with N = {len(dataset)} as rewards has, "
                f"got shape {array.shape}"
            )
        wanted = np.bool_ if name in ("terminations", "truncations") else np.float32
        if array.dtype != wanted:
            raise DatasetError(f"{name} must be {np.dtype(wanted)}, got {array.dtype}")
    if dataset.observations.shape != dataset.next_observations.shape:
        raise DatasetError(
            f"next_observations must have the shape of observations "
            f"{dataset.observations.shape}, got {dataset.next_observations.shape}"
        )


def _check_finite(name: str, array: np.ndarray) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        place = np.argwhere(~finite)[0]
        index = ", ".join(map(str, place))
        raise DatasetError(f"{name}[{index}] must be finite, got {array[tuple(place)]}")


def _check_ends(dataset: OfflineDataset) -> None:
    both = np.flatnonzero(dataset.terminations & dataset.truncations)
    if len(both):
        raise DatasetError(
            f"truncations[{both[0]}] must be False where terminations is True: an episode ends in "
            "one way"
        )
    if not dataset.terminations[-1] and not dataset.truncations[-1]:
        raise DatasetError(
            f"terminations[{len(dataset) - 1}] or truncations[{len(dataset) - 1}] must be True: the "
            "last episode has no end"
        )


def _check_alignment(dataset: OfflineDataset) -> None:
    inside = ~(dataset.terminations | dataset.truncations)[:-1]
    differs = (dataset.next_observations[:-1] != dataset.observations[1:]).any(axis=1)
    wrong = np.flatnonzero(inside & differs)
    if len(wrong):
        index = int(wrong[0])
        raise DatasetError(
            f"next_observations[{index}] must equal observations[{index + 1}], as no episode ends "
            f"at {index}: episode ends are missing or shifted ({len(wrong)} such places)"
        )
    ends = dataset.episode_ends[:-1]
    goes_on = (dataset.next_observations[ends] == dataset.observations[ends + 1]).all(axis=1)
    if len(ends) > 1 and goes_on.all():
        raise DatasetError(
            f"next_observations[{ends[0]}] must be the final observation of its episode, got the "
            "first one of the next, at every episode: ends are shifted, or final observations lost"
        )


def check_matches_environment(
    dataset: OfflineDataset, env: gymnasium.Env[Any, Any], *, num_replayed: int = 32
) -> None:
    """Refuse a data set that another environment than ``env`` gave.

    Spaces and the environment's id, which has its version, are compared (another version of MuJoCo than
    the recorded one is a warning), and some transitions are replayed: the simulator is put into a recorded state, the recorded action is taken, and reward and next observation must come out. Ends
    of episodes are replayed too, to see that none is called a time limit where the environment ended.
    Replay needs a MuJoCo environment whose observation holds positions and velocities.

    Args:
        dataset: Validated.
        env: From ``gymnasium.make``. Its simulator state and time are changed: reset it afterwards.
        num_replayed: Transitions to replay, and ends of episodes; 0 compares spaces and versions alone.

    Raises:
        DatasetError: Says what differs and where.
    """
    _check_spaces(dataset, env)
    recorded = dataset.environment_id
    actual = None if env.spec is None else env.spec.id
    if recorded is not None and actual is not None and recorded != actual:
        raise DatasetError(f"environment_id of the data set must be {actual!r}, got {recorded!r}")
    _compare_simulators(dataset, env)
    if num_replayed and hasattr(env.unwrapped, "set_state"):
        _replay(dataset, env, num_replayed)


def _compare_simulators(dataset: OfflineDataset, env: gymnasium.Env[Any, Any]) -> None:
    """Warn of another MuJoCo: whether it matters is what the replay says."""
    recorded = dataset.metadata.get("mujoco_version")
    if not isinstance(recorded, str) or not hasattr(env.unwrapped, "model"):
        return
    installed = importlib.metadata.version("mujoco")
    if recorded != installed:
        warnings.warn(
            f"the data set was recorded with MuJoCo {recorded}, the environment runs on {installed}: "
            "recorded transitions are replayed, and what differs by much is refused",
            stacklevel=3,
        )


def _check_spaces(dataset: OfflineDataset, env: gymnasium.Env[Any, Any]) -> None:
    for name, space in (("observations", env.observation_space), ("actions", env.action_space)):
        if not isinstance(space, gymnasium.spaces.Box):
            raise DatasetError(f"{name} of the environment must be a Box, got {space}")
        shape = getattr(dataset, name).shape[1:]
        if shape != space.shape:
            raise DatasetError(
                f"{name} must have the environment's shape {space.shape}, got {shape}"
            )
    low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
    outside = (dataset.actions < low - 1e-5) | (dataset.actions > high + 1e-5)
    if outside.any():
        index, column = np.argwhere(outside)[0]
        raise DatasetError(
            f"actions[{index}, {column}] must be in the environment's range "
            f"[{low[column]}, {high[column]}], got {dataset.actions[index, column]}: scaled otherwise?"
        )


def _replay(dataset: OfflineDataset, env: gymnasium.Env[Any, Any], count: int) -> None:
    simulator: Any = env.unwrapped
    num_q, num_v = simulator.model.nq, simulator.model.nv
    num_hidden = num_q + num_v - dataset.observations.shape[1]  # the position along the track
    if num_hidden not in (0, 1):
        return
    env.reset(seed=0)
    # Velocities are clipped at 10 in some observations: such states cannot be restored.
    velocities = dataset.observations[:, num_q - num_hidden :]
    usable = np.flatnonzero((np.abs(velocities) < 9.9).all(axis=1))

    def replay(index: int) -> tuple[float, float, bool]:
        state = dataset.observations[index].astype(np.float64)
        positions = np.concatenate([np.zeros(num_hidden), state[: num_q - num_hidden]])
        simulator.set_state(positions, state[num_q - num_hidden :])
        observation, reward, terminated, _, _ = env.unwrapped.step(dataset.actions[index])
        return (
            abs(float(reward) - float(dataset.rewards[index])),
            float(np.abs(observation - dataset.next_observations[index]).max()),
            bool(terminated) != bool(dataset.terminations[index]),
        )

    chosen = _spread(usable, count)
    differences = [replay(index) for index in chosen]
    _judge(dataset, chosen, differences)
    cut_off = _spread(np.intersect1d(usable, np.flatnonzero(dataset.truncations)), count)
    _judge_ends(cut_off, np.array([replay(index)[2] for index in cut_off], bool))


def _spread(indices: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of them, evenly spaced."""
    places = np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int)
    chosen: np.ndarray = indices[places]
    return chosen


def _judge_ends(indices: np.ndarray, ended: np.ndarray) -> None:
    # A state on the very edge of a rule may fall to either side: two, and most of them, decide.
    if ended.sum() >= 2 and ended.mean() > 0.5:
        raise DatasetError(
            f"truncations[{indices[int(np.flatnonzero(ended)[0])]}] must be False where the environment "
            f"ends, which is a termination: {ended.sum()} of {len(ended)} such ends are terminal "
            "states, so terminals are missing"
        )


def _judge(
    dataset: OfflineDataset, indices: np.ndarray, differences: list[tuple[float, float, bool]]
) -> None:
    # The solver's warm start is not recorded, and a contact may amplify that: the median decides.
    if not differences:
        return
    rewards, states, ends = (np.array(column) for column in zip(*differences, strict=True))
    scale = 0.02 * max(1.0, float(np.abs(dataset.rewards).mean()))
    if np.median(rewards) > scale:
        worst = indices[int(np.argsort(rewards)[len(rewards) // 2])]
        raise DatasetError(
            f"rewards must be those of the environment, got another value at rewards[{worst}] "
            f"(typical difference {np.median(rewards):.3g}): shifted, scaled, or another version?"
        )
    spread = 0.05 * max(1e-3, float(dataset.observations.std(axis=0).max()))
    if np.median(states) > spread:
        worst = indices[int(np.argsort(states)[len(states) // 2])]
        raise DatasetError(
            "next_observations must follow from observations and actions in the environment, got "
            f"another state at next_observations[{worst}] (typical difference "
            f"{np.median(states):.3g}): normalised, misaligned, or another version?"
        )
    if ends.mean() > 0.25:
        raise DatasetError(
            f"terminations[{indices[int(np.flatnonzero(ends)[0])]}] must be what the environment "
            "says of that state: other termination rules, or terminals are missing"
        )
