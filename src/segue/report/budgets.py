"""What a regime takes from the same setting at another budget: tuning runs, equal compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from segue.report.settings import (
    Key,
    Settings,
    context_settings,
    is_tuning,
    key_of_settings,
    method_of,
    method_settings,
    most_run,
    shift_key,
    shift_of,
    shift_settings,
    tuned_settings,
)
from segue.report.text import setting_text

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["BUDGET", "borrowed_tuning", "equal_compute_runs"]

BUDGET = frozenset({"num_target_examples", "num_target_steps"})
"""Paths of the settings that make up the budget."""
# A ramp is a share of the budget and grows with it.
_RAMPS = frozenset(
    f"method.{name}"
    for name in (
        "schedule.num_smoothing_steps",
        "num_warmup_steps",
        "num_head_first_steps",
        "num_unfreezing_steps",
    )
)


def borrowed_tuning(
    settings: Settings,
    headline: Mapping[str, Settings],
    chosen: Sequence[Record],
    groups: Mapping[Key, Sequence[Record]],
) -> tuple[list[Record], str]:
    """Tuning runs of the regime that differs in its budget alone, and that budget in words.

    Args:
        settings: The borrowing regime's.
        headline: Its methods' settings; but for the ramps, the borrowed runs have the same.
        chosen: Its test runs; the borrowed runs have their shifts and source trainings.
        groups: All records by the settings of their regime.

    Returns:
        The runs of the regime that has the most of them; none and "" if there is no such regime.
    """
    shifts = {shift_of(record): shift_key(record) for record in chosen}
    fixed = {method: _without(own, _RAMPS) for method, own in headline.items()}
    best: list[Record] = []
    budget = ""
    for _, members in sorted(groups.items()):
        other = context_settings(members[0])
        if _without(other, BUDGET) != _without(settings, BUDGET):
            continue
        by_method: dict[str, list[Record]] = {}
        for record in filter(is_tuning, members):
            method = method_of(record)
            if (
                _without(method_settings(record), _RAMPS) == fixed.get(method)
                and shift_key(record) == shifts.get(shift_of(record))
            ):  # fmt: skip
                by_method.setdefault(method, []).append(record)
        runs = [r for part in by_method.values() for r in most_run(part, [], method_settings)]
        if len(runs) > len(best):
            best = runs
            differing = sorted(path for path in BUDGET if other.get(path) != settings.get(path))
            budget = " and ".join(setting_text(path, other.get(path)) for path in differing)
    return best, budget


def equal_compute_runs(
    settings: Settings,
    treatment: Settings,
    hard_switch: Sequence[Record],
    groups: Mapping[Key, Sequence[Record]],
) -> list[Record]:
    """Runs of the hard switch with as many gradient examples as the treatment, in more steps.

    Args:
        settings: The regime's.
        treatment: The treatment's settings.
        hard_switch: The regime's runs of the hard switch; the longer ones equal them in the rest.
        groups: All records by the settings of their regime.
    """
    steps = _equal_compute_steps(settings, treatment)
    if steps is None:
        return []
    alike = {shift_of(record): _variant(record) for record in hard_switch}
    members = groups.get(key_of_settings({**settings, "num_target_steps": steps}), ())
    return [r for r in members if not is_tuning(r) and _variant(r) == alike.get(shift_of(r))]


def _equal_compute_steps(settings: Settings, treatment: Settings) -> int | None:
    """``num_target_steps + K * replay_batch_size / batch_size``; None if that adds no whole step."""
    if treatment.get("method.source_term") != "replay" or treatment.get("method.mode") == "mixed":
        return None
    values = [
        settings.get("num_target_steps"),
        settings.get("batch_size"),
        treatment.get("method.schedule.num_smoothing_steps"),
        treatment.get("method.replay_batch_size"),
    ]
    known = [value for value in values if isinstance(value, int) and value > 0]
    if len(known) < len(values):
        return None
    steps, batch, k, replay = known
    return None if k * replay % batch else steps + k * replay // batch


def _variant(record: Record) -> tuple[Any, ...]:
    parts = (shift_settings(record), method_settings(record), tuned_settings(record))
    return (method_of(record), *map(key_of_settings, parts))


def _without(settings: Settings, paths: frozenset[str]) -> Key:
    return key_of_settings({p: value for p, value in settings.items() if p not in paths})
