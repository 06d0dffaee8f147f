"""The report: one self-contained HTML page, rebuilt from records alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.analysis.comparison import ComparisonRow
from segue.analysis.matching import METHOD_PATH
from segue.report.ablations import Sweep, find_sweeps, safest_share
from segue.report.claims import RegimeVerdicts, judge
from segue.report.curve_figures import method_colours, shift_curves
from segue.report.figures import Plot, ablation, paired_differences
from segue.report.listing import (
    failures,
    failures_sheet,
    method_rows,
    provenance,
    results_sheet,
    scores_sheet,
)
from segue.report.palette import KEYS
from segue.report.pooled_figures import performance_profiles, pooled_differences, probabilities
from segue.report.render import render_page
from segue.report.sentences import summarise
from segue.report.sequences import SEQUENCE_METRICS, find_sequences, sequences_sheet
from segue.report.sheets import Sheet
from segue.report.study import (
    Regime,
    Study,
    build_study,
    describe_regime,
    headline_settings,
)
from segue.report.text import counted, name_of, number, plain, signed, value_text
from segue.runs.records import write_atomically

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["write_report"]


def write_report(
    records: Iterable[Record],
    out: Path,
    *,
    rng_seed: int = 0,
    title: str = "Does easing into the new objective help?",
) -> Path:
    """Write the page, and the data of its figures and tables next to it in ``<stem>_data/``.

    Args:
        records: Records of one or more families.
        out: The HTML file; its folder is made.
        rng_seed: Seed of the bootstrap intervals; equal records and seed give an equal page.
        title: Heading.

    Returns:
        ``out``.
    """
    out = Path(out)
    page = _Page(rng_seed)
    html = page.render(build_study(records), title)
    folder = out.parent / f"{out.stem}_data"
    folder.mkdir(parents=True, exist_ok=True)
    for file_name, text in page.files.items():
        write_atomically(folder / file_name, text.encode("utf-8"))
    write_atomically(out, html.encode("utf-8"))
    return out


@dataclass
class _Page:
    """Collects the figures and files of one page while its sections are made."""

    rng_seed: int
    figures: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    judged: dict[int, RegimeVerdicts] = field(default_factory=dict)

    def judge(self, regime: Regime) -> RegimeVerdicts:
        """The regime's verdicts, reached once."""
        if id(regime) not in self.judged:
            self.judged[id(regime)] = judge(regime, rng_seed=self.rng_seed)
        return self.judged[id(regime)]

    def add_sheet(self, sheet: Sheet) -> str:
        name, count = sheet.file_name, 1
        while name in self.files:
            count += 1
            name = f"{sheet.file_name.removesuffix('.csv')}-{count}.csv"
        self.files[name] = sheet.to_csv()
        return name

    def add(self, plot: Plot | None, alt: str) -> dict[str, Any] | None:
        if plot is None:
            return None
        key = f"figure-{len(self.figures)}"
        content = json.loads(plot.figure.to_json(engine="json"))
        self.figures[key] = {"data": content["data"], "layout": content["layout"]}
        return {
            "id": key,
            "caption": plot.caption,
            "file": self.add_sheet(plot.sheet),
            "alt": alt,
            "height": plot.figure.layout.height,
            "key": [(text, KEYS[colour]) for text, colour in plot.key],
        }

    def render(self, study: Study, title: str) -> str:
        shown = study.shown
        verdicts = [self.judge(regime) for regime in shown]
        failed, sweeps = failures(study), find_sweeps(study)
        sections = [
            {**self.regime(i, regime, verdict), "title": study.title_of(regime)}
            for i, (regime, verdict) in enumerate(zip(shown, verdicts, strict=True))
        ]
        context = {
            "title": title,
            "statement": _statement(study, failed),
            "sections": sections,
            "budgets": self.budgets(study),
            "sweeps": [self.sweep(sweep, sweeps) for sweep in sweeps],
            "sequences": self.sequences(study),
            "failures": failed,
            "failures_file": self.add_sheet(failures_sheet(failed)) if failed else None,
            "provenance": provenance(study),
            "notes": study.notes,
        }
        return render_page(context, self.figures, self.files)

    def regime(self, index: int, regime: Regime, verdicts: RegimeVerdicts) -> dict[str, Any]:
        """Everything the page shows of one regime."""
        prefix = f"setting{index + 1}_"
        rows = method_rows(regime, verdicts)
        chosen = _chosen_methods(verdicts)
        usual = max(sorted(set(chosen.values())), key=list(chosen.values()).count, default=None)
        colours = method_colours(regime, usual)
        pooled = verdicts.pooled_by_method
        profiles = performance_profiles(
            regime, colours, rng_seed=self.rng_seed, name=prefix + "performance_profiles"
        )
        is_pooled = any(p.iqm is not None for p in pooled.values())
        shifts = []
        for shift in regime.shifts:
            own = method_colours(regime, chosen.get(shift, usual))
            curves = shift_curves(regime, shift, own, name=f"{prefix}curves_{shift}")
            shifts.append(
                {
                    "name": name_of(shift),
                    "rows": rows[shift],
                    "strips": [_strip(row.values, rows[shift]) for row in rows[shift]],
                    "chosen": name_of(chosen[shift]) if shift in chosen else None,
                    "plot": self.add(curves, f"Curves after the switch: {name_of(shift)}"),
                }
            )
        series = _series(regime, verdicts)
        return {
            "label": regime.label,
            "summary": describe_regime(regime),
            "setting": headline_settings(regime, str(regime.treatment or regime.methods[0])),
            "claims": [_claim_words(claim) for claim in verdicts.claims],
            "differences": self.add(
                paired_differences(series, name=prefix + "paired_differences"),
                "Paired differences in target accuracy by shift",
            )
            if series
            else None,
            "pooled": self.add(
                pooled_differences(pooled, regime.treatment, name=prefix + "pooled_differences"),
                "Pooled differences to the hard switch by method",
            )
            if is_pooled
            else None,
            "probability": self.add(
                probabilities(pooled, regime.treatment, name=prefix + "improvement"),
                "Probability of improvement by method",
            )
            if is_pooled
            else None,
            "profiles": self.add(profiles, "Performance profiles"),
            "shifts": shifts,
            "results_file": self.add_sheet(results_sheet(prefix + "results", rows)),
            "scores_file": self.add_sheet(scores_sheet(prefix + "scores", rows)),
            "notes": regime.notes,
        }

    def budgets(self, study: Study) -> dict[str, Any] | None:
        """Treatment against hard switch in every regime, if there are several."""
        regimes = [regime for regime in study.regimes if regime.comparable]
        if len(regimes) < 2:
            return None
        rows, cells = [], []
        for regime in regimes:
            verdicts = self.judge(regime)
            compared = verdicts.by_method.get(str(regime.treatment), ())
            if not compared:
                continue
            decision, sentence = summarise(
                compared, verdicts.pooled_by_method[str(regime.treatment)], "hard switch"
            )
            rows.append(
                {
                    "label": regime.label,
                    "setting": headline_settings(regime, str(regime.treatment)),
                    "decision": decision,
                    "sentence": sentence,
                }
            )
            cells += [_budget_cell(regime, row) for row in compared]
        columns = ("setting", "shift", "mean_difference", "low", "high", "num_pairs", "decision")
        return {"rows": rows, "file": self.add_sheet(Sheet("settings", columns, tuple(cells)))}

    def sequences(self, study: Study) -> dict[str, Any] | None:
        """The sequences of shifts, if there are any."""
        found = find_sequences(study)
        if not found:
            return None
        tables = [{"name": name_of(s.name, 200), "rows": s.rows} for s in found]
        return {
            "columns": tuple(SEQUENCE_METRICS.values()),
            "tables": tables,
            "file": self.add_sheet(sequences_sheet(found)),
        }

    def sweep(self, sweep: Sweep, sweeps: Sequence[Sweep]) -> dict[str, Any]:
        """One ablation."""
        safest = safest_share(sweep)
        same = sum(other.path == sweep.path for other in sweeps)
        note = ""
        if safest is not None:
            k, share, worst = safest
            note = (
                f"K = {k:,} ({number(share, 1, scale=100)} % of the steps) is best in its worst "
                f"shift: {signed(worst.mean, scale=100)} points on {name_of(worst.shift)}."
            )
        skipped = sum(point.unusable for point in sweep.points)
        if skipped:
            note += f" {counted(skipped, 'pair')} without two finite scores left out."
        return {
            "title": sweep.label,
            "regime": sweep.regime_label if same > 1 else "",
            "note": note,
            "headline": plain(value_text(sweep.headline), 60),
            "plot": self.add(ablation(sweep, name=f"ablation_{sweep.name}"), sweep.label),
        }


