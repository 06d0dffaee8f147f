"""Tables of a page: methods of a shift, failures, provenance; plain values for the template."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segue.analysis.comparison import TableRow, table
from segue.analysis.matching import MISSING, flatten, key_of, lookup, shorten
from segue.analysis.measures import SpeedRow, steps_to_baseline_score
from segue.report.claims import RegimeVerdicts
from segue.report.scores import forgetting_in, lowest
from segue.report.sentences import verdict_words
from segue.report.sheets import Sheet
from segue.report.study import Regime, Study, unreadable_curves, unreadable_metrics
from segue.report.text import counted, name_of, number, plain

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["MethodRow", "failures", "method_rows", "provenance"]

Cell = dict[str, Any]
Line = tuple[str, str]
"""A value that may come from a record, and words that do not."""


@dataclass(frozen=True)
class MethodRow:
    """One method on one shift, as text and numbers for a table.

    Attributes:
        method: The method's name.
        role: "treatment", "hard" or "".
        mean: Target accuracy in percent, with ``interval`` beneath.
        interval: Its 95 % t interval.
        sd: Standard deviation over seeds.
        num_runs: Usable runs.
        unusable: Runs without a usable score, with the reason.
        values: (seed, target accuracy) of each usable run.
        versus: Words of the comparison with the hard switch.
        source: Source accuracy in percent after the last step.
        forgotten: Source points lost against the source model.
        lowest: Lowest target accuracy after the switch.
        steps: Steps to the hard switch's final score, median.
        reached: How many runs reached it.
        raw: The numbers behind the text, for CSV.
    """

    method: str
    role: str
    mean: str
    interval: str
    sd: str
    num_runs: int
    unusable: tuple[str, ...]
    values: tuple[tuple[Any, float], ...]
    versus: Cell
    source: str
    forgotten: str
    lowest: str
    steps: str
    reached: str
    raw: tuple[Any, ...]


def _tables(regime: Regime) -> list[dict[tuple[str, str], TableRow]]:
    tables = []
    for metric in ("target_accuracy", "source_accuracy", forgetting_in(regime), lowest):
        known = callable(metric) or any(metric in r.metrics for r in regime.records)
        rows = table(regime.records, metric=metric) if known else []
        keys = ("shift.name", "method.name")
        tables.append({(str(r.group[keys[0]]), str(r.group[keys[1]])): r for r in rows})
    return tables


def method_rows(regime: Regime, verdicts: RegimeVerdicts) -> dict[str, list[MethodRow]]:
    """Rows of every shift, methods in the regime's order."""
    target, source, lost, low = _tables(regime)
    speeds = _speeds(regime)
    result: dict[str, list[MethodRow]] = {}
    for shift in regime.shifts:
        rows = []
        for method in regime.methods:
            key = (shift, method)
            row = target.get(key)
            if row is None:
                continue
            role = {regime.treatment: "treatment", regime.hard_switch: "hard"}.get(method, "")
            versus = verdicts.against_hard_switch(shift, method)
            speed = speeds.get(key)
            means = [t[key].mean if key in t else math.nan for t in (source, lost, low)]
            difference = versus.difference if versus is not None else None
            rows.append(
                MethodRow(
                    method=method,
                    role=role,
                    mean=number(row.mean, scale=100),
                    interval=_interval(row.low, row.high),
                    sd=number(row.sd, scale=100),
                    num_runs=row.num_runs,
                    unusable=tuple(str(run) for run in row.unusable),
                    values=row.values,
                    versus=verdict_words(versus),
                    source=number(means[0], scale=100),
                    forgotten=number(means[1], scale=100),
                    lowest=number(means[2], scale=100),
                    steps=_steps(speed),
                    reached=f"{speed.num_reached} of {len(speed.pairs)} did" if speed else "",
                    raw=(
                        shift, method, row.num_runs, row.mean, row.sd, row.low, row.high, *means,
                        speed.median_treatment_steps if speed else None,
                        speed.num_reached if speed else None,
                        difference.mean if difference else None,
                        difference.low if difference else None,
                        difference.high if difference else None,
                        versus.adjusted_p if versus else None,
                        versus.verdict.decision if versus else None,
                        len(row.unusable),
                    ),
                )
            )  # fmt: skip
        result[shift] = rows
    return result


RAW_COLUMNS = (
    "shift", "method", "num_runs", "target_accuracy_mean", "sd", "low", "high",
    "source_accuracy_mean", "forgetting_mean", "lowest_target_accuracy_mean",
    "median_steps_to_hard_switch_score", "num_runs_that_reached_it", "difference_mean",
    "difference_low", "difference_high", "holm_adjusted_p", "decision", "num_unusable",
)  # fmt: skip


def results_sheet(name: str, rows: dict[str, list[MethodRow]]) -> Sheet:
    """All method rows of a regime."""
    return Sheet(name, RAW_COLUMNS, tuple(row.raw for part in rows.values() for row in part))


