"""Colours of figures, and the layout that all of them share.

Figures are made in the light palette; ``DARK`` gives each of its colours a counterpart, by which the
page recolours a figure when the theme changes. Blue, orange and grey stay apart for every common
kind of colour blindness, and shapes tell the decisions apart as well.
"""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

__all__ = ["DARK", "base_figure", "style_axes"]

INK, MUTED, GRID, PAPER = "#1f2933", "#66717d", "#e4e8ec", "#ffffff"
TREATMENT, HARD, CHOSEN, FAINT = "#0b62c4", "#48525d", "#b8500a", "#b4bdc6"
TREATMENT_BAND, HARD_BAND, CHOSEN_BAND = "#d6e4f6", "#e0e3e6", "#f6e2d3"

DARK = {
    INK: "#e7ebf0",
    MUTED: "#9aa5b1",
    GRID: "#2b333c",
    PAPER: "#161b21",
    TREATMENT: "#6fb1ff",
    HARD: "#b9c3ce",
    CHOSEN: "#ffa860",
    FAINT: "#4d5864",
    TREATMENT_BAND: "#1d3550",
    HARD_BAND: "#2d343c",
    CHOSEN_BAND: "#45301f",
}
"""Light colour → dark colour."""

BANDS = {TREATMENT: TREATMENT_BAND, HARD: HARD_BAND, CHOSEN: CHOSEN_BAND}
MARKERS = {"helps": "circle", "hurts": "square", "undecided": "circle-open"}
"""Marker of a decision; its colour comes on top."""
KEYS = {TREATMENT: "blue", HARD: "grey", CHOSEN: "orange"}
"""Colour → its name in the page's style sheet."""
LABEL = "end-label"
"""Name of the annotations that a narrow window replaces by a key above the figure."""


def base_figure(height: int, *, right: int = 16, top: int = 12) -> go.Figure:
    """An empty figure without Plotly's own template: transparent, calm, no legend."""
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 8, "r": right, "t": top, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=False,
        hovermode="closest",
        hoverlabel={"bgcolor": PAPER, "bordercolor": GRID, "font": {"color": INK, "size": 13}},
        font={
            "family": "system-ui, -apple-system, 'Segoe UI', sans-serif",
            "size": 13,
            "color": INK,
        },
    )
    return figure


def style_axes(figure: go.Figure) -> go.Figure:
    """Thin grid, muted numbers, margins that make room for labels."""
    axis: dict[str, Any] = {
        "gridcolor": GRID,
        "gridwidth": 1,
        "zeroline": False,
        "linecolor": GRID,
        "tickfont": {"color": MUTED, "size": 12},
        "title_font": {"color": MUTED, "size": 12},
        "title_standoff": 8,
        "automargin": True,
    }
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def spread(positions: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move label positions apart to at least ``gap``, keeping their order and the range."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    moved = [positions[i] for i in order]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    if moved and moved[-1] > high:
        moved[-1] = high
        for i in range(len(moved) - 2, -1, -1):
            moved[i] = min(moved[i], moved[i + 1] - gap)
    result = [0.0] * len(positions)
    for i, value in zip(order, moved, strict=True):
        result[i] = max(value, low)
    return result
