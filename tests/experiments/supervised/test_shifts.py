from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from segue.experiments.supervised.shifts import (
    SHIFTS,
    SOURCE_TASKS,
    ShiftConfig,
    augment,
    permuted_labels,
)

COVARIATE = [name for name, shift in SHIFTS.items() if shift.kind == "covariate"]


def apply(
    name: str, images: Tensor, *, seed: int = 0, stream: int = 0, severity: float | None = None
) -> Tensor:
    generator = torch.Generator().manual_seed(stream)
    return ShiftConfig(name, severity).transform(images, generator, seed)


def test_there_are_nine_shifts_of_three_kinds() -> None:
    kinds = [shift.kind for shift in SHIFTS.values()]
    assert (kinds.count("covariate"), kinds.count("label"), kinds.count("data")) == (5, 3, 1)
    for name, shift in SHIFTS.items():
        assert shift.name == name
        assert shift.source_task in SOURCE_TASKS
        assert shift.summary


@pytest.mark.parametrize("name", list(SHIFTS))
def test_only_covariate_shifts_change_images(name: str, random_images: Tensor) -> None:
    shifted = apply(name, random_images)
    assert shifted.shape == random_images.shape
    assert shifted.dtype == random_images.dtype
    assert torch.equal(shifted, random_images) == (SHIFTS[name].kind != "covariate")


@pytest.mark.parametrize("name", COVARIATE)
@pytest.mark.parametrize("shape", [(4, 3, 32, 32), (4, 1, 8, 8)], ids=["colour", "digits"])
def test_shifted_images_stay_between_0_and_1(name: str, shape: tuple[int, ...]) -> None:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    images[0], images[1] = 0.0, 1.0
    shifted = apply(name, images)
    assert bool(torch.isfinite(shifted).all())
    assert float(shifted.min()) >= -1e-6
    assert float(shifted.max()) <= 1.0 + 1e-6


@pytest.mark.parametrize("name", COVARIATE)
def test_a_shift_is_a_function_of_its_generators_alone(name: str, random_images: Tensor) -> None:
    kept = random_images.clone()
    before = torch.get_rng_state()
    first = apply(name, random_images)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(77)
    assert torch.equal(apply(name, random_images), first)
    torch.set_rng_state(before)
    assert torch.equal(random_images, kept)


@pytest.mark.parametrize("name", COVARIATE)
@pytest.mark.parametrize("size", [8, 32])
def test_an_image_is_shifted_alike_in_a_smaller_set(name: str, size: int) -> None:
    # So 1,000 target examples are the first of 5,000, noise included.
    images = torch.rand(7, 3, size, size, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(apply(name, images)[:3], apply(name, images[:3]), atol=1e-6)


def test_noise_has_the_deviation_it_is_asked_for() -> None:
    images = torch.full((40, 3, 32, 32), 0.5)
    for sigma in (0.05, 0.1):
        noise = apply("gaussian_noise", images, severity=sigma) - images
        assert float(noise.std()) == pytest.approx(sigma, rel=0.01)
        assert abs(float(noise.mean())) < 0.01 * sigma + 1e-3


def test_noise_differs_between_images_and_streams() -> None:
    images = torch.full((2, 3, 8, 8), 0.5)
    first, other = (apply("gaussian_noise", images, stream=stream) for stream in (0, 1))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, other)


