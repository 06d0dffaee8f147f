"""A verdict in one sentence: helps, hurts or undecided, by how much, against what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from segue.analysis.statistics import PairedDifference

Decision = Literal["helps", "hurts", "undecided"]

FEWEST_PAIRS = 6
"""Five pairs reach a two-sided sign-flip p of 0.0625 at best, six 0.03125."""

PRIMARY_PAIRS = 10
"""Fresh seeds that the primary verdict needs: ten pairs survive Holm over nine shifts."""


@dataclass(frozen=True)
class Verdict:
    """What a comparison allows to say.

    Attributes:
        decision: "helps", "hurts" or "undecided".
        sentence: The whole verdict, for a reader.
        reason: What it rests on, or why there is none.
        notes: Failed and unpaired runs and other caveats, one sentence each.
    """

    decision: Decision
    sentence: str
    reason: str
    notes: tuple[str, ...] = ()


def format_p(p: float) -> str:
    """A p-value with two significant digits: ``0.018``, ``< 0.0001``."""
    if p < 1e-4:
        return "< 0.0001"
    digits = 1 - math.floor(math.log10(p)) if p < 1.0 else 1
    return f"{p:.{max(digits, 2)}f}"


def _number(value: float, digits: int, *, sign: bool = False) -> str:
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    if float(text) == 0.0:
        text = f"{0.0:.{digits}f}"
    return text.replace("-", "−")


def _size(
    paired: PairedDifference,
    adjusted_p: float,
    against: str,
    scale: float,
    unit: str,
    digits: int,
    p_name: str,
) -> str:
    """``+1.9 points over X (95 % interval 1.2 to 2.6, 10 pairs, Holm-adjusted p 0.018)``."""
    n = paired.num_pairs
    if n == 0:
        return f"no pairs with {against}"
    facts = f"{n} pair{'s' if n > 1 else ''}"
    if n == 1:
        interval = "no interval"
    else:
        low, high = sorted((paired.low * scale, paired.high * scale))
        interval = f"{paired.confidence:.0%}".replace("%", " %") + (
            f" interval {_number(low, digits)} to {_number(high, digits)}"
        )
    number = _number(paired.mean * scale, digits, sign=True)
    p_text = format_p(adjusted_p)
    word = "against" if number.startswith("−") else "over"
    measured = f"{number} {unit}".rstrip()
    return f"{measured} {word} {against} ({interval}, {facts}, {p_name} {p_text})"


def _shared(seeds: Sequence[Any]) -> str:
    return ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, seeds))


def _blocked(
    decision: Decision, treatment_only: Sequence[Any], baseline_only: Sequence[Any]
) -> str:
    """Why a decision in favour of an arm is refused: that arm's bad runs are missing from it."""
    for favoured, seeds, arm, other in (
        ("helps", treatment_only, "treatment", "baseline"),
        ("hurts", baseline_only, "baseline", "treatment"),
    ):
        if decision == favoured and seeds:
            return (
                f"the {arm} has no usable run where the {other} has one ({_shared(seeds)}), "
                "so the pairs that are left favour it"
            )
    return ""


