"""Target and source accuracy over the steps after the switch, the source weight under them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from segue.analysis.curves import MeanCurve, mean_curve
from segue.report.figures import Plot, label
from segue.report.palette import (
    BANDS,
    CHOSEN,
    FAINT,
    HARD,
    LABEL,
    TREATMENT,
    base_figure,
    spread,
    style_axes,
)
from segue.report.sheets import Sheet
from segue.report.study import Regime
from segue.report.text import name_of, number

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["method_colours", "shift_curves"]

_PANELS = (
    ("target_accuracy", "target accuracy (%)", 100.0, (0.56, 1.0)),
    ("source_accuracy", "source accuracy (%)", 100.0, (0.20, 0.50)),
    ("source_weight", "source weight λ", 1.0, (0.0, 0.14)),
)


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


def shift_curves(regime: Regime, shift: str, colours: dict[str, str], *, name: str) -> Plot | None:
    """Mean curves of one shift: coloured methods with bands and labels, the others thin.

    Returns:
        None if no run of the shift has a curve.
    """
    figure = base_figure(560, right=120)
    rows: list[tuple[Any, ...]] = []
    faint = [method for method in regime.methods if method not in colours]
    last = 0
    for panel, (curve, title, scale, domain) in enumerate(_PANELS, start=1):
        drawn: list[tuple[str, MeanCurve]] = []
        for method in [*faint, *colours]:
            curves = _curves(regime.of(shift, method), curve)
            if curves:
                drawn.append((method, mean_curve(curves)))
        values = [scale * v for _, c in drawn for v in c.mean if math.isfinite(v)]
        last = max([last, *(c.step[-1] for _, c in drawn)])
        for method, mean in drawn:
            if method in colours and curve != "source_weight":
                _draw_band(figure, panel, mean, scale, colours[method])
        for method, mean in drawn:
            if method in colours or curve != "source_weight":
                _draw_line(figure, panel, method, mean, scale, colours.get(method))
            rows += [
                (curve, method, *point)
                for point in zip(
                    mean.step, mean.mean, mean.low, mean.high, mean.num_runs, strict=True
                )
            ]
        low, high = _range(values, curve)
        axis = "" if panel == 1 else str(panel)
        figure.update_layout(
            {f"yaxis{axis}": {"domain": domain, "range": [low, high], "title_text": title,
                              "anchor": "x"}}
        )  # fmt: skip
        if curve != "source_weight":
            _label_ends(figure, panel, drawn, colours, scale, (low, high))
    if not rows:
        return None
    style_axes(figure)
    figure.update_layout(
        xaxis={"anchor": "y3", "title_text": "optimizer steps after the switch",
               "range": [0, last], "domain": [0, 1]},
        yaxis3={"tickvals": [0, 0.5, 1]},
    )  # fmt: skip
    columns = ("curve", "method", "step", "mean", "low", "high", "num_runs")
    others = f" Thin grey: {len(faint)} other methods." if faint else ""
    caption = "Means over seeds; bands are pointwise 95 % t intervals." + others
    key = tuple((name_of(method, 40), colour) for method, colour in colours.items())
    return Plot(figure, caption, Sheet(name, columns, tuple(rows)), key)


def _range(values: list[float], curve: str) -> tuple[float, float]:
    if curve == "source_weight" or not values:
        return (-0.06, 1.06)
    pad = 0.06 * (max(values) - min(values)) + 0.5
    return (min(values) - pad, max(values) + pad)


def _axes(panel: int) -> dict[str, str]:
    return {"xaxis": "x", "yaxis": "y" if panel == 1 else f"y{panel}"}


def _draw_band(figure: go.Figure, panel: int, mean: MeanCurve, scale: float, colour: str) -> None:
    kept = [i for i in range(len(mean.step)) if math.isfinite(mean.low[i])]
    xs = [mean.step[i] for i in kept]
    low, high = [scale * mean.low[i] for i in kept], [scale * mean.high[i] for i in kept]
    figure.add_trace(
        go.Scatter(
            x=xs + xs[::-1], y=high + low[::-1], fill="toself", mode="none",
            fillcolor=BANDS[colour], hoverinfo="skip", opacity=0.6, **_axes(panel),
        )
    )  # fmt: skip


def _draw_line(
    figure: go.Figure, panel: int, method: str, mean: MeanCurve, scale: float, colour: str | None
) -> None:
    ys = [scale * v if math.isfinite(v) else None for v in mean.mean]
    figure.add_trace(
        go.Scatter(
            x=list(mean.step), y=ys, mode="lines",
            line={"color": colour or FAINT, "width": 2.2 if colour else 1.0},
            hoverinfo="text",
            hovertext=[
                f"{label(method, 40)}<br>step {step}: {number(y, 1 if scale > 1 else 2)}"
                for step, y in zip(mean.step, ys, strict=True)
            ],
            **_axes(panel),
        )
    )  # fmt: skip


def _label_ends(
    figure: go.Figure,
    panel: int,
    drawn: Sequence[tuple[str, MeanCurve]],
    colours: dict[str, str],
    scale: float,
    limits: tuple[float, float],
) -> None:
    """Names at the ends of the coloured lines, moved apart where they would overlap."""
    ends = [(m, scale * c.mean[-1]) for m, c in drawn if m in colours and math.isfinite(c.mean[-1])]
    gap = (limits[1] - limits[0]) * (0.075 if panel == 1 else 0.115)
    places = spread([value for _, value in ends], gap, *limits)
    for (method, value), y in zip(ends, places, strict=True):
        figure.add_annotation(
            text=f"{label(method, 15)} {number(value)}", showarrow=False, xref="paper", x=1.0,
            xanchor="left", xshift=6, yref="y" if panel == 1 else f"y{panel}", y=y,
            font={"color": colours[method], "size": 12}, name=LABEL,
        )  # fmt: skip
