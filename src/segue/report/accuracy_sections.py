"""What the page shows of a regime whose family is judged by accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segue.analysis.comparison import ComparisonRow
from segue.analysis.matching import METHOD_PATH
from segue.report.claims import RegimeVerdicts
from segue.report.curve_figures import method_colours, shift_curves
from segue.report.families import ACCURACY
from segue.report.figures import paired_differences
from segue.report.gains import gains_tables
from segue.report.listing import method_rows, results_sheet, scores_sheet
from segue.report.pooled_figures import performance_profiles, pooled_differences, probabilities
from segue.report.score_sections import Page, plain_table
from segue.report.study import Regime, describe_regime, headline_settings
from segue.report.text import name_of, number, plain
from segue.report.vision_figures import confusions

__all__ = ["accuracy_section"]


def accuracy_section(
    page: Page, prefix: str, regime: Regime, verdicts: RegimeVerdicts, rng_seed: int
) -> dict[str, Any]:
    """Claims, pooled figures, and shift by shift a table and figures."""
    rows = method_rows(regime, verdicts)
    chosen = _chosen_methods(verdicts)
    usual = max(sorted(set(chosen.values())), key=list(chosen.values()).count, default=None)
    colours = method_colours(regime, usual)
    pooled = verdicts.pooled_by_method
    profiles = performance_profiles(
        regime, colours, rng_seed=rng_seed, name=prefix + "performance_profiles"
    )
    is_pooled = any(p.iqm is not None for p in pooled.values())
    shifts = []
    for shift in regime.shifts:
        own = method_colours(regime, chosen.get(shift, usual))
        curves = shift_curves(regime, shift, own, ACCURACY.panels, name=f"{prefix}curves_{shift}")
        shifts.append(
            {
                "name": name_of(shift),
                "rows": rows[shift],
                "strips": [_strip(row.values, rows[shift]) for row in rows[shift]],
                "chosen": name_of(chosen[shift]) if shift in chosen else None,
                "plot": page.add(curves, f"Curves after the switch: {name_of(shift)}"),
                "pictures": page.pictures.pop(shift, []),
                "confusion": page.add(
                    confusions(regime, shift, name=f"{prefix}confusion_{shift}"),
                    f"Confusion on the target: {name_of(shift)}",
                ),
            }
        )
    series = _series(regime, verdicts)
    return {
        "kind": "accuracy",
        "label": regime.label,
        "summary": describe_regime(regime),
        "setting": headline_settings(regime, str(regime.treatment or regime.methods[0])),
        "claims": [_claim_words(claim) for claim in verdicts.claims],
        "differences": page.add(
            paired_differences(series, name=prefix + "paired_differences"),
            "Paired differences in target accuracy by shift",
        )
        if series
        else None,
        "pooled": page.add(
            pooled_differences(pooled, regime.treatment, name=prefix + "pooled_differences"),
            "Pooled differences to the hard switch by method",
        )
        if is_pooled
        else None,
        "probability": page.add(
            probabilities(pooled, regime.treatment, name=prefix + "improvement"),
            "Probability of improvement by method",
        )
        if is_pooled
        else None,
        "profiles": page.add(profiles, "Performance profiles"),
        "gains": [
            plain_table(page, table, f"{prefix}gains_{i + 1}")
            for i, table in enumerate(gains_tables(regime))
        ],
        "shifts": shifts,
        "results_file": page.add_sheet(results_sheet(prefix + "results", rows)),
        "scores_file": page.add_sheet(scores_sheet(prefix + "scores", rows)),
        "notes": regime.notes,
    }


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
