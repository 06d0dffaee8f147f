"""Order in records: which runs belong in one table, and at which setting a method is shown.

Records of an experiment hold the main comparison, ablations around it and tuning runs together. A
*regime* is one setting of everything that is not the method, the shift, the seed or the learning
rate (budget, data, network, optimizer). Within a regime each method is shown at the setting that was
run most often, counted in (shift, seed) cells, never by its score; what else was run is named and is
material for the ablations.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segue.analysis.curves import points
from segue.analysis.matching import METHOD_PATH, key_of, lookup, sort_key
from segue.report.budgets import borrowed_tuning, equal_compute_runs
from segue.report.families import FAMILIES
from segue.report.settings import (
    SHIFT_PATH,
    Key,
    Settings,
    context_settings,
    is_tuning,
    key_of_settings,
    method_key,
    method_of,
    method_settings,
    most_run,
    shift_key,
    shift_of,
    shift_settings,
    tuned_settings,
)
from segue.report.text import counted, name_of, setting_text

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["Regime", "Study", "alike_but_for", "build_study"]

_VISION = "vision"
_METRICS = (
    "target_accuracy", "source_accuracy", "lowest_target_accuracy", "source_model_accuracy",
    "source_accuracy_before", "num_gradient_examples",
    *(score.metric for family in FAMILIES.values() for score in family.scores),
)  # fmt: skip


@dataclass(frozen=True)
class Regime:
    """One setting in which methods are compared.

    Attributes:
        settings: Its settings by dotted path.
        label: What tells it from the other regimes, for people; empty if it is the only one.
        records: Test runs at the headline settings: each (shift, method, seed) once.
        tuning: Validation runs at the same method settings, all learning rates.
        tuned_at: The budget of the tuning runs in words, where it is another one; else "".
        others: Test runs of the regime at other settings.
        shifts: Names, sorted.
        methods: Names, the hard switch first, then the treatment, then the rest.
        method_settings: Headline settings of each method.
        treatment: The method the claims are about, or None.
        hard_switch: The method it is compared with, or None.
        equal_compute: Runs of the hard switch with as many gradient examples as the treatment
            has, in more steps and so of another regime.
        tuned_paths: Config paths of what is chosen on the tuning seeds: the learning rate, scales.
        notes: What was left out of the tables.
    """

    settings: Settings
    label: str
    records: tuple[Record, ...]
    tuning: tuple[Record, ...]
    tuned_at: str
    others: tuple[Record, ...]
    shifts: tuple[str, ...]
    methods: tuple[str, ...]
    method_settings: Mapping[str, Settings]
    treatment: str | None
    hard_switch: str | None
    equal_compute: tuple[Record, ...]
    tuned_paths: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def family(self) -> str:
        """Family of its runs."""
        return str(self.settings["family"])

    @property
    def comparable(self) -> bool:
        """Whether it holds both the treatment and the hard switch."""
        return self.treatment is not None and self.hard_switch is not None

    def of(self, shift: str, method: str) -> list[Record]:
        """Headline runs of one shift and method, by seed."""
        runs = [r for r in self.records if shift_of(r) == shift and method_of(r) == method]
        return sorted(runs, key=lambda r: sort_key([lookup(r.config, "seed")]))


@dataclass(frozen=True)
class Study:
    """All records, and the regimes among them, the one with the most runs first."""

    records: tuple[Record, ...]
    regimes: tuple[Regime, ...]
    notes: tuple[str, ...]

    @property
    def shown(self) -> list[Regime]:
        """Regimes to show in full: comparable, and large or alone in having their shifts.

        Large is half as large as the first of their family. Size is the number of runs where
        accuracy is the score. The other families have regimes of unlike numbers of tasks and methods
        that belong on the page; there it is the runs a cell. In vision, shifts that no larger regime
        has are shown as well: those without source data.
        """
        comparable = [r for r in self.regimes if r.comparable] or list(self.regimes[:1])
        most: dict[str, float] = {}
        shown: list[Regime] = []
        for regime in comparable:
            most.setdefault(regime.family, _size(regime))
            seen = {shift for r in shown if r.family == regime.family for shift in r.shifts}
            alone = regime.family == _VISION and not seen & set(regime.shifts)
            if alone or _size(regime) >= most[regime.family] / 2:
                shown.append(regime)
        return shown

    def title_of(self, regime: Regime) -> str:
        """What tells a shown regime from the others that are shown; its label is longer."""
        differing = {p for p, _ in _differences([key_of_settings(r.settings) for r in self.shown])}
        texts = [setting_text(p, v) for p, v in regime.settings.items() if p in differing]
        if not texts and any(path.startswith("source.") for path in differing):
            return "no source data"
        return ", ".join(texts) or regime.label


def _size(regime: Regime) -> float:
    num_runs = len(regime.records)
    if regime.family not in FAMILIES:
        return num_runs
    return num_runs / max(1, len({(shift_of(r), method_of(r)) for r in regime.records}))


def alike_but_for(regimes: Iterable[Regime], path: str) -> list[list[Regime]]:
    """Regimes in groups that differ in the number at ``path`` alone, each group by that number."""
    groups: dict[Key, list[Regime]] = defaultdict(list)
    for regime in regimes:
        if path in regime.settings:
            rest = {p: value for p, value in regime.settings.items() if p != path}
            groups[key_of_settings(rest)].append(regime)
    return [sorted(group, key=lambda r: float(r.settings[path])) for group in groups.values()]


def build_study(records: Iterable[Record]) -> Study:
    """Sort records into regimes. Nothing is dropped without a note."""
    everything = tuple(sorted(records, key=lambda r: (r.family, r.kind, r.run_id)))
    named = [r for r in everything if _is_comparison(r)]
    cleaned = [_numbers_only(record) for record in named]
    notes = []
    unread = sum(r.kind != "source" for r in everything) - len(named)
    if unread:
        notes.append(f"{counted(unread, 'run')} without a shift and a method: only listed")
    groups: dict[Key, list[Record]] = defaultdict(list)
    for record in cleaned:
        groups[key_of_settings(context_settings(record))].append(record)
    differing = {path for path, _ in _differences(sorted(groups))}
    regimes = []
    for _, members in sorted(groups.items()):
        settings = context_settings(members[0])
        label = ", ".join(setting_text(p, v) for p, v in settings.items() if p in differing)
        if not all(map(is_tuning, members)):
            regimes.append(_regime(settings, label, members, groups))
    regimes.sort(key=lambda r: (-len(r.records), -_budget(r.settings), r.label))
    notes += _uncompared(regimes, groups)
    return Study(everything, tuple(regimes), tuple(notes))


def _uncompared(
    regimes: Sequence[Regime], groups: Mapping[Key, Sequence[Record]], *, limit: int = 3
) -> list[str]:
    """Name the runs that no table, claim or ablation shows."""
    comparable = [regime for regime in regimes if regime.comparable]
    shown = {r.run_id for regime in comparable for r in (*regime.records, *regime.others)}
    longer = {r.run_id for regime in comparable for r in regime.equal_compute} - shown
    notes = []
    if longer:
        notes.append(
            f"{counted(len(longer), 'run')} of the hard switch with more steps: the baseline at "
            "equal compute only"
        )
    left: dict[str, int] = {}
    for regime in regimes if comparable else regimes[1:]:
        members = [r for r in (*regime.records, *regime.others) if r.run_id not in longer]
        if members and not regime.comparable:
            left[regime.label] = len(members)
    if left:
        listed = list(left)[:limit] + [f"{len(left) - limit} more"] * (len(left) > limit)
        notes.append(
            f"{counted(sum(left.values()), 'run')} at settings that lack the hard switch or a "
            f"smoothing method: compared with nothing ({'; '.join(listed)})"
        )
    used = {r.run_id for regime in regimes for r in regime.tuning}
    unused = sum(is_tuning(r) and r.run_id not in used for runs in groups.values() for r in runs)
    if unused:
        notes.append(
            f"{counted(unused, 'tuning run')} of methods or settings without test runs: not read"
        )
    return notes


def _budget(settings: Settings) -> float:
    steps = settings.get("num_target_steps", 0)
    return float(steps) if isinstance(steps, int | float) else 0.0


def _is_comparison(record: Record) -> bool:
    paths = (SHIFT_PATH, METHOD_PATH, "seed")
    return all(isinstance(lookup(record.config, path), str | int) for path in paths)


def _numbers_only(record: Record) -> Record:
    """The record without what cannot be read: text where a metric belongs, broken curves."""
    wrong = dict.fromkeys(unreadable_metrics(record))
    broken = unreadable_curves(record)
    if not wrong and not broken:
        return record
    curves = {name: curve for name, curve in record.curves.items() if name not in broken}
    return dataclasses.replace(record, metrics={**record.metrics, **wrong}, curves=curves)


def unreadable_metrics(record: Record) -> list[str]:
    """Names of metrics that hold neither a number nor None."""
    return [
        name
        for name in _METRICS
        if isinstance(record.metrics.get(name), bool)
        or not isinstance(record.metrics.get(name), int | float | None)
    ]


def unreadable_curves(record: Record) -> list[str]:
    """Names of curves without points, with unsorted steps or with text for numbers."""
    broken = []
    for name, curve in record.curves.items():
        try:
            points(curve)
        except (ValueError, TypeError):
            broken.append(name)
    return broken


def _differences(keys: Sequence[Key]) -> set[tuple[str, str]]:
    if not keys:
        return set()
    common = set(keys[0]).intersection(*map(set, keys[1:]))
    return set().union(*map(set, keys)) - common


def _split(records: Sequence[Record], name: Callable[[Record], str]) -> dict[str, list[Record]]:
    parts: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        parts[name(record)].append(record)
    return dict(sorted(parts.items()))


def _regime(
    settings: Settings,
    label: str,
    members: Sequence[Record],
    groups: Mapping[Key, Sequence[Record]],
) -> Regime:
    tests = [r for r in members if not is_tuning(r)]
    tuning = [r for r in members if is_tuning(r)]
    kept: list[Record] = []
    by_shift = _split(tests, shift_of)
    for shift, runs in by_shift.items():
        seen = [r for r in tuning if shift_of(r) == shift]
        kept += most_run(runs, seen, shift_settings)
    headline: dict[str, Settings] = {}
    chosen: list[Record] = []
    for method, runs in _split(kept, method_of).items():
        seen = [r for r in tuning if method_of(r) == method]
        variant = most_run(runs, seen, method_settings)
        headline[method] = method_settings(variant[0])
        for shift_runs in _split(variant, shift_of).values():
            chosen += most_run(shift_runs, [], tuned_settings)
    ids = {record.run_id for record in chosen}
    others = tuple(record for record in tests if record.run_id not in ids)
    names = sorted(headline)
    hard, treatment = _hard_switch(names), _treatment(names)
    first = [name for name in (hard, treatment) if name is not None]
    tuned = tuple(tuned_settings(chosen[0])) if chosen else ()
    notes = []
    if others:
        notes.append(
            f"{counted(len(others), 'more run')} at other settings of a method, shown under "
            "Ablations where only one setting differs"
        )
    tuned_at = ""
    if tuning:
        tuning = _matching_tuning(tuning, chosen, headline)
    else:
        tuning, tuned_at = borrowed_tuning(settings, headline, chosen, groups)
    longer: list[Record] = []
    if hard is not None and treatment is not None:
        runs = [r for r in chosen if method_of(r) == hard]
        longer = equal_compute_runs(settings, headline[treatment], runs, groups)
    return Regime(
        settings=settings,
        label=label,
        records=tuple(chosen),
        tuning=tuple(tuning),
        tuned_at=tuned_at,
        others=others,
        shifts=tuple(by_shift),
        methods=tuple(first + [name for name in names if name not in first]),
        method_settings=headline,
        treatment=treatment,
        hard_switch=hard,
        equal_compute=tuple(longer),
        tuned_paths=tuned,
        notes=tuple(notes),
    )


def _matching_tuning(
    tuning: Sequence[Record], chosen: Sequence[Record], headline: Mapping[str, Settings]
) -> list[Record]:
    shifts = {shift_of(record): shift_key(record) for record in chosen}
    return [
        record
        for record in tuning
        if shift_key(record) == shifts.get(shift_of(record))
        and method_of(record) in headline
        and method_key(record) == key_of_settings(headline[method_of(record)])
    ]


def _hard_switch(names: Sequence[str]) -> str | None:
    return "hard_switch" if "hard_switch" in names else None


def _treatment(names: Sequence[str]) -> str | None:
    """``smoothing``, or else the first method that smooths."""
    if "smoothing" in names:
        return "smoothing"
    return next((name for name in names if "smoothing" in name), None)


def describe_regime(regime: Regime) -> str:
    """The regime's size in words: shifts, methods, seeds."""
    seeds = {key_of(lookup(record.config, "seed")) for record in regime.records}
    parts = [
        counted(len(regime.shifts), "shift"),
        counted(len(regime.methods), "method"),
        counted(len(seeds), "seed"),
    ]
    budget = [
        setting_text(path, regime.settings[path])
        for path in ("num_target_examples", "num_target_steps")
        if path in regime.settings
    ]
    return ", ".join(parts + budget)


def headline_settings(regime: Regime, method: str) -> str:
    """Settings of a method that are worth a line: K and the bank."""
    settings = regime.method_settings.get(method, {})
    k = settings.get("method.schedule.num_smoothing_steps")
    name = name_of(method)
    return f"{name[:1].upper()}{name[1:]}" + (f", K\u00a0=\u00a0{k}" if k else "")
