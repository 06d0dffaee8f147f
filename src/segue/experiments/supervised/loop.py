"""Parts of the training loops: learning rate, what is trainable when, evaluation, curves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.experiments.supervised.config import OptimizerConfig
from segue.experiments.training import seconds_per_pass

__all__ = [
    "build_optimizer",
    "drop_frozen_gradients",
    "evaluate",
    "evaluation_steps",
    "seconds_per_example",
    "sharpness_aware",
]

_EVALUATION_BATCH = 500


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that ``config`` names, over all parameters of ``model``."""
    rate, decay = config.learning_rate, config.weight_decay
    if config.name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    return torch.optim.SGD(
        model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=decay
    )


def drop_frozen_gradients(
    model: nn.Module, step: int, num_head_first_steps: int, num_unfreezing_steps: int
) -> None:
    """Drop the gradients of what a method keeps frozen at ``step``; call it after the backward pass.

    The optimizer passes over a parameter without gradient. (Switching ``requires_grad`` off instead
    would save time, but with channels-last convolutions it ended the process now and then.)
    """
    if step >= max(num_head_first_steps, num_unfreezing_steps):
        return
    groups = _groups_from_the_head(model)
    num_open = 1
    if step >= num_head_first_steps:
        num_open += step * len(groups) // num_unfreezing_steps
    for group in groups[num_open:]:
        for parameter in group:
            parameter.grad = None


def _groups_from_the_head(model: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of the model's children, last child first; a Sequential counts by its parts."""
    groups: list[list[nn.Parameter]] = []
    for child in model.children():
        parts = list(child.children()) if isinstance(child, nn.Sequential) else [child]
        groups.extend(list(part.parameters()) for part in parts)
    return [group for group in reversed(groups) if group]


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return accuracy in [0, 1] and mean cross-entropy, in evaluation mode.

    Args:
        model: Left in the mode it was in.
        images: Shape (N, channels, height, width), normalised.
        labels: Shape (N,).
    """
    training = model.training
    model.eval()
    num_correct, loss = 0, 0.0
    for start in range(0, len(labels), _EVALUATION_BATCH):
        batch, truth = (x[start : start + _EVALUATION_BATCH] for x in (images, labels))
        logits = model(batch)
        num_correct += int((logits.argmax(dim=1) == truth).sum().item())
        loss += float(F.cross_entropy(logits, truth, reduction="sum").item())
    model.train(training)
    return num_correct / len(labels), loss / len(labels)


def evaluation_steps(num_steps: int) -> list[int]:
    """Steps at which curves have a point: dense after the switch, where the fall is, then sparse.

    >>> evaluation_steps(300)
    [0, 1, 3, 10, 30, 38, 60, 75, 100, 150, 225, 300]
    """
    early = [0, 1, 3, 10, 30, 60, 100]
    late = [round(num_steps * quarter / 4) for quarter in (2, 3, 4)]
    late += [round(num_steps / 4), round(num_steps / 8)]
    return sorted({step for step in early + late if step <= num_steps})


def seconds_per_example(model: nn.Module, image_shape: tuple[int, int, int]) -> float:
    """Measure one core's time for the forward and backward pass of an example, on random images."""
    size = 32
    images = torch.rand(size, *image_shape, generator=torch.Generator().manual_seed(0))
    return seconds_per_pass(lambda: model(images).sum()) / size


@contextmanager
def sharpness_aware(model: nn.Module, radius: float) -> Iterator[None]:
    """Hold while the second gradient of SAM is taken: weights moved along the first, then back.

    Source: Foret et al., arXiv 2010.01412, equation 2.
    """
    moved: list[tuple[nn.Parameter, Tensor]] = []
    with torch.no_grad():
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        for parameter in model.parameters():
            if parameter.grad is not None:
                moved.append((parameter, parameter.detach().clone()))
                parameter.add_(parameter.grad * (radius / (norm + 1e-12)))
                parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, weights in moved:
                parameter.copy_(weights)
