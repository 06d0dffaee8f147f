"""From judgements to a win rate with an interval, and a table."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.analysis.bootstrap import Estimate, mean_of_task_means, stratified_bootstrap
from segue.judge.pairwise import Judgement, Pair

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Summary", "summarize", "summary_table"]

_SCORES = {"win": 1.0, "tie": 0.5, "loss": 0.0}
_NUM_RESAMPLES = 10_000


@dataclass(frozen=True)
class Summary:
    """A candidate against the reference.

    Attributes:
        num_pairs: Prompts.
        num_wins: Both orders say the candidate.
        num_ties: Both say tie, the two orders disagree, or the answers are identical.
        num_losses: Both orders say the reference.
        num_unparsable: A word of the judge could not be read: no verdict, and not in the win rate.
        num_refused: The server refused the question: no verdict, and not in the win rate.
        num_identical: Ties that nobody was asked about.
        num_cut_candidate: Candidate's answers that were cut.
        num_cut_reference: The reference's.
        num_same_place: Pairs of which the judge took the same place in both orders.
        position_consistency: Share of the pairs with two verdicts in which both orders agree; None
            without one.
        win_rate: Mean over prompts of 1, ½ and 0, with a percentile interval from a bootstrap over
            prompts. None without a verdict.
        has_interval: False where all prompts have one outcome: a bootstrap cannot tell then how
            sure that is, and its interval has no width.
    """

    num_pairs: int
    num_wins: int
    num_ties: int
    num_losses: int
    num_unparsable: int
    num_refused: int
    num_identical: int
    num_cut_candidate: int
    num_cut_reference: int
    num_same_place: int
    position_consistency: float | None
    win_rate: Estimate | None
    has_interval: bool

    @property
    def num_judged(self) -> int:
        """Pairs with a verdict."""
        return self.num_wins + self.num_ties + self.num_losses

    @property
    def tie_share(self) -> float | None:
        """Share of ties among the verdicts."""
        return self.num_ties / self.num_judged if self.num_judged else None

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {**dataclasses.asdict(self), "tie_share": self.tie_share}


def summarize(
    pairs: Sequence[Pair],
    judgements: Sequence[Judgement],
    *,
    max_response_characters: int,
    rng_seed: int = 0,
    confidence: float = 0.95,
) -> Summary:
    """Count the outcomes of a candidate.

    Args:
        pairs: What was judged.
        judgements: One for each pair, in the same order.
        max_response_characters: Where answers were cut.
        rng_seed: Seed of the bootstrap.
        confidence: Nominal coverage of the interval.

    Raises:
        ValueError: If they are of different prompts.
    """
    if [pair.prompt_id for pair in pairs] != [each.prompt_id for each in judgements]:
        raise ValueError("judgements must be those of the pairs, in the same order")
    counts = Counter(each.outcome for each in judgements)
    scores = [_SCORES[each.outcome] for each in judgements if each.outcome in _SCORES]
    consistent = [e.is_consistent for e in judgements if e.is_consistent is not None]
    win_rate = None
    if scores:
        win_rate = stratified_bootstrap(
            [scores],
            mean_of_task_means,
            np.random.default_rng(rng_seed),
            num_resamples=_NUM_RESAMPLES,
            confidence=confidence,
        )
    most = max_response_characters
    return Summary(
        num_pairs=len(pairs),
        num_wins=counts["win"],
        num_ties=counts["tie"],
        num_losses=counts["loss"],
        num_unparsable=counts["unparsable"],
        num_refused=counts["refused"],
        num_identical=sum(each.is_identical for each in judgements),
        num_cut_candidate=sum(len(pair.candidate) > most for pair in pairs),
        num_cut_reference=sum(len(pair.reference) > most for pair in pairs),
        num_same_place=sum(each.same_place for each in judgements),
        position_consistency=sum(consistent) / len(consistent) if consistent else None,
        win_rate=win_rate,
        has_interval=len(set(scores)) > 1,
    )


def summary_table(summaries: Mapping[str, Summary], *, reference: str, judge: str) -> Table:
    """A row per candidate.

    Args:
        summaries: By the candidate's name.
        reference: Its name.
        judge: The model's.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(f"Answers against {reference}, judged by {judge}"),
        caption=escape(_caption(summaries)),
        caption_justify="left",
    )
    table.add_column("candidate", overflow="fold")
    for heading in ("win", "tie", "loss", "win rate %", "ties %", "both orders\nagree %"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("no verdict", justify="right", no_wrap=True)
    for name, summary in summaries.items():
        table.add_row(
            escape(name),
            *map(str, (summary.num_wins, summary.num_ties, summary.num_losses)),
            _win_rate(summary),
            _percent(summary.tie_share),
            _percent(summary.position_consistency),
            str(summary.num_unparsable + summary.num_refused),
        )
    return table


def _win_rate(summary: Summary) -> str:
    rate = summary.win_rate
    if rate is None:
        return "–"
    if not summary.has_interval:
        return f"{_percent(rate.value)} (no interval)"
    return f"{_percent(rate.value)} ({_percent(rate.low)} to {_percent(rate.high)})"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}"


def _caption(summaries: Mapping[str, Summary]) -> str:
    lines = [
        "Win rate: ties count one half; 95 % interval from a bootstrap over prompts. A win or loss is "
        "what both orders agree on."
    ]
    for name, s in summaries.items():
        parts = (
            (s.num_unparsable, "without a verdict, because the judge could not be read"),
            (s.num_refused, "refused by the server"),
            (s.num_same_place, "where the judge took the same place in both orders"),
            (s.num_identical, "identical, and ties unasked"),
            (s.num_cut_candidate, "with the candidate cut"),
            (s.num_cut_reference, "with the reference cut"),
        )
        told = [f"{number} {what}" for number, what in parts if number]
        if told:
            lines.append(f"{name}: of {s.num_pairs} pairs, {', '.join(told)}.")
    return "\n".join(lines)
