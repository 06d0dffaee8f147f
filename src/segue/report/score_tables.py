"""Tables of the families whose score is no accuracy: scores, all tasks together, the switch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segue.analysis.bootstrap import Estimate
from segue.analysis.comparison import ComparisonRow, TableRow
from segue.report.families import FAMILIES, FamilyScore
from segue.report.score_study import ScoreVerdicts, judge_scores, seeds_of, treatment_against
from segue.report.sentences import verdict_words
from segue.report.study import Regime, Study
from segue.report.tables import MARKS, cell, cell_long, markdown
from segue.report.text import counted, name_of, number, signed

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = [
    "ScoreTable",
    "aggregate_markdown",
    "aggregate_table",
    "controls_markdown",
    "markdown_of",
    "score_table",
    "score_tables",
    "switch_markdown",
    "switch_tables",
]


@dataclass(frozen=True)
class ScoreTable:
    """A table of text, for Markdown, the terminal and the page alike.

    Attributes:
        columns: Headings.
        rows: Cells.
        caption: What the numbers are.
        title: What tells it from its neighbours; "" if nothing needs to.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    title: str = ""

    def to_markdown(self) -> str:
        """The table, its title above and its caption below it."""
        columns = [cell(column) for column in self.columns]
        made = markdown(columns, [[cell(text) for text in row] for row in self.rows])
        title = f"**{cell(self.title)}**\n\n" if self.title else ""
        return f"{title}{made}\n\n{cell_long(self.caption)}"


def score_tables(study: Study) -> str:
    """Tables of a family as Markdown: a row a method, a column a shift, one table a score.

    A cell is mean ± sd and the paired difference to the hard switch with its verdict.
    """
    return markdown_of(
        study, lambda regime: [score_table(regime, judged) for judged in judge_scores(regime)]
    )


def aggregate_markdown(study: Study) -> str:
    """All tasks together as Markdown: a row a method, one table a score."""
    return markdown_of(
        study,
        lambda regime: [
            aggregate_table(regime, judged) for judged in judge_scores(regime) if judged.aggregates
        ],
    )


def controls_markdown(study: Study) -> str:
    """The treatment against each other arm as Markdown: a row an arm, one table a score."""
    return markdown_of(
        study, lambda regime: [controls_table(regime, judged) for judged in judge_scores(regime)]
    )


def switch_markdown(study: Study) -> str:
    """The measures of the switch as Markdown: a row a method, one table a shift."""
    return markdown_of(study, switch_tables)


def markdown_of(study: Study, make: Callable[[Regime], Iterable[ScoreTable]]) -> str:
    """Tables of every shown regime that is judged by returns or losses, as Markdown.

    Args:
        study: The records.
        make: Makes the tables of one regime.
    """
    parts = []
    shown = [regime for regime in study.shown if regime.family in FAMILIES]
    for regime in shown:
        title = f"**{cell(study.title_of(regime))}**\n\n" if len(shown) > 1 else ""
        made = "\n\n".join(table.to_markdown() for table in make(regime))
        if made:
            parts.append(title + made)
    return "\n\n".join(parts) or "No runs yet."


def _methods(regime: Regime) -> list[str]:
    """The hard switch, then the others by name."""
    return sorted(regime.methods, key=lambda m: (m != regime.hard_switch, m))


def score_table(regime: Regime, judged: ScoreVerdicts) -> ScoreTable:
    """One score: a row a method, a column a shift."""
    score = judged.score
    rows = []
    for method in _methods(regime):
        cells = [name_of(method)]
        for shift in regime.shifts:
            found = judged.means.get((shift, method))
            cells.append(_cell(found, judged.versus.get((shift, method)), score))
        rows.append(tuple(cells))
    better = "higher" if score.higher_is_better else "lower"
    caption = (
        f"{score.label}, {better} is better: mean ± standard deviation over {seeds_of(judged)}, and the "
        "paired difference to the hard switch (▲ helps, ▼ hurts, ○ undecided; exact sign-flip p, Holm "
        "over the columns, for each method by itself)."
    )
    columns = ("method", *(name_of(shift) for shift in regime.shifts))
    return ScoreTable(columns, tuple(rows), caption)


def _cell(found: TableRow | None, row: ComparisonRow | None, score: FamilyScore) -> str:
    if found is None or not found.num_runs:
        return "–"
    text = number(found.mean, score.digits)
    if found.num_runs > 1:
        text += f" ± {number(found.sd, score.digits)}"
    if row is None:
        return text
    mark = MARKS[verdict_words(row)["decision"]]
    return f"{text} ({signed(row.difference.mean, score.digits)} {mark})"


def controls_table(regime: Regime, judged: ScoreVerdicts) -> ScoreTable:
    """One score of the treatment minus that of each other arm: a row an arm, a column a shift."""
    score, found = judged.score, treatment_against(regime, judged.score)
    rows = []
    for method in _methods(regime):
        cells = [_difference(found.get((shift, method)), score) for shift in regime.shifts]
        if method != regime.treatment:
            rows.append((name_of(method), *cells))
    better = "higher" if score.higher_is_better else "lower"
    caption = (
        f"{score.label} of {name_of(str(regime.treatment))} minus that of each other arm, {better} is "
        "better: paired differences with 95 % t intervals (▲ it is better, ▼ worse, ○ undecided; exact "
        "sign-flip p, Holm over the columns, for each arm by itself)."
    )
    columns = ("against", *(name_of(shift) for shift in regime.shifts))
    return ScoreTable(columns, tuple(rows), caption)


