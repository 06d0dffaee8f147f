from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from segue.experiments.supervised.config import AdaptationConfig, SourceConfig
from segue.experiments.supervised.data import ImageData, load_digits
from segue.experiments.supervised.methods import MethodConfig
from segue.experiments.supervised.models import ResNetConfig
from segue.experiments.supervised.shifts import SHIFTS, ShiftConfig, permuted_labels
from segue.experiments.supervised.task import load_adaptation, load_source

MODEL = ResNetConfig(in_channels=1, widths=(16, 32), stem_width=8, stem_stride=1)


def adaptation(shift: str, *, seed: int = 0, **other: Any) -> AdaptationConfig:
    source = SourceConfig(
        dataset=other.pop("dataset", "digits"),
        source_task=SHIFTS[shift].source_task,
        model=other.pop("model", MODEL),
        seed=seed,
        num_training_steps=10,
    )
    settings: dict[str, Any] = {"num_target_examples": 100, "num_target_steps": 10, **other}
    return AdaptationConfig(
        shift=ShiftConfig(shift), source=source, method=MethodConfig("hard_switch"), seed=seed,
        **settings,
    )  # fmt: skip


def places(images: Iterable[Tensor], data: ImageData, *, scale: bool = True) -> set[int]:
    """Where in the data set (test images after the training images) normalised images come from."""
    everything = torch.cat([data.train.images, data.test.images])
    index = {image.numpy().tobytes(): place for place, image in enumerate(everything)}
    std, mean = data.std[0], data.mean[0]
    found = set()
    for image in images:
        pixels = ((image * std + mean) * 255.0).round().to(torch.uint8) if scale else image
        found.add(index[pixels.contiguous().numpy().tobytes()])
    return found


def test_sources_and_targets_share_no_images_and_never_the_test_set() -> None:
    data = load_digits()
    num_train = len(data.train.labels)
    # Labels permuted, but pixels untouched.
    config = adaptation("label_permutation", num_target_examples=324)
    tuning = load_adaptation(replace(config, split="validation"), None)
    final = load_adaptation(config, None)
    target = places(final.target_train.images, data)
    source = places(load_source(config.source, None).train.images, data, scale=False)
    validation = places(tuning.target_test.images, data)
    test = places(final.target_test.images, data)
    assert not target & source
    assert not validation & (target | source)
    assert max(target | source | validation) < num_train
    assert test == set(range(num_train, num_train + len(data.test.labels)))
    assert places(tuning.target_train.images, data) == target  # tuned on what is trained on later


def test_replay_draws_from_what_the_source_model_was_trained_on() -> None:
    for shift in SHIFTS:
        config = adaptation(shift)
        task, source = load_adaptation(config, None), load_source(config.source, None)
        assert len(task.source_train) == len(source.train.labels)  # type: ignore[arg-type]
        expected = source.data.normalise(source.train.images.float() / 255.0)
        for index in (0, 17, len(source.train.labels) - 1):
            image, label = task.source_train[index]
            assert torch.allclose(image, expected[index], atol=1e-6)
            assert int(label) == int(source.train.labels[index])


@pytest.mark.parametrize("shift", list(SHIFTS))
def test_a_task_is_a_function_of_its_configuration(shift: str) -> None:
    config = adaptation(shift)
    first = load_adaptation(config, None)
    before = torch.get_rng_state()
    again, other = load_adaptation(config, None), load_adaptation(adaptation(shift, seed=1), None)
    assert torch.equal(torch.get_rng_state(), before)
    for side in ("source_test", "target_train", "target_test"):
        for mine, same in zip(getattr(first, side), getattr(again, side), strict=True):
            assert torch.equal(mine, same)
    assert not torch.equal(first.target_train.images, other.target_train.images)


def test_the_smaller_target_is_the_beginning_of_the_larger() -> None:
    for shift in SHIFTS:
        small, large = (
            load_adaptation(adaptation(shift, num_target_examples=n), None).target_train
            for n in (64, 120)
        )
        assert torch.equal(small.labels, large.labels[:64])
        assert torch.allclose(small.images, large.images[:64], atol=1e-6)


