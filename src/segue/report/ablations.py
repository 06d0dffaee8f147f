"""Sweeps found among the records: what changes when one setting changes and nothing else."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.analysis.matching import key_of, lookup, read_score, sort_key
from segue.analysis.statistics import paired_difference, t_interval
from segue.report.families import FAMILIES
from segue.report.settings import (
    method_settings,
    most_run,
    shift_key,
    shift_of,
    tuned_settings,
)
from segue.report.study import Regime, Study

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["Sweep", "SweepPoint", "find_sweeps", "safest_share"]

K_PATH = "method.schedule.num_smoothing_steps"

_METHOD_SWEEPS = {
    K_PATH: "Smoothing steps K (optimizer steps)",
    "method.num_bank_examples": "Replay bank (source examples)",
    "method.schedule.shape": "Shape of the schedule",
    "method.replay_batch_size": "Source examples per step",
    "method.schedule.final_weight": "Final source weight (floor)",
    "method.mode": "How both losses are executed",
    "method.source_term": "Source term",
}
_CONTEXT_SWEEPS = {
    "optimizer.name": "Optimizer",
    "source.model.norm": "Normalisation layers",
    "num_target_examples": "Target examples",
    "num_target_steps": "Target steps (optimizer steps)",
    "batch_size": "Target examples per step",
}
# What may change along with a setting, because it has no meaning of its own without it.
_TIED = {
    "optimizer.name": {"optimizer.weight_decay"},
    "source.model.norm": {"batch_norm"},
    "method.num_bank_examples": {"method.replay_batch_size"},
}


@dataclass(frozen=True)
class SweepPoint:
    """Treatment minus hard switch on one shift (``shift`` None: mean over shifts) at one value.

    ``mean``, ``low`` and ``high`` are in the metric's unit; the interval is a t interval over
    seeds, ``nan`` below two. ``unusable`` counts pairs without two finite scores.
    """

    value: Any
    shift: str | None
    mean: float
    low: float
    high: float
    num_pairs: int
    unusable: int


@dataclass(frozen=True)
class Sweep:
    """One setting swept around the treatment's headline setting.

    Attributes:
        path: The config path.
        label: Axis title.
        values: The values, sorted; text for settings without an order.
        points: One per (shift, value).
        means: One per value, over the shifts that have every value; empty if none has.
        headline: The value of the main comparison.
        num_target_steps: Of the regime; for K, what shares refer to.
        regime_label: Of the regime; empty if there is one only.
    """

    path: str
    label: str
    values: tuple[Any, ...]
    points: tuple[SweepPoint, ...]
    means: tuple[SweepPoint, ...]
    headline: Any
    num_target_steps: int | None
    regime_label: str

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.values)

    @property
    def name(self) -> str:
        """Short name for files."""
        return self.path.replace("method.", "").replace("schedule.", "").replace(".", "_")


def find_sweeps(study: Study) -> list[Sweep]:
    """Every setting that was varied alone, in each regime (method) and across regimes (rest).

    In the families that are judged by accuracy: points are what the sweeps are drawn in.
    """
    sweeps = []
    for regime in study.regimes:
        if regime.comparable and regime.family not in FAMILIES:
            for path in _METHOD_SWEEPS:
                sweep = _method_sweep(regime, path)
                if sweep is not None:
                    sweeps.append(sweep)
    for path in _CONTEXT_SWEEPS:
        for regimes in _alike_but_for(study, path):
            sweep = _context_sweep(regimes, path)
            if sweep is not None:
                sweeps.append(sweep)
    return sweeps


def _method_sweep(regime: Regime, path: str) -> Sweep | None:
    headline = regime.method_settings[str(regime.treatment)]
    if path not in headline:
        return None
    tied = {path, *_TIED.get(path, ())}
    fixed = _without(headline, tied)
    by_value: dict[str, list[Record]] = defaultdict(list)
    values: dict[str, Any] = {}
    for record in (*regime.records, *regime.others):
        settings = method_settings(record)
        if path in settings and _without(settings, tied) == fixed:
            by_value[key_of(settings[path])].append(record)
            values[key_of(settings[path])] = settings[path]
    if len(by_value) < 2:
        return None
    hard = _scores(r for r in regime.records if _name(r) == regime.hard_switch)
    scores = {key: (_scores(_one_variant(runs, path)), hard) for key, runs in by_value.items()}
    return _sweep(path, _METHOD_SWEEPS[path], values, scores, headline[path], regime)


def _alike_but_for(study: Study, path: str) -> list[list[Regime]]:
    """The comparable regimes in groups that differ in ``path``, and what is tied to it, alone."""
    groups: dict[str, list[Regime]] = defaultdict(list)
    for regime in study.regimes:
        if regime.comparable and path in regime.settings and regime.family not in FAMILIES:
            fixed = _without(regime.settings, {path, *_TIED.get(path, ())})
            groups[str(fixed)].append(regime)
    return list(groups.values())


def _context_sweep(regimes: Sequence[Regime], path: str) -> Sweep | None:
    main = regimes[0]  # the regime with the most runs: they come in that order
    trained = {shift_of(r): shift_key(r) for r in main.records}
    values: dict[str, Any] = {}
    scores = {}
    for regime in regimes:
        key = key_of(regime.settings[path])
        if key in scores:
            continue  # a tied setting differs: the regime with the most runs stands
        # Another training of the source model would be a second thing that varies.
        alike = [
            r for r in regime.records
            if shift_key(r) == trained.get(shift_of(r))
        ]  # fmt: skip
        treatment = _scores(r for r in alike if _name(r) == main.treatment)
        if treatment:
            values[key] = regime.settings[path]
            hard = _scores(r for r in alike if _name(r) == regime.hard_switch)
            scores[key] = (treatment, hard)
    if len(scores) < 2:
        return None
    return _sweep(path, _CONTEXT_SWEEPS[path], values, scores, main.settings[path], main)


def _name(record: Record) -> str:
    return str(record.config["method"]["name"])


def _without(settings: Mapping[str, Any], paths: set[str]) -> dict[str, str]:
    return {path: key_of(value) for path, value in settings.items() if path not in paths}


def _one_variant(records: Sequence[Record], path: str) -> list[Record]:
    """At one value: one tied setting, one source training and one learning rate a shift."""
    variant = most_run(records, [], method_settings)
    by_shift: dict[str, list[Record]] = defaultdict(list)
    for record in variant:
        by_shift[shift_of(record)].append(record)
    return [r for runs in by_shift.values() for r in most_run(runs, [], tuned_settings)]


def _scores(records: Iterable[Record]) -> dict[tuple[str, str], float | None]:
    """Score by (shift, seed); None where there is no finite one."""
    scores: dict[tuple[str, str], float | None] = {}
    for record in records:
        key = (shift_of(record), key_of(lookup(record.config, "seed")))
        score = read_score(record, "target_accuracy", "")
        scores[key] = score if isinstance(score, float) else None
    return scores


_Scores = Mapping[tuple[str, str], "float | None"]


def _sweep(
    path: str,
    label: str,
    values: Mapping[str, Any],
    scores: Mapping[str, tuple[_Scores, _Scores]],
    headline: Any,
    regime: Regime,
) -> Sweep | None:
    numeric = [v for v in values.values() if isinstance(v, int | float)]
    # A bank of None is the whole source set: larger than any number, not smaller.
    order = sorted(values, key=lambda key: (values[key] is None, sort_key([values[key]])))
    shown = {k: "all" if values[k] is None and numeric else values[k] for k in order}
    points: list[SweepPoint] = []
    differences: dict[tuple[str, str], dict[str, float]] = {}
    for key in order:
        treatment, hard = scores[key]
        for shift in sorted({shift for shift, _ in treatment}):
            pairs = {
                seed: (score, hard[shift, seed])
                for (at, seed), score in treatment.items()
                if at == shift and (shift, seed) in hard
            }
            usable = {
                seed: a - b for seed, (a, b) in pairs.items() if a is not None and b is not None
            }
            if not pairs:
                continue
            paired = paired_difference(
                list(usable.values()), [0.0] * len(usable), rng=np.random.default_rng(0)
            )
            differences[key, shift] = usable
            points.append(
                SweepPoint(
                    shown[key], shift, paired.mean, paired.low, paired.high,
                    paired.num_pairs, len(pairs) - len(usable),
                )
            )  # fmt: skip
    swept = [s for s in {s for _, s in differences} if sum(t == s for _, t in differences) > 1]
    points = [point for point in points if point.shift in swept]
    differences = {cell: pairs for cell, pairs in differences.items() if cell[1] in swept}
    present = [key for key in order if any(k == key for k, _ in differences)]
    if len(present) < 2:
        return None
    means = _means(present, differences, shown)
    steps = regime.settings.get("num_target_steps")
    return Sweep(
        path=path,
        label=label,
        values=tuple(shown[key] for key in present),
        points=tuple(points),
        means=tuple(means),
        headline="all" if headline is None and numeric else headline,
        num_target_steps=steps if isinstance(steps, int) else None,
        regime_label=regime.label,
    )


def _means(
    order: Sequence[str],
    differences: Mapping[tuple[str, str], Mapping[str, float]],
    shown: Mapping[str, Any],
) -> list[SweepPoint]:
    """Mean over the shifts that have every value, with a t interval of the seeds' means."""
    shifts = sorted({shift for _, shift in differences})
    full = [s for s in shifts if all(differences.get((key, s)) for key in order)]
    if not full:
        return []
    means = []
    for key in order:
        cells = [differences[key, shift] for shift in full]
        shared = set(cells[0]).intersection(*cells[1:])
        by_seed = [math.fsum(c[seed] for c in cells) / len(cells) for seed in sorted(shared)]
        interval = t_interval(by_seed)
        mean = math.fsum(math.fsum(c.values()) / len(c) for c in cells) / len(cells)
        same = all(set(c) == shared for c in cells)
        low, high = (interval.low, interval.high) if same else (math.nan, math.nan)
        means.append(SweepPoint(shown[key], None, mean, low, high, sum(map(len, cells)), 0))
    return means


def safest_share(sweep: Sweep) -> tuple[int, float, SweepPoint] | None:
    """The K that loses least on its worst shift: K, its share of training, that shift's point.

    Only shifts on which every K was run are compared.
    """
    if sweep.path != K_PATH or not sweep.num_target_steps:
        return None
    best: tuple[int, float, SweepPoint] | None = None
    finite = [point for point in sweep.points if math.isfinite(point.mean)]
    shifts = {
        point.shift
        for point in finite
        if {p.value for p in finite if p.shift == point.shift} == set(sweep.values)
    }
    for value in sweep.values:
        cells = [p for p in finite if p.value == value and p.shift in shifts]
        if not cells or not value:
            continue
        worst = min(cells, key=lambda p: p.mean)
        if best is None or worst.mean > best[2].mean:
            best = (value, value / sweep.num_target_steps, worst)
    return best
