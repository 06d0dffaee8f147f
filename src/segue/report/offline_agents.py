"""The agents that are taken online: how long they were trained, what they return, and their data."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from segue.report.score_tables import ScoreTable
from segue.report.settings import shift_of
from segue.report.study import Study
from segue.report.text import name_of, number

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["offline_agents_markdown", "offline_agents_table"]

_FAMILY = "offline_to_online"
_CORL: Mapping[str, float] = {
    "halfcheetah-medium": 48.1,
    "hopper-medium": 60.4,
    "walker2d-medium": 82.7,
    "halfcheetah-medium-replay": 44.8,
    "hopper-medium-replay": 64.4,
    "walker2d-medium-replay": 85.6,
}
"""CORL's last scores of TD3+BC on D4RL's own data (arXiv 2210.07105), to be printed beside ours."""

_COLUMNS = (
    "data", "hidden units", "agents", "updates", "at a plateau", "return", "score", "score of the data",
    "CORL's score (other data)",
)  # fmt: skip


def offline_agents_markdown(study: Study) -> str:
    """The table as Markdown."""
    table = offline_agents_table(study)
    return "No runs yet." if table is None else table.to_markdown()


def offline_agents_table(study: Study) -> ScoreTable | None:
    """A row for each data set, network and least number of updates; None without offline agents."""
    groups: dict[tuple[str, str, str, int], list[Record]] = {}
    for record in study.records:
        if record.family == _FAMILY and record.kind == "source" and record.status == "completed":
            learner = record.config["learner"]
            widths = " × ".join(map(str, learner["hidden_widths"]))
            norm = " with LayerNorm" if learner["layer_norm_critic"] else ""
            key = shift_of(record), widths, norm, int(record.config["min_updates"])
            groups.setdefault(key, []).append(record)
    if not groups:
        return None
    rows = [
        _row(shift, widths + norm, runs)
        for (shift, widths, norm, _), runs in sorted(groups.items())
    ]
    caption = (
        "TD3+BC agents before the switch, mean ± standard deviation over agents. At a plateau: the last "
        "three evaluations lie within 5 %; the others were stopped at the largest number of updates. "
        "Scores are scaled by D4RL's reference returns. CORL's are the last scores of TD3+BC on D4RL's "
        "data, in other versions of the environments (arXiv 2210.07105): beside ours, not compared."
    )
    return ScoreTable(_COLUMNS, tuple(rows), caption)


def _row(shift: str, network: str, runs: Sequence[Record]) -> tuple[str, ...]:
    updates = [int(r.metrics["num_offline_updates"] or 0) for r in runs]
    least, most = min(updates), max(updates)
    at_plateau = sum(bool(r.metrics["reached_plateau"]) for r in runs)
    return (
        name_of(shift), network, str(len(runs)),
        f"{least:,}" if least == most else f"{least:,} to {most:,}",
        f"{at_plateau} of {len(runs)}",
        _spread(runs, "offline_return", 0), _spread(runs, "offline_score", 1),
        number(statistics.fmean(_values(runs, "data_score")), 1),
        number(_CORL[shift], 1) if shift in _CORL else "–",
    )  # fmt: skip


def _values(runs: Sequence[Record], metric: str) -> list[float]:
    return [float(value) for r in runs if (value := r.metrics[metric]) is not None]


def _spread(runs: Sequence[Record], metric: str, digits: int) -> str:
    values = _values(runs, metric)
    text = number(statistics.fmean(values), digits)
    return f"{text} ± {number(statistics.stdev(values), digits)}" if len(values) > 1 else text
