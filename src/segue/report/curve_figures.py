"""Curves over the steps after the switch, panel under panel, the source weight last."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from segue.analysis.curves import MeanCurve, mean_curve
from segue.report.families import Panel, family_of
from segue.report.figures import Plot, label
from segue.report.palette import (
    BANDS,
    CHOSEN,
    FAINT,
    HARD,
    LABEL,
    MUTED,
    TREATMENT,
    base_figure,
    spread,
    style_axes,
)
from segue.report.sheets import Sheet
from segue.report.study import Regime
from segue.report.text import counted, name_of, number

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["method_colours", "shift_curves"]

_WEIGHT = "source_weight"
_MOST_POINTS = 100
"""Points of a curve: more are not seen, and make the page large."""


def method_colours(regime: Regime, chosen: str | None = None) -> dict[str, str]:
    """Colours of the methods that stand out: hard switch, treatment, chosen baseline."""
    colours = {}
    if regime.hard_switch is not None:
        colours[regime.hard_switch] = HARD
    if chosen is not None and chosen not in (regime.treatment, regime.hard_switch):
        colours[chosen] = CHOSEN
    if regime.treatment is not None:
        colours[regime.treatment] = TREATMENT
    if not colours and regime.methods:
        colours[regime.methods[0]] = TREATMENT
    return colours


def _curves(records: Sequence[Record], name: str) -> list[dict[str, list[Any]]]:
    return [r.curves[name] for r in records if r.status == "completed" and name in r.curves]


def shift_curves(
    regime: Regime,
    shift: str,
    colours: dict[str, str],
    panels: Sequence[Panel],
    *,
    name: str,
    marks: Sequence[tuple[float, str]] = (),
    level: tuple[float, str] | None = None,
    dense_start: bool = False,
) -> Plot | None:
    """Mean curves of one shift: coloured methods with bands and labels, the others thin.

    Args:
        regime: The regime.
        shift: Its shift.
        colours: Methods that stand out, and their colours.
        panels: Curves to draw, from the top; what no run has is left out.
        name: Name of the sheet.
        marks: Vertical lines, as (step, words).
        level: A horizontal line in the first panel, as (value, words).
        dense_start: Draw the first steps wider: the axis is logarithmic beyond 100 steps.

    Returns:
        None if no run of the shift has a curve.
    """
    drawn = {p.curve: _mean_curves(regime, shift, [*colours], p.curve) for p in panels}
    panels = [panel for panel in panels if drawn[panel.curve]]
    if not panels:
        return None
    figure = base_figure(
        560 if len(panels) < 4 else 150 * len(panels), right=_right_margin(panels, drawn, colours),
        top=30 if marks else 12,
    )  # fmt: skip
    place = _log_place if dense_start else float
    rows: list[tuple[Any, ...]] = []
    for number_of, (panel, domain) in enumerate(zip(panels, _domains(panels), strict=True), 1):
        rows += _draw_panel(figure, number_of, panel, drawn[panel.curve], colours, domain, place)
    last = max(mean.step[-1] for means in drawn.values() for _, mean in means)
    style_axes(figure)
    bottom = "" if len(panels) == 1 else str(len(panels))
    figure.update_layout(
        xaxis={"anchor": f"y{bottom}", "title_text": family_of(regime.family).steps,
               "range": [0, place(last)], "domain": [0, 1]},
    )  # fmt: skip
    if dense_start:
        ticks = [0, *(t for t in (100, 1_000, 10_000, 100_000, 1_000_000) if t < last), last]
        if len(ticks) > 2 and place(ticks[-1]) - place(ticks[-2]) < 0.12 * place(last):
            del ticks[-2]
        figure.update_layout(
            xaxis={"tickvals": [place(t) for t in ticks], "ticktext": [f"{t:,}" for t in ticks]}
        )
    for step, words in marks:
        _draw_mark(figure, place(step), words)
    if level is not None:
        _draw_level(figure, *level)
    columns = ("curve", "method", "step", "mean", "low", "high", "num_runs")
    faint = sum(method not in colours for method in regime.methods)
    others = f" Thin grey: {counted(faint, 'other method')}." if faint else ""
    caption = "Means over seeds; bands are pointwise 95 % t intervals." + others
    if dense_start:
        caption += " The first steps are drawn wider: the axis is logarithmic beyond 100 steps."
    key = tuple((name_of(method, 40), colour) for method, colour in colours.items())
    return Plot(figure, caption, Sheet(name, columns, tuple(rows)), key)


def _mean_curves(
    regime: Regime, shift: str, last: Sequence[str], curve: str
) -> list[tuple[str, MeanCurve]]:
    """Every method's mean curve, those of ``last`` at the end."""
    order = [*(method for method in regime.methods if method not in last), *last]
    found = [(method, _curves(regime.of(shift, method), curve)) for method in order]
    return [(method, _thinned(mean_curve(curves))) for method, curves in found if curves]


