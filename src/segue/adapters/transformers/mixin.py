"""What a smoothed trainer does differently from the class it is made from."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor
from transformers import Trainer

from segue.adapters.transformers.easing import Easing, MicroBatch
from segue.adapters.transformers.follower import Follower
from segue.adapters.transformers.host import check_parallelism, describe_host, make_source_loss
from segue.adapters.transformers.settings import Mode, Settings
from segue.adapters.transformers.source import Source
from segue.losses import LossSum
from segue.schedules import Schedule
from segue.smoothing import NonFinitePolicy, Smoothing
from segue.sources.replay import Replay

if TYPE_CHECKING:
    _Trainer = Trainer
else:
    _Trainer = object

__all__ = ["SmoothedTrainerMixin", "smooth"]

TrainerT = TypeVar("TrainerT", bound=Trainer)


def smooth(trainer_class: type[TrainerT]) -> type[TrainerT]:
    """Return ``trainer_class`` with loss smoothing.

    The new class is a subclass: same arguments, same loop, same loss, same files. It takes these
    keyword arguments as well:

    * ``source``: the dataset that the model was trained on before, or a
      :class:`segue.adapters.transformers.Source` that says how to collate, mask and score it.
    * ``num_smoothing_steps``: an ``int`` is a number of optimizer steps, a ``float`` in (0, 1) a share
      of training, rounded up. 0 never smooths.
    * ``schedule``: a decay such as ``segue.cosine_decay`` to use with ``num_smoothing_steps`` (linear
      if not given), or, without ``num_smoothing_steps``, a schedule of its own length.
    * ``mode``: ``"mix"`` (two forwards, one backward) or ``"backward"`` (two backwards, one after the
      other: least memory). Both give the same gradient.
    * ``num_bank_examples``: how many source examples are kept (256); None keeps them all.
    * ``source_batch_size``: source examples per *optimizer step*, over all ranks and micro-batches.
      By default as many as there are target examples, or as the bank holds.
    * ``non_finite``: what to do about a NaN or infinite loss during the ramp, as in
      :class:`segue.Smoothing`; here ``"skip"``, which names the loss in a warning and takes the step
      without it.

    Only applied optimizer steps count. Evaluation sees the target loss alone. The source loss is one
    mean over the items of an optimizer step, on all ranks and in all its micro-batches, whatever the
    trainer divides by. The state goes into the trainer's checkpoints (``segue_state.safetensors``).

    Args:
        trainer_class: :class:`transformers.Trainer` or a subclass of it, such as TRL's.

    Raises:
        TypeError: If it is something else.

    Source: arXiv 2607.00634.

    >>> from transformers import Trainer
    >>> smooth(Trainer) is smooth(Trainer)
    True
    """
    if not (isinstance(trainer_class, type) and issubclass(trainer_class, Trainer)):
        raise TypeError(
            f"trainer_class must be transformers.Trainer or a subclass of it, got {trainer_class!r}"
        )
    smoothed: type[TrainerT] = _smooth(cast(Any, trainer_class))
    return smoothed


@functools.cache
def _smooth(trainer_class: Any) -> Any:
    if issubclass(trainer_class, SmoothedTrainerMixin):
        return trainer_class
    name = f"Smoothed{trainer_class.__name__}"
    smoothed: Any = type(name, (SmoothedTrainerMixin, trainer_class), {})
    smoothed.__module__ = trainer_class.__module__
    smoothed.__doc__ = f"{trainer_class.__name__} with loss smoothing; see :func:`segue.smooth`."
    return smoothed


@dataclass
class _Pass:
    """A training step on the ramp, between training_step and compute_loss."""

    micro: MicroBatch
    target: Tensor | None = None  # the raw target loss, divided as the trainer divides it
    blended: Tensor | None = None  # what compute_loss returned

    def blended_target(self) -> Tensor:
        """The target's share, once it was blended."""
        assert self.target is not None
        return self.target


