"""Batch-norm policies and dropout: runs that differ in nothing else, side by side."""

from __future__ import annotations

import math
from collections import defaultdict

from segue.analysis.matching import key_of, lookup, read_score
from segue.analysis.statistics import t_interval
from segue.report.gains import points_text
from segue.report.score_tables import ScoreTable
from segue.report.settings import (
    Key,
    context_settings,
    is_tuning,
    key_of_settings,
    method_of,
    shift_of,
)
from segue.report.study import Study
from segue.report.text import counted, name_of, number
from segue.runs.records import Record

__all__ = ["batch_norm_markdown", "batch_norm_table"]

_POLICY = "batch_norm"
_DROPOUT = "network.dropout"
_SHARED = "shared"
_Cell = tuple[str, str, float]
"""Method, policy, dropout."""


def batch_norm_table(study: Study) -> ScoreTable | None:
    """A row a method, policy and dropout: accuracies, and the differences to ``shared``.

    Over the shifts and seeds that every row has. None unless a policy other than ``shared`` was run.
    """
    groups: dict[Key, dict[_Cell, dict[tuple[str, str], Record]]] = defaultdict(dict)
    for record in study.records:
        policy = lookup(record.config, _POLICY)
        if not isinstance(policy, str) or is_tuning(record) or record.status != "completed":
            continue
        dropout = lookup(record.config, _DROPOUT)
        dropout = float(dropout) if isinstance(dropout, int | float) else 0.0
        cell = (method_of(record), policy, dropout)
        rest = {p: v for p, v in context_settings(record).items() if p not in (_POLICY, _DROPOUT)}
        place = (shift_of(record), key_of(lookup(record.config, "seed")))
        groups[key_of_settings(rest)].setdefault(cell, {})[place] = record
    most = max(groups.values(), key=lambda g: len({policy for _, policy, _ in g}), default={})
    varied = {method for method, policy, dropout in most if policy != _SHARED}
    usual = max((dropout for _, _, dropout in most), default=0.0)
    cells = {c: runs for c, runs in most.items() if c[0] in varied or c[0] == "hard_switch"}
    if not varied:
        return None
    order = sorted(cells, key=lambda c: (c[0] != "hard_switch", c[0], -c[2], c[1] != _SHARED, c[1]))
    places = sorted(set.intersection(*(set(runs) for runs in cells.values())))
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
            "–" if method == "hard_switch" else policy,
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
