"""What was tried on the tuning seeds: every method at every learning rate, on validation images."""

from __future__ import annotations

import statistics
from collections import defaultdict

from segue.analysis.matching import lookup
from segue.report.settings import is_tuning, learning_rate_of, method_of, shift_of
from segue.report.study import Study
from segue.report.tables import cell, markdown
from segue.report.text import name_of, number

__all__ = ["rate_table", "tuning_table"]

_METRIC = "target_accuracy"


def rate_table(study: Study) -> str:
    """A row a method, a column a learning rate: mean validation accuracy over the shifts in %.

    Only shifts on which every method was run at every rate count, so that the columns compare.
    """
    scores, _ = _tuning_scores(study)
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
    """A row a method and learning rate, a column a shift: mean validation accuracy in %.

    In bold the rate that was best for the method on the shift. No verdicts: these runs are what
    settings are chosen by.
    """
    scores, seeds = _tuning_scores(study)
    if not scores:
        return "No tuning runs yet."
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
            text = number(mean, 1, scale=100)
            cells.append(f"**{text}**" if rivals and mean == max(rivals) else text)
        lines.append([cell(name_of(method)), f"{rate:g}", *cells])
    columns = ["method", "learning rate", *(cell(name_of(shift)) for shift in shifts)]
    listed = ", ".join(sorted(map(str, seeds)))
    return (
        f"{markdown(columns, lines)}\n\nValidation accuracy in %, mean over the tuning seeds that are "
        f"done ({listed}); in bold each method's best rate on each shift."
    )


_Scores = dict[tuple[str, float], dict[str, list[float]]]


def _tuning_scores(study: Study) -> tuple[_Scores, set[object]]:
    """Scores of the tuning runs by (method, learning rate) and shift, and the seeds they are of."""
    scores: _Scores = defaultdict(lambda: defaultdict(list))
    seeds: set[object] = set()
    for record in study.records:
        rates = list(learning_rate_of(record).values())
        value = record.metrics.get(_METRIC)
        if not is_tuning(record) or not rates or value is None:
            continue
        seeds.add(lookup(record.config, "seed"))
        scores[method_of(record), float(str(rates[0]))][shift_of(record)].append(float(value))
    return scores, seeds
