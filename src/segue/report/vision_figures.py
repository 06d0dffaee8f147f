"""Figures of the vision family: what is confused with what, and accuracy over target examples."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from segue.analysis.curves import mean_curve
from segue.analysis.statistics import Interval, t_interval
from segue.report.figures import Plot, label
from segue.report.palette import (
    FAINT,
    INK,
    LABEL,
    PAPER,
    TREATMENT,
    base_figure,
    spread,
    style_axes,
)
from segue.report.scores import means_by_seed
from segue.report.sheets import Sheet
from segue.report.study import Regime, Study, alike_but_for
from segue.report.text import counted, name_of, number

__all__ = ["accuracy_by_examples", "confusions"]

_CONFUSION = "target_confusion"
_EXAMPLES = "num_target_examples"


def confusions(regime: Regime, shift: str, *, name: str) -> Plot | None:
    """Confusion on the target's test images, hard switch and treatment side by side.

    Returns:
        None if neither has recorded one.
    """
    found = []
    for method in dict.fromkeys((regime.hard_switch, regime.treatment)):
        rows = None if method is None else _confusion(regime, shift, method)
        if rows is not None:
            found.append((str(method), rows))
    if not found:
        return None
    figure = base_figure(330, top=30)
    width = (1.0 - 0.12 * (len(found) - 1)) / len(found)
    sheet: list[tuple[Any, ...]] = []
    for i, (method, rows) in enumerate(found):
        axis = "" if i == 0 else str(i + 1)
        classes = _class_names(regime, shift, len(rows))
        figure.add_trace(
            go.Heatmap(
                z=rows, x=classes, y=classes, zmin=0, zmax=100, showscale=False,
                colorscale=[[0, PAPER], [1, TREATMENT]], xgap=1, ygap=1,
                texttemplate="%{z:.0f}", textfont={"size": 10},
                hovertemplate="true %{y}, predicted %{x}: %{z:.1f} %<extra></extra>",
                xaxis=f"x{axis}", yaxis=f"y{axis}",
            )
        )  # fmt: skip
        left = i * (width + 0.12)
        figure.update_layout(
            {
                f"xaxis{axis}": {"domain": [left, left + width], "anchor": f"y{axis}",
                                 "title_text": "predicted class", "type": "category"},
                f"yaxis{axis}": {"anchor": f"x{axis}", "autorange": "reversed", "type": "category",
                                 "title_text": "true class" if i == 0 else ""},
            }
        )  # fmt: skip
        figure.add_annotation(
            text=label(method, 30), showarrow=False, xref="paper", x=left + width / 2, yref="paper",
            y=1.0, yanchor="bottom", font={"color": INK, "size": 13},
        )  # fmt: skip
        sheet += [
            (method, classes[true], classes[predicted], share / 100.0)
            for true, row in enumerate(rows)
            for predicted, share in enumerate(row)
            if share is not None
        ]
    style_axes(figure)
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False)
    caption = "Confusion on the target's test images: % of each true class, mean over seeds."
    columns = ("method", "true_class", "predicted_class", "share_of_true_class")
    return Plot(figure, caption, Sheet(name, columns, tuple(sheet)))


def _class_names(regime: Regime, shift: str, num_classes: int) -> list[str]:
    """Names in the order of the labels; numbers where no record names as many, all different."""
    for record in regime.of(shift, str(regime.hard_switch)):
        try:
            names = json.loads(record.metrics.get("class_names") or "[]")
        except (TypeError, ValueError):
            continue
        if isinstance(names, list) and len({str(name) for name in names}) == num_classes:
            return [label(str(name), 20) for name in names]
    return [str(number) for number in range(num_classes)]


def _confusion(regime: Regime, shift: str, method: str) -> list[list[float | None]] | None:
    """Shares of each true class in percent, rows the true classes; None without a square matrix."""
    curves = [
        r.curves[_CONFUSION]
        for r in regime.of(shift, method)
        if r.status == "completed" and _CONFUSION in r.curves
    ]
    if not curves:
        return None
    counts = mean_curve(curves).mean
    num = math.isqrt(len(counts))
    if num * num != len(counts):
        return None
    rows = [counts[i * num : (i + 1) * num] for i in range(num)]
    return [[100.0 * c / sum(row) if sum(row) > 0 else None for c in row] for row in rows]


def accuracy_by_examples(
    study: Study, family: str, colours: dict[str, str], *, name: str
) -> Plot | None:
    """Target accuracy over the number of target examples, the mean over the shifts that all have.

    Args:
        study: The records.
        family: Whose runs.
        colours: Methods that stand out.
        name: Name of the sheet.

    Returns:
        None unless runs that differ in the number of examples alone have several.
    """
    regimes = _widest(study, family)
    if len(regimes) < 2:
        return None
    shifts = set.intersection(*(set(regime.shifts) for regime in regimes))
    methods = [m for m in regimes[0].methods if sum(m in r.methods for r in regimes) > 1]
    numbers = [regime.settings[_EXAMPLES] for regime in regimes]
    points: dict[str, list[tuple[int, Interval]]] = {}
    for method in methods:
        for place, regime in enumerate(regimes):
            interval = _mean_over_shifts(regime, method, shifts)
            if interval is not None:
                points.setdefault(method, []).append((place, interval))
    points = {method: found for method, found in points.items() if len(found) > 1}
    if not points:
        return None
    figure = base_figure(320, right=130)
    for method in sorted(points, key=lambda m: m in colours):
        figure.add_trace(_line(method, points[method], numbers, colours.get(method, FAINT)))
    style_axes(figure)
    figure.update_xaxes(
        title_text="target examples",
        tickvals=list(range(len(numbers))),
        ticktext=[f"{n:,}" for n in numbers],
    )
    figure.update_yaxes(title_text="target accuracy (%)")
    ends = [(m, 100.0 * found[-1][1].mean) for m, found in points.items() if m in colours]
    values = [100.0 * i.mean for found in points.values() for _, i in found]
    limits = (min(values) - 2.0, max(values) + 2.0)
    figure.update_yaxes(range=list(limits))
    places = spread([v for _, v in ends], 0.06 * (limits[1] - limits[0]), *limits)
    for (method, value), y in zip(ends, places, strict=True):
        figure.add_annotation(
            text=f"{label(method, 15)} {number(value)}", showarrow=False, xref="paper", x=1.0,
            xanchor="left", xshift=6, y=y, font={"color": colours[method], "size": 12}, name=LABEL,
        )  # fmt: skip
    rows = tuple(
        (method, numbers[place], i.mean, i.low, i.high, i.num_values)
        for method, found in points.items()
        for place, i in found
    )
    columns = ("method", _EXAMPLES, "target_accuracy_mean", "low", "high", "num_seeds")
    caption = (
        f"Mean over {counted(len(shifts), 'shift')} ({', '.join(map(name_of, sorted(shifts)))}), with "
        "95 % t intervals over seeds. Grey without a name: other methods."
    )
    key = tuple((name_of(m, 40), colours[m]) for m in points if m in colours)
    return Plot(figure, caption, Sheet(name, columns, rows), key)


def _widest(study: Study, family: str) -> list[Regime]:
    """Comparable regimes that differ in the number of examples alone, by that number."""
    regimes = [r for r in study.regimes if r.family == family and r.comparable]
    return max(alike_but_for(regimes, _EXAMPLES), key=len, default=[])


def _mean_over_shifts(regime: Regime, method: str, shifts: set[str]) -> Interval | None:
    """T interval over the seeds that have every shift, of their means over the shifts."""
    means = list(means_by_seed(regime, method, sorted(shifts), "target_accuracy").values())
    return t_interval(means) if means else None


def _line(
    method: str, points: Sequence[tuple[int, Interval]], numbers: Sequence[Any], colour: str
) -> go.Scatter:
    ends = [(i.mean - i.low, i.high - i.mean) for _, i in points]
    below, above = (
        [100.0 * e if math.isfinite(e) else 0.0 for e in side] for side in zip(*ends, strict=True)
    )
    return go.Scatter(
        x=[place for place, _ in points],
        y=[100.0 * i.mean for _, i in points],
        mode="lines+markers",
        line={"color": colour, "width": 1.0 if colour == FAINT else 2.2},
        marker={"color": colour, "size": 5 if colour == FAINT else 8},
        error_y={"type": "data", "symmetric": False, "array": above, "arrayminus": below,
                 "color": colour, "thickness": 0 if colour == FAINT else 1.6, "width": 0},
        hoverinfo="text",
        hovertext=[
            f"{label(method, 40)}<br>{numbers[place]:,} examples: {number(i.mean, scale=100)} %"
            for place, i in points
        ],
    )  # fmt: skip
