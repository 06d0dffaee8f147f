"""The settings of a run by what they belong to: regime, shift, method or learning rate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from segue.analysis.matching import (
    METHOD_PATH,
    MISSING,
    flatten,
    is_seed,
    key_of,
    leaves,
    lookup,
    once_a_record,
)

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = [
    "LEARNING_RATE_PATHS",
    "SHIFT_PATH",
    "TUNED_PATHS",
    "Key",
    "Settings",
    "context_settings",
    "is_tuning",
    "key_of_settings",
    "method_key",
    "shift_key",
    "learning_rate_of",
    "method_of",
    "method_settings",
    "most_run",
    "shift_of",
    "shift_settings",
    "tuned_settings",
]

SHIFT_PATH = "shift.name"
LEARNING_RATE_PATHS = ("optimizer.learning_rate", "learning_rate")
TUNED_PATHS = (*LEARNING_RATE_PATHS, "method.scale", "method.wise_share")
"""What is chosen for each shift and method on the tuning seeds: part of no method and no regime."""
# What a family fixes by its shift or repeats from its method, and so is no setting of a regime.
_OF_SHIFT = {"online_rl": ("num_env_steps", "learner")}
_OF_METHOD = ("source.learner.layer_norm_critic",)

Settings = Mapping[str, Any]
Key = tuple[tuple[str, str], ...]


def shift_of(record: Record) -> str:
    """Name of the record's shift."""
    return str(lookup(record.config, SHIFT_PATH))


def method_of(record: Record) -> str:
    """Name of the record's method."""
    return str(lookup(record.config, METHOD_PATH))


def is_tuning(record: Record) -> bool:
    """Whether the run was measured on validation examples, to choose settings by."""
    return bool(lookup(record.config, "split") == "validation")


@once_a_record
def context_settings(record: Record) -> dict[str, Any]:
    """Settings that define a regime, by dotted path; the family is one of them."""
    flat = leaves(record)
    kept = {path: value for path, value in flat.items() if _is_context(path, record.family)}
    kept |= _learner(record)
    return {"family": record.family, **dict(sorted(kept.items()))}


def _learner(record: Record) -> dict[str, Any]:
    """The online family's learner and what switches in it: equal names of arms mean other things."""
    if record.family != "online_rl":
        return {}
    name = shift_of(record).split("-")
    return {"learner": f"TD3 {name[1]}" if name[0] == "td3" and len(name) > 1 else "PPO"}


def _is_context(path: str, family: str) -> bool:
    if is_seed(path) or path == "split" or path in TUNED_PATHS or path in _OF_METHOD:
        return False
    first = path.split(".", 1)[0]
    if first == "source":  # how long the source model trained depends on the shift
        return path.startswith(("source.model.", "source.learner.")) or path == "source.dataset"
    return first not in ("shift", "method", *_OF_SHIFT.get(family, ()))


@once_a_record
def method_settings(record: Record) -> dict[str, Any]:
    """Settings of the record's method by dotted path, its name and what is tuned aside."""
    flat = flatten(record.config.get("method", {}), "method")
    left_out = (METHOD_PATH, *TUNED_PATHS)
    return {path: value for path, value in sorted(flat.items()) if path not in left_out}


@once_a_record
def shift_settings(record: Record) -> dict[str, Any]:
    """Settings of the record's shift and source training, seeds aside."""
    return {
        path: value
        for path, value in sorted(leaves(record).items())
        if path.split(".", 1)[0] in ("shift", "source", *_OF_SHIFT.get(record.family, ()))
        and not is_seed(path) and path not in _OF_METHOD
        and not _is_context(path, record.family)
    }  # fmt: skip


def tuned_settings(record: Record) -> dict[str, Any]:
    """The record's tuned settings by dotted path: its learning rate, and a scale it may have."""
    found = {path: lookup(record.config, path) for path in TUNED_PATHS}
    return {path: value for path, value in found.items() if value is not MISSING}


def learning_rate_of(record: Record) -> dict[str, Any]:
    """The record's learning rate by its dotted path; empty if it has none."""
    rates = {path: lookup(record.config, path) for path in LEARNING_RATE_PATHS}
    return {path: value for path, value in rates.items() if value is not MISSING}


def key_of_settings(settings: Settings) -> Key:
    """Settings as a value that can be compared and hashed."""
    return tuple((path, key_of(value)) for path, value in settings.items())


@once_a_record
def shift_key(record: Record) -> Key:
    """The record's shift settings as a value that can be compared and hashed."""
    return key_of_settings(shift_settings(record))


@once_a_record
def method_key(record: Record) -> Key:
    """The record's method settings likewise."""
    return key_of_settings(method_settings(record))


def most_run(
    records: Sequence[Record],
    tuning: Sequence[Record],
    settings_of: Callable[[Record], Settings],
) -> list[Record]:
    """The records of the setting with the most (shift, seed) cells, then the most tuning runs."""
    cells: dict[Key, set[tuple[str, str]]] = defaultdict(set)
    tuned: dict[Key, int] = defaultdict(int)
    keys = [_key(record, settings_of) for record in records]
    for record, key in zip(records, keys, strict=True):
        cells[key].add((shift_of(record), key_of(lookup(record.config, "seed"))))
    for record in tuning:
        tuned[_key(record, settings_of)] += 1
    if not cells:
        return []
    best = min(cells, key=lambda key: (-len(cells[key]), -tuned[key], key))
    return [record for record, key in zip(records, keys, strict=True) if key == best]


def _key(record: Record, settings_of: Callable[[Record], Settings]) -> Key:
    kept = {shift_settings: shift_key, method_settings: method_key}
    if settings_of in kept:
        return kept[settings_of](record)
    return key_of_settings(settings_of(record))
