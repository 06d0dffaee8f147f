"""Controlled shifts: pairs of a source and a target made from one data set.

The training images of a data set are divided once per seed: a validation set that is never trained
on, a *target part* and a *source part*, so that target images are new to the source model (except
for the warm start, where the source's half belongs to the target by definition). Everything that is
drawn is a function of the seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.checks import check_positive, unknown_name

__all__ = ["SHIFTS", "SOURCE_TASKS", "Shift", "ShiftConfig", "augment"]

SOURCE_TASKS = ("all", "first_half_classes", "random_labels", "half_data")
"""What a source model can be trained on; shifts with the same source task share source models."""

Transform = Callable[[Tensor, float, torch.Generator, int], Tensor]
"""Takes float images in [0, 1], the severity, a generator for this set, and the seed."""


@dataclass(frozen=True)
class Shift:
    """One kind of shift.

    Attributes:
        name: Name in configurations and tables.
        kind: ``covariate``, ``label`` or ``data``.
        source_task: What the source model is trained on.
        severity: Default severity, in the shift's own unit; 0 where it has none.
        summary: One line for people.
        transform: Maps source images to target images; None leaves them.
        highest_severity: Severities are in (0, ``highest_severity``].
    """

    name: str
    kind: str
    source_task: str
    severity: float
    summary: str
    transform: Transform | None = None
    highest_severity: float = math.inf


@dataclass(frozen=True)
class ShiftConfig:
    """A shift by name, with its severity.

    Without one, the shift's default is filled in, so that a run's id tells severities apart even if
    a later version has another default. It stays None where a shift has no severity.

    Raises:
        TypeError: If the severity is not a number.
        ValueError: If the name is unknown, or the severity is out of range or given where a shift
            has none.

    >>> ShiftConfig("gaussian_noise")
    ShiftConfig(name='gaussian_noise', severity=0.3)
    """

    name: str
    severity: float | None = None

    def __post_init__(self) -> None:
        if self.name not in SHIFTS:
            raise ValueError(unknown_name("shift", self.name, SHIFTS))
        shift = SHIFTS[self.name]
        if self.severity is None:
            if shift.severity > 0.0:
                object.__setattr__(self, "severity", shift.severity)
            return
        if shift.severity == 0.0:
            raise ValueError(f"shift {self.name} has no severity, got {self.severity!r}")
        if check_positive("severity", self.severity) > shift.highest_severity:
            raise ValueError(
                f"severity of {self.name} must be in (0, {shift.highest_severity:g}], "
                f"got {self.severity!r}"
            )
        object.__setattr__(self, "severity", float(self.severity))

    @property
    def shift(self) -> Shift:
        """The registered shift."""
        return SHIFTS[self.name]

    def transform(self, images: Tensor, generator: torch.Generator, seed: int) -> Tensor:
        """Apply the shift to float images (N, channels, height, width) in [0, 1]."""
        shift = self.shift
        if shift.transform is None:
            return images
        return shift.transform(images, self.severity or 0.0, generator, seed)


def gaussian_noise(images: Tensor, sigma: float, generator: torch.Generator, seed: int) -> Tensor:
    """Add noise of standard deviation ``sigma``, drawn once per image, clipped to [0, 1]."""
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    return (images + sigma * noise).clamp(0.0, 1.0)


def blur(images: Tensor, width: float, generator: torch.Generator, seed: int) -> Tensor:
    """Gaussian blur; ``width`` is its standard deviation as a share of the image's width."""
    sigma = width * images.shape[-1]
    radius = max(1, math.ceil(2.5 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(images.device)
    channels, dtype = images.shape[1], images.dtype
    if images.is_cuda:  # where float32 would be rounded to TF32, and the images be others
        images, kernel = images.double(), kernel.double()
    for shape, padding in (((1, -1), (radius, radius, 0, 0)), ((-1, 1), (0, 0, radius, radius))):
        weight = kernel.view(1, 1, *shape).expand(channels, 1, -1, -1)
        padded = F.pad(images, padding, mode="replicate")
        images = F.conv2d(padded, weight, groups=channels)
    return images.to(dtype)


def contrast(images: Tensor, share: float, generator: torch.Generator, seed: int) -> Tensor:
    """Keep ``share`` of each image's contrast around its mean brightness."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + share * (images - mean)


def colour_inversion(images: Tensor, _: float, generator: torch.Generator, seed: int) -> Tensor:
    """The negative of each image."""
    return 1.0 - images


def pixel_permutation(images: Tensor, _: float, generator: torch.Generator, seed: int) -> Tensor:
    """Permute the pixels, in the same way for all images of a seed."""
    num_pixels = images.shape[-2] * images.shape[-1]
    order = torch.randperm(num_pixels, generator=torch.Generator().manual_seed(seed))
    return images.flatten(2)[:, :, order.to(images.device)].reshape(images.shape)


SHIFTS: dict[str, Shift] = {
    shift.name: shift
    for shift in (
        Shift("gaussian_noise", "covariate", "all", 0.3,
              "Gaussian noise of standard deviation 0.3 on images in [0, 1]", gaussian_noise),
        Shift("blur", "covariate", "all", 0.047,
              "Gaussian blur of standard deviation 0.047 image widths", blur, highest_severity=1.0),
        Shift("contrast", "covariate", "all", 0.15,
              "15 % of each image's contrast is kept", contrast, highest_severity=1.0),
        Shift("colour_inversion", "covariate", "all", 0.0,
              "the negative of each image", colour_inversion),
        Shift("pixel_permutation", "covariate", "all", 0.0,
              "one permutation of the pixels per seed", pixel_permutation),
        Shift("label_permutation", "label", "all", 0.0,
              "every class gets another class's output unit, one permutation per seed"),
        Shift("class_split", "label", "first_half_classes", 0.0,
              "classes 0-4, then classes 5-9 on the same output units"),
        Shift("random_labels", "label", "random_labels", 0.0,
              "random labels memorised, then the true ones"),
        Shift("warm_start", "data", "half_data", 0.0,
              "half the data, then a sample of all of it"),
    )
}  # fmt: skip
"""The nine controlled shifts by name. To add one, add a row (and a transform, if it has one)."""


def permuted_labels(labels: Tensor, num_classes: int, seed: int) -> Tensor:
    """Map labels by a permutation without fixed point, drawn from ``seed``.

    Raises:
        ValueError: If there are fewer than two classes, which no permutation moves.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be >= 2, got {num_classes}")
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(num_classes, generator=generator)
        if not bool((order == torch.arange(num_classes)).any()):
            return order[labels]


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip half of the images and shift all by up to an eighth of their width, edges repeated.

    Args:
        images: Float images, shape (N, channels, height, width).
        generator: Draws the flips (per image) and the shift (per batch).
    """
    flipped = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)
    reach = max(1, images.shape[-1] // 8)
    down, right = torch.randint(0, 2 * reach + 1, (2,), generator=generator).tolist()
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    height, width = images.shape[-2:]
    return padded[:, :, down : down + height, right : right + width]
