"""The source's share of one optimizer step: the same examples however the step is split."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segue.randomness import derived_seed, own_global_random_states
from segue.sources.replay import Replay

__all__ = ["SourceWindow", "draw_window"]


@dataclass(frozen=True)
class SourceWindow:
    """A rank's source micro-batches of one optimizer step.

    Attributes:
        batches: One collated batch per micro-batch; None where the step has more micro-batches than
            the rank has source examples.
        counts: Number of items of each, on the rank's device.
        total_count: Number of items of the whole step over all ranks.
    """

    batches: list[Any]
    counts: list[Tensor]
    total_count: Tensor


def draw_window(
    replay: Replay,
    num_micro_batches: int,
    *,
    collate: Callable[[list[Any]], Any],
    count: Callable[[Any], Tensor],
    sum_over_ranks: Callable[[Tensor], Tensor],
    device: torch.device,
) -> SourceWindow:
    """Draw the next global source batch and cut this rank's slice into micro-batches.

    All ranks cut alike, so that each of them has as many forward passes as any other. What a
    collator draws at random follows the position in the source stream alone.
    """
    position = replay.state_dict()["position"]
    examples = next(replay)
    batches: list[Any] = []
    counts: list[Tensor] = []
    for start, end in _cuts(len(examples), num_micro_batches):
        if start == end:
            batches.append(None)
            counts.append(torch.zeros((), dtype=torch.int64, device=device))
            continue
        first = position + replay.rank * len(examples) + start
        with own_global_random_states(derived_seed("source collate", replay.seed, first)):
            batch = collate(examples[start:end])
        batches.append(batch)
        counts.append(count(batch).to(device))
    return SourceWindow(batches, counts, sum_over_ranks(torch.stack(counts).sum()))


def _cuts(num_examples: int, num_parts: int) -> list[tuple[int, int]]:
    """Bounds of nearly equal parts.

    >>> _cuts(8, 3)
    [(0, 2), (2, 5), (5, 8)]
    """
    edges = [num_examples * part // num_parts for part in range(num_parts + 1)]
    return list(itertools.pairwise(edges))
