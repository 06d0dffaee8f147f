"""The page and the tables of the families that are judged by returns or losses, and of vision."""

from __future__ import annotations

import base64
import copy
import dataclasses
import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from segue.report.diagnosis import diagnosis_markdown, diagnosis_table, end_of_ramp
from segue.report.docs import update_docs
from segue.report.offline_agents import offline_agents_table
from segue.report.page import write_report
from segue.report.release import release_table
from segue.report.score_study import judge_scores
from segue.report.score_tables import (
    aggregate_markdown,
    controls_markdown,
    score_tables,
    switch_markdown,
)
from segue.report.study import build_study
from segue.report.tuning import chosen_table, rate_table, tuning_table
from segue.runs.records import Record, compact

Make = Callable[..., Record]
STEPS = [0, 1, 100, 500, 1000, 2000, 5000, 10000, 15000, 20000]


def online(
    shift: str, method: str, seed: int, gain: float, rate: float = 0.001, split: str = "test"
) -> Record:
    """A run of PPO whose return is 100 at the start and 200 + gain at the end, on a changing task."""
    noise = np.random.default_rng([seed, len(shift)]).normal()
    scale = 10.0 if shift == "pendulum-gravity" else 1.0
    final = scale * (200.0 + gain + noise)
    config = {
        "shift": {"name": shift},
        "method": {"name": method, "smoothing_share": 0.5 * (method == "smoothing")},
        "seed": seed, "learning_rate": rate, "split": split,
        # Budget and learner are the task's, as in the real family.
        "num_env_steps": int(2048 * scale), "learner": {"num_envs": int(8 * scale)},
        "num_evaluations": 20,
    }  # fmt: skip
    steps = [0, int(1024 * scale), int(2048 * scale)]
    return Record(
        run_id=f"{shift}-{method}-{seed}-{rate}-{split}", family="online_rl", kind="target",
        config=config, status="completed",
        metrics={
            "final_return": final, "area_under_curve": 0.75 * final, "return_at_change": 1.0,
            "policy_churn": 0.01, "value_churn": 1.0, "num_gradient_examples": 1000,
        },
        curves={
            "return": {"step": steps, "value": [100.0 * scale, 150.0 * scale, final]},
            "policy_churn": {"step": list(range(1, 400)), "value": [0.01] * 399},
        },
    )  # fmt: skip


def offline(shift: str, method: str, seed: int) -> Record:
    """A run that falls from 80: smoothing only after its ramp of 10,000 steps, the other at once."""
    ramps = method == "smoothing"
    late = {"smoothing": 12_000, "hard_switch": 0, "smoothing_floor": 10**9}[method]
    scores = [80.0 + seed if step <= late else 5.0 for step in STEPS]
    weights = [max(0.0, 1.0 - step / 10_000) if ramps else 0.0 for step in STEPS]
    if method == "smoothing_floor":
        weights = [0.2] * len(STEPS)
    drop = scores[0] - min(scores[1:])
    config = {
        "shift": {"name": shift}, "seed": seed, "num_env_steps": 20_000,
        "source": {
            "shift": {"name": shift}, "seed": seed,
            "learner": {"hidden_widths": [64, 64], "layer_norm_critic": method == "smoothing_floor"},
        },
        "method": {"name": method, "schedule": {"num_smoothing_steps": 10_000 * ramps}},
    }  # fmt: skip
    return Record(
        run_id=f"{shift}-{method}-{seed}", family="offline_to_online", kind="target",
        config=config, status="completed",
        metrics={
            "score_start": scores[0], "score_largest_drop": drop, "score_relative_drop": drop / scores[0],
            "score_fell_over_10": drop > 10, "score_area_below_start": 1000.0 * drop,
            "score_num_env_steps_to_regain": None if drop else 0, "score_mean_score": 40.0 - drop / 2,
            "score_final": scores[-1], "score_lowest": min(scores), "score_lowest_early": scores[6],
        },
        curves={
            "score": {"step": STEPS, "value": scores},
            "source_weight": {"step": STEPS, "value": weights},
            "train_q_mean": {"step": STEPS[3:], "value": [float(s) / 100 for s in STEPS[3:]]},
            "start_value_error": {"step": STEPS, "value": [1.0] * len(STEPS)},
        },
    )  # fmt: skip


