"""What the page says, and that nothing a record holds is more than text in it."""

from __future__ import annotations

import csv
import html.parser
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segue.report.page import write_report
from segue.runs.records import Record, compact, load_records

Make = Callable[..., list[Record]]


class _Parser(html.parser.HTMLParser):
    """Collects tags, attributes and visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text, self.data = "", ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag in ("script", "style"):
            self._inside = "data" if ("id", "segue-data") in attrs else tag

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "data":
            self.data += data
        elif not self._inside:
            self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, records: list[Record]) -> tuple[Path, _Parser]:
    out = write_report(records, tmp_path_factory.mktemp("page") / "deep" / "report.html")
    return out, _Parser(out.read_text(encoding="utf-8"))


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_part_of_the_report_is_there(page: tuple[Path, _Parser]) -> None:
    text = " ".join(page[1].text.split())
    for words in (
        "Does smoothing reach a higher target accuracy than the hard switch?",
        "Does smoothing beat the baseline chosen on the tuning seeds?",
        "Helps on 5, hurts on 1, undecided on 3 of 9 shifts",
        "Does smoothing keep more of the source accuracy?",
        "Paired differences", "All shifts together", "Ablations", "Provenance",
        "Smoothing steps K (optimizer steps)", "Replay bank (source examples)",
        "Normalisation layers", "label permutation", "constant mix throughout",
        "Baseline chosen on the tuning seeds: fresh head",
    ):  # fmt: skip
        assert words in text, words


def test_intervals_say_that_they_are_not_adjusted_and_do_not_break(
    page: tuple[Path, _Parser],
) -> None:
    text = page[1].text
    assert "each for its shift alone and not adjusted for their number" in text
    assert "95\u00a0% interval" in text
    assert "95 %" not in text


def test_an_untuned_page_shows_its_claim_but_no_primary_mark(
    tmp_path: Path, make_records: Make
) -> None:
    records = make_records(shifts=("blur", "contrast"), ablations=False, tuning=False)
    text = _Parser(write_report(records, tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "Does smoothing reach a higher target accuracy" in text
    assert "no tuning runs of both methods" in text
    assert "primary" not in text
    assert (tmp_path / "r_data" / "setting1_paired_differences.csv").is_file()


def test_failed_and_non_finite_runs_are_listed_with_their_reason(
    page: tuple[Path, _Parser],
) -> None:
    text = " ".join(page[1].text.split())
    assert "runs completed; 1 failed; 1 with values that are not finite" in text
    assert "FloatingPointError: the loss is nan at step 41" in text
    assert "not finite" in text
    assert "1 unusable" in text
    rows = _read(page[0].parent / "report_data" / "failures.csv")
    assert {(r["method"], r["seed"], r["what"]) for r in rows} == {
        ("from scratch", "3", "failed"),
        ("l2sp", "2", "not finite"),
    }


def test_provenance_names_versions_machine_commit_seeds_and_command(
    page: tuple[Path, _Parser],
) -> None:
    text = page[1].text
    for words in (
        "torch 2.13.0", "0123456789abcdef", "Synthetic CPU", "segue run supervised --preset standard",
        "validation: 1000, 1001", "time in runs",
    ):  # fmt: skip
        assert words in text, words


def test_page_refers_to_nothing_outside_itself(page: tuple[Path, _Parser]) -> None:
    parser = page[1]
    for tag, name, value in parser.attributes:
        if name in ("src", "href", "srcset", "action", "poster", "data"):
            assert value is not None
            assert value.startswith(("#", "data:,")), (tag, name, value)
    assert "link" in parser.tags  # the empty icon, so that no browser asks for one
    policy = next(value for _, name, value in parser.attributes if name == "content")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy


def test_every_figure_has_its_data_as_a_file_and_in_the_page(page: tuple[Path, _Parser]) -> None:
    out, parser = page
    content = json.loads(parser.data)
    folder = out.parent / "report_data"
    assert {path.name for path in folder.iterdir()} == set(content["files"])
    buttons = {value for _, name, value in parser.attributes if name == "data-file"}
    assert buttons == set(content["files"])
    assert len(content["figures"]) == 4 + 9 + 8  # pooled, shifts, sweeps


def test_csv_of_differences_equals_the_records(
    page: tuple[Path, _Parser], records: list[Record]
) -> None:
    rows = _read(page[0].parent / "report_data" / "setting1_paired_differences.csv")
    assert len(rows) == 18
    row = next(r for r in rows if r["shift"] == "pixel_permutation" and "hard" in r["baseline"])
    scores: dict[str, dict[int, float]] = {"hard_switch": {}, "smoothing": {}}
    for r in records:
        c = r.config
        if (
            c["shift"]["name"] == "pixel_permutation" and c["method"]["name"] in scores
            and c["split"] == "test" and c["num_target_steps"] == 600
        ):  # fmt: skip
            scores[c["method"]["name"]][c["seed"]] = r.metrics["target_accuracy"]
    differences = [scores["smoothing"][s] - scores["hard_switch"][s] for s in range(10)]
    assert float(row["mean_difference"]) == pytest.approx(math.fsum(differences) / 10)
    assert float(row["mean_difference"]) < 0  # negative numbers stay numbers
    assert (row["num_pairs"], row["decision"]) == ("10", "hurts")


def test_equal_records_and_seed_give_an_equal_page(tmp_path: Path, make_records: Make) -> None:
    records = make_records(num_seeds=3, shifts=("blur", "contrast"), ablations=False, tuning=False)
    first = write_report(records, tmp_path / "a" / "r.html").read_bytes()
    again = write_report(records[::-1], tmp_path / "b" / "r.html").read_bytes()
    other = write_report(records, tmp_path / "c" / "r.html", rng_seed=1).read_bytes()
    assert first == again
    assert first != other


def test_few_seeds_give_no_verdict_but_the_smallest_p(tmp_path: Path, make_records: Make) -> None:
    records = make_records(num_seeds=5, shifts=("blur", "class_split"))
    parser = _Parser(write_report(records, tmp_path / "r.html").read_text(encoding="utf-8"))
    text = " ".join(parser.text.split())
    assert "▲ helps" not in text
    assert "▼ hurts" not in text
    assert "○ undecided" in text
    assert "the smallest p that 5 pairs can reach is 0.12 after Holm over 2 comparisons" in text


@pytest.mark.parametrize("kind", ["none", "sources", "one method", "one run", "all failed"])
def test_page_is_written_whatever_the_records_lack(
    tmp_path: Path, make_records: Make, kind: str
) -> None:
    records = make_records(num_seeds=2, shifts=("blur",), ablations=False, tuning=False)
    if kind == "none":
        records = []
    elif kind == "sources":
        records = [Record("a", "supervised", "source", {"seed": 0}, "completed")]
    elif kind == "one method":
        records = [r for r in records if r.config["method"]["name"] == "l2sp"]
    elif kind == "one run":
        records = records[:1]
    else:
        records = [
            Record(r.run_id, r.family, r.kind, r.config, "failed", {"type": "E", "message": "m"})
            for r in records
        ]
    parser = _Parser(write_report(records, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "Provenance" in parser.text
    assert "▲ helps" not in parser.text


@pytest.fixture(scope="module")
def hostile_page(
    tmp_path_factory: pytest.TempPathFactory, hostile: list[Record], hostile_texts: list[str]
) -> Path:
    return write_report(
        hostile, tmp_path_factory.mktemp("hostile") / "r.html", title=hostile_texts[0]
    )


def test_hostile_text_is_text(hostile_page: Path, hostile_texts: list[str]) -> None:
    out, tmp_path = hostile_page, hostile_page.parent
    parser = _Parser(out.read_text(encoding="utf-8"))
    assert parser.tags.count("script") == 3
    assert not {"img", "iframe", "b-"} & set(parser.tags)
    assert not [name for _, name, _ in parser.attributes if name.startswith("on")]
    assert hostile_texts[0] in parser.text
    assert "{{ 7*7 }}" in parser.text
    for path in (tmp_path / "r_data").iterdir():
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.reader(file):
                for cell in row:
                    assert not re.match(r"[=+@\t\r]", cell), (path.name, cell)
                    if cell.startswith("-"):
                        float(cell)


def test_plotly_labels_hold_no_markup_of_a_record(hostile_page: Path) -> None:
    figures = json.loads(_Parser(hostile_page.read_text(encoding="utf-8")).data)["figures"]
    texts: list[str] = []

    def collect(value: Any) -> None:
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, list):
            for item in value:
                collect(item)
        elif isinstance(value, dict):
            for item in value.values():
                collect(item)

    collect(figures)
    assert any("&lt;script" in text for text in texts)
    tags = {tag for text in texts for tag in re.findall(r"<[^>]*>", text)}
    assert tags <= {"<br>"}


def test_report_needs_neither_torch_nor_jax_nor_transformers(
    tmp_path: Path, make_records: Make
) -> None:
    parquet = tmp_path / "supervised.parquet"
    compact(make_records(num_seeds=2, shifts=("blur",), ablations=False), parquet)
    code = f"""
import sys
ABSENT = ("torch", "jax", "transformers", "torchvision")
class Without:  # as if not installed: looking for them finds nothing, importing them raises
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in ABSENT:
            return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from pathlib import Path
from segue.runs.records import load_records
from segue.report import docs
from segue.report.page import write_report
from segue.report.console import console_tables
from segue.report.tables import markdown_table
records = load_records(Path({str(parquet)!r}))
write_report(records, Path({str(tmp_path / "r.html")!r}))
assert console_tables(records) and "| blur |" in markdown_table(records).splitlines()[0]
assert not set(ABSENT) & set(sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    direct = write_report(load_records(parquet), tmp_path / "again.html")
    assert direct.read_bytes() == (tmp_path / "r.html").read_bytes()
