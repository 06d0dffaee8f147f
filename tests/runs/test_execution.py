import io
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_family import TinySource, TinyTarget

from segue.runs.checkpoint import load_checkpoint
from segue.runs.context import RunContext, Store
from segue.runs.execution import execute
from segue.runs.grid import run_id
from segue.runs.progress import Progress
from segue.runs.records import Record, compact, load_records

SOURCE = TinySource(seed=0)


def targets(*methods: str, source: TinySource = SOURCE) -> list[TinyTarget]:
    return [TinyTarget(source, method) for method in methods]


def by_id(out: Path) -> dict[str, Record]:
    return {record.run_id: record for record in load_records(out)}


def test_requirements_run_first_and_every_run_has_a_record(tmp_path: Path) -> None:
    configs = targets("a", "b")
    summary = execute(configs, tmp_path, num_workers=0, command="segue run tiny")
    assert (summary.num_completed, summary.num_failed, summary.num_skipped) == (3, 0, 0)
    records = by_id(tmp_path)
    assert set(records) == {run_id(config) for config in (SOURCE, *configs)}
    source = records[run_id(SOURCE)]
    assert source.metrics == {"loss": 0.5, "count": 3, "name": "a", "flag": True, "missing": None}
    assert source.provenance["command"] == "segue run tiny"
    assert source.provenance["versions"]["torch"]
    assert (tmp_path / "tiny" / source.artifacts["artifact"]["file"]).exists()
    assert not list((tmp_path / "tiny").glob("checkpoints/*"))


def test_worker_processes_give_the_records_of_one_process(tmp_path: Path) -> None:
    configs = targets("a", "b")
    execute(configs, tmp_path / "here", num_workers=0)
    execute(configs, tmp_path / "there", num_workers=2)

    def content(out: Path) -> list[tuple[object, ...]]:
        return [(r.run_id, r.metrics, r.curves, r.artifacts) for r in load_records(out)]

    assert content(tmp_path / "here") == content(tmp_path / "there")


def test_what_is_done_is_skipped_and_adding_a_method_reruns_nothing(tmp_path: Path) -> None:
    execute(targets("a"), tmp_path, num_workers=0)
    before = by_id(tmp_path)
    summary = execute(targets("a", "b"), tmp_path, num_workers=0)
    assert (summary.num_completed, summary.num_skipped) == (1, 1)
    after = by_id(tmp_path)
    assert all(after[identity] == record for identity, record in before.items())


def test_adding_a_seed_reruns_nothing(tmp_path: Path) -> None:
    execute(targets("a"), tmp_path, num_workers=0)
    more = targets("a") + targets("a", source=TinySource(seed=1))
    assert execute(more, tmp_path, num_workers=0).num_completed == 2


def test_runs_in_the_committed_file_are_not_run_again(tmp_path: Path) -> None:
    execute(targets("a"), tmp_path / "first", num_workers=0)
    results = tmp_path / "tiny.parquet"
    compact(load_records(tmp_path / "first"), results)
    summary = execute(targets("a"), tmp_path / "second", num_workers=0, results=results)
    assert (summary.num_completed, summary.num_skipped) == (0, 1)
    # A new method needs the source model, whose artifact is not in the file.
    summary = execute(targets("a", "b"), tmp_path / "second", num_workers=0, results=results)
    assert (summary.num_completed, summary.num_skipped) == (2, 1)


def test_a_failed_run_is_recorded_and_the_grid_goes_on(tmp_path: Path) -> None:
    configs = [TinyTarget(SOURCE, "a", ending="raises"), *targets("b")]
    summary = execute(configs, tmp_path, num_workers=0)
    assert (summary.num_completed, summary.num_failed) == (2, 1)
    error = by_id(tmp_path)[run_id(configs[0])].error
    assert error is not None
    assert (error["type"], error["message"]) == ("RuntimeError", "exploded at step 3")
    assert 'File "tests/runs/tiny_family.py", line' in error["traceback"]
    assert str(Path(__file__).parent) not in error["traceback"]
    assert execute(configs, tmp_path, num_workers=0).num_skipped == 2
    assert execute(configs, tmp_path, num_workers=0, retry_failed=True).num_failed == 1


def test_what_requires_a_failed_run_fails_with_that_reason(tmp_path: Path) -> None:
    bad = TinySource(seed=0, fails=True)
    configs = [*targets("a", source=bad), *targets("a")]
    summary = execute(configs, tmp_path, num_workers=0)
    assert (summary.num_completed, summary.num_failed) == (2, 2)
    error = by_id(tmp_path)[run_id(configs[0])].error
    assert error is not None
    assert error["message"] == f"the source run {run_id(bad)} that it starts from has failed"


def test_a_killed_worker_is_recorded_and_the_grid_goes_on(tmp_path: Path) -> None:
    configs = [TinyTarget(SOURCE, "a", ending="is_killed"), *targets("b", "c")]
    summary = execute(configs, tmp_path, num_workers=1)
    assert (summary.num_completed, summary.num_failed) == (3, 1)
    error = by_id(tmp_path)[run_id(configs[0])].error
    assert error is not None
    assert error["type"] == "WorkerDiedError"
    assert "signal 9, Killed" in error["message"]


