"""Metrics read from a record's curves, and how fast an arm reaches the baseline's final score."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segue.analysis.curves import (
    Curve,
    Point,
    final_value,
    steps_to_reach,
)
from segue.analysis.matching import (
    DEFAULT_MATCH,
    SEED_PATH,
    Arm,
    Group,
    as_arm,
    lookup,
    select,
)
from segue.analysis.pairing import pair_groups

if TYPE_CHECKING:
    from segue.runs.records import Record


@dataclass(frozen=True)
class SpeedPair:
    """One pair: the baseline's final score and the steps that the treatment needs to reach it.

    ``treatment_steps`` is ``None`` if the treatment never reaches it within its own run.
    """

    seed: Any
    score: float
    treatment_steps: int | None


@dataclass(frozen=True)
class SpeedRow:
    """Steps to the baseline's final score in one group.

    ``median_treatment_steps`` counts a run that never got there as infinite, so it is ``inf``
    where at least half do not, and ``nan`` without pairs. ``notes`` names unpaired
    runs and those without a finite curve.
    """

    group: Group
    treatment: str
    baseline: str
    pairs: tuple[SpeedPair, ...]
    num_reached: int
    median_treatment_steps: float
    notes: tuple[str, ...]


def curve_metric(
    curve: str, measure: Callable[[Curve], float | int | Point | None], *, name: str | None = None
) -> Callable[[Record], float | None]:
    """Turn a measure of a curve into a metric for ``table`` and ``compare``.

    Args:
        curve: Name of the curve in the record.
        measure: Such as ``forgetting`` or ``lowest_after_switch``; of a :class:`Point` the value
            counts. ``None``, as for a score never reached, makes the run unusable and is named.
        name: The metric's name; by default built from both names.

    >>> from segue.analysis.curves import forgetting
    >>> curve_metric("source_accuracy", forgetting).__name__
    'forgetting of source_accuracy'
    """

    def metric(record: Record) -> float | None:
        if curve not in record.curves:
            return None
        result = measure(record.curves[curve])
        if isinstance(result, Point):
            return result.value
        return None if result is None else float(result)

    metric.__name__ = name or f"{getattr(measure, '__name__', 'measure')} of {curve}"
    return metric


def steps_to_baseline_score(
    records: Iterable[Record],
    *,
    treatment: Arm | str,
    baseline: Arm | str,
    group_by: Sequence[str] = ("shift.name",),
    match: Sequence[str] = DEFAULT_MATCH,
    where: Mapping[str, Any] | None = None,
    curve: str = "target_accuracy",
    sustained: bool = False,
) -> list[SpeedRow]:
    """Optimizer steps until the treatment reaches the paired baseline run's final score.

    Args:
        records: As in :func:`segue.analysis.comparison.compare`.
        treatment: Likewise.
        baseline: Usually the hard switch.
        group_by: As in ``compare``.
        match: As in ``compare``.
        where: As in ``compare``.
        curve: Name of the curve; its evaluation steps are the resolution.
        sustained: Count only a step from which on the curve stays at the score.
    """
    pairings = pair_groups(
        select(records, where),
        treatment=as_arm(treatment),
        baseline=as_arm(baseline),
        group_by=group_by,
        match=match,
    )
    rows = []
    for pairing in pairings:
        notes = list(pairing.unpaired)
        measured: list[SpeedPair] = []
        for first, second in pairing.pairs:
            result = _speed(first, second, curve, sustained)
            if isinstance(result, SpeedPair):
                measured.append(result)
            else:
                notes.append(result)
        steps = [
            math.inf if pair.treatment_steps is None else float(pair.treatment_steps)
            for pair in measured
        ]
        rows.append(
            SpeedRow(
                group=pairing.group,
                treatment=pairing.treatment,
                baseline=pairing.baseline,
                pairs=tuple(measured),
                num_reached=sum(math.isfinite(step) for step in steps),
                median_treatment_steps=statistics.median(steps) if steps else math.nan,
                notes=tuple(notes),
            )
        )
    return rows


def _speed(first: Record, second: Record, curve: str, sustained: bool) -> SpeedPair | str:
    """The pair's steps, or a sentence that names the run which has no usable curve."""
    seed = lookup(first.config, SEED_PATH)
    for record in (first, second):
        if record.status != "completed" or curve not in record.curves:
            return f"seed {seed}, run {record.run_id}: {record.status}, no {curve} curve to read"
    score = final_value(second.curves[curve])
    if not math.isfinite(score):
        return f"seed {seed}, run {second.run_id}: the final {curve} is not finite"
    reached = steps_to_reach(first.curves[curve], score, sustained=sustained)
    return SpeedPair(seed, score, reached)
