"""Interleaved measurement, so that a change of the machine's mood meets every arm alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping

__all__ = ["interleaved", "ratio_of_medians", "spread", "verdict"]


def interleaved(
    arms: Mapping[str, Callable[[], object]], num_rounds: int, num_warmups: int = 3
) -> dict[str, list[float]]:
    """Return the process time in seconds of every arm at every round; their order is shuffled."""
    order = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for index in range(-num_warmups, num_rounds):
        names = list(arms)
        order.shuffle(names)
        for name in names:
            start = time.process_time()
            arms[name]()
            if index >= 0:
                seconds[name].append(time.process_time() - start)
    return seconds


def spread(values: list[float]) -> tuple[float, float, float]:
    """Return the median and both quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, low, high


def ratio_of_medians(above: list[float], below: list[float]) -> tuple[float, float, float]:
    """Return the ratio and its 95 % bootstrap interval over rounds."""
    draw = random.Random(0)
    rounds = range(len(above))
    drawn = []
    for _ in range(1000):
        chosen = draw.choices(rounds, k=len(rounds))
        drawn.append(
            statistics.median(above[i] for i in chosen)
            / statistics.median(below[i] for i in chosen)
        )
    cuts = statistics.quantiles(drawn, n=40)
    return statistics.median(above) / statistics.median(below), cuts[0], cuts[-1]


def verdict(ok: bool) -> str:
    """Say whether a target was met."""
    return "ok" if ok else "MISSED"