def scores_sheet(name: str, rows: dict[str, list[MethodRow]]) -> Sheet:
    """Target accuracy of every single run in the tables."""
    scores = tuple(
        (shift, row.method, seed, value)
        for shift, part in rows.items()
        for row in part
        for seed, value in row.values
    )
    return Sheet(name, ("shift", "method", "seed", "target_accuracy"), scores)


def _interval(low: float, high: float) -> str:
    if not math.isfinite(low):
        return "no interval"
    return f"{number(low, scale=100)} to {number(high, scale=100)}"


def _speeds(regime: Regime) -> dict[tuple[str, str], SpeedRow]:
    if regime.hard_switch is None:
        return {}
    speeds = {}
    for method in regime.methods:
        rows = steps_to_baseline_score(
            regime.records,
            treatment=method,
            baseline=regime.hard_switch,
            match=("shift.name", "seed"),
        )
        for row in rows:
            if row.pairs:
                speeds[str(row.group["shift.name"]), method] = row
    return speeds


def _steps(row: SpeedRow | None) -> str:
    if row is None:
        return "–"
    median = row.median_treatment_steps
    return f"{median:,.0f}" if math.isfinite(median) else "not reached"


def failures(study: Study) -> list[Cell]:
    """Runs that failed, have values that were not finite or cannot be read; with the reason."""
    listed = []
    for record in study.records:
        for what, reason in _problems(record):
            config = record.config
            cells = [
                lookup(config, path) for path in ("shift.name", "method.name", "seed", "split")
            ]
            listed.append(
                {
                    "run_id": record.run_id,
                    "kind": record.kind,
                    "shift": "–" if cells[0] is MISSING else name_of(cells[0], 60),
                    "method": "–" if cells[1] is MISSING else name_of(cells[1], 60),
                    "seed": "–" if cells[2] is MISSING else cells[2],
                    "split": "–" if cells[3] is MISSING else cells[3],
                    "what": what,
                    "reason": reason,
                }
            )
    return listed


def _problems(record: Record) -> list[tuple[str, str]]:
    problems = []
    if record.status != "completed":
        error = record.error or {}
        reason = f"{error.get('type', 'unknown error')}: {error.get('message', '')}"
        problems.append((plain(record.status, 20), shorten(plain(reason), 320)))
    if record.non_finite:
        problems.append(("not finite", shorten(plain(", ".join(record.non_finite)), 320)))
    wrong = [*unreadable_metrics(record), *unreadable_curves(record)]
    if wrong:
        problems.append(("unreadable", shorten(plain(", ".join(wrong)), 320)))
    return problems


def failures_sheet(listed: Sequence[Cell]) -> Sheet:
    """The listed failures."""
    columns = ("run_id", "kind", "shift", "method", "seed", "split", "what", "reason")
    return Sheet("failures", columns, tuple([row[c] for c in columns] for row in listed))


def provenance(study: Study, *, limit: int = 6) -> list[tuple[str, list[Line]]]:
    """What produced the records: each field with its values and the number of runs of each."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for record in study.records:
        for path, value in flatten(record.provenance).items():
            if path and not path.split(".")[0].startswith(("seed", "versions")):
                counts[path][plain(value, 320)] += 1
        versions = record.provenance.get("versions")
        if isinstance(versions, dict) and versions:
            text = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
            counts["versions"][plain(text, 320)] += 1
    rows = [_seeds(study), *_timing(study)]
    for path, values in sorted(counts.items()):
        shown = [
            (text, "" if len(values) == 1 else f" ({counted(n, 'run')})")
            for text, n in values.most_common(limit)
        ]
        more = len(values) - limit
        rows.append((name_of(path, 80), shown + ([(f"and {more} more", "")] if more > 0 else [])))
    return [row for row in rows if row[1]]


def _seeds(study: Study) -> tuple[str, list[Line]]:
    seeds: dict[str, dict[str, Any]] = defaultdict(dict)
    for record in study.records:
        seed, split = lookup(record.config, "seed"), lookup(record.config, "split")
        if seed is not MISSING:
            name = record.kind if split is MISSING else plain(split, 40)
            seeds[name][key_of(seed)] = seed
    lines: list[Line] = []
    for name, found in sorted(seeds.items()):
        ordered = [plain(found[key], 40) for key in sorted(found, key=lambda k: (len(k), k))]
        more = f" and {len(ordered) - 24} more" if len(ordered) > 24 else ""
        lines.append((f"{name}: {', '.join(ordered[:24])}{more}", ""))
    return "seeds", lines


def _timing(study: Study) -> list[tuple[str, list[Line]]]:
    seconds = [record.timing.get("wall_seconds") for record in study.records]
    spent = math.fsum(s for s in seconds if isinstance(s, int | float) and math.isfinite(s))
    started = sorted(
        plain(record.timing["started_at"], 60)
        for record in study.records
        if isinstance(record.timing.get("started_at"), str)
    )
    rows: list[tuple[str, list[Line]]] = []
    if spent:
        rows.append(("time in runs", [(_duration(spent), "")]))
    if started:
        rows.append(("started", [(started[0], " (first)"), (started[-1], " (last)")]))
    return rows


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