def test_blur_spreads_a_point_as_a_gaussian_of_the_stated_width() -> None:
    images = torch.zeros(1, 2, 33, 33)
    images[:, 0, 16, 16] = 1.0
    blurred = apply("blur", images, severity=2.0 / 33.0)
    assert float(blurred[:, 0].sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(blurred[:, 1].abs().max()) == 0.0
    offsets = torch.arange(33) - 16.0
    for other in (0, 1):
        profile = blurred[0, 0].sum(dim=other)
        assert math.sqrt(float((profile * offsets**2).sum())) == pytest.approx(2.0, rel=0.06)


def test_blur_keeps_a_plain_image_up_to_its_edges() -> None:
    images = torch.full((1, 3, 32, 32), 0.7)
    assert torch.allclose(apply("blur", images), images, atol=1e-6)


def test_blur_wider_than_the_image_is_its_border_s_mean() -> None:
    shifted = apply("blur", torch.rand(1, 1, 8, 8), severity=1.0)
    assert bool(torch.isfinite(shifted).all())
    assert float(shifted.std()) < 0.1


def test_contrast_keeps_the_mean_and_scales_the_rest(random_images: Tensor) -> None:
    shifted = apply("contrast", random_images, severity=0.25)
    mean = random_images.mean(dim=(1, 2, 3))
    assert torch.allclose(shifted.mean(dim=(1, 2, 3)), mean, atol=1e-6)
    deviation, before = (x.std(dim=(1, 2, 3)) for x in (shifted, random_images))
    assert torch.allclose(deviation, 0.25 * before, atol=1e-6)


def test_colour_inversion_undoes_itself(random_images: Tensor) -> None:
    twice = apply("colour_inversion", apply("colour_inversion", random_images))
    assert torch.allclose(twice, random_images, atol=1e-6)


def test_one_seed_permutes_the_pixels_of_all_images_and_channels_alike() -> None:
    positions = torch.arange(64.0).view(1, 1, 8, 8).expand(2, 3, 8, 8) / 64.0
    shifted = apply("pixel_permutation", positions, stream=1)
    assert torch.equal(shifted, shifted[:1, :1].expand_as(shifted))
    assert torch.equal(shifted[0, 0].flatten().sort().values, positions[0, 0].flatten())
    # Training and test sets have other generators; the permutation must be the same.
    assert torch.equal(shifted, apply("pixel_permutation", positions, stream=2))
    assert not torch.equal(shifted, apply("pixel_permutation", positions, seed=1))


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_a_label_permutation_leaves_no_class_in_place(num_classes: int) -> None:
    labels = torch.arange(num_classes)
    for seed in range(40):
        permuted = permuted_labels(labels, num_classes, seed)
        assert permuted.sort().values.tolist() == labels.tolist()
        assert not bool((permuted == labels).any())
        assert torch.equal(permuted, permuted_labels(labels, num_classes, seed))


def test_a_single_class_cannot_be_permuted() -> None:
    with pytest.raises(ValueError, match=r"num_classes must be >= 2, got 1"):
        permuted_labels(torch.zeros(3, dtype=torch.int64), 1, seed=0)


def test_label_permutations_differ_between_seeds() -> None:
    labels = torch.arange(10)
    seen = {tuple(permuted_labels(labels, 10, seed).tolist()) for seed in range(20)}
    assert len(seen) == 20


def test_the_default_severity_is_part_of_the_configuration() -> None:
    # Else a later version with another default would take old runs for its own.
    for name, shift in SHIFTS.items():
        config = ShiftConfig(name)
        if shift.severity:
            assert config == ShiftConfig(name, shift.severity)
            assert config.severity == shift.severity
        else:
            assert config.severity is None
    assert ShiftConfig("blur", 1) == ShiftConfig("blur", 1.0)
    assert isinstance(ShiftConfig("blur", 1).severity, float)


def test_an_unknown_shift_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown shift 'gausian_noise'; did you mean 'gaussian"):
        ShiftConfig("gausian_noise")


@pytest.mark.parametrize("severity", [0.0, -0.1, math.nan, math.inf])
def test_a_severity_must_be_positive_and_finite(severity: float) -> None:
    with pytest.raises(ValueError, match=r"severity must be positive and finite, got"):
        ShiftConfig("gaussian_noise", severity)


@pytest.mark.parametrize("name", ["contrast", "blur"])
def test_a_severity_above_the_range_names_the_range(name: str) -> None:
    ShiftConfig(name, 1.0)
    with pytest.raises(ValueError, match=rf"severity of {name} must be in \(0, 1\], got 1\.5"):
        ShiftConfig(name, 1.5)


def test_a_severity_must_be_a_number() -> None:
    with pytest.raises(TypeError, match=r"severity must be a number, got 'high'"):
        ShiftConfig("blur", "high")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name, shift in SHIFTS.items() if not shift.severity])
def test_a_severity_is_refused_where_there_is_none(name: str) -> None:
    with pytest.raises(ValueError, match=rf"shift {name} has no severity, got 0\.5"):
        ShiftConfig(name, 0.5)


def test_augmentation_flips_some_images_and_moves_all_by_a_few_pixels() -> None:
    positions = (
        torch.arange(32.0).expand(64, 3, 32, 32) / 32.0
    )  # the value of a pixel is its column
    moved = augment(positions, torch.Generator().manual_seed(0))
    assert moved.shape == positions.shape
    falls = moved[:, 0, 16, 28] < moved[:, 0, 16, 4]  # flipped images fall from left to right
    assert 16 < int(falls.sum()) < 48
    kept = moved[~falls] - positions[~falls]
    middle = kept[:, :, :, 8:24] * 32.0
    assert float(middle.max() - middle.min()) < 1e-3
    assert abs(float(middle.mean())) <= 4.0 + 1e-3


def test_augmentation_reaches_every_shift_in_both_directions() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 3, 3] = 1.0
    generator = torch.Generator().manual_seed(0)
    rows = {int(augment(image, generator).flatten().argmax()) // 8 for _ in range(60)}
    assert rows == {2, 3, 4}


def test_augmentation_draws_from_its_generator_only(random_images: Tensor) -> None:
    before = torch.get_rng_state()
    first, again = (augment(random_images, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)
