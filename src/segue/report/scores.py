"""Scores that no single metric holds: a run's fall, what it forgot, equal compute, means over shifts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from segue.analysis.curves import (
    gradient_examples,
    lowest_after_switch,
    switch_drop,
    value_at_compute,
)
from segue.analysis.matching import key_of, lookup, read_score
from segue.report.settings import method_of, shift_of
from segue.report.study import Regime

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["Metric", "at_equal_compute", "fall", "forgetting_in", "lowest", "means_by_seed"]

Metric = Callable[["Record"], "float | None"]


def lowest(record: Record) -> float | None:
    """Lowest target accuracy after the switch: the metric, else read from the curve."""
    value = record.metrics.get("lowest_target_accuracy")
    if value is not None or "target_accuracy" not in record.curves:
        return None if value is None else float(value)
    return lowest_after_switch(record.curves["target_accuracy"]).value


lowest.__name__ = "lowest target accuracy after the switch"


def fall(record: Record) -> float | None:
    """How far the target accuracy fell below its value at the run's own step 0; 0 if it did not."""
    curve = record.curves.get("target_accuracy")
    if curve is None or len(curve["step"]) < 2 or curve["step"][0] != 0:
        return None
    drop = switch_drop(curve).drop
    return max(0.0, drop) if math.isfinite(drop) else None


fall.__name__ = "fall below the start"


def forgetting_in(regime: Regime) -> Metric:
    """The metric "source accuracy of the source model minus source accuracy after the last step".

    The source model's accuracy is that of the run's own record; older records and runs from
    scratch lack it and take what the hard switch of their shift and seed started from.
    """
    started = {
        _cell(record): record.metrics.get("source_accuracy_before")
        for record in regime.records
        if method_of(record) == regime.hard_switch
    }

    def forgetting(record: Record) -> float | None:
        before = record.metrics.get("source_model_accuracy")
        if before is None:
            before = started.get(_cell(record))
        after = record.metrics.get("source_accuracy")
        return None if before is None or after is None else float(before) - float(after)

    return forgetting


def _cell(record: Record) -> tuple[str, str]:
    return shift_of(record), key_of(lookup(record.config, "seed"))


def at_equal_compute(record: Record) -> float | None:
    """Target accuracy where the run had spent what the hard switch spends on all its steps.

    What a run spent beyond its target batches is laid evenly on its ramp, or on all steps where it
    has none.
    """
    config, curve = record.config, record.curves.get("target_accuracy")
    num_steps, batch = config.get("num_target_steps"), config.get("batch_size")
    spent = record.metrics.get("num_gradient_examples")
    if not isinstance(num_steps, int) or not isinstance(batch, int) or curve is None:
        return None
    if not isinstance(spent, int | float):
        return None
    extra = float(spent) - num_steps * batch
    if extra < 0 or not curve["step"] or curve["step"][-1] != num_steps:
        return None
    k = lookup(config, "method.schedule.num_smoothing_steps")
    ramp = k if isinstance(k, int) and 0 < k < num_steps else num_steps
    cost = partial(
        gradient_examples,
        batch_size=batch,
        source_batch_size=extra / ramp,
        num_smoothing_steps=ramp,
    )
    value = value_at_compute(curve, float(num_steps * batch), cost)
    return value if math.isfinite(value) else None


at_equal_compute.__name__ = "target accuracy at the hard switch's compute"


def means_by_seed(
    regime: Regime, method: str, shifts: Sequence[str], metric: str
) -> dict[str, float]:
    """Seed → mean over ``shifts``, for the seeds that have a finite score on each of them."""
    by_seed: dict[str, list[float]] = {}
    for shift in shifts:
        for record in regime.of(shift, method):
            score = read_score(record, metric, method)
            if isinstance(score, float):
                by_seed.setdefault(key_of(lookup(record.config, "seed")), []).append(score)
    return {
        seed: math.fsum(scores) / len(scores)
        for seed, scores in sorted(by_seed.items())
        if len(scores) == len(shifts)
    }
