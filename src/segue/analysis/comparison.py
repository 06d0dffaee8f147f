"""Tables and paired comparisons over records, group by group (a group is usually a shift)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.analysis.matching import (
    DEFAULT_MATCH,
    METHOD_PATH,
    Arm,
    Group,
    UnusableRun,
    as_arm,
    check_metric,
    check_one_setting,
    check_paths,
    lookup,
    metric_name,
    read_score,
    select,
    split_groups,
)
from segue.analysis.pairing import Pairing, Readings, pair_groups, read_pairs
from segue.analysis.statistics import PairedDifference, holm, paired_difference, t_interval
from segue.analysis.verdicts import FEWEST_PAIRS, Verdict, verdict

if TYPE_CHECKING:
    from segue.runs.records import Record


@dataclass(frozen=True)
class TableRow:
    """Scores of one group, usually one (shift, method).

    Attributes:
        group: The group's values by dotted path.
        metric: The metric's name.
        mean: Mean over the usable runs; ``nan`` without one.
        sd: Standard deviation (denominator n - 1); ``nan`` below two runs.
        low: Lower end of the t interval of the mean; ``nan`` below two runs.
        high: Upper end.
        num_runs: Number of usable runs, n.
        values: (seed, score) of each usable run, by seed.
        unusable: Runs that failed or have no finite score. Where there are any, the mean is of
            the runs that survived.
    """

    group: Group
    metric: str
    mean: float
    sd: float
    low: float
    high: float
    num_runs: int
    values: tuple[tuple[Any, float], ...]
    unusable: tuple[UnusableRun, ...]


@dataclass(frozen=True)
class ComparisonRow:
    """One group of a comparison. Scores and differences are in the metric's own unit.

    Attributes:
        group: The group's values by dotted path.
        treatment: The treatment's name.
        baseline: The baseline's name, with the method where it was chosen group by group.
        metric: The metric's name.
        difference: Treatment minus baseline over the usable pairs.
        adjusted_p: Its p after Holm over all rows of the comparison.
        smallest_adjusted_p: The smallest adjusted p that these numbers of pairs can reach.
        verdict: Decision, sentence, reason and notes.
        seeds: The seeds of the usable pairs, in order.
        treatment_scores: Scores of these pairs.
        baseline_scores: Likewise.
        unusable: Runs of a pair that failed or have no finite score.
        unpaired: One sentence for each run without a partner.
        differs_in: Config paths in which the arms differ, as (treatment's, baseline's) value.
        scale: Factor from the metric's unit to ``unit``.
        unit: Unit of the verdict's sentence.
        digits: Digits after the point in it.
    """

    group: Group
    treatment: str
    baseline: str
    metric: str
    difference: PairedDifference
    adjusted_p: float
    smallest_adjusted_p: float
    verdict: Verdict
    seeds: tuple[Any, ...]
    treatment_scores: tuple[float, ...]
    baseline_scores: tuple[float, ...]
    unusable: tuple[UnusableRun, ...]
    unpaired: tuple[str, ...]
    differs_in: Mapping[str, tuple[Any, Any]]
    scale: float
    unit: str
    digits: int = 1


def table(
    records: Iterable[Record],
    *,
    metric: str | Callable[[Record], float | None] = "target_accuracy",
    group_by: Sequence[str] = ("shift.name", METHOD_PATH),
    where: Mapping[str, Any] | None = None,
    confidence: float = 0.95,
) -> list[TableRow]:
    """Summarise scores group by group.

    Args:
        records: The records.
        metric: A metric's name, or a function of a record that returns a score or ``None``.
        group_by: Config paths within whose values one row is made.
        where: Config values, by dotted path, that records must have.
        confidence: Nominal coverage of the t interval.

    Raises:
        ValueError: An unknown path or metric, or a row that would mix settings or hold a seed
            twice.
    """
    chosen = select(records, where)
    check_paths("group_by", group_by, chosen)
    check_metric(metric, chosen)
    rows = []
    for group, members in split_groups(chosen, group_by):
        by_seed = check_one_setting(members, "the row", group)
        label = str(lookup(members[0].config, METHOD_PATH))
        runs = [by_seed[seed] for seed in sorted(by_seed, key=lambda s: (len(s), s))]
        scores = [read_score(run, metric, label) for run in runs]
        values = tuple(
            (lookup(run.config, "seed"), score)
            for run, score in zip(runs, scores, strict=True)
            if isinstance(score, float)
        )
        interval = t_interval([score for _, score in values], confidence=confidence)
        rows.append(
            TableRow(
                group=group,
                metric=metric_name(metric),
                mean=interval.mean,
                sd=interval.sd,
                low=interval.low,
                high=interval.high,
                num_runs=interval.num_values,
                values=values,
                unusable=tuple(score for score in scores if isinstance(score, UnusableRun)),
            )
        )
    return rows


def compare(
    records: Iterable[Record],
    *,
    treatment: Arm | str,
    baseline: Arm | str,
    group_by: Sequence[str] = ("shift.name",),
    match: Sequence[str] = DEFAULT_MATCH,
    metric: str | Callable[[Record], float | None] = "target_accuracy",
    where: Mapping[str, Any] | None = None,
    higher_is_better: bool = True,
    confidence: float = 0.95,
    alpha: float = 0.05,
    min_pairs: int = FEWEST_PAIRS,
    scale: float = 100.0,
    unit: str = "points",
    digits: int = 1,
    rng: np.random.Generator | None = None,
) -> list[ComparisonRow]:
    """Compare two arms in every group by paired runs, with Holm over the groups.

    A comparison at equal compute is the same call with another baseline, or with a metric that
    reads each curve at a common budget; leave out of ``match`` what then differs on purpose.

    Args:
        records: Records of any arms; each arm picks its own.
        treatment: An :class:`Arm`, or a method's name.
        baseline: Likewise.
        group_by: Config paths within whose values one comparison is made. Every group counts in
            Holm's adjustment, also one in which nothing could be paired.
        match: Config paths that must be equal within a pair; must contain "seed".
        metric: A metric's name, or a function of a record that returns a score or ``None``.
        where: Config values, by dotted path, that records of both arms must have.
        higher_is_better: Direction of the metric.
        confidence: Nominal coverage of the t interval, which is not adjusted for the groups.
        alpha: Level of the whole set of groups.
        min_pairs: Fewest pairs that may decide; at least 6.
        scale: Factor from the metric's unit to ``unit``.
        unit: Unit of the sentences.
        digits: Digits after the point in the sentences.
        rng: Draws sign patterns; needed only above 20 pairs.

    Raises:
        ValueError: An unknown path or metric, an arm without any record or with mixed settings
            within a group, or an argument out of range.
    """
    first, second = as_arm(treatment), as_arm(baseline)
    chosen = select(records, where)
    pairings = pair_groups(chosen, treatment=first, baseline=second, group_by=group_by, match=match)
    check_metric(metric, [record for p in pairings for pair in p.pairs for record in pair])
    readings = [read_pairs(pairing, metric) for pairing in pairings]
    differences = [
        paired_difference(r.treatment, r.baseline, confidence=confidence, rng=rng) for r in readings
    ]
    adjusted = holm([d.p_value for d in differences])
    # Holm never decreases when any p grows, so the adjusted smallest p's are the smallest
    # adjusted p's.
    smallest = holm([d.smallest_p for d in differences])
    rows = []
    for i, (pairing, reading) in enumerate(zip(pairings, readings, strict=True)):
        judged = verdict(
            differences[i],
            adjusted[i],
            baseline=pairing.baseline,
            min_pairs=min_pairs,
            alpha=alpha,
            num_comparisons=len(pairings),
            smallest_adjusted_p=smallest[i],
            higher_is_better=higher_is_better,
            scale=scale,
            unit=unit,
            digits=digits,
            treatment_only_failures=reading.treatment_only,
            baseline_only_failures=reading.baseline_only,
            notes=_notes(pairing, reading),
        )
        ps = (adjusted[i], smallest[i])
        name = metric_name(metric)
        how = (scale, unit, digits)
        rows.append(_row(pairing, reading, name, differences[i], ps, judged, how))
    return rows


def _row(
    pairing: Pairing,
    reading: Readings,
    metric: str,
    difference: PairedDifference,
    ps: tuple[float, float],
    judged: Verdict,
    how: tuple[float, str, int],
) -> ComparisonRow:
    scale, unit, digits = how
    return ComparisonRow(
        group=pairing.group,
        treatment=pairing.treatment,
        baseline=pairing.baseline,
        metric=metric,
        difference=difference,
        adjusted_p=ps[0],
        smallest_adjusted_p=ps[1],
        verdict=judged,
        seeds=reading.seeds,
        treatment_scores=reading.treatment,
        baseline_scores=reading.baseline,
        unusable=reading.unusable,
        unpaired=pairing.unpaired,
        differs_in=pairing.differs_in,
        scale=scale,
        unit=unit,
        digits=digits,
    )


def _notes(pairing: Pairing, reading: Readings) -> list[str]:
    notes = []
    for seeds, arm, other in (
        (reading.treatment_only, pairing.treatment, pairing.baseline),
        (reading.baseline_only, pairing.baseline, pairing.treatment),
    ):
        if seeds:
            listed = ", ".join(map(str, seeds))
            notes.append(f"{arm} has no usable run where {other} has one: seed {listed}")
    return [*notes, *map(str, reading.unusable), *pairing.unpaired]


def count_decisions(rows: Iterable[ComparisonRow]) -> dict[str, int]:
    """How many groups helped, hurt and are undecided."""
    counts = Counter(row.verdict.decision for row in rows)
    return {decision: counts[decision] for decision in ("helps", "hurts", "undecided")}
