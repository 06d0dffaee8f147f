"""From a configuration to inputs: what a domain model and an adaptation are trained and tested on."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from segue.batches import hash_content
from segue.experiments.vision.config import AdaptationConfig, SourceConfig
from segue.experiments.vision.images import (
    ImageList,
    check_same_classes,
    find_dataset,
    list_images,
)
from segue.experiments.vision.models import NetworkConfig, normalise
from segue.runs.records import write_atomically

__all__ = [
    "AdaptationTask",
    "Examples",
    "SourceTask",
    "check_dataset",
    "load_adaptation",
    "load_source",
]

_VALIDATION_SHARE = 0.15
_NUM_EVALUATED = 2_000  # test images of a domain at most, where every one is decoded anew
_MAX_DECODED = 20_000  # longer lists are decoded image by image when they are drawn
_FEATURE_BATCH = 64


class Examples(Dataset[tuple[Tensor, Tensor]]):
    """Inputs of a network with labels, as a map-style data set and in batches.

    Attributes:
        labels: Shape (N,), int64, on the CPU.
    """

    def __init__(self, store: Tensor | ImageList, labels: Tensor, size: int) -> None:
        self.store, self.labels, self.size = store, labels, size

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs(torch.tensor([index]))[0], self.labels[index]

    def inputs(self, index: Tensor, device: str = "cpu") -> Tensor:
        """What the network takes: outputs of the frozen lower blocks, or normalised images."""
        if isinstance(self.store, ImageList):
            return normalise(self.store.read(index, self.size).to(device))
        drawn = self.store[index].to(device)
        return normalise(drawn) if drawn.dtype == torch.uint8 else drawn

    def subset(self, index: Tensor) -> Examples:
        """The examples at ``index``."""
        store = self.store
        kept = store.subset(index) if isinstance(store, ImageList) else store[index]
        return Examples(kept, self.labels[index], self.size)


@dataclass(frozen=True)
class SourceTask:
    """Training and test set of a domain model."""

    train: Examples
    test: Examples
    fingerprint: str


@dataclass(frozen=True)
class AdaptationTask:
    """What one adaptation sees.

    Attributes:
        source_train: Source examples to fill a replay bank from; None where there are no source data.
        source_test: Held-out source images, for forgetting. From the checkpoint: images of another
            domain, whose labels the caller takes from the checkpoint.
        target_train: The target's training set.
        target_test: Held-out target images of the configured split.
        classes: Names of the target's classes; the label is the position.
        fingerprint: SHA-256 of the data.
    """

    source_train: Examples | None
    source_test: Examples
    target_train: Examples
    target_test: Examples
    classes: tuple[str, ...]
    fingerprint: str


class _Loader:
    """Reads the domains of one data set for one network."""

    def __init__(
        self,
        dataset: str,
        network: NetworkConfig,
        lower: nn.Module,
        data_root: str | None,
        cache: Path | None,
        device: str,
    ) -> None:
        self.folder = find_dataset(data_root, dataset)
        self.network, self.lower = network, lower
        self.cache, self.device = cache, device
        self.lists: list[ImageList] = []
        self.fingerprints: list[str] = []

    def examples(self, domain: str, which: str) -> Examples:
        images = _list(self.folder, domain, which)
        for other in self.lists[:1]:
            check_same_classes(other, images)
        if len(images.classes) != self.network.num_classes:
            raise ValueError(
                f"num_classes must be the {len(images.classes)} classes of {images.name}, "
                f"got {self.network.num_classes}"
            )
        self.lists.append(images)
        self.fingerprints.append(images.fingerprint(content=len(images) <= _MAX_DECODED))
        size = self.network.image_size
        if self.network.trained == "upper":
            identity = hash_content(
                self.fingerprints[-1],
                size,
                dict(self.lower.state_dict()),
                torch.device(self.device).type,
            )
            file = None
            if self.cache is not None:
                file = self.cache / f"vision-{images.name}-{identity[:16]}.safetensors"
            store: Tensor | ImageList = _lower_outputs(images, size, self.lower, file, self.device)
        elif len(images) <= _MAX_DECODED:
            store = _decoded(images, size)
        else:
            store = images
        return Examples(store, images.labels, size)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all lists read so far."""
        return hash_content(self.fingerprints)


def load_source(
    config: SourceConfig,
    lower: nn.Module,
    data_root: str | None,
    cache: Path | None = None,
    device: str = "cpu",
) -> SourceTask:
    """Build the training and test set of a domain model; its validation images are left out."""
    loader = _Loader(config.dataset, config.network, lower, data_root, cache, device)
    train = loader.examples(config.domain, "train")
    test = loader.examples(config.domain, "test")
    _, rest = _divide(len(train))
    return SourceTask(train.subset(rest), _evaluated(test), loader.fingerprint)


