import errno
import json
import multiprocessing
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.runs.records import (
    Record,
    compact,
    load_records,
    read_record,
    remove_unfinished,
    write_atomically,
    write_record,
)

HOSTILE = "<script>alert(1)</script>=1+1\x00\x1b[31m\u202eשלום" + "x" * 300


def make_record(identity: str = "a" * 16, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "run_id": identity,
        "family": "tiny",
        "kind": "target",
        "config": {"method": {"name": HOSTILE}, "seed": 3, "rate": 0.1, "sizes": [1, 2]},
        "status": "completed",
        "metrics": {"accuracy": 0.1 + 0.2, "count": 7, "note": HOSTILE, "flag": True, "none": None},
        "curves": {"loss": {"step": [0, 10], "value": [1.5, 1 / 3]}},
        "artifacts": {"weights": {"file": "w", "sha256": "0"}},
        "provenance": {"commit": None, "versions": {"python": "3.11"}},
        "timing": {"wall_seconds": 1.25},
    }
    return Record(**(values | changes))


def test_a_record_is_strict_json_and_survives_its_file(tmp_path: Path) -> None:
    record = make_record()
    path = write_record(tmp_path, record)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert read_record(path) == record


def test_a_value_that_is_not_finite_becomes_null_and_is_named(tmp_path: Path) -> None:
    curves = {"loss": {"step": [0, 1], "value": [float("inf"), 1.0]}}
    record = make_record(metrics={"accuracy": float("nan"), "b": 1.0}, curves=curves)
    read = read_record(write_record(tmp_path, record))
    assert read.metrics == {"accuracy": None, "b": 1.0}
    assert read.curves["loss"]["value"] == [None, 1.0]
    assert read.non_finite == ["accuracy", "loss"]


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"schema": 99}')
    with pytest.raises(ValueError, match=r"x\.json must be a record.*schema must be 1, got 99"):
        read_record(path)


def test_records_survive_the_parquet_file_exactly(tmp_path: Path) -> None:
    records = [
        make_record("b" * 16),
        make_record("a" * 16, metrics={"accuracy": float("nan"), "other": 2.0}, curves={}),
        make_record("c" * 16, status="failed", metrics={}, curves={}, error={"message": HOSTILE}),
        make_record("d" * 16, metrics={"accuracy": "now a string"}),
    ]
    compact(records, tmp_path / "tiny.parquet")
    loaded = load_records(tmp_path / "tiny.parquet")
    assert [asdict(record) for record in loaded] == [
        asdict(record) for record in sorted(records, key=lambda record: record.run_id)
    ]
    assert list(loaded[1].metrics) == list(records[0].metrics)


@settings(max_examples=40, deadline=None)
@given(
    metrics=st.dictionaries(
        st.text(max_size=5),
        st.one_of(st.floats(), st.integers(-(2**60), 2**60), st.text(), st.booleans(), st.none()),
        max_size=4,
    )
)
def test_any_metrics_survive_the_parquet_file(
    metrics: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("parquet") / "tiny.parquet"
    record = make_record(metrics=metrics)
    compact([record], path)
    assert load_records(path) == [record]


def test_the_parquet_file_does_not_depend_on_the_order_of_the_records(tmp_path: Path) -> None:
    records = [make_record(letter * 16) for letter in "abc"]
    compact(records, tmp_path / "1.parquet")
    compact(records[::-1], tmp_path / "2.parquet")
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_a_record_in_a_folder_wins_over_the_parquet_row(tmp_path: Path) -> None:
    compact([make_record(metrics={"accuracy": 0.1})], tmp_path / "tiny.parquet")
    write_record(tmp_path / "tiny" / "records", make_record(metrics={"accuracy": 0.9}))
    for order in (1, -1):
        paths = [tmp_path / "tiny.parquet", tmp_path / "tiny"][::order]
        assert [r.metrics["accuracy"] for r in load_records(paths)] == [0.9]


def test_two_families_in_one_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one file holds one family, got \['a', 'b'\]"):
        compact([make_record(family="a"), make_record("b" * 16, family="b")], tmp_path / "x")


def test_a_missing_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        load_records(tmp_path / "nowhere")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_thirty_two_writers_lose_no_row(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for part in range(8):
            write_record(tmp_path, make_record(f"{number:08d}{part:08d}", timing={"n": number}))

    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write, args=(number,)) for number in range(32)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 32
    assert len(load_records(tmp_path)) == 32 * 8
    assert not list(tmp_path.glob(".*"))


def test_others_may_read_a_record_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = write_record(tmp_path, make_record())
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("value", [np.float32(1), np.int64(1), np.bool_(True), [1], b"x"])
def test_a_metric_that_json_lacks_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match="metric 'accuracy' must be a number, string, bool or None"):
        make_record(metrics={"accuracy": value})


