"""Console and Markdown tables, and the generated blocks of documents."""

from __future__ import annotations

import dataclasses
import io
import statistics
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from segue.report.console import console_tables
from segue.report.docs import FIGURE, outdated_docs, replace_blocks, update_docs
from segue.report.study import build_study
from segue.report.svg import forest_svg
from segue.report.tables import (
    ablation_table,
    default_k_text,
    markdown_table,
    primary_table,
    sequence_table,
    settings_table,
    verdict_list,
)
from segue.report.tuning import rate_table, tuning_table
from segue.runs.records import Record, compact

Make = Callable[..., list[Record]]


def _printed(records: list[Record]) -> str:
    console = Console(file=io.StringIO(), width=160, force_terminal=False)
    for table in console_tables(records):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_console_table_shows_means_differences_and_verdicts(make_records: Make) -> None:
    text = _printed(make_records(shifts=("blur", "contrast"), ablations=False))
    assert "▲ helps" in text
    assert "9 (+1 bad)" in text
    assert "Does smoothing reach a higher target accuracy than the hard switch?" in text
    assert "the loss is nan at step 41" in text


def test_console_prints_hostile_names_without_control_characters(hostile: list[Record]) -> None:
    text = _printed(hostile)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b" in text


def test_markdown_table_has_a_row_a_method_and_a_column_a_shift(records: list[Record]) -> None:
    lines = [line for line in markdown_table(records).splitlines() if line.startswith("|")]
    shifts = [name.strip() for name in lines[0].strip("|").split("|")]
    assert shifts[0] == "method"
    assert len(shifts) == 1 + 9
    assert {line.count("|") for line in lines} == {1 + 1 + 9}
    smoothing = next(line for line in lines if line.startswith("| smoothing |"))
    assert "(+2.6 ▲)" in smoothing.strip("|").split("|")[shifts.index("blur")]


def test_markdown_of_hostile_names_keeps_its_shape(hostile: list[Record]) -> None:
    text = markdown_table(hostile)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "<script" not in text
    assert "](" not in text


def test_primary_table_names_the_chosen_baseline(records: list[Record]) -> None:
    text = primary_table(build_study(records))
    row = next(line for line in text.splitlines() if line.startswith("| pixel permutation"))
    assert "from scratch" in row
    assert row.count("▼") == 2


def test_ablation_tables_show_every_value_and_the_safest_k(records: list[Record]) -> None:
    study = build_study(records)
    text = default_k_text(study)
    assert "| 30 | 150 | 300 | 600 |" in text
    assert "K = 150, that is 25.0 % of the steps" in text
    assert "| 64 | 256 | 1,024 | all |" in ablation_table(study, "method.num_bank_examples")
    assert "300 target steps" in settings_table(study)


def test_svg_is_well_formed_and_shows_every_shift(
    records: list[Record], hostile: list[Record]
) -> None:
    picture = ElementTree.fromstring(forest_svg(build_study(records)))
    words = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert "label permutation" in words
    assert "−1.6" in words
    elements = {
        e.tag.rpartition("}")[2]
        for e in ElementTree.fromstring(forest_svg(build_study(hostile))).iter()
    }
    assert elements <= {"svg", "title", "style", "text", "line", "rect", "circle"}


@pytest.fixture
def project(tmp_path: Path, make_records: Make) -> tuple[Path, list[Path]]:
    (tmp_path / "docs").mkdir()
    block = "<!-- segue:begin {0} -->\nold\n<!-- segue:end {0} -->\n"
    (tmp_path / "README.md").write_text(
        "# T\n"
        + block.format("primary")
        + "mid [x](docs/a.md)\n"
        + block.format("figure")
        + "end\n"
    )
    (tmp_path / "docs" / "a.md").write_text("A [y](docs/z)\n" + block.format("figure"))
    (tmp_path / "docs" / "plain.md").write_text("no block")
    results = tmp_path / "supervised.parquet"
    compact(make_records(shifts=("blur", "contrast"), ablations=False), results)
    return tmp_path, [results]


def test_blocks_are_rewritten_and_the_rest_stays(project: tuple[Path, list[Path]]) -> None:
    root, results = project
    changed = update_docs(root, results)
    assert set(changed) == {root / "README.md", root / "docs/a.md", root / FIGURE}
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# T\n<!-- segue:begin primary -->\n| shift |")
    assert "mid [x](docs/a.md)\n" in readme
    assert "(docs/paired-differences.svg)" in readme
    assert readme.endswith("<!-- segue:end figure -->\nend\n")
    page = (root / "docs/a.md").read_text(encoding="utf-8")
    assert "A [y](docs/z)\n" in page
    assert "(paired-differences.svg)" in page