SHIFTS = ("cartpole-force", "pendulum-gravity")


@pytest.fixture(scope="module")
def online_records() -> list[Record]:
    gains = {"hard_switch": 0.0, "smoothing": 10.0, "larger_batches": -10.0}
    runs = [online(s, m, seed, g) for s in SHIFTS for m, g in gains.items() for seed in range(8)]
    runs += [
        online(s, m, seed, 0.0 if rate == 0.003 else -50.0, rate, "validation")
        for s in SHIFTS for m in gains for seed in (1000, 1001) for rate in (0.001, 0.003)
    ]  # fmt: skip
    return runs


@pytest.fixture(scope="module")
def offline_records() -> list[Record]:
    methods = ("hard_switch", "smoothing", "smoothing_floor")
    shifts = ("hopper-medium", "walker2d-medium")
    return [offline(s, m, seed) for s in shifts for m in methods for seed in range(7)]


def test_tasks_of_one_learner_are_one_regime_whatever_their_budgets(
    online_records: list[Record],
) -> None:
    study = build_study(online_records)
    assert [regime.shifts for regime in study.regimes] == [SHIFTS]
    assert len(study.regimes[0].records) == 48


def test_learners_whose_arms_share_names_are_not_mixed(online_records: list[Record]) -> None:
    other = [
        dataclasses.replace(
            r, run_id="t" + r.run_id,
            config={**r.config, "shift": {"name": "td3-targets-pendulum"},
                    "method": {**r.config["method"], "updates_factor": 1.0}},
        )
        for r in online_records if r.config["shift"]["name"] == SHIFTS[0]
    ]  # fmt: skip
    study = build_study([*online_records, *other])
    assert [r.settings["learner"] for r in study.shown] == ["PPO", "TD3 targets"]
    text = score_tables(study)
    assert text.count("| method |") == 4
    assert "**learner TD3 targets**" in text


def test_normalised_scores_put_the_hard_switch_at_1_on_every_scale(
    online_records: list[Record],
) -> None:
    judged = judge_scores(build_study(online_records).regimes[0])[0]
    hard, smooth = judged.aggregates["hard_switch"], judged.aggregates["smoothing"]
    assert hard.mean.value == pytest.approx(1.0)
    # 10 above a hard switch that gained about 100: both tasks count alike though one is ten times the other.
    assert smooth.mean.value == pytest.approx(1.1, abs=0.01)
    assert smooth.num_tasks == 2
    assert smooth.probability is not None
    assert smooth.probability.value == 1.0
    assert hard.probability is None


def test_a_loss_that_training_lowers_counts_upwards_and_forgetting_downwards() -> None:
    runs = []
    for shift in ("gsm8k", "shakespeare"):
        for seed in range(6):
            for method, target, source in (("hard_switch", 2.0, 4.0), ("smoothing", 1.8, 3.5)):
                wobble = 0.01 * seed
                runs.append(
                    Record(
                        run_id=f"{shift}-{seed}-{method}", family="language", kind="target",
                        config={"shift": {"name": shift}, "method": {"name": method}, "seed": seed},
                        status="completed",
                        metrics={"target_loss": target + wobble, "source_loss": source + wobble},
                        curves={
                            "target_loss": {"step": [0, 9], "value": [4.0, target]},
                            "source_loss": {"step": [0, 9], "value": [3.0, source]},
                        },
                    )
                )  # fmt: skip
    study = build_study(runs)
    target, source = judge_scores(study.regimes[0])
    assert (
        target.aggregates["smoothing"].mean.value > 1.0 > source.aggregates["smoothing"].mean.value
    )
    for judged in (target, source):
        probability = judged.aggregates["smoothing"].probability
        assert probability is not None
        assert probability.value == 1.0
    text = aggregate_markdown(study)
    assert "Target loss (nats per token) over 2 tasks, higher is better" in text
    assert "Source loss (nats per token) over 2 tasks, lower is better" in text
    sentence = target.claim.sentence if target.claim else ""
    assert "2 of 2 shifts" in sentence
    assert "−0.200 nats" in target.versus["gsm8k", "smoothing"].verdict.sentence


