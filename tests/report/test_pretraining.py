"""The gain against the pretraining budget, on records whose gains are known."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from segue.report.page import write_report
from segue.report.pretraining import gain_by_budget, pretraining_markdown, pretraining_tables
from segue.report.study import build_study
from segue.runs.records import Record

Make = Callable[..., Record]
BUDGETS = (32, 64, 128, 256)


def run(make: Make, shift: str, method: str, budget: int, seed: int, loss: float) -> Record:
    record = make(shift, "smoothing" if method == "smoothing" else "hard_switch", seed, 0.0)
    config = copy.deepcopy(record.config)
    config["method"]["name"] = method
    config["num_pretraining_steps"] = budget
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    metrics = {"target_loss": loss, "source_loss": 2 * loss}
    return dataclasses.replace(
        record, family="language", config=config, metrics=metrics, run_id=digest[:16], curves={}
    )


def language(
    make: Make,
    shifts: tuple[str, ...] = ("gsm8k",),
    seeds: int = 10,
    budgets: tuple[int, ...] = BUDGETS,
) -> list[Record]:
    """Smoothing's loss is lower by 0.1 at the first budget and 0.05 more with each doubling."""
    records = []
    for shift in shifts:
        for place, budget in enumerate(budgets):
            for seed in range(seeds):
                hard = 3.0 - 0.2 * place + 0.01 * seed
                gain = 0.1 + 0.05 * place + 0.004 * (seed % 2)
                records += [
                    run(make, shift, "hard_switch", budget, seed, hard),
                    run(make, shift, "smoothing", budget, seed, hard - gain),
                    run(make, shift, "constant_replay", budget, seed, hard + 0.01 * (-1) ** seed),
                ]
    return records


def test_each_budget_has_its_verdict_and_the_last_row_the_slope(make_record: Make) -> None:
    tables = pretraining_tables(build_study(language(make_record, ("gsm8k", "shakespeare"))))
    assert [t.title for t in tables] == [
        "gsm8k: target loss", "shakespeare: target loss", "gsm8k: source loss", "shakespeare: source loss",
    ]  # fmt: skip
    columns, rows = tables[0].columns, tables[0].rows
    place = columns.index("smoothing")
    assert [row[0] for row in rows] == ["32", "64", "128", "256", "for each doubling"]
    assert [row[1].split(" ")[0] for row in rows[:4]] == ["3.045", "2.845", "2.645", "2.445"]
    assert [row[place][:8] for row in rows[:4]] == ["▲ −0.102", "▲ −0.152", "▲ −0.202", "▲ −0.252"]
    assert rows[4][place] == "−0.0500 (−0.0500 to −0.0500)"
    assert {row[columns.index("constant replay")][0] for row in rows[:4]} == {"○"}
    # Twice the loss, and so twice the slope.
    assert tables[2].rows[4][place] == "−0.1000 (−0.1000 to −0.1000)"


def test_the_slope_is_of_seeds_with_every_budget(make_record: Make) -> None:
    records = language(make_record)
    cut = [
        r for r in records
        if r.config["seed"] < 8 or r.config["num_pretraining_steps"] != 256
    ]  # fmt: skip
    table = pretraining_tables(build_study(cut))[0]
    assert "over 8 to 10 seeds" in table.caption
    assert table.rows[4][table.columns.index("smoothing")].startswith("−0.0500")
    short = [r for r in records if r.config["seed"] == 0 or r.config["num_pretraining_steps"] == 32]
    table = pretraining_tables(build_study(short))[0]
    assert table.rows[4][table.columns.index("smoothing")] == "–"


def test_a_method_at_some_budgets_is_compared_at_those(make_record: Make) -> None:
    records = language(make_record)
    some = [
        r for r in records
        if r.config["method"]["name"] != "constant_replay" or r.config["num_pretraining_steps"] < 128
    ]  # fmt: skip
    whole, cut = (pretraining_tables(build_study(runs))[0] for runs in (records, some))
    place = whole.columns.index("constant replay")
    assert [row[place] for row in cut.rows[2:4]] == ["–", "–"]
    assert cut.rows[4][place] == "0.0000 (0.0000 to 0.0000)"
    assert "over 10 seeds" in cut.caption


