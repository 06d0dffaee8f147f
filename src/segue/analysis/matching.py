"""Which records belong together: dotted config paths, arms, readings and pairs.

Nothing here drops a run quietly. A run that failed or has no finite score becomes an
:class:`UnusableRun`; records that cannot be told apart are an error that names the config paths in
which they differ, because averaging them would hide a choice or count a seed twice.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from segue.runs.records import Record

Group = dict[str, Any]
ValueT = TypeVar("ValueT")

SEED_PATH = "seed"
METHOD_PATH = "method.name"
DEFAULT_MATCH = ("shift.name", "seed", "num_target_examples", "num_target_steps", "split")


class _Missing:
    """The config has no such path; equal to itself only."""

    def __repr__(self) -> str:
        return "(absent)"


MISSING = _Missing()


def lookup(config: Mapping[str, Any], path: str) -> Any:
    """Value at a dotted path such as ``"method.num_smoothing_steps"``, or ``MISSING``.

    A whole number steps into a list: ``"shifts.0.name"``.
    """
    value: Any = config
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list | tuple) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """All leaves of a config by dotted path; empty containers are leaves."""
    if isinstance(config, Mapping) and config:
        items: Iterable[tuple[Any, Any]] = config.items()
    elif isinstance(config, list | tuple) and config:
        items = enumerate(config)
    else:
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def once_a_record(function: Callable[[Record], ValueT]) -> Callable[[Record], ValueT]:
    """Compute a function of a record once and keep it with the record, which never changes.

    The report asks for the same settings of thousands of records again and again. Nobody may change
    what is returned.
    """
    name = f"_once_{function.__module__}.{function.__qualname__}"

    @functools.wraps(function)
    def kept(record: Record) -> ValueT:
        if name not in record.__dict__:
            record.__dict__[name] = function(record)
        value: ValueT = record.__dict__[name]
        return value

    return kept


@once_a_record
def leaves(record: Record) -> Mapping[str, Any]:
    """All leaves of the record's config by dotted path."""
    return flatten(record.config)


@once_a_record
def keyed_leaves(record: Record) -> Mapping[str, str]:
    """The same with hashable stand-ins of the values; seeds are left out."""
    return {path: key_of(value) for path, value in leaves(record).items() if not is_seed(path)}


def key_of(value: Any) -> str:
    """A hashable stand-in for a JSON value; 1 and 1.0 and True stay apart from "1"."""
    return "(absent)" if value is MISSING else json.dumps(value, sort_keys=True)


def sort_key(values: Iterable[Any]) -> tuple[tuple[int, float, str], ...]:
    """Order group values: absent, then numbers by size, then the rest by text."""
    keys: list[tuple[int, float, str]] = []
    for value in values:
        if value is MISSING or value is None:
            keys.append((0, 0.0, key_of(value)))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            keys.append((1, float(value), ""))
        else:
            keys.append((2, 0.0, value if isinstance(value, str) else key_of(value)))
    return tuple(keys)


def check_paths(name: str, paths: Iterable[str], records: Sequence[Record]) -> None:
    """Raise if a path occurs in no record's config: it is misspelt or of another family."""
    if not records:
        return
    for path in paths:
        if all(lookup(record.config, path) is MISSING for record in records):
            known = sorted({leaf for record in records for leaf in leaves(record)})
            near = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{name} must name config paths, no record has {path!r}{hint}")