def test_too_few_runs_are_not_aggregated(online_records: list[Record]) -> None:
    few = [r for r in online_records if r.config["seed"] in (0, 1)]
    assert judge_scores(build_study(few).regimes[0])[0].aggregates == {}


def test_chosen_rates_and_every_rate_are_tabled(online_records: list[Record]) -> None:
    study = build_study(online_records)
    chosen = chosen_table(study)
    assert "| smoothing | 0.003 | 0.003 |" in chosen
    assert "by return at the end of training" in chosen
    rows = [line for line in tuning_table(study).splitlines() if line.startswith("| smoothing |")]
    assert len(rows) == 2
    assert rows[1].count("**") == 4
    assert "no common scale" in rate_table(study)


def test_the_switch_table_counts_falls_and_seeds_that_regain(offline_records: list[Record]) -> None:
    text = switch_markdown(build_study(offline_records))
    assert text.count("| method |") == 2
    hard = next(line for line in text.splitlines() if line.startswith("| hard switch"))
    floor = next(line for line in text.splitlines() if line.startswith("| smoothing floor"))
    assert "| 100 |" in hard
    assert hard.endswith("| never (0 of 7) |")
    assert floor.endswith("| 0 (7 of 7) |")


def test_layer_norm_critics_do_not_drop_a_method_and_widths_make_a_regime(
    offline_records: list[Record],
) -> None:
    assert len(build_study(offline_records).regimes[0].methods) == 3
    wide = copy.deepcopy(offline_records)
    for record in wide:
        record.config["source"]["learner"]["hidden_widths"] = [256, 256]
    wide = [dataclasses.replace(r, run_id="w" + r.run_id) for r in wide]
    assert len(build_study([*offline_records, *wide]).regimes) == 2


def test_the_four_moments_follow_each_runs_own_ramp(offline_records: list[Record]) -> None:
    regime = build_study(offline_records).regimes[0]
    table = diagnosis_table(regime, "hopper-medium")
    assert table is not None
    rows = {
        (row[0], row[1]): dict(zip(table.columns[2:], row[2:], strict=True)) for row in table.rows
    }
    assert rows["smoothing", "just after λ reaches 0"]["step"] == "10,000"
    assert rows["smoothing", "lowest within the ramp"]["D4RL-reference score"] == "83.0"
    # Without a ramp of its own: within the treatment's.
    assert rows["hard switch", "lowest within the ramp"]["step"] == "1"
    assert rows["hard switch", "lowest within the ramp"]["D4RL-reference score"] == "5.0"
    assert rows["smoothing floor", "just after λ reaches 0"]["step"] == "–"
    assert rows["smoothing", "before the switch"]["Q of the batch"] == "–"
    assert rows["smoothing", "at the end"]["Q of the batch"] == "200.0"
    assert end_of_ramp(regime, "hopper-medium") == 10_000
    assert diagnosis_markdown(build_study(offline_records)).count("| method |") == 2


def test_the_fall_once_the_source_is_gone_is_taken_from_the_score_then(
    offline_records: list[Record],
) -> None:
    regime = build_study(offline_records).regimes[0]
    table = release_table(regime, "hopper-medium")
    assert table is not None
    assert [row[0] for row in table.rows] == ["hard switch", "smoothing"]  # the floor never lets go
    hard, smoothing = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert (hard["λ = 0 by step"], smoothing["λ = 0 by step"]) == ("0", "10,000")
    for row in (hard, smoothing):
        assert (row["start S₀"], row["score then"]) == ("83.0", "83.0")
        assert row["lowest within 10,000 steps after"] == "5.0"
        assert row["change"] == "−78.0 (−80.0 to −76.0)"
        assert row["fell by over 10 points"] == "7 of 7"
    # Let go at once, after the evaluation at 5,000: what the next one shows is no score "then".
    sudden = [
        dataclasses.replace(
            r,
            curves={
                **r.curves,
                "score": {"step": STEPS, "value": [80.0 if s <= 5_000 else 5.0 for s in STEPS]},
                "source_weight": {"step": STEPS, "value": [float(s <= 5_000) for s in STEPS]},
            },
        )
        for r in offline_records
        if r.config["method"]["name"] != "hard_switch"
    ]
    table = release_table(build_study(sudden).regimes[0], "hopper-medium")
    assert table is not None
    assert table.rows[0][1:6] == ("10,000", "80.0", "80.0", "5.0", "−75.0 (−75.0 to −75.0)")
    # A run that ends sooner than 10,000 steps after λ = 0 would be looked at for a shorter time.
    cut = [
        dataclasses.replace(
            r, curves={n: {k: v[:-1] for k, v in c.items()} for n, c in r.curves.items()}
        )
        for r in offline_records
    ]
    table = release_table(build_study(cut).regimes[0], "hopper-medium")
    assert table is not None
    assert [row[0] for row in table.rows] == ["hard switch"]


