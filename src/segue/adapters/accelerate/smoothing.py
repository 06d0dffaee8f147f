"""Loss smoothing in a plain loop under Accelerate: one process, DDP or FSDP2.

What the core already gives there is used as it is: slices of a global source batch
(:class:`segue.Replay`), the clock that counts applied steps, the common decision about non-finite
losses, exact sums (:class:`segue.LossSum`). What it cannot know is added here: how many processes
and micro-batches share an optimizer step, how many items they hold together, and Accelerate's
checkpoints.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from segue.batches import batch_size as size_of
from segue.batchnorm import BatchNormPolicy
from segue.checks import check_at_least_one, unknown_name
from segue.schedules import Schedule
from segue.smoothing import NonFinitePolicy, Smoothing
from segue.sources.replay import Replay

try:
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer
    from accelerate.utils import DistributedType

    from segue.adapters.accelerate.window import Window
except ImportError as error:
    raise ImportError(
        'segue.adapters.accelerate needs accelerate: pip install "segue[accelerate]"'
    ) from error

__all__ = ["AcceleratedSmoothing"]

Count = Callable[[Any], "int | Tensor"]
Mode = Literal["backward", "mix"]

_UNSUPPORTED = (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA)
_FILE = "segue-rank-{rank}.safetensors"


class AcceleratedSmoothing:
    """Smooths a training loop under an :class:`accelerate.Accelerator`.

    An optimizer step takes one *window*: as many micro-batches as the accelerator accumulates, on
    every process. Both losses are divided by their own count over the whole window and all
    processes, so that the gradient is that of one process with one large batch, however the items
    are spread, and in a short last window too. (Accelerate's ``backward``, which divides by the
    number of accumulated batches whatever they hold, is not used.)

    The replay stream takes no part in Accelerate's data loading: it neither ends an accumulation
    window nor defines an epoch. ``accelerator.save_state`` and ``load_state`` save and resume the
    clock, the replay stream and the source's random numbers, in one safetensors file a process.

    Args:
        accelerator: One process, DDP or FSDP2 (also a model that ``fully_shard`` was applied to by
            hand); not DeepSpeed, Megatron-LM, FSDP1 or XLA.
        schedule: Optimizer step → source weight.
        model: The prepared model.
        optimizer: The prepared optimizer. Its applied steps are counted; one that the gradient
            scaler skipped does not count.
        source: Source data, as for :class:`segue.Replay`.
        source_batch_size: Source examples per *optimizer step*, over all processes and
            micro-batches; a multiple of their number.
        num_examples: Size of the replay bank over all processes. None keeps everything.
        sharded: False if ``source`` is the same on every process (which is checked), True if each
            process has a shard of its own. Shards may be of unequal size.
        collate_fn: Turns a list of source examples into a batch.
        source_count: Items of a source batch that its loss averages over, such as tokens that are
            not masked; the examples if None.
        target_count: Likewise of a target batch.
        mode: ``"backward"``: each loss has a backward pass of its own, which is right for every
            model, one with a head that only one of them uses included, and takes the least memory.
            ``"mix"``: one backward pass, and so one gradient exchange, for both.
        non_finite: As for :class:`segue.Smoothing`.
        batch_norm: As for :class:`segue.Smoothing`.
        seed: Seeds the bank, its order and the source's dropout (another on each process).

    Raises:
        TypeError, ValueError: For a wrong argument; on every process, also if only one has it.

    Source: arXiv 2607.00634.

    Example:
        >>> from accelerate import Accelerator
        >>> import segue
        >>> accelerator = Accelerator(cpu=True)
        >>> model = nn.Linear(1, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> loader = torch.utils.data.DataLoader(torch.ones(8, 1), batch_size=4)
        >>> model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        >>> smoothing = AcceleratedSmoothing(
        ...     accelerator, segue.linear_decay(2), model=model, optimizer=optimizer,
        ...     source=torch.zeros(8, 1), num_examples=None, source_batch_size=4)
        >>> for window in smoothing.windows(loader):
        ...     window.backward(source=lambda x: model(x).square().mean(),
        ...                     target=lambda x: model(x).square().mean())
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     print(smoothing.source_weight)
        0.5
        0.0
    """

    def __init__(
        self,
        accelerator: Accelerator,
        schedule: Schedule,
        *,
        model: nn.Module,
        optimizer: AcceleratedOptimizer,
        source: Any,
        source_batch_size: int,
        num_examples: int | None = 256,
        sharded: bool = False,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        source_count: Count | None = None,
        target_count: Count | None = None,
        mode: Mode = "backward",
        non_finite: NonFinitePolicy = "raise",
        batch_norm: BatchNormPolicy = "shared",
        seed: int = 0,
    ) -> None:
        _check_accelerator(accelerator)
        if not isinstance(optimizer, AcceleratedOptimizer):
            raise TypeError(
                "optimizer must be the one that accelerator.prepare returned, "
                f"got {type(optimizer).__name__}"
            )
        if mode not in get_args(Mode):
            raise ValueError(unknown_name("mode", mode, get_args(Mode)))
        self.accelerator, self.model, self.mode = accelerator, model, mode
        self._count = {"source": source_count or size_of, "target": target_count or size_of}
        self._sharded = sharded
        self.replay = self._make_replay(source, source_batch_size, num_examples, seed, collate_fn)
        self.smoothing = Smoothing(
            schedule,
            optimizer=optimizer.optimizer,  # the wrapper's step is also called between windows
            non_finite=non_finite,
            batch_norm=batch_norm,
            model=model,
            sources=[self.replay],
            seed=seed + accelerator.process_index,
        )
        self._counts_are_checked = False
        self._log: dict[str, Any] = {}
        accelerator.register_save_state_pre_hook(self._save)
        accelerator.register_load_state_pre_hook(self._load)

    @property
    def source_weight(self) -> float:
        """λ of the coming optimizer step; the same on every process."""
        return self.smoothing.source_weight

    def windows(self, loader: Iterable[Any]) -> Iterator[Window]:
        """Group the batches of a prepared loader into windows, one per optimizer step.

        The processes end together: where one has fewer batches left than the others, all train on
        as many as it has, and the rest is left out with a warning.

        Raises:
            RuntimeError: If the processes are not at the same optimizer step.
        """
        batches = iter(loader)
        while True:
            held = list(itertools.islice(batches, self.accelerator.gradient_accumulation_steps))
            counts = [int(self._count["target"](batch)) for batch in held]
            state = [len(held), self.smoothing.num_steps, sum(counts)]
            gathered = self._gather(state)
            lengths, steps, totals = zip(*gathered, strict=True)
            if len(set(steps)) > 1:
                raise RuntimeError(
                    f"every process must have applied as many optimizer steps, got {list(steps)}"
                )
            shortest = min(lengths)
            if shortest < max(lengths):
                warnings.warn(
                    f"the processes have {list(lengths)} micro-batches left for optimizer step "
                    f"{steps[0]}; {shortest} of each are trained on",
                    RuntimeWarning,
                    stacklevel=2,
                )
                held, counts = held[:shortest], counts[:shortest]
                totals = tuple(row[0] for row in self._gather([sum(counts)]))
            if shortest == 0:
                return
            yield Window(self, held, counts, sum(totals))
            if len(set(lengths)) > 1:
                return

    def log(self) -> dict[str, Any]:
        """What happened in the last window, as this process saw it; nothing is exchanged.

        Keys as in :meth:`segue.Smoothing.log`. Counts are those of all processes; the mean of a
        loss over the processes, ``accelerator.reduce(loss, "mean")``, is the loss of the window.
        """
        return dict(self._log)

    def state_dict(self) -> dict[str, Any]:
        """State of this process; the processes' states differ in their random numbers."""
        return {
            "num_processes": self.accelerator.num_processes,
            "smoothing": self.smoothing.state_dict(),
            "replay": self.replay.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken.

        Raises:
            ValueError: If the schedule, the seed or the replay bank is another.
        """
        # The clock first: with a finished ramp it frees the bank, which the replay then only notes.
        self.replay.load_state_dict(state["replay"])
        self.smoothing.load_state_dict(state["smoothing"])

    # -- inside ------------------------------------------------------------------------------

    def _make_replay(
        self,
        source: Any,
        batch_size: int,
        num_examples: int | None,
        seed: int,
        collate_fn: Callable[[list[Any]], Any] | None,
    ) -> Replay:
        accelerator = self.accelerator
        ranks, micro = accelerator.num_processes, accelerator.gradient_accumulation_steps
        settings: dict[str, Any] = {
            "num_examples": num_examples,
            "batch_size": check_at_least_one("source_batch_size", batch_size),
            "rank": accelerator.process_index,
            "world_size": ranks,
        }
        if batch_size % (ranks * micro):
            raise ValueError(
                "source_batch_size must be a multiple of the number of processes times "
                f"gradient_accumulation_steps ({ranks} * {micro}), got {batch_size}"
            )
        if self._sharded:
            if num_examples is not None and num_examples % ranks:
                raise ValueError(
                    f"num_examples must be a multiple of the number of processes ({ranks}) with "
                    f"sharded=True, got {num_examples}"
                )
            settings = {
                "num_examples": None if num_examples is None else num_examples // ranks,
                "batch_size": batch_size // ranks,
            }
            seed = (
                seed * ranks + accelerator.process_index
            )  # shards of equal content differ in order
        replay, failure = None, None
        try:
            device = None if collate_fn is not None else accelerator.device
            replay = Replay(source, seed=seed, collate_fn=collate_fn, device=device, **settings)
            digest = [0] if self._sharded else _as_numbers(replay.content_hash)
        except Exception as error:  # the others must hear of it, whatever it is
            failure, digest = error, [0]
        failed = [row[0] for row in self._gather([int(failure is not None)])]
        if failure is not None:
            raise failure
        if any(failed):
            culprits = [rank for rank, flag in enumerate(failed) if flag]
            raise ValueError(f"source must be usable on every process, it is not on {culprits}")
        if len(set(self._gather(digest))) > 1:
            raise ValueError(
                "source must give the same bank on every process, got different ones; pass "
                "sharded=True if each process has a shard of its own"
            )
        assert replay is not None
        return replay

    def _gather(self, numbers: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the numbers of every process."""
        if self.accelerator.num_processes == 1:
            return [tuple(numbers)]
        mine = torch.tensor([list(numbers)], dtype=torch.int64, device=self.accelerator.device)
        return [tuple(row) for row in self.accelerator.gather(mine).tolist()]

    def _save(self, models: Any, weights: Any, folder: str) -> None:
        from segue.runs.checkpoint import save_checkpoint

        file = _FILE.format(rank=self.accelerator.process_index)
        save_checkpoint(Path(folder) / file, self.state_dict())

    def _load(self, models: Any, folder: str) -> None:
        from segue.runs.checkpoint import load_checkpoint

        state = load_checkpoint(Path(folder) / _FILE.format(rank=0))
        saved, ranks = state["num_processes"], self.accelerator.num_processes
        if saved != ranks and self._sharded:
            raise ValueError(
                f"the number of processes must be the saved one ({saved}) with sharded=True, "
                f"got {ranks}"
            )
        if saved == ranks:
            rank = self.accelerator.process_index
            self.load_state_dict(load_checkpoint(Path(folder) / _FILE.format(rank=rank)))
            return
        # The replay stream is a position in a global order, so another number of processes goes on
        # in it; the source's dropout cannot.
        warnings.warn(
            f"saved by {saved} processes, continued by {ranks}: the source's dropout is drawn anew",
            RuntimeWarning,
            stacklevel=2,
        )
        fresh = self.smoothing.state_dict()
        kept = {"random_state": fresh["random_state"], "seed": fresh["seed"]}
        self.load_state_dict({**state, "smoothing": {**state["smoothing"], **kept}})


def _check_accelerator(accelerator: Accelerator) -> None:
    kind = accelerator.distributed_type
    if kind in _UNSUPPORTED or (kind == DistributedType.FSDP and not accelerator.is_fsdp2):
        raise ValueError(
            f"accelerator must run one process, DDP or FSDP2 (fsdp_version=2), got {kind.value}"
        )


def _as_numbers(digest: str) -> list[int]:
    """A hexadecimal digest as numbers that fit int64."""
    return [int(digest[start : start + 15], 16) for start in range(0, len(digest), 15)]
