"""What each method gains on the target and keeps of the source.

For the families judged by accuracy: differences to the hard switch and to the ramp without a source
term, and the share of replay's retention that a method keeps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segue.analysis.statistics import Interval, ratio_of_means, t_interval
from segue.report.families import FAMILIES
from segue.report.score_tables import ScoreTable
from segue.report.scores import means_by_seed
from segue.report.settings import method_of, shift_of
from segue.report.study import Regime, Study
from segue.report.text import counted, name_of, number, signed

__all__ = ["Gain", "gains", "gains_markdown", "gains_tables", "points_text"]

_REPLAY = "smoothing"
_CONTROL = "target_ramp"


@dataclass(frozen=True)
class Gain:
    """One method against the hard switch; differences in shares of the test images.

    Attributes:
        method: Its name.
        target: Target accuracy minus the hard switch's: seeds' means over the shifts.
        over_control: Target accuracy minus that of the ramp without a source term; None where
            it was not run.
        source: Source accuracy minus the hard switch's.
        share: ``source`` as a share of what replay keeps, over the seeds of both; None without
            replay. Its ends are ``nan`` where replay's own gain is not told from 0.
    """

    method: str
    target: Interval
    over_control: Interval | None
    source: Interval
    share: Interval | None


def gains(regime: Regime, shifts: Sequence[str]) -> list[Gain]:
    """Every method that was run on all of ``shifts``, but the hard switch.

    A seed counts where both methods of a difference have a finite score on each of these shifts.
    """
    hard = regime.hard_switch
    methods = [m for m, own in _run_on(regime).items() if own >= set(shifts)]
    if hard not in methods or not shifts:
        return []
    target = {m: means_by_seed(regime, m, shifts, "target_accuracy") for m in methods}
    source = {m: means_by_seed(regime, m, shifts, "source_accuracy") for m in methods}
    replay = _differences(source.get(_REPLAY, {}), source[hard])
    found = []
    for method in methods:
        if method == hard:
            continue
        kept = _differences(source[method], source[hard])
        share = None
        if method != _REPLAY and replay:
            both = sorted(set(kept) & set(replay))
            share = ratio_of_means([kept[s] for s in both], [replay[s] for s in both])
        control = None
        if method != _CONTROL and _CONTROL in target:
            control = t_interval(list(_differences(target[method], target[_CONTROL]).values()))
        found.append(
            Gain(
                method,
                t_interval(list(_differences(target[method], target[hard]).values())),
                control,
                t_interval(list(kept.values())),
                share,
            )
        )
    return found


def gains_tables(regime: Regime) -> list[ScoreTable]:
    """The gains over the shifts that all methods have, and over all that the treatment has.

    One of them where they are the same, or where no shift has every method.
    """
    run_on = _run_on(regime)
    if not regime.comparable:
        return []
    both = run_on[str(regime.hard_switch)] & run_on[str(regime.treatment)]
    choices = dict.fromkeys((frozenset.intersection(*run_on.values()), frozenset(both)))
    made = [_table(regime, sorted(shifts)) for shifts in choices if shifts]
    return [table for table in made if table is not None]


def _run_on(regime: Regime) -> dict[str, frozenset[str]]:
    """Method → the shifts it was run on."""
    return {
        m: frozenset(shift_of(r) for r in regime.records if method_of(r) == m)
        for m in regime.methods
    }


def _table(regime: Regime, shifts: Sequence[str]) -> ScoreTable | None:
    found = gains(regime, shifts)
    if not found:
        return None
    has_control = any(gain.over_control for gain in found)
    has_share = any(gain.share and not math.isnan(gain.share.low) for gain in found)
    columns = ["method", "target against hard switch"]
    columns += ["target against target ramp"] if has_control else []
    columns += ["source against hard switch"]
    columns += ["share of replay's source gain (%)"] if has_share else []
    columns += ["seeds"]
    rows = []
    for gain in found:
        row = [name_of(gain.method), points_text(gain.target)]
        row += [points_text(gain.over_control)] if has_control else []
        row += [points_text(gain.source)]
        row += [_percent(gain.share)] if has_share else []
        rows.append((*row, _seeds(gain)))
    caption = (
        f"Points of accuracy, mean over {counted(len(shifts), 'shift')} "
        f"({', '.join(map(name_of, shifts))}), with 95 % t intervals over seeds"
        + ("; shares with Fieller's interval." if has_share else ".")
    )
    return ScoreTable(tuple(columns), tuple(rows), caption)


def _seeds(gain: Gain) -> str:
    """How many seeds the differences of a row rest on."""
    intervals = (gain.target, gain.over_control, gain.source, gain.share)
    counts = {i.num_values for i in intervals if i is not None}
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def gains_markdown(study: Study) -> str:
    """The tables of the first regime that is judged by accuracy."""
    regimes = (r for r in study.regimes if r.comparable and r.family not in FAMILIES)
    for regime in regimes:
        made = [table.to_markdown() for table in gains_tables(regime)]
        if made:
            return "\n\n".join(made)
    return "No runs yet."


def _differences(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    return {seed: first[seed] - second[seed] for seed in sorted(set(first) & set(second))}


def points_text(interval: Interval | None) -> str:
    """A difference of shares in points with its interval."""
    if interval is None or math.isnan(interval.mean):
        return "–"
    text = signed(interval.mean, scale=100.0)
    if math.isnan(interval.low):
        return text
    return f"{text} ({number(interval.low, scale=100.0)} to {number(interval.high, scale=100.0)})"


def _percent(interval: Interval | None) -> str:
    if interval is None or math.isnan(interval.low):
        return "–"  # a ratio whose denominator may be 0 says nothing
    text = number(interval.mean, 0, scale=100.0)
    low, high = (number(end, 0, scale=100.0) for end in (interval.low, interval.high))
    return f"{text} ({low} to {high})"
