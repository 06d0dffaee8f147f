"""The gain against the pretraining budget: regimes that differ in nothing else, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import linear_regression
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from segue.analysis.comparison import ComparisonRow, table
from segue.analysis.matching import METHOD_PATH, Arm, key_of
from segue.analysis.statistics import Interval, t_interval
from segue.report.families import FAMILIES, FamilyScore
from segue.report.figures import Plot, label
from segue.report.palette import FAINT, base_figure, style_axes
from segue.report.score_study import compare_scores
from segue.report.score_tables import ScoreTable
from segue.report.settings import method_of, shift_of
from segue.report.sheets import Sheet
from segue.report.study import Regime, Study, alike_but_for
from segue.report.tables import compared_text
from segue.report.text import counted, name_of, number, signed

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["gain_by_budget", "pretraining_markdown", "pretraining_tables", "widest_budgets"]

_BUDGET = "num_pretraining_steps"
_EQUAL = " against the hard switch at equal compute"
_Rows = Mapping[tuple[str, str], Sequence[ComparisonRow]]
"""Shift and method → one comparison with the hard switch a budget."""


def pretraining_tables(study: Study, *, rng_seed: int = 0) -> list[ScoreTable]:
    """A table a score and target: a row a budget, and how the difference grows with it.

    A column a method that was run, for some target, at half of the treatment's budgets or more (the tables of
    the regimes have the others); where the hard switch was also trained for longer, one for equal compute.
    Differences are paired by seed; Holm over the budgets, for each target and method by itself. Empty
    unless regimes that differ in the pretraining budget alone have several.
    """
    regimes = widest_budgets(study)
    tables = []
    for score in FAMILIES[regimes[0].family].scores if regimes else ():
        hard = [r for g in regimes for r in g.records if method_of(r) == g.hard_switch]
        compared = _compared(regimes, score, rng_seed)
        for shift in sorted({shift_of(r) for r in hard}):
            made = _table(shift, [r for r in hard if shift_of(r) == shift], compared, score)
            if made is not None:
                tables.append(made)
    return tables


def pretraining_markdown(study: Study) -> str:
    """The tables as Markdown."""
    return "\n\n".join(made.to_markdown() for made in pretraining_tables(study)) or "No runs yet."


def widest_budgets(study: Study) -> list[Regime]:
    """Comparable regimes that differ in the budget alone, by that budget; empty below two."""
    regimes = [r for r in study.regimes if r.comparable and r.family in FAMILIES]
    several = [group for group in alike_but_for(regimes, _BUDGET) if len(group) > 1]
    return max(several, key=lambda g: sum(len(r.records) for r in g), default=[])


def _compared(regimes: Sequence[Regime], score: FamilyScore, rng_seed: int) -> _Rows:
    """Methods against the hard switch, and the treatment against it at equal compute."""
    hard, treatment = str(regimes[0].hard_switch), str(regimes[0].treatment)
    records = [r for regime in regimes for r in regime.records if _has(r, score)]
    longer = [r for regime in regimes for r in regime.equal_compute if _has(r, score)]
    shown = _with_a_trend(records, treatment)
    found: dict[tuple[str, str], Sequence[ComparisonRow]] = {}
    for shift in sorted({shift_of(r) for r in records}):
        here = [r for r in records if shift_of(r) == shift]
        plain = [r for r in here if method_of(r) == hard]
        for method in sorted(shown & {method_of(r) for r in here} - {hard}):
            own = [r for r in here if method_of(r) == method]
            found[shift, method] = _against(own, plain, "the hard switch", score, rng_seed)
        smoothed = [r for r in here if method_of(r) == treatment]
        as_dear = [r for r in longer if shift_of(r) == shift]
        name = "the hard switch at equal compute"
        found[shift, treatment + _EQUAL] = _against(smoothed, as_dear, name, score, rng_seed)
    return {key: rows for key, rows in found.items() if rows}


def _with_a_trend(records: Sequence[Record], treatment: str) -> set[str]:
    """Methods that have, for some target, at least half of the treatment's budgets."""
    budgets: dict[tuple[str, str], set[int]] = {}
    for record in records:
        place = shift_of(record), method_of(record)
        budgets.setdefault(place, set()).add(record.config[_BUDGET])
    return {
        method
        for (shift, method), own in budgets.items()
        if 2 * len(own) >= len(budgets.get((shift, treatment), ()))
    }


