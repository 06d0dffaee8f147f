"""The claims a regime can test, each judged shift by shift and put in one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.analysis.comparison import ComparisonRow, compare, count_decisions
from segue.analysis.curves import lowest_after_switch, value_at_compute
from segue.analysis.matching import METHOD_PATH, Arm, lookup
from segue.analysis.pooling import Pooled, pool
from segue.analysis.primary import primary_verdicts
from segue.analysis.selection import Choice
from segue.report.study import Regime
from segue.report.text import counted, name_of, number, signed

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["Claim", "RegimeVerdicts", "judge"]

Metric = Callable[["Record"], "float | None"]


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
        primary: Whether it was fixed before the runs.
        notes: What the reader should know about it.
    """

    question: str
    decision: str
    sentence: str
    rows: tuple[ComparisonRow, ...]
    pooled: Pooled | None
    primary: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RegimeVerdicts:
    """Claims of one regime, and every method against the hard switch.

    Attributes:
        claims: The claims, primary ones first.
        choices: The baselines chosen on the tuning seeds.
        by_method: Target accuracy of each method against the hard switch, a row a shift.
        pooled_by_method: The same pooled over shifts.
    """

    claims: tuple[Claim, ...]
    choices: tuple[Choice, ...]
    by_method: dict[str, tuple[ComparisonRow, ...]]
    pooled_by_method: dict[str, Pooled]

    def against_hard_switch(self, shift: str, method: str) -> ComparisonRow | None:
        """The comparison of one method on one shift."""
        rows = self.by_method.get(method, ())
        return next((row for row in rows if group_name(row) == shift), None)


def group_name(row: ComparisonRow) -> str:
    """Name of the row's shift."""
    return str(row.group.get("shift.name", "all shifts"))


def lowest(record: Record) -> float | None:
    """Lowest target accuracy after the switch: the metric, else read from the curve."""
    value = record.metrics.get("lowest_target_accuracy")
    if value is not None or "target_accuracy" not in record.curves:
        return None if value is None else float(value)
    return lowest_after_switch(record.curves["target_accuracy"]).value


lowest.__name__ = "lowest target accuracy after the switch"


def forgotten(record: Record) -> float | None:
    """Source accuracy before the switch minus after the last step."""
    before = record.metrics.get("source_accuracy_before")
    after = record.metrics.get("source_accuracy")
    numbers = isinstance(before, int | float) and isinstance(after, int | float)
    return float(before) - float(after) if numbers else None  # type: ignore[arg-type]


forgotten.__name__ = "forgetting"


def equal_compute(record: Record) -> float | None:
    """Target accuracy where the run had spent what the hard switch spends on all its steps.

    What a run spent beyond its target batches is laid evenly on its ramp, or on all steps where it
    has none.
    """
    config, curve = record.config, record.curves.get("target_accuracy")
    num_steps, batch = config.get("num_target_steps"), config.get("batch_size")
    spent = record.metrics.get("num_gradient_examples")
    if not isinstance(num_steps, int) or not isinstance(batch, int) or curve is None:
        return None
    if not isinstance(spent, int | float):
        return None
    budget = float(num_steps * batch)
    extra = float(spent) - budget
    if extra < 0 or not curve["step"] or curve["step"][-1] != num_steps:
        return None
    k = lookup(config, "method.schedule.num_smoothing_steps")
    ramp = k if isinstance(k, int) and 0 < k < num_steps else num_steps
    value = value_at_compute(
        curve, budget, lambda step: step * batch + extra * min(1.0, step / ramp)
    )
    return value if math.isfinite(value) else None


equal_compute.__name__ = "target accuracy at the hard switch's compute"


_AT_EQUAL_COMPUTE = (
    "read from each run's own curve where it had spent what the hard switch spends in all: the "
    "learning rate has not come down there, and the curve may rest on fewer test examples"
)


def judge(regime: Regime, *, rng_seed: int = 0) -> RegimeVerdicts:
    """Test every claim that the regime's records allow."""
    if not regime.comparable:
        return RegimeVerdicts((), (), {}, {})
    treatment, hard = str(regime.treatment), str(regime.hard_switch)
    by_method: dict[str, tuple[ComparisonRow, ...]] = {}
    pooled: dict[str, Pooled] = {}
    for method in regime.methods:
        if method != hard and _has_score(regime, method):
            by_method[method] = _compare(regime, method, "target_accuracy", rng_seed)
            pooled[method] = _pool(by_method[method], rng_seed)
    claims: list[Claim] = []
    name, than = name_of(treatment), name_of(hard)
    question = f"Does {name} reach a higher target accuracy than the {than}?"
    primary, note = _primary(regime, rng_seed)
    choices: tuple[Choice, ...] = ()
    if primary is not None:
        first, second, choices, notes = primary
        claims.append(_claim(question, first, than, True, rng_seed, notes))
        question = f"Does {name} beat the baseline chosen on the tuning seeds?"
        claims.append(_claim(question, second, "chosen baseline", True, rng_seed))
    elif treatment in by_method:
        claims.append(_claim(question, by_method[treatment], than, True, rng_seed, note))
    for question, metric in (
        (f"At equal compute, is {name} still ahead of the {than}?", equal_compute),
        (f"Does {name} fall less deep after the switch?", lowest),
        (f"Does {name} keep more of the source accuracy?", "source_accuracy"),
    ):
        if _has_score(regime, treatment, metric) and _has_score(regime, hard, metric):
            rows = _compare(regime, treatment, metric, rng_seed)
            notes = (_AT_EQUAL_COMPUTE,) if metric is equal_compute else ()
            claims.append(_claim(question, rows, than, False, rng_seed, notes))
    return RegimeVerdicts(tuple(claims), choices, by_method, pooled)


