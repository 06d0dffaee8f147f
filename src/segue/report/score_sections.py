"""What the page shows of a regime whose family is judged by returns or losses."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from segue.analysis.verdicts import format_p
from segue.report.curve_figures import method_colours, shift_curves
from segue.report.diagnosis import diagnosis_curves, diagnosis_table, end_of_ramp
from segue.report.families import FAMILIES, Family, FamilyScore
from segue.report.figures import Plot
from segue.report.pictures import Picture
from segue.report.pooled_figures import aggregate_iqms, probabilities
from segue.report.release import release_table
from segue.report.score_study import ScoreVerdicts, seeds_of
from segue.report.score_tables import ScoreTable, aggregate_table, switch_tables
from segue.report.sentences import group_name, verdict_words
from segue.report.sheets import Sheet
from segue.report.study import Regime, describe_regime, headline_settings
from segue.report.text import name_of, number

if TYPE_CHECKING:
    from segue.analysis.comparison import ComparisonRow, TableRow
    from segue.runs.records import Record

__all__ = ["Page", "plain_table", "score_section"]


class Page(Protocol):
    """Where figures and files of the page are collected."""

    pictures: dict[str, list[Picture]]

    def add(self, plot: Plot | None, alt: str) -> dict[str, Any] | None:
        """Keep a figure; return what the template needs."""

    def add_sheet(self, sheet: Sheet) -> str:
        """Keep a file; return its name."""


def score_section(
    page: Page, prefix: str, regime: Regime, verdicts: Sequence[ScoreVerdicts]
) -> dict[str, Any]:
    """Claims, aggregates, and shift by shift a table and figures."""
    family = FAMILIES[regime.family]
    switches = {table.title: table for table in switch_tables(regime)}
    shifts = []
    for shift in regime.shifts:
        colours = method_colours(regime, _best_other(regime, shift, verdicts))
        shifts.append(
            {
                "name": name_of(shift),
                "rows": [
                    _row(regime, shift, method, verdicts, family)
                    for method in regime.methods
                    if any((shift, method) in judged.means for judged in verdicts)
                ],
                "plot": page.add(
                    _curves(regime, shift, colours, family, f"{prefix}curves_{shift}"),
                    f"Curves: {name_of(shift)}",
                ),
                "switch": plain_table(
                    page, switches.get(name_of(shift)), f"{prefix}switch_{shift}"
                ),
                "diagnosis": page.add(
                    diagnosis_curves(regime, shift, colours, name=f"{prefix}diagnosis_{shift}")
                    if family.diagnosis
                    else None,
                    f"Diagnosis: {name_of(shift)}",
                ),
                "moments": plain_table(
                    page, diagnosis_table(regime, shift), f"{prefix}moments_{shift}"
                ),
                "release": plain_table(
                    page, release_table(regime, shift), f"{prefix}release_{shift}"
                ),
                # Of the first setting that has the shift; a file does not say which it is of.
                "pictures": page.pictures.pop(shift, []),
            }
        )
    return {
        "kind": "scores",
        "label": regime.label,
        "summary": describe_regime(regime),
        "setting": headline_settings(regime, str(regime.treatment or regime.methods[0])),
        "claims": [
            {
                "claim": judged.claim,
                "details": [
                    (name_of(group_name(row)), row.verdict.sentence) for row in judged.claim.rows
                ],
            }
            for judged in verdicts
            if judged.claim is not None
        ],
        "scores": [
            (judged.score.label, "higher" if judged.score.higher_is_better else "lower")
            for judged in verdicts
        ],
        "seeds": seeds_of(verdicts[0]) if verdicts else "",
        "measures": [title for title, _ in (family.measures or {}).values()],
        "aggregates": [
            part for judged in verdicts for part in _aggregate(page, prefix, regime, judged)
        ],
        "shifts": shifts,
        "results_file": page.add_sheet(_results(prefix + "results", regime, verdicts)),
        "scores_file": page.add_sheet(_all_scores(prefix + "scores", verdicts)),
        "notes": regime.notes,
    }


def _curves(
    regime: Regime, shift: str, colours: dict[str, str], family: Family, name: str
) -> Plot | None:
    marks: list[tuple[float, str]] = []
    runs = [r for m in regime.methods for r in regime.of(shift, m)]
    changed = [r.config.get("num_env_steps") for r in runs if family.change_metric in r.metrics]
    if changed and isinstance(changed[0], int):
        marks.append((changed[0] / 2, "the task changes"))
    end = end_of_ramp(regime, shift) if family.start_line else None
    if end is not None:
        marks.append((end, f"λ = 0 in {name_of(regime.treatment, 30)}"))
    level = _start(regime, shift, family) if family.start_line else None
    return shift_curves(
        regime,
        shift,
        colours,
        family.panels,
        name=name,
        marks=marks,
        level=None if level is None else (level, f"S₀ {number(level)}"),
        dense_start=family.dense_start,
    )


def _start(regime: Regime, shift: str, family: Family) -> float | None:
    """Mean score at the switch of the methods that start from the source: the hard switch's."""
    curve = family.panels[0].curve
    values = [
        r.curves[curve]["value"][0]
        for r in regime.of(shift, str(regime.hard_switch))
        if r.status == "completed" and curve in r.curves and r.curves[curve]["step"][0] == 0
    ]
    known = [float(v) for v in values if v is not None and math.isfinite(v)]
    return statistics.fmean(known) if known else None