def _budget_cell(regime: Regime, row: ComparisonRow) -> tuple[Any, ...]:
    d = row.difference
    shift = row.group.get("shift.name")
    return regime.label, shift, d.mean, d.low, d.high, d.num_pairs, row.verdict.decision


def _chosen_methods(verdicts: RegimeVerdicts) -> dict[str, str]:
    """Shift → the baseline chosen on the tuning seeds."""
    return {
        str(choice.group.get("shift.name")): str(choice.settings[METHOD_PATH])
        for choice in verdicts.choices
        if choice.settings is not None and METHOD_PATH in choice.settings
    }


def _series(regime: Regime, verdicts: RegimeVerdicts) -> dict[str, Sequence[ComparisonRow]]:
    name = name_of(regime.treatment)
    titles = (f"{name} − hard switch", f"{name} − chosen baseline")
    return {title: claim.rows for title, claim in zip(titles, verdicts.leading, strict=False)}


def _claim_words(claim: Any) -> dict[str, Any]:
    details = []
    for row in claim.rows:
        details.append((name_of(row.group.get("shift.name", "all")), row.verdict))
    return {"claim": claim, "details": details}


def _strip(values: Sequence[tuple[Any, float]], rows: Sequence[Any]) -> list[tuple[float, str]]:
    """Positions in [0, 1] of the per-seed scores on the scale that all rows of a shift share."""
    scores = [value for row in rows for _, value in row.values]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    width = high - low or 1.0
    return [
        ((value - low) / width, f"seed {plain(seed, 20)}: {number(value, scale=100)} %")
        for seed, value in values
    ]


def _statement(study: Study, failed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    by_kind: dict[str, int] = {}
    for record in study.records:
        key = f"{plain(record.family, 40)} {plain(record.kind, 40)}"
        by_kind[key] = by_kind.get(key, 0) + 1
    num_failed = sum(record.status != "completed" for record in study.records)
    bad = len({row["run_id"] for row in failed}) - num_failed
    parts = [f"{counted(len(study.records) - num_failed, 'run')} completed"]
    parts.append(f"{num_failed:,} failed")
    parts.append(f"{bad:,} with values that are not finite or not readable")
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(by_kind.items()))
    return {"counts": "; ".join(parts), "kinds": kinds}
