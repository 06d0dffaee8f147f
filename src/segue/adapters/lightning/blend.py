"""From a target step and a source step to the loss that Lightning differentiates."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from segue.adapters.lightning.source import HeldSource
from segue.adapters.lightning.window import SourceSum, TargetWindow
from segue.losses import LossSum, finite_everywhere
from segue.smoothing import Smoothing

__all__ = ["BLENDED", "Blender", "Stepping", "log_blend", "over_ranks"]

_PREFIX = "segue/"
BLENDED = f"{_PREFIX}blended_loss"


class Stepping(Protocol):
    """What a module does with a target batch and with a source batch."""

    def target_step(self, batch: Any, batch_idx: int) -> Any:
        """The target loss."""
        ...

    def source_step(self, batch: Any) -> Any:
        """The source loss."""
        ...


class Blender:
    """Blends the losses of a training with automatic optimization.

    Args:
        smoothing: The clock and the formula.
        held: The source.
        module: The module under training, attached to its trainer.
        steps: The same module, for what it does with batches.
    """

    def __init__(
        self, smoothing: Smoothing, held: HeldSource, module: LightningModule, steps: Stepping
    ) -> None:
        self._smoothing, self._held = smoothing, held
        self._module, self._steps = module, steps
        self._window = TargetWindow()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return what the target step returned, with the blended loss in its place."""
        trainer, smoothing = self._module.trainer, self._smoothing
        number = trainer.accumulate_grad_batches
        if batch_idx % number == 0:
            self._window.reset()
        is_last = (
            (batch_idx + 1) % number == 0
            or trainer.is_last_batch
            or batch_idx + 1 == trainer.num_training_batches
        )
        outputs: list[Any] = []

        def target() -> Any:
            outputs.append(self._steps.target_step(batch, batch_idx))
            return self._target_term(_loss_of(outputs[0]), number, is_last)

        smoothed = smoothing.source_weight > 0.0
        if smoothed and is_last:
            loss = smoothing.mix(source=lambda: self._source_term(number), target=target)
        else:
            term = target()
            if term is None:
                self._check_may_be_left_out(smoothed)
                return None
            loss = smoothing.mix(source=lambda: _nothing_like(term), target=lambda: term)
        if is_last:
            log_blend(self._module, smoothing, loss)
        is_sum = isinstance(_loss_of(outputs[0]), LossSum)
        if number > 1 and (is_sum or (smoothed and is_last)):
            loss = loss * number  # Lightning divides by it
        return {**outputs[0], "loss": loss} if isinstance(outputs[0], Mapping) else loss

    def _target_term(self, loss: Any, number: int, is_last: bool) -> Any:
        trainer, smoothed = self._module.trainer, self._smoothing.source_weight > 0.0
        if isinstance(loss, LossSum):
            _check_no_normalizer(loss)
            if number == 1 and trainer.world_size == 1:
                return loss
            return self._window.add_sum(
                loss,
                number,
                is_last=is_last,
                kept=number == 1 or not smoothed or self._is_kept(loss.total),
                reduce=lambda tensor: _sum_over_ranks(trainer, tensor),
                world_size=trainer.world_size,
                parameters=self._module.parameters(),
            )
        if number == 1 or not smoothed or not isinstance(loss, Tensor):
            return loss
        kept = self._is_kept(loss)
        return self._window.add_mean(loss, number, is_last=is_last, kept=kept)

    def _is_kept(self, loss: Tensor) -> bool:
        """False for a micro-batch that will be skipped, whose items must then not count."""
        return self._smoothing.non_finite != "skip" or finite_everywhere(loss, None)

    def _source_term(self, number: int) -> Tensor | LossSum:
        module = self._module
        sizes = self._held.slice_sizes(number)
        summed = SourceSum(list(module.parameters()), _gradient_scale(module))
        kinds = set()
        for index, size in enumerate(sizes):
            loss = _loss_of(
                self._held.loss(size, lambda batch: self._steps.source_step(moved(module, batch)))
            )
            kinds.add(isinstance(loss, LossSum))
            if len(kinds) > 1:
                raise TypeError("source_step must always return a tensor, or always a LossSum")
            if isinstance(loss, LossSum):
                _check_no_normalizer(loss)
            elif len(sizes) == 1 or not isinstance(loss, Tensor):
                return loss  # type: ignore[no-any-return]
            else:
                loss = LossSum(loss * size, size)
            summed.add(loss.total, loss.count, is_last=index == len(sizes) - 1)
        total, count = summed.result()
        if not kinds.pop():
            return total / sum(sizes)
        everywhere = _sum_over_ranks(module.trainer, count)
        if self._smoothing.non_finite != "ignore" and not everywhere.item():
            warnings.warn(
                f"the source batch holds nothing to predict at step {self._smoothing.num_steps} "
                f"with source weight {self._smoothing.source_weight}: its loss is 0, its count 0",
                RuntimeWarning,
                stacklevel=2,
            )
        return LossSum(total, everywhere, everywhere / module.trainer.world_size)

    def _check_may_be_left_out(self, smoothed: bool) -> None:
        """Lightning leaves out a batch whose step returns None; the plain trainer's freedom."""
        if smoothed or self._window.holds_sums:
            raise ValueError(
                "the target step must return a loss during the ramp, and where sums are "
                "accumulated, got None; to leave a batch out return segue.LossSum(0 * loss, 0)"
            )


