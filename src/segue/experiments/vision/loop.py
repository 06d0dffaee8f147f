"""Parts of the training loops: optimizer, learning rate, evaluation, curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.experiments.training import seconds_per_pass
from segue.experiments.vision.config import OptimizerConfig
from segue.experiments.vision.models import Network
from segue.experiments.vision.task import Examples

__all__ = [
    "Evaluation",
    "average_weights",
    "build_optimizer",
    "evaluate",
    "evaluation_steps",
    "get_random_states",
    "predict",
    "seconds_per_example",
    "set_random_states",
]

_EVALUATION_BATCH = 128


class Evaluation:
    """Accuracy in [0, 1], mean cross-entropy, and the confusion of one data set.

    Attributes:
        confusion: Counts, shape (classes, classes); rows are the true classes.
    """

    def __init__(self, logits: Tensor, labels: Tensor) -> None:
        predicted, num_classes = logits.argmax(dim=1), logits.shape[1]
        self.accuracy = float((predicted == labels).double().mean())
        self.loss = float(F.cross_entropy(logits, labels))
        pairs = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
        self.confusion = pairs.view(num_classes, num_classes)


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.SGD:
    """Return SGD with momentum over all parameters of ``model``."""
    return torch.optim.SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=config.weight_decay,
    )


@torch.no_grad()
def predict(
    model: Network,
    examples: Examples,
    device: str,
    forward: Callable[[Tensor], Tensor] | None = None,
    limit: int | None = None,
) -> Tensor:
    """Return logits of the first ``limit`` examples, on the CPU, in evaluation mode.

    Args:
        model: Left in the modes it was in.
        examples: What to predict.
        device: Where the model is.
        forward: From inputs to logits; the domain head by default.
        limit: None predicts all.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    count = len(examples) if limit is None else min(limit, len(examples))
    parts = [
        (forward or model)(examples.inputs(torch.arange(start, stop), device)).cpu()
        for start, stop in (
            (first, min(first + _EVALUATION_BATCH, count))
            for first in range(0, count, _EVALUATION_BATCH)
        )
    ]
    for module, training in modes:
        module.training = training
    return torch.cat(parts)


def evaluate(
    model: Network,
    examples: Examples,
    device: str,
    forward: Callable[[Tensor], Tensor] | None = None,
    limit: int | None = None,
) -> Evaluation:
    """Evaluate the first ``limit`` examples; arguments as in :func:`predict`."""
    logits = predict(model, examples, device, forward, limit)
    return Evaluation(logits, examples.labels[: len(logits)])


def evaluation_steps(num_steps: int) -> list[int]:
    """Steps at which curves have a point: dense after the switch, where the fall is, then sparse.

    >>> evaluation_steps(100)
    [0, 1, 3, 10, 25, 50, 100]
    """
    late = [round(num_steps * quarter / 4) for quarter in (1, 2, 4)]
    return sorted({step for step in (0, 1, 3, 10, *late) if step <= num_steps})


def average_weights(model: nn.Module, other: Mapping[str, Tensor], share: float) -> None:
    """Move the weights and statistics of ``model`` to ``share`` of theirs and the rest ``other``'s.

    Source: WiSE-FT, Wortsman et al., arXiv 2109.01903.
    """
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.lerp(other[name].to(value.device), value, share))


def get_random_states(device: str) -> dict[str, Tensor]:
    """States of the generators that dropout draws from: the CPU's, and the GPU's if that is used."""
    states = {"cpu": torch.get_rng_state()}
    if torch.device(device).type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states: Mapping[str, Tensor], device: str) -> None:
    """Restore what :func:`get_random_states` gave."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def seconds_per_example(model: Network, inputs: Tensor) -> float:
    """Measure one core's time for the forward and backward pass of an example."""
    return seconds_per_pass(lambda: model(inputs).sum(), num_passes=3) / len(inputs)
