"""The claims a regime can test, each judged shift by shift and put in one sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.analysis.comparison import ComparisonRow, compare
from segue.analysis.matching import METHOD_PATH, Arm, key_of, lookup
from segue.analysis.pooling import Pooled, pool
from segue.analysis.primary import PrimaryVerdicts, primary_verdicts
from segue.analysis.selection import Choice
from segue.analysis.verdicts import PRIMARY_PAIRS
from segue.report.scores import Metric, at_equal_compute, fall
from segue.report.sentences import NO_FALL, group_name, summarise
from segue.report.settings import SHIFT_PATH, method_of, shift_of
from segue.report.study import Regime
from segue.report.text import counted, name_of

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["Claim", "RegimeVerdicts", "judge"]

# Vision compares its ramps with each other: the one without a source term is their control.
_NO_BASELINE = {"vision": ("target_ramp",)}


@dataclass(frozen=True)
class Claim:
    """One question and what the runs say to it.

    Attributes:
        question: The claim as a question.
        decision: Over the shifts: "helps" or "hurts" on most and the opposite on none, "undecided" on
            all, else "mixed".
        sentence: The answer.
        rows: One comparison a shift.
        pooled: Over the shifts.
        primary: Whether it is a primary verdict: fixed before the runs, on ten fresh seeds a shift.
        basis: What its runs are, where that needs saying, in a clause; else "".
        notes: What else the reader should know: failed and unpaired runs, seeds left out.
    """

    question: str
    decision: str
    sentence: str
    rows: tuple[ComparisonRow, ...]
    pooled: Pooled | None
    primary: bool
    basis: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RegimeVerdicts:
    """Claims of one regime, and every method against the hard switch.

    Attributes:
        leading: The claims about the target metric at equal steps; no others can be primary.
        further: The other claims.
        choices: The baselines chosen on the tuning seeds.
        by_method: Target accuracy of each method against the hard switch, a row a shift.
        pooled_by_method: The same pooled over shifts.
    """

    leading: tuple[Claim, ...]
    further: tuple[Claim, ...]
    choices: tuple[Choice, ...]
    by_method: dict[str, tuple[ComparisonRow, ...]]
    pooled_by_method: dict[str, Pooled]

    @property
    def claims(self) -> tuple[Claim, ...]:
        """All claims, the leading ones first."""
        return self.leading + self.further

    def against_hard_switch(self, shift: str, method: str) -> ComparisonRow | None:
        """The comparison of one method on one shift."""
        rows = self.by_method.get(method, ())
        return next((row for row in rows if group_name(row) == shift), None)


def judge(regime: Regime, *, rng_seed: int = 0) -> RegimeVerdicts:
    """Test every claim that the regime's records allow."""
    if not regime.comparable:
        return RegimeVerdicts((), (), (), {}, {})
    treatment, hard = str(regime.treatment), str(regime.hard_switch)
    by_method: dict[str, tuple[ComparisonRow, ...]] = {}
    for method in regime.methods:
        if method != hard and _has_score(regime.records, method):
            by_method[method] = _compare(regime, method, rng_seed)
    pooled = {method: _pool(rows, rng_seed) for method, rows in by_method.items()}
    leading, choices = _leading(regime, by_method.get(treatment, ()), rng_seed)
    further = [_equal_compute(regime, rng_seed), _fall(regime, rng_seed)]
    if all(_has_score(regime.records, method, "source_accuracy") for method in (treatment, hard)):
        question = f"Does {name_of(treatment)} keep more of the source accuracy?"
        rows = _compare(regime, treatment, rng_seed, metric="source_accuracy")
        further.append(_claim(question, rows, name_of(hard), rng_seed))
    kept = tuple(claim for claim in further if claim is not None)
    return RegimeVerdicts(leading, kept, choices, by_method, pooled)


def _has_score(
    records: Iterable[Record], method: str, metric: str | Metric = "target_accuracy"
) -> bool:
    runs = [r for r in records if method_of(r) == method and r.status == "completed"]
    if callable(metric):
        return any(metric(r) is not None for r in runs)
    return any(r.metrics.get(metric) is not None for r in runs)


