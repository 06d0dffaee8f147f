"""One optimizer step under Accelerate: its micro-batches, and the backward passes of both losses."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from segue.losses import LossSum

if TYPE_CHECKING:
    from segue.adapters.accelerate.smoothing import AcceleratedSmoothing

__all__ = ["BatchLoss", "Window"]

BatchLoss = Callable[[Any], "Tensor | LossSum"]
"""The loss of one batch: a :class:`segue.LossSum`, or the mean over what the count counts."""


class Window:
    """The micro-batches of one optimizer step, on this process.

    Attributes:
        batches: This process's target micro-batches.
        target_count: Items in the target batches of all processes.
    """

    def __init__(
        self,
        smoothing: AcceleratedSmoothing,
        batches: Sequence[Any],
        counts: Sequence[int],
        target_count: int,
    ) -> None:
        self.batches, self.target_count = tuple(batches), target_count
        self._counts, self._owner = counts, smoothing

    def backward(self, *, source: BatchLoss, target: BatchLoss) -> None:
        """Accumulate the gradient of the blended loss; then call ``optimizer.step()``.

        Args:
            source: Loss of a source batch; not called where λ is 0. A :class:`segue.LossSum`, or
                the mean over the items that ``source_count`` counts.
            target: Loss of a target batch, likewise.

        Raises:
            NonFiniteLossError: During the ramp, with ``non_finite="raise"``, on every process.
            ValueError: If a loss sums over another number of items than its count function says.
        """
        owner = self._owner
        drawn = self._draw() if owner.smoothing.source_weight > 0.0 else []
        counts = [int(owner._count["source"](batch)) for batch in drawn]
        total = sum(row[0] for row in owner._gather([sum(counts)])) if drawn else 0
        if drawn and total == 0:
            warnings.warn(
                f"no item of the source batch counts at step {owner.smoothing.num_steps} with source "
                f"weight {owner.source_weight}; its term is 0",
                RuntimeWarning,
                stacklevel=2,
            )
        self._forget_log(total)
        for number, batch in enumerate(self.batches):
            losses = {
                "target": functools.partial(
                    self._term, "target", target, batch, self._counts[number], self.target_count
                ),
                "source": functools.partial(
                    self._term,
                    "source",
                    source,
                    drawn[number] if drawn else None,
                    counts[number] if drawn else 0,
                    total,
                ),
            }
            is_last = number == len(self.batches) - 1
            with contextlib.nullcontext() if is_last else _without_exchange(owner.model):
                self._backward(losses)
            self._note()
        owner._counts_are_checked = True

    def _backward(self, losses: dict[str, Any]) -> None:
        smoothing, scaler = self._owner.smoothing, self._owner.accelerator.scaler
        if self._owner.mode == "backward":
            smoothing.backward(**losses, scaler=scaler)
            return
        loss = smoothing.mix(**losses)
        (loss if scaler is None else scaler.scale(loss)).backward()

    def _draw(self) -> list[Any]:
        """Split this process's share of the global source batch over the micro-batches."""
        replay, number = self._owner.replay, len(self.batches)
        share = replay.batch_size // replay.world_size
        # A short last window has the same source batch as any other, in fewer and larger parts.
        sizes = [(share * (i + 1)) // number - (share * i) // number for i in range(number)]
        device = self._owner.accelerator.device
        return [send_to_device(replay.take(size), device) for size in sizes]

    def _term(self, side: str, loss: BatchLoss, batch: Any, count: int, total: int) -> LossSum:
        value = loss(batch)
        if isinstance(value, LossSum):
            if not self._owner._counts_are_checked and int(value.count) != count:
                raise ValueError(
                    f"{side}_count must count what the {side} loss sums over ({int(value.count)}), "
                    f"got {count}"
                )
            summed = value.total
        else:
            # The mean over no item is NaN, and stands for a sum of nothing.
            summed = value * count if count else (value * 0.0).nan_to_num()
        # The exchange of gradients takes the mean over the processes; this makes a sum of it.
        return LossSum(summed, count, total / self._owner.accelerator.num_processes)

    def _forget_log(self, source_count: int) -> None:
        smoothing = self._owner.smoothing
        log: dict[str, Any] = {"source_weight": smoothing.source_weight}
        if smoothing.source_weight > 0.0:
            log["source_count"] = source_count
        self._owner._log = {**log, "target_count": self.target_count}

    def _note(self) -> None:
        log = self._owner._log
        for name, value in self._owner.smoothing.log().items():
            if name.endswith("_loss"):
                log[name] = log[name] + value if name in log else value


@contextlib.contextmanager
def _without_exchange(model: nn.Module) -> Iterator[None]:
    """Keep gradients on their process for now: with DDP, and with FSDP2 also if applied by hand."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)
    else:
        pause: Any = getattr(model, "no_sync", contextlib.nullcontext)
        with pause():
            yield
