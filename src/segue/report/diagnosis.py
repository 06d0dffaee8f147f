"""What happens inside while the source weight goes to 0: curves, and a table of four moments."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from segue.analysis.moments import Moments, find_moments, ramp_end, value_by
from segue.report.curve_figures import shift_curves
from segue.report.families import FAMILIES
from segue.report.figures import Plot
from segue.report.score_tables import ScoreTable, markdown_of
from segue.report.study import Regime, Study
from segue.report.text import counted, name_of, number

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["diagnosis_curves", "diagnosis_markdown", "diagnosis_table", "end_of_ramp"]

_MOMENTS = {
    "before": "before the switch",
    "lowest": "lowest within the ramp",
    "after": "just after λ reaches 0",
    "end": "at the end",
}
_WEIGHT = "source_weight"


def end_of_ramp(regime: Regime, shift: str) -> float | None:
    """Step at which the treatment's source weight reaches 0, the median over its runs."""
    ends = []
    for record in regime.of(shift, str(regime.treatment)):
        if record.status == "completed" and _WEIGHT in record.curves:
            end = ramp_end(record.curves[_WEIGHT])
            ends += [] if end is None else [end]
    return statistics.median(ends) if ends else None


def diagnosis_curves(
    regime: Regime, shift: str, colours: dict[str, str], *, name: str
) -> Plot | None:
    """The family's diagnosis curves of one shift, over all steps; None where it has none."""
    panels = [p for p in FAMILIES[regime.family].diagnosis if p.drawn]
    end = end_of_ramp(regime, shift)
    marks = () if end is None else ((end, f"λ = 0 in {name_of(regime.treatment, 30)}"),)
    return shift_curves(regime, shift, colours, panels, name=name, marks=marks)


def diagnosis_table(regime: Regime, shift: str) -> ScoreTable | None:
    """A row a method and moment, a column a curve: means over seeds.

    None for a family without diagnosis curves, or a shift without a run that has them.
    """
    panels = FAMILIES[regime.family].diagnosis if regime.family in FAMILIES else ()
    window = _window(regime.of(shift, str(regime.treatment)))
    rows = []
    counts = set()
    for method in sorted(regime.methods, key=lambda m: (m != regime.hard_switch, m)):
        runs = [r for r in regime.of(shift, method) if r.status == "completed"]
        runs = [r for r in runs if panels and panels[0].curve in r.curves]
        if not runs:
            continue
        counts.add(len(runs))
        found = [
            (r, find_moments(r.curves[panels[0].curve], r.curves.get(_WEIGHT), window=window))
            for r in runs
        ]
        for moment, words in _MOMENTS.items():
            cells = [_mean(found, moment, p.curve, p.digits) for p in panels]
            rows.append((name_of(method), words, _step(found, moment), *cells))
    if not rows:
        return None
    seeds = (
        counted(max(counts), "seed")
        if len(counts) == 1
        else f"{min(counts)} to {max(counts)} seeds"
    )
    caption = (
        f"Means over {seeds} at four moments of each run. The lowest point is that of the score within the "
        "run's own ramp, or, for a method without one, within that of the treatment. A curve counts with "
        "its last point at or before the moment; the step is the median."
    )
    columns = ("method", "moment", "step", *(panel.title for panel in panels))
    return ScoreTable(columns, tuple(rows), caption, name_of(shift))


def diagnosis_markdown(study: Study) -> str:
    """The tables of all shifts as Markdown."""

    def make(regime: Regime) -> list[ScoreTable]:
        tables = [diagnosis_table(regime, shift) for shift in regime.shifts]
        return [table for table in tables if table is not None]

    return markdown_of(study, make)


def _window(runs: Sequence[Record]) -> tuple[int, int] | None:
    """The treatment's last evaluation within the ramp and its first one after it."""
    for record in runs:
        if record.status != "completed" or _WEIGHT not in record.curves:
            continue
        curve = record.curves[_WEIGHT]
        above = [i for i, v in enumerate(curve["value"]) if v is not None and v > 0.0]
        if above and above[-1] + 1 < len(curve["step"]):
            return int(curve["step"][above[-1]]), int(curve["step"][above[-1] + 1])
    return None


def _at(moments: Moments, moment: str) -> int | None:
    step = getattr(moments, moment)
    return None if step is None else int(step)


def _mean(found: Sequence[tuple[Record, Moments]], moment: str, curve: str, digits: int) -> str:
    values = [value_by(record.curves, curve, _at(moments, moment)) for record, moments in found]
    known = [value for value in values if value is not None]
    return number(statistics.fmean(known), digits) if known else "–"


def _step(found: Sequence[tuple[Record, Moments]], moment: str) -> str:
    steps = [step for _, moments in found if (step := _at(moments, moment)) is not None]
    return f"{statistics.median(steps):,.0f}" if steps else "–"