def _difference(row: ComparisonRow | None, score: FamilyScore) -> str:
    if row is None or not row.difference.num_pairs:
        return "–"
    mean, low, high = (row.difference.mean, row.difference.low, row.difference.high)
    mark = MARKS[verdict_words(row)["decision"]]
    interval = f"{number(low, score.digits)} to {number(high, score.digits)}"
    return f"{signed(mean, score.digits)} ({interval}) {mark}"


def aggregate_table(regime: Regime, judged: ScoreVerdicts) -> ScoreTable:
    """One score over all tasks: IQM, mean of the tasks' means, probability of improvement."""
    digits = 2 if judged.score.anchor else judged.score.digits
    rows = []
    for method in _methods(regime):
        found = judged.aggregates.get(method)
        if found is not None:
            rows.append(
                (
                    name_of(method),
                    _estimate(found.iqm, digits),
                    _estimate(found.mean, digits),
                    _estimate(found.probability, 0, 100.0),
                )
            )
    first = next(iter(judged.aggregates.values()))
    better = "higher" if judged.score.higher_is_better_normalised else "lower"
    resampled = (
        "redraw the same seeds on every task"
        if FAMILIES[regime.family].pools_jointly
        else "redraw the runs task by task"
    )
    caption = (
        f"{judged.score.label} over {counted(first.num_tasks, 'task')}, {better} is better; "
        f"{judged.scale}. IQM: mean of the middle half of all runs. Probability that a run is better "
        "than one of the hard switch on a task drawn at random; 50 % is a draw. In brackets 95 % "
        f"bootstrap intervals that {resampled}, not adjusted for the number of methods."
    )
    caption += "".join(f" {note[:1].upper()}{note[1:]}." for note in judged.notes)
    columns = ("method", "IQM", "mean over tasks", "probability of improvement (%)")
    return ScoreTable(columns, tuple(rows), caption)


def _estimate(estimate: Estimate | None, digits: int, scale: float = 1.0) -> str:
    if estimate is None:
        return "–"
    value, low, high = (
        number(part, digits, scale=scale) for part in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} ({low} to {high})"


_Read = Callable[[Sequence[float]], str]


def _mean(digits: int, scale: float = 1.0) -> _Read:
    return lambda values: number(statistics.fmean(values), digits, scale=scale)


_SWITCH: Mapping[str, tuple[str, _Read]] = {
    "score_start": ("start S₀", _mean(1)),
    "score_largest_drop": ("largest drop", _mean(1)),
    "score_relative_drop": ("relative drop (%)", _mean(0, 100.0)),
    "score_fell_over_10": ("fell over 10 points (% of seeds)", _mean(0, 100.0)),
    "score_area_below_start": ("area below S₀ (points × 1,000 steps)", _mean(0, 1e-3)),
    "score_lowest_early": ("lowest within 10,000 steps", _mean(1)),
    "score_lowest": ("lowest ever", _mean(1)),
    "score_mean_score": ("mean", _mean(1)),
    "score_final": ("final", _mean(1)),
}
"""Measures of the switch in the order of the columns; the steps to regain are of their own kind."""
_REGAINED = "score_num_env_steps_to_regain"


def switch_tables(regime: Regime) -> list[ScoreTable]:
    """What happened at the switch: a table a shift, a row a method; none without the measures."""
    tables = []
    for shift in regime.shifts:
        rows = []
        num_seeds: set[int] = set()
        for method in _methods(regime):
            runs = [r for r in regime.of(shift, method) if r.status == "completed"]
            runs = [r for r in runs if "score_largest_drop" in r.metrics]
            if runs:
                num_seeds.add(len(runs))
                cells = [_switch_cell(runs, metric, read) for metric, (_, read) in _SWITCH.items()]
                rows.append((name_of(method), *cells, _regained(runs)))
        if rows:
            fewest, most = min(num_seeds), max(num_seeds)
            seeds = counted(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
            caption = (
                f"D4RL-reference scores, means over {seeds}. S₀ is the score at the switch; the relative "
                "drop is the share of S₀ that is lost; steps to regain S₀ for good: the median, and how "
                "many seeds did."
            )
            columns = ("method", *(title for title, _ in _SWITCH.values()), "steps to regain S₀")
            tables.append(ScoreTable(columns, tuple(rows), caption, name_of(shift)))
    return tables


def _switch_cell(runs: Sequence[Record], metric: str, read: _Read) -> str:
    values = [r.metrics.get(metric) for r in runs]
    finite = [float(v) for v in values if v is not None and math.isfinite(v)]
    return read(finite) if finite else "–"


def _regained(runs: Sequence[Record]) -> str:
    steps = [r.metrics.get(_REGAINED) for r in runs]
    reached = sum(step is not None for step in steps)
    median = statistics.median(math.inf if step is None else float(step) for step in steps)
    text = f"{median:,.0f}" if math.isfinite(median) else "never" if not reached else "most never"
    return f"{text} ({reached} of {len(runs)})"