def test_steps_counted_by_numpy_become_integers(tmp_path: Path) -> None:
    curve = {"step": list(np.arange(2)), "value": list(np.ones(2, dtype=np.float32))}
    read = read_record(write_record(tmp_path, make_record(curves={"loss": curve})))
    assert read.curves["loss"] == {"step": [0, 1], "value": [1.0, 1.0]}


def test_a_text_that_has_no_utf8_survives_both_files(tmp_path: Path) -> None:
    record = make_record(error={"message": os.fsdecode(b"no such file: \xff")}, status="failed")
    path = write_record(tmp_path, record)
    path.read_bytes().decode("ascii")
    assert read_record(path) == record
    compact([record], tmp_path / "tiny.parquet")
    assert load_records(tmp_path / "tiny.parquet") == [record]


def test_names_that_look_like_columns_survive_the_parquet_file(tmp_path: Path) -> None:
    metrics = {"x": 1, "x.json": 0.5, "x.json.json": None, ".json": "a", "": 2, "metric.x": True}
    curve = {"step": [0], "value": [1.0]}
    record = make_record(metrics=metrics, curves={"a": curve, "a.step": curve, "a.value": curve})
    compact([record], tmp_path / "tiny.parquet")
    (read,) = load_records(tmp_path / "tiny.parquet")
    assert asdict(read) == asdict(record)


def test_only_unfinished_files_are_removed(tmp_path: Path) -> None:
    path = write_record(tmp_path, make_record())
    (tmp_path / f".{path.name}.0a.unfinished").write_bytes(b"half")
    (tmp_path / ".hidden").write_bytes(b"")
    remove_unfinished(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([".hidden", path.name])


def test_writers_of_one_file_leave_one_whole_version(tmp_path: Path) -> None:
    contents = [str(number).encode() * 10_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_atomically(tmp_path / "x", content), contents * 4))
    assert (tmp_path / "x").read_bytes() in contents


def test_a_full_disk_is_named_and_the_old_file_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    write_atomically(path, b"old")

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=r"could not write .*x \(No space left on device\)") as caught:
        write_atomically(path, b"new")
    assert "nothing that was saved is lost" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_a_real_file_size_limit_keeps_the_old_file(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from segue.runs.records import write_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "write_atomically(Path(sys.argv[1]), b'old')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "write_atomically(Path(sys.argv[1]), b'n' * 1000)\n"
    )
    assert resource.RLIMIT_FSIZE is not None
    path = tmp_path / "x"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert "could not write" in done.stderr
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_reading_records_needs_no_torch(tmp_path: Path) -> None:
    compact([make_record()], tmp_path / "tiny.parquet")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; from segue.runs.records import load_records\n"
        "print(len(load_records(Path(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tiny.parquet")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "1"


def test_changing_a_record_makes_another_one() -> None:
    record = make_record()
    assert replace(record, status="failed") != record


def test_a_parquet_file_of_something_else_is_named(tmp_path: Path) -> None:
    import polars as pl

    path = tmp_path / "other.parquet"
    pl.DataFrame({"a": [1]}).write_parquet(path)
    with pytest.raises(ValueError, match=r"other\.parquet must be a Parquet file of records"):
        load_records(path)
    path.write_bytes(b"not Parquet")
    with pytest.raises(ValueError, match=r"other\.parquet must be a Parquet file of records"):
        load_records(path)


@pytest.mark.parametrize("text", ["[]", '{"schema": 1, "metrics": [1]}', "{", '"x"'])
def test_json_of_something_else_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.json must be a record"):
        read_record(path)