class SmoothedTrainerMixin(_Trainer):
    """Goes before a trainer class; made by :func:`smooth`, whose documentation has the arguments."""

    _segue: Easing | None = None  # None while the trainer's own constructor runs
    _segue_pass: _Pass | None = None
    _segue_checkpoint: str | None = None
    _segue_checked = False

    def __init__(
        self,
        *args: Any,
        source: Any = None,
        num_smoothing_steps: int | float | None = None,
        schedule: Schedule | Callable[[int], Schedule] | None = None,
        mode: Mode = "mix",
        num_bank_examples: int | None = 256,
        source_batch_size: int | None = None,
        non_finite: NonFinitePolicy = "skip",
        **kwargs: Any,
    ) -> None:
        settings = Settings(
            source=source if source is None or isinstance(source, Source) else Source(source),
            num_smoothing_steps=num_smoothing_steps,
            schedule=schedule,
            mode=mode,
            num_bank_examples=num_bank_examples,
            source_batch_size=source_batch_size,
            non_finite=non_finite,
        )
        super().__init__(*args, **kwargs)
        check_parallelism(self)
        loss = None if settings.source is None else make_source_loss(self, settings.source)
        self._segue = Easing(settings, loss, describe_host(self))
        self.add_callback(Follower(self, self._segue))

    @property
    def smoothing(self) -> Smoothing:
        """The clock and the formula of the training in progress."""
        return self._easing.smoothing

    @property
    def replay(self) -> Replay | None:
        """The source bank; freed once the ramp is over."""
        return self._easing.replay

    @property
    def _easing(self) -> Easing:
        if self._segue is None:
            raise RuntimeError("the trainer's constructor has not finished")
        return self._segue

    # -- the trainer's loop --------------------------------------------------------------------

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Prefetch the target's micro-batches of an optimizer step, and draw the source's."""
        samples, num_items = super().get_batch_samples(*args, **kwargs)
        if self._segue is not None and self.is_in_train:
            self._segue.open_window(len(samples), self._segue_global_count(num_items))
        return samples, num_items

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: Any = None, **kwargs: Any
    ) -> Any:
        """Train on one micro-batch; return the raw target loss, as the plain trainer would."""
        easing = self._segue
        if easing is None or not easing.in_window:
            return super().training_step(model, inputs, num_items_in_batch, **kwargs)
        divisor = 1 if self._segue_loss_is_scaled(num_items_in_batch) else self._segue_accumulation
        self._segue_pass = this = _Pass(easing.next_micro_batch(divisor))
        try:
            returned = super().training_step(model, inputs, num_items_in_batch, **kwargs)
        finally:
            self._segue_pass = None
        if this.target is None or this.blended is None:
            raise RuntimeError(
                f"{type(self).__name__} trains without calling compute_loss, so its loss cannot be "
                "blended with the source's"
            )
        if not self._segue_checked:
            self._segue_check_division(returned, this.blended / divisor)
        return this.target

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the blended loss in a training step on the ramp, the trainer's own elsewhere."""
        plain, this, easing = super().compute_loss, self._segue_pass, self._segue
        if this is None or easing is None:
            return plain(model, inputs, *args, **kwargs)
        if this.target is not None:
            raise RuntimeError(
                f"{type(self).__name__} computes several losses in one training step; such a "
                "trainer cannot be smoothed"
            )
        divisor = this.micro.divisor
        # Scalars of one wider dtype, so that both sides agree and neither is rounded.
        dtype = torch.promote_types(torch.float32, next(model.parameters()).dtype)

        def source(micro: MicroBatch) -> LossSum:
            # Without DDP's bookkeeping: that is for the one pass that it synchronizes, the target's.
            with self._segue_unsynchronized(model):
                return easing.source_term(model, micro, dtype)

        def target() -> Tensor:
            loss: Any = plain(model, inputs, *args, **kwargs)
            this.target = loss.detach() / divisor
            return torch.as_tensor(loss).to(dtype)

        if easing.settings.mode == "mix":
            blended = easing.smoothing.mix(source=lambda: source(this.micro), target=target)
            this.blended = blended.detach()
            easing.note(this.blended_target(), divisor)
            return blended
        # Both backward passes run here. The trainer gets a leaf, whose own does nothing.
        blended = easing.smoothing.backward(
            source=lambda: source(replace(this.micro, divisor=1)),
            target=lambda: target() / divisor,
            scaler=getattr(self.accelerator, "scaler", None),
        )
        this.blended = blended * divisor
        easing.note(this.blended_target(), 1)
        return this.blended.clone().requires_grad_()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log λ and both losses beside what the trainer logs about training."""
        if self._segue is not None and self.is_in_train and "loss" in logs:
            host = self._segue.host
            logs.update(self._segue.log.drain(host.sum_over_ranks, host.num_ranks))
        super().log(logs, *args, **kwargs)

    # -- checkpoints ---------------------------------------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._segue is not None:
            self._segue.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        self._segue_checkpoint = checkpoint

    # -- inside --------------------------------------------------------------------------------

    def _segue_take_checkpoint(self) -> str | None:
        checkpoint, self._segue_checkpoint = self._segue_checkpoint, None
        self._segue_checked = False
        return checkpoint

    @property
    def _segue_accumulation(self) -> int:
        return int(self.current_gradient_accumulation_steps)

    def _segue_loss_is_scaled(self, num_items_in_batch: Any) -> bool:
        """Whether the trainer takes compute_loss's result as normalized over the whole window.

        This is the trainer's own rule; that it was followed is checked at the first step.
        """
        stated = getattr(self, "loss_is_scaled_for_ga", None)
        if stated is not None:
            return bool(stated)
        counts = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        return counts or self.compute_loss_func is not None

    def _segue_check_division(self, returned: Any, expected: Tensor) -> None:
        self._segue_checked = True
        found = torch.as_tensor(returned).to(expected)
        if not torch.allclose(found, expected, rtol=1e-2, equal_nan=True):
            raise RuntimeError(
                f"{type(self).__name__} scaled the blended loss to {float(found)} where "
                f"{float(expected)} was expected, so the source's share would be wrong; set the "
                "trainer's loss_is_scaled_for_ga"
            )

    def _segue_global_count(self, num_items: Any) -> Tensor | None:
        if num_items is None:
            return None
        count = torch.as_tensor(num_items, device=self.args.device).detach()
        if self._segue is not None and not self.args.average_tokens_across_devices:
            count = self._segue.host.sum_over_ranks(count)
        return count

    def _segue_unsynchronized(self, model: Any) -> contextlib.AbstractContextManager[Any]:
        if isinstance(model, torch.nn.parallel.DistributedDataParallel) or hasattr(
            model, "require_backward_grad_sync"
        ):
            manager: contextlib.AbstractContextManager[Any] = self.accelerator.no_sync(model)
            return manager
        return contextlib.nullcontext()