def test_methods_at_few_budgets_are_left_to_the_tables_of_those(make_record: Make) -> None:
    records = language(make_record, ("gsm8k", "shakespeare"))
    few = [
        run(make_record, "gsm8k", "lora", 256, seed, 9.0 + 0.01 * seed) for seed in range(10)
    ]  # one of four budgets
    study = build_study(records + few)
    assert [t.rows for t in pretraining_tables(study)] == [
        t.rows for t in pretraining_tables(build_study(records))
    ]
    plot = gain_by_budget(study, {}, name="gain")
    assert plot is not None
    assert {row[1] for row in plot.sheet.rows} == {"smoothing", "constant_replay"}


def test_equal_compute_has_a_column_of_its_own(make_record: Make) -> None:
    records = language(make_record)
    k, replay = 150, 64  # the smoothing of the fixture, with batches of 64 and 600 steps
    longer = []
    for seed in range(10):
        record = run(make_record, "gsm8k", "hard_switch", 256, seed, 2.3)
        record.config["num_target_steps"] += k * replay // record.config["batch_size"]
        longer.append(dataclasses.replace(record, run_id=f"e{seed}"))
    table = pretraining_tables(build_study(records + longer))[0]
    place = table.columns.index("smoothing against the hard switch at equal compute")
    # 3.0 - 0.6 + 0.045 - 0.252 at the last budget, against 2.3.
    assert [row[place][:8] for row in table.rows[:4]] == ["–", "–", "–", "▲ −0.107"]
    plain = pretraining_tables(build_study(records))[0]
    assert [row[:place] for row in table.rows] == [row[:place] for row in plain.rows]
    plot = gain_by_budget(build_study(records + longer), {}, name="gain")
    assert plot is not None
    assert {row[1] for row in plot.sheet.rows} == {"smoothing", "constant_replay"}


def test_another_setting_with_one_budget_hides_no_trend(tmp_path: Path, make_record: Make) -> None:
    records = language(make_record, seeds=6, budgets=(32, 64))
    longer = language(make_record, ("gsm8k", "shakespeare", "code"), budgets=(32,))
    for record in longer:
        record.config["num_target_steps"] = 999
    records += [dataclasses.replace(r, run_id=f"z{i}") for i, r in enumerate(longer)]
    assert len(pretraining_tables(build_study(records))) == 2
    text = write_report(records, tmp_path / "page.html").read_text()
    assert "The gain against the pretraining budget" in text


def test_one_budget_is_no_trend(tmp_path: Path, make_record: Make) -> None:
    records = language(make_record, budgets=(32,))
    study = build_study(records)
    assert pretraining_markdown(study) == "No runs yet."
    assert gain_by_budget(study, {}, name="x") is None
    text = write_report(records, tmp_path / "one.html").read_text()
    assert "against the pretraining budget" not in text


def test_the_page_draws_a_panel_a_target_with_gains_upwards(
    tmp_path: Path, make_record: Make
) -> None:
    # Three panels: their ends add up to more than 1 by rounding.
    records = language(make_record, ("code", "gsm8k", "shakespeare"), seeds=6)
    plot = gain_by_budget(build_study(records), {"smoothing": "#123456"}, name="gain")
    assert plot is not None
    gains = {row[:3]: row[3:6] for row in plot.sheet.rows}
    value, low, high = gains["gsm8k", "smoothing", 256]
    assert value == pytest.approx(0.252)
    assert low < value < high
    assert len({trace.xaxis for trace in plot.figure.data}) == 3
    text = write_report(records, tmp_path / "page.html").read_text()
    assert "The gain against the pretraining budget" in text
    assert "for each doubling" in text