def test_a_run_that_gives_no_json_fails_alone(tmp_path: Path) -> None:
    configs = [TinyTarget(SOURCE, "a", ending="gives_a_tensor"), *targets("b")]
    summary = execute(configs, tmp_path, num_workers=0)
    assert (summary.num_completed, summary.num_failed) == (2, 1)
    error = by_id(tmp_path)[run_id(configs[0])].error
    assert error is not None
    assert error["message"].startswith("metric 'loss' must be a number")


def test_a_failed_source_leaves_no_artifact_to_start_from(tmp_path: Path) -> None:
    bad = TinySource(seed=0, gives_a_tensor=True)
    assert execute(targets("a", source=bad), tmp_path, num_workers=0).num_failed == 2


def test_runs_that_cannot_be_unpacked_or_exit_fail_alone(tmp_path: Path) -> None:
    configs = [
        TinyTarget(SOURCE, "a", ending="cannot_be_unpacked"),
        TinyTarget(SOURCE, "a", ending="exits"),
        *targets("b"),
    ]
    summary = execute(configs, tmp_path, num_workers=1)
    assert (summary.num_completed, summary.num_failed) == (2, 2)
    errors = [by_id(tmp_path)[run_id(config)].error or {} for config in configs[:2]]
    assert [error["type"] for error in errors] == ["ModuleNotFoundError", "SystemExit"]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_record_that_cannot_be_written_stops_the_grid_with_its_path(
    tmp_path: Path, num_workers: int
) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "records").symlink_to(tmp_path / "not" / "there")
    (tmp_path / "not").write_text("a file where a folder should be")
    with pytest.raises(OSError, match=f"could not write .*{run_id(SOURCE)}.json"):
        execute([SOURCE], tmp_path, num_workers=num_workers)


def test_a_full_disk_fails_the_run_but_keeps_its_checkpoint(tmp_path: Path) -> None:
    config = TinyTarget(SOURCE, "a", ending="disk_is_full")
    assert execute([config], tmp_path, num_workers=0).num_failed == 1
    error = by_id(tmp_path)[run_id(config)].error
    assert error is not None
    assert "No space left on device" in error["message"]
    assert load_checkpoint(Store(tmp_path).checkpoint(config))["state"] == {"step": 1}
    assert execute([config], tmp_path, num_workers=0, retry_failed=True).num_failed == 1
    assert by_id(tmp_path)[run_id(config)].timing["num_resumes"] == 1


@pytest.mark.parametrize("ending", ["raises", "returns"])
def test_the_checkpoint_of_a_run_that_ended_is_removed(tmp_path: Path, ending: str) -> None:
    config = TinyTarget(SOURCE, "a", ending=ending)
    RunContext(config, Store(tmp_path)).save_checkpoint({"step": 1})
    execute([config], tmp_path, num_workers=0)
    assert not Store(tmp_path).checkpoint(config).exists()


def test_an_artifact_without_its_record_is_made_again(tmp_path: Path) -> None:
    execute([SOURCE], tmp_path, num_workers=0)
    (Store(tmp_path).records(SOURCE) / f"{run_id(SOURCE)}.json").unlink()
    assert execute(targets("a"), tmp_path, num_workers=0).num_completed == 2
    assert set(by_id(tmp_path)) == {run_id(SOURCE), run_id(targets("a")[0])}


