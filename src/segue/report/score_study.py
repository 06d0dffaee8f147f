"""Verdicts of the families that are not judged by accuracy: score by score, and over all tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segue.analysis.aggregate import Aggregate, Anchors, aggregate, normalise
from segue.analysis.comparison import ComparisonRow, TableRow, compare, table
from segue.analysis.matching import METHOD_PATH, Arm
from segue.report.families import FAMILIES, FamilyScore
from segue.report.sentences import group_name, summarise
from segue.report.settings import SHIFT_PATH, method_of
from segue.report.study import Regime
from segue.report.text import counted, name_of

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = [
    "ScoreClaim",
    "ScoreVerdicts",
    "compare_scores",
    "judge_scores",
    "seeds_of",
    "treatment_against",
]

Cell = tuple[str, str]
"""Shift and method."""
_FEWEST_RUNS = 3
"""Runs of a method on a task below which a bootstrap says nothing."""


@dataclass(frozen=True)
class ScoreClaim:
    """Whether the treatment is better than the hard switch in one score.

    Attributes:
        question: The claim as a question.
        decision: Over the shifts, as in :func:`segue.report.sentences.summarise`.
        sentence: The answer.
        rows: One comparison a shift.
        notes: Failed and unpaired runs.
    """

    question: str
    decision: str
    sentence: str
    rows: tuple[ComparisonRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ScoreVerdicts:
    """One score of one regime.

    Attributes:
        score: Which.
        means: (shift, method) → mean, sd, interval.
        versus: (shift, method) → paired comparison with the hard switch; Holm over the shifts, for
            each method by itself.
        claim: The treatment's, or None where it cannot be compared.
        anchors: Shift → what is 0 and 1 on the normalised scale; empty where none is needed.
        aggregates: Method → all its shifts together; empty below two shifts.
        notes: Shifts left out of the aggregates, and why.
    """

    score: FamilyScore
    means: Mapping[Cell, TableRow]
    versus: Mapping[Cell, ComparisonRow]
    claim: ScoreClaim | None
    anchors: Mapping[str, Anchors]
    aggregates: Mapping[str, Aggregate]
    notes: tuple[str, ...]

    @property
    def scale(self) -> str:
        """What the aggregates' scale is, in words."""
        if self.score.anchor:
            return "0 is the score at step 0 and 1 the hard switch's mean on that task, both taken as known"
        return "not normalised: the score has one scale on every task"


def judge_scores(regime: Regime, *, rng_seed: int = 0) -> tuple[ScoreVerdicts, ...]:
    """Judge every score of the regime's family that its records hold."""
    scores = FAMILIES[regime.family].scores
    return tuple(
        _judge(regime, score, rng_seed) for score in scores if _has(regime.records, score.metric)
    )


def _has(records: Sequence[Record], metric: str) -> bool:
    return any(r.status == "completed" and r.metrics.get(metric) is not None for r in records)


def _judge(regime: Regime, score: FamilyScore, rng_seed: int) -> ScoreVerdicts:
    means = {
        (str(row.group[SHIFT_PATH]), str(row.group[METHOD_PATH])): row
        for row in table(regime.records, metric=score.metric)
    }
    versus: dict[Cell, ComparisonRow] = {}
    claim = None
    for method in regime.methods if regime.hard_switch is not None else ():
        own = [r for r in regime.records if method_of(r) == method]
        if method == regime.hard_switch or not _has(own, score.metric):
            continue
        rows = _compared(regime, method, str(regime.hard_switch), score, rng_seed)
        versus.update(((group_name(row), method), row) for row in rows)
        if method == regime.treatment:
            claim = _claim(method, score, rows)
    anchors = _anchors(regime, score, means) if score.anchor else {}
    aggregates, notes = _aggregates(regime, score, means, versus, anchors, rng_seed)
    return ScoreVerdicts(score, means, versus, claim, anchors, aggregates, notes)


def treatment_against(
    regime: Regime, score: FamilyScore, rng_seed: int = 0
) -> dict[Cell, ComparisonRow]:
    """Compare the treatment with each other arm: (shift, other arm) → paired comparison.

    Holm over the shifts, for each other arm by itself.
    """
    found: dict[Cell, ComparisonRow] = {}
    for method in regime.methods if regime.treatment is not None else ():
        if method != regime.treatment:
            rows = _compared(regime, str(regime.treatment), method, score, rng_seed)
            found.update(((group_name(row), method), row) for row in rows)
    return found


def _compared(
    regime: Regime, treatment: str, baseline: str, score: FamilyScore, rng_seed: int
) -> Sequence[ComparisonRow]:
    name = "the hard switch" if baseline == regime.hard_switch else name_of(baseline)
    arm = Arm(name, {METHOD_PATH: baseline})
    return compare_scores(regime.records, treatment, arm, score, rng_seed)


