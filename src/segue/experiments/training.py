"""What the training loops of several families share: learning rate, curves, the time of a pass."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Curves", "learning_rate", "seconds_per_pass"]


def learning_rate(peak: float, step: int, num_steps: int, num_warmup_steps: int) -> float:
    """Half a cosine from ``peak`` to 0, under a linear rise over the first ``num_warmup_steps``.

    >>> [round(learning_rate(1.0, t, 4, 2), 4) for t in range(4)]
    [0.5, 0.8536, 0.5, 0.1464]
    """
    cosine = 0.5 * (1.0 + math.cos(math.pi * step / num_steps))
    return peak * cosine * min(1.0, (step + 1) / num_warmup_steps if num_warmup_steps else 1.0)


def seconds_per_pass(loss: Callable[[], Tensor], *, num_passes: int = 4) -> float:
    """Measure one core's time for a forward and backward pass: the least of ``num_passes``."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = []
        for _ in range(num_passes):
            started = time.process_time()
            loss().backward()  # type: ignore[no-untyped-call]
            seconds.append(time.process_time() - started)
    finally:
        torch.set_num_threads(num_threads)
    return min(seconds)  # the first pass also sets things up


class Curves:
    """Points of named curves over optimizer or environment steps; in checkpoints as in records."""

    def __init__(self) -> None:
        self.points: dict[str, dict[str, list[Any]]] = {}

    def add(self, name: str, step: int, value: float) -> None:
        """Append a point."""
        curve = self.points.setdefault(name, {"step": [], "value": []})
        curve["step"].append(step)
        curve["value"].append(value)