def _best_other(regime: Regime, shift: str, verdicts: Sequence[ScoreVerdicts]) -> str | None:
    """Beside hard switch and treatment, the method with the best leading score: only to colour it."""
    if not verdicts:
        return None
    score = verdicts[0].score
    means = {
        method: row.mean
        for (at, method), row in verdicts[0].means.items()
        if at == shift and method not in (regime.hard_switch, regime.treatment)
        if math.isfinite(row.mean)
    }
    sign = 1.0 if score.higher_is_better else -1.0
    return max(sorted(means), key=lambda method: sign * means[method], default=None)


def _row(
    regime: Regime, shift: str, method: str, verdicts: Sequence[ScoreVerdicts], family: Family
) -> dict[str, Any]:
    role = {regime.treatment: "treatment", regime.hard_switch: "hard"}.get(method, "")
    runs = [r for r in regime.of(shift, method) if r.status == "completed"]
    return {
        "method": method,
        "role": role,
        "cells": [
            _score_cell(
                judged.means.get((shift, method)), judged.versus.get((shift, method)), judged.score
            )
            for judged in verdicts
        ],
        "measures": [
            _measure(runs, metric, digits)
            for metric, (_, digits) in (family.measures or {}).items()
        ],
    }


def _score_cell(
    found: TableRow | None, row: ComparisonRow | None, score: FamilyScore
) -> dict[str, Any]:
    words = verdict_words(row)
    if found is None:
        return {
            "mean": "–",
            "interval": "",
            "runs": "0 runs",
            "unusable": (),
            "versus": words,
            "p": "",
        }
    ends = (number(found.low, score.digits), number(found.high, score.digits))
    return {
        "mean": number(found.mean, score.digits),
        "interval": f"{ends[0]} to {ends[1]}" if math.isfinite(found.low) else "no interval",
        "unusable": tuple(map(str, found.unusable)),
        "versus": words,
        "p": "" if row is None or not row.seeds else _p_words(row),
    }


def _p_words(row: ComparisonRow) -> str:
    own, adjusted = format_p(row.difference.p_value), format_p(row.adjusted_p)
    return f"p {own}, Holm {adjusted}"


def _measure(runs: Sequence[Record], metric: str, digits: int) -> str:
    values = [r.metrics.get(metric) for r in runs]
    known = [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
    return f"{statistics.fmean(known):,.{digits}f}".replace("-", "−") if known else "–"


def _aggregate(
    page: Page, prefix: str, regime: Regime, judged: ScoreVerdicts
) -> list[dict[str, Any]]:
    """Figures and table of one score over all tasks; nothing below two tasks."""
    if not judged.aggregates:
        return []
    score = judged.score
    compared = {m: a for m, a in judged.aggregates.items() if a.probability is not None}
    iqms = aggregate_iqms(
        judged.aggregates,
        regime.treatment,
        normalised=bool(score.anchor),
        digits=2 if score.anchor else score.digits,
        words=judged.scale,
        name=f"{prefix}iqm_{score.metric}",
    )
    chances = probabilities(
        compared,
        regime.treatment,
        name=f"{prefix}improvement_{score.metric}",
        joint=FAMILIES[regime.family].pools_jointly,
    )
    table = aggregate_table(regime, judged)
    return [
        {
            "title": score.label,
            "iqm": page.add(iqms, f"IQM: {score.label}"),
            "probability": page.add(chances, f"Probability of improvement: {score.label}"),
            "table": plain_table(page, table, f"{prefix}aggregate_{score.metric}"),
        }
    ]


def plain_table(page: Page, table: ScoreTable | None, name: str) -> dict[str, Any] | None:
    """A table of text for the template, with its file."""
    if table is None:
        return None
    sheet = Sheet(name, table.columns, table.rows)
    return {
        "columns": table.columns,
        "rows": table.rows,
        "caption": table.caption,
        "file": page.add_sheet(sheet),
    }


def _results(name: str, regime: Regime, verdicts: Sequence[ScoreVerdicts]) -> Sheet:
    """Every cell of the verdict tables."""
    rows: list[tuple[Any, ...]] = []
    for judged in verdicts:
        for shift in regime.shifts:
            for method in regime.methods:
                found = judged.means.get((shift, method))
                if found is None:
                    continue
                row = judged.versus.get((shift, method))
                d = None if row is None else row.difference
                rows.append(
                    (
                        judged.score.metric, shift, method, found.num_runs, found.mean, found.sd,
                        found.low, found.high,
                        d.mean if d else None, d.low if d else None, d.high if d else None,
                        d.num_pairs if d else None, d.p_value if d else None,
                        row.adjusted_p if row else None,
                        row.verdict.decision if row else None, len(found.unusable),
                    )
                )  # fmt: skip
    columns = (
        "score", "shift", "method", "num_runs", "mean", "sd", "low", "high", "difference_mean",
        "difference_low", "difference_high", "num_pairs", "p", "holm_adjusted_p", "decision",
        "num_unusable",
    )  # fmt: skip
    return Sheet(name, columns, tuple(rows))


def _all_scores(name: str, verdicts: Sequence[ScoreVerdicts]) -> Sheet:
    """The score of every single run."""
    rows = tuple(
        (judged.score.metric, shift, method, seed, value)
        for judged in verdicts
        for (shift, method), found in sorted(judged.means.items())
        for seed, value in found.values
    )
    return Sheet(name, ("score", "shift", "method", "seed", "value"), rows)