def compare_scores(
    records: Sequence[Record],
    treatment: str,
    baseline: Arm,
    score: FamilyScore,
    rng_seed: int,
    *,
    group_by: str = SHIFT_PATH,
) -> Sequence[ComparisonRow]:
    """Compare two arms in a family's score, in its direction and unit; Holm over the groups."""
    return compare(
        records,
        treatment=treatment,
        baseline=baseline,
        group_by=(group_by,),
        match=(SHIFT_PATH, "seed"),
        metric=score.metric,
        higher_is_better=score.higher_is_better,
        scale=1.0,
        unit=score.unit,
        digits=score.digits,
        rng=np.random.default_rng(rng_seed),
    )


def _claim(method: str, score: FamilyScore, rows: Sequence[ComparisonRow]) -> ScoreClaim:
    decision, sentence = summarise(rows, None, "hard switch")
    label = score.label.partition(" (")[0]
    word = "higher" if score.higher_is_better else "lower"
    question = f"{label}: is {name_of(method)} {word} than the hard switch?"
    notes = [f"{name_of(group_name(row))}: {note}" for row in rows for note in row.verdict.notes]
    return ScoreClaim(question, decision, sentence, tuple(rows), tuple(notes))


def _anchors(
    regime: Regime, score: FamilyScore, means: Mapping[Cell, TableRow]
) -> dict[str, Anchors]:
    """Shift → the hard switch's mean at step 0, and its mean score."""
    found = {}
    for shift in regime.shifts:
        runs = regime.of(shift, str(regime.hard_switch))
        starts = [
            float(r.curves[score.anchor]["value"][0])
            for r in runs
            if r.status == "completed" and score.anchor in r.curves
            if r.curves[score.anchor]["step"][0] == 0
            if r.curves[score.anchor]["value"][0] is not None
        ]
        row = means.get((shift, str(regime.hard_switch)))
        if starts and row is not None and math.isfinite(row.mean):
            found[shift] = Anchors(math.fsum(starts) / len(starts), row.mean)
    return found


def _aggregates(
    regime: Regime,
    score: FamilyScore,
    means: Mapping[Cell, TableRow],
    versus: Mapping[Cell, ComparisonRow],
    anchors: Mapping[str, Anchors],
    rng_seed: int,
) -> tuple[dict[str, Aggregate], tuple[str, ...]]:
    """Every method over the shifts that all methods were run on."""
    notes = []
    usable = [s for s in regime.shifts if not score.anchor or _spans(anchors.get(s), score)]
    lacking = [name_of(shift) for shift in regime.shifts if shift not in usable]
    if lacking:
        notes.append(
            f"not normalised, and so left out: {', '.join(lacking)} (no score at step 0, or the "
            f"hard switch does not {'improve' if score.improves else 'lose'} it)"
        )
    counts = {s: sum(_enough(means.get((s, m))) for m in regime.methods) for s in usable}
    fewer = [s for s in usable if counts[s] < max(counts.values())]
    if fewer:
        notes.append(
            f"finished with fewer methods, and so left out: {', '.join(map(name_of, fewer))}"
        )
        usable = [s for s in usable if s not in fewer]
    methods = [m for m in regime.methods if all(_enough(means.get((s, m))) for s in usable)]
    partial = [name_of(method) for method in regime.methods if method not in methods]
    if partial and methods and len(usable) > 1:
        notes.append(f"not run three times on every task, and so left out: {', '.join(partial)}")
    if len(usable) < 2 or not methods:
        return {}, tuple(notes)
    sign = 1.0 if score.higher_is_better else -1.0
    found = {}
    for method in methods:
        seeds = {tuple(seed for seed, _ in means[s, method].values) for s in usable}
        joint = FAMILIES[regime.family].pools_jointly and len(seeds) == 1
        scores = {s: [value for _, value in means[s, method].values] for s in usable}
        if score.anchor:
            scores = {s: normalise(values, anchors[s]) for s, values in scores.items()}
        pairs = {
            s: (
                [sign * value for value in versus[s, method].treatment_scores],
                [sign * value for value in versus[s, method].baseline_scores],
            )
            for s in usable
            if (s, method) in versus
        }
        rng = np.random.default_rng(rng_seed)
        complete = pairs if len(pairs) == len(usable) else None
        found[method] = aggregate(scores, rng, pairs_by_task=complete, joint=joint)
    return found, tuple(notes)


def _spans(anchors: Anchors | None, score: FamilyScore) -> bool:
    """Whether the hard switch moves the score from its start, in the direction that is expected."""
    if anchors is None or anchors.zero == anchors.one:
        return False
    improved = (anchors.one > anchors.zero) == score.higher_is_better
    return improved == score.improves


def _enough(row: TableRow | None) -> bool:
    return row is not None and row.num_runs >= _FEWEST_RUNS


def seeds_of(verdicts: ScoreVerdicts) -> str:
    """How many seeds a cell of the table has: ``10 seeds``, ``6 to 10 seeds``."""
    fewest = min(row.num_runs for row in verdicts.means.values())
    most = max(row.num_runs for row in verdicts.means.values())
    return counted(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
