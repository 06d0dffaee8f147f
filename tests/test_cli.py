"""The command line, on a preset of digits that takes seconds."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from segue import cli
from segue.experiments.families import Phase, Preset
from segue.experiments.supervised import presets
from segue.experiments.supervised.grids import one_rate
from segue.experiments.supervised.setting import DIGITS
from segue.runs.records import compact, load_records

TINY = replace(DIGITS, num_source_steps={"all": 20}, num_target_steps=8, num_smoothing_steps=4)


@pytest.fixture(autouse=True)
def _tiny_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    def grid(names: tuple[str, ...], seeds: range):  # type: ignore[no-untyped-def]
        return lambda records: one_rate(TINY, ["label_permutation"], names, seeds, 0.05)

    both = ("hard_switch", "smoothing")
    monkeypatch.setitem(
        presets.PRESETS,
        "tiny",
        Preset(
            "two phases",
            (Phase("first", grid(both, range(1))), Phase("second", grid(both, range(2)))),
        ),
    )
    monkeypatch.setenv("COLUMNS", "120")


def run(*arguments: str) -> None:
    cli.main(list(arguments))


def tiny(out: Path, *more: str) -> None:
    run("run", "supervised", "--preset", "tiny", "--out", str(out), "--num-workers", "0", *more)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_run_executes_all_phases_and_writes_tables_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny(tmp_path)
    printed = capsys.readouterr().out
    assert "label permutation" in printed
    assert "smoothing" in printed
    page = (tmp_path / "supervised-tiny.html").read_text()
    assert "<html" in page
    records = load_records(tmp_path)
    assert sorted(r.kind for r in records) == ["source"] * 2 + ["target"] * 4
    assert {r.provenance["command"].split()[0] for r in records} == {"segue"}


def test_the_command_in_records_names_no_folder() -> None:
    words = ["run", "supervised", "--data", "/home/me/data", "--out=/tmp/x", "--results=r.parquet"]
    expected = "segue run supervised --data .../data --out=.../x --results=r.parquet"
    assert cli._command(words) == expected


def test_run_again_does_nothing_and_status_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny(tmp_path)
    before = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("records/*.json"))]
    tiny(tmp_path)
    assert before == [p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("records/*.json"))]
    capsys.readouterr()
    run("status", "--out", str(tmp_path))
    row = next(line for line in capsys.readouterr().out.splitlines() if "supervised" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")] == ["supervised", "6", "0", "0"]


def test_results_hold_all_records_and_save_running_them_again(tmp_path: Path) -> None:
    results = tmp_path / "supervised.parquet"
    tiny(tmp_path / "first", "--results", str(results))
    assert len(load_records(results)) == 6
    tiny(tmp_path / "second", "--results", str(results))
    assert not list((tmp_path / "second").rglob("*.json"))
    assert len(load_records(results)) == 6


def test_a_report_is_rebuilt_from_records_without_torch(tmp_path: Path) -> None:
    tiny(tmp_path / "runs")
    results = tmp_path / "supervised.parquet"
    compact(load_records(tmp_path / "runs"), results)
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "jax", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
from segue.cli import main
main(sys.argv[1:])
"""
    page = tmp_path / "page.html"
    done = subprocess.run(
        [sys.executable, "-c", code, "report", str(results), "--out", str(page)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert done.returncode == 0, done.stderr
    assert "label permutation" in done.stdout
    assert page.exists()


def test_a_dry_run_counts_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny(tmp_path, "--dry-run")
    assert "first: 3 runs, 1,408 gradient examples" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_cite_names_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    run("cite")
    printed = capsys.readouterr().out
    assert "2607.00634" in printed
    assert printed.count("{") == printed.count("}")


def test_wrong_arguments_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGUE_DATA", raising=False)
    out = ("--out", str(tmp_path / "runs"))
    unknown = fails(capsys, "run", "supervised", "--preset", "qick", *out)
    assert unknown.startswith("segue: unknown preset 'qick'; did you mean 'quick'")
    assert "unknown family 'vison'" in fails(capsys, "run", "vison", *out)
    assert "needs a data folder: pass --data" in fails(capsys, "run", "supervised", *out)
    nowhere = fails(capsys, "run", "supervised", "--data", str(tmp_path / "no"), *out)
    assert f"looked for {tmp_path}/no/cifar10/" in nowhere
    assert "found no records" in fails(capsys, "status", *out)
    assert not (tmp_path / "runs").exists()
    (tmp_path / "file").write_text("")
    assert "could not write" in fails(
        capsys, "run", "supervised", "--preset", "tiny", "--out", str(tmp_path / "file")
    )


@pytest.mark.slow
def test_the_demo_ends_in_nine_methods_and_seven_seeds(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from segue.cli import main; main()",
            "demo",
            "--out",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert done.stdout.count("from scratch") >= 3
    targets = [record for record in load_records(tmp_path) if record.kind == "target"]
    assert len(targets) == 3 * 9 * 7
    assert all(record.status == "completed" for record in targets)
    assert (tmp_path / "report.html").exists()


def test_the_help_of_run_names_every_preset() -> None:
    help_text = " ".join((cli.run.__doc__ or "").split())
    for name in presets.PRESETS:
        part = name.removeprefix("ablate") if name.startswith("ablate-") else name
        assert part in help_text or name == "tiny", name


def test_data_needs_a_folder_with_policies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGUE_DATA", raising=False)
    assert "pass --data FOLDER" in fails(capsys, "data", str(tmp_path / "out"))
    assert "policies" in fails(capsys, "data", str(tmp_path / "out"), "--data", str(tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.data
def test_data_writes_a_set_that_can_be_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = os.environ.get("SEGUE_DATA")
    if not root:
        pytest.skip("needs real policies: set SEGUE_DATA to the data folder")
    wanted = ("--tasks", "hopper", "--qualities", "medium", "--num-transitions", "1000")
    run("data", str(tmp_path), "--data", root, *wanted)
    printed = capsys.readouterr().out
    from segue.rl import data

    written = list(tmp_path.glob("hopper-medium*.npz"))
    assert len(written) == 1
    assert written[0].name in printed.replace("\n", "")
    assert len(data.read(str(written[0])).rewards) >= 1000


@pytest.mark.parametrize(
    ("family", "preset"),
    [("language", "paper"), ("online_rl", "standard"), ("offline_to_online", "standard")],
)
def test_every_family_says_what_a_preset_would_take(
    family: str, preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("run", family, "--preset", preset, "--dry-run")
    assert "gradient examples" in capsys.readouterr().out
