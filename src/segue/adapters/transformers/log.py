"""What happened since the trainer last logged, added up on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["LossLog"]

_SOURCE = ("source_loss", "weighted_source_loss")
_TARGET = ("target_loss", "weighted_target_loss")
_COUNTS = ("source_count", "target_count")


class LossLog:
    """Adds up shares of losses; :meth:`drain` makes means over optimizer steps of them.

    A share is what a micro-batch of a rank contributes to a step's loss: the sum of the source's
    shares over micro-batches and ranks is the step's source loss, the *mean over ranks* of the sums
    of the target's shares is its target loss, as the trainer defines it.
    """

    def __init__(self) -> None:
        self.source_weight = 0.0
        self._sums: dict[str, Tensor] = {}
        self._num_steps = 0

    def begin_step(self, source_weight: float) -> None:
        """Note λ of the coming step."""
        self.source_weight = source_weight
        if source_weight > 0.0:
            self._num_steps += 1

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add a micro-batch's shares, or a step's counts."""
        for name, value in values.items():
            value = value.detach().to(
                torch.float32 if value.device.type == "mps" else torch.float64
            )
            held = self._sums.get(name)
            self._sums[name] = value if held is None else held + value

    def drain(self, sum_over_ranks: Callable[[Tensor], Tensor], num_ranks: int) -> dict[str, float]:
        """Return the means (of losses) and sums (of counts) since the last time, and start over."""
        log = {"source_weight": self.source_weight}
        names = [name for name in (*_SOURCE, *_TARGET) if name in self._sums]
        if names and self._num_steps:
            sums = sum_over_ranks(torch.stack([self._sums[name] for name in names])).tolist()
            for name, value in zip(names, sums, strict=True):
                ranks = num_ranks if name in _TARGET else 1
                log[name] = value / ranks / self._num_steps
        for name in _COUNTS:
            if name in self._sums:
                log[name] = self._sums[name].item()
        self._sums, self._num_steps = {}, 0
        return log

    def state_dict(self) -> dict[str, Any]:
        """What has been added up on this rank."""
        return {
            "source_weight": self.source_weight,
            "num_steps": self._num_steps,
            "sums": dict(self._sums),
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on adding up."""
        self.source_weight = float(state["source_weight"])
        self._num_steps = int(state["num_steps"])
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
