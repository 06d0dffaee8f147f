"""The report: one self-contained HTML page, rebuilt from records alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.analysis.comparison import ComparisonRow
from segue.report.ablations import Sweep, find_sweeps, safest_share
from segue.report.accuracy_sections import accuracy_section
from segue.report.batch_norms import batch_norm_table
from segue.report.claims import RegimeVerdicts, judge
from segue.report.curve_figures import method_colours
from segue.report.families import FAMILIES
from segue.report.figures import Plot, ablation
from segue.report.listing import (
    failures,
    failures_sheet,
    provenance,
)
from segue.report.offline_agents import offline_agents_table
from segue.report.palette import KEYS
from segue.report.pictures import Picture, find_pictures
from segue.report.pretraining import gain_by_budget, pretraining_tables, widest_budgets
from segue.report.render import render_page
from segue.report.score_sections import plain_table, score_section
from segue.report.score_study import ScoreVerdicts, judge_scores
from segue.report.sentences import summarise
from segue.report.sequences import SEQUENCE_METRICS, find_sequences, sequences_sheet
from segue.report.sheets import Sheet
from segue.report.study import (
    Regime,
    Study,
    build_study,
    headline_settings,
)
from segue.report.text import counted, name_of, number, plain, signed, value_text
from segue.report.vision_figures import accuracy_by_examples
from segue.runs.records import write_atomically

if TYPE_CHECKING:
    from segue.runs.records import Record

__all__ = ["write_report"]


def write_report(
    records: Iterable[Record],
    out: Path,
    *,
    pictures: Path | None = None,
    rng_seed: int = 0,
    title: str = "Does easing into the new objective help?",
) -> Path:
    """Write the page, and the data of its figures and tables next to it in ``<stem>_data/``.

    Args:
        records: Records of one or more families.
        out: The HTML file; its folder is made.
        pictures: Folder that ``segue strip`` wrote, see :func:`segue.report.pictures.find_pictures`.
        rng_seed: Seed of the bootstrap intervals; equal records and seed give an equal page.
        title: Heading.

    Returns:
        ``out``.
    """
    out = Path(out)
    study = build_study(records)
    page = _Page(rng_seed)
    if pictures is not None:
        shifts = {shift for regime in study.shown for shift in regime.shifts}
        page.pictures = find_pictures(pictures, shifts)
    html = page.render(study, title)
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
    pictures: dict[str, list[Picture]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    judged: dict[int, RegimeVerdicts] = field(default_factory=dict)
    scored: dict[int, tuple[ScoreVerdicts, ...]] = field(default_factory=dict)

    def judge(self, regime: Regime) -> RegimeVerdicts:
        """The regime's verdicts, reached once."""
        if id(regime) not in self.judged:
            self.judged[id(regime)] = judge(regime, rng_seed=self.rng_seed)
        return self.judged[id(regime)]

    def judge_scores(self, regime: Regime) -> tuple[ScoreVerdicts, ...]:
        """The same for a family that is judged by returns or losses."""
        if id(regime) not in self.scored:
            self.scored[id(regime)] = judge_scores(regime, rng_seed=self.rng_seed)
        return self.scored[id(regime)]

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
        failed, sweeps = failures(study), find_sweeps(study)
        sections = [
            {**self.section(i, regime), "title": study.title_of(regime)}
            for i, regime in enumerate(shown)
        ]
        context = {
            "title": title,
            "online_only": {record.family for record in study.records} == {"online_rl"},
            "statement": _statement(study, failed),
            "sections": sections,
            "budgets": self.budgets(study),
            "examples": self.examples(study),
            "pretraining": self.pretraining(study),
            "offline_agents": plain_table(self, offline_agents_table(study), "offline_agents"),
            "batch_norm": plain_table(self, batch_norm_table(study), "batch_norm"),
            "sweeps": [self.sweep(sweep, sweeps) for sweep in sweeps],
            "sequences": self.sequences(study),
            "failures": failed,
            "failures_file": self.add_sheet(failures_sheet(failed)) if failed else None,
            "provenance": provenance(study),
            "notes": study.notes,
        }
        return render_page(context, self.figures, self.files)

    def section(self, index: int, regime: Regime) -> dict[str, Any]:
        """Everything the page shows of one regime."""
        prefix = f"setting{index + 1}_"
        if regime.family in FAMILIES:
            return score_section(self, prefix, regime, self.judge_scores(regime))
        return accuracy_section(self, prefix, regime, self.judge(regime), self.rng_seed)

    def budgets(self, study: Study) -> dict[str, Any] | None:
        """Treatment against hard switch in every regime, if there are several."""
        regimes = [regime for regime in study.regimes if regime.comparable]
        if len(regimes) < 2:
            return None
        rows, cells = [], []
        for regime in regimes:
            compared, decision, sentence = self.leading(regime)
            if not compared:
                continue
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

    def examples(self, study: Study) -> dict[str, Any] | None:
        """Accuracy against the number of target examples, where vision's records hold several."""
        regime = next((r for r in study.shown if r.family == "vision"), None)
        if regime is None:
            return None
        plot = accuracy_by_examples(
            study, "vision", method_colours(regime), name="accuracy_by_examples"
        )
        return self.add(plot, "Target accuracy over the number of target examples")

    def pretraining(self, study: Study) -> dict[str, Any] | None:
        """The gain against the pretraining budget, where records hold several budgets."""
        tables = pretraining_tables(study)
        if not tables:
            return None
        regime = widest_budgets(study)[0]
        named = (regime.hard_switch, regime.treatment)
        other = next((m for m in regime.methods if m not in named), None)
        plot = gain_by_budget(study, method_colours(regime, other), name="gain_by_budget")
        return {
            "plot": self.add(plot, "Gain over the hard switch against the pretraining budget"),
            "tables": [
                (table.title, plain_table(self, table, f"pretraining_{i + 1}"))
                for i, table in enumerate(tables)
            ],
        }

    def leading(self, regime: Regime) -> tuple[Sequence[ComparisonRow], str, str]:
        """Treatment against hard switch in the leading score: rows, decision and sentence."""
        if regime.family in FAMILIES:
            claims = [judged.claim for judged in self.judge_scores(regime) if judged.claim]
            return (
                (claims[0].rows, claims[0].decision, claims[0].sentence) if claims else ((), "", "")
            )
        verdicts, treatment = self.judge(regime), str(regime.treatment)
        compared = verdicts.by_method.get(treatment, ())
        if not compared:
            return (), "", ""
        pooled = verdicts.pooled_by_method[treatment]
        return compared, *summarise(compared, pooled, "hard switch")

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
