"""Real images: scikit-learn's digits (embedded) and CIFAR-10 in the hub's Parquet layout."""

from __future__ import annotations

import functools
import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from segue.batches import hash_content
from segue.checks import unknown_name
from segue.runs.records import write_atomically

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "ImageData",
    "Labelled",
    "check_labels",
    "find_cifar10",
    "load_cifar10",
    "load_data",
    "load_digits",
]

_HUB_FOLDER = "hf://datasets/uoft-cs/cifar10/plain_text"
_IMAGE_COLUMNS, _LABEL_COLUMNS = ("img", "image"), ("label", "labels")
_NUM_DIGIT_TEST_IMAGES = 500
_SPLITS = ("train", "test")


class Labelled(NamedTuple):
    """Images with labels.

    Attributes:
        images: Shape (N, channels, height, width); uint8 in [0, 255], or float32.
        labels: Shape (N,), int64.
    """

    images: Tensor
    labels: Tensor

    def subset(self, index: Tensor) -> Labelled:
        """The examples at ``index``."""
        return Labelled(self.images[index], self.labels[index])

    def to(self, device: torch.device | str) -> Labelled:
        """The examples on ``device``."""
        return Labelled(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class ImageData:
    """A data set of uint8 images.

    Attributes:
        name: Name in configurations.
        train: Training examples.
        test: Test examples.
        num_classes: Labels are in [0, num_classes).
        mean: Per-channel mean of images in [0, 1].
        std: Per-channel standard deviation.
        fingerprint: SHA-256 of all images and labels, with their shapes and types.
    """

    name: str
    train: Labelled
    test: Labelled
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    def normalise(self, images: Tensor) -> Tensor:
        """Map float images in [0, 1] to zero mean and unit variance per channel."""
        mean, std = (
            torch.tensor(x, device=images.device).view(1, -1, 1, 1) for x in (self.mean, self.std)
        )
        return (images - mean) / std


def load_data(
    name: str, data_root: str | Path | None, cache_dir: str | Path | None = None
) -> ImageData:
    """Load a data set by name, once per process.

    Args:
        name: ``digits`` or ``cifar10``.
        data_root: Data folder, or ``hub``; digits need none.
        cache_dir: Where decoded images are kept for the next process, see :func:`load_cifar10`.

    Raises:
        ValueError: If the name is unknown, or the data need a root and have none.
    """
    if name == "digits":
        return load_digits()
    if name != "cifar10":
        raise ValueError(unknown_name("dataset", name, ("cifar10", "digits")))
    if data_root is None:
        raise ValueError("cifar10 needs a data folder: pass --data FOLDER (or hub), or SEGUE_DATA")
    return load_cifar10(str(data_root), None if cache_dir is None else str(cache_dir))


@functools.lru_cache(maxsize=1)
def load_digits() -> ImageData:
    """Scikit-learn's embedded digits: 1,797 images of 8 x 8 grey pixels, 500 of them for test."""
    from sklearn.datasets import load_digits as load_from_sklearn

    digits = load_from_sklearn()
    # The values are 0 to 16; as uint8 they are stored like any other image.
    images = torch.from_numpy(np.round(digits.images * (255.0 / 16.0)).astype(np.uint8))
    labels = torch.from_numpy(digits.target.astype(np.int64))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    both = Labelled(images.unsqueeze(1), labels).subset(order)
    test, train = (
        Labelled(*(part[rows] for part in both))
        for rows in (slice(None, _NUM_DIGIT_TEST_IMAGES), slice(_NUM_DIGIT_TEST_IMAGES, None))
    )
    return ImageData("digits", train, test, 10, (0.3053,), (0.3760,), hash_content(train, test))


@functools.lru_cache(maxsize=1)
def load_cifar10(data_root: str, cache_dir: str | None = None) -> ImageData:
    """CIFAR-10 from Parquet files as published on the hub (``plain_text``).

    Args:
        data_root: A folder that holds ``cifar10/`` or the files themselves, or ``hub``.
        cache_dir: Decoding takes some seconds, so the images are kept there in one safetensors file,
            which later processes map into memory and share. None keeps nothing.

    Raises:
        FileNotFoundError: If there are no files; says where it looked.
        ValueError: If a file cannot be read, or lacks a column or rows, an image is broken or has
            another size, or a label is not an integer in [0, 10); names file and row.
    """
    files = find_cifar10(data_root)
    if cache_dir is None:
        train, test = (_read(files[split], split) for split in _SPLITS)
        fingerprint = hash_content(train, test)
    else:
        train, test, fingerprint = _read_through(Path(cache_dir), files)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return ImageData("cifar10", train, test, 10, mean, std, fingerprint)


def check_labels(labels: Tensor, num_outputs: int, dataset: str) -> None:
    """Raise ValueError if there are no labels, or one does not fit a head of ``num_outputs`` units."""
    if len(labels) == 0:
        raise ValueError(f"{dataset} must hold examples, got none")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_outputs:
        wrong = high if high >= num_outputs else low
        raise ValueError(
            f"labels of {dataset} must be in [0, {num_outputs}) for a head of {num_outputs} units, "
            f"got {wrong}"
        )


def find_cifar10(data_root: str) -> dict[str, list[str]]:
    """Return the Parquet files of both splits; FileNotFoundError says where it looked."""
    if data_root == "hub":
        return {split: [f"{_HUB_FOLDER}/{split}-*.parquet"] for split in _SPLITS}
    root = Path(data_root).expanduser()
    looked: list[str] = []
    # A clone of the hub's repository has the files in plain_text/.
    for folder in (root / "cifar10", root / "cifar10/plain_text", root, root / "plain_text"):
        found = {s: sorted(map(str, folder.glob(f"{s}-*.parquet"))) for s in _SPLITS}
        if all(found.values()):
            return found
        looked.append(str(folder / "{train,test}-*.parquet"))
    raise FileNotFoundError(
        f"found no CIFAR-10 Parquet files; looked for {', '.join(looked)}. Pass --data FOLDER or "
        "set SEGUE_DATA to the folder that holds cifar10/, or pass --data hub"
    )


def _read_through(folder: Path, files: dict[str, list[str]]) -> tuple[Labelled, Labelled, str]:
    """Return both splits and their fingerprint, from the cache file if it holds them."""
    from safetensors.torch import save

    path = folder / f"cifar10-{_hash_files(files)[:16]}.safetensors"
    if path.exists():
        try:
            return _read_cached(path)
        except Exception as error:  # whatever is wrong with it, the originals are at hand
            warnings.warn(f"{path} is not used and written again: {error}", stacklevel=4)
    train, test = (_read(files[split], split) for split in _SPLITS)
    fingerprint = hash_content(train, test)
    tensors = {
        f"{split}.{name}": tensor
        for split, part in zip(_SPLITS, (train, test), strict=True)
        for name, tensor in part._asdict().items()
    }
    try:
        write_atomically(path, save(tensors, {"fingerprint": fingerprint}))
    except OSError as error:  # only the time of the next process is lost
        warnings.warn(f"decoded images are not kept: {error}", stacklevel=4)
    return train, test, fingerprint


def _read_cached(path: Path) -> tuple[Labelled, Labelled, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        train, test = (
            Labelled(file.get_tensor(f"{split}.images"), file.get_tensor(f"{split}.labels"))
            for split in _SPLITS
        )
        expected = file.metadata()["fingerprint"]
    fingerprint = hash_content(train, test)
    if fingerprint != expected:
        raise ValueError(f"its content must have the hash {expected}, got {fingerprint}")
    return train, test, fingerprint


def _hash_files(files: dict[str, list[str]]) -> str:
    """Hash what the images are read from; of the hub's files only their address is known."""
    digest = hashlib.sha256()
    for split in _SPLITS:
        for file in files[split]:
            name, local = file.rsplit("/", 1)[-1], not file.startswith(_HUB_FOLDER)
            digest.update(f"{split} {name} ".encode())
            digest.update(hashlib.sha256(Path(file).read_bytes() if local else b"").digest())
    return digest.hexdigest()


def _read(files: Sequence[str], split: str) -> Labelled:
    parts = [_decode(_read_parquet(file), file) for file in files]
    both = Labelled(*(torch.cat(column) for column in zip(*parts, strict=True)))
    if len(both.labels) == 0:
        raise ValueError(f"the {split} split of cifar10 must hold images, got none in {files}")
    return both


def _read_parquet(file: str) -> pl.DataFrame:
    import polars as pl

    try:
        return pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        hint = "; without a connection pass --data FOLDER" if file.startswith("hf://") else ""
        raise ValueError(f"{file} must be a readable Parquet file, got {error}{hint}") from error


def _decode(frame: pl.DataFrame, file: str) -> Labelled:
    from PIL import Image

    name = _column(frame, _IMAGE_COLUMNS, file)
    if "bytes" not in [field.name for field in getattr(frame.schema[name], "fields", [])]:
        raise ValueError(
            f"column {name} of {file} must hold structs with a field bytes, got {frame.schema[name]}"
        )
    images = np.empty((frame.height, 32, 32, 3), dtype=np.uint8)
    for row, content in enumerate(frame[name].struct.field("bytes")):
        try:
            picture = Image.open(io.BytesIO(content))
            size = picture.size
            if size == (32, 32):  # else a huge one need not be decoded
                images[row] = np.asarray(picture.convert("RGB"))
        except Exception as error:  # Pillow has no common class for what a broken file can raise
            raise ValueError(f"row {row} of {file} must be an image, got {error}") from error
        if size != (32, 32):
            raise ValueError(f"row {row} of {file} must be 32 x 32 pixels, got {size}")
    labels = _decode_labels(frame, file)
    return Labelled(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels)


def _decode_labels(frame: pl.DataFrame, file: str) -> Tensor:
    name = _column(frame, _LABEL_COLUMNS, file)
    column = frame[name]
    if not column.dtype.is_integer() or column.null_count():
        raise ValueError(
            f"column {name} of {file} must hold integers, got {column.dtype} with "
            f"{column.null_count()} missing"
        )
    labels = torch.from_numpy(column.to_numpy().astype(np.int64))
    if len(labels):
        check_labels(labels, 10, f"cifar10 ({file})")
    return labels


def _column(frame: pl.DataFrame, names: tuple[str, ...], file: str) -> str:
    for name in names:
        if name in frame.columns:
            return name
    raise ValueError(f"{file} must have a column {' or '.join(names)}, got {frame.columns}")