def _compare(
    regime: Regime, method: str, rng_seed: int, *, baseline: Arm | None = None, **how: Any
) -> tuple[ComparisonRow, ...]:
    rows = compare(
        [*regime.records, *(regime.equal_compute if baseline is not None else ())],
        treatment=method,
        baseline=str(regime.hard_switch) if baseline is None else baseline,
        match=(SHIFT_PATH, "seed"),
        rng=np.random.default_rng(rng_seed),
        **how,
    )
    return tuple(rows)


def _pool(rows: Sequence[ComparisonRow], rng_seed: int) -> Pooled:
    # Jointly: the shifts of a seed share its source model.
    return pool(rows, np.random.default_rng(rng_seed), joint=True)


def _leading(
    regime: Regime, fallback: tuple[ComparisonRow, ...], rng_seed: int
) -> tuple[tuple[Claim, ...], tuple[Choice, ...]]:
    """Treatment against hard switch and, if the tuning runs allow, against the chosen baseline."""
    name, than = name_of(regime.treatment), name_of(regime.hard_switch)
    question = f"Does {name} reach a higher target accuracy than the {than}?"
    result, why = _primary(regime, rng_seed)
    if result is None:
        claim = _claim(question, fallback, than, rng_seed, basis=why) if fallback else None
        return (() if claim is None else (claim,)), ()
    basis = ""
    if regime.tuned_at:
        basis = (
            f"learning rates and baseline were chosen on the tuning runs at {regime.tuned_at}; "
            "there are none at this budget"
        )
    rows, notes = result.against_chosen_baseline, result.notes
    absent = [name_of(group_name(row)) for row in rows if not row.difference.num_pairs]
    if absent:
        notes = (*notes, f"no pairs with the chosen baseline on {', '.join(absent)}")
    claims = [_claim(question, result.against_hard_switch, than, rng_seed, basis, notes, True)]
    if len(absent) < len(rows):
        question = f"Does {name} beat the baseline chosen on the tuning seeds?"
        claims.append(_claim(question, rows, "chosen baseline", rng_seed, basis, (), True))
    return tuple(claims), result.baseline_choices


def _primary(regime: Regime, rng_seed: int) -> tuple[PrimaryVerdicts | None, str]:
    """The verdict fixed beforehand, or what it lacks."""
    treatment, hard = str(regime.treatment), str(regime.hard_switch)
    tuned = {method_of(r) for r in regime.tuning}
    if not {treatment, hard} <= tuned:
        return None, "no tuning runs of both methods: no learning rate and no baseline was chosen"
    no_baseline = _NO_BASELINE.get(regime.family, ())
    candidates = sorted(
        name
        for name in tuned
        if name != hard and name not in no_baseline and "smoothing" not in name
    )
    if not candidates:
        return None, "no tuning runs of another method: no baseline was chosen"
    try:
        result = primary_verdicts(
            [*regime.tuning, *regime.records],
            treatment=Arm(treatment, {METHOD_PATH: treatment}),
            hard_switch=hard,
            settings=regime.tuned_paths,
            candidates=candidates,
            match=(SHIFT_PATH, "seed"),
            rng=np.random.default_rng(rng_seed),
        )
    except ValueError as error:
        return None, f"no verdict on tuned settings: {error}"
    if not any(row.difference.num_pairs for row in result.against_hard_switch):
        return None, "no pairs at the learning rates that were chosen on the tuning seeds"
    return result, ""


def _num_seeds(row: ComparisonRow) -> int:
    """Seeds that were run with both arms, failed runs included."""
    return len({key_of(seed) for seed in (*row.seeds, *(run.seed for run in row.unusable))})


