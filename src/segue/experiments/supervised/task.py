"""From a configuration to tensors: what a source run and an adaptation are trained and tested on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from segue.experiments.supervised.config import AdaptationConfig, SourceConfig
from segue.experiments.supervised.data import ImageData, Labelled, check_labels, load_data
from segue.experiments.supervised.shifts import permuted_labels

__all__ = ["AdaptationTask", "SourceTask", "load_adaptation", "load_source"]

_VALIDATION_SHARE = 0.1
_TARGET_SHARE = 0.25
_NUM_MEMORISED = 2_000
_NUM_EVALUATED = 2_000  # source examples whose accuracy is tracked; all target test images are


@dataclass(frozen=True)
class SourceTask:
    """Training set (uint8, to be augmented) and test set (normalised) of a source model."""

    data: ImageData
    train: Labelled
    test: Labelled

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data set."""
        return self.data.fingerprint


@dataclass(frozen=True)
class AdaptationTask:
    """What one adaptation sees: normalised images.

    Attributes:
        source_train: Source examples to fill a replay bank from, normalised when drawn.
        source_test: Held-out source examples, for forgetting.
        target_train: The target's training set.
        target_test: Held-out target examples of the configured split.
        fingerprint: SHA-256 of the data set.
    """

    source_train: Dataset[tuple[Tensor, Tensor]]
    source_test: Labelled
    target_train: Labelled
    target_test: Labelled
    fingerprint: str


class _Normalised(Dataset[tuple[Tensor, Tensor]]):
    """A map-style view that normalises an image when it is drawn."""

    def __init__(self, data: ImageData, examples: Labelled) -> None:
        self.data, self.examples = data, examples

    def __len__(self) -> int:
        return len(self.examples.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.examples.images[index : index + 1].float() / 255.0
        return self.data.normalise(image)[0], self.examples.labels[index]


@dataclass(frozen=True)
class _Division:
    """Indices into the training images; one division per data set and seed."""

    validation: Tensor
    target: Tensor
    source: Tensor


def load_source(
    config: SourceConfig,
    data_root: str | Path | None,
    cache_dir: Path | None = None,
    device: str = "cpu",
) -> SourceTask:
    """Build the training and test set of a source run; only the latter is put on ``device``."""
    data = load_data(config.dataset, data_root, cache_dir)
    train, test = _source_sets(data, config.source_task, config.seed)
    check_labels(train.labels, config.model.num_classes, config.dataset)
    return SourceTask(data, train, _normalised(data, test.to(device)))


def load_adaptation(
    config: AdaptationConfig,
    data_root: str | Path | None,
    cache_dir: Path | None = None,
    device: str = "cpu",
) -> AdaptationTask:
    """Build what an adaptation is trained and tested on; all but ``source_train`` on ``device``.

    Raises:
        ValueError: If the target has fewer than ``num_target_examples`` examples, or a label does
            not fit the head.
    """
    data = load_data(config.source.dataset, data_root, cache_dir)
    shift, seed = config.shift.shift, config.seed
    division = _divide(len(data.train.labels), seed)
    pool = division.target
    if shift.name == "warm_start":
        pool = _shuffled(torch.cat([division.target, division.source]), seed)
    target_train = _of_target_classes(data.train.subset(pool), shift.name, data.num_classes)
    if len(target_train.labels) < config.num_target_examples:
        raise ValueError(
            f"num_target_examples must be <= the {len(target_train.labels)} examples that "
            f"{shift.name} on {data.name} has, got {config.num_target_examples}"
        )
    target_train = Labelled(*(part[: config.num_target_examples] for part in target_train))
    validating = config.split == "validation"
    held_out = data.train.subset(division.validation) if validating else data.test
    held_out = _of_target_classes(held_out, shift.name, data.num_classes)
    source_train, source_test = _source_sets(data, config.source.source_task, seed)
    task = AdaptationTask(
        _Normalised(data, source_train),
        _normalised(data, source_test.to(device)),
        _to_target(data, config, target_train, 0, device),
        _to_target(data, config, held_out, 1, device),
        data.fingerprint,
    )
    for part in (task.target_train, task.target_test, source_train):
        check_labels(part.labels, config.source.model.num_classes, data.name)
    return task


def _divide(num_images: int, seed: int) -> _Division:
    # The validation images are the same for every seed, as the test images are.
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(0))
    num_validation = round(_VALIDATION_SHARE * num_images)
    validation, rest = order[:num_validation], _shuffled(order[num_validation:], seed)
    num_target = round(_TARGET_SHARE * num_images)
    return _Division(validation, rest[:num_target], rest[num_target:])


def _shuffled(index: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return index[torch.randperm(len(index), generator=generator)]


def _source_sets(data: ImageData, source_task: str, seed: int) -> tuple[Labelled, Labelled]:
    """Return the source's training set and its held-out set."""
    division = _divide(len(data.train.labels), seed)
    train, test = data.train.subset(division.source), data.test
    if source_task == "first_half_classes":
        half = data.num_classes // 2
        train, test = (part.subset(part.labels < half) for part in (train, test))
    elif source_task == "half_data":
        everything = _shuffled(torch.cat([division.target, division.source]), seed)
        # The target shuffles the same images in the same way, so every second one is the source's.
        train = data.train.subset(everything[::2])
    elif source_task == "random_labels":
        train = Labelled(*(part[:_NUM_MEMORISED] for part in train))
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(data.num_classes, train.labels.shape, generator=generator)
        train = Labelled(train.images, labels)
        test = train  # nothing generalises: what can be forgotten is what was memorised
    return train, Labelled(*(part[:_NUM_EVALUATED] for part in test))


def _of_target_classes(examples: Labelled, shift: str, num_classes: int) -> Labelled:
    if shift != "class_split":
        return examples
    half = num_classes // 2
    kept = examples.subset(examples.labels >= half)
    return Labelled(kept.images, kept.labels - half)


def _to_target(
    data: ImageData, config: AdaptationConfig, examples: Labelled, stream: int, device: str
) -> Labelled:
    generator = torch.Generator().manual_seed(2 * config.seed + stream)
    images = examples.images.to(device).float() / 255.0
    images = config.shift.transform(images, generator, config.seed)
    labels = examples.labels
    if config.shift.name == "label_permutation":
        labels = permuted_labels(labels, data.num_classes, config.seed)
    return Labelled(data.normalise(images), labels.to(device))


def _normalised(data: ImageData, examples: Labelled) -> Labelled:
    return Labelled(data.normalise(examples.images.float() / 255.0), examples.labels)
