"""Removed or postponed: what the score does once the source weight has reached 0."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import numpy as np

from segue.analysis.curves import points
from segue.analysis.moments import ramp_end, value_by
from segue.analysis.statistics import t_interval
from segue.report.families import FAMILIES
from segue.report.score_tables import ScoreTable, markdown_of
from segue.report.study import Regime, Study
from segue.report.text import counted, name_of, number, signed

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["release_markdown", "release_table"]

_WINDOW = 10_000
_FALL = 10.0
_WEIGHT = "source_weight"


def release_markdown(study: Study) -> str:
    """The tables of all shifts as Markdown."""

    def make(regime: Regime) -> list[ScoreTable]:
        tables = [release_table(regime, shift) for shift in regime.shifts]
        return [table for table in tables if table is not None]

    return markdown_of(study, make)


def release_table(regime: Regime, shift: str) -> ScoreTable | None:
    """A row a method that lets the source go: the score then, and the lowest soon after.

    Each difference is within a run, so methods that keep the source longer are looked at for no shorter
    time. A run whose weight never reaches 0, or later than 10,000 steps before its end, is left out.
    None for a family that has no start line, or where no run is left.
    """
    family = FAMILIES.get(regime.family)
    if family is None or not family.start_line:
        return None
    curve = family.panels[0].curve
    rows, counts = [], set()
    for method in sorted(regime.methods, key=lambda m: (m != regime.hard_switch, m)):
        runs = [r for r in regime.of(shift, method) if r.status == "completed"]
        found = [f for r in runs if (f := _falls(r, curve)) is not None]
        if not found:
            continue
        counts.add(len(found))
        steps, start, then, lowest, final = zip(*found, strict=True)
        falls = [a - b for a, b in zip(then, lowest, strict=True)]
        interval = t_interval(falls)
        text = signed(-interval.mean, 1)
        if len(falls) > 1:
            text += f" ({signed(-interval.high, 1)} to {signed(-interval.low, 1)})"
        rows.append(
            (
                name_of(method), f"{statistics.median(steps):,.0f}",
                *(number(statistics.fmean(values), 1) for values in (start, then, lowest)), text,
                f"{sum(fall > _FALL for fall in falls)} of {len(falls)}",
                number(statistics.fmean(final), 1),
            )
        )  # fmt: skip
    if not rows:
        return None
    seeds = counted(max(counts), "seed")
    if len(counts) > 1:
        seeds = f"{min(counts)} to {seeds}"
    caption = (
        f"{family.panels[0].title}, means over {seeds}. S₀ is the score at the switch. λ reaches 0 by "
        "the given step, 0 being the switch; then: the last evaluation before that; after: the lowest of "
        f"those that follow, until {_WINDOW:,} steps after it. "
        "The change is taken within each run, with its 95 % t interval. Methods that keep λ above 0 are "
        "left out."
    )
    columns = (
        "method", "λ = 0 by step", "start S₀", "score then", f"lowest within {_WINDOW:,} steps after", "change",
        f"fell by over {_FALL:.0f} points", "final",
    )  # fmt: skip
    return ScoreTable(columns, tuple(rows), caption, name_of(shift))


def _falls(record: Record, curve: str) -> tuple[float, float, float, float, float] | None:
    """Step of λ = 0, score at the switch, by then, lowest soon after, and final; None without such a time."""
    if curve not in record.curves or _WEIGHT not in record.curves:
        return None
    at, weights = points(record.curves[_WEIGHT])
    above = at[weights > 0.0]
    end, last = (ramp_end(record.curves[_WEIGHT]), int(above[-1])) if above.size else (0.0, 0)
    steps, scores = points(record.curves[curve])
    if end is None or steps[-1] < end + _WINDOW:
        return None
    after = scores[(steps > last) & (steps <= end + _WINDOW) & np.isfinite(scores)]
    then, final = (value_by(record.curves, curve, step) for step in (last, int(steps[-1])))
    if then is None or final is None or not after.size:
        return None
    return end, float(scores[0]), then, float(after.min()), final
