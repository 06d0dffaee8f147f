"""Generated blocks of README.md and docs/: every number in them comes from committed results.

A block stands between ``<!-- segue:begin NAME -->`` and ``<!-- segue:end NAME -->``, each on a line of
its own. ``segue report --docs`` rewrites the text between them. After the name there may be conditions
on the configuration, such as ``results source.dataset=digits num_target_steps=160``: then only runs at
which they hold are looked at. ``method.name=hard_switch|smoothing`` holds at either value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from segue.analysis.matching import lookup
from segue.checks import unknown_name
from segue.report.batch_norms import batch_norm_markdown
from segue.report.budgets import BUDGET
from segue.report.diagnosis import diagnosis_markdown
from segue.report.gains import gains_markdown
from segue.report.offline_agents import offline_agents_markdown
from segue.report.pretraining import pretraining_markdown
from segue.report.release import release_markdown
from segue.report.score_tables import (
    aggregate_markdown,
    controls_markdown,
    score_tables,
    switch_markdown,
)
from segue.report.settings import is_tuning
from segue.report.study import Study, build_study
from segue.report.svg import forest_svg
from segue.report.tables import (
    ablation_table,
    default_k_text,
    markdown_table,
    primary_table,
    sequence_table,
    settings_table,
    verdict_list,
)
from segue.report.tuning import chosen_table, rate_table, tuning_table
from segue.runs.records import load_records, write_atomically

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["BLOCKS", "FIGURE", "outdated_docs", "render_docs", "replace_blocks", "update_docs"]

FIGURE = Path("docs/paired-differences.svg")
"""The figure of paired differences, rewritten along with the blocks."""

BLOCKS: Mapping[str, Callable[[Study], str]] = {
    "results": markdown_table,
    "primary": primary_table,
    "verdicts": verdict_list,
    "settings": settings_table,
    "choosing-k": default_k_text,
    "tuning": tuning_table,
    "learning-rates": rate_table,
    "sequence": sequence_table,
    "scores": score_tables,
    "aggregate": aggregate_markdown,
    "controls": controls_markdown,
    "switch": switch_markdown,
    "diagnosis": diagnosis_markdown,
    "offline-agents": offline_agents_markdown,
    "release": release_markdown,
    "score-tuning": chosen_table,
    "gains": gains_markdown,
    "pretraining": pretraining_markdown,
    "batch-norm": batch_norm_markdown,
    "ablation-k": lambda s: ablation_table(s, "method.schedule.num_smoothing_steps"),
    "ablation-bank": lambda s: ablation_table(s, "method.num_bank_examples"),
    "ablation-shape": lambda s: ablation_table(s, "method.schedule.shape"),
    "ablation-optimizer": lambda s: ablation_table(s, "optimizer.name"),
    "ablation-norm": lambda s: ablation_table(s, "source.model.norm"),
    "ablation-examples": lambda s: ablation_table(s, "num_target_examples"),
    "ablation-steps": lambda s: ablation_table(s, "num_target_steps"),
    "figure": lambda s: FIGURE.as_posix(),
}
"""Block name → its text."""

_FAMILY = "supervised"
_BEGIN = re.compile(r"^<!-- segue:begin (.*?) -->[ \t]*$", re.MULTILINE)
_MARK = re.compile(r"^<!-- segue:(begin|end)\b.*$", re.MULTILINE)


def replace_blocks(text: str, render: Callable[[str], str], where: str = "the text") -> str:
    """Replace what stands between the marks of each block.

    Args:
        text: A document.
        render: Block name → new text.
        where: What error messages call the document.

    Raises:
        ValueError: A block without its end, an end without a block, or an unknown name.
    """
    parts: list[str] = []
    position = 0
    while True:
        begin = _BEGIN.search(text, position)
        stray = _MARK.search(text, position, begin.start() if begin else len(text))
        if stray:
            raise ValueError(f"{where}: {stray.group()!r} opens or closes no block")
        if begin is None:
            return "".join([*parts, text[position:]])
        name = begin.group(1)
        end = re.compile(rf"^<!-- segue:end {re.escape(name)} -->[ \t]*$", re.MULTILINE)
        found = end.search(text, begin.end())
        if found is None or _MARK.search(text, begin.end(), found.start()):
            raise ValueError(f"{where}: block {name!r} needs its own end mark")
        kind, *conditions = name.split(" ")
        if kind not in BLOCKS:
            raise ValueError(f"{where}: {unknown_name('block', kind, BLOCKS)}")
        for condition in conditions:
            if not re.fullmatch(r"[\w.]+=\S+", condition):
                raise ValueError(f"{where}: conditions must be PATH=VALUE, got {condition!r}")
        parts += [text[position : begin.end()], "\n", render(name).strip("\n"), "\n"]
        parts.append(text[found.start() : found.end()])
        position = found.end()


def render_docs(root: Path, records: Iterable[Record]) -> dict[Path, str]:
    """New text of every document that has a block, and the figure where one shows it."""
    records = list(records)
    study = build_study(_at(records, ()))
    cache: dict[str, str] = {}

    def render(name: str, folder: Path) -> str:
        if name == "figure":
            link = os.path.relpath(root / FIGURE, folder).replace(os.sep, "/")
            return f"![Paired differences in target accuracy]({link})"
        if name not in cache:
            kind, *conditions = name.split(" ")
            cache[name] = BLOCKS[kind](build_study(_at(records, conditions)))
        return cache[name]

    documents: dict[Path, str] = {}
    for path in _documents(root):
        text = path.read_text(encoding="utf-8")
        if "segue:begin" in text or "segue:end" in text:
            documents[path] = replace_blocks(
                text, partial(render, folder=path.parent), str(path.relative_to(root))
            )
    comparable = any(regime.comparable for regime in study.shown)
    if comparable and any(FIGURE.name in text for text in documents.values()):
        documents[root / FIGURE] = forest_svg(study)
    return documents


def _at(records: Sequence[Record], conditions: Sequence[str]) -> list[Record]:
    """Records whose configuration has, at every path, the value that is given as text.

    ``family`` is the supervised one where it is not given. Tuning runs stay whatever their budget:
    another one may have borrowed what they chose.
    """
    wanted = [condition.split("=", 1) for condition in conditions]
    family = dict(wanted).get("family", _FAMILY)
    kept = []
    for record in records:
        if record.family != family:
            continue
        budget_counts = not is_tuning(record)
        if all(
            str(lookup(record.config, path)) in value.split("|")
            for path, value in wanted
            if path != "family"
            if budget_counts or path not in BUDGET
        ):
            kept.append(record)
    return kept


def _documents(root: Path) -> Sequence[Path]:
    found = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return [path for path in found if path.is_file()]


def update_docs(root: Path, results: Sequence[Path]) -> list[Path]:
    """Rewrite the documents under ``root`` from the records in ``results``.

    Returns:
        The files that changed.
    """
    changed = _changed(root, results)
    for path, text in changed.items():
        write_atomically(path, text.encode("utf-8"))
    return list(changed)


def outdated_docs(root: Path, results: Sequence[Path]) -> list[Path]:
    """Files that :func:`update_docs` would change; writes nothing."""
    return list(_changed(root, results))


def _changed(root: Path, results: Sequence[Path]) -> dict[Path, str]:
    documents = render_docs(Path(root), load_records(list(results)))
    return {
        path: text
        for path, text in documents.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    }
