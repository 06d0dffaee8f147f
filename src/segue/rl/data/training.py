"""Train the policies that data sets are generated from, where there are none."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from segue.checks import check_at_least_one, check_count, unknown_name
from segue.rl.data.generate import TASKS
from segue.rl.evaluation import evaluate, evaluation_seeds
from segue.rl.networks import to_numpy
from segue.rl.objective import Objective
from segue.rl.preprocessing import fit_preprocessing
from segue.rl.switch import OnlineTraining, SwitchConfig
from segue.rl.td3 import TD3Config
from segue.runs.records import write_atomically

__all__ = ["train_missing_policies", "train_policies"]

_SHARES = {"weak": 0.2, "medium": 0.5, "expert": 1.0}
_NUM_RANDOM = 1_000


def train_policies(
    task: str,
    folder: Path,
    *,
    num_env_steps: int = 300_000,
    learner: TD3Config | None = None,
    seed: int = 0,
    num_episodes: int = 10,
) -> dict[str, float]:
    """Train TD3 from scratch and keep it at a fifth, half and the end of training.

    Writes ``<Task>-weak.npz``, ``-medium.npz`` and ``-expert.npz`` and their entries in ``index.json``;
    :func:`segue.rl.data.generate.generate` then uses them. How good they are is measured, not promised.

    Args:
        task: ``hopper``, ``halfcheetah`` or ``walker2d``.
        folder: Where to write; entries of other policies in its index are kept.
        num_env_steps: Environment steps, and as many updates.
        learner: TD3's settings.
        seed: Of everything.
        num_episodes: Over which a policy's return is measured.

    Returns:
        Mean return by policy.
    """
    if task not in TASKS:
        raise ValueError(unknown_name("task", task, TASKS))
    check_at_least_one("num_env_steps", num_env_steps)
    check_count("seed", seed)
    env, evaluation = (gymnasium.make(TASKS[task], disable_env_checker=True) for _ in range(2))
    space: Any = env.action_space
    num_observations = int(np.prod(env.observation_space.shape or (1,)))
    preprocessing = fit_preprocessing(
        np.zeros((1, num_observations)), space.low, space.high, standardise=False
    )
    num_random = min(_NUM_RANDOM, num_env_steps // 10)
    config = SwitchConfig(
        TD3Config() if learner is None else learner,
        Objective(num_env_steps_before_updates=num_random),
        num_env_steps_per_round=20,
        num_random_env_steps=num_random,
    )
    training = OnlineTraining(config, env, preprocessing, seed=seed)
    found = {}
    for role, share in _SHARES.items():
        training.train(max(1, round(share * num_env_steps)))
        actor = to_numpy(training.agent.actor)
        measured = evaluate(evaluation, preprocessing, actor, evaluation_seeds(seed, num_episodes))
        name = f"{TASKS[task].removesuffix('-v5')}-{role}"
        found[name] = measured.mean_return
        _write(folder, name, actor, TASKS[task], measured.returns)
    env.close()
    evaluation.close()
    return found


def train_missing_policies(
    tasks: Sequence[str], folder: Path, *, num_env_steps: int, seed: int = 0
) -> Iterator[tuple[str, float]]:
    """Train the policies of every task whose three are not in the folder's index; what the command calls.

    Args:
        tasks: Names of tasks.
        folder: As of :func:`train_policies`.
        num_env_steps: Of each task, at least 10.
        seed: Of all.

    Yields:
        Name and mean return of each policy, as it is written.
    """
    if check_count("num_env_steps", num_env_steps) < 10:
        raise ValueError(f"num_env_steps must be >= 10, got {num_env_steps}")
    for task in tasks:
        path = folder / "index.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        name = TASKS[task].removesuffix("-v5")
        if not all(f"{name}-{role}" in known for role in _SHARES):
            yield from train_policies(task, folder, num_env_steps=num_env_steps, seed=seed).items()


def _write(folder: Path, name: str, actor: Any, environment: str, returns: np.ndarray) -> None:
    layers = actor["params"]["mlp"]
    arrays: dict[str, Any] = {}
    for index in range(len(layers)):
        layer = layers[f"Dense_{index}"]
        arrays[f"w{index}"], arrays[f"b{index}"] = layer["kernel"].T, layer["bias"]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(folder / f"{name}.npz", buffer.getvalue())
    path = folder / "index.json"
    index_of: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    index_of[name] = {
        "env": environment,
        "algorithm": "td3",
        "hidden_activation": "relu",
        "output": "tanh",
        "normalises_observations": False,
        "observation_clip": None,
        "epsilon": None,
        "layers": len(layers),
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "episodes": len(returns),
    }
    write_atomically(path, json.dumps(index_of, indent=1).encode())