def _against(
    first: Sequence[Record], second: Sequence[Record], name: str, score: FamilyScore, rng_seed: int
) -> Sequence[ComparisonRow]:
    """Paired comparisons at the budgets that both have: others are nothing that Holm should count."""
    both = {r.config[_BUDGET] for r in first} & {r.config[_BUDGET] for r in second}
    own = [r for r in (*first, *second) if r.config[_BUDGET] in both]
    if not own:
        return ()
    arm = Arm(name, {METHOD_PATH: method_of(second[0])})
    return compare_scores(own, method_of(first[0]), arm, score, rng_seed, group_by=_BUDGET)


def _has(record: Record, score: FamilyScore) -> bool:
    return record.status == "completed" and record.metrics.get(score.metric) is not None


def _table(
    shift: str, hard: Sequence[Record], compared: _Rows, score: FamilyScore
) -> ScoreTable | None:
    methods = [method for s, method in compared if s == shift]
    means = {
        row.group[_BUDGET]: row for row in table(hard, metric=score.metric, group_by=(_BUDGET,))
    }
    if not methods or not means:
        return None
    by_method = {m: {row.group[_BUDGET]: row for row in compared[shift, m]} for m in methods}
    rows = []
    for budget in sorted(means):
        mean = means[budget]
        cells = [
            f"{budget:,}",
            f"{number(mean.mean, score.digits)} ± {number(mean.sd, score.digits)}",
        ]
        cells += [compared_text(by_method[m].get(budget)) for m in methods]
        rows.append(tuple(cells))
    slopes = [_slope(compared[shift, m]) for m in methods]
    rows.append(("for each doubling", "", *(_slope_text(s, score.digits + 1) for s in slopes)))
    seeds = {len(row.seeds) for m in methods for row in compared[shift, m]}
    spread = str(max(seeds)) if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    better = "higher" if score.higher_is_better else "lower"
    caption = (
        f"{score.label}, {better} is better: the hard switch's mean ± standard deviation, and the paired "
        f"differences to it with 95 % t intervals over {spread} seeds (▲ helps, ▼ hurts, ○ undecided; exact sign-flip p, "
        "Holm over the budgets, for each method by itself). Last row: the slope of the difference over log₂ of the "
        "budget, one a seed that has every budget."
    )
    columns = ("pretraining steps", "hard switch", *(name_of(m) for m in methods))
    title = f"{name_of(shift)}: {score.label.partition(' (')[0].lower()}"
    return ScoreTable(columns, tuple(rows), caption, title)


def _slope(rows: Sequence[ComparisonRow]) -> Interval:
    """Slope of the difference for each doubling of the budget, over the seeds with every budget."""
    by_seed: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        place = math.log2(float(row.group[_BUDGET]))
        for seed, difference in zip(row.seeds, row.difference.differences, strict=True):
            by_seed.setdefault(key_of(seed), []).append((place, difference))
    whole = [points for points in by_seed.values() if len(points) == len(rows) > 1]
    return t_interval([linear_regression(*zip(*p, strict=True)).slope for p in whole])


def _slope_text(slope: Interval, digits: int) -> str:
    if math.isnan(slope.low):
        return "–"
    low, high = number(slope.low, digits), number(slope.high, digits)
    return f"{signed(slope.mean, digits)} ({low} to {high})"