def test_validation_images_are_the_same_for_every_seed() -> None:
    first, other = (
        load_adaptation(adaptation("class_split", seed=seed, split="validation"), None).target_test
        for seed in (0, 1)
    )
    assert torch.equal(first.images, other.images)


def test_a_class_split_reuses_the_output_units_of_the_source() -> None:
    config = adaptation("class_split")
    task, data = load_adaptation(config, None), load_digits()
    assert set(load_source(config.source, None).train.labels.tolist()) == set(range(5))
    assert set(task.source_test.labels.tolist()) == set(range(5))
    assert set(task.target_train.labels.tolist()) == set(range(5))
    late = data.test.labels >= 5
    assert torch.equal(task.target_test.labels, data.test.labels[late] - 5)
    expected = data.normalise(data.test.images[late].float() / 255.0)
    assert torch.allclose(task.target_test.images, expected, atol=1e-6)


def test_a_label_permutation_changes_every_target_label_and_no_source_label() -> None:
    task, data = load_adaptation(adaptation("label_permutation", seed=3), None), load_digits()
    assert torch.equal(task.target_test.labels, permuted_labels(data.test.labels, 10, seed=3))
    assert not bool((task.target_test.labels == data.test.labels).any())
    assert torch.equal(task.source_test.labels, data.test.labels)


def test_random_labels_are_for_the_source_and_clean_ones_for_the_target() -> None:
    config = adaptation("random_labels")
    task, source, data = (
        load_adaptation(config, None),
        load_source(config.source, None),
        load_digits(),
    )
    truth = {
        image.numpy().tobytes(): int(label)
        for image, label in zip(data.train.images, data.train.labels, strict=True)
    }
    labels = [truth[image.contiguous().numpy().tobytes()] for image in source.train.images]
    agreement = sum(a == b for a, b in zip(labels, source.train.labels.tolist(), strict=True))
    assert 0.03 < agreement / len(labels) < 0.2
    assert torch.equal(task.target_test.labels, data.test.labels)
    # What can be forgotten is what was memorised.
    assert torch.equal(task.source_test.labels, source.train.labels[: len(task.source_test.labels)])


def test_a_warm_start_goes_from_half_the_data_to_all_of_it() -> None:
    data = load_digits()
    num_examples = round(0.9 * len(data.train.labels))
    config = adaptation("warm_start", num_target_examples=num_examples)
    target = places(load_adaptation(config, None).target_train.images, data)
    source = places(load_source(config.source, None).train.images, data, scale=False)
    assert source < target
    assert abs(len(source) - len(target) / 2) <= 5  # a few digits look alike to the pixel


def test_covariate_shifts_keep_labels_and_change_target_images_only() -> None:
    data = load_digits()
    plain = data.normalise(data.test.images.float() / 255.0)
    for shift in (name for name, shift in SHIFTS.items() if shift.kind == "covariate"):
        task = load_adaptation(adaptation(shift), None)
        assert torch.equal(task.target_test.labels, data.test.labels)
        assert not torch.allclose(task.target_test.images, plain, atol=1e-3)
        assert torch.allclose(task.source_test.images, plain, atol=1e-6)


def test_more_target_examples_than_there_are_is_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"num_target_examples must be <= the \d+ examples that blur on digits has"
    ):
        load_adaptation(adaptation("blur", num_target_examples=5_000), None)


def test_a_head_that_is_too_small_names_dataset_label_and_head() -> None:
    config = adaptation("blur", model=replace(MODEL, num_classes=8))
    message = r"labels of digits must be in \[0, 8\) for a head of 8 units, got 9"
    with pytest.raises(ValueError, match=message):
        load_adaptation(config, None)
    with pytest.raises(ValueError, match=message):
        load_source(config.source, None)


@pytest.mark.data
def test_real_cifar10_has_enough_examples_for_every_shift(real_data: str) -> None:
    for shift in ("class_split", "gaussian_noise", "warm_start"):
        config = adaptation(
            shift, dataset="cifar10", model=ResNetConfig(), num_target_examples=5_000
        )
        task = load_adaptation(config, real_data)
        assert task.target_train.images.shape == (5_000, 3, 32, 32)
        assert len(task.target_test.labels) == (5_000 if shift == "class_split" else 10_000)
        counts = task.target_train.labels.bincount(minlength=10)
        assert float(counts[counts > 0].min()) > 400
