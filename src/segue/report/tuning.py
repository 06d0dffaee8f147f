"""What was tried on the tuning seeds: every method at every learning rate, on validation data."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segue.analysis.matching import METHOD_PATH, lookup
from segue.analysis.selection import choose_settings
from segue.report.families import family_of
from segue.report.settings import (
    LEARNING_RATE_PATHS,
    SHIFT_PATH,
    is_tuning,
    learning_rate_of,
    method_of,
    shift_of,
    tuned_settings,
)
from segue.report.study import Study
from segue.report.tables import cell, markdown
from segue.report.text import name_of, number

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["chosen_table", "rate_table", "tuning_table"]


@dataclass(frozen=True)
class _Score:
    """What settings are chosen by, and how it is written."""

    metric: str
    label: str
    digits: int
    scale: float
    higher_is_better: bool


def _score(study: Study) -> _Score:
    """The tuning score of the study's family: of the first, should there be several."""
    family = family_of(study.records[0].family if study.records else "")
    for score in family.scores:
        if score.metric == family.tuning_score:
            return _Score(score.metric, score.label, score.digits, 1.0, score.higher_is_better)
    return _Score(family.tuning_score, "Validation accuracy in %", 1, 100.0, True)


def rate_table(study: Study) -> str:
    """A row a method, a column a learning rate: mean validation accuracy over the shifts in %.

    Only shifts on which every method was run at every rate count, so that the columns compare.
    """
    score = _score(study)
    if score.scale != 100.0:
        return "Scores of different tasks have no common scale: no mean over them."
    scores, _ = _tuning_scores(study, score)
    if not scores:
        return "No tuning runs yet."
    shifts = set.intersection(*(set(of_shift) for of_shift in scores.values()))
    methods, rates_tried = (sorted(part) for part in map(set, zip(*scores, strict=True)))
    lines = []
    for method in methods:
        at_rate = {
            rate: {s: statistics.fmean(scores[method, rate][s]) for s in shifts}
            for rate in rates_tried
            if (method, rate) in scores
        }
        cells = [
            number(statistics.fmean(at_rate[rate].values()), 1, scale=100)
            if at_rate.get(rate)
            else "–"
            for rate in rates_tried
        ]
        best = [max(values[s] for values in at_rate.values()) for s in sorted(shifts)]
        own = number(statistics.fmean(best), 1, scale=100) if best else "–"
        lines.append([cell(name_of(method)), *cells, f"**{own}**"])
    columns = ["method", *(f"{rate:g}" for rate in rates_tried), "best on each shift"]
    return (
        f"{markdown(columns, lines)}\n\nValidation accuracy in %, mean over {len(shifts)} shifts and the "
        "tuning seeds; a column a learning rate."
    )


def tuning_table(study: Study) -> str:
    """A row a method and learning rate, a column a shift: the mean score on the tuning seeds.

    In bold the rate that was best for the method on the shift. No verdicts: these runs are what
    settings are chosen by.
    """
    score = _score(study)
    scores, seeds = _tuning_scores(study, score)
    if not scores:
        return "No tuning runs yet."
    best_of = max if score.higher_is_better else min
    shifts = sorted({shift for of_shift in scores.values() for shift in of_shift})
    means = {
        key: {shift: statistics.fmean(values) for shift, values in of_shift.items()}
        for key, of_shift in scores.items()
    }
    lines = []
    for method, rate in sorted(means):
        cells = []
        for shift in shifts:
            rivals = [of[shift] for (m, _), of in means.items() if m == method and shift in of]
            mean = means[method, rate].get(shift)
            text = number(mean, score.digits, scale=score.scale)
            cells.append(f"**{text}**" if rivals and mean == best_of(rivals) else text)
        lines.append([cell(name_of(method)), f"{rate:g}", *cells])
    columns = ["method", "learning rate", *(cell(name_of(shift)) for shift in shifts)]
    listed = ", ".join(sorted(map(str, seeds)))
    return (
        f"{markdown(columns, lines)}\n\n{score.label}, mean over the tuning seeds that are "
        f"done ({listed}); in bold each method's best rate on each shift."
    )


def chosen_table(study: Study) -> str:
    """What was chosen on the tuning seeds: a row a method, a column a shift.

    A cell is the learning rate, and the scale where the method was tried at several.
    """
    score = _score(study)
    tuning = [r for r in study.records if is_tuning(r) and tuned_settings(r)]
    if not tuning:
        return "No tuning runs yet."
    paths = [path for path in tuned_settings(tuning[0]) if _varies(tuning, path)]
    # Tasks may share a name with another budget or size: one choice for each of those.
    context = [p for p in ("num_pretraining_steps",) if _varies(tuning, p)]
    choices = choose_settings(
        tuning,
        settings=paths or [*tuned_settings(tuning[0])][:1],
        group_by=(SHIFT_PATH, METHOD_PATH, *context),
        metric=score.metric,
        higher_is_better=score.higher_is_better,
    )
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for choice in choices:
        key = (str(choice.group[METHOD_PATH]), str(choice.group[SHIFT_PATH]))
        found[key].append("–" if choice.settings is None else _chosen_text(choice.settings))
    methods, shifts = (sorted(part) for part in map(set, zip(*found, strict=True)))
    lines = [
        [cell(name_of(method)), *(", ".join(found.get((method, s), ["–"])) for s in shifts)]
        for method in methods
    ]
    columns = ["method", *(cell(name_of(shift)) for shift in shifts)]
    seeds = {str(lookup(record.config, "seed")) for record in tuning}
    several = "; several in a cell are of rising pretraining budgets" if context else ""
    return (
        f"{markdown(columns, lines)}\n\nLearning rate chosen on the tuning seeds "
        f"({', '.join(sorted(seeds))}) by {score.label[:1].lower()}{score.label[1:]}; – where no rate has "
        f"a usable run at every seed{several}."
    )


def _varies(records: list[Record], path: str) -> bool:
    return len({str(lookup(record.config, path)) for record in records}) > 1


def _chosen_text(settings: Mapping[str, Any]) -> str:
    """``0.003``, or ``0.03, scale 10`` for a method that has one to choose."""
    parts: list[str] = []
    for path, value in settings.items():
        if path in LEARNING_RATE_PATHS:
            parts.insert(0, f"{float(value):g}")
        elif not math.isclose(float(value), 1.0):  # 1 is what a method without a scale has
            parts.append(f"{path.rpartition('.')[2].replace('_', ' ')} {float(value):g}")
    return " · ".join(parts)


_Scores = dict[tuple[str, float], dict[str, list[float]]]


def _tuning_scores(study: Study, score: _Score) -> tuple[_Scores, set[object]]:
    """Scores of the tuning runs by (method, learning rate) and shift, and the seeds they are of."""
    scores: _Scores = defaultdict(lambda: defaultdict(list))
    seeds: set[object] = set()
    for record in study.records:
        rates = list(learning_rate_of(record).values())
        value = record.metrics.get(score.metric)
        if not is_tuning(record) or not rates or value is None:
            continue
        seeds.add(lookup(record.config, "seed"))
        scores[method_of(record), float(str(rates[0]))][shift_of(record)].append(float(value))
    return scores, seeds
