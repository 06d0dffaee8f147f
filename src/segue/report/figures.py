"""Figures of a study: pure functions from comparisons and records to Plotly figures.

Every text that may come from a record passes through :func:`segue.report.text.plotly_text`. Each
function returns the figure together with the sheet of the values that it draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from segue.analysis.comparison import ComparisonRow
from segue.report.ablations import Sweep
from segue.report.palette import (
    CHOSEN,
    FAINT,
    GRID,
    INK,
    LABEL,
    MARKERS,
    MUTED,
    PAPER,
    TREATMENT,
    base_figure,
    style_axes,
)
from segue.report.sentences import group_name
from segue.report.sheets import Sheet
from segue.report.text import name_of, plotly_text, signed, value_text

__all__ = [
    "Plot",
    "ablation",
    "paired_differences",
]


@dataclass(frozen=True)
class Plot:
    """A figure, what it shows in a sentence, and its data."""

    figure: go.Figure
    caption: str
    sheet: Sheet
    key: tuple[tuple[str, str], ...] = ()  # (text, colour), for windows too narrow for labels


def label(name: object, limit: int = 22) -> str:
    """A name as a Plotly label."""
    return plotly_text(name_of(name), limit)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def zero_line(figure: go.Figure, x: float = 0.0) -> None:
    figure.add_vline(x=x, line={"color": MUTED, "width": 1})


def interval_trace(
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
            interval_trace(
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
            text="● " + plotly_text(title), showarrow=False,
            xref="paper", x=0.0, xanchor="left", yref="paper", y=1.0, yanchor="bottom",
            xshift=0, yshift=16 - 16 * i if len(series) > 1 else 6,
            font={"color": color, "size": 12}, name=LABEL,
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
    zero_line(figure)
    style_axes(figure)
    figure.update_yaxes(
        tickvals=list(position.values()),
        ticktext=[label(shift) for shift in position],
        range=[-0.6, len(order) - 0.4],
        showgrid=False,
        tickfont={"color": INK, "size": 13},
    )
    figure.update_xaxes(title_text="difference (points)")
    columns = (
        "baseline", "shift", "mean_difference", "low", "high", "num_pairs", "p",
        "holm_adjusted_p", "smallest_adjusted_p", "decision",
    )  # fmt: skip
    caption = (
        "Difference in target accuracy, paired by seed, with 95 % t intervals, each for its shift "
        "alone and not adjusted for their number as the verdicts are. Filled circle: helps; "
        "square: hurts; open circle: undecided."
    )
    key = tuple(zip(series, (TREATMENT, CHOSEN), strict=False))
    return Plot(figure, caption, Sheet(name, columns, tuple(rows)), key)


def _or(value: float, other: float) -> float:
    return value if math.isfinite(value) else other


def _hover(row: ComparisonRow) -> str:
    return f"{label(group_name(row), 40)}<br>" + "<br>".join(
        plotly_text(part.strip(), 90) for part in row.verdict.sentence.split(";")
    )


def ablation(sweep: Sweep, *, name: str) -> Plot:
    """Difference to the hard switch over a swept setting: each shift thin, their mean bold."""
    figure = base_figure(300, right=20)
    texts = [plotly_text(value_text(value), 16) for value in sweep.values]
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
                    f"{label(shift, 40)}<br>{plotly_text(value_text(p.value))}: "
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
                    f"mean over shifts<br>{plotly_text(value_text(p.value))}: "
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
