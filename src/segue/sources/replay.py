"""Replay: a small bank of source examples, served for ever in a reproducible order.

The stream of source examples is the concatenation of shuffled passes over the bank. Pass ``p`` is a
permutation drawn from a generator seeded by ``(seed, p)`` alone, and a position in the stream is a
single integer, so that resuming is exact and needs no generator state. Ranks and micro-batches take
slices of the global source batch of an optimizer step.
"""

from __future__ import annotations

import copy
import itertools
import operator
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from segue.batches import batch_size as size_of
from segue.batches import hash_content, map_tensors
from segue.checks import check_at_least_one, check_count
from segue.randomness import derived_seed, own_global_random_states

__all__ = ["Replay"]

Collate = Callable[[list[Any]], Any]


class Replay(Iterator[Any]):
    """A bank of retained source examples; ``next(replay)`` is the next batch, for ever.

    Args:
        dataset: The source data. One of: tensors that share their first dimension (one tensor, or a
            tuple or dict of them), any map-style dataset (``len`` and ``[]``), or any iterable
            of examples. Of map-style data and tensors a random subset of ``num_examples`` is kept;
            of an iterable the first ``num_examples``.
        num_examples: Size of the bank. None keeps everything.
        batch_size: Source examples per *optimizer step*, over all ranks and micro-batches. A
            multiple of ``world_size * num_micro_batches``.
        seed: Seeds the choice of the bank and the order. The global random states are untouched.
        collate_fn: Turns a list of examples into a batch. Without it PyTorch's default collation is
            applied once to the whole bank, and a batch is an index into it. An example is drawn from
            the dataset once, so a random augmentation is frozen at its first draw; to augment anew
            each time, do so in the source loss. What ``collate_fn`` draws from the global random
            states depends on ``seed`` and the position alone.
        device: Moves the bank to this device, once; not with ``collate_fn``.
        rank: Index of this process, in [0, ``world_size``).
        world_size: Number of processes that share an optimizer step.
        num_micro_batches: Accumulated backward passes per optimizer step.

    Raises:
        ValueError: If the source is empty, has fewer than ``num_examples`` examples, or fewer than a
            batch; or a count is out of range.

    Source: arXiv 2607.00634; 256 retained source examples.

    >>> replay = Replay(torch.arange(100), num_examples=8, batch_size=4, seed=0)
    >>> first_pass = torch.cat([next(replay), next(replay)])
    >>> len(first_pass.unique())
    8
    """

    def __init__(
        self,
        dataset: Any,
        *,
        num_examples: int | None = 256,
        batch_size: int,
        seed: int = 0,
        collate_fn: Collate | None = None,
        device: torch.device | str | None = None,
        rank: int = 0,
        world_size: int = 1,
        num_micro_batches: int = 1,
    ) -> None:
        self.seed = check_count("seed", seed)
        self.batch_size = check_at_least_one("batch_size", batch_size)
        self.world_size = check_at_least_one("world_size", world_size)
        self.num_micro_batches = check_at_least_one("num_micro_batches", num_micro_batches)
        self.rank = check_count("rank", rank)
        if self.rank >= self.world_size:
            raise ValueError(f"rank must be < world_size ({self.world_size}), got {self.rank}")
        if self.batch_size % (self.world_size * self.num_micro_batches):
            raise ValueError(
                "batch_size must be a multiple of world_size * num_micro_batches "
                f"({self.world_size} * {self.num_micro_batches}), got {self.batch_size}"
            )
        if num_examples is not None:
            num_examples = check_at_least_one("num_examples", num_examples)

        self._collate = collate_fn
        if collate_fn is not None and device is not None:
            raise ValueError(
                f"device must be None with collate_fn, got {device!r}; move the batch in collate_fn"
            )
        # A random transform draws from the global states: what it gives is to follow the seed.
        with own_global_random_states(derived_seed("replay bank", self.seed)):
            self._bank, self.num_examples = _fill_bank(
                dataset, num_examples, self.seed, collate_fn, device
            )
        if self.num_examples < self.batch_size:
            raise ValueError(
                f"batch_size must be <= the number of source examples kept ({self.num_examples}), "
                f"got {self.batch_size}"
            )
        self._position = 0  # in the stream of examples over all ranks
        self._micro_batch = 0
        self._order: tuple[int, Tensor] | None = None
        self._content_hash: str | None = None

    def __iter__(self) -> Replay:
        return self

    def __next__(self) -> Any:
        """Return this rank's slice of the next (micro-)batch, ``batch_size / (ranks · micro)``."""
        share = self.batch_size // (self.world_size * self.num_micro_batches)
        offset = (self._micro_batch * self.world_size + self.rank) * share
        batch = self._gather(self._position + offset, share)
        self._micro_batch += 1
        if self._micro_batch == self.num_micro_batches:
            self._micro_batch = 0
            self._position += self.batch_size
        return batch

    def take(self, num_examples: int) -> Any:
        """Return the next ``num_examples`` of this rank (for the mixed mode, where it varies)."""
        count = check_at_least_one("num_examples", num_examples)
        batch = self._gather(self._position + self.rank * count, count)
        self._position += self.world_size * count
        return batch

    @property
    def released(self) -> bool:
        """True once the bank has been freed."""
        return self._bank is None

    def release(self) -> None:
        """Free the bank. The position is kept; drawing from it is an error from now on."""
        self._bank = None
        self._order = None

    @property
    def content_hash(self) -> str:
        """SHA-256 of the bank's examples, in order."""
        if self._content_hash is None:
            self._content_hash = hash_content(self._require_bank())
        return self._content_hash

    def state_dict(self) -> dict[str, Any]:
        """Position in the stream and what identifies it; plain numbers and strings."""
        return {
            "position": self._position,
            "micro_batch": self._micro_batch,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "num_micro_batches": self.num_micro_batches,
            "released": self.released,
            "content_hash": None if self.released else self.content_hash,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a saved position.

        Raises:
            ValueError: If the bank, its seed or its batches are not those of the saved state.
        """
        if self.released and not state["released"]:
            raise ValueError(
                "the replay bank was released and cannot go back into the ramp; make a new Replay"
            )
        for name in ("seed", "batch_size", "num_micro_batches"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"{name} must equal the saved replay's ({state[name]}), "
                    f"got {getattr(self, name)}"
                )
        saved_hash = state["content_hash"]
        if saved_hash is not None and not self.released and saved_hash != self.content_hash:
            raise ValueError(
                "the replay bank must hold the examples it held when it was saved: content hash "
                f"{saved_hash[:12]}… was saved, this bank has {self.content_hash[:12]}…"
            )
        self._position = check_count("position", state["position"])
        self._micro_batch = check_count("micro_batch", state["micro_batch"])
        if state["released"]:
            self.release()

    def _require_bank(self) -> Any:
        if self._bank is None:
            raise RuntimeError(
                "the replay bank was released: the ramp is over and the source is needed no more"
            )
        return self._bank

    def _gather(self, start: int, count: int) -> Any:
        bank = self._require_bank()
        index = torch.cat(list(self._indices(start, count)))
        if self._collate is not None:
            # Shallow copies, because some collators pop or replace fields of what they are given;
            # and random states of their own, because some mask at random.
            examples = [_shallow_copy(bank[i]) for i in index.tolist()]
            with own_global_random_states(derived_seed("replay collate", self.seed, start)):
                return self._collate(examples)
        return map_tensors(lambda tensor: tensor[index.to(tensor.device)], bank)

    def _indices(self, start: int, count: int) -> Iterator[Tensor]:
        while count > 0:
            number, offset = divmod(start, self.num_examples)
            part = self._permutation(number)[offset : offset + count]
            yield part
            start, count = start + len(part), count - len(part)

    def _permutation(self, number: int) -> Tensor:
        if self._order is None or self._order[0] != number:
            seed = derived_seed("replay", self.seed, number)
            generator = torch.Generator().manual_seed(seed)
            self._order = (number, torch.randperm(self.num_examples, generator=generator))
        return self._order[1]


def _shallow_copy(example: Any) -> Any:
    return copy.copy(example) if isinstance(example, Mapping | list) else example


def _fill_bank(
    dataset: Any,
    num_examples: int | None,
    seed: int,
    collate_fn: Collate | None,
    device: torch.device | str | None,
) -> tuple[Any, int]:
    """Return the bank (collated tensors, or a list of examples with an own collator), its size."""
    if _is_tensors(dataset):
        size = size_of(dataset, "dataset")
        index = torch.tensor(_choose(size, num_examples, seed), dtype=torch.long)
        bank = map_tensors(lambda tensor: tensor[index.to(tensor.device)], dataset)
        if collate_fn is not None:
            rows = [map_tensors(operator.itemgetter(row), bank) for row in range(len(index))]
            return rows, len(index)
        return _to_device(bank, device), len(index)
    examples = list(_examples(dataset, num_examples, seed))
    if collate_fn is not None:
        hash_content(examples[0])  # its checkpoints need that, and had better fail here
        return examples, len(examples)
    try:
        bank = default_collate(examples)
        size_of(bank, "source example")
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(
            f"the source examples cannot be collated by default ({error}); pass collate_fn="
        ) from error
    return _to_device(bank, device), len(examples)


def _examples(dataset: Any, num_examples: int | None, seed: int) -> Iterator[Any]:
    if _yields_batches(dataset):
        raise TypeError(
            "dataset must give single examples, got a DataLoader of batches; pass its .dataset, or "
            "a DataLoader with batch_size=None"
        )
    # PyTorch's iterable datasets inherit a [] that only raises.
    without_items = isinstance(dataset, IterableDataset | Mapping)
    if not without_items and isinstance(dataset, Sized) and hasattr(dataset, "__getitem__"):
        for index in _choose(len(dataset), num_examples, seed):
            yield dataset[index]
        return
    if isinstance(dataset, Mapping) or not isinstance(dataset, Iterable):
        raise TypeError(
            "dataset must be tensors, a map-style dataset or an iterable, "
            f"got {type(dataset).__name__}"
        )
    examples = list(itertools.islice(dataset, num_examples))
    _check_enough(len(examples), num_examples)
    yield from examples


def _yields_batches(dataset: Any) -> bool:
    return isinstance(dataset, DataLoader) and (
        dataset.batch_size is not None or dataset.batch_sampler is not None
    )


def _choose(size: int, num_examples: int | None, seed: int) -> Sequence[int]:
    _check_enough(size, num_examples)
    if num_examples is None:
        return range(size)
    # random.sample keeps memory flat, however large the source is.
    return random.Random(f"segue bank {seed}").sample(range(size), num_examples)


def _check_enough(size: int, num_examples: int | None) -> None:
    if size == 0:
        raise ValueError("dataset must hold at least one source example, got an empty one")
    if num_examples is not None and size < num_examples:
        raise ValueError(
            f"num_examples must be <= the number of source examples ({size}), got {num_examples}; "
            "pass num_examples=None to keep them all"
        )


def _is_tensors(dataset: Any) -> bool:
    if isinstance(dataset, Tensor):
        return True
    if not isinstance(dataset, dict | tuple):  # a list is a list of examples
        return False
    values = list(dataset.values() if isinstance(dataset, dict) else dataset)
    if any(isinstance(value, np.ndarray) for value in values):
        raise TypeError(
            f"a {type(dataset).__name__} as dataset must hold tensors, got NumPy arrays; use "
            "torch.from_numpy, or a list if each array is an example"
        )
    return (
        len(values) > 0
        and all(isinstance(value, Tensor) for value in values)
        and all(value.ndim > 0 for value in values)
    )


def _to_device(bank: Any, device: torch.device | str | None) -> Any:
    return bank if device is None else map_tensors(lambda tensor: tensor.to(device), bank)