def source(shift: str, seed: int, updates: int, plateau: bool, norm: bool = False) -> Record:
    learner = {"hidden_widths": [64, 64], "layer_norm_critic": norm}
    return Record(
        run_id=f"{shift}-{seed}-{norm}", family="offline_to_online", kind="source", status="completed",
        config={"shift": {"name": shift}, "seed": seed, "learner": learner, "min_updates": 30_000},
        metrics={
            "num_offline_updates": updates, "reached_plateau": plateau, "data_score": 40.0,
            "offline_return": 1000.0 + seed, "offline_score": 50.0 + seed,
        },
    )  # fmt: skip


def test_the_offline_agents_say_how_many_reached_a_plateau(offline_records: list[Record]) -> None:
    sources = [source("hopper-medium", 0, 30_000, True), source("hopper-medium", 2, 60_000, False)]
    sources += [source("hopper-medium", 0, 35_000, True, norm=True)]
    table = offline_agents_table(build_study([*offline_records, *sources]))
    assert table is not None
    plain, norm = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert plain["updates"] == "30,000 to 60,000"
    assert plain["at a plateau"] == "1 of 2"
    assert plain["score"] == "51.0 ± 1.4"
    assert plain["CORL's score (other data)"] == "60.4"
    assert (norm["hidden units"], norm["updates"]) == ("64 × 64 with LayerNorm", "35,000")
    assert norm["score"] == "50.0"
    assert offline_agents_table(build_study(offline_records)) is None


