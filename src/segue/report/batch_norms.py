"""Batch-norm policies and dropout: runs that differ in nothing else, side by side."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from segue.analysis.matching import key_of, lookup, read_score
from segue.analysis.statistics import t_interval
from segue.report.gains import points_text
from segue.report.score_tables import ScoreTable
from segue.report.settings import (
    Key,
    context_settings,
    is_tuning,
    key_of_settings,
    method_key,
    method_of,
    method_settings,
    most_run,
    shift_of,
    shift_settings,
    tuned_settings,
)
from segue.report.study import Study
from segue.report.text import counted, name_of, number
from segue.runs.records import Record

__all__ = ["batch_norm_markdown", "batch_norm_table"]

_POLICY = "batch_norm"
_DROPOUT = "network.dropout"
_SHARED = "shared"
_HARD = "hard_switch"
_Cell = tuple[str, str, float]
"""Method, policy, dropout."""


def batch_norm_table(study: Study) -> ScoreTable | None:
    """A row a method, policy and dropout: accuracies, and the differences to ``shared``.

    Over the shifts and seeds that every row has. None unless a policy other than ``shared`` was run.
    """
    cells = _cells(_varied(study.records))
    usual = max((dropout for _, _, dropout in cells), default=0.0)
    places = sorted(set.intersection(*map(set, cells.values()))) if cells else []
    if not places:
        return None
    order = sorted(cells, key=lambda c: (c[0] != _HARD, c[0], -c[2], c[1] != _SHARED, c[1]))
    shifts = sorted({shift for shift, _ in places})
    rows = []
    for cell in order:
        method, policy, dropout = cell
        scores = [
            _by_seed(cells[cell], places, metric)
            for metric in ("target_accuracy", "source_accuracy")
        ]
        base = cells.get((method, _SHARED, usual))
        row = [
            name_of(method),
            "–" if method == _HARD else policy,
            number(dropout),
            *(number(t_interval(list(s.values())).mean, scale=100.0) for s in scores),
        ]
        for metric, own in zip(("target_accuracy", "source_accuracy"), scores, strict=True):
            if base is None or base is cells[cell]:
                row.append("–")
                continue
            other = _by_seed(base, places, metric)
            row.append(points_text(t_interval([own[s] - other[s] for s in own if s in other])))
        rows.append(tuple(row))
    num_seeds = len({seed for _, seed in places})
    caption = (
        f"Accuracy in %, mean over {counted(len(shifts), 'shift')} "
        f"({', '.join(map(name_of, shifts))}) and {counted(num_seeds, 'seed')}; differences in points "
        f"to the same method with {_SHARED} and dropout {number(usual)}, with 95 % t intervals over seeds."
    )
    columns = (
        "method", "policy", "dropout", "target", "source",
        "target against shared", "source against shared",
    )  # fmt: skip
    return ScoreTable(columns, tuple(rows), caption)


def _varied(records: Sequence[Record]) -> list[Record]:
    """Test runs of the setting with the most policies: of each method one variant, and the hard switch."""
    groups: dict[Key, list[Record]] = defaultdict(list)
    for record in records:
        policy = lookup(record.config, _POLICY)
        if isinstance(policy, str) and not is_tuning(record) and record.status == "completed":
            rest = {
                p: v for p, v in context_settings(record).items() if p not in (_POLICY, _DROPOUT)
            }
            groups[key_of_settings(rest)].append(record)

    def num_policies(group: Sequence[Record]) -> tuple[int, int]:
        return len({lookup(r.config, _POLICY) for r in group}), len(group)

    group = max(groups.values(), key=num_policies, default=[])
    others = [r for r in group if lookup(r.config, _POLICY) != _SHARED]
    kept: list[Record] = []
    for method in sorted({method_of(r) for r in others}):
        own = most_run([r for r in others if method_of(r) == method], [], method_settings)
        for shift in sorted({shift_of(r) for r in own}):
            alike = most_run([r for r in own if shift_of(r) == shift], [], tuned_settings)
            wanted = _variant(alike[0])
            kept += [r for r in group if method_of(r) == method and _variant(r) == wanted]
    hard = [r for r in group if method_of(r) == _HARD] if kept else []
    for shift in sorted({shift_of(r) for r in hard}):
        own = [r for r in hard if shift_of(r) == shift and lookup(r.config, _POLICY) == _SHARED]
        kept += most_run(own, [], tuned_settings)
    return kept


def _variant(record: Record) -> tuple[str, Key, Key, Key]:
    """What policies and dropouts are compared within: shift, source, method, learning rate."""
    source = {p: v for p, v in shift_settings(record).items() if not p.endswith(_DROPOUT)}
    tuned = key_of_settings(tuned_settings(record))
    return shift_of(record), key_of_settings(source), method_key(record), tuned


def _cells(records: Sequence[Record]) -> dict[_Cell, dict[tuple[str, str], Record]]:
    cells: dict[_Cell, dict[tuple[str, str], Record]] = defaultdict(dict)
    for record in records:
        dropout = lookup(record.config, _DROPOUT)
        dropout = float(dropout) if isinstance(dropout, int | float) else 0.0
        cell = (method_of(record), str(lookup(record.config, _POLICY)), dropout)
        cells[cell][shift_of(record), key_of(lookup(record.config, "seed"))] = record
    return dict(cells)


def batch_norm_markdown(study: Study) -> str:
    """The table as Markdown."""
    made = batch_norm_table(study)
    return "No runs yet." if made is None else made.to_markdown()


def _by_seed(
    runs: dict[tuple[str, str], Record], places: list[tuple[str, str]], metric: str
) -> dict[str, float]:
    """Seed → mean over its shifts."""
    found: dict[str, list[float]] = defaultdict(list)
    for place in places:
        score = read_score(runs[place], metric, "")
        found[place[1]].append(score if isinstance(score, float) else math.nan)
    means = {seed: math.fsum(values) / len(values) for seed, values in found.items()}
    return {seed: mean for seed, mean in means.items() if math.isfinite(mean)}
