"""Tables of the families whose score is no accuracy: returns, losses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table
from rich.text import Text

from segue.analysis.comparison import ComparisonRow, compare, table
from segue.report.sentences import group_name, verdict_words
from segue.report.settings import is_tuning, method_of, shift_of
from segue.report.tables import MARKS, cell, markdown
from segue.report.text import counted, name_of, number, plain, signed

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["FAMILY_SCORES", "FamilyScore", "console_score_tables", "score_tables"]

_HARD_SWITCH = "hard_switch"


@dataclass(frozen=True)
class FamilyScore:
    """What a family is judged by.

    Attributes:
        metric: Name in the records.
        label: What it is, for people, with its unit.
        digits: Digits after the point.
        higher_is_better: Direction.
    """

    metric: str
    label: str
    digits: int
    higher_is_better: bool = True


FAMILY_SCORES: Mapping[str, tuple[FamilyScore, ...]] = {
    "language": (
        FamilyScore("target_loss", "Target loss (nats per token)", 3, higher_is_better=False),
        FamilyScore("source_loss", "Source loss (nats per token)", 3, higher_is_better=False),
    ),
    "offline_to_online": (
        FamilyScore("score_mean_score", "Mean of the D4RL-reference score over online training", 1),
        FamilyScore("score_final", "D4RL-reference score at the end", 1),
        FamilyScore("score_largest_drop", "Largest fall below the start (points)", 1, False),
    ),
    "online_rl": (
        FamilyScore("final_return", "Return at the end of training", 1),
        FamilyScore("area_under_curve", "Mean return over training", 1),
    ),
}
"""Family → its scores, the leading one first; the others are judged by accuracy and have a page."""


@dataclass(frozen=True)
class _Table:
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str


def score_tables(records: Iterable[Record]) -> str:
    """Tables of one family as Markdown: a row a method, a column a shift, one table a score.

    A cell is mean ± sd and the paired difference to the hard switch with its verdict.
    """
    parts = []
    for made in _tables(records):
        columns = [cell(column) for column in made.columns]
        rows = [[cell(text) for text in row] for row in made.rows]
        parts.append(f"{markdown(columns, rows)}\n\n{made.caption}")
    return "\n\n".join(parts) or "No runs yet."


def console_score_tables(records: Iterable[Record]) -> list[Table]:
    """The same for the terminal."""
    tables = []
    for made in _tables(records):
        printed = Table(caption=plain(made.caption, 500), caption_justify="left")
        for i, column in enumerate(made.columns):
            printed.add_column(Text(column), justify="right" if i else "left")
        for row in made.rows:
            printed.add_row(*(Text(text) for text in row))
        tables.append(printed)
    return tables


def _tables(records: Iterable[Record]) -> list[_Table]:
    by_family: dict[str, list[Record]] = {}
    for record in records:
        by_family.setdefault(record.family, []).append(record)
    made = [
        _table(runs, score)
        for family, runs in sorted(by_family.items())
        for score in FAMILY_SCORES.get(family, ())
    ]
    return [found for found in made if found is not None]


def _table(records: Iterable[Record], score: FamilyScore) -> _Table | None:
    tests = [r for r in records if r.kind != "source" and not is_tuning(r)]
    if not tests:
        return None
    shifts = sorted({shift_of(r) for r in tests})
    methods = sorted({method_of(r) for r in tests}, key=lambda m: (m != _HARD_SWITCH, m))
    means = {
        (str(row.group["shift.name"]), str(row.group["method.name"])): row
        for row in table(tests, metric=score.metric)
    }
    versus: dict[tuple[str, str], ComparisonRow] = {}
    if _HARD_SWITCH in methods:
        for method in methods[1:]:
            versus.update(((group_name(r), method), r) for r in _compared(tests, method, score))
    rows = []
    for method in methods:
        cells = [name_of(method)]
        for shift in shifts:
            found, row = means.get((shift, method)), versus.get((shift, method))
            cells.append("–" if found is None else _cell(found.mean, found.sd, row, score))
        rows.append(tuple(cells))
    fewest = min(row.num_runs for row in means.values())
    most = max(row.num_runs for row in means.values())
    seeds = counted(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
    better = "higher" if score.higher_is_better else "lower"
    caption = (
        f"{score.label}, {better} is better: mean ± standard deviation over {seeds}, and the paired "
        "difference to the hard switch (▲ helps, ▼ hurts, ○ undecided; exact sign-flip p, Holm over the "
        "columns, for each method by itself)."
    )
    columns = ("method", *(name_of(shift) for shift in shifts))
    return _Table(columns, tuple(rows), caption)


def _compared(tests: Sequence[Record], method: str, score: FamilyScore) -> Sequence[ComparisonRow]:
    return compare(
        tests,
        treatment=method,
        baseline=_HARD_SWITCH,
        match=("shift.name", "seed"),
        metric=score.metric,
        higher_is_better=score.higher_is_better,
        scale=1.0,
        unit="",
        rng=np.random.default_rng(0),
    )


def _cell(mean: float, sd: float, row: ComparisonRow | None, score: FamilyScore) -> str:
    text = f"{number(mean, score.digits)} ± {number(sd, score.digits)}"
    if row is None:
        return text
    mark = MARKS[verdict_words(row)["decision"]]
    return f"{text} ({signed(row.difference.mean, score.digits)} {mark})"
