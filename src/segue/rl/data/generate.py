"""Make offline data sets on the spot, from trained policies with exploration noise.

The names follow D4RL's, the data do not: theirs are a million transitions each of SAC agents in
MuJoCo-py environments, ``medium-replay`` being a training buffer. No such buffer exists here, so ours is
a mixture of policies of rising strength under falling noise, and says so in its metadata.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium
import numpy as np

from segue.checks import check_at_least_one, check_count, unknown_name
from segue.rl.data.dataset import ENDS, FIELDS, OfflineDataset
from segue.rl.data.files import write_d4rl, write_npz
from segue.rl.data.minari import write_minari
from segue.rl.data.policies import Policy, find_policies, load_policy
from segue.rl.data.validation import validate

__all__ = [
    "QUALITIES",
    "TASKS",
    "Part",
    "check_names",
    "collect",
    "generate",
    "generate_files",
    "recipe",
]

Quality = Literal["medium", "medium-replay", "medium-expert", "expert"]
QUALITIES: tuple[str, ...] = get_args(Quality)
TASKS = {"hopper": "Hopper-v5", "halfcheetah": "HalfCheetah-v5", "walker2d": "Walker2d-v5"}
"""Task → Gymnasium's id of its environment."""


@dataclass(frozen=True)
class Part:
    """A share of a data set: who acted.

    Attributes:
        policy: Name in the index of policies; ``random`` draws actions uniformly.
        noise: Standard deviation of Gaussian noise, as a share of half the action range.
        share: Of all transitions.
    """

    policy: str
    noise: float
    share: float


# Chosen so that ``medium`` scores 42 to 49 by D4RL's references and ``expert`` 75 to 100.
_ROLES: dict[str, dict[str, tuple[str, float]]] = {
    "hopper": {"weak": ("a2c", 0.2), "medium": ("ppo", 0.2), "expert": ("tqc", 0.02)},
    "halfcheetah": {"weak": ("a2c", 0.2), "medium": ("sac", 0.4), "expert": ("tqc", 0.02)},
    "walker2d": {"weak": ("a2c", 0.2), "medium": ("sac", 0.4), "expert": ("tqc", 0.02)},
}


def recipe(task: str, quality: str, known_policies: Sequence[str] = ()) -> tuple[Part, ...]:
    """Return who acts in a data set.

    Where the index holds ``<Task>-weak``, ``-medium`` and ``-expert`` (trained by
    :func:`segue.rl.data.training.train_policies`), those are used.

    >>> [part.policy for part in recipe("hopper", "medium-expert")]
    ['Hopper-ppo', 'Hopper-tqc']
    """
    if task not in TASKS:
        raise ValueError(unknown_name("task", task, TASKS))
    if quality not in QUALITIES:
        raise ValueError(unknown_name("quality", quality, QUALITIES))
    name = TASKS[task].removesuffix("-v5")

    def part(role: str, share: float, factor: float = 1.0) -> Part:
        policy, noise = _ROLES[task][role]
        if f"{name}-{role}" in known_policies:
            policy, noise = role, {"weak": 0.2, "medium": 0.1, "expert": 0.02}[role]
        return Part(f"{name}-{policy}", noise * factor, share)

    if quality == "medium-expert":
        return part("medium", 0.5), part("expert", 0.5)
    if quality == "medium-replay":
        return (
            Part("random", 0.0, 0.1),
            part("weak", 0.2, 2.5),
            part("weak", 0.2),
            part("medium", 0.25, 2.0),
            part("medium", 0.25),
        )
    return (part(quality, 1.0),)


def collect(
    env: gymnasium.Env[Any, Any],
    policy: Policy | None,
    num_transitions: int,
    *,
    noise: float = 0.0,
    seed: int = 0,
) -> OfflineDataset:
    """Let a policy act and keep everything that training needs.

    Args:
        env: With a bounded Box of actions.
        policy: Raw observation → raw action; None draws actions uniformly.
        num_transitions: How many; the last episode is cut off there, which counts as truncated.
        noise: Standard deviation of Gaussian noise on actions, as a share of half their range.
        seed: Seeds the environment and the noise.

    Returns:
        A validated data set, stamped with the environment and the versions it comes from.
    """
    check_at_least_one("num_transitions", num_transitions)
    space = env.action_space
    if (
        not isinstance(space, gymnasium.spaces.Box)
        or not np.isfinite([space.low, space.high]).all()
    ):
        raise ValueError(f"env must have a bounded Box of actions, got {space}")
    draw = np.random.default_rng([seed, 1])
    half_range = 0.5 * (space.high - space.low)
    columns: list[list[Any]] = [[], [], [], [], [], []]
    observation, _ = env.reset(seed=seed)
    for index in range(num_transitions):
        if policy is None:
            action = draw.uniform(space.low, space.high)
        else:
            action = policy(observation) + noise * half_range * draw.standard_normal(space.shape)
        action = np.clip(action, space.low, space.high).astype(np.float32)
        following, reward, terminated, truncated, _ = env.step(action)
        truncated = (truncated or index == num_transitions - 1) and not terminated
        row = (observation, action, reward, following, terminated, truncated)
        for column, value in zip(columns, row, strict=True):
            column.append(value)
        observation = env.reset()[0] if terminated or truncated else following
    arrays: dict[str, Any] = {
        name: np.asarray(column, bool if name in ENDS else np.float32)
        for name, column in zip(FIELDS, columns, strict=True)
    }
    return validate(OfflineDataset(**arrays, metadata=_stamp(env)))


