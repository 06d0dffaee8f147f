"""The stability gap's measures over a sequence of tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segue.analysis.curves import Curve, points, value_at


def min_accuracy(earlier: Sequence[Curve], learned_at: Sequence[int], step: int) -> float:
    """Average minimum accuracy (min-ACC) of the earlier tasks up to ``step``.

    Args:
        earlier: One accuracy curve per earlier task, over the steps of the whole sequence.
        learned_at: The step at which each of these tasks' own training ended; its minimum is
            taken over the later evaluations only.
        step: The step up to which to look, inclusive.

    Source: De Lange et al., "Continual evaluation for lifelong learning", arXiv 2205.13452.
    """
    if len(earlier) != len(learned_at) or not earlier:
        raise ValueError(
            "earlier and learned_at must have one entry per earlier task and at least one, "
            f"got {len(earlier)} and {len(learned_at)}"
        )
    minima = []
    for curve, end in zip(earlier, learned_at, strict=True):
        steps, values = points(curve)
        window = values[(steps > end) & (steps <= step)]
        if window.size == 0:
            raise ValueError(f"curve must have a step in ({end}, {step}]")
        minima.append(float(np.min(window)))  # nan propagates
    return float(np.mean(minima))


def worst_case_accuracy(
    current: Curve, earlier: Sequence[Curve], learned_at: Sequence[int], step: int
) -> float:
    """Worst-case accuracy (WC-ACC) at ``step`` while learning the k-th task.

    ``1/k`` times the accuracy on the current task plus ``1 - 1/k`` times :func:`min_accuracy` of
    the k - 1 earlier ones.

    Source: arXiv 2205.13452.
    """
    k = len(earlier) + 1
    worst = min_accuracy(earlier, learned_at, step)
    return value_at(current, step) / k + (1.0 - 1.0 / k) * worst
