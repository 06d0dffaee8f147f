"""Domains of images on disk: PACS, and DomainNet in its real layout.

``<root>/<dataset>/<domain>/<class>/*`` holds the images; ``<domain>_train.txt`` and ``<domain>_test.txt``
hold lines ``path label``, the path from the dataset's folder. What an image may be:

* RGB is taken as it is.
* Greyscale (``1``, ``L``), palette, CMYK and alpha are converted to RGB by Pillow, alpha being dropped;
  one warning per list names the first of them.
* 16- and 32-bit greyscale is refused: what its white is, is not in the file.
* A missing or corrupt image is an error that names it: missing ones when the list is read, corrupt
  ones when they are decoded. ``bad_images="skip"`` leaves both out, with a warning that names them;
  it decodes every image at once to know them.
* Another size is resized to a square (bilinear, the aspect ratio is not kept).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from segue.checks import unknown_name

__all__ = [
    "BadImageError",
    "ImageList",
    "check_same_classes",
    "find_dataset",
    "list_images",
    "read_image",
]

BadImages = Literal["raise", "skip"]
ListName = Literal["train", "test"]
_CONVERTED_MODES = ("1", "L", "LA", "P", "PA", "CMYK", "RGBA", "RGBX", "YCbCr", "LAB", "HSV")
_NUM_NAMED = 3


class BadImageError(ValueError):
    """An image file cannot be used; the message names it."""


@dataclass(frozen=True)
class ImageList:
    """The images of one list of one domain.

    Attributes:
        name: ``<domain>_<list>``.
        paths: Files, in the order of the list.
        labels: Shape (N,), int64, into ``classes``.
        classes: Class names; the label is the position.
    """

    name: str
    paths: tuple[Path, ...]
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, index: Tensor) -> ImageList:
        """The images at ``index``."""
        chosen = tuple(self.paths[i] for i in index.tolist())
        return replace(self, paths=chosen, labels=self.labels[index])

    def read(self, index: Tensor | Sequence[int], size: int) -> Tensor:
        """Decode images: uint8, shape (len(index), 3, size, size); BadImageError names a bad one."""
        rows = index.tolist() if isinstance(index, Tensor) else list(index)
        images = torch.empty(len(rows), 3, size, size, dtype=torch.uint8)
        converted: list[str] = []
        for row, number in enumerate(rows):
            images[row], mode = read_image(self.paths[number], size)
            if mode != "RGB":
                converted.append(f"{self.paths[number].name} ({mode})")
        if converted:
            warnings.warn(
                f"{len(converted)} images of {self.name} were converted to RGB: "
                f"{_named(converted)}",
                stacklevel=2,
            )
        return images

    def fingerprint(self, content: bool = True) -> str:
        """SHA-256 of names and labels, and of the files' bytes if ``content``."""
        digest = hashlib.sha256(" ".join((self.name, *self.classes)).encode())
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            digest.update(f" {'/'.join(path.parts[-3:])} {label} ".encode())
            if content:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def find_dataset(data_root: str | Path | None, dataset: str) -> Path:
    """Return the folder of a data set.

    Raises:
        ValueError: If there is no data root.
        FileNotFoundError: If it does not hold the data set; says what was looked for.
    """
    if data_root is None:
        raise ValueError(f"{dataset} needs a data folder: pass --data FOLDER, or SEGUE_DATA")
    root = Path(data_root).expanduser()
    for folder in (root / dataset, root):
        if sorted(folder.glob("*_train.txt")):
            return folder
    raise FileNotFoundError(
        f"found no {dataset}; looked for {root / dataset}/<domain>_train.txt. Pass --data FOLDER or "
        f"set SEGUE_DATA to the folder that holds {dataset}/"
    )


def list_images(
    folder: Path,
    domain: str,
    which: ListName,
    *,
    class_mapping: Mapping[str, str | None] | None = None,
    bad_images: BadImages = "raise",
) -> ImageList:
    """Read a list of a domain.

    Args:
        folder: The data set's folder.
        domain: Such as ``photo``.
        which: ``train`` or ``test``.
        class_mapping: Renames the domain's class folders to common names, or drops a class (None).
            Labels are then the positions in the sorted new names. Every class of the list must be in it.
        bad_images: ``raise`` or ``skip``, see the module.

    Raises:
        FileNotFoundError: If the list or an image of it is missing.
        ValueError: If a line is no ``path label``, a label has two class folders, the labels are not
            0, 1, … without a gap, or ``class_mapping`` lacks a class.
    """
    if bad_images not in get_args(BadImages):
        raise ValueError(unknown_name("bad_images", bad_images, get_args(BadImages)))
    file = folder / f"{domain}_{which}.txt"
    if not file.exists():
        domains = sorted(
            path.name.removesuffix("_train.txt") for path in folder.glob("*_train.txt")
        )
        raise FileNotFoundError(f"found no list {file}: {unknown_name('domain', domain, domains)}")
    paths, labels, names = _parse(file, folder)
    classes = _classes(names, file, folder)
    images = ImageList(f"{domain}_{which}", tuple(paths), torch.tensor(labels), classes)
    if class_mapping is not None:
        images = _renamed(images, class_mapping, file)
    return _without_bad(images, bad_images)


