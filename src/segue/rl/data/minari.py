"""Minari data sets: local ones by name or folder, remote ones by name."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from segue.rl.data.dataset import FIELDS, DatasetError, OfflineDataset
from segue.rl.data.validation import validate

__all__ = ["read_minari", "write_minari"]

_PREFIX = "segue."  # of our own entries in Minari's metadata


def write_minari(dataset_id: str, dataset: OfflineDataset) -> None:
    """Write a data set into Minari's local store (``MINARI_DATASETS_PATH``).

    Args:
        dataset_id: Such as ``segue/hopper/medium-v0``.
        dataset: Validated; its metadata must name the environment.

    Raises:
        DatasetError: If it does not.
    """
    minari = _minari()
    if dataset.environment_id is None:
        raise DatasetError("metadata must name environment_id, which Minari builds spaces from")
    buffers = []
    for number, episode in enumerate(dataset.episodes()):
        observations = dataset.observations[episode]
        final = dataset.next_observations[episode][-1:]
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                id=number,
                observations=np.concatenate([observations, final]),
                actions=dataset.actions[episode],
                rewards=dataset.rewards[episode],
                terminations=dataset.terminations[episode],
                truncations=dataset.truncations[episode],
            )
        )
    with warnings.catch_warnings():  # about authors and links that a generated data set lacks
        warnings.filterwarnings("ignore", message=".* is set to None")
        written = minari.create_dataset_from_buffers(
            dataset_id, buffer=buffers, env=dataset.environment_id, data_format="hdf5"
        )
    entries = {f"{_PREFIX}{key}": json.dumps(value) for key, value in dataset.metadata.items()}
    written.storage.update_metadata(entries)


def read_minari(name: str | Path, *, download: bool = False) -> OfflineDataset:
    """Read and validate a Minari data set with flat observations and actions.

    Args:
        name: Its id, or its folder.
        download: Fetch it from Minari's server if it is not here.

    Raises:
        FileNotFoundError: If it is not here and ``download`` is False.
        DatasetError: If its format version is unknown to the installed Minari, or it is not whole.
    """
    minari = _minari()
    folder = Path(name) if isinstance(name, Path) else _local_folder(minari, name, download)
    if (folder / "data").is_dir():
        folder = folder / "data"
    metadata_file = folder / "metadata.json"
    if not metadata_file.exists():
        raise DatasetError(f"{folder.name} must hold a Minari data set, found no metadata.json")
    metadata = json.loads(metadata_file.read_text())
    # Before anything is read: another layout would fail late, or be misread.
    version = metadata.get("minari_version")
    if version not in minari.supported_dataset_versions:
        raise DatasetError(
            f"minari_version of the data set must be one that Minari {minari.__version__} reads "
            f"({', '.join(sorted(minari.supported_dataset_versions))}), got {version!r}"
        )
    parts = [_episode(episode) for episode in minari.MinariDataset(folder).iterate_episodes()]
    if not parts:
        raise DatasetError("a Minari data set must hold at least one episode, got none")
    arrays = {
        name: np.concatenate(column)
        for name, column in zip(FIELDS, zip(*parts, strict=True), strict=True)
    }
    return validate(OfflineDataset(**arrays, metadata=_origin(metadata)))


def _episode(episode: Any) -> tuple[np.ndarray, ...]:
    name = f"episode {episode.id}"
    for field in ("observations", "actions"):
        if not isinstance(getattr(episode, field), np.ndarray):
            raise DatasetError(
                f"{field} of {name} must be one array, got {type(getattr(episode, field)).__name__}"
            )
    observations = np.asarray(episode.observations, np.float32)
    num = len(episode.rewards)
    if len(observations) != num + 1:
        raise DatasetError(
            f"observations of {name} must be one more than its {num} rewards (the final one "
            f"included), got {len(observations)}"
        )
    for field in ("actions", "terminations", "truncations"):
        if len(getattr(episode, field)) != num:
            raise DatasetError(
                f"{field} of {name} must be as long as its {num} rewards, "
                f"got {len(getattr(episode, field))}"
            )
    terminations = np.asarray(episode.terminations, bool)
    truncations = np.asarray(episode.truncations, bool) & ~terminations
    if not terminations[-1]:
        truncations[-1] = True  # the recording ended here, if nothing else did
    return (
        observations[:-1],
        np.asarray(episode.actions, np.float32),
        np.asarray(episode.rewards, np.float32),
        observations[1:],
        terminations,
        truncations,
    )


def _origin(metadata: dict[str, Any]) -> dict[str, Any]:
    origin = {
        key.removeprefix(_PREFIX): json.loads(value)
        for key, value in metadata.items()
        if key.startswith(_PREFIX)
    }
    if "environment_id" not in origin and isinstance(metadata.get("env_spec"), str):
        origin["environment_id"] = json.loads(metadata["env_spec"]).get("id")
    origin["minari_dataset_id"] = metadata.get("dataset_id")
    return origin


def _local_folder(minari: Any, dataset_id: str, download: bool) -> Path:
    from minari.storage.datasets_root_dir import get_dataset_path

    folder = Path(get_dataset_path(dataset_id))
    if not (folder / "data").exists():
        if not download:
            raise FileNotFoundError(
                f"found no Minari data set {dataset_id!r} here; download=True fetches it"
            )
        minari.download_dataset(dataset_id)
    return folder


def _minari() -> Any:
    try:
        import minari
        import minari.data_collector
    except ImportError as error:
        raise ImportError('Minari data sets need minari: pip install "segue[rl]"') from error
    return minari
