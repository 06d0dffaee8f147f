"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from segue.report.claims import RegimeVerdicts, judge
from segue.report.families import FAMILIES
from segue.report.listing import MethodRow, failures, method_rows
from segue.report.score_study import judge_scores
from segue.report.score_tables import ScoreTable, score_table
from segue.report.study import Regime, Study, build_study, describe_regime
from segue.report.tables import MARKS
from segue.report.text import name_of, plain

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["console_tables"]

_STYLES = {"helps": "bold blue", "hurts": "bold dark_orange3", "undecided": "dim", "": ""}


def console_tables(records: Iterable[Record] | Study, *, rng_seed: int = 0) -> list[Table]:
    """Tables of every regime that the page shows in full, then the failures.

    Args:
        records: Records of one or more families.
        rng_seed: Seed of the bootstrap intervals.
    """
    study = records if isinstance(records, Study) else build_study(records)
    tables: list[Table] = []
    for regime in study.shown:
        if regime.family in FAMILIES:
            judged = judge_scores(regime, rng_seed=rng_seed)
            tables += [_printed(score_table(regime, own)) for own in judged]
        else:
            tables.append(_regime_table(regime, judge(regime, rng_seed=rng_seed)))
    failed = failures(study)
    if failed:
        table = Table("run", "shift", "method", "seed", "what", "reason", title="Failed runs")
        for row in failed:
            cells = ("run_id", "shift", "method", "seed", "what", "reason")
            table.add_row(*(Text(plain(row[cell], 120)) for cell in cells))
        tables.append(table)
    return tables


def _printed(made: ScoreTable) -> Table:
    printed = Table(caption=escape(plain(made.caption, 500)), caption_justify="left")
    for i, column in enumerate(made.columns):
        printed.add_column(Text(plain(column)), justify="right" if i else "left")
    for row in made.rows:
        printed.add_row(*(Text(plain(text)) for text in row))
    return printed


def _regime_table(regime: Regime, verdicts: RegimeVerdicts) -> Table:
    sentences = [f"{c.question} {c.sentence}" for c in verdicts.leading]
    table = Table(
        "method",
        title=escape(plain(describe_regime(regime), 200)),
        caption=escape(plain("\n".join(sentences), 2000).replace("\\n", "\n")) or None,
        caption_justify="left",
    )
    for heading in ("target\naccuracy (%)", "runs", "against\nhard switch"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for shift, rows in method_rows(regime, verdicts).items():
        table.add_row(Text(name_of(shift, 40), style="bold"))
        for row in rows:
            decision = row.versus["decision"]
            style = _STYLES.get(decision, "")
            table.add_row(
                Text(
                    f"  {name_of(row.method, 40)}", style="bold" if row.role == "treatment" else ""
                ),
                f"{row.mean} ± {row.sd}",
                _runs(row),
                row.versus["difference"] if decision else "–",
                Text(f"{MARKS.get(decision, '')} {decision}".strip(), style=style),
            )
        table.add_section()
    return table


def _runs(row: MethodRow) -> str:
    return f"{row.num_runs} (+{len(row.unusable)} bad)" if row.unusable else str(row.num_runs)
