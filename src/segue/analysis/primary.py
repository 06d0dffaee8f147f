"""The primary verdict, whose every choice is made before the fresh seeds are looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.analysis.comparison import ComparisonRow, compare
from segue.analysis.matching import (
    DEFAULT_MATCH,
    METHOD_PATH,
    SEED_PATH,
    Arm,
    as_arm,
    describe,
    key_of,
    lookup,
    select,
)
from segue.analysis.selection import TUNING, Choice, choose_baseline, chosen_arm, tuned_arm
from segue.analysis.verdicts import PRIMARY_PAIRS

if TYPE_CHECKING:
    from segue.runs.records import Record

FRESH = {"split": "test"}
"""Verdicts rest on test scores of seeds that no choice has seen."""


@dataclass(frozen=True)
class PrimaryVerdicts:
    """Both halves of the primary verdict and the choices that they rest on.

    Attributes:
        against_hard_switch: One row a group; Holm over the groups.
        against_chosen_baseline: Likewise, against the baseline chosen on the tuning seeds.
        treatment_choices: The treatment's settings, group by group; empty if nothing was tuned.
        hard_switch_choices: The hard switch's settings, likewise.
        baseline_choices: The chosen baselines.
        notes: Seeds left out because they are not fresh, unequal numbers of trials, failures
            among the tuning runs.
    """

    against_hard_switch: tuple[ComparisonRow, ...]
    against_chosen_baseline: tuple[ComparisonRow, ...]
    treatment_choices: tuple[Choice, ...]
    hard_switch_choices: tuple[Choice, ...]
    baseline_choices: tuple[Choice, ...]
    notes: tuple[str, ...]


def primary_verdicts(
    records: Iterable[Record],
    *,
    treatment: Arm | str,
    hard_switch: Arm | str,
    settings: Sequence[str] = ("learning_rate",),
    treatment_settings: Sequence[str] | None = None,
    candidates: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    group_by: Sequence[str] = ("shift.name",),
    tuned_by: Sequence[str] | None = None,
    match: Sequence[str] = DEFAULT_MATCH,
    metric: str | Callable[[Record], float | None] = "target_accuracy",
    higher_is_better: bool = True,
    tuning: Mapping[str, Any] | None = None,
    fresh: Mapping[str, Any] | None = None,
    min_pairs: int = PRIMARY_PAIRS,
    alpha: float = 0.05,
    confidence: float = 0.95,
    scale: float = 100.0,
    unit: str = "points",
    rng: np.random.Generator | None = None,
) -> PrimaryVerdicts:
    """Treatment against the hard switch and against the baseline chosen on the tuning seeds.

    Settings of all arms, and the baseline itself, are chosen on the records of ``tuning``; the
    comparison looks at the records of ``fresh`` whose seeds were not tuned on. Each half is
    adjusted by Holm over its groups; a claim against both needs both.

    Args:
        records: Tuning and fresh records together.
        treatment: An :class:`Arm` (give its K in ``where`` for a stated K), or a method's name.
        hard_switch: The hard switch.
        settings: Config paths tuned for the hard switch and the baselines; empty for none.
        treatment_settings: Those tuned for the treatment; by default ``settings``.
        candidates: Methods that may become the baseline; by default all tuned but ``exclude``.
        exclude: Methods that may not; by default the treatment's.
        group_by: Config paths of the groups, usually the shift.
        tuned_by: Config paths of the groups tuned in, some of ``group_by``; by default all.
        match: Config paths that must be equal within a pair.
        metric: A metric's name or a function of a record.
        higher_is_better: Direction of the metric.
        tuning: Which records are tuning records; by default those of the validation split.
        fresh: Which records may decide; by default those of the test split.
        min_pairs: Fewest fresh pairs that may decide.
        alpha: Level of each half.
        confidence: Nominal coverage of the t intervals.
        scale: Factor from the metric's unit to ``unit``.
        unit: Unit of the sentences.
        rng: Draws sign patterns; needed only above 20 pairs.

    Raises:
        ValueError: As in :func:`compare` and :func:`choose_baseline`; ``tuned_by`` names a path
            that is not in ``group_by``; or no fresh record is left.
    """
    everything = list(records)
    groups = tuple(group_by if tuned_by is None else tuned_by)
    if not set(groups) <= set(group_by):
        raise ValueError(f"tuned_by must be part of group_by {tuple(group_by)}, got {groups}")
    arm, hard = as_arm(treatment), as_arm(hard_switch)
    tuning_where = dict(TUNING if tuning is None else tuning)
    seen = select(everything, tuning_where)
    how: dict[str, Any] = {
        "group_by": groups,
        "metric": metric,
        "where": tuning_where,
        "higher_is_better": higher_is_better,
    }
    own = settings if treatment_settings is None else treatment_settings
    tuned, treatment_choices = _tune(arm, seen, own, how)
    tuned_hard, hard_choices = _tune(hard, seen, settings, how)
    if exclude is None:
        by_name = candidates is None and METHOD_PATH in arm.where
        exclude = [arm.where[METHOD_PATH]] if by_name else []
    chosen = choose_baseline(seen, candidates=candidates, exclude=exclude, settings=settings, **how)
    left, notes = _fresh(everything, seen, dict(FRESH if fresh is None else fresh))
    named = ((arm.name, treatment_choices), (hard.name, hard_choices), ("baseline", chosen))
    notes += [
        f"{name}, {describe(c.group)}: {note}" for name, cs in named for c in cs for note in c.notes
    ]
    notes += _trial_notes(arm.name, treatment_choices, [*hard_choices, *chosen])
    halves = [
        tuple(
            compare(
                left,
                treatment=tuned,
                baseline=baseline,
                group_by=group_by,
                match=match,
                metric=metric,
                higher_is_better=higher_is_better,
                confidence=confidence,
                alpha=alpha,
                min_pairs=min_pairs,
                scale=scale,
                unit=unit,
                rng=rng,
            )
        )
        for baseline in (tuned_hard, chosen_arm("the chosen baseline", chosen))
    ]
    return PrimaryVerdicts(
        halves[0],
        halves[1],
        tuple(treatment_choices),
        tuple(hard_choices),
        tuple(chosen),
        tuple(notes),
    )


def _tune(
    arm: Arm, records: Sequence[Record], settings: Sequence[str], how: Mapping[str, Any]
) -> tuple[Arm, list[Choice]]:
    """The arm with its settings chosen group by group, or as it is if it has none to choose."""
    return tuned_arm(arm, records, settings=settings, **how) if settings else (arm, [])


def _fresh(
    records: Sequence[Record], tuning: Sequence[Record], where: Mapping[str, Any]
) -> tuple[list[Record], list[str]]:
    """Fresh records, and a note naming the seeds that were tuned on."""
    seen = {key_of(lookup(record.config, SEED_PATH)) for record in tuning}
    candidates = select(records, where)
    left = [r for r in candidates if key_of(lookup(r.config, SEED_PATH)) not in seen]
    if not left:
        raise ValueError(
            f"records must hold fresh records ({describe(where)}, seeds not tuned on), "
            f"got {len(candidates)} with tuned seeds only"
        )
    stale = sorted(
        {key_of(lookup(r.config, SEED_PATH)) for r in candidates} & seen,
        key=lambda key: (len(key), key),
    )
    return left, [f"left out, tuned on and so not fresh: seed {', '.join(stale)}"] if stale else []


def _trial_notes(name: str, own: Sequence[Choice], others: Sequence[Choice]) -> list[str]:
    """Name groups in which the treatment had more trials than what it is compared with."""
    notes = []
    for choice in own:
        rivals = [other for other in others if other.group == choice.group and other.num_trials]
        fewest = min((rival.num_trials for rival in rivals), default=choice.num_trials)
        if choice.num_trials > fewest:
            notes.append(
                f"{name} had {choice.num_trials} trials in {describe(choice.group)}, "
                f"a baseline {fewest}: the comparison favours it"
            )
    return notes