def test_second_run_changes_nothing(project: tuple[Path, list[Path]]) -> None:
    root, results = project
    assert len(outdated_docs(root, results)) == 3
    update_docs(root, results)
    assert outdated_docs(root, results) == []
    assert update_docs(root, results) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- segue:begin results -->\nx\n", "needs its own end mark"),
        ("x\n<!-- segue:end results -->\n", "opens or closes no block"),
        ("<!-- segue:begin resluts -->\n<!-- segue:end resluts -->\n", "results"),
        (
            "<!-- segue:begin results -->\n<!-- segue:begin k -->\n<!-- segue:end results -->\n",
            "own end",
        ),
    ],
)
def test_wrong_marks_are_errors_that_name_the_document(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        replace_blocks(text, str, "docs/a.md")
    assert "docs/a.md" in str(error.value)


@pytest.mark.parametrize(
    ("condition", "shown"), [("blur", ["blur"]), ("blur|contrast", ["blur", "contrast"])]
)
def test_a_block_with_conditions_looks_at_their_runs_only(
    make_records: Make, tmp_path: Path, condition: str, shown: list[str]
) -> None:
    records = make_records(shifts=("blur", "class_split", "contrast"), ablations=False)
    compact(records, tmp_path / "supervised.parquet")
    name = f"results shift.name={condition}"
    (tmp_path / "README.md").write_text(f"<!-- segue:begin {name} -->\n<!-- segue:end {name} -->\n")
    update_docs(tmp_path, [tmp_path / "supervised.parquet"])
    text = (tmp_path / "README.md").read_text()
    assert f"| method | {' | '.join(shown)} |" in text


def test_a_condition_of_another_form_is_refused() -> None:
    text = "<!-- segue:begin results blur -->\n<!-- segue:end results blur -->\n"
    with pytest.raises(ValueError, match="conditions must be PATH=VALUE, got 'blur'"):
        replace_blocks(text, str)


def test_untuned_runs_show_their_first_claim_everywhere_but_not_as_primary(
    make_records: Make,
) -> None:
    records = make_records(shifts=("blur", "contrast"), ablations=False, tuning=False)
    study = build_study(records)
    assert "Does smoothing reach a higher target accuracy" in _printed(records)
    assert "not adjusted for the number of shifts" in forest_svg(study)
    text = primary_table(study)
    assert "| blur |" in text
    assert "Not a primary verdict" in text
    assert "Not a primary verdict" not in primary_table(
        build_study(make_records(shifts=("blur", "contrast"), ablations=False))
    )


def test_captions_and_verdicts_say_what_the_numbers_rest_on(records: list[Record]) -> None:
    assert "Holm over the shifts, for each method by itself" in markdown_table(records)
    line = next(x for x in verdict_list(build_study(records)).splitlines() if "equal compute" in x)
    assert "(read from each run's own curve where it had spent" in line


def test_the_tuning_table_has_a_row_a_rate_and_marks_the_best(make_records: Make) -> None:
    text = tuning_table(build_study(make_records(shifts=("blur", "contrast"), ablations=False)))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0].startswith("| method | learning rate | blur | contrast |")
    smoothing = [line for line in lines if line.startswith("| smoothing |")]
    assert len(smoothing) >= 2
    for column in (3, 4):
        assert sum("**" in line.split("|")[column] for line in smoothing) == 1
    assert "tuning seeds that are done" in text


def test_without_tuning_runs_the_tuning_table_says_so() -> None:
    assert tuning_table(build_study([])) == "No tuning runs yet."


def test_the_rate_table_averages_over_the_shifts_that_every_cell_has(make_records: Make) -> None:
    records = make_records(shifts=("blur", "contrast"), ablations=False)
    tuned = [r for r in records if r.config["split"] == "validation"]
    whole = rate_table(build_study(tuned))
    assert "mean over 2 shifts" in whole
    rows = [line for line in whole.splitlines() if line.startswith("| smoothing |")]
    rates = sorted({r.config["optimizer"]["learning_rate"] for r in tuned})
    means = [
        statistics.fmean(
            statistics.fmean(
                r.metrics["target_accuracy"]
                for r in tuned
                if (r.config["method"]["name"], r.config["shift"]["name"]) == ("smoothing", shift)
                and r.config["optimizer"]["learning_rate"] == rate
            )
            for shift in ("blur", "contrast")
        )
        for rate in rates
    ]
    assert [f"{100 * mean:.1f}" for mean in means] == rows[0].split(" | ")[1 : 1 + len(rates)]
    lacking = [
        r
        for r in tuned
        if (r.config["method"]["name"], r.config["shift"]["name"]) != ("l2sp", "contrast")
    ]
    assert "mean over 1 shifts" in rate_table(build_study(lacking))


def test_a_sequence_shows_every_method_with_its_difference_to_the_hard_switch(
    make_record: Callable[..., Record],
) -> None:
    records = []
    for method, gain in (("hard_switch", 0.0), ("smoothing", 2.0)):
        for seed in range(3):
            record = make_record("blur > contrast", method, seed, gain)
            metrics = {
                "target_accuracy": 0.5 + 0.01 * gain,
                "average_accuracy": 0.4,
                "min_accuracy": 0.3 - 0.01 * gain,
                "worst_case_accuracy": None,
            }
            records.append(dataclasses.replace(record, kind="sequence", metrics=metrics))
    text = sequence_table(build_study(records))
    assert "| hard switch | 3 | 50.0 ± 0.0 |" in text
    assert (
        "| smoothing | 3 | 52.0 ± 0.0, +2.0 (2.0 to 2.0) | 40.0 ± 0.0, 0.0 (0.0 to 0.0) |" in text
    )
    assert "28.0 ± 0.0, −2.0 (−2.0 to −2.0) | – |" in text
    assert sequence_table(build_study([])) == "No sequences yet."


def test_a_condition_on_the_budget_keeps_the_tuning_runs_of_another(
    project: tuple[Path, list[Path]],
) -> None:
    root, results = project
    text = "<!-- segue:begin tuning num_target_steps=1 -->\n<!-- segue:end tuning num_target_steps=1 -->"
    (root / "README.md").write_text(text)
    update_docs(root, results)
    assert "learning rate" in (root / "README.md").read_text()