def _has_score(regime: Regime, method: str, metric: str | Metric = "target_accuracy") -> bool:
    runs = [r for r in regime.records if r.config["method"]["name"] == method]
    if callable(metric):
        return any(r.status == "completed" and metric(r) is not None for r in runs)
    return any(r.status == "completed" and r.metrics.get(metric) is not None for r in runs)


def _compare(
    regime: Regime, method: str, metric: str | Metric, rng_seed: int
) -> tuple[ComparisonRow, ...]:
    rows = compare(
        regime.records,
        treatment=method,
        baseline=str(regime.hard_switch),
        match=("shift.name", "seed"),
        metric=metric,
        rng=np.random.default_rng(rng_seed),
    )
    return tuple(rows)


def _pool(rows: Sequence[ComparisonRow], rng_seed: int) -> Pooled:
    used = [row for row in rows if row.difference.num_pairs]
    joint = len(used) > 1 and len({row.seeds for row in used}) == 1
    return pool(rows, np.random.default_rng(rng_seed), joint=joint)


_Primary = tuple[
    tuple[ComparisonRow, ...], tuple[ComparisonRow, ...], tuple[Choice, ...], tuple[str, ...]
]


def _primary(regime: Regime, rng_seed: int) -> tuple[_Primary | None, tuple[str, ...]]:
    """The verdict fixed beforehand, or a note saying what it lacks."""
    rate = regime.learning_rate_path
    tuned = {r.config["method"]["name"] for r in regime.tuning}
    needed = {str(regime.treatment), str(regime.hard_switch)}
    if not needed <= tuned:
        return None, ("no tuning runs of both methods here: no baseline was chosen",)
    candidates = sorted(name for name in tuned if "smoothing" not in name)
    try:
        result = primary_verdicts(
            [*regime.tuning, *regime.records],
            treatment=Arm(str(regime.treatment), {METHOD_PATH: regime.treatment}),
            hard_switch=str(regime.hard_switch),
            settings=() if rate is None else (rate,),
            candidates=candidates,
            match=("shift.name", "seed"),
            rng=np.random.default_rng(rng_seed),
        )
    except ValueError as error:
        return None, (f"no primary verdict: {error}",)
    first, second = result.against_hard_switch, result.against_chosen_baseline
    return (first, second, result.baseline_choices, result.notes), ()


def _claim(
    question: str,
    rows: Sequence[ComparisonRow],
    against: str,
    primary: bool,
    rng_seed: int,
    notes: Sequence[str] = (),
) -> Claim:
    pooled = _pool(rows, rng_seed)
    decision, sentence = summarise(rows, pooled, against)
    more = [f"{name_of(group_name(row))}: {note}" for row in rows for note in row.verdict.notes]
    return Claim(question, decision, sentence, tuple(rows), pooled, primary, (*notes, *more))


def summarise(
    rows: Sequence[ComparisonRow], pooled: Pooled | None, against: str
) -> tuple[str, str]:
    """The decision over all shifts and the sentence that says by how much, against what."""
    counts = count_decisions(rows)
    named = [word for word in ("helps", "hurts") if counts[word]]
    # One word for several shifts: it must hold for most of them and against none.
    decision = "undecided" if not named else "mixed"
    if len(named) == 1 and 2 * counts[named[0]] > len(rows):
        decision = named[0]
    if len(rows) == 1:
        return decision, _start(rows[0].verdict.sentence)
    parts = [f"{word} on {counts[word]}" for word in ("helps", "hurts") if counts[word]]
    if counts["undecided"]:
        parts.append(f"undecided on {counts['undecided']}")
    sentence = f"{', '.join(parts)} of {counted(len(rows), 'shift')}"
    scale = rows[0].scale
    by_seed = pooled.mean_by_seed if pooled else None
    if by_seed is not None and math.isfinite(by_seed.low):
        sentence += (
            f"; {signed(by_seed.mean, scale=scale)} points on average against the {against} "
            f"(95 % interval {number(by_seed.low, scale=scale)} to "
            f"{number(by_seed.high, scale=scale)}, {counted(by_seed.num_values, 'seed')})"
        )
    elif pooled is not None and pooled.mean is not None:
        mean = pooled.mean
        sentence += (
            f"; {signed(mean.value, scale=scale)} points on average against the {against} "
            f"(95 % bootstrap interval {number(mean.low, scale=scale)} to "
            f"{number(mean.high, scale=scale)}, {counted(pooled.num_pairs, 'pair')})"
        )
    if decision == "undecided":
        fewest = min(row.difference.num_pairs for row in rows)
        reason = rows[0].verdict.reason if fewest < 10 else "no shift passes Holm's adjusted p"
        sentence += f"; {reason}"
    return decision, _start(sentence)


def _start(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:] + "."


def verdict_words(row: ComparisonRow | None) -> dict[str, Any]:
    """A comparison for a table cell: decision, difference, interval, p."""
    if row is None:
        return {"decision": "", "difference": "–", "interval": "", "reason": ""}
    paired = row.difference
    low, high = number(paired.low, scale=row.scale), number(paired.high, scale=row.scale)
    return {
        "decision": row.verdict.decision,
        "difference": signed(paired.mean, scale=row.scale),
        "interval": "" if paired.num_pairs < 2 else f"{low} to {high}",
        "reason": row.verdict.reason,
    }
