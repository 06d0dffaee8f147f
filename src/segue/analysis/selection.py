"""Choose settings and baselines on the tuning seeds, before the fresh seeds are looked at."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segue.analysis.matching import (
    METHOD_PATH,
    MISSING,
    SEED_PATH,
    Arm,
    Group,
    as_arm,
    check_metric,
    check_one_setting,
    check_paths,
    describe,
    key_of,
    lookup,
    read_score,
    select,
    split_groups,
)

if TYPE_CHECKING:
    from segue.runs.records import Record

TUNING = {"split": "validation"}
"""Choices rest on validation scores; records of another split are not looked at."""


@dataclass(frozen=True)
class Trial:
    """One setting that was tried: its mean score, or ``nan`` where a seed has no usable run."""

    settings: Mapping[str, Any]
    mean: float
    num_seeds: int


@dataclass(frozen=True)
class Choice:
    """The best setting of one group on the tuning seeds.

    Attributes:
        group: The group's values by dotted path.
        settings: The chosen setting by dotted path (fit for :class:`Arm`), or ``None`` if no
            setting has a usable run at every tuning seed.
        score: Its mean score; ``nan`` without a choice.
        num_trials: How many settings were tried (of the chosen method, where methods compete).
        seeds: The tuning seeds.
        trials: Everything tried, the best first.
        notes: Failed trials, ties and unequal numbers of trials.
    """

    group: Group
    settings: Mapping[str, Any] | None
    score: float
    num_trials: int
    seeds: tuple[Any, ...]
    trials: tuple[Trial, ...]
    notes: tuple[str, ...] = field(default=())


def choose_settings(
    records: Iterable[Record],
    *,
    settings: Sequence[str] = ("learning_rate",),
    group_by: Sequence[str] = ("shift.name", METHOD_PATH),
    metric: str | Callable[[Record], float | None] = "target_accuracy",
    where: Mapping[str, Any] | None = None,
    higher_is_better: bool = True,
) -> list[Choice]:
    """Choose, in each group, the setting with the best mean score over the tuning seeds.

    A setting that failed or diverged at one tuning seed is out of the race, and named: its mean
    over the other seeds would flatter it. Ties go to the setting that sorts first.

    Args:
        records: Records; only those at which ``where`` holds are looked at.
        settings: Config paths that were tuned. A path that a method lacks is left out for it.
        group_by: Config paths within whose values one choice is made.
        metric: A metric's name, or a function of a record.
        where: Which records are tuning records; by default ``TUNING``.
        higher_is_better: Direction of the metric.

    Raises:
        ValueError: No tuning records, an unknown path or metric, or records of one trial that
            differ in a path not in ``settings``.
    """
    tuning = select(records, TUNING if where is None else where)
    if not tuning:
        raise ValueError(
            f"records must hold tuning records ({describe(where or TUNING)}), got none"
        )
    check_paths("settings", settings, tuning)
    check_paths("group_by", group_by, tuning)
    check_metric(metric, tuning)
    return [
        _choose(group, members, settings, metric, higher_is_better)
        for group, members in split_groups(tuning, group_by)
    ]


def _choose(
    group: Group,
    members: list[Record],
    settings: Sequence[str],
    metric: str | Callable[[Record], float | None],
    higher_is_better: bool,
) -> Choice:
    seeds = {key_of(lookup(r.config, SEED_PATH)): lookup(r.config, SEED_PATH) for r in members}
    trials: list[Trial] = []
    notes: list[str] = []
    for values, runs in split_groups(members, settings):
        setting = {path: value for path, value in values.items() if value is not MISSING}
        label = describe(setting)
        by_seed = check_one_setting(runs, f"trial {label}", group)
        scores = [read_score(run, metric, label) for run in runs]
        usable = sorted(score for score in scores if isinstance(score, float))
        notes += [f"out of the race: {score}" for score in scores if not isinstance(score, float)]
        absent = [str(seeds[key]) for key in sorted(seeds) if key not in by_seed]
        if absent:
            notes.append(f"out of the race: {label} was not run at seed {', '.join(absent)}")
        complete = len(usable) == len(seeds)
        mean = math.fsum(usable) / len(usable) if complete else math.nan
        trials.append(Trial(setting, mean, len(usable)))
    sign = -1.0 if higher_is_better else 1.0
    trials.sort(key=lambda trial: math.inf if math.isnan(trial.mean) else sign * trial.mean)
    best = trials[0]
    if math.isnan(best.mean):
        notes.append("no setting has a usable run at every tuning seed, so none was chosen")
    elif len(trials) > 1 and trials[1].mean == best.mean:
        notes.append(f"{describe(trials[1].settings)} ties with the chosen setting")
    ordered_seeds = tuple(seeds[key] for key in sorted(seeds, key=lambda k: (len(k), k)))
    chosen = None if math.isnan(best.mean) else best.settings
    return Choice(group, chosen, best.mean, len(trials), ordered_seeds, tuple(trials), tuple(notes))


def choose_baseline(
    records: Iterable[Record],
    *,
    candidates: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    settings: Sequence[str] = ("learning_rate",),
    group_by: Sequence[str] = ("shift.name",),
    metric: str | Callable[[Record], float | None] = "target_accuracy",
    where: Mapping[str, Any] | None = None,
    higher_is_better: bool = True,
) -> list[Choice]:
    """Choose, in each group, the best baseline with its best setting on the tuning seeds.

    Args:
        records: As in :func:`choose_settings`.
        candidates: Names of the methods that may be chosen; by default all but ``exclude``.
        exclude: Names that may not, such as the treatment's.
        settings: Tuned config paths, as in :func:`choose_settings`.
        group_by: As in :func:`choose_settings`.
        metric: As in :func:`choose_settings`.
        where: As in :func:`choose_settings`.
        higher_is_better: Direction of the metric.

    Returns:
        One choice a group; its ``settings`` name the method too. A note tells where methods had
        unequal numbers of trials.

    Raises:
        ValueError: As in :func:`choose_settings`, or a named method has no tuning record.
    """
    tuning = select(records, TUNING if where is None else where)
    methods = {lookup(record.config, METHOD_PATH) for record in tuning}
    for name in (*(candidates or ()), *exclude):
        if name not in methods:
            raise ValueError(
                f"candidates and exclude must name tuned methods {sorted(map(str, methods))}, "
                f"got {name!r}"
            )
    allowed = (methods if candidates is None else set(candidates)) - set(exclude)
    chosen = choose_settings(
        [record for record in tuning if lookup(record.config, METHOD_PATH) in allowed],
        settings=(METHOD_PATH, *settings),
        group_by=group_by,
        metric=metric,
        where=where,
        higher_is_better=higher_is_better,
    )
    return [_count_trials(choice) for choice in chosen]


def _count_trials(choice: Choice) -> Choice:
    counts = Counter(str(trial.settings.get(METHOD_PATH)) for trial in choice.trials)
    notes = choice.notes
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        notes = (*notes, f"methods had unequal numbers of trials: {listed}")
    chosen = str((choice.settings or {}).get(METHOD_PATH))
    return Choice(
        choice.group,
        choice.settings,
        choice.score,
        counts.get(chosen, 0),
        choice.seeds,
        choice.trials,
        notes,
    )


def chosen_arm(name: str, choices: Iterable[Choice], where: Mapping[str, Any] | None = None) -> Arm:
    """An arm whose setting was chosen group by group; it has no records where none was."""
    pairs = tuple((c.group, c.settings) for c in choices if c.settings is not None)
    return Arm(name, where or {}, pairs, by_group=True)


def tuned_arm(
    arm: Arm | str,
    records: Iterable[Record],
    *,
    settings: Sequence[str] = ("learning_rate",),
    group_by: Sequence[str] = ("shift.name",),
    metric: str | Callable[[Record], float | None] = "target_accuracy",
    where: Mapping[str, Any] | None = None,
    higher_is_better: bool = True,
) -> tuple[Arm, list[Choice]]:
    """Tune one arm by itself: the arm with its settings fixed in each group, and the choices."""
    fixed = as_arm(arm)
    tuning = select(records, TUNING if where is None else where)
    check_paths("arm", fixed.where, tuning)
    choices = choose_settings(
        fixed.pick(tuning, {}),
        settings=settings,
        group_by=group_by,
        metric=metric,
        where=where,
        higher_is_better=higher_is_better,
    )
    return chosen_arm(fixed.name, choices, fixed.where), choices