def _claim(
    question: str,
    rows: Sequence[ComparisonRow],
    against: str,
    rng_seed: int,
    basis: str = "",
    notes: Sequence[str] = (),
    planned: bool = False,
) -> Claim:
    pooled = _pool(rows, rng_seed)
    decision, sentence = summarise(rows, pooled, against)
    fewest = min(map(_num_seeds, rows), default=0)
    more = list(notes)
    if planned and fewest < PRIMARY_PAIRS:
        more.append(f"no primary verdict: {fewest} fresh seeds on a shift, not {PRIMARY_PAIRS}")
    more += pooled.notes if pooled.num_groups > 1 else ()
    more += [f"{name_of(group_name(row))}: {note}" for row in rows for note in row.verdict.notes]
    primary = planned and fewest >= PRIMARY_PAIRS
    return Claim(question, decision, sentence, tuple(rows), pooled, primary, basis, tuple(more))


def _equal_compute(regime: Regime, rng_seed: int) -> Claim | None:
    """Against the hard switch's longer runs on the shifts that have them, else on the own curve."""
    treatment, hard = str(regime.treatment), str(regime.hard_switch)
    longer = {
        shift_of(record): record.config["num_target_steps"] for record in regime.equal_compute
    }

    def target_accuracy_at_equal_compute(record: Record) -> float | None:
        if shift_of(record) in longer:
            return record.metrics.get("target_accuracy")
        return at_equal_compute(record)

    metric = target_accuracy_at_equal_compute
    runs = [*regime.records, *regime.equal_compute]
    if not all(_has_score(runs, method, metric) for method in (treatment, hard)):
        return None
    arm = None
    if longer:
        shifts = {shift_of(record): lookup(record.config, SHIFT_PATH) for record in regime.records}
        usual = regime.settings["num_target_steps"]
        arm = Arm(
            "the hard switch at equal compute",
            {METHOD_PATH: hard},
            tuple(
                ({SHIFT_PATH: value}, {"num_target_steps": longer.get(shift, usual)})
                for shift, value in shifts.items()
            ),
        )
    question = f"At equal compute, is {name_of(treatment)} still ahead of the {name_of(hard)}?"
    rows = _compare(regime, treatment, rng_seed, baseline=arm, metric=metric)
    basis = _compute_basis(regime, longer)
    return _claim(question, rows, name_of(hard), rng_seed, basis)


def _compute_basis(regime: Regime, longer: dict[str, int]) -> str:
    curve = (
        "read from each run's own curve where it had spent what the hard switch spends in all; the "
        "learning rate has not come down there, and the curve may rest on fewer test examples"
    )
    if not longer:
        return curve
    steps = max(longer.values())
    trained = f"the hard switch was trained for {steps:,} steps, which cost as much"
    rest = [name_of(shift) for shift in regime.shifts if shift not in longer]
    return f"{trained}; on {', '.join(rest)}, where it was not: {curve}" if rest else trained


def _fall(regime: Regime, rng_seed: int) -> Claim | None:
    """Whether the treatment falls less below its start."""
    treatment, hard = str(regime.treatment), str(regime.hard_switch)
    if not all(_has_score(regime.records, method, fall) for method in (treatment, hard)):
        return None
    compared = _compare(regime, treatment, rng_seed, metric=fall, higher_is_better=False)
    rows = [_without_fall(row) for row in compared]
    basis = (
        "from a run's own score at step 0 to its lowest later one, on its curve; after weights "
        "were redrawn the start is that of the new ones"
    )
    question = f"Does {name_of(treatment)} fall less below where it started?"
    claim = _claim(question, rows, name_of(hard), rng_seed, basis)
    if all(row.verdict.reason == NO_FALL for row in rows):
        sentence = f"Undecided: {NO_FALL}, neither ever falls below its start."
        return dataclasses.replace(claim, sentence=sentence)
    return claim


def _without_fall(row: ComparisonRow) -> ComparisonRow:
    """The row, or where neither arm ever falls a row that says so."""
    if not row.seeds or any((*row.treatment_scores, *row.baseline_scores)):
        return row
    pairs = counted(len(row.seeds), "pair")
    verdict = dataclasses.replace(
        row.verdict,
        sentence=f"undecided: {NO_FALL}, neither ever falls below its start ({pairs})",
        reason=NO_FALL,
        notes=(*map(str, row.unusable), *row.unpaired),
    )
    return dataclasses.replace(row, verdict=verdict)