def gain_by_budget(study: Study, colours: Mapping[str, str], *, name: str) -> Plot | None:
    """Gain over the hard switch in the family's first score, over the budget, a panel a target.

    Args:
        study: The records.
        colours: Methods that stand out.
        name: Name of the sheet.

    Returns:
        None unless regimes that differ in the pretraining budget alone have several.
    """
    regimes = widest_budgets(study)
    if not regimes:
        return None
    score = FAMILIES[regimes[0].family].scores[0]
    compared = _compared(regimes, score, 0)
    shifts = sorted({shift for shift, _ in compared})
    if not shifts:
        return None
    budgets = [int(regime.settings[_BUDGET]) for regime in regimes]
    sign = 1.0 if score.higher_is_better else -1.0
    figure = base_figure(70 + 190 * len(shifts), top=30)
    gap = 0.22 / len(shifts)
    tall = (1.0 - gap * (len(shifts) - 1)) / len(shifts)
    sheet: list[tuple[Any, ...]] = []
    shown: dict[str, str] = {}
    for i, shift in enumerate(shifts):
        axis, top = "" if i == 0 else str(i + 1), 1.0 - i * (tall + gap)
        for method in [m for s, m in compared if s == shift and not m.endswith(_EQUAL)]:
            rows = [row for row in compared[shift, method] if row.difference.num_pairs]
            colour = colours.get(method, FAINT)
            shown[method] = colour
            gains = [sign * row.difference.mean for row in rows]
            halves = [(row.difference.high - row.difference.low) / 2.0 for row in rows]
            figure.add_trace(
                go.Scatter(
                    x=[row.group[_BUDGET] for row in rows],
                    y=gains,
                    mode="lines+markers",
                    line={"color": colour, "width": 2.2 if method in colours else 1.2},
                    marker={"color": colour, "size": 7},
                    error_y={
                        "type": "data", "color": colour, "thickness": 1.4, "width": 0,
                        "array": [h if math.isfinite(h) else 0.0 for h in halves],
                    },
                    xaxis=f"x{axis}",
                    yaxis=f"y{axis}",
                    hoverinfo="text",
                    hovertext=[
                        f"{label(method, 40)}<br>{row.group[_BUDGET]:,} steps: "
                        f"{number(g, score.digits)} {label(score.unit)}"
                        for row, g in zip(rows, gains, strict=True)
                    ],
                )
            )  # fmt: skip
            sheet += [
                (shift, method, row.group[_BUDGET], g, *sorted((sign * d.low, sign * d.high)), d.num_pairs)
                for row, g in zip(rows, gains, strict=True)
                for d in (row.difference,)
            ]  # fmt: skip
        is_last = shift == shifts[-1]
        figure.update_layout(
            {
                f"xaxis{axis}": {"anchor": f"y{axis}", "type": "log", "tickvals": budgets,
                                 "ticktext": [f"{b:,}" if is_last else "" for b in budgets],
                                 "title_text": "pretraining steps" if is_last else ""},
                f"yaxis{axis}": {"anchor": f"x{axis}", "domain": [max(top - tall, 0.0), top],
                                 "title_text": f"gain ({score.unit})"},
            }
        )  # fmt: skip
        figure.add_annotation(
            text=label(shift, 30), showarrow=False, xref="paper", x=0.0, xanchor="left",
            yref="paper", y=top, yanchor="bottom", font={"size": 13},
        )  # fmt: skip
    style_axes(figure)
    caption = (
        f"{score.label}: gain over the hard switch, paired by seed, with 95 % t intervals over seeds; above 0 is "
        f"better. {counted(len(budgets), 'budget')} of pretraining, learning rates chosen at each."
    )
    columns = ("shift", "method", _BUDGET, "gain", "low", "high", "num_pairs")
    key = tuple((name_of(m, 40), c) for m, c in shown.items() if m in colours)
    return Plot(figure, caption, Sheet(name, columns, tuple(sheet)), key)
