"""Executing a grid: in order, in parallel, resumable, and never stopped by one failed run."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from segue.checks import check_count
from segue.runs.context import RunContext, RunResult, Store
from segue.runs.grid import RunConfig, expand, run_id
from segue.runs.progress import Progress
from segue.runs.records import (
    Record,
    load_records,
    read_record,
    remove_unfinished,
    write_atomically,
    write_record,
)
from segue.runs.worker import Job, failed_record, start_worker, work, work_packed

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["RunContext", "RunResult", "Summary", "execute"]

_POLL_SECONDS = 0.5
_NO_WORKERS = (
    "the worker processes could not start or were all ended while idle; what was done is kept. "
    'A script that calls execute needs `if __name__ == "__main__":` around the call'
)


@dataclass(frozen=True)
class Summary:
    """What became of a grid."""

    num_completed: int
    num_failed: int
    num_skipped: int
    seconds: float


class RequirementFailedError(RuntimeError):
    """A run could not start: a run that it requires has failed or came out otherwise."""


class WorkerDiedError(RuntimeError):
    """The process of a run ended before the run did (killed, out of memory, crashed)."""


def execute(
    configs: Iterable[RunConfig],
    out: Path,
    *,
    num_workers: int | None = None,
    data_root: str | None = None,
    results: Path | None = None,
    console: Console | None = None,
    checkpoint_seconds: float = 20.0,
    checkpoint_steps: int | None = None,
    command: str | None = None,
    retry_failed: bool = False,
    device: str = "cpu",
) -> Summary:
    """Execute a grid of runs; what has a record is skipped, what was cut off resumes.

    A run that is only required by others (a source model) is executed when one of them is still to
    be done. A run that fails, or whose process dies, gets a record that says why; what requires it
    fails with it, the rest goes on.

    Args:
        configs: The runs.
        out: Folder for records, artifacts and checkpoints.
        num_workers: Worker processes, one torch thread each; one per core by default, 0 for this
            process, with one torch thread as well, so that the results are the same.
        data_root: Data folder, handed to the runs.
        results: Parquet file of records whose runs need not be done again; it need not exist yet.
        console: Shows progress there.
        checkpoint_seconds: Least time between two checkpoints of a run.
        checkpoint_steps: Also write one every so many steps; None for time alone.
        command: Command line, for the records.
        retry_failed: Run again what has failed before.
        device: Where the runs train, as torch names it; several workers may share one GPU.

    Raises:
        ValueError: If torch cannot use ``device``.
        OSError: If ``out`` cannot be written, or another process executes a grid in it.
        RuntimeError: If the worker processes cannot start.
    """
    started = time.monotonic()
    workers = os.cpu_count() or 1 if num_workers is None else num_workers
    check_count("num_workers", workers)
    _check_device(device)
    store = Store(out)
    write_atomically(out / ".writable", b"")  # an unwritable folder is known before any training
    lock = FileLock(out / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OSError(
            f"another process executes runs in {out}; wait for it, or use --out"
        ) from None
    with lock:
        grid = list(configs)
        _tidy(grid, store)
        kept = load_records(results) if results is not None and results.exists() else []
        pending = _pending(grid, store, kept, retry_failed)
        job = Job(store, data_root, checkpoint_seconds, command, checkpoint_steps, device)
        expected = {
            record.run_id: record.artifacts["artifact"]["sha256"]
            for record in kept
            if "artifact" in record.artifacts
        }
        num_due = len({run_id(config) for config in grid} & {run_id(c) for c in pending})
        progress = Progress(
            pending,
            num_skipped=len({run_id(config) for config in grid}) - num_due,
            console=console,
        )
        with progress:
            if workers == 0:
                _execute_here(pending, job, progress, expected)
            else:
                num_processes = min(workers, max(1, len(pending)))
                _execute_in_pool(pending, job, progress, expected, num_processes)
    return Summary(
        progress.num_completed,
        progress.num_failed,
        progress.num_skipped,
        time.monotonic() - started,
    )


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # an AssertionError if built without CUDA
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device must be one that torch can use, got {device!r}: {reason}"
        ) from None


def _pending(
    configs: Sequence[RunConfig], store: Store, kept: Sequence[Record], retry_failed: bool
) -> list[RunConfig]:
    """Return what is to be executed, requirements first."""
    wanted, asked_for = expand(configs), {run_id(config) for config in configs}
    places = sorted({store.records(c) for c in wanted if store.records(c).exists()})
    here = {record.run_id: record.status for record in load_records(places)}
    # A record in the folder wins over a kept one.
    status = {record.run_id: record.status for record in kept} | here
    needed: set[str] = set()
    pending: list[RunConfig] = []
    for config in reversed(wanted):  # dependants before what they require
        identity = run_id(config)
        failed = status.get(identity) == "failed" and not retry_failed
        if identity in needed:
            # A record alone is no use to a run that starts from the artifact; an artifact alone is
            # what a run leaves that was cut off just before its record.
            whole = here.get(identity) == "completed" and store.artifact(config).exists()
            due = not failed and not whole
        else:
            done = failed or status.get(identity) == "completed"
            due = identity in asked_for and not done
        if due:
            pending.append(config)
            needed.update(run_id(required) for required in config.requires())
    return pending[::-1]


def _tidy(grid: Sequence[RunConfig], store: Store) -> None:
    """Remove what a killed execution left beside its records: half a file, a spent checkpoint."""
    for config in expand(grid):
        checkpoint = store.checkpoint(config)
        record = store.records(config) / f"{run_id(config)}.json"
        if checkpoint.exists() and record.exists() and read_record(record).status == "completed":
            checkpoint.unlink()
    for folder in {store.records(c).parent for c in expand(grid)}:
        for kind in folder.glob("*/"):
            remove_unfinished(kind)


def _execute_here(
    pending: Sequence[RunConfig], job: Job, progress: Progress, expected: Mapping[str, str]
) -> None:
    def report(identity: str, share: float) -> None:
        progress.moved(identity, share)
        progress.refresh()

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for config in pending:
            unmet = _unmet(config, job.store, expected)
            if unmet:
                _fail(config, job, unmet, progress)
                continue
            progress.started(run_id(config))
            progress.finished(run_id(config), work(config, job, report))
    finally:
        torch.set_num_threads(num_threads)


def _execute_in_pool(
    pending: Sequence[RunConfig],
    job: Job,
    progress: Progress,
    expected: Mapping[str, str],
    num_workers: int,
) -> None:
    # Pebble, because a worker that is killed ends its own run only, not the pool.
    from pebble import ProcessExpired, ProcessPool

    context = multiprocessing.get_context("spawn")
    messages: Any = context.Queue()
    waiting = {run_id(config): config for config in pending}
    needs = {i: {run_id(r) for r in config.requires()} for i, config in waiting.items()}
    running: dict[Future[str], RunConfig] = {}
    under_way: set[str] = set()
    pool = ProcessPool(
        max_workers=num_workers, context=context, initializer=start_worker, initargs=(messages,)
    )
    try:
        while waiting or running:
            for identity, config in list(waiting.items()):
                if len(running) >= num_workers:
                    break
                if any(need in waiting or need in under_way for need in needs[identity]):
                    continue
                del waiting[identity]
                unmet = _unmet(config, job.store, expected)
                if unmet:
                    _fail(config, job, unmet, progress)
                    continue
                progress.started(identity)
                under_way.add(identity)
                running[pool.schedule(work_packed, args=(pickle.dumps(config), job))] = config
            done, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            _read(messages, progress)
            for future in done:
                config = running.pop(future)
                under_way.discard(run_id(config))
                error = future.exception()
                if error is None:
                    progress.finished(run_id(config), future.result())
                elif isinstance(error, ProcessExpired):
                    _fail(config, job, _death(error.exitcode), progress)
                elif isinstance(error, BrokenExecutor):
                    raise RuntimeError(_NO_WORKERS) from error
                elif isinstance(error, OSError):
                    raise error  # the record itself could not be written
                else:
                    _fail(config, job, error, progress)
        pool.close()  # type: ignore[no-untyped-call]
    except BaseException:
        pool.stop()  # type: ignore[no-untyped-call]
        raise
    finally:
        pool.join()


def _death(exit_code: int | None) -> WorkerDiedError:
    reason = f"exit code {exit_code}"
    if exit_code is not None and exit_code < 0:
        reason = f"signal {-exit_code}, {signal.strsignal(-exit_code)}"
    return WorkerDiedError(f"the worker process ended before the run did ({reason})")


def _unmet(
    config: RunConfig, store: Store, expected: Mapping[str, str]
) -> RequirementFailedError | None:
    """Say why a run cannot start: what it requires has failed, or came out otherwise than before."""
    for required in config.requires():
        name = f"the {required.kind} run {run_id(required)} that it starts from"
        if not store.artifact(required).exists():
            return RequirementFailedError(f"{name} has failed")
        before = expected.get(run_id(required))
        record = read_record(store.records(required) / f"{run_id(required)}.json")
        now = record.artifacts["artifact"]["sha256"]
        if before is not None and now != before:
            return RequirementFailedError(
                f"{name} gave other weights than those behind the records in results (SHA-256 "
                f"{now[:12]}, not {before[:12]}), so the two could not be paired; make all runs anew "
                "without results, or go on with the type of processor that made them"
            )
    return None


def _fail(config: RunConfig, job: Job, error: BaseException, progress: Progress) -> None:
    write_record(job.store.records(config), failed_record(config, job, error))
    progress.finished(run_id(config), "failed")


def _read(messages: Any, progress: Progress) -> None:
    while True:
        try:
            identity, share = messages.get_nowait()
        except queue.Empty:
            break
        progress.moved(identity, share)
    progress.refresh()
