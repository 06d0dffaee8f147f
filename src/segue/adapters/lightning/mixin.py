"""The module's half of smoothing under Lightning."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule
from torch import Tensor

from segue.adapters.lightning.blend import Blender, log_blend, over_ranks
from segue.losses import LossSum
from segue.smoothing import Smoothing

__all__ = ["SmoothingMixin", "SourceHolder"]

if TYPE_CHECKING:
    _Base = LightningModule
else:
    _Base = object


class SourceHolder(Callback, abc.ABC):
    """What the mixin asks of the callback."""

    @property
    @abc.abstractmethod
    def smoothing(self) -> Smoothing:
        """The clock and the blend."""

    @property
    @abc.abstractmethod
    def blender(self) -> Blender:
        """What makes the loss of a training step."""

    @abc.abstractmethod
    def next_source_batch(self, module: LightningModule) -> Any:
        """The next part of the source batch, on the module's device."""

    @abc.abstractmethod
    def source_loss(self, module: LightningModule, loss: Callable[[Any], Any] | None) -> Any:
        """The loss of the next source batch, or the source term's."""


class SmoothingMixin(_Base):
    """Makes a ``LightningModule`` train on the blend of its own loss and a source loss.

    Put it before the module: ``class Smoothed(SmoothingMixin, MyModule): pass``. The module's
    ``training_step`` is the target; ``source_step`` is what it does with a source batch, by default
    the same. Both may return a tensor (a mean), a :class:`segue.LossSum`, or a dict with either as
    ``"loss"``.

    With manual optimization ``training_step`` stays as it is, and calls :meth:`mix`.
    """

    _is_muted = False

    def target_step(self, batch: Any, batch_idx: int) -> Any:
        """The target loss of a batch; the module's own ``training_step``."""
        step: Any = super().training_step
        with_index = len(inspect.signature(step).parameters) > 1
        return step(batch, batch_idx) if with_index else step(batch)

    def source_step(self, batch: Any) -> Any:
        """The source loss of a source batch; by default that of the target, without its logging."""
        self._is_muted = True
        try:
            return self.target_step(batch, 0)
        finally:
            self._is_muted = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Blend both losses in training; elsewhere (validation calling it) the target alone."""
        if self._trainer is None or not self.automatic_optimization or not self.trainer.training:
            return self.target_step(batch, batch_idx)
        return self._smoothing_callback().blender.training_step(batch, batch_idx)

    def mix(
        self,
        *,
        source: Callable[[Any], Tensor | LossSum] | None,
        target: Callable[[], Tensor | LossSum],
        log: bool = True,
    ) -> Tensor:
        """The blended loss, for manual optimization; call ``manual_backward`` on it.

        Args:
            source: Loss of a source batch; None if the source is a term. Not called where λ is 0.
            target: Loss of the target.
            log: Whether to log this blend: at most one a step, if you call it several times.
        """
        callback = self._smoothing_callback()
        loss = callback.smoothing.mix(
            source=lambda: callback.source_loss(self, source),
            target=lambda: over_ranks(self.trainer, target()),
        )
        if log:
            log_blend(self, callback.smoothing, loss)
        return loss

    def next_source_batch(self) -> Any:
        """The next source batch, where :meth:`mix` is not enough; never draw one where λ is 0."""
        return self._smoothing_callback().next_source_batch(self)

    @property
    def smoothing(self) -> Smoothing:
        """The clock and the blend of the running training."""
        return self._smoothing_callback().smoothing

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Log as any module does, but not what a target step would log of a source batch."""
        if not self._is_muted:
            super().log(*args, **kwargs)

    def _smoothing_callback(self) -> SourceHolder:
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SourceHolder):
                return callback
        raise RuntimeError(
            "a module with the SmoothingMixin needs a SmoothingCallback among the trainer's "
            "callbacks"
        )