def verdict(
    paired: PairedDifference,
    adjusted_p: float,
    *,
    baseline: str = "the baseline",
    min_pairs: int = FEWEST_PAIRS,
    alpha: float = 0.05,
    num_comparisons: int = 1,
    smallest_adjusted_p: float | None = None,
    higher_is_better: bool = True,
    scale: float = 100.0,
    unit: str = "points",
    digits: int = 1,
    treatment_only_failures: Sequence[Any] = (),
    baseline_only_failures: Sequence[Any] = (),
    notes: Sequence[str] = (),
) -> Verdict:
    """Decide whether the treatment helps or hurts, or say that the runs cannot tell.

    The decision is the sign of the mean difference where the adjusted p is at most ``alpha``.
    It is refused below ``min_pairs`` pairs, and refused in favour of an arm some of whose runs
    failed where the other arm's did not: what is left of its runs is a favourable selection.

    Args:
        paired: The paired difference, treatment minus baseline.
        adjusted_p: Its p-value after Holm over ``num_comparisons`` comparisons.
        baseline: What the sentence calls the baseline.
        min_pairs: Fewest pairs that may decide, at least ``FEWEST_PAIRS``.
        alpha: Level of the whole set of comparisons, in (0, 1).
        num_comparisons: How many comparisons Holm ran over.
        smallest_adjusted_p: The smallest adjusted p these numbers of pairs can reach; by
            default ``paired.smallest_p``.
        higher_is_better: ``False`` for metrics such as forgetting or loss.
        scale: Factor from the metric to ``unit``: 100 turns accuracies into points.
        unit: Unit named in the sentence; "" names none.
        digits: Digits after the point in the sentence.
        treatment_only_failures: Seeds at which only the treatment has no usable run.
        baseline_only_failures: Seeds at which only the baseline has no usable run.
        notes: Carried over to the verdict.

    Raises:
        ValueError: ``min_pairs < 6``, ``alpha`` out of range, or ``adjusted_p`` below the
            unadjusted p.

    >>> from segue.analysis.statistics import paired_difference
    >>> print(verdict(paired_difference([0.8, 0.7, 0.9], [0.7, 0.6, 0.7]), 0.25).decision)
    undecided
    """
    _check(paired, adjusted_p, min_pairs, alpha, num_comparisons)
    n, caveats = paired.num_pairs, list(notes)
    least = paired.smallest_p if smallest_adjusted_p is None else smallest_adjusted_p
    p_name = "Holm-adjusted p" if num_comparisons > 1 else "p"
    over = f" after Holm over {num_comparisons} comparisons" if num_comparisons > 1 else ""
    reach = f"the smallest p that {n} pair{'s' * (n != 1)} can reach is {format_p(least)}{over}"
    if n >= 2 and paired.sd == 0.0:
        caveats.append(f"all {n} differences are equal: check that the seed changes the runs")
    if n >= FEWEST_PAIRS and adjusted_p <= alpha and paired.low <= 0.0 <= paired.high:
        caveats.append("the t interval includes 0 although the sign-flip test rejects 0")

    decision: Decision = "undecided"
    if n < min_pairs:
        reason = f"fewer than {min_pairs} pairs; {reach}" if n else "there are no pairs"
    elif least > alpha:
        reason = f"no outcome could decide: {reach}"
    elif adjusted_p > alpha:
        reason = f"{p_name} {format_p(adjusted_p)} is above {alpha:g}"
    else:
        decision = "helps" if (paired.mean > 0.0) == higher_is_better else "hurts"
        reason = f"{p_name} {format_p(adjusted_p)} is at most {alpha:g}; {reach}"
        refusal = _blocked(decision, treatment_only_failures, baseline_only_failures)
        if refusal:
            decision, reason = "undecided", refusal
    size = _size(paired, adjusted_p, baseline, scale, unit, digits, p_name)
    sentence = f"{decision}: {size}"
    if decision == "undecided" and n:
        sentence += f"; {reason}"
    return Verdict(decision, sentence, reason, tuple(caveats))


def _check(
    paired: PairedDifference, adjusted_p: float, min_pairs: int, alpha: float, comparisons: int
) -> None:
    if min_pairs < FEWEST_PAIRS:
        raise ValueError(f"min_pairs must be >= {FEWEST_PAIRS}, got {min_pairs}")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must be in (0, 1), got {alpha}")
    if comparisons < 1:
        raise ValueError(f"num_comparisons must be >= 1, got {comparisons}")
    if not paired.p_value <= adjusted_p <= 1.0:
        raise ValueError(
            f"adjusted_p must be in [{paired.p_value:g}, 1], at least the unadjusted p, "
            f"got {adjusted_p}"
        )
