"""Residual networks that train fast on a CPU, and ResNet-18 for the paper-scale preset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.checks import check_at_least_one, unknown_name

__all__ = ["ResNet", "ResNetConfig", "build_model", "resnet18"]

Norm = Literal["group", "batch"]
_CHANNELS_PER_GROUP = 16


@dataclass(frozen=True)
class ResNetConfig:
    """A stem, then stages of residual blocks, then a linear head on mean-pooled features.

    Attributes:
        in_channels: Channels of an image.
        num_classes: Units of the head.
        widths: Channels of each stage.
        stem_width: Channels of the first convolution.
        stem_stride: The image is folded into channels by this factor (space to depth) first.
        first_stride: Stride of the first stage; the later ones have 2.
        num_blocks: Residual blocks per stage.
        norm: ``group`` (16 channels a group) or ``batch``.
    """

    in_channels: int = 3
    num_classes: int = 10
    widths: tuple[int, ...] = (40, 80, 160)
    stem_width: int = 24
    stem_stride: int = 2
    first_stride: int = 2
    num_blocks: int = 1
    norm: Norm = "group"

    def __post_init__(self) -> None:
        for name in (
            "in_channels", "num_classes", "stem_width", "stem_stride", "first_stride", "num_blocks",
        ):  # fmt: skip
            check_at_least_one(name, getattr(self, name))
        if not self.widths or any(width < 1 for width in self.widths):
            raise ValueError(f"widths must hold positive channel counts, got {self.widths}")
        if self.norm not in get_args(Norm):
            raise ValueError(unknown_name("norm", self.norm, get_args(Norm)))


class ResNet(nn.Module):
    """Network of a :class:`ResNetConfig`; ``head`` is its last linear layer."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.in_channels, self.fold = config.in_channels, config.stem_stride
        width = config.stem_width
        self.stem = nn.Sequential(
            _convolution(config.in_channels * self.fold**2, width, 3, 1),
            _norm(config.norm, width),
            nn.ReLU(),
        )
        blocks: list[nn.Module] = []
        for stage, out_width in enumerate(config.widths):
            for block in range(config.num_blocks):
                stride = 1 if block else (config.first_stride if stage == 0 else 2)
                blocks.append(_Block(width, out_width, stride, config.norm))
                width = out_width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, config.num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Map images (N, channels, height, width) to features (N, last width).

        Raises:
            ValueError: If the number of channels is another, or the stem's stride does not divide
                height and width.
        """
        channels, height, width = images.shape[1:]
        if channels != self.in_channels or height % self.fold or width % self.fold:
            raise ValueError(
                f"images must have {self.in_channels} channels, and height and width divisible by "
                f"{self.fold}, got shape {tuple(images.shape)}"
            )
        if self.fold > 1:
            images = F.pixel_unshuffle(images, self.fold)
        # Convolutions of this size are faster on a CPU with the channels last.
        images = images.contiguous(memory_format=torch.channels_last)
        pooled: Tensor = self.blocks(self.stem(images)).mean(dim=(2, 3))
        return pooled

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, channels, height, width) to logits (N, num_classes)."""
        logits: Tensor = self.head(self.features(images))
        return logits


class _Block(nn.Module):
    def __init__(self, in_width: int, out_width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = _convolution(in_width, out_width, 3, stride)
        self.norm1 = _norm(norm, out_width)
        self.conv2 = _convolution(out_width, out_width, 3, 1)
        self.norm2 = _norm(norm, out_width)
        same = stride == 1 and in_width == out_width
        self.shortcut = nn.Identity() if same else _convolution(in_width, out_width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(hidden)))


def build_model(config: ResNetConfig, *, seed: int, device: str = "cpu") -> ResNet:
    """Build a network on ``device`` whose initial weights depend on ``seed`` alone.

    The global random state is left as it was.
    """
    # torch.manual_seed would seed the accelerators' generators as well, which nobody gives back.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        model = ResNet(config)
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def resnet18(num_classes: int = 10, norm: Norm = "batch") -> ResNetConfig:
    """The configuration of ResNet-18 with a stem for 32 x 32 images (He et al., 1512.03385).

    Deviation: the shortcuts that change shape are a convolution without normalisation.
    """
    return ResNetConfig(
        num_classes=num_classes,
        widths=(64, 128, 256, 512),
        stem_width=64,
        stem_stride=1,
        first_stride=1,
        num_blocks=2,
        norm=norm,
    )


def _convolution(in_width: int, out_width: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_width, out_width, size, stride, size // 2, bias=False)


def _norm(norm: Norm, width: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(width)
    groups = max(1, width // _CHANNELS_PER_GROUP)
    while width % groups:
        groups -= 1
    return nn.GroupNorm(groups, width)
