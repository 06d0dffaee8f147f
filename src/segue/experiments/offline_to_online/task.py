"""From a configuration to data, environments and preprocessing."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium

from segue.experiments.offline_to_online.config import ShiftConfig
from segue.rl.data.dataset import OfflineDataset
from segue.rl.data.files import read_npz, write_npz
from segue.rl.data.generate import generate
from segue.rl.data.policies import find_policies
from segue.rl.data.validation import check_matches_environment, validate
from segue.rl.preprocessing import Preprocessing, fit_preprocessing

__all__ = ["SwitchTask", "load_task"]


@dataclass(frozen=True)
class SwitchTask:
    """What all runs of a shift share.

    Attributes:
        dataset: Validated, and found to be of this environment.
        training_env: For training alone.
        evaluation_env: For evaluation alone.
        preprocessing: Fitted to the data set; of both phases, and of training from scratch too.
    """

    dataset: OfflineDataset
    training_env: gymnasium.Env[Any, Any]
    evaluation_env: gymnasium.Env[Any, Any]
    preprocessing: Preprocessing


def load_task(shift: ShiftConfig, data_root: str | None, cache: Path) -> SwitchTask:
    """Load (or generate, once) the data set, make the environments, and check that they match.

    Raises:
        FileNotFoundError: If the policies that generate the data are not in ``data_root``.
        DatasetError: If data set and environment do not match.
    """
    dataset = _cached_dataset(shift, data_root, cache)
    training, evaluation = (
        gymnasium.make(shift.environment_id, disable_env_checker=True) for _ in range(2)
    )
    assert training.spec is not None
    validate(dataset, max_episode_steps=training.spec.max_episode_steps)
    check_matches_environment(dataset, training)
    space: Any = training.action_space
    preprocessing = fit_preprocessing(dataset.observations, space.low, space.high)
    return SwitchTask(dataset, training, evaluation, preprocessing)


def _cached_dataset(shift: ShiftConfig, data_root: str | None, cache: Path) -> OfflineDataset:
    from filelock import FileLock

    versions = "-".join(importlib.metadata.version(name) for name in ("gymnasium", "mujoco"))
    name = f"{shift.name}-{shift.num_transitions}-{shift.dataset_seed}-{versions}.npz"
    path = cache / "offline" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # one process generates, the others wait
        if not path.exists():
            if data_root is None:
                raise FileNotFoundError(
                    "the data sets are generated from policies: set SEGUE_DATA or --data to the "
                    "folder that holds policies/index.json"
                )
            dataset = generate(
                shift.task,
                shift.quality,
                find_policies(data_root),
                num_transitions=shift.num_transitions,
                seed=shift.dataset_seed,
            )
            write_npz(path, dataset)
    return read_npz(path)