def check_same_classes(first: ImageList, second: ImageList) -> None:
    """Raise ValueError, naming the classes, if two lists do not have the same label space."""
    if first.classes == second.classes:
        return
    only = [sorted(set(a.classes) - set(b.classes)) for a, b in ((first, second), (second, first))]
    found = (
        f"only {first.name} has {_named(only[0]) or 'none'}, only {second.name} has "
        f"{_named(only[1]) or 'none'}"
        if any(only)
        else "their order differs"
    )
    raise ValueError(
        f"{first.name} and {second.name} must have the same classes, {found}; pass class_mapping="
    )


def read_image(path: Path, size: int) -> tuple[Tensor, str]:
    """Decode one file: uint8, shape (3, size, size), and the mode it was stored in.

    Raises:
        BadImageError: If it is missing, broken or of a mode without a known white; names it.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            mode = picture.mode
            if mode != "RGB" and mode not in _CONVERTED_MODES:
                raise BadImageError(f"{path} must be an 8-bit image, got mode {mode}")
            image = picture.convert("RGB")
            if image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except BadImageError:
        raise
    except FileNotFoundError as error:
        raise BadImageError(f"{path} is missing") from error
    except Exception as error:  # Pillow has no common class for what a broken file can raise
        raise BadImageError(f"{path} must be a whole image, got {error}") from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1), mode


def _parse(file: Path, folder: Path) -> tuple[list[Path], list[int], list[str]]:
    paths, labels, names = [], [], []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")  # a class folder may hold spaces
        if not path or not label.isdigit():
            raise ValueError(f"line {number} of {file} must be 'path label', got {line!r}")
        parts = Path(path).parts
        if len(parts) < 3 or ".." in parts or Path(path).is_absolute():
            raise ValueError(
                f"line {number} of {file} must name <domain>/<class>/<image>, got {path!r}"
            )
        paths.append(folder / path)
        labels.append(int(label))
        names.append(parts[-2])
    if not paths:
        raise ValueError(f"{file} must list images, got none")
    return paths, labels, names


def _classes(names_of: Sequence[str], file: Path, folder: Path) -> tuple[str, ...]:
    """Class names by label: of ``classes.txt`` where there is one, else of the class folders."""
    labels = [int(line.rpartition(" ")[2]) for line in _lines(file)]
    names: dict[int, str] = {}
    for label, name in zip(labels, names_of, strict=True):
        if names.setdefault(label, name) != name:
            raise ValueError(
                f"label {label} of {file} must be of one class folder, got {names[label]!r} and "
                f"{name!r}"
            )
    named = folder / "classes.txt"
    if named.exists():
        classes = tuple(_lines(named))
        for label, name in sorted(names.items()):
            if label >= len(classes) or classes[label] != name:
                known = classes[label] if label < len(classes) else f"only {len(classes)} classes"
                raise ValueError(f"label {label} of {file} is {name!r}, but {named} says {known!r}")
        return classes
    missing = sorted(set(range(max(names) + 1)) - set(names))
    if missing:
        raise ValueError(f"{file} must have every label up to {max(names)}, {missing} are missing")
    return tuple(names[label] for label in sorted(names))


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _renamed(images: ImageList, mapping: Mapping[str, str | None], file: Path) -> ImageList:
    absent = sorted(set(images.classes) - set(mapping))
    if absent:
        raise ValueError(f"class_mapping must hold every class of {file}, {absent} are missing")
    common = tuple(sorted({name for name in mapping.values() if name is not None}))
    new = [mapping[name] for name in images.classes]
    labels = torch.tensor([-1 if name is None else common.index(name) for name in new])
    mapped = labels[images.labels]
    kept = images.subset((mapped >= 0).nonzero().flatten())
    return replace(kept, labels=mapped[mapped >= 0], classes=common)


def _without_bad(images: ImageList, bad_images: BadImages) -> ImageList:
    bad: dict[int, str] = {}
    for index, path in enumerate(images.paths):
        if not path.is_file():
            bad[index] = f"{path} is missing"
        elif bad_images == "skip":
            try:
                read_image(path, 8)
            except BadImageError as error:
                bad[index] = str(error)
    if not bad:
        return images
    if bad_images == "raise":
        raise FileNotFoundError(
            f"{len(bad)} of {len(images)} images of {images.name} cannot be found: "
            f"{_named(list(bad.values()))}"
        )
    warnings.warn(
        f"{len(bad)} of {len(images)} images of {images.name} are left out: "
        f"{_named(list(bad.values()))}",
        stacklevel=3,
    )
    kept = [index for index in range(len(images)) if index not in bad]
    if not kept:
        raise ValueError(f"{images.name} must have a usable image, got none")
    return images.subset(torch.tensor(kept))


def _named(names: Sequence[str]) -> str:
    more = len(names) - _NUM_NAMED
    return ", ".join(names[:_NUM_NAMED]) + (f" and {more} more" if more > 0 else "")
