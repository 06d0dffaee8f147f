"""Summaries of scores over several tasks (shifts, environments) with bootstrap intervals.

A *task* has one array of scores, one score per run; tasks may have unequal numbers of runs and
none is cut to the shortest. Intervals are percentile intervals: runs are redrawn within their
task, tasks stay. They rest on the data and the given generator only: scores are put in a fixed
order before anything is drawn, so reading the same records in another order changes nothing.

Coverage, simulated with normal scores (tests/analysis/test_coverage.py): within a task of n runs
the bootstrap variance is short by the factor (n - 1) / n. A nominal 95 % interval of nine
independent tasks covers about 94 % with ten runs each and 93 % with five. A single task covers
90 % with ten runs, 84 % with five and 71 % with three: use
:func:`segue.analysis.statistics.t_interval` there.

Source: Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice",
arXiv 2108.13264.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from segue.analysis.statistics import check_confidence, check_generator, finite_vector

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
ScoresByTask = Mapping[str, ArrayLike] | Sequence[ArrayLike]
Statistic = Callable[[Sequence[Array]], "float | Array"]


@dataclass(frozen=True)
class Estimate:
    """A statistic of the data with its percentile bootstrap interval."""

    value: float
    low: float
    high: float
    confidence: float
    num_resamples: int


@dataclass(frozen=True)
class PerformanceProfile:
    """Share of runs whose score exceeds each threshold, tasks weighing equally.

    ``low`` and ``high`` bound each threshold by itself, not the whole curve at once.
    """

    thresholds: tuple[float, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    confidence: float
    num_resamples: int


def _pool(scores: ArrayLike | Sequence[ArrayLike]) -> Array:
    """Concatenate tasks along the last axis; a flat list of numbers is already the pool."""
    if isinstance(scores, np.ndarray) and scores.ndim <= 1:
        return np.asarray(scores, dtype=np.float64)
    parts = [np.asarray(part, dtype=np.float64) for part in scores]  # type: ignore[union-attr]
    if not parts or all(part.ndim == 0 for part in parts):
        return np.asarray(parts, dtype=np.float64)
    return np.concatenate(parts, axis=-1)


def iqm(scores: ArrayLike | Sequence[ArrayLike]) -> float | Array:
    """Interquartile mean: the mean without the lowest and the highest quarter of the runs.

    Of n pooled scores ``floor(n / 4)`` are left out at each end.

    Args:
        scores: Either scores of shape (n,), or one array per task, each of shape
            (..., num_runs), pooled along the last axis.

    Returns:
        A float, or an array over the leading axes.

    Raises:
        ValueError: Without scores, or with one that is not finite.

    Source: arXiv 2108.13264, section 4.3.

    >>> iqm([0.0, 1.0, 2.0, 100.0])
    1.5
    """
    pool = _pool(scores)
    if pool.size == 0:
        raise ValueError("scores must hold at least one score, got none")
    if not np.all(np.isfinite(pool)):
        raise ValueError("scores must be finite, got nan or inf")
    result = stats.trim_mean(pool, 0.25, axis=-1)
    return float(result) if np.ndim(result) == 0 else np.asarray(result, dtype=np.float64)


def mean_of_task_means(scores_by_task: Sequence[ArrayLike]) -> float | Array:
    """Mean over tasks of the mean over runs (last axis): every task weighs the same."""
    means = [np.mean(np.asarray(scores, dtype=np.float64), axis=-1) for scores in scores_by_task]
    result = np.mean(np.stack(means), axis=0)
    return float(result) if np.ndim(result) == 0 else np.asarray(result, dtype=np.float64)


def _tasks(name: str, scores_by_task: ScoresByTask) -> list[Array]:
    labelled = (
        [(f"{name}[{key!r}]", scores_by_task[key]) for key in sorted(scores_by_task)]
        if isinstance(scores_by_task, Mapping)
        else [(f"{name}[{i}]", scores) for i, scores in enumerate(scores_by_task)]
    )
    if not labelled:
        raise ValueError(f"{name} must hold at least one task, got none")
    arrays = []
    for label, scores in labelled:
        array = finite_vector(label, scores)
        if array.size == 0:
            raise ValueError(f"{label} must hold at least one score, got none")
        arrays.append(array)
    return arrays


def _check_draws(rng: object, num_resamples: int, confidence: float) -> np.random.Generator:
    check_confidence(confidence)
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be >= 1, got {num_resamples}")
    return check_generator(rng)


def _canonical(columns: Sequence[Array]) -> tuple[Array, ...]:
    """Sort runs by their scores (all columns together, so that pairs stay pairs)."""
    order = np.lexsort(tuple(reversed(columns)))
    return tuple(column[order] for column in columns)


def _joint_canonical(columns: Sequence[Array]) -> list[Array]:
    """Sort runs that stay together by their scores: neither run nor column order matters."""
    lengths = sorted({column.size for column in columns})
    if len(lengths) > 1:
        raise ValueError(f"joint needs equally many runs in every task, got {lengths}")
    by_content = sorted(range(len(columns)), key=lambda i: (np.sort(columns[i]).tolist(), i))
    order = np.lexsort(tuple(columns[i] for i in reversed(by_content)))
    return [column[order] for column in columns]


def _draw(tasks: Sequence[Array], rng: np.random.Generator, num_resamples: int) -> list[Indices]:
    """Draw run indices (num_resamples, n) per task, in an order fixed by the scores alone."""
    order = sorted(range(len(tasks)), key=lambda i: (tasks[i].size, tasks[i].tolist()))
    drawn = {
        i: rng.integers(0, tasks[i].size, size=(num_resamples, tasks[i].size), dtype=np.intp)
        for i in order
    }
    return [drawn[i] for i in range(len(tasks))]


def _percentiles(resampled: Array, confidence: float) -> tuple[Array, Array]:
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(resampled, [tail, 1.0 - tail], axis=0)
    return low, high


def stratified_bootstrap(
    scores_by_task: ScoresByTask,
    statistic: Statistic,
    rng: np.random.Generator,
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    joint: bool = False,
) -> Estimate:
    """Percentile interval of a statistic over tasks; runs are redrawn within each task.

    Args:
        scores_by_task: One array of finite scores per task, of any lengths >= 1. The tasks of a
            mapping are passed to ``statistic`` sorted by name.
        statistic: Maps one array per task, each (..., num_runs), to an array over the leading
            axes, such as :func:`iqm` and :func:`mean_of_task_means`. It must not depend on the
            order of runs within a task.
        rng: The generator; the same state and scores give the same interval.
        num_resamples: Number of bootstrap samples.
        confidence: Nominal coverage, in (0, 1).
        joint: Redraw the *same* runs in every task. Right where run i shares its source model
            across tasks, so that its scores go up and down together; needs equal lengths and
            run i at index i of every task.

    Raises:
        ValueError: Empty or non-finite scores, unequal lengths with ``joint``, a ``statistic``
            that does not keep the leading axis.

    >>> rng = np.random.default_rng(0)
    >>> estimate = stratified_bootstrap([[0.1, 0.2, 0.4], [0.3, 0.5]], iqm, rng)
    >>> estimate.low <= estimate.value <= estimate.high
    True
    """
    tasks = _tasks("scores_by_task", scores_by_task)
    generator = _check_draws(rng, num_resamples, confidence)
    if joint:
        tasks = _joint_canonical(tasks)
        index = generator.integers(0, tasks[0].size, size=(num_resamples, tasks[0].size))
        samples = [task[index] for task in tasks]
    else:
        tasks = [np.sort(task) for task in tasks]
        drawn = _draw(tasks, generator, num_resamples)
        samples = [task[index] for task, index in zip(tasks, drawn, strict=True)]
    resampled = np.asarray(statistic(samples), dtype=np.float64)
    if resampled.shape != (num_resamples,):
        raise ValueError(
            "statistic must map arrays (..., num_runs) to shape (...), here "
            f"({num_resamples},), got {resampled.shape}"
        )
    low, high = _percentiles(resampled, confidence)
    value = float(statistic(tasks))
    return Estimate(value, float(low), float(high), confidence, num_resamples)


def probability_of_improvement(
    x_by_task: ScoresByTask,
    y_by_task: ScoresByTask,
    rng: np.random.Generator,
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    paired: bool = False,
    joint: bool = False,
) -> Estimate:
    """Probability that a run of x beats a run of y on a task drawn at random.

    Per task it is the share of the pairs (run of x, run of y) in which x is higher, a tie counting
    one half (the Mann-Whitney U statistic over its maximum); then the mean over tasks.

    Args:
        x_by_task: Scores of the treatment, one array per task.
        y_by_task: Scores of the baseline for the same tasks.
        rng: The generator.
        num_resamples: Number of bootstrap samples.
        confidence: Nominal coverage, in (0, 1).
        paired: Redraw run i of x together with run i of y, for runs that share a seed. The value
            is the same; only the interval changes. Else x and y are redrawn independently, as in
            the source.
        joint: As ``paired``, and redraw the same runs in every task, as in
            :func:`stratified_bootstrap`.

    Raises:
        ValueError: If the tasks differ, or ``paired`` or ``joint`` meets unequal lengths.

    Source: arXiv 2108.13264, section 4.3.
    """
    if isinstance(x_by_task, Mapping) != isinstance(y_by_task, Mapping):
        raise ValueError("x_by_task and y_by_task must both be mappings or both be sequences")
    if isinstance(x_by_task, Mapping) and isinstance(y_by_task, Mapping):
        odd = sorted(set(x_by_task) ^ set(y_by_task))
        if odd:
            raise ValueError(f"x_by_task and y_by_task must have the same tasks, {odd} are in one")
    xs, ys = _tasks("x_by_task", x_by_task), _tasks("y_by_task", y_by_task)
    if len(xs) != len(ys):
        raise ValueError(f"x_by_task and y_by_task must match, got {len(xs)} and {len(ys)} tasks")
    generator = _check_draws(rng, num_resamples, confidence)
    pairs: list[tuple[Array, Array]] = []
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        if paired and x.size != y.size:
            raise ValueError(f"paired needs equal lengths, got {x.size} and {y.size} in task {i}")
        pairs.append(_canonical((x, y)) if paired else (np.sort(x), np.sort(y)))  # type: ignore[arg-type]
    shared: Indices | None = None
    if joint:
        columns = _joint_canonical([*xs, *ys])
        pairs = list(zip(columns[: len(xs)], columns[len(xs) :], strict=True))
        size = columns[0].size
        shared = generator.integers(0, size, size=(num_resamples, size), dtype=np.intp)
    order = sorted(range(len(pairs)), key=lambda i: (pairs[i][0].tolist(), pairs[i][1].tolist()))
    value, resampled = 0.0, np.zeros(num_resamples)
    for i in order:
        x, y = pairs[i]
        wins = (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])
        own = (
            generator.integers(0, x.size, size=(num_resamples, x.size))
            if shared is None
            else shared
        )
        other = own
        if not (paired or joint):
            other = generator.integers(0, y.size, size=(num_resamples, y.size))
        value += float(np.mean(wins))
        resampled += np.mean(wins[own[:, :, None], other[:, None, :]], axis=(1, 2))
    low, high = _percentiles(resampled / len(pairs), confidence)
    return Estimate(value / len(pairs), float(low), float(high), confidence, num_resamples)


def performance_profile(
    scores_by_task: ScoresByTask,
    thresholds: ArrayLike,
    rng: np.random.Generator,
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
) -> PerformanceProfile:
    """Score distribution: for each threshold the share of runs with a score above it.

    Args:
        scores_by_task: One array of finite scores per task.
        thresholds: Scores at which to evaluate, shape (num_thresholds,).
        rng: The generator.
        num_resamples: Number of bootstrap samples.
        confidence: Nominal coverage of the band at each threshold, in (0, 1).

    Source: arXiv 2108.13264, section 4.2 (run-score distribution).
    """
    tasks = [np.sort(task) for task in _tasks("scores_by_task", scores_by_task)]
    points = finite_vector("thresholds", thresholds)
    generator = _check_draws(rng, num_resamples, confidence)
    drawn = _draw(tasks, generator, num_resamples)
    resampled = np.zeros((num_resamples, points.size))
    value = np.zeros(points.size)
    for task, index in zip(tasks, drawn, strict=True):
        above = task[:, None] > points[None, :]
        value += above.mean(axis=0)
        for j in range(points.size):  # one column at a time keeps memory at runs x resamples
            resampled[:, j] += above[:, j][index].mean(axis=1)
    low, high = _percentiles(resampled / len(tasks), confidence)
    return PerformanceProfile(
        thresholds=tuple(map(float, points)),
        value=tuple(map(float, value / len(tasks))),
        low=tuple(map(float, low)),
        high=tuple(map(float, high)),
        confidence=confidence,
        num_resamples=num_resamples,
    )
