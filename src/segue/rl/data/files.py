"""Data sets in single files: npz, and HDF5 in the layout of D4RL."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segue.rl.data.dataset import FIELDS, DatasetError, OfflineDataset
from segue.rl.data.validation import validate
from segue.runs.records import write_atomically

__all__ = ["FORMAT_VERSION", "read", "read_d4rl", "read_npz", "write_d4rl", "write_npz"]

FORMAT_VERSION = 1
"""Of the metadata that Segue writes; another one is refused before training."""

_FLOATS = ("observations", "actions", "rewards", "next_observations")


def read(name: str | Path) -> OfflineDataset:
    """Read and validate a data set, by its ending: ``.npz``, ``.hdf5``/``.h5``, or a Minari id.

    Args:
        name: File, folder of a Minari data set, or ``minari:ID`` (downloaded if it is not here).

    Raises:
        FileNotFoundError: If there is no such file.
        DatasetError: If it is not a whole data set; names field and index.
    """
    if isinstance(name, str) and name.startswith("minari:"):
        from segue.rl.data.minari import read_minari

        return read_minari(name.removeprefix("minari:"), download=True)
    path = Path(name)
    if not path.exists():
        raise FileNotFoundError(f"found no data set at {path}")
    if path.is_dir():
        from segue.rl.data.minari import read_minari

        return read_minari(path)
    readers = {".npz": read_npz, ".hdf5": read_d4rl, ".h5": read_d4rl}
    if path.suffix not in readers:
        raise DatasetError(f"{path.name} must end in {', '.join(readers)}, got {path.suffix!r}")
    return readers[path.suffix](path)


def write_npz(path: Path, dataset: OfflineDataset) -> Path:
    """Write a data set to one npz file without pickles, whole or not at all."""
    buffer = io.BytesIO()
    arrays = {name: getattr(dataset, name) for name in FIELDS}
    np.savez(buffer, **arrays, metadata=np.array(_metadata_text(dataset)))
    write_atomically(path, buffer.getvalue())
    return path


def read_npz(path: Path) -> OfflineDataset:
    """Read and validate an npz file.

    Besides Segue's own layout it may hold ``observations``, ``actions``, ``rewards`` and
    ``episode_lengths``: demonstrations without final observations. The last transition of each
    episode is then left out, as where it leads is unknown.

    Raises:
        DatasetError: If it is not a whole data set; names field and index.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Any] = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path} must be a whole npz file without pickles: {error}") from error
    metadata = _parse_metadata(str(arrays.pop("metadata", "{}")))
    if "episode_lengths" in arrays and "next_observations" not in arrays:
        arrays = _from_episode_lengths(arrays)
    _require(arrays, FIELDS, path)
    return validate(_build(arrays, metadata))


def write_d4rl(path: Path, dataset: OfflineDataset) -> Path:
    """Write a data set as HDF5 in D4RL's layout (``terminals``, ``timeouts``)."""
    h5py = _h5py()
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name in _FLOATS:
            file.create_dataset(name, data=getattr(dataset, name), compression="gzip")
        file.create_dataset("terminals", data=dataset.terminations)
        file.create_dataset("timeouts", data=dataset.truncations)
        file.create_dataset("metadata/segue", data=_metadata_text(dataset))
    write_atomically(path, buffer.getvalue())
    return path


def read_d4rl(path: Path) -> OfflineDataset:
    """Read and validate an HDF5 file in D4RL's layout.

    Without ``next_observations`` they are taken from the following row; the last transition of an
    episode that a time limit ended is then left out, as its true final observation was not recorded.
    A last episode that the recording cut off counts as truncated.

    Raises:
        DatasetError: If it is not a whole data set; names field and index.
    """
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            wanted = (*_FLOATS, "terminals", "timeouts")
            arrays: dict[str, Any] = {name: file[name][()] for name in wanted if name in file}
            text = file["metadata/segue"][()].decode() if "metadata/segue" in file else "{}"
    except OSError as error:
        raise DatasetError(f"{path} must be a whole HDF5 file: {error}") from error
    _require(arrays, ("observations", "actions", "rewards", "terminals", "timeouts"), path)
    _check_lengths(arrays)
    terminals = np.asarray(arrays.pop("terminals")).astype(bool).reshape(-1)
    timeouts = np.asarray(arrays.pop("timeouts")).astype(bool).reshape(-1)
    arrays["rewards"] = np.asarray(arrays["rewards"]).reshape(-1)
    arrays["terminations"], arrays["truncations"] = terminals, timeouts & ~terminals
    if "next_observations" in arrays:
        arrays["truncations"][-1] |= not terminals[-1]
    else:
        arrays = _derive_next_observations(arrays)
    return validate(_build(arrays, _parse_metadata(text)))