def _equal(config: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    return all(key_of(lookup(config, path)) == key_of(value) for path, value in where.items())


def select(records: Iterable[Record], where: Mapping[str, Any] | None) -> list[Record]:
    """Records whose config equals ``where`` at each of its dotted paths.

    Raises:
        ValueError: If a path occurs in no record's config.
    """
    chosen = list(records)
    if not where:
        return chosen
    check_paths("where", where, chosen)
    return [record for record in chosen if _equal(record.config, where)]


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: which records belong to it, fixed before they are looked at.

    Attributes:
        name: How sentences call it ("the hard switch").
        where: Conditions on every record, by dotted path; a missing path equals nothing.
        per_group: Further conditions where a choice was made group by group, as pairs
            (group values to which it applies, conditions). The first pair whose group values all
            hold applies; if none does, the arm has no records there.
        by_group: Whether ``per_group`` counts; an empty ``per_group`` with ``by_group`` true is an
            arm for which nothing could be chosen.
    """

    name: str
    where: Mapping[str, Any] = field(default_factory=dict)
    per_group: tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...] = ()
    by_group: bool = False

    def conditions(self, group: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """All conditions in ``group``, or ``None`` if nothing was chosen for it."""
        if not self.by_group and not self.per_group:
            return self.where
        for applies, conditions in self.per_group:
            if all(key_of(group.get(path, MISSING)) == key_of(v) for path, v in applies.items()):
                return {**self.where, **conditions}
        return None

    def pick(self, records: Iterable[Record], group: Mapping[str, Any]) -> list[Record]:
        """This arm's records among those of ``group``."""
        conditions = self.conditions(group)
        if conditions is None:
            return []
        return [record for record in records if _equal(record.config, conditions)]


def as_arm(arm: Arm | str) -> Arm:
    """A plain string is a method's name: ``Arm(name, {"method.name": name})``."""
    return Arm(arm, {METHOD_PATH: arm}) if isinstance(arm, str) else arm


@dataclass(frozen=True)
class UnusableRun:
    """A run without a usable score: it failed, diverged or lacks the metric."""

    run_id: str
    seed: Any
    arm: str
    reason: str

    def __str__(self) -> str:
        return f"{self.arm}, seed {self.seed}, run {self.run_id}: {self.reason}"


def shorten(text: object, limit: int = 120) -> str:
    """One line of printable characters, at most ``limit`` of them."""
    line = "".join(c if c.isprintable() else " " for c in str(text))
    line = " ".join(line.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def metric_name(metric: str | Callable[[Record], float | None]) -> str:
    """The metric's name: itself, or the function's name."""
    return metric if isinstance(metric, str) else str(getattr(metric, "__name__", "metric"))


def check_metric(metric: str | Callable[[Record], float | None], records: Sequence[Record]) -> None:
    """Raise if completed records exist and none of them has the metric."""
    completed = [record for record in records if record.status == "completed"]
    if not isinstance(metric, str) or not completed:
        return
    known = sorted({name for record in completed for name in record.metrics})
    if metric not in known:
        near = difflib.get_close_matches(metric, known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"metric must be in the records, none has {metric!r}{hint}")


def read_score(
    record: Record, metric: str | Callable[[Record], float | None], arm: str
) -> float | UnusableRun:
    """The record's finite score, or why there is none.

    Raises:
        TypeError: If the metric is not a number.
    """
    seed = lookup(record.config, SEED_PATH)
    if record.status != "completed":
        error = record.error or {}
        kind, message = error.get("type", "unknown error"), error.get("message", "")
        reason = f"{record.status}, {shorten(kind, 40)}: {shorten(message)}"
        return UnusableRun(record.run_id, seed, arm, reason)
    name = metric_name(metric)
    if isinstance(metric, str) and metric not in record.metrics:
        return UnusableRun(record.run_id, seed, arm, f"{name} was not recorded")
    value = record.metrics[metric] if isinstance(metric, str) else _measure(record, metric)
    if value is None:
        why = "was not finite" if isinstance(metric, str) else "has no value"
        return UnusableRun(record.run_id, seed, arm, f"{name} {why}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"metric {name!r} must be a number, got {value!r} in run {record.run_id}")
    if not math.isfinite(value):
        return UnusableRun(record.run_id, seed, arm, f"{name} was not finite ({value})")
    return float(value)


def _measure(record: Record, metric: Callable[[Record], float | None]) -> float | None:
    try:
        return metric(record)
    except ValueError as error:
        raise ValueError(f"{metric_name(metric)}, run {record.run_id}: {error}") from error


def split_groups(
    records: Iterable[Record], group_by: Sequence[str]
) -> list[tuple[Group, list[Record]]]:
    """Records by their values at ``group_by``, in an order that the values alone decide."""
    groups: dict[tuple[str, ...], tuple[Group, list[Record]]] = {}
    for record in records:
        values = {path: lookup(record.config, path) for path in group_by}
        key = tuple(key_of(value) for value in values.values())
        groups.setdefault(key, (values, []))[1].append(record)
    return sorted(groups.values(), key=lambda item: sort_key(item[0].values()))


def describe(group: Mapping[str, Any]) -> str:
    """``shift.name=noise, num_target_steps=300``; "all records" for the empty group."""
    return ", ".join(f"{path}={value}" for path, value in group.items()) or "all records"


def is_seed(path: str) -> bool:
    """Whether a config path holds a seed: ``seed``, ``source.seed``, ``data_seed``."""
    last = path.rsplit(".", 1)[-1]
    return last == "seed" or last.endswith("_seed")


def differing_paths(
    records: Sequence[Record], *, absent_counts: bool = False
) -> dict[str, list[Any]]:
    """Config paths with more than one value among the records, seeds aside.

    A path that some configs lack (a field added in a later version) counts only with
    ``absent_counts``.
    """
    keyed = [keyed_leaves(record) for record in records]
    absent = key_of(MISSING)
    differing: dict[str, list[Any]] = {}
    for path in sorted({path for keys in keyed for path in keys}):
        found = {keys.get(path, absent): index for index, keys in enumerate(keyed)}
        if not absent_counts:
            found.pop(absent, None)
        if len(found) > 1:
            values = [leaves(records[index]).get(path, MISSING) for index in found.values()]
            differing[path] = sorted(values, key=lambda v: sort_key([v]))
    return differing


def check_one_setting(
    records: Sequence[Record], label: str, group: Mapping[str, Any]
) -> dict[str, Record]:
    """Return the records by seed; raise unless they are one setting, each seed once."""
    where = f"{label} in group ({describe(group)})"
    differing = differing_paths(records)
    if differing:
        listed = "; ".join(f"{path}: {shorten(vs, 80)}" for path, vs in differing.items())
        raise ValueError(
            f"{where} must be one setting, but its records differ in {listed}. "
            "Add the path to group_by, or fix its value in the arm or in where="
        )
    by_seed: dict[str, Record] = {}
    for record in records:
        seed = key_of(lookup(record.config, SEED_PATH))
        if seed in by_seed:
            raise ValueError(
                f"{where} must have each seed once, seed {seed} occurs in the runs "
                f"{by_seed[seed].run_id} and {record.run_id}"
            )
        by_seed[seed] = record
    return by_seed