@pytest.fixture(scope="module")
def family_pages(
    tmp_path_factory: pytest.TempPathFactory,
    online_records: list[Record],
    offline_records: list[Record],
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {
        "online": write_report(online_records, folder / "online.html"),
        "offline": write_report(offline_records, folder / "offline.html"),
        "both": write_report([*online_records, *offline_records], folder / "both.html"),
    }


def content(page: Path) -> tuple[str, dict[str, Any]]:
    """Text before the figures, and the figures and files."""
    html = page.read_text(encoding="utf-8")
    text, _, rest = html.partition('<script type="application/json" id="segue-data">')
    return re.sub(r"<style>.*?</style>|<[^>]+>", " ", text, flags=re.S), json.loads(
        rest.partition("</script>")[0]
    )


def test_a_page_of_returns_speaks_of_returns(family_pages: dict[str, Path]) -> None:
    text, data = content(family_pages["online"])
    assert "accuracy" not in text
    assert "Return at the end of training: is smoothing higher than the hard switch?" in text
    assert "▲ helps" in text
    assert "p 0.0078, Holm 0.016" in " ".join(text.split())
    assert len(data["figures"]) == 2 * 2 + 2  # IQM and probability a score, curves a task
    assert "setting1_results.csv" in data["files"]
    assert (family_pages["online"].parent / "online_data" / "setting1_scores.csv").is_file()


def test_the_change_of_the_task_is_marked_where_it_is(family_pages: dict[str, Path]) -> None:
    figures = content(family_pages["online"])[1]["figures"]
    marks = [
        a["x"] for f in figures.values() for a in f["layout"].get("annotations", [])
        if a["text"] == "the task changes"
    ]  # fmt: skip
    assert marks == [1024, 10240]


def test_long_curves_are_thinned(family_pages: dict[str, Path]) -> None:
    figures = content(family_pages["online"])[1]["figures"]
    lengths = [len(t["x"]) for f in figures.values() for t in f["data"] if t.get("mode") == "lines"]
    assert max(lengths) == 100


def test_the_offline_page_shows_start_ramp_and_diagnosis(family_pages: dict[str, Path]) -> None:
    text, data = content(family_pages["offline"])
    assert "lowest within the ramp" in text
    assert "steps to regain S₀" in text
    assert text.count("λ = 0 by step") == 2
    assert "return at the switch" in text
    notes = [
        a["text"] for f in data["figures"].values() for a in f["layout"].get("annotations", [])
    ]
    assert notes.count("S₀ 83.0") == 2
    assert notes.count("λ = 0 in smoothing") == 4  # curves and diagnosis of two tasks
    titles = json.dumps(data["figures"])
    assert "twin gap" not in titles  # no run has it
    assert "Q of the batch" in titles


def test_families_share_a_page_each_with_its_own_scores(family_pages: dict[str, Path]) -> None:
    text, _ = content(family_pages["both"])
    assert "Return at the end of training" in text
    assert "Mean of the D4RL-reference score over online training" in text
    assert "A network trained on a source objective" in text


def test_blocks_of_the_docs_hold_these_tables(
    tmp_path: Path, online_records: list[Record], offline_records: list[Record]
) -> None:
    compact(online_records, tmp_path / "online.parquet")
    compact(offline_records, tmp_path / "offline.parquet")
    blocks = (
        "scores family=online_rl", "aggregate family=online_rl", "score-tuning family=online_rl",
        "switch family=offline_to_online", "release family=offline_to_online",
        "diagnosis family=offline_to_online method.name=smoothing",
    )  # fmt: skip
    text = "".join(f"<!-- segue:begin {b} -->\n<!-- segue:end {b} -->\n" for b in blocks)
    (tmp_path / "README.md").write_text(text)
    update_docs(tmp_path, [tmp_path / "online.parquet", tmp_path / "offline.parquet"])
    made = (tmp_path / "README.md").read_text()
    assert "No runs yet" not in made
    for words in (
        "Return at the end",
        "IQM",
        "Learning rate chosen",
        "largest drop",
        "just after λ",
        "λ = 0 by step",
    ):
        assert words in made, words
    diagnosis = made.partition("begin diagnosis")[2]
    assert "hard switch" not in diagnosis


def vision(
    make: Make,
    num_examples: int,
    scales: dict[str, float],
    class_names: str | None = '["dog", "<b>horse"]',
) -> list[Record]:
    """Hard switch and two smoothing methods on two shifts; the scale of one is tuned shift by shift."""
    records = []
    for shift in ("blur", "contrast"):
        for seed in range(6):
            for method, gain in (("hard_switch", 0.0), ("smoothing", 1.0)):
                record = make(
                    shift, method, seed, gain + num_examples / 100, num_examples=num_examples
                )
                config = copy.deepcopy(record.config)
                config["method"]["scale"] = scales[shift] if method == "smoothing" else 1.0
                curves = {
                    **record.curves,
                    "target_confusion": {"step": [0, 1, 2, 3], "value": [8, 2, 1, 9]},
                }
                records.append(
                    dataclasses.replace(
                        record, family="vision", config=config, curves=curves,
                        metrics={**record.metrics, "class_names": class_names},
                        run_id=f"v{num_examples}-{record.run_id}",
                    )
                )  # fmt: skip
    return records


def test_a_tuned_scale_does_not_split_a_method(make_record: Make) -> None:
    study = build_study(vision(make_record, 100, {"blur": 1.0, "contrast": 10.0}))
    assert len(study.regimes) == 1
    assert study.regimes[0].others == ()
    assert len(study.regimes[0].records) == 24
    assert "method.scale" in study.regimes[0].tuned_paths


def test_vision_shows_confusion_and_accuracy_over_examples(
    tmp_path: Path, make_record: Make
) -> None:
    scales = {"blur": 1.0, "contrast": 10.0}
    records = vision(make_record, 100, scales) + vision(make_record, 500, scales)
    text, data = content(write_report(records, tmp_path / "v.html"))
    maps = [t for f in data["figures"].values() for t in f["data"] if t["type"] == "heatmap"]
    shown = maps[0]["z"]
    assert len(maps) == 2 * 2 * 2  # two methods, shifts and numbers of examples
    assert [[round(v) for v in row] for row in shown] == [[80, 20], [10, 90]]
    assert maps[0]["x"] == maps[0]["y"] == ["dog", "&lt;b&gt;horse"]
    assert "Accuracy against the number of target examples" in text
    rows = data["files"]["accuracy_by_examples.csv"].splitlines()
    assert len(rows) == 1 + 2 * 2
    assert all(math.isfinite(float(row.split(",")[2])) for row in rows[1:])


@pytest.mark.parametrize("names", [None, "[", "7", '["dog"]', '["dog", "dog"]', "[[], {}]"])
def test_classes_that_no_record_names_are_numbered(
    tmp_path: Path, make_record: Make, names: str | None
) -> None:
    records = vision(make_record, 100, {"blur": 1.0, "contrast": 1.0}, names)
    _, data = content(write_report(records, tmp_path / "v.html"))
    maps = [t for f in data["figures"].values() for t in f["data"] if t["type"] == "heatmap"]
    assert maps[0]["x"] == (["[]", "{}"] if names == "[[], {}]" else ["0", "1"])


def test_the_page_without_vision_has_neither(family_pages: dict[str, Path]) -> None:
    assert "heatmap" not in json.dumps(content(family_pages["both"])[1]["figures"])


def test_controls_are_what_the_treatment_is_compared_with() -> None:
    gains = {"hard_switch": 0.0, "smoothing": 30.0, "more_epochs": 50.0}
    records = [
        online("cartpole", method, seed, gain)
        for method, gain in gains.items()
        for seed in range(8)
    ]
    records += [online("acrobot", method, seed, 0.0) for method in gains for seed in range(8)][:16]
    lines = controls_markdown(build_study(records)).splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines[:6] if line.startswith("| ")}
    assert "smoothing" not in rows
    assert "+30.0 (30.0 to 30.0) ▲" in rows["hard switch"]
    assert "−20.0 (−20.0 to −20.0) ▼" in rows["more epochs"]
    assert rows["more epochs"].split("|")[2].strip() == "–"  # acrobot has no run of it


