"""Pairs of runs that share seed, data and budget and differ in their arm alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segue.analysis.matching import (
    METHOD_PATH,
    SEED_PATH,
    Arm,
    Group,
    UnusableRun,
    check_one_setting,
    check_paths,
    differing_paths,
    key_of,
    leaves,
    lookup,
    read_score,
    sort_key,
    split_groups,
)

if TYPE_CHECKING:
    from segue.runs.records import Record


@dataclass(frozen=True)
class Pairing:
    """The pairs of one group, and every run that found no place in one.

    Attributes:
        group: The group's values by dotted path.
        treatment: The treatment's name, with the method where it was chosen group by group.
        baseline: The baseline's name, likewise.
        pairs: (treatment record, baseline record), by seed.
        unpaired: One sentence for each run without a partner.
        differs_in: Config paths in which the arms differ, as (treatment's, baseline's) value.
    """

    group: Group
    treatment: str
    baseline: str
    pairs: tuple[tuple[Record, Record], ...]
    unpaired: tuple[str, ...]
    differs_in: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Readings:
    """Scores of the usable pairs of one pairing, and the runs that have none.

    ``treatment_only`` holds the seeds at which the treatment's run is unusable and the
    baseline's is not, ``baseline_only`` the reverse: such gaps favour the arm that has them.
    """

    seeds: tuple[Any, ...]
    treatment: tuple[float, ...]
    baseline: tuple[float, ...]
    unusable: tuple[UnusableRun, ...]
    treatment_only: tuple[Any, ...]
    baseline_only: tuple[Any, ...]


_Matched = tuple["list[tuple[Record, Record]]", "list[Record]", "list[Record]"]


def _label(arm: Arm, group: Group) -> str:
    method = (arm.conditions(group) or {}).get(METHOD_PATH)
    return arm.name if method is None or METHOD_PATH in arm.where else f"{arm.name} ({method})"


def _pair(first: list[Record], second: list[Record], match: Sequence[str]) -> _Matched:
    def key(record: Record) -> tuple[str, ...]:
        return tuple(key_of(lookup(record.config, path)) for path in match)

    partners = {key(record): record for record in second}
    pairs = [(record, partners[key(record)]) for record in first if key(record) in partners]
    pairs.sort(key=lambda pair: sort_key([lookup(pair[0].config, path) for path in match]))
    used = {id(record) for pair in pairs for record in pair}
    return pairs, [r for r in first if id(r) not in used], [r for r in second if id(r) not in used]


def _why_unpaired(
    record: Record, own: str, others: list[Record], other: str, match: Sequence[str]
) -> str:
    """Say which matched path has no partner: usually the seed, at times a forgotten setting."""
    seed = lookup(record.config, SEED_PATH)
    same_seed = [r for r in others if key_of(lookup(r.config, SEED_PATH)) == key_of(seed)]
    state = "" if record.status == "completed" else f" ({record.status})"
    start = f"{own}, seed {seed}{state}, has no partner: {other} "
    if not same_seed:
        return start + "has no run with this seed"
    mine, theirs = record.config, same_seed[0].config
    differing = [
        f"{path} {lookup(theirs, path)} instead of {lookup(mine, path)}"
        for path in match
        if key_of(lookup(mine, path)) != key_of(lookup(theirs, path))
    ]
    return start + "has " + ", ".join(differing)


def pair_groups(
    records: Sequence[Record],
    *,
    treatment: Arm,
    baseline: Arm,
    group_by: Sequence[str],
    match: Sequence[str],
) -> list[Pairing]:
    """Pair the two arms' runs within each group.

    Within a group an arm must be one setting with each seed once, so that no seed counts twice
    and no tuned arm mixes settings. A pair has equal values at every path of ``match``.

    Raises:
        ValueError: If ``match`` lacks the seed, a path occurs in no record, or an arm mixes
            settings within a group.
    """
    if SEED_PATH not in match:
        raise ValueError(f"match must contain {SEED_PATH!r}, got {tuple(match)}")
    check_paths("match", match, records)
    check_paths("group_by", group_by, records)
    check_paths("treatment", treatment.where, records)
    check_paths("baseline", baseline.where, records)
    pairings = []
    for group, members in split_groups(records, group_by):
        first, second = treatment.pick(members, group), baseline.pick(members, group)
        if not first and not second:
            continue
        names = _label(treatment, group), _label(baseline, group)
        for name, arm_records in zip(names, (first, second), strict=True):
            check_one_setting(arm_records, f"arm {name!r}", group)
        pairs, left_first, left_second = _pair(first, second, match)
        unpaired = [
            *(_why_unpaired(r, names[0], second, names[1], match) for r in left_first),
            *(_why_unpaired(r, names[1], first, names[0], match) for r in left_second),
        ]
        pairings.append(
            Pairing(group, *names, tuple(pairs), tuple(sorted(unpaired)), _arm_difference(pairs))
        )
    if not pairings:
        raise ValueError(
            f"no record belongs to {treatment.name!r} or {baseline.name!r} "
            f"among {len(records)} records"
        )
    return pairings


def _arm_difference(pairs: Sequence[tuple[Record, Record]]) -> dict[str, tuple[Any, Any]]:
    if not pairs:
        return {}
    first, second = (leaves(record) for record in pairs[0])
    paths = differing_paths(pairs[0], absent_counts=True)
    return {path: (first.get(path), second.get(path)) for path in paths}


def read_pairs(pairing: Pairing, metric: str | Callable[[Record], float | None]) -> Readings:
    """Read both scores of every pair; a pair with an unusable run is named and left out."""
    seeds: list[Any] = []
    scores: tuple[list[float], list[float]] = ([], [])
    unusable: list[UnusableRun] = []
    alone: tuple[list[Any], list[Any]] = ([], [])
    for pair in pairing.pairs:
        seed = lookup(pair[0].config, SEED_PATH)
        first = read_score(pair[0], metric, pairing.treatment)
        second = read_score(pair[1], metric, pairing.baseline)
        if isinstance(first, float) and isinstance(second, float):
            seeds.append(seed)
            scores[0].append(first)
            scores[1].append(second)
            continue
        unusable += [score for score in (first, second) if isinstance(score, UnusableRun)]
        if isinstance(second, float):
            alone[0].append(seed)
        elif isinstance(first, float):
            alone[1].append(seed)
    return Readings(
        seeds=tuple(seeds),
        treatment=tuple(scores[0]),
        baseline=tuple(scores[1]),
        unusable=tuple(unusable),
        treatment_only=tuple(alone[0]),
        baseline_only=tuple(alone[1]),
    )
