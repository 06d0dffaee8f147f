"""A static picture of the paired differences for README and docs; no browser is needed to make it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from segue.analysis.comparison import ComparisonRow
from segue.report.claims import judge
from segue.report.sentences import group_name
from segue.report.study import Study, describe_regime
from segue.report.text import name_of, number, plain, signed

__all__ = ["forest_svg"]

_TEMPLATES = Path(__file__).parent / "templates"
_LEFT, _RIGHT, _TOP, _STEP = 170.0, 640.0, 64.0, 28.0


def forest_svg(study: Study, *, rng_seed: int = 0) -> str:
    """Treatment minus hard switch on every shift of the first regime, with 95 % intervals.

    Light and dark by a CSS media query, so that it suits both themes of a page that shows it.

    Raises:
        ValueError: If the study holds nothing to compare.
    """
    regime = next((regime for regime in study.shown if regime.comparable), None)
    rows: Sequence[ComparisonRow] = ()
    if regime is not None:
        claims = judge(regime, rng_seed=rng_seed).leading
        rows = claims[0].rows if claims else ()
    rows = [row for row in rows if row.difference.num_pairs]
    if regime is None or not rows:
        raise ValueError("study must hold a smoothing method and the hard switch on equal seeds")
    rows = sorted(rows, key=lambda row: -row.difference.mean)
    ends = [100.0 * end for row in rows for end in _ends(row)]
    ticks = _ticks(min([*ends, 0.0]), max([*ends, 0.0]))
    low, high = ticks[0], ticks[-1]

    def x(value: float) -> float:
        return round(_LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT), 1)

    lines: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        start, end = (100.0 * value for value in _ends(row))
        lines.append(
            {
                "y": _TOP + i * _STEP,
                "name": name_of(group_name(row), 24),
                "decision": row.verdict.decision,
                "x": x(100.0 * row.difference.mean),
                "low": x(start),
                "high": x(end),
                "text": signed(row.difference.mean, scale=100),
            }
        )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("forest.svg").render(
        title=f"{name_of(regime.treatment)} minus hard switch, points of target accuracy",
        summary=plain(describe_regime(regime), 200),
        rows=lines,
        ticks=[(x(tick), number(tick, 0 if float(tick).is_integer() else 1)) for tick in ticks],
        zero=x(0.0),
        bottom=_TOP + (len(rows) - 1) * _STEP + 18,
    ) + "\n"  # fmt: skip


def _ends(row: ComparisonRow) -> tuple[float, float]:
    paired = row.difference
    if math.isfinite(paired.low):
        return paired.low, paired.high
    return paired.mean, paired.mean


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that span the values, at most eight."""
    width = max(high - low, 1e-6)
    size = 10.0 ** math.floor(math.log10(width / 4))
    step = next(s * size for s in (1, 2, 5, 10, 20) if width / (s * size) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]
