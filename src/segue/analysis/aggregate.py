"""Scores of one arm over several tasks: normalised per task, then IQM, mean and who wins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from segue.analysis.bootstrap import (
    Estimate,
    iqm,
    mean_of_task_means,
    probability_of_improvement,
    stratified_bootstrap,
)

__all__ = ["Aggregate", "Anchors", "aggregate", "normalise"]


class Anchors(NamedTuple):
    """Raw scores that are 0 and 1 on a task's normalised scale."""

    zero: float
    one: float


@dataclass(frozen=True)
class Aggregate:
    """One arm over all tasks.

    Attributes:
        iqm: Interquartile mean of the normalised scores of all runs of all tasks.
        mean: Mean over tasks of the tasks' means.
        probability: Probability that a run of the arm is better than one of the baseline on a task
            drawn at random; None without a baseline.
        num_tasks: Tasks that count.
        num_runs: Runs that count.
    """

    iqm: Estimate
    mean: Estimate
    probability: Estimate | None
    num_tasks: int
    num_runs: int


def normalise(scores: Sequence[float], anchors: Anchors) -> list[float]:
    """Return ``(score - zero) / (one - zero)``; the anchors are taken as known, not as estimates.

    Raises:
        ValueError: If the anchors are equal or not finite.

    >>> normalise([10.0, 30.0], Anchors(zero=10.0, one=20.0))
    [0.0, 2.0]
    """
    zero, one = anchors
    if not math.isfinite(zero) or not math.isfinite(one) or zero == one:
        raise ValueError(f"anchors must be finite and differ, got {zero} and {one}")
    return [(score - zero) / (one - zero) for score in scores]


def aggregate(
    scores_by_task: Mapping[str, Sequence[float]],
    rng: np.random.Generator,
    *,
    pairs_by_task: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    joint: bool = False,
    num_resamples: int = 2000,
    confidence: float = 0.95,
) -> Aggregate:
    """Aggregate one arm's normalised scores over tasks, with stratified bootstrap intervals.

    Args:
        scores_by_task: Normalised scores of the runs of each task, in the order of the seeds if
            ``joint``.
        rng: The generator; equal scores and state give equal intervals.
        pairs_by_task: Scores of this arm and of the baseline at equal seeds by task, higher being
            better; any scale, since only the order within a task counts. None: no probability.
        joint: Redraw the same runs in every task, for seeds that share a source model across tasks;
            where the tasks have unequal numbers of runs, they are redrawn task by task instead.
        num_resamples: Number of bootstrap samples.
        confidence: Nominal coverage, see :mod:`segue.analysis.bootstrap`.

    Raises:
        ValueError: Fewer than two tasks: a single task's t interval covers better.

    Source: arXiv 2108.13264, sections 4.1 to 4.3.
    """
    if len(scores_by_task) < 2:
        raise ValueError(f"scores_by_task must hold at least 2 tasks, got {len(scores_by_task)}")
    same = len({len(scores) for scores in scores_by_task.values()}) == 1
    middle, mean = (
        stratified_bootstrap(
            scores_by_task,
            statistic,
            rng,
            num_resamples=num_resamples,
            confidence=confidence,
            joint=joint and same,
        )
        for statistic in (iqm, mean_of_task_means)
    )
    probability = None
    pairs = {task: pair for task, pair in (pairs_by_task or {}).items() if len(pair[0])}
    if pairs:
        own = {task: first for task, (first, _) in pairs.items()}
        other = {task: second for task, (_, second) in pairs.items()}
        equal = len({len(scores) for scores in own.values()}) == 1
        probability = probability_of_improvement(
            own,
            other,
            rng,
            num_resamples=num_resamples,
            confidence=confidence,
            paired=True,
            joint=joint and equal,
        )
    num_runs = sum(map(len, scores_by_task.values()))
    return Aggregate(middle, mean, probability, len(scores_by_task), num_runs)
