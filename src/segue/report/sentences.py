"""Comparisons in words: one sentence for all shifts, and the cells of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segue.analysis.comparison import ComparisonRow, count_decisions
from segue.analysis.pooling import Pooled
from segue.analysis.verdicts import PRIMARY_PAIRS
from segue.report.settings import SHIFT_PATH
from segue.report.text import counted, number, signed

__all__ = ["NO_FALL", "group_name", "summarise", "verdict_words"]

NO_FALL = "no fall to remove"
"""Reason of a row in which neither arm ever falls below its start."""


def group_name(row: ComparisonRow) -> str:
    """Name of the row's shift."""
    return str(row.group.get(SHIFT_PATH, "all shifts"))


def summarise(
    rows: Sequence[ComparisonRow], pooled: Pooled | None, against: str
) -> tuple[str, str]:
    """The decision over all shifts and the sentence that says by how much, against what."""
    counts = count_decisions(rows)
    named = [word for word in ("helps", "hurts") if counts[word]]
    # One word for several shifts: it must hold for most of them and against none.
    decision = "undecided" if not named else "mixed"
    if len(named) == 1 and 2 * counts[named[0]] > len(rows):
        decision = named[0]
    if len(rows) == 1:
        return decision, _start(rows[0].verdict.sentence)
    parts = [f"{word} on {counts[word]}" for word in ("helps", "hurts") if counts[word]]
    flat = sum(row.verdict.reason == NO_FALL for row in rows)
    if counts["undecided"] > flat:
        parts.append(f"undecided on {counts['undecided'] - flat}")
    if flat:
        parts.append(f"{NO_FALL} on {flat}")
    sentence = f"{', '.join(parts)} of {counted(len(rows), 'shift')}"
    sentence += _on_average(pooled, against, rows[0].scale)
    if decision == "undecided":
        judged = [row for row in rows if row.verdict.reason != NO_FALL]
        few = [row for row in judged if row.difference.num_pairs < PRIMARY_PAIRS]
        reason = few[0].verdict.reason if few else "no shift passes Holm's adjusted p"
        sentence += f"; {reason}" if judged else ""
    return decision, _start(sentence)


def _on_average(pooled: Pooled | None, against: str, scale: float) -> str:
    if pooled is None or pooled.mean is None:
        return ""
    text = f"; {signed(pooled.mean.value, scale=scale)} points on average against the {against} ("
    by_seed = pooled.mean_by_seed
    if by_seed is None:
        return text + "no interval: the shifts share fewer than two seeds)"
    low, high = number(by_seed.low, scale=scale), number(by_seed.high, scale=scale)
    seeds = counted(by_seed.num_values, "seed")
    return f"{text}95 % interval {low} to {high}, {seeds})"


def _start(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:] + "."


def verdict_words(row: ComparisonRow | None) -> dict[str, Any]:
    """A comparison for a table cell: decision, difference, interval, p."""
    if row is None:
        return {"decision": "", "difference": "–", "interval": "", "reason": ""}
    paired = row.difference
    low, high = (number(end, row.digits, scale=row.scale) for end in (paired.low, paired.high))
    return {
        "decision": row.verdict.decision,
        "difference": signed(paired.mean, row.digits, scale=row.scale),
        "interval": "" if paired.num_pairs < 2 else f"{low} to {high}",
        "reason": row.verdict.reason,
    }
