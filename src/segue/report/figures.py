"""Figures of a study: pure functions from comparisons and records to Plotly figures.

Every text that may come from a record passes through :func:`segue.report.text.plotly_text`. Each
function returns the figure together with the sheet of the values that it draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from segue.analysis.bootstrap import Estimate, performance_profile
from segue.analysis.comparison import ComparisonRow
from segue.analysis.matching import read_score
from segue.analysis.pooling import Pooled
from segue.report.ablations import Sweep
from segue.report.claims import group_name
from segue.report.palette import (
    BANDS,
    CHOSEN,
    FAINT,
    GRID,
    HARD,
    INK,
    MARKERS,
    MUTED,
    PAPER,
    TREATMENT,
    base_figure,
    style_axes,
)
from segue.report.sheets import Sheet
from segue.report.study import Regime
from segue.report.text import name_of, number, plotly_text, signed

__all__ = [
    "Plot",
    "ablation",
    "paired_differences",
    "performance_profiles",
    "pooled_differences",
    "probabilities",
]


@dataclass(frozen=True)
class Plot:
    """A figure, what it shows in a sentence, and its data."""

    figure: go.Figure
    caption: str
    sheet: Sheet


def label(name: object, limit: int = 22) -> str:
    """A name as a Plotly label."""
    return plotly_text(name_of(name), limit)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _zero_line(figure: go.Figure, x: float = 0.0) -> None:
    figure.add_vline(x=x, line={"color": MUTED, "width": 1})


def _interval_trace(
    x: Sequence[float], low: Sequence[float], high: Sequence[float], y: Sequence[Any], **style: Any
) -> go.Scatter:
    """Points with horizontal intervals."""
    plus = [h - m if math.isfinite(h) else 0.0 for m, h in zip(x, high, strict=True)]
    minus = [m - w if math.isfinite(w) else 0.0 for m, w in zip(x, low, strict=True)]
    color = style.pop("color")
    return go.Scatter(
        x=[_finite(value) for value in x],
        y=list(y),
        mode="markers",
        error_x={
            "type": "data",
            "symmetric": False,
            "array": plus,
            "arrayminus": minus,
            "color": color,
            "thickness": 1.6,
            "width": 0,
        },
        marker={
            "color": color,
            "size": 10,
            "line": {"width": 2, "color": color},
            "symbol": style.pop("symbol", "circle"),
        },
        hoverinfo="text",
        **style,
    )


def paired_differences(
    series: Mapping[str, Sequence[ComparisonRow]], *, name: str = "paired_differences"
) -> Plot:
    """Treatment minus baseline on every shift, one row a shift and one colour a baseline.

    Args:
        series: Rows of a comparison by what the legend calls its baseline.
        name: Name of the sheet.
    """
    first = next(iter(series.values()))
    order = sorted(first, key=lambda row: _or(row.difference.mean, -math.inf))
    position = {group_name(row): i for i, row in enumerate(order)}
    figure = base_figure(90 + (34 + 10 * (len(series) > 1)) * len(order), top=34)
    rows: list[tuple[Any, ...]] = []
    offsets = [0.0] if len(series) == 1 else [0.15, -0.15]
    for i, ((title, comparisons), color) in enumerate(
        zip(series.items(), (TREATMENT, CHOSEN), strict=False)
    ):
        used = [row for row in comparisons if group_name(row) in position]
        scale = used[0].scale if used else 100.0
        xs = [row.difference.mean * scale for row in used]
        figure.add_trace(
            _interval_trace(
                xs,
                [row.difference.low * scale for row in used],
                [row.difference.high * scale for row in used],
                [position[group_name(row)] + offsets[i % len(offsets)] for row in used],
                color=color,
                symbol=[MARKERS[row.verdict.decision] for row in used],
                hovertext=[_hover(row) for row in used],
                name=plotly_text(title),
            )
        )
        figure.add_annotation(
            text=("● " if i == 0 else "● ") + plotly_text(title), showarrow=False,
            xref="paper", x=0.0, xanchor="left", yref="paper", y=1.0, yanchor="bottom",
            xshift=0, yshift=16 - 16 * i if len(series) > 1 else 6,
            font={"color": color, "size": 12},
        )  # fmt: skip
        rows += [
            (
                title, group_name(row), row.difference.mean, row.difference.low,
                row.difference.high, row.difference.num_pairs, row.difference.p_value,
                row.adjusted_p, row.smallest_adjusted_p, row.verdict.decision,
            )
            for row in comparisons
        ]  # fmt: skip
    if len(series) > 1:
        figure.update_layout(margin_t=44)
    _zero_line(figure)
    style_axes(figure)
    figure.update_yaxes(
        tickvals=list(position.values()),
        ticktext=[label(shift) for shift in position],
        range=[-0.6, len(order) - 0.4],
        showgrid=False,
        tickfont={"color": INK, "size": 13},
    )
    figure.update_xaxes(title_text="difference in target accuracy (points)")
    columns = (
        "baseline", "shift", "mean_difference", "low", "high", "num_pairs", "p",
        "holm_adjusted_p", "smallest_adjusted_p", "decision",
    )  # fmt: skip
    caption = (
        "Paired by seed, with 95 % t intervals. Filled circle: helps; square: hurts; "
        "open circle: undecided."
    )
    return Plot(figure, caption, Sheet(name, columns, tuple(rows)))


def _or(value: float, other: float) -> float:
    return value if math.isfinite(value) else other


def _hover(row: ComparisonRow) -> str:
    return f"{label(group_name(row), 40)}<br>" + "<br>".join(
        plotly_text(part.strip(), 90) for part in row.verdict.sentence.split(";")
    )


def pooled_differences(pooled: Mapping[str, Pooled], highlight: str | None, *, name: str) -> Plot:
    """Every method against the hard switch, pooled over shifts: IQM of the paired differences."""
    estimates = {method: p.iqm for method, p in pooled.items() if p.iqm is not None}
    figure = _forest(
        estimates, highlight, 100.0, "IQM of the difference to the hard switch (points)"
    )
    _zero_line(figure)
    return Plot(
        figure,
        "Interquartile mean of the paired differences over all shifts and seeds, with 95 % bootstrap "
        "intervals.",
        _estimates_sheet(name, pooled, "iqm"),
    )


def probabilities(pooled: Mapping[str, Pooled], highlight: str | None, *, name: str) -> Plot:
    """Probability that a run of a method beats one of the hard switch on a shift at random."""
    estimates = {method: p.probability for method, p in pooled.items() if p.probability is not None}
    figure = _forest(estimates, highlight, 100.0, "probability of improvement (%)")
    _zero_line(figure, 50.0)
    return Plot(
        figure,
        "Chance that a run beats a run of the hard switch on a shift drawn at random; 50 % is a draw.",
        _estimates_sheet(name, pooled, "probability"),
    )


def _forest(
    estimates: Mapping[str, Estimate], highlight: str | None, scale: float, title: str
) -> go.Figure:
    order = sorted(estimates, key=lambda method: estimates[method].value)
    figure = base_figure(70 + 30 * len(order))
    for methods, color in (
        ([m for m in order if m != highlight], HARD),
        ([m for m in order if m == highlight], TREATMENT),
    ):
        chosen = [estimates[m] for m in methods]
        figure.add_trace(
            _interval_trace(
                [e.value * scale for e in chosen],
                [e.low * scale for e in chosen],
                [e.high * scale for e in chosen],
                [order.index(m) for m in methods],
                color=color,
                hovertext=[
                    f"{label(m, 40)}<br>{signed(e.value, scale=scale)} "
                    f"({number(e.low, scale=scale)} to {number(e.high, scale=scale)})"
                    for m, e in zip(methods, chosen, strict=True)
                ],
            )
        )
    style_axes(figure)
    figure.update_yaxes(
        tickvals=list(range(len(order))),
        ticktext=[label(method) for method in order],
        range=[-0.6, len(order) - 0.4],
        showgrid=False,
        tickfont={"color": INK, "size": 13},
    )
    figure.update_xaxes(title_text=title)
    return figure


def _estimates_sheet(name: str, pooled: Mapping[str, Pooled], field: str) -> Sheet:
    rows = []
    for method, pool in pooled.items():
        estimate = getattr(pool, field)
        if estimate is not None:
            low, high = estimate.low, estimate.high
            rows.append((method, estimate.value, low, high, pool.num_groups, pool.num_pairs))
    return Sheet(name, ("method", field, "low", "high", "num_shifts", "num_pairs"), tuple(rows))


def performance_profiles(
    regime: Regime, methods: Mapping[str, str], *, rng_seed: int, name: str
) -> Plot | None:
    """Share of runs above each target accuracy, all shifts weighing the same.

    Args:
        regime: The regime.
        methods: Methods to draw, and their colours.
        rng_seed: Seed of the bootstrap.
        name: Name of the sheet.
    """
    scores = {method: _scores_by_shift(regime, method) for method in methods}
    scores = {method: by_shift for method, by_shift in scores.items() if by_shift}
    values = [v for by_shift in scores.values() for runs in by_shift.values() for v in runs]
    if not values:
        return None
    thresholds = np.linspace(min(values) - 0.01, max(values) + 0.005, 60)
    figure = base_figure(300, right=118)
    rows: list[tuple[Any, ...]] = []
    ends: list[tuple[str, str, float, float]] = []
    for method, by_shift in scores.items():
        color = methods[method]
        rng = np.random.default_rng(rng_seed)
        profile = performance_profile(by_shift, thresholds, rng, num_resamples=500)
        xs = [100.0 * t for t in profile.thresholds]
        band = BANDS[color]
        figure.add_trace(_band(xs, _hundred(profile.low), _hundred(profile.high), band))
        figure.add_trace(
            go.Scatter(
                x=xs, y=_hundred(profile.value), mode="lines", line={"color": color, "width": 2},
                hoverinfo="text",
                hovertext=[
                    f"{label(method, 40)}<br>{number(100 * v, 0)} % of the runs above {number(x)} %"
                    for x, v in zip(xs, profile.value, strict=True)
                ],
            )
        )  # fmt: skip
        middle = min(range(len(xs)), key=lambda i: abs(profile.value[i] - 0.5))
        ends.append((method, color, xs[middle], 100.0 * profile.value[middle]))
        rows += zip([method] * 60, profile.thresholds, profile.value, profile.low, profile.high,
                    strict=True)  # fmt: skip
    for i, (method, color, _, _) in enumerate(ends):
        figure.add_annotation(
            text=label(method), showarrow=False, xref="paper", x=1.0, xanchor="left",
            yref="paper", y=1.0, yanchor="top", yshift=-18 * i, xshift=8,
            font={"color": color, "size": 12},
        )  # fmt: skip
    style_axes(figure)
    figure.update_xaxes(title_text="target accuracy (%)")
    figure.update_yaxes(title_text="runs above it (%)", range=[-2, 102])
    columns = ("method", "target_accuracy", "share_of_runs_above", "low", "high")
    caption = "Performance profiles: share of runs above each target accuracy, with 95 % bands."
    return Plot(figure, caption, Sheet(name, columns, tuple(rows)))


def _hundred(values: Sequence[float]) -> list[float]:
    return [100.0 * value for value in values]


def _scores_by_shift(regime: Regime, method: str) -> dict[str, list[float]]:
    result = {}
    for shift in regime.shifts:
        scores = [read_score(r, "target_accuracy", method) for r in regime.of(shift, method)]
        usable = [score for score in scores if isinstance(score, float)]
        if usable:
            result[shift] = usable
    return result


def _band(x: Sequence[float], low: Sequence[Any], high: Sequence[Any], color: str) -> go.Scatter:
    """A filled band; points without an interval are left out."""
    kept = [
        (a, b, c)
        for a, b, c in zip(x, low, high, strict=True)
        if b is not None and c is not None and math.isfinite(b) and math.isfinite(c)
    ]
    return go.Scatter(
        x=[a for a, _, _ in kept] + [a for a, _, _ in reversed(kept)],
        y=[c for _, _, c in kept] + [b for _, b, _ in reversed(kept)],
        fill="toself", mode="none", fillcolor=color, hoverinfo="skip",
    )  # fmt: skip


def ablation(sweep: Sweep, *, name: str) -> Plot:
    """Difference to the hard switch over a swept setting: each shift thin, their mean bold."""
    figure = base_figure(300, right=20)
    texts = [plotly_text(name_of(value), 16) for value in sweep.values]
    place = {str(value): i for i, value in enumerate(sweep.values)}
    shifts = sorted({str(point.shift) for point in sweep.points})
    for shift in shifts:
        points = [p for p in sweep.points if str(p.shift) == shift]
        figure.add_trace(
            go.Scatter(
                x=[place[str(p.value)] for p in points],
                y=[_finite(100.0 * p.mean) for p in points],
                mode="lines+markers",
                line={"color": FAINT, "width": 1.2},
                marker={"color": FAINT, "size": 6},
                hoverinfo="text",
                hovertext=[
                    f"{label(shift, 40)}<br>{plotly_text(name_of(p.value))}: "
                    f"{signed(p.mean, scale=100)} points, {p.num_pairs} pairs"
                    for p in points
                ],
            )
        )
    if sweep.means:
        plus = [_or(100 * (p.high - p.mean), 0.0) for p in sweep.means]
        minus = [_or(100 * (p.mean - p.low), 0.0) for p in sweep.means]
        figure.add_trace(
            go.Scatter(
                x=[place[str(p.value)] for p in sweep.means],
                y=[_finite(100.0 * p.mean) for p in sweep.means],
                mode="lines+markers",
                line={"color": TREATMENT, "width": 2.4},
                marker={"color": TREATMENT, "size": 9, "line": {"color": PAPER, "width": 1}},
                error_y={"type": "data", "symmetric": False, "array": plus, "arrayminus": minus,
                         "color": TREATMENT, "thickness": 1.6, "width": 0},
                hoverinfo="text",
                hovertext=[
                    f"mean over shifts<br>{plotly_text(name_of(p.value))}: "
                    f"{signed(p.mean, scale=100)} points"
                    for p in sweep.means
                ],
            )
        )  # fmt: skip
    figure.add_hline(y=0.0, line={"color": MUTED, "width": 1})
    style_axes(figure)
    figure.update_xaxes(
        title_text=plotly_text(sweep.label, 60),
        tickvals=list(range(len(texts))),
        ticktext=texts,
        range=[-0.35, len(texts) - 0.65],
        gridcolor=GRID,
    )
    figure.update_yaxes(title_text="points over the hard switch")
    rows = tuple(
        (p.value, p.shift or "mean over shifts", p.mean, p.low, p.high, p.num_pairs, p.unusable)
        for p in (*sweep.points, *sweep.means)
    )
    columns = (sweep.path, "shift", "mean_difference", "low", "high", "num_pairs", "num_unusable")
    caption = "Grey: each shift. Blue: mean over the shifts that have every value" + (
        ", with 95 % t intervals over seeds." if sweep.means else " (none has)."
    )
    return Plot(figure, caption, Sheet(name, columns, rows))