def _right_margin(
    panels: Sequence[Panel],
    drawn: Mapping[str, Sequence[tuple[str, MeanCurve]]],
    colours: Mapping[str, str],
) -> int:
    """Room for the longest label beside a line: pixels."""
    longest = max(
        (
            len(_end_text(panel, method, panel.scale * mean.mean[-1]))
            for panel in panels
            if panel.curve != _WEIGHT
            for method, mean in drawn[panel.curve]
            if method in colours
        ),
        default=0,
    )
    return max(120, 7 * longest + 12)


def _end_text(panel: Panel, method: str, value: float) -> str:
    return f"{label(method, 15)} {number(value, panel.digits)}"


def _thinned(mean: MeanCurve, most: int = _MOST_POINTS) -> MeanCurve:
    """The curve at no more than ``most`` of its steps, evenly spread, both ends included."""
    num = len(mean.step)
    if num <= most:
        return mean
    kept = sorted({round(i * (num - 1) / (most - 1)) for i in range(most)})
    return MeanCurve(
        step=tuple(mean.step[i] for i in kept),
        mean=tuple(mean.mean[i] for i in kept),
        low=tuple(mean.low[i] for i in kept),
        high=tuple(mean.high[i] for i in kept),
        num_runs=tuple(mean.num_runs[i] for i in kept),
    )


def _log_place(step: float) -> float:
    return math.log10(1.0 + step / 100.0)


def _domains(panels: Sequence[Panel]) -> list[tuple[float, float]]:
    """Heights of the panels from the top, with equal gaps, over the whole figure."""
    gap = 0.06 if len(panels) < 4 else 0.035
    factor = (1.0 - gap * (len(panels) - 1)) / sum(panel.height for panel in panels)
    domains, top = [], 1.0
    for panel in panels:
        low = max(0.0, round(top - factor * panel.height, 3))
        domains.append((low, round(top, 3)))
        top = low - gap
    return domains


def _draw_panel(
    figure: go.Figure,
    index: int,
    panel: Panel,
    drawn: Sequence[tuple[str, MeanCurve]],
    colours: dict[str, str],
    domain: tuple[float, float],
    place: Callable[[float], float],
) -> list[tuple[Any, ...]]:
    """Add one panel to the figure; return its rows of the sheet."""
    is_weight = panel.curve == _WEIGHT
    values = [panel.scale * v for _, c in drawn for v in c.mean if math.isfinite(v)]
    for method, mean in drawn:
        if method in colours and not is_weight:
            _draw_band(figure, index, mean, panel.scale, colours[method], place)
    for method, mean in drawn:
        if method in colours or not is_weight:
            _draw_line(figure, index, method, mean, panel, colours.get(method), place)
    low, high = _range(values, panel)
    axis = "" if index == 1 else str(index)
    figure.update_layout(
        {f"yaxis{axis}": {"domain": domain, "range": [low, high], "title_text": panel.title,
                          "anchor": "x"}}
    )  # fmt: skip
    if is_weight:
        figure.update_layout({f"yaxis{axis}": {"tickvals": [0, 0.5, 1]}})
    else:
        _label_ends(figure, index, drawn, colours, panel, (low, high), domain)
    return [
        (panel.curve, method, *point)
        for method, mean in drawn
        for point in zip(mean.step, mean.mean, mean.low, mean.high, mean.num_runs, strict=True)
    ]


