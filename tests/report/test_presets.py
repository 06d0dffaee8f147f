"""The runs that the presets plan, with invented scores: no phase is planned and then not read."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from segue.report.claims import judge
from segue.report.study import Study, build_study
from segue.runs.records import Record

grids = pytest.importorskip("segue.experiments.supervised.grids")

from segue.experiments.supervised.setting import LONG, SHORT  # noqa: E402
from segue.runs.grid import config_to_dict, run_id  # noqa: E402

SHIFTS = ("gaussian_noise", "label_permutation")
# Chosen: for every method another rate, and l2sp as the baseline.
BEST = dict(zip(grids.COMPARED, (0.005, 0.02, 0.08) * 4, strict=False))


def invented(config: Any) -> Record:
    name = config.method.name
    noise = int(hashlib.sha256(run_id(config).encode()).hexdigest()[:4], 16) / 2**16
    score = 0.5 + 0.01 * noise + 0.03 * (name == "smoothing") + 0.02 * (name == "l2sp")
    score -= 0.1 * (config.optimizer.learning_rate != BEST[name])
    return Record(
        run_id=run_id(config),
        family=config.family,
        kind=config.kind,
        config=config_to_dict(config),
        status="completed",
        metrics={"target_accuracy": score, "source_accuracy": 0.4},
    )


@pytest.fixture(scope="module")
def study() -> Study:
    records = [invented(config) for config in grids.tuning(SHORT, SHIFTS)([])]
    for grid in (
        grids.verdicts(SHORT, SHIFTS),
        grids.verdicts(LONG, SHIFTS, tuned_at=SHORT),
        grids.equal_compute(SHORT),
    ):
        configs = [config for config in grid(records) if config.shift.name in SHIFTS]
        records += [invented(config) for config in configs]
    return build_study(records)


def test_both_budgets_have_their_two_primary_verdicts(study: Study) -> None:
    assert [r.settings["num_target_steps"] for r in study.shown] == [1200, 300]
    for regime in study.shown:
        leading = judge(regime).leading
        assert [claim.primary for claim in leading] == [True, True]
        assert all(row.difference.num_pairs == 10 for claim in leading for row in claim.rows)
        assert leading[1].rows[0].baseline == "the chosen baseline (l2sp)"
    assert study.shown[0].tuned_at == "1,000 target examples and 300 target steps"


def test_the_equal_compute_runs_are_read(study: Study) -> None:
    regime = study.shown[1]
    assert {r.config["num_target_steps"] for r in regime.equal_compute} == {375}
    found = next(c for c in judge(regime).claims if "equal compute" in c.question)
    assert [row.difference.num_pairs for row in found.rows] == [10, 10]
    assert found.basis == "the hard switch was trained for 375 steps, which cost as much"
    assert study.notes[0].startswith("20 runs of the hard switch with more steps")
