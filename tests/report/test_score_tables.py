"""Tables of families that are judged by returns or losses."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from segue.report.console import console_tables
from segue.report.docs import update_docs
from segue.report.score_tables import score_tables
from segue.report.study import build_study
from segue.runs.records import Record, compact

Make = Callable[..., Record]


def runs(
    make: Make, family: str, metrics: dict[str, float], gain: float, seeds: int = 6
) -> list[Record]:
    """The hard switch, and smoothing that is ``gain`` above it, on two shifts."""
    return [
        dataclasses.replace(
            make(shift, method, seed, 0.0),
            family=family,
            run_id=f"{family}-{shift}-{method}-{seed}",
            metrics={name: value + seed + plus for name, value in metrics.items()},
        )
        for shift in ("blur", "contrast")
        for method, plus in (("hard_switch", 0.0), ("smoothing", gain))
        for seed in range(seeds)
    ]


@pytest.mark.parametrize(
    ("family", "metrics", "gain", "mark"),
    [
        ("online_rl", {"final_return": 100.0, "area_under_curve": 50.0}, 3.0, "▲"),
        ("online_rl", {"final_return": 100.0, "area_under_curve": 50.0}, -3.0, "▼"),
        # A lower loss is better.
        ("language", {"target_loss": 3.0, "source_loss": 2.0}, -1.0, "▲"),
        ("language", {"target_loss": 3.0, "source_loss": 2.0}, 1.0, "▼"),
    ],
)
def test_a_verdict_follows_the_direction_of_the_score(
    make_record: Make, family: str, metrics: dict[str, float], gain: float, mark: str
) -> None:
    # Seven pairs decide over two shifts; six do not.
    text = score_tables(build_study(runs(make_record, family, metrics, gain, seeds=7)))
    rows = [line for line in text.splitlines() if line.startswith("| smoothing |")]
    assert len(rows) == 2
    assert all(row.count(mark) == 2 for row in rows)
    assert "mean ± standard deviation over 7 seeds" in text


def test_too_few_seeds_leave_it_undecided(make_record: Make) -> None:
    metrics = {"final_return": 1.0, "area_under_curve": 1.0}
    text = score_tables(build_study(runs(make_record, "online_rl", metrics, 9.0, 5)))
    assert "+9.0 ○" in text
    assert "+9.0 ▲" not in text


def test_tuning_runs_are_not_in_the_table(make_record: Make) -> None:
    records = runs(make_record, "online_rl", {"final_return": 1.0, "area_under_curve": 1.0}, 9.0)
    tuned = [dataclasses.replace(r, config={**r.config, "split": "validation"}) for r in records]
    assert score_tables(build_study(tuned)) == "No runs yet."


def test_hostile_names_keep_the_shape_of_the_table(make_record: Make) -> None:
    records = runs(make_record, "online_rl", {"final_return": 1.0, "area_under_curve": 1.0}, 1.0)
    for record in records:
        record.config["shift"]["name"] += "|b<script>\x1b[31m"
    text = score_tables(build_study(records))
    assert "<script>" not in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {4}
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    for table in console_tables(records):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    assert "\x1b" not in console.file.getvalue()


def test_a_block_of_the_docs_sees_one_family_only(tmp_path: Path, make_record: Make) -> None:
    own = [make_record("blur", m, s, 1.0) for m in ("hard_switch", "smoothing") for s in range(6)]
    compact(own, tmp_path / "a.parquet")
    online = runs(make_record, "online_rl", {"final_return": 7.0, "area_under_curve": 1.0}, 9.0)
    compact(online, tmp_path / "b.parquet")
    blocks = ("results", "scores family=online_rl")
    text = "".join(f"<!-- segue:begin {b} -->\n<!-- segue:end {b} -->\n" for b in blocks)
    (tmp_path / "README.md").write_text(text)
    update_docs(tmp_path, [tmp_path / "a.parquet", tmp_path / "b.parquet"])
    first, _, second = (tmp_path / "README.md").read_text().partition("segue:end results")
    assert "1 shift, 2 methods" in first
    assert "contrast" not in first
    assert "Return at the end of training" in second
    assert "contrast" in second
