"""What a loss callable may return, and how it becomes one scalar term of the objective."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["LossCallable", "LossSum", "NonFiniteLossError", "Term", "evaluate", "finite_everywhere"]

Side = Literal["source", "target"]


@dataclass(frozen=True, slots=True)
class LossSum:
    """A summed loss with its count, for means that are exact under accumulation.

    The loss is ``total / normalizer``. With gradient accumulation pass the count of the whole
    window as ``normalizer`` for every micro-batch: then the accumulated gradient is that of the full
    batch, however the tokens are spread over the micro-batches. Each source has its own.

    Attributes:
        total: Scalar sum of the per-example (or per-token) losses.
        count: How many were summed. 0 (every label masked) makes the term 0.
        normalizer: What to divide by; ``count`` if None.
    """

    total: Tensor
    count: int | Tensor
    normalizer: float | Tensor | None = None


LossCallable = Callable[[], "Tensor | LossSum"]
"""A loss as a function of no argument: a scalar tensor, or a :class:`LossSum`."""


class NonFiniteLossError(RuntimeError):
    """A loss was NaN or infinite during the ramp.

    Attributes:
        side: ``"source"`` or ``"target"``.
        num_steps: Optimizer step at which it happened.
        source_weight: λ at that step.
    """

    def __init__(self, side: Side, value: float, num_steps: int, source_weight: float) -> None:
        self.side = side
        self.num_steps = num_steps
        self.source_weight = source_weight
        self._value = value
        found = f"{value}" if not math.isfinite(value) else "not finite on another rank"
        super().__init__(
            f"the {side} loss is {found} at step {num_steps} with source weight {source_weight}; "
            "if every label of the batch can be masked, return segue.LossSum(total, count)"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments, so that the error crosses from a worker process."""
        return type(self), (self.side, self._value, self.num_steps, self.source_weight)


@dataclass(frozen=True, slots=True)
class Term:
    """One evaluated loss: a scalar with gradient, and its count where it is known."""

    loss: Tensor
    count: int | Tensor | None = None


def evaluate(loss: LossCallable, side: Side) -> Term:
    """Evaluate a loss callable and check that it gives a scalar tensor.

    Raises:
        TypeError: If ``loss`` is not callable or does not give a tensor or :class:`LossSum`.
        ValueError: If the tensor is not a scalar.
    """
    if not callable(loss):
        raise TypeError(
            f"{side} must be a function of no argument that returns a loss, "
            f"got {type(loss).__name__}; write {side}=lambda: ..."
        )
    value = loss()
    if isinstance(value, LossSum):
        total = _check_scalar(value.total, side)
        normalizer = value.count if value.normalizer is None else value.normalizer
        if isinstance(normalizer, Tensor):
            # A count of 0 comes with a total of 0; dividing by 1 then needs no device sync.
            divisor = normalizer.detach().reshape(()).to(total.dtype)
            return Term(total / divisor.where(divisor != 0, 1.0), value.count)
        return Term(total / (normalizer if normalizer else 1.0), value.count)
    return Term(_check_scalar(value, side))


def _check_scalar(value: object, side: Side) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"the {side} loss must be a scalar tensor or a segue.LossSum, "
            f"got {type(value).__name__}"
        )
    if value.numel() != 1:
        raise ValueError(
            f"the {side} loss must be a scalar, got shape {tuple(value.shape)}; "
            "take its mean, or return segue.LossSum(total, count)"
        )
    return value.reshape(())


def finite_everywhere(loss: Tensor, group: dist.ProcessGroup | None) -> bool:
    """Return whether ``loss`` is finite on this rank and on every other.

    The flag is reduced before any backward pass, so that no rank waits in one for another.
    """
    finite = torch.isfinite(loss.detach()).to(torch.int32)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1:
        dist.all_reduce(finite, op=dist.ReduceOp.MIN, group=group)
    return bool(finite.item())