def _derive_next_observations(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Take them from the next row, and leave out where there is none."""
    observations = np.asarray(arrays["observations"])
    terminations, truncations = arrays["terminations"], arrays["truncations"].copy()
    truncations[-1] |= not terminations[-1]
    following = np.concatenate([observations[1:], observations[-1:]])
    # After an end nothing is bootstrapped: any observation does, so the last one known is kept.
    following[terminations] = observations[terminations]
    return _leave_out(arrays, following, terminations, truncations)


def _leave_out(
    arrays: Mapping[str, Any], following: np.ndarray, terminations: np.ndarray, cut: np.ndarray
) -> dict[str, Any]:
    """Drop the transitions at ``cut``; the ones before them are cut off instead."""
    ends = terminations | cut
    truncations = np.zeros_like(cut)
    truncations[:-1] = cut[1:] & ~ends[:-1]
    found = {
        "observations": arrays["observations"],
        "actions": arrays["actions"],
        "rewards": arrays["rewards"],
        "next_observations": following,
        "terminations": terminations,
        "truncations": truncations,
    }
    return {name: np.asarray(value)[~cut] for name, value in found.items()}


def _from_episode_lengths(arrays: Mapping[str, Any]) -> dict[str, Any]:
    lengths = np.asarray(arrays["episode_lengths"])
    num = len(arrays["rewards"]) if "rewards" in arrays else 0
    if lengths.sum() != num or (lengths < 2).any():
        raise DatasetError(
            f"episode_lengths must be at least 2 each and add up to the {num} rewards, "
            f"got a sum of {lengths.sum()}"
        )
    _check_lengths({key: value for key, value in arrays.items() if key != "episode_lengths"})
    cut = np.zeros(num, bool)
    cut[np.cumsum(lengths) - 1] = True
    observations = np.asarray(arrays["observations"])
    following = np.concatenate([observations[1:], observations[-1:]])
    return _leave_out(arrays, following, np.zeros(num, bool), cut)


def _build(arrays: Mapping[str, Any], metadata: Mapping[str, Any]) -> OfflineDataset:
    for name in FIELDS:
        if arrays[name].dtype.kind not in "fiub":
            raise DatasetError(f"{name} must hold numbers, got {arrays[name].dtype}")
    values = {name: np.ascontiguousarray(arrays[name], np.float32) for name in _FLOATS}
    for name in ("terminations", "truncations"):
        array = np.asarray(arrays[name])
        if not np.isin(array, (0, 1)).all():
            raise DatasetError(f"{name} must be booleans, got other values")
        values[name] = array.astype(bool)
    return OfflineDataset(**values, metadata=dict(metadata))


def _require(arrays: Mapping[str, Any], names: tuple[str, ...], path: Path) -> None:
    missing = [name for name in names if name not in arrays]
    if missing:
        raise DatasetError(
            f"{path.name} must hold {', '.join(names)}, misses {', '.join(missing)}; "
            f"found {', '.join(sorted(arrays))}"
        )


def _check_lengths(arrays: Mapping[str, Any]) -> None:
    num = len(arrays["rewards"])
    for name, array in arrays.items():
        if len(array) != num:
            raise DatasetError(f"{name} must be as long as rewards ({num}), got {len(array)}")


def _metadata_text(dataset: OfflineDataset) -> str:
    return json.dumps({**dataset.metadata, "format_version": FORMAT_VERSION}, allow_nan=False)


def _parse_metadata(text: str) -> dict[str, Any]:
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise DatasetError(f"metadata must be JSON, got {text[:80]!r}") from error
    if not isinstance(metadata, dict):
        raise DatasetError(f"metadata must be a JSON object, got {text[:80]!r}")
    version = metadata.pop("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise DatasetError(f"format_version must be {FORMAT_VERSION}, got {version!r}")
    return metadata


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError('HDF5 files need h5py: pip install "segue[rl]"') from error
    return h5py