def test_pictures_of_policies_stand_beside_their_shift_with_their_captions_as_text(
    offline_records: list[Record], tmp_path: Path
) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Description", 'at the switch: return "2,500"; at its lowest: 38')
    image = Image.new("RGB", (8, 8), (1, 2, 3))
    (tmp_path / "pictures").mkdir()
    image.save(tmp_path / "pictures/walker2d-medium-seed3.png", pnginfo=text)
    image.save(tmp_path / "pictures/walker2d-medium-seed3.webp", lossless=True)
    page = tmp_path / "page.html"
    write_report(offline_records, page, pictures=tmp_path / "pictures")
    html = page.read_text(encoding="utf-8")
    found = re.findall(r'<img src="data:(image/\w+);base64,([^"]+)" alt="([^"]*)"', html)
    assert [kind for kind, _, _ in found] == ["image/png", "image/webp"]  # the strip first
    assert found[0][2] == "at the switch: return &#34;2,500&#34;; at its lowest: 38"
    with Image.open(io.BytesIO(base64.b64decode(found[0][1]))) as embedded:
        assert embedded.getpixel((0, 0)) == (1, 2, 3)
    before = html[: html.index("<img ")]
    assert "<bdi>walker2d-medium</bdi>" in before[before.rindex("<summary>") :]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "found no picture in"),
        ("strip.png", "must be named <shift>-seed<seed>, got strip.png"),
        ("ant-medium-seed0.png", "unknown shift of a picture 'ant-medium'"),
    ],
)
def test_pictures_that_belong_to_no_shift_are_refused_before_a_page_is_written(
    offline_records: list[Record], tmp_path: Path, name: str | None, message: str
) -> None:
    if name is not None:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(ValueError, match=re.escape(message)):
        write_report(offline_records, tmp_path / "page.html", pictures=tmp_path)
    assert not (tmp_path / "page.html").exists()
