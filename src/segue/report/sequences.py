"""Sequences of shifts: what is learned last, and what the stability gap costs on the way."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.analysis.matching import key_of, lookup, read_score, sort_key
from segue.analysis.statistics import paired_difference
from segue.report.settings import method_of, shift_of
from segue.report.sheets import Sheet
from segue.report.study import Study
from segue.report.text import name_of, number, signed

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["SEQUENCE_METRICS", "SequenceRow", "SequenceStudy", "find_sequences", "sequences_sheet"]

SEQUENCE_METRICS = {
    "target_accuracy": "last task",
    "average_accuracy": "mean of all tasks",
    "min_accuracy": "min-ACC",
    "worst_case_accuracy": "WC-ACC",
}
"""Metric → column title; min-ACC and WC-ACC after De Lange et al., arXiv 2205.13452."""
_HARD_SWITCH = "hard_switch"


@dataclass(frozen=True)
class SequenceRow:
    """One method: a cell a metric, as (mean ± sd, difference to the hard switch with interval)."""

    method: str
    num_runs: int
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SequenceStudy:
    """One sequence of shifts.

    Attributes:
        name: The shifts in turn.
        rows: The hard switch first.
        records: Its runs.
    """

    name: str
    rows: tuple[SequenceRow, ...]
    records: tuple[Record, ...]


def find_sequences(study: Study) -> list[SequenceStudy]:
    """Every sequence among the records, with its methods."""
    by_name: dict[str, list[Record]] = defaultdict(list)
    for record in study.records:
        if record.kind == "sequence" and record.status == "completed":
            by_name[shift_of(record)].append(record)
    return [_sequence(name, records) for name, records in sorted(by_name.items())]


def _sequence(name: str, records: list[Record]) -> SequenceStudy:
    by_method: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_method[method_of(record)].append(record)
    hard = by_method.get(_HARD_SWITCH, [])
    order = sorted(by_method, key=lambda method: (method != _HARD_SWITCH, method))
    rows = tuple(_row(method, by_method[method], hard) for method in order)
    return SequenceStudy(name, rows, tuple(records))


def _row(method: str, records: list[Record], hard: list[Record]) -> SequenceRow:
    cells = []
    for metric in SEQUENCE_METRICS:
        own, base = _scores(records, metric), _scores(hard, metric)
        values = list(own.values())
        spread = statistics.stdev(values) if len(values) > 1 else None
        text = f"{number(statistics.fmean(values), 1, scale=100)}" if values else "–"
        if spread is not None:
            text += f" ± {number(spread, 1, scale=100)}"
        seeds = sorted(set(own) & set(base))
        difference = ""
        if method != _HARD_SWITCH and len(seeds) > 1:
            paired = paired_difference(
                [own[s] for s in seeds], [base[s] for s in seeds], rng=np.random.default_rng(0)
            )
            difference = (
                f"{signed(paired.mean, scale=100)} ({number(paired.low, 1, scale=100)} to "
                f"{number(paired.high, 1, scale=100)})"
            )
        cells.append((text, difference))
    return SequenceRow(name_of(method), len(records), tuple(cells))


def _scores(records: Iterable[Record], metric: str) -> dict[str, float]:
    scores = {}
    for record in sorted(records, key=lambda r: sort_key([lookup(r.config, "seed")])):
        score = read_score(record, metric, "")
        if isinstance(score, float):
            scores[key_of(lookup(record.config, "seed"))] = score
    return scores


def sequences_sheet(sequences: Iterable[SequenceStudy]) -> Sheet:
    """The runs behind the tables: one row a run and metric."""
    rows: list[tuple[Any, ...]] = []
    for sequence in sequences:
        for record in sequence.records:
            seed = lookup(record.config, "seed")
            rows += [
                (sequence.name, method_of(record), seed, metric, record.metrics.get(metric))
                for metric in SEQUENCE_METRICS
            ]
    columns = ("sequence", "method", "seed", "metric", "value")
    return Sheet("sequences", columns, tuple(sorted(rows, key=lambda row: sort_key(row[:4]))))
