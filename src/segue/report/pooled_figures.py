"""Figures pooled over all shifts of a regime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from segue.analysis.aggregate import Aggregate
from segue.analysis.bootstrap import Estimate, performance_profile
from segue.analysis.matching import read_score
from segue.analysis.pooling import Pooled
from segue.report.figures import Plot, interval_trace, label, zero_line
from segue.report.palette import BANDS, HARD, INK, LABEL, TREATMENT, base_figure, style_axes
from segue.report.sheets import Sheet
from segue.report.study import Regime
from segue.report.text import name_of, number, signed

__all__ = ["aggregate_iqms", "performance_profiles", "pooled_differences", "probabilities"]


def pooled_differences(pooled: Mapping[str, Pooled], highlight: str | None, *, name: str) -> Plot:
    """Every method against the hard switch, pooled over shifts: IQM of the paired differences."""
    estimates = {method: p.iqm for method, p in pooled.items() if p.iqm is not None}
    figure = _forest(estimates, highlight, 100.0, "IQM of the difference (points)")
    zero_line(figure)
    return Plot(
        figure,
        "Interquartile mean of the paired differences over all shifts and the seeds that they share, "
        "with 95 % bootstrap intervals that redraw the same seeds on every shift; not adjusted for "
        "the number of methods.",
        _estimates_sheet(name, pooled, "iqm"),
    )


def aggregate_iqms(
    aggregates: Mapping[str, Aggregate],
    highlight: str | None,
    *,
    normalised: bool,
    digits: int,
    words: str,
    name: str,
) -> Plot:
    """Every method's IQM over all tasks.

    Args:
        aggregates: By method.
        highlight: The treatment.
        normalised: Whether 1 is the hard switch's mean on every task, and so worth a line.
        digits: Digits after the point.
        words: What the scale is.
        name: Name of the sheet.
    """
    estimates = {method: found.iqm for method, found in aggregates.items()}
    title = "IQM of the normalised score" if normalised else "IQM of the score"
    figure = _forest(estimates, highlight, 1.0, title, digits)
    if normalised:
        zero_line(figure, 1.0)
    rows = [
        (method, e.value, e.low, e.high, found.num_tasks, found.num_runs)
        for method, found in aggregates.items()
        for e in (found.iqm,)
    ]
    columns = ("method", "iqm", "low", "high", "num_shifts", "num_runs")
    caption = (
        f"Interquartile mean of all runs of all tasks, with 95 % bootstrap intervals; {words}. Not "
        "adjusted for the number of methods."
    )
    return Plot(figure, caption, Sheet(name, columns, tuple(rows)))


def probabilities(
    pooled: Mapping[str, Pooled | Aggregate],
    highlight: str | None,
    *,
    name: str,
    joint: bool = True,
) -> Plot:
    """Probability that a run of a method beats one of the hard switch on a shift at random.

    Args:
        pooled: By method.
        highlight: The treatment.
        name: Name of the sheet.
        joint: Whether the intervals redraw the same seeds on every shift.
    """
    estimates = {method: p.probability for method, p in pooled.items() if p.probability is not None}
    figure = _forest(estimates, highlight, 100.0, "probability of improvement (%)")
    zero_line(figure, 50.0)
    redrawn = "the same seeds on every shift" if joint else "the runs shift by shift"
    return Plot(
        figure,
        "Chance that a run beats a run of the hard switch on a shift drawn at random, with 95 % "
        f"bootstrap intervals that redraw {redrawn}; 50 % is a draw.",
        _estimates_sheet(name, pooled, "probability"),
    )


def _forest(
    estimates: Mapping[str, Estimate],
    highlight: str | None,
    scale: float,
    title: str,
    digits: int | None = None,
) -> go.Figure:
    """Estimates with intervals, the best on top; with ``digits`` as plain numbers, else as signed."""
    order = sorted(estimates, key=lambda method: estimates[method].value)
    figure = base_figure(90 + 30 * len(order))
    for methods, color in (
        ([m for m in order if m != highlight], HARD),
        ([m for m in order if m == highlight], TREATMENT),
    ):
        chosen = [estimates[m] for m in methods]
        figure.add_trace(
            interval_trace(
                [e.value * scale for e in chosen],
                [e.low * scale for e in chosen],
                [e.high * scale for e in chosen],
                [order.index(m) for m in methods],
                color=color,
                hovertext=[
                    f"{label(m, 40)}<br>{_read(e.value, scale, digits)} "
                    f"({number(e.low, digits or 1, scale=scale)} to "
                    f"{number(e.high, digits or 1, scale=scale)})"
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


def _read(value: float, scale: float, digits: int | None) -> str:
    return signed(value, scale=scale) if digits is None else number(value, digits, scale=scale)


def _estimates_sheet(name: str, pooled: Mapping[str, Pooled | Aggregate], field: str) -> Sheet:
    rows = []
    for method, pool in pooled.items():
        estimate = getattr(pool, field)
        if estimate is not None:
            low, high = estimate.low, estimate.high
            counts = (
                (pool.num_tasks, pool.num_runs)
                if isinstance(pool, Aggregate)
                else (pool.num_groups, pool.num_pairs)
            )
            rows.append((method, estimate.value, low, high, *counts))
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
    bands: list[go.Scatter] = []
    lines: list[go.Scatter] = []
    for method, by_shift in scores.items():
        color = methods[method]
        rng = np.random.default_rng(rng_seed)
        profile = performance_profile(by_shift, thresholds, rng, num_resamples=500)
        xs = [100.0 * t for t in profile.thresholds]
        bands.append(_band(xs, _hundred(profile.low), _hundred(profile.high), BANDS[color]))
        lines.append(
            go.Scatter(
                x=xs, y=_hundred(profile.value), mode="lines", line={"color": color, "width": 2},
                hoverinfo="text",
                hovertext=[
                    f"{label(method, 40)}<br>{number(100 * v, 0)} % of the runs above {number(x)} %"
                    for x, v in zip(xs, profile.value, strict=True)
                ],
            )
        )  # fmt: skip
        rows += zip([method] * 60, profile.thresholds, profile.value, profile.low, profile.high,
                    strict=True)  # fmt: skip
    figure.add_traces([*bands, *lines])  # bands under all lines
    key = tuple((name_of(method, 40), methods[method]) for method in scores)
    for i, (method, color) in enumerate((m, methods[m]) for m in scores):
        figure.add_annotation(
            text=label(method), showarrow=False, xref="paper", x=1.0, xanchor="left",
            yref="paper", y=1.0, yanchor="top", yshift=-18 * i, xshift=8,
            font={"color": color, "size": 12}, name=LABEL,
        )  # fmt: skip
    style_axes(figure)
    figure.update_xaxes(title_text="target accuracy (%)")
    figure.update_yaxes(title_text="runs above it (%)", range=[-2, 102])
    columns = ("method", "target_accuracy", "share_of_runs_above", "low", "high")
    caption = "Performance profiles: share of runs above each target accuracy, with 95 % bands "
    caption += "for each threshold alone, which take the shifts as independent."
    return Plot(figure, caption, Sheet(name, columns, tuple(rows)), key)


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
        opacity=0.6,
    )  # fmt: skip
