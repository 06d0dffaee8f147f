"""One optimizer step's worth of losses under Lightning's gradient accumulation.

Lightning hands over one micro-batch at a time and divides each loss by the number of micro-batches,
so nobody knows, when the first one is differentiated, how many items the whole step will hold. Two
devices make the step exact all the same:

* The target's gradient is accumulated with a provisional divisor and rescaled once, at the last
  micro-batch, when the count is known. (A target that returns a mean instead of a sum is left to
  Lightning's division.)
* The source takes its turn at the last micro-batch, in slices as small as accumulation calls for.
  The gradients of all slices but the last are computed at once and enter the graph as one node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segue.losses import LossSum

__all__ = ["SourceSum", "TargetWindow", "count_tensor"]

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all ranks."""


def count_tensor(count: int | Tensor, device: torch.device) -> Tensor:
    """A count as a 0-d floating tensor, exact for every count there is."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.as_tensor(count, device=device).detach().reshape(()).to(dtype)


class TargetWindow:
    """The target's micro-batches since the last optimizer step, on this rank."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin a new optimizer step."""
        self._total: Tensor | None = None
        self._count: Tensor | None = None
        self._divisor: Tensor | None = None
        self._num_means = 0

    @property
    def holds_sums(self) -> bool:
        """True once a sum was taken for the coming optimizer step."""
        return self._count is not None

    def add_mean(self, loss: Tensor, num_micro_batches: int, *, is_last: bool, kept: bool) -> Any:
        """Take a mean; return the term, whose gradient Lightning's division makes a share of one.

        At the last micro-batch that division is taken back afterwards, for the source's sake: the
        term's gradient is then divided here, and its value is the mean of the window.
        """
        if kept:
            self._num_means += 1
            value = loss.detach()
            self._total = value if self._total is None else self._total + value
        if not is_last:
            return loss
        assert self._total is not None or not kept
        mean = loss.detach() if self._total is None else self._total / self._num_means
        return _with_value(loss / num_micro_batches, mean)

    def add_sum(
        self,
        loss: LossSum,
        num_micro_batches: int,
        *,
        is_last: bool,
        kept: bool,
        reduce: Reduce,
        world_size: int,
        parameters: Iterable[nn.Parameter],
    ) -> LossSum:
        """Take a sum; at the last micro-batch rescale what has been accumulated in ``.grad``."""
        total, device = loss.total.reshape(()), loss.total.device
        count = count_tensor(loss.count, device)
        if not kept:
            count = torch.zeros_like(count)
        first = self._count is None
        self._count = count if self._count is None else self._count + count
        if kept:
            value = total.detach()
            self._total = value if self._total is None else self._total + value
        if self._divisor is None:
            self._divisor = count.clamp(min=1.0) * num_micro_batches
        if not is_last:
            return LossSum(total, loss.count, self._divisor)
        everywhere = reduce(self._count.clone())
        share = everywhere.clamp(min=1.0) / world_size
        if not first:
            factor = self._divisor / share
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor.to(parameter.grad.dtype))
        divisor = share.to(total.dtype)
        value = (total.detach() if self._total is None else self._total) / divisor
        return LossSum(_with_value(total / divisor, value), everywhere, 1.0)


class SourceSum:
    """Adds up the losses of the source's slices, holding the graph of the last one only.

    Args:
        parameters: What the source's gradient is taken with respect to.
        scale: Multiplies a loss before it is differentiated, as the gradient scaler would.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], scale: float | Tensor = 1.0) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        self._scale = scale
        self._gradients: list[Tensor | None] = [None] * len(self._parameters)
        self._total: Tensor | None = None
        self._count: Tensor | None = None

    def add(self, total: Tensor, count: int | Tensor, *, is_last: bool) -> None:
        """Take the next slice."""
        total = total.reshape(())
        number = count_tensor(count, total.device)
        self._count = number if self._count is None else self._count + number
        if is_last:
            self._total = total if self._total is None else total + self._as_node(self._total)
            return
        self._differentiate(total)
        self._total = total.detach() if self._total is None else self._total + total.detach()

    def result(self) -> tuple[Tensor, Tensor]:
        """Return the sum, with its gradient, and the count."""
        assert self._total is not None
        assert self._count is not None
        return self._total, self._count

    def _differentiate(self, total: Tensor) -> None:
        if not total.requires_grad:
            return
        with torch.autocast(total.device.type, enabled=False):
            found = torch.autograd.grad(
                total * self._scale, self._parameters, allow_unused=True, materialize_grads=False
            )
        for index, gradient in enumerate(found):
            if gradient is None:
                continue
            gradient = gradient / self._scale
            held = self._gradients[index]
            self._gradients[index] = gradient if held is None else held.add_(gradient)

    def _as_node(self, value: Tensor) -> Tensor:
        pairs = [
            (parameter, gradient)
            for parameter, gradient in zip(self._parameters, self._gradients, strict=True)
            if gradient is not None
        ]
        self._gradients = []
        if not pairs:
            return value
        parameters, gradients = zip(*pairs, strict=True)
        node: Tensor = _Differentiated.apply(value, gradients, *parameters)  # type: ignore[no-untyped-call]
        return node


class _Differentiated(torch.autograd.Function):
    """A number whose gradient is known already.

    It joins the one backward pass, so that whatever listens to that (DDP, a gradient scaler) sees a
    gradient like any other.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, gradients: tuple[Tensor, ...], *parameters: Tensor
    ) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> Any:
        gradients = ctx.gradients
        del ctx.gradients
        return None, None, *(g.mul_(weight.to(g.dtype)) for g in gradients)


def _with_value(graph: Tensor, value: Tensor) -> Tensor:
    """The gradient of ``graph``, the value of ``value``."""
    return value + (graph - graph.detach())