def _draw_mark(figure: go.Figure, x: float, words: str) -> None:
    figure.add_shape(
        type="line", x0=x, x1=x, xref="x", y0=0, y1=1, yref="paper",
        line={"color": MUTED, "width": 1, "dash": "dot"},
    )  # fmt: skip
    figure.add_annotation(
        text=words, showarrow=False, x=x, xref="x", y=1, yref="paper", yanchor="bottom",
        font={"color": MUTED, "size": 12},
    )  # fmt: skip


def _draw_level(figure: go.Figure, y: float, words: str) -> None:
    figure.add_shape(
        type="line", x0=0, x1=1, xref="paper", y0=y, y1=y, yref="y",
        line={"color": MUTED, "width": 1, "dash": "dash"},
    )  # fmt: skip
    figure.add_annotation(
        text=words, showarrow=False, x=1, xref="paper", xanchor="right", y=y, yref="y",
        yanchor="bottom", font={"color": MUTED, "size": 12},
    )  # fmt: skip


def _range(values: list[float], panel: Panel) -> tuple[float, float]:
    if panel.curve == _WEIGHT or not values:
        return (-0.06, 1.06)
    width = max(values) - min(values)
    in_percent = panel.scale == 100.0
    pad = 0.06 * width + 0.5 if in_percent else 0.06 * (width or abs(max(values)) or 1.0)
    return (min(values) - pad, max(values) + pad)


def _axes(panel: int) -> dict[str, str]:
    return {"xaxis": "x", "yaxis": "y" if panel == 1 else f"y{panel}"}


def _draw_band(
    figure: go.Figure,
    panel: int,
    mean: MeanCurve,
    scale: float,
    colour: str,
    place: Callable[[float], float],
) -> None:
    kept = [i for i in range(len(mean.step)) if math.isfinite(mean.low[i])]
    xs = [_tidy(place(mean.step[i])) for i in kept]
    low, high = (
        [_tidy(scale * mean.low[i]) for i in kept],
        [_tidy(scale * mean.high[i]) for i in kept],
    )
    figure.add_trace(
        go.Scatter(
            x=xs + xs[::-1], y=high + low[::-1], fill="toself", mode="none",
            fillcolor=BANDS[colour], hoverinfo="skip", opacity=0.6, **_axes(panel),
        )
    )  # fmt: skip


def _tidy(value: float) -> float:
    """Six significant digits, which no screen tells from more: figures stay small."""
    return float(f"{value:.6g}")


def _draw_line(
    figure: go.Figure,
    index: int,
    method: str,
    mean: MeanCurve,
    panel: Panel,
    colour: str | None,
    place: Callable[[float], float],
) -> None:
    ys = [_tidy(panel.scale * v) if math.isfinite(v) else None for v in mean.mean]
    figure.add_trace(
        go.Scatter(
            x=[_tidy(place(step)) for step in mean.step], y=ys, mode="lines",
            line={"color": colour or FAINT, "width": 2.2 if colour else 1.0},
            hoverinfo="text",
            hovertext=[
                f"{label(method, 40)}<br>step {step:,}: {number(y, panel.digits)}"
                for step, y in zip(mean.step, ys, strict=True)
            ],
            **_axes(index),
        )
    )  # fmt: skip


def _label_ends(
    figure: go.Figure,
    index: int,
    drawn: Sequence[tuple[str, MeanCurve]],
    colours: dict[str, str],
    panel: Panel,
    limits: tuple[float, float],
    domain: tuple[float, float],
) -> None:
    """Names at the ends of the coloured lines, moved apart where they would overlap."""
    ends = [
        (m, panel.scale * c.mean[-1])
        for m, c in drawn
        if m in colours and math.isfinite(c.mean[-1])
    ]
    gap = (limits[1] - limits[0]) * 0.034 / (domain[1] - domain[0])
    places = spread([value for _, value in ends], gap, *limits)
    for (method, value), y in zip(ends, places, strict=True):
        figure.add_annotation(
            text=_end_text(panel, method, value), showarrow=False, xref="paper", x=1.0,
            xanchor="left", xshift=6, yref="y" if index == 1 else f"y{index}", y=y,
            font={"color": colours[method], "size": 12}, name=LABEL,
        )  # fmt: skip