def generate(
    task: str,
    quality: str,
    policies: Path,
    *,
    num_transitions: int = 100_000,
    seed: int = 0,
) -> OfflineDataset:
    """Make a data set of one of the three tasks.

    Args:
        task: ``hopper``, ``halfcheetah`` or ``walker2d``.
        quality: ``medium``, ``medium-replay`` (a mixture, see above), ``medium-expert``, ``expert``.
        policies: Folder of the policies and their ``index.json``.
        num_transitions: How many.
        seed: Seeds environments and noise; another seed is another data set.
    """
    check_count("seed", seed)
    parts = recipe(task, quality, [path.stem for path in policies.glob("*.npz")])
    env = gymnasium.make(TASKS[task], disable_env_checker=True)
    counts = [round(part.share * num_transitions) for part in parts]
    counts[-1] += num_transitions - sum(counts)
    pieces = []
    for number, (part, count) in enumerate(zip(parts, counts, strict=True)):
        policy = None if part.policy == "random" else load_policy(policies, part.policy)
        # Far apart, so that data sets of neighbouring seeds share no episode.
        piece_seed = 1_000 * seed + number
        pieces.append(collect(env, policy, count, noise=part.noise, seed=piece_seed))
    env.close()
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in FIELDS
    }
    returns = OfflineDataset(**arrays).returns()
    metadata = {
        **pieces[0].metadata,
        "task": task,
        "quality": quality,
        "is_training_buffer": False,
        "recipe": [
            {"policy": part.policy, "noise": part.noise, "num_transitions": count}
            for part, count in zip(parts, counts, strict=True)
        ],
        "seed": seed,
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
    }
    return validate(OfflineDataset(**arrays, metadata=metadata))


def check_names(tasks: Sequence[str], qualities: Sequence[str], file_format: str) -> None:
    """Refuse an unknown task, quality or format, before the first long run."""
    if file_format not in ("npz", "hdf5", "minari"):
        raise ValueError(unknown_name("file_format", file_format, ("npz", "hdf5", "minari")))
    for task in tasks:
        for quality in qualities:
            recipe(task, quality)


def generate_files(
    out: Path,
    data_root: str | Path,
    *,
    tasks: Sequence[str] = tuple(TASKS),
    qualities: Sequence[str] = QUALITIES,
    num_transitions: int = 100_000,
    seed: int = 0,
    file_format: Literal["npz", "hdf5", "minari"] = "npz",
) -> list[str]:
    """Write data sets; what ``segue data`` calls. Returns what was written.

    Args:
        out: Folder; not used for ``minari``, which has its own (``MINARI_DATASETS_PATH``).
        data_root: Data folder with the policies.
        tasks: Tasks to make.
        qualities: Qualities to make.
        num_transitions: Of each.
        seed: Of all.
        file_format: ``npz``, ``hdf5`` (D4RL's layout) or ``minari``.
    """
    check_names(tasks, qualities, file_format)
    policies, written = find_policies(data_root), []
    for task in tasks:
        for quality in qualities:
            dataset = generate(task, quality, policies, num_transitions=num_transitions, seed=seed)
            if file_format == "minari":
                name = f"segue/{task}/{quality}-v0"
                write_minari(name, dataset)
                written.append(name)
                continue
            path = out / f"{task}-{quality}-seed{seed}.{file_format}"
            (write_npz if file_format == "npz" else write_d4rl)(path, dataset)
            written.append(str(path))
    return written


def _stamp(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    stamp: dict[str, Any] = {
        f"{package}_version": importlib.metadata.version(package)
        for package in ("gymnasium", "mujoco", "numpy", "segue")
    }
    if env.spec is not None:
        stamp["environment_id"] = env.spec.id
        stamp["max_episode_steps"] = env.spec.max_episode_steps
    return stamp
