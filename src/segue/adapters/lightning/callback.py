"""The callback's half of smoothing under Lightning: the source, the clock and the checkpoint."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from segue.adapters.lightning.blend import BLENDED, Blender, moved, over_ranks
from segue.adapters.lightning.mixin import SmoothingMixin, SourceHolder
from segue.adapters.lightning.source import HeldSource, check_source
from segue.adapters.lightning.state import (
    gather,
    global_random_states,
    restore_global_random_states,
)
from segue.batchnorm import BatchNormPolicy
from segue.checks import check_at_least_one, check_count
from segue.schedules import Schedule, hard_switch, linear_decay, resolve_num_smoothing_steps
from segue.smoothing import NonFinitePolicy, Smoothing
from segue.sources.replay import Replay

__all__ = ["SmoothingCallback"]


class SmoothingCallback(SourceHolder):
    """Smooths the training of a module that has the :class:`SmoothingMixin`.

    K counts *applied optimizer steps*: not micro-batches, not the steps of several optimizers, not
    those that a gradient scaler skipped. The target loader alone defines the epoch. Validation and
    the sanity check neither evaluate the source nor move the clock. After the ramp the source is not
    evaluated and its bank is freed. Logged, under ``segue/``: λ, both raw and both weighted losses,
    their counts, and the blended loss, at the trainer's logging steps; the progress bar shows the
    raw target loss.

    The callback's part of a checkpoint (tensors, numbers, strings, lists and dicts) holds λ's clock,
    the position in the source stream and, for each rank, the random states, which are set again on
    resume. In the middle of an epoch Lightning needs a resumable loader to continue the target's
    order.

    Args:
        source: The source data (see :class:`segue.Replay`: tensors, a dataset, or an iterable of
            examples); or a source term such as :class:`segue.L2SP`; or a function of the module, on
            its device, that makes a term.
        num_smoothing_steps: Length K of a linear ramp: an int is optimizer steps, a float in (0, 1)
            a share of the training, rounded up.
        schedule: Any schedule instead of ``num_smoothing_steps``.
        batch_size: Source examples per *optimizer step*, over all ranks and micro-batches.
        num_examples: Size of the replay bank. None keeps everything.
        seed: Seeds the bank, its order and the source's dropout.
        collate_fn: Turns a list of source examples into a batch.
        non_finite: See :class:`segue.Smoothing`.
        batch_norm: See :class:`segue.Smoothing`.
        optimizer_index: With several optimizers, the one whose steps are the clock.
        num_source_batches_per_step: With manual optimization, how many times
            ``module.next_source_batch`` is called per optimizer step.

    Raises:
        TypeError, ValueError: For a wrong argument; those that depend on the trainer, before its
            first batch.

    Source: arXiv 2607.00634.
    """

    def __init__(
        self,
        source: Any,
        *,
        num_smoothing_steps: int | float | None = None,
        schedule: Schedule | None = None,
        batch_size: int | None = None,
        num_examples: int | None = 256,
        seed: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        non_finite: NonFinitePolicy = "raise",
        batch_norm: BatchNormPolicy = "shared",
        optimizer_index: int = 0,
        num_source_batches_per_step: int = 1,
    ) -> None:
        super().__init__()
        if (num_smoothing_steps is None) == (schedule is None):
            raise ValueError(
                "exactly one of num_smoothing_steps and schedule must be given, got "
                f"{num_smoothing_steps!r} and {schedule!r}"
            )
        if num_smoothing_steps is not None:
            resolve_num_smoothing_steps(num_smoothing_steps, 2**62)
        # Says now what is wrong with these.
        Smoothing(
            hard_switch() if schedule is None else schedule,
            non_finite=non_finite,
            batch_norm=batch_norm,
            model=torch.nn.Identity(),
        )
        self._kind = check_source(source, batch_size)
        self._source: Any = source
        self._num_smoothing_steps, self._schedule = num_smoothing_steps, schedule
        self._replay_settings: dict[str, Any] = {
            "batch_size": batch_size,
            "num_examples": num_examples,
            "seed": check_count("seed", seed),
            "collate_fn": collate_fn,
        }
        self._settings: dict[str, Any] = {"non_finite": non_finite, "batch_norm": batch_norm}
        self._optimizer_index = check_count("optimizer_index", optimizer_index)
        self._num_source_batches = check_at_least_one(
            "num_source_batches_per_step", num_source_batches_per_step
        )
        self._trainer: weakref.ref[Trainer] | None = None
        self._held: HeldSource | None = None
        self._smoothing: Smoothing | None = None
        self._pending: Mapping[str, Any] | None = None
        self._num_resolved: int | None = None  # smoothing steps
        self._blender: Blender | None = None

    # -- what Lightning calls ------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that trainer and module can be smoothed, and make the replay bank."""
        if stage != "fit":
            return
        if self._trainer is not None and self._trainer() is not trainer:
            raise RuntimeError(
                "a SmoothingCallback belongs to one trainer; make a new one for another training"
            )
        _check_module(pl_module)
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise ValueError(
                f"strategy must be a single device or DDP, got {type(trainer.strategy).__name__}"
            )
        if self._smoothing is not None and self._pending is None:
            self._pending = self.state_dict()  # a second fit goes on where the first one ended
        self._trainer = weakref.ref(trainer)
        if self._kind == "data" and self._held is None:
            replay = Replay(
                self._source,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
                **self._replay_settings,
            )
            self._held = HeldSource(replay)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make a source term, now that the weights of the switch are in place."""
        if self._held is None:
            term = self._source if self._kind == "term" else self._source(pl_module)
            self._held = HeldSource(term=term)
        self._restore_random_states(trainer)  # before the loader of the coming epoch is shuffled

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, or continue it."""
        optimizers = trainer.optimizers
        if self._optimizer_index >= len(optimizers):
            raise ValueError(
                f"optimizer_index must be < the number of optimizers ({len(optimizers)}), "
                f"got {self._optimizer_index}"
            )
        optimizer = optimizers[self._optimizer_index]
        if isinstance(optimizer, torch.optim.LBFGS) and pl_module.automatic_optimization:
            raise ValueError(
                "the optimizer must evaluate the loss once per step, got LBFGS; use manual "
                "optimization"
            )
        assert self._held is not None
        self._smoothing = Smoothing(
            self._resolve_schedule(trainer, pl_module),
            optimizer=optimizer,
            model=pl_module,
            sources=[self._held, _SourceOf(self)],
            seed=self._replay_settings["seed"] + trainer.global_rank,
            **self._settings,
        )
        self._blender = Blender(self._smoothing, self._held, pl_module, pl_module)  # type: ignore[arg-type]
        if self._pending is not None:
            self._load(trainer, self._pending)
            if self._pending["mid_epoch"]:
                self._restore_random_states(trainer)
            self._pending = None
        self._warn_about_selection(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs; called on every rank."""
        trainer = None if self._trainer is None else self._trainer()
        if self._smoothing is None or self._held is None or trainer is None:
            return dict(self._pending or {})
        mine = {"smoothing": self._smoothing.state_dict(), "random": global_random_states()}
        return {
            "num_smoothing_steps": self._num_resolved,
            "source": self._held.state_dict(),
            "ranks": gather(mine, trainer.world_size),
            "mid_epoch": not trainer.is_last_batch,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a saved state for the start of the training."""
        self._pending = state_dict

    # -- what the mixin calls ------------------------------------------------------------------

    @property
    def smoothing(self) -> Smoothing:
        """The clock and the blend, from the start of the training on."""
        if self._smoothing is None:
            raise RuntimeError("smoothing starts with the training; there is none before fit()")
        return self._smoothing

    def next_source_batch(self, module: LightningModule) -> Any:
        """The next part of the source batch, on the module's device."""
        held = self._held
        if held is None or held.replay is None:
            raise RuntimeError("this source has no batches, it is a term: call mix(source=None)")
        share = held.replay.batch_size // held.replay.world_size
        if share % self._num_source_batches:
            raise ValueError(
                "batch_size must be a multiple of world_size * num_source_batches_per_step "
                f"({held.replay.world_size} * {self._num_source_batches}), "
                f"got {held.replay.batch_size}"
            )
        return moved(module, held.replay.take(share // self._num_source_batches))

    @property
    def blender(self) -> Blender:
        """What makes the loss of a training step, from the start of the training on."""
        assert self._blender is not None
        return self._blender

    def source_loss(self, module: LightningModule, loss: Callable[[Any], Any] | None) -> Any:
        """The loss of the next source batch, or the source term's."""
        held = self._held
        if held is not None and held.term is not None:
            return held.term()
        if loss is None:
            raise ValueError("source must be the loss of a source batch, got None")
        return over_ranks(module.trainer, loss(self.next_source_batch(module)))

    # -- inside ----------------------------------------------------------------------------------

    def _resolve_schedule(self, trainer: Trainer, module: LightningModule) -> Schedule:
        if self._schedule is not None:
            return self._schedule
        assert self._num_smoothing_steps is not None
        given, length = self._num_smoothing_steps, trainer.estimated_stepping_batches
        known = module.automatic_optimization and math.isfinite(length)
        if isinstance(given, float) and not known:
            raise ValueError(
                "num_smoothing_steps must be an int where the number of optimizer steps is not "
                f"known beforehand (manual optimization, training without end), got {given!r}"
            )
        resolved = resolve_num_smoothing_steps(given, int(length) if known else 2**62)
        saved = None if self._pending is None else self._pending["num_smoothing_steps"]
        if isinstance(given, float) and saved not in (None, resolved):
            warnings.warn(
                f"the ramp goes on over the {saved} steps it began with; {given!r} of this longer "
                f"or shorter training would be {resolved}",
                RuntimeWarning,
                stacklevel=2,
            )
            resolved = int(saved)
        self._num_resolved = resolved
        return linear_decay(resolved)

    def _load(self, trainer: Trainer, state: Mapping[str, Any]) -> None:
        assert self._held is not None
        self._held.load_state_dict(state["source"])
        ranks = state["ranks"]
        mine: dict[str, Any] = dict(ranks[trainer.global_rank % len(ranks)]["smoothing"])
        if len(ranks) != trainer.world_size:
            fresh = self.smoothing.state_dict()
            mine |= {"seed": fresh["seed"], "random_state": fresh["random_state"]}
        self.smoothing.load_state_dict(mine)

    def _restore_random_states(self, trainer: Trainer) -> None:
        ranks = [] if self._pending is None else self._pending["ranks"]
        if len(ranks) == trainer.world_size:
            restore_global_random_states(ranks[trainer.global_rank]["random"])

    def _warn_about_selection(self, trainer: Trainer) -> None:
        if self.smoothing.finished:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            monitor = getattr(callback, "monitor", None)
            if monitor is None or not isinstance(callback, EarlyStopping | ModelCheckpoint):
                continue
            why = (
                "the blended loss, which falls because λ does; watch segue/target_loss or a "
                "validation metric"
                if monitor == BLENDED
                else "and may decide before the ramp is over"
            )
            warnings.warn(
                f"{type(callback).__name__} watches {monitor!r} during the ramp: {why}",
                RuntimeWarning,
                stacklevel=2,
            )


class _SourceOf:
    """Drops the callback's own hold on the source data when the ramp is over."""

    def __init__(self, callback: SmoothingCallback) -> None:
        self._callback = weakref.ref(callback)

    def release(self) -> None:
        """Let go of the data that the bank was drawn from."""
        callback = self._callback()
        if callback is not None:
            callback._source = None


def _check_module(module: LightningModule) -> None:
    if not isinstance(module, SmoothingMixin):
        raise TypeError(
            f"the module must have the SmoothingMixin, got {type(module).__name__}; write "
            f"class Smoothed(SmoothingMixin, {type(module).__name__}): pass"
        )
    if module.automatic_optimization and type(module).training_step is not (
        SmoothingMixin.training_step
    ):
        raise TypeError(
            f"{type(module).__name__}.training_step hides the mixin's: call it target_step, or put "
            "the mixin before the module in a class of its own"
        )