def load_adaptation(
    config: AdaptationConfig,
    lower: nn.Module,
    data_root: str | None,
    cache: Path | None = None,
    device: str = "cpu",
) -> AdaptationTask:
    """Build what an adaptation is trained and tested on.

    The target's training images are drawn by the seed, class by class in turn, so that even few
    examples hold every class.

    Raises:
        ValueError: If the target has fewer than ``num_target_examples`` images, the domains have
            unequal classes, or the head does not fit them.
    """
    shift = config.shift
    loader = _Loader(shift.dataset, config.network, lower, data_root, cache, device)
    target = loader.examples(shift.target, "train")
    validation, rest = _divide(len(target))
    if len(rest) < config.num_target_examples:
        raise ValueError(
            f"num_target_examples must be <= the {len(rest)} images of {shift.target}, "
            f"got {config.num_target_examples}"
        )
    chosen = rest[balanced(target.labels[rest], config.num_target_examples, config.seed)]
    if config.split == "validation":
        held_out = target.subset(validation)
    else:
        held_out = loader.examples(shift.target, "test")
    source_train = None
    if shift.from_checkpoint:
        source = next(d for d in _domains(loader.folder) if d != shift.target)
    else:
        source = shift.source
        everything = loader.examples(source, "train")
        source_train = everything.subset(_divide(len(everything))[1])
    source_test = loader.examples(source, "test")
    return AdaptationTask(
        source_train,
        _evaluated(source_test),
        target.subset(chosen),
        _evaluated(held_out),
        loader.lists[0].classes,
        loader.fingerprint,
    )


def check_dataset(dataset: str, data_root: str) -> None:
    """Raise an OSError or ValueError if a data folder is not what the runs need."""
    folder = find_dataset(data_root, dataset)
    lists = [
        _list(folder, domain, which) for domain in _domains(folder) for which in ("train", "test")
    ]
    for images in lists[1:]:
        check_same_classes(lists[0], images)


def balanced(labels: Tensor, number: int, seed: int) -> Tensor:
    """Draw ``number`` positions, from every class in turn; a class that is used up is passed over.

    >>> drawn = balanced(torch.tensor([0, 0, 0, 0, 1, 2, 2]), 4, seed=0)
    >>> torch.tensor([0, 0, 0, 0, 1, 2, 2])[drawn].tolist()
    [0, 1, 2, 0]
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    seen: dict[int, int] = {}
    rounds = torch.empty(len(order), dtype=torch.long)
    for position, label in enumerate(labels[order].tolist()):
        rounds[position] = seen[label] = seen.get(label, -1) + 1
    num_classes = int(labels.max()) + 1
    return order[(rounds * num_classes + labels[order]).argsort(stable=True)[:number]]


def _divide(num_images: int) -> tuple[Tensor, Tensor]:
    """Validation images, the same for every seed as test images are, and the rest."""
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(0))
    num_validation = round(_VALIDATION_SHARE * num_images)
    return order[:num_validation], order[num_validation:]


def _evaluated(examples: Examples) -> Examples:
    """In a mixed order, as lists are sorted by class and curves use the first images."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(1))
    return examples.subset(order[:_NUM_EVALUATED])


def _domains(folder: Path) -> list[str]:
    # Photographs first: they are what the checkpoint knows, and so what it can forget.
    found = [path.name.removesuffix("_train.txt") for path in folder.glob("*_train.txt")]
    return sorted(found, key=lambda name: (name not in ("photo", "real"), name))


@functools.lru_cache(maxsize=32)
def _list(folder: Path, domain: str, which: str) -> ImageList:
    return list_images(folder, domain, which)  # type: ignore[arg-type]


@functools.lru_cache(maxsize=8)
def _decoded_list(folder: Path, name: str, size: int) -> Tensor:
    domain, _, which = name.rpartition("_")
    images = _list(folder, domain, which)
    return images.read(range(len(images)), size)


def _decoded(images: ImageList, size: int) -> Tensor:
    folder = images.paths[0].parents[2]
    return _decoded_list(folder, images.name, size)


def _lower_outputs(
    images: ImageList, size: int, lower: nn.Module, path: Path | None, device: str
) -> Tensor:
    """Outputs of the frozen lower blocks for every image, from the cache file if it holds them."""
    if path is None:
        return _compute(images, size, lower, device)
    from safetensors import safe_open
    from safetensors.torch import save

    if path.exists():
        try:
            with safe_open(path, framework="pt") as file:
                features: Tensor = file.get_tensor("features")
            if len(features) == len(images):
                return features
        except Exception as error:  # whatever is wrong with it, the images are at hand
            warnings.warn(f"{path} is not used and written again: {error}", stacklevel=2)
    features = _compute(images, size, lower, device)
    try:
        write_atomically(path, save({"features": features}))
    except OSError as error:  # only the time of the next process is lost
        warnings.warn(f"outputs of the frozen blocks are not kept: {error}", stacklevel=2)
    return features


@torch.no_grad()
def _compute(images: ImageList, size: int, lower: nn.Module, device: str) -> Tensor:
    lower = lower.to(device).eval()
    parts = []
    for start in range(0, len(images), _FEATURE_BATCH):
        index = range(start, min(start + _FEATURE_BATCH, len(images)))
        parts.append(lower(normalise(images.read(index, size).to(device))).cpu())
    return torch.cat(parts)
