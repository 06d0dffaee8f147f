"""Real images: scikit-learn's digits (embedded) and CIFAR-10 in the hub's Parquet layout."""

from __future__ import annotations

import functools
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from segue.checks import unknown_name

if TYPE_CHECKING:
    import polars as pl

__all__ = ["ImageData", "Labelled", "check_labels", "load_cifar10", "load_data", "load_digits"]

_HUB_FOLDER = "hf://datasets/uoft-cs/cifar10/plain_text"
_IMAGE_COLUMNS, _LABEL_COLUMNS = ("img", "image"), ("label", "labels")
_NUM_DIGIT_TEST_IMAGES = 500


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
        fingerprint: SHA-256 of all images and labels.
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
        mean, std = (torch.tensor(x).view(1, -1, 1, 1) for x in (self.mean, self.std))
        return (images - mean) / std


def load_data(name: str, data_root: str | Path | None) -> ImageData:
    """Load a data set by name, once per process.

    Raises:
        ValueError: If the name is unknown, or the data need a root and have none.
    """
    if name == "digits":
        return load_digits()
    if name != "cifar10":
        raise ValueError(unknown_name("dataset", name, ("cifar10", "digits")))
    if data_root is None:
        raise ValueError("cifar10 needs a data folder: pass --data FOLDER (or hub), or SEGUE_DATA")
    return load_cifar10(str(data_root))


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
    return ImageData("digits", train, test, 10, (0.3053,), (0.3760,), _fingerprint(train, test))


@functools.lru_cache(maxsize=1)
def load_cifar10(data_root: str) -> ImageData:
    """CIFAR-10 from Parquet files as published on the hub (``plain_text``).

    Args:
        data_root: A folder that holds ``cifar10/`` or the files themselves, or ``hub``.

    Raises:
        FileNotFoundError: If there are no files; says where it looked.
        ValueError: If a file lacks a column or rows, an image cannot be read or has another size, or
            a label is outside [0, 10); names file and row.
    """
    files = _find_files(data_root)
    train, test = (_read(files[split], split) for split in ("train", "test"))
    return ImageData(
        "cifar10",
        train,
        test,
        10,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        _fingerprint(train, test),
    )


def check_labels(labels: Tensor, num_outputs: int, dataset: str) -> None:
    """Raise ValueError if a label does not fit a head of ``num_outputs`` units."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_outputs:
        wrong = high if high >= num_outputs else low
        raise ValueError(
            f"labels of {dataset} must be in [0, {num_outputs}) for a head of {num_outputs} units, "
            f"got {wrong}"
        )


def _find_files(data_root: str) -> dict[str, list[str]]:
    if data_root == "hub":
        return {split: [f"{_HUB_FOLDER}/{split}-*.parquet"] for split in ("train", "test")}
    looked: list[str] = []
    for folder in (Path(data_root) / "cifar10", Path(data_root)):
        found = {s: sorted(map(str, folder.glob(f"{s}-*.parquet"))) for s in ("train", "test")}
        if all(found.values()):
            return found
        looked.append(str(folder / "{train,test}-*.parquet"))
    raise FileNotFoundError(
        f"found no CIFAR-10 Parquet files; looked for {' and '.join(looked)}. Pass --data FOLDER or "
        "set SEGUE_DATA to the folder that holds cifar10/, or pass --data hub"
    )


def _read(files: list[str], split: str) -> Labelled:
    import polars as pl

    parts = [_decode(pl.read_parquet(file), file) for file in files]
    both = Labelled(*(torch.cat(column) for column in zip(*parts, strict=True)))
    if len(both.labels) == 0:
        raise ValueError(f"the {split} split of cifar10 must hold images, got none in {files}")
    check_labels(both.labels, 10, "cifar10")
    return both


def _decode(frame: pl.DataFrame, file: str) -> Labelled:
    from PIL import Image, UnidentifiedImageError

    images = np.empty((frame.height, 32, 32, 3), dtype=np.uint8)
    for row, cell in enumerate(frame[_column(frame, _IMAGE_COLUMNS, file)]):
        try:
            picture = Image.open(io.BytesIO(cell["bytes"])).convert("RGB")
        except (UnidentifiedImageError, OSError, TypeError, SyntaxError) as error:
            raise ValueError(f"row {row} of {file} must be an image, got {error}") from error
        if picture.size != (32, 32):
            raise ValueError(f"row {row} of {file} must be 32 x 32 pixels, got {picture.size}")
        images[row] = np.asarray(picture)
    labels = frame[_column(frame, _LABEL_COLUMNS, file)].to_numpy().astype(np.int64)
    return Labelled(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)
    )


def _column(frame: pl.DataFrame, names: tuple[str, ...], file: str) -> str:
    for name in names:
        if name in frame.columns:
            return name
    raise ValueError(f"{file} must have a column {' or '.join(names)}, got {frame.columns}")


def _fingerprint(*parts: Labelled) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for tensor in part:
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