def moved(module: LightningModule, batch: Any) -> Any:
    """A source batch on the module's device, in the trainer's precision."""
    on_device = module.transfer_batch_to_device(batch, module.device, 0)
    return module.trainer.precision_plugin.convert_input(on_device)


def over_ranks(trainer: Trainer, loss: Any) -> Any:
    """Give a sum without a normalizer that of all ranks, whose gradients DDP averages."""
    if not isinstance(loss, LossSum) or loss.normalizer is not None or trainer.world_size == 1:
        return loss
    count = torch.as_tensor(loss.count, dtype=torch.float64, device=loss.total.device)
    everywhere = _sum_over_ranks(trainer, count.detach().clone())
    return LossSum(loss.total, everywhere, everywhere / trainer.world_size)


def log_blend(module: LightningModule, smoothing: Smoothing, loss: Tensor) -> None:
    """Log λ, the losses and the counts of the last blend; the raw target loss in the bar.

    A call of Lightning's ``log`` takes about half a millisecond, so all of them are made at the
    trainer's logging steps and at the end of an epoch only; λ and the raw target loss at every step
    of the ramp.
    """
    trainer = module.trainer
    if trainer.barebones:
        return
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    step = trainer.global_step if module.automatic_optimization else smoothing.num_steps
    values = {**smoothing.log(), "blended_loss": loss.detach()}
    if not (trainer.is_last_batch or (every > 0 and (step + 1) % every == 0)):
        if smoothing.source_weight == 0.0:
            return
        values = {name: values[name] for name in ("source_weight", "target_loss")}
    for name, value in values.items():
        if isinstance(value, Tensor):
            value = value.float()
        module.log(
            f"{_PREFIX}{name}", value, prog_bar=name == "target_loss", on_step=True, batch_size=1
        )


def _gradient_scale(module: LightningModule) -> float | Tensor:
    scaler = getattr(module.trainer.precision_plugin, "scaler", None)
    if scaler is None:
        return 1.0
    scale: Tensor = scaler.scale(torch.ones((), device=module.device))
    return scale


def _sum_over_ranks(trainer: Trainer, value: Tensor) -> Tensor:
    if trainer.world_size == 1:
        return value
    summed: Tensor = trainer.strategy.reduce(value.clone(), reduce_op="sum")
    return summed


def _loss_of(output: Any) -> Any:
    if not isinstance(output, Mapping):
        return output
    if "loss" not in output:
        raise ValueError(f"a step that returns a dict must have the key 'loss', got {list(output)}")
    return output["loss"]


def _check_no_normalizer(loss: LossSum) -> None:
    if loss.normalizer is not None:
        raise ValueError(
            "normalizer must be None: the adapter counts over all micro-batches and ranks, "
            f"got {loss.normalizer!r}"
        )


def _nothing_like(term: Any) -> Tensor:
    return torch.zeros_like(term.total if isinstance(term, LossSum) else term)
