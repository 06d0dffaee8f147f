"""Tables for Markdown documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from segue.report.ablations import Sweep, find_sweeps, safest_share
from segue.report.claims import Claim, judge
from segue.report.listing import MethodRow, method_rows
from segue.report.sentences import group_name, summarise, verdict_words
from segue.report.sequences import SEQUENCE_METRICS, find_sequences
from segue.report.study import Study, build_study, describe_regime, headline_settings
from segue.report.text import counted, name_of, number, plain, signed, value_text

if TYPE_CHECKING:
    from segue.analysis.comparison import ComparisonRow
    from segue.runs.records import Record

__all__ = [
    "ablation_table",
    "cell",
    "compared_text",
    "default_k_text",
    "markdown",
    "markdown_table",
    "primary_table",
    "sequence_table",
    "settings_table",
    "verdict_list",
]

MARKS = {"helps": "▲", "hurts": "▼", "undecided": "○", "mixed": "◆", "": ""}


def cell(value: object) -> str:
    """Text that may stand in a Markdown table: no pipes, markup, links or line breaks."""
    text = plain(value, 120)
    return re.sub(r"([\\`*\[\]<>|#$~&]|(?<!\w)_|_(?!\w))", _entity, text)


def _entity(match: re.Match[str]) -> str:
    return f"&#{ord(match.group())};"


def markdown(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[int] = (0,)
) -> str:
    """A Markdown table of escaped cells; the columns named in ``left`` are aligned to the left."""
    rule = ["---" if i in left else "---:" for i in range(len(columns))]
    lines = [columns, rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown_table(records: Iterable[Record] | Study, *, rng_seed: int = 0) -> str:
    """Methods against shifts for the first regime: mean ± sd and the difference to the hard switch.

    A row a method and a column a shift; the marks are the verdicts against the hard switch.
    """
    study = records if isinstance(records, Study) else build_study(records)
    if not study.shown:
        return "No runs yet."
    regime = study.shown[0]
    verdicts = judge(regime, rng_seed=rng_seed)
    rows = method_rows(regime, verdicts)
    found = {(shift, row.method): row for shift, of_shift in rows.items() for row in of_shift}
    lines = [
        [cell(name_of(method)), *(_cell_of(found.get((shift, method))) for shift in rows)]
        for method in regime.methods
    ]
    table = markdown(["method", *(cell(name_of(shift)) for shift in rows)], lines)
    return (
        f"{table}\n\nTarget accuracy in %, mean ± standard deviation over seeds, and the paired "
        "difference to the hard switch in points (▲ helps, ▼ hurts, ○ undecided; Holm over the "
        f"shifts, for each method by itself). {cell(describe_regime(regime))}."
    )


def primary_table(study: Study, *, rng_seed: int = 0) -> str:
    """The leading claims of the first regime: a row a shift, both halves side by side."""
    regime = next((regime for regime in study.shown if regime.comparable), None)
    if regime is None:
        return "No verdicts yet."
    verdicts = judge(regime, rng_seed=rng_seed)
    halves = verdicts.leading
    methods = method_rows(regime, verdicts)
    rows = []
    for row in halves[0].rows if halves else ():
        shift = group_name(row)
        by_method = {m.method: m for m in methods.get(shift, ())}
        cells = [cell(name_of(shift))]
        for method in (regime.hard_switch, regime.treatment):
            found = by_method.get(str(method))
            cells.append(f"{found.mean} ± {found.sd}" if found else "–")
        cells.append(compared_text(row))
        for other in halves[1].rows if len(halves) > 1 else ():
            if group_name(other) == shift:
                name = other.baseline.rpartition("(")[2].rstrip(")")
                cells += [cell(name_of(name)), compared_text(other)]
        rows.append(cells)
    columns = ["shift", "hard switch", cell(name_of(regime.treatment)), "against hard switch"]
    if len(halves) > 1:
        columns += ["chosen baseline", "against chosen baseline"]
    rows = [[*cells, *["–"] * (len(columns) - len(cells))] for cells in rows]
    lines = [_claim_line(claim) for claim in halves]
    if not all(claim.primary for claim in halves):
        lines.append("- Not a primary verdict: that needs tuning runs and ten fresh seeds a shift.")
    return "\n".join([markdown(columns, rows), "", *lines])


def _claim_line(claim: Claim) -> str:
    basis = f" ({claim.basis})" if claim.basis else ""
    return f"- {cell_long(claim.question)} {cell_long(claim.sentence + basis)}"


def compared_text(row: ComparisonRow | None) -> str:
    """A comparison in a table: mark, difference and interval; a dash for none."""
    if row is None:
        return "–"
    words = verdict_words(row)
    interval = f" ({words['interval']})" if words["interval"] else ""
    return f"{MARKS[words['decision']]} {words['difference']}{interval}"


def _cell_of(row: MethodRow | None) -> str:
    if row is None:
        return "–"
    text = f"{row.mean} ± {row.sd}"
    if row.versus["decision"]:
        text += f" ({row.versus['difference']} {MARKS[row.versus['decision']]})"
    return text + (f", {len(row.unusable)} bad" if row.unusable else "")


def verdict_list(study: Study, *, rng_seed: int = 0) -> str:
    """The claims of every regime shown, one line each."""
    lines = []
    for regime in study.shown:
        if regime.label:
            lines.append(f"**{cell(regime.label)}**\n")
        for claim in judge(regime, rng_seed=rng_seed).claims:
            lines.append(_claim_line(claim))
        lines.append("")
    return "\n".join(lines).strip() or "No verdicts yet."


def cell_long(value: object) -> str:
    """As :func:`cell`, for whole sentences."""
    return re.sub(r"([\\`*\[\]<>|#$~&])", _entity, plain(value, 1000))


def settings_table(study: Study, *, rng_seed: int = 0) -> str:
    """Treatment against hard switch in every regime: budgets, optimizers, networks."""
    rows = []
    for regime in study.regimes:
        compared = None
        if regime.comparable:
            verdicts = judge(regime, rng_seed=rng_seed)
            compared = verdicts.by_method.get(str(regime.treatment))
        if compared:
            pooled = verdicts.pooled_by_method[str(regime.treatment)]
            _, sentence = summarise(compared, pooled, "hard switch")
            rows.append(
                [cell(regime.label or describe_regime(regime)),
                 cell(headline_settings(regime, str(regime.treatment))), cell_long(sentence)]
            )  # fmt: skip
    return markdown(["setting", "method", "against the hard switch"], rows, left=(0, 1, 2))


def ablation_table(study: Study, path: str) -> str:
    """One sweep as a table: a row a shift, a column a value, points over the hard switch."""
    sweep = next((s for s in find_sweeps(study) if s.path == path), None)
    if sweep is None:
        return f"No runs vary {cell(path)} alone yet."
    return _sweep_table(sweep)


def _sweep_table(sweep: Sweep) -> str:
    shifts = sorted({str(point.shift) for point in sweep.points})
    lines = []
    for shift in shifts:
        found = {str(p.value): p for p in sweep.points if str(p.shift) == shift}
        cells = [_swept(found[str(v)].mean) if str(v) in found else "–" for v in sweep.values]
        lines.append([cell(name_of(shift)), *cells])
    if sweep.means:
        lines.append(["**mean**", *(f"**{_swept(p.mean)}**" for p in sweep.means)])
    values = [cell(value_text(value)) for value in sweep.values]
    table = markdown([cell(sweep.label), *values], lines)
    seeds = max((p.num_pairs for p in sweep.points), default=0)
    return (
        f"{table}\n\nPoints of target accuracy over the hard switch, up to {counted(seeds, 'seed')} "
        "a cell; the mean is over the shifts with every value."
    )


def sequence_table(study: Study) -> str:
    """Sequences of shifts: a row a method, mean ± sd and the paired difference to the hard switch."""
    tables = []
    for sequence in find_sequences(study):
        rows = [
            [cell(row.method), str(row.num_runs)]
            + [", ".join(filter(None, parts)) for parts in row.cells]
            for row in sequence.rows
        ]
        columns = ["method", "runs", *SEQUENCE_METRICS.values()]
        tables.append(f"{cell(sequence.name)}:\n\n{markdown(columns, rows)}")
    if not tables:
        return "No sequences yet."
    return "\n\n".join(tables) + (
        "\n\nAccuracy in %, mean ± standard deviation over seeds; after the comma the paired difference to "
        "the hard switch in points, with its 95 % t interval."
    )


def _swept(mean: float) -> str:
    return signed(mean, scale=100)


def default_k_text(study: Study) -> str:
    """The measurements behind the default K: every sweep of it, and the share that is safest."""
    sweeps = [s for s in find_sweeps(study) if s.path == "method.schedule.num_smoothing_steps"]
    if not sweeps:
        return "The runs that would choose a default, which vary K alone, are not in yet."
    parts = []
    labels = [sweep.regime_label.split(", ") for sweep in sweeps]
    common = set(labels[0]).intersection(*labels[1:])
    for sweep, label in zip(sweeps, labels, strict=True):
        if len(sweeps) > 1:
            parts.append(f"{cell_long(', '.join(part for part in label if part not in common))}:")
        parts += [_sweep_table(sweep), _safest(sweep)]
    return "\n\n".join(part for part in parts if part)


def _safest(sweep: Sweep) -> str:
    safest = safest_share(sweep)
    if safest is None:
        return ""
    k, share, worst = safest
    return (
        f"Of the values tried K = {k:,}, that is {number(share, 1, scale=100)} % of the steps, is best "
        f"in its worst shift: {_swept(worst.mean)} points on {cell(name_of(worst.shift))}."
    )
