"""One training of a smoothed trainer: its clock, its source bank, its window and its state."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segue.adapters.transformers.log import LossLog
from segue.adapters.transformers.loss import SourceLoss
from segue.adapters.transformers.settings import Settings
from segue.adapters.transformers.source import is_map_style, pad_examples, prepared
from segue.adapters.transformers.window import SourceWindow, draw_window
from segue.losses import LossSum
from segue.randomness import derived_seed
from segue.runs.checkpoint import load_checkpoint, save_checkpoint
from segue.smoothing import Smoothing
from segue.sources.replay import Replay

__all__ = ["Easing", "Host", "MicroBatch"]

_SCHEMA = 1


@dataclass(frozen=True)
class Host:
    """What the easing needs to know about the trainer it lives in.

    Attributes:
        name: Its class, for messages.
        seed: The trainer's seed.
        device: Where it trains.
        rank: Index of this process.
        num_ranks: Number of processes.
        target_batch_size: Target examples per optimizer step, over all ranks.
        max_length: Its limit for token ids, or None.
        tokenizer: Its tokenizer or processor, or None.
        padding_id: Token id to pad with.
        collate: Its collator.
        prepare_inputs: Moves a batch to the device.
        sum_over_ranks: Adds up a tensor over all ranks.
    """

    name: str
    seed: int
    device: torch.device
    rank: int
    num_ranks: int
    target_batch_size: int
    max_length: int | None
    tokenizer: Any
    padding_id: int
    collate: Callable[[list[Any]], Any]
    prepare_inputs: Callable[[Any], Any]
    sum_over_ranks: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MicroBatch:
    """One forward and backward pass during the ramp.

    Attributes:
        batch: The source examples, or None where this pass has none.
        count: Number of their items.
        divisor: What the trainer divides the returned loss by before its backward pass.
    """

    batch: Any
    count: Tensor
    divisor: int


class Easing:
    """Serves the source loss to one trainer while λ > 0, and counts its applied steps."""

    def __init__(self, settings: Settings, loss: SourceLoss | None, host: Host) -> None:
        self.settings = settings
        self.host = host
        self.log = LossLog()
        self._loss = loss
        self._smoothing: Smoothing | None = None
        self._window: SourceWindow | None = None
        self._next = 0
        # Made once before training starts, so that a wrong source is refused then.
        self._replay = self._make_replay()
        self._collates_tokens = self._replay is not None and self._holds_tokens(self._replay)

    # -- one training --------------------------------------------------------------------------

    def begin(self, num_training_steps: int, optimizer: Any, checkpoint: str | None) -> None:
        """Start the clock at 0, or where ``checkpoint`` left it."""
        schedule = self.settings.resolve(num_training_steps)
        if self._replay is not None and self._replay.released and not Smoothing(schedule).finished:
            self._replay = self._make_replay()  # a training before this one freed it
        while hasattr(optimizer, "optimizer"):  # Accelerate's wrapper has no step hooks
            optimizer = optimizer.optimizer
        self._smoothing = Smoothing(
            schedule,
            optimizer=optimizer,
            non_finite=self.settings.non_finite,
            sources=() if self._replay is None else (self._replay,),
            seed=derived_seed("transformers", self.host.seed, self.host.rank),
        )
        self.log = LossLog()
        self._window = None
        if checkpoint is not None:
            self._load(checkpoint)

    @property
    def smoothing(self) -> Smoothing:
        """The clock and the formula of the training in progress."""
        if self._smoothing is None:
            raise RuntimeError("the smoothing exists from the start of train() on")
        return self._smoothing

    @property
    def replay(self) -> Replay | None:
        """The source bank; released once the ramp is over for good."""
        return self._replay

    @property
    def on_ramp(self) -> bool:
        """True while training with λ > 0."""
        return self._smoothing is not None and self._smoothing.source_weight > 0.0

    # -- one optimizer step --------------------------------------------------------------------

    def open_window(self, num_micro_batches: int, target_count: Tensor | None) -> None:
        """Draw the source batch of the coming optimizer step."""
        if self._smoothing is None:
            return
        weight = self._smoothing.source_weight
        self.log.begin_step(weight)
        self._window, self._next = None, 0
        if weight == 0.0 or num_micro_batches == 0:
            return
        assert self._replay is not None
        assert self._loss is not None
        window = draw_window(
            self._replay,
            num_micro_batches,
            collate=self._collate,
            count=self._loss.count,
            sum_over_ranks=self.host.sum_over_ranks,
            device=self.host.device,
        )
        if int(window.total_count) == 0:
            warnings.warn(
                f"no label of the source batch counts at step {self._smoothing.num_steps}: the "
                f"source loss is 0 there, with source weight {weight}; look at the source's mask",
                RuntimeWarning,
                stacklevel=2,
            )
        self._window = window
        counts = {"source_count": window.total_count}
        if target_count is not None:
            counts["target_count"] = target_count
        self.log.add(counts)

    @property
    def in_window(self) -> bool:
        """True where the coming pass has a source loss beside the target's."""
        return self._window is not None

    def next_micro_batch(self, divisor: int) -> MicroBatch:
        """Return what the coming forward and backward pass needs."""
        window = self._window
        assert window is not None
        if self._next >= len(window.batches):
            raise RuntimeError(
                f"{self.host.name} trains on more micro-batches than it announced "
                f"({len(window.batches)}); such a trainer cannot be smoothed"
            )
        micro = MicroBatch(window.batches[self._next], window.counts[self._next], divisor)
        self._next += 1
        return micro

    def source_term(self, model: Any, micro: MicroBatch, dtype: torch.dtype) -> LossSum:
        """The source loss of one pass, so that the whole window's is one mean over all its items.

        Ranks average gradients and the trainer may divide by its accumulation steps: both are made
        up for in the divisor.
        """
        assert self._window is not None
        assert self._loss is not None
        normalizer = self._window.total_count.to(dtype) / (micro.divisor * self.host.num_ranks)
        if micro.batch is None:
            total = torch.zeros((), dtype=dtype, device=self.host.device)
        else:
            batch = self.host.prepare_inputs(micro.batch)
            total = self._loss.total(model, batch, micro.count).to(dtype)
        return LossSum(total, micro.count, normalizer)

    def note(self, target_share: Tensor, divisor: int) -> None:
        """Log the pass that was blended last; ``divisor`` is what its terms are still divided by."""
        found = self.smoothing.log()
        ranks = self.host.num_ranks
        self.log.add(
            {
                "source_loss": found["source_loss"] / (divisor * ranks),
                "weighted_source_loss": found["weighted_source_loss"] / (divisor * ranks),
                "target_loss": target_share,
                "weighted_target_loss": found["weighted_target_loss"] / divisor,
            }
        )

    # -- state ---------------------------------------------------------------------------------

    def save(self, folder: str) -> None:
        """Write this rank's state into a checkpoint's folder."""
        if self._smoothing is None:
            return
        save_checkpoint(
            self._file(folder),
            {
                "schema": _SCHEMA,
                "num_ranks": self.host.num_ranks,
                "smoothing": self._smoothing.state_dict(),
                "replay": None if self._replay is None else self._replay.state_dict(),
                "log": self.log.state_dict(),
            },
        )

    def _load(self, folder: str) -> None:
        path = self._file(folder)
        if not path.exists():
            if self.settings.never_smooths:
                return
            raise ValueError(
                "resume_from_checkpoint must be the checkpoint of a smoothed run on as many ranks "
                f"({self.host.num_ranks}), found no {path.name} in {folder}; to smooth from this "
                "model on, load its weights and start a new training"
            )
        state = load_checkpoint(path)
        for name, mine in (("schema", _SCHEMA), ("num_ranks", self.host.num_ranks)):
            if state[name] != mine:
                raise ValueError(f"{name} must be the saved one ({state[name]}), got {mine}")
        self.smoothing.load_state_dict(state["smoothing"])
        if self._replay is not None and state["replay"] is not None:
            self._replay.load_state_dict(state["replay"])
        self.log.load_state_dict(state["log"], self.host.device)

    def _file(self, folder: str) -> Path:
        rank = "" if self.host.num_ranks == 1 else f"_{self.host.rank}"
        return Path(folder) / f"segue_state{rank}.safetensors"

    # -- inside --------------------------------------------------------------------------------

    def _make_replay(self) -> Replay | None:
        source, num_kept = self.settings.source, self.settings.num_bank_examples
        if source is None:
            return None
        num_given = len(source.dataset) if is_map_style(source.dataset) else None
        if num_given == 0:
            raise ValueError("source must hold at least one example, got an empty dataset")
        if num_kept is not None and num_given is not None and num_given < num_kept:
            raise ValueError(
                f"num_bank_examples must be <= the number of source examples ({num_given}), "
                f"got {num_kept}; pass num_bank_examples=None to keep them all"
            )
        ranks = self.host.num_ranks
        size = self.settings.source_batch_size
        if size is None:
            most = num_kept or num_given or self.host.target_batch_size
            size = max(min(self.host.target_batch_size, most) // ranks, 1) * ranks
        elif size % ranks:
            raise ValueError(
                f"source_batch_size must be a multiple of the number of ranks ({ranks}), got {size}"
            )
        return Replay(
            prepared(source, self.host.tokenizer, self.host.max_length),
            num_examples=num_kept,
            batch_size=size,
            seed=derived_seed("transformers bank", self.host.seed),
            collate_fn=list,
            rank=self.host.rank,
            world_size=ranks,
        )

    def _collate(self, examples: list[Any]) -> Any:
        source = self.settings.source
        assert source is not None
        if source.data_collator is not None:
            return source.data_collator(examples)
        if self._collates_tokens:
            return pad_examples(examples, self.host.padding_id)
        return self.host.collate(examples)

    @staticmethod
    def _holds_tokens(replay: Replay) -> bool:
        position = replay.state_dict()
        example = next(replay)[0]
        replay.load_state_dict(position)
        labels = example.get("labels") if isinstance(example, dict) else None
        return isinstance(labels, list) and len(labels) == len(example["input_ids"])