def test_runs_in_this_process_have_one_thread_too(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        execute([SOURCE], tmp_path, num_workers=0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert by_id(tmp_path)[run_id(SOURCE)].provenance["num_threads"] == 1


def test_checkpoints_are_due_by_step_or_by_time(tmp_path: Path) -> None:
    by_step = RunContext(SOURCE, Store(tmp_path), checkpoint_seconds=1e9, checkpoint_steps=3)
    assert [step for step in range(1, 8) if by_step.should_checkpoint(step)] == [3, 6]
    assert RunContext(SOURCE, Store(tmp_path), checkpoint_seconds=0.0).should_checkpoint(1)
    assert not RunContext(SOURCE, Store(tmp_path), checkpoint_seconds=1e9).should_checkpoint(1)


def test_a_metric_that_is_not_a_number_is_null_and_named(tmp_path: Path) -> None:
    config = TinyTarget(SOURCE, "a", ending="gives_nan")
    execute([config], tmp_path, num_workers=0)
    record = by_id(tmp_path)[run_id(config)]
    assert record.metrics == {"loss": None, "score": 1.0}
    assert record.status == "completed"
    assert record.non_finite == ["loss"]


def test_an_unreadable_checkpoint_is_set_aside_with_a_warning(tmp_path: Path) -> None:
    context = RunContext(SOURCE, Store(tmp_path))
    context.save_checkpoint({"step": 3})
    path = Store(tmp_path).checkpoint(SOURCE)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.warns(UserWarning, match="set aside as .*, the run starts over"):
        assert context.load_checkpoint() is None
    assert path.with_suffix(".unreadable").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert context.load_checkpoint() is None


def test_a_checkpoint_remembers_time_and_resumes(tmp_path: Path) -> None:
    RunContext(SOURCE, Store(tmp_path), _elapsed=100.0).save_checkpoint({"step": 3})
    context = RunContext(SOURCE, Store(tmp_path))
    assert context.load_checkpoint() == {"step": 3}
    assert context.num_resumes == 1
    assert context.elapsed >= 100.0


def test_an_unwritable_folder_is_an_error_before_any_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not write"):
        execute(targets("a"), tmp_path / "file" / "out", num_workers=0)


def test_a_second_execution_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    inside, finish = threading.Event(), threading.Event()

    class Waiting(TinySource):
        def execute(self, context: RunContext):  # type: ignore[no-untyped-def]
            inside.set()
            finish.wait(30)
            return super().execute(context)

    first = threading.Thread(
        target=lambda: execute([Waiting(seed=5)], tmp_path, num_workers=0), daemon=True
    )
    first.start()
    assert inside.wait(30)
    try:
        with pytest.raises(OSError, match="another process executes runs in"):
            execute(targets("a"), tmp_path, num_workers=0)
    finally:
        finish.set()
        first.join()
    assert execute(targets("a"), tmp_path, num_workers=0).num_completed == 2


def test_plain_progress_ends_in_a_line_with_counts(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    configs = [TinyTarget(SOURCE, "a", ending="raises"), *targets("b")]
    execute(configs, tmp_path, num_workers=0, console=console)
    execute([*configs, *targets("c")], tmp_path, num_workers=0, console=console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == ["3/3 runs, 0 running, 1 failed", "1/1 runs, 0 running, 2 were done before"]


def test_time_left_is_the_cost_that_remains_at_the_measured_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    configs = [replace(SOURCE, seed=seed, num_steps=10) for seed in range(4)]
    progress = Progress(configs, num_skipped=0, console=None)
    assert progress.seconds_left() is None
    now = 20.0
    progress.finished(run_id(configs[0]), "completed")
    assert progress.seconds_left() == pytest.approx(60.0)
    # A run resumed at half its steps is no sign of speed, but there is less left to do.
    progress.moved(run_id(configs[1]), 0.5)
    assert progress.seconds_left() == pytest.approx(50.0)
    progress.moved(run_id(configs[1]), 1.0)
    assert progress.seconds_left() == pytest.approx(20.0 * 20.0 / 15.0)


def test_a_quick_failure_is_no_speed_and_a_resumed_run_counts_for_its_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    configs = [replace(SOURCE, seed=seed, num_steps=10) for seed in range(4)]
    progress = Progress(configs, num_skipped=0, console=None)
    progress.finished(run_id(configs[0]), "failed")
    now = 20.0
    assert progress.seconds_left() is None
    progress.moved(run_id(configs[1]), 0.5)
    progress.finished(run_id(configs[1]), "completed")
    assert progress.seconds_left() == pytest.approx(80.0)  # 5 of 10 done in 20 s, 20 left


def test_a_message_overtaken_by_the_end_of_its_run_changes_nothing() -> None:
    progress = Progress([SOURCE, replace(SOURCE, seed=1)], num_skipped=0, console=None)
    progress.started(run_id(SOURCE))
    assert progress.text().startswith("0/2 runs, 1 running")
    progress.finished(run_id(SOURCE), "completed")
    progress.moved(run_id(SOURCE), 0.9)
    assert progress.text().startswith("1/2 runs, 0 running")


def test_runs_are_not_added_to_records_that_started_from_other_weights(tmp_path: Path) -> None:
    execute(targets("a"), tmp_path / "first", num_workers=0)
    records = [
        replace(record, artifacts={"artifact": {"file": "", "sha256": "0" * 64}})
        if record.kind == "source"
        else record
        for record in load_records(tmp_path / "first")
    ]
    results = tmp_path / "tiny.parquet"
    compact(records, results)
    summary = execute(targets("a", "b"), tmp_path / "second", num_workers=0, results=results)
    assert (summary.num_completed, summary.num_failed, summary.num_skipped) == (1, 1, 1)
    error = by_id(tmp_path / "second")[run_id(targets("b")[0])].error
    assert error is not None
    assert "gave other weights than those behind the records in results" in error["message"]


def test_an_artifact_whose_record_is_only_in_results_is_made_again(tmp_path: Path) -> None:
    execute(targets("a"), tmp_path, num_workers=0)
    results = tmp_path / "tiny.parquet"
    compact(load_records(tmp_path), results)
    for path in (tmp_path / "tiny" / "records").glob("*.json"):
        path.unlink()
    summary = execute(targets("a", "b"), tmp_path, num_workers=0, results=results)
    assert (summary.num_completed, summary.num_failed, summary.num_skipped) == (2, 0, 1)
