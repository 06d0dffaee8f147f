"""One run, in whatever process it happens to be executed."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from segue.batches import hash_content
from segue.runs.checkpoint import save_checkpoint
from segue.runs.context import RunContext, RunResult, Store
from segue.runs.grid import RunConfig, config_to_dict, run_id
from segue.runs.provenance import provenance
from segue.runs.records import Record, write_record

__all__ = ["Job", "failed_record", "start_worker", "work", "work_packed"]

_MESSAGE_SECONDS = 0.5
_messages: Any = None


@dataclass(frozen=True)
class Job:
    """What every run of a grid has in common; sent to the worker processes."""

    store: Store
    data_root: str | None
    checkpoint_seconds: float
    command: str | None
    checkpoint_steps: int | None = None
    device: str = "cpu"


def start_worker(messages: multiprocessing.Queue[tuple[str, float]]) -> None:
    """Prepare a worker process: one thread, since the runs themselves are what is parallel."""
    global _messages
    _messages = messages
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    provenance(None)  # the commit at the start, when the code was read, and not a later one


def _end_with_parent() -> None:
    # Left alone, the run would go on beside the one that resumes it, and write over its files.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def work_packed(packed: bytes, job: Job) -> str:
    """:func:`work` on a pickled config; unpacked here, so that an error in it is this run's own."""
    return work(pickle.loads(packed), job)


def work(config: RunConfig, job: Job, report: Callable[[str, float], None] | None = None) -> str:
    """Execute one run and write its record; return the record's status.

    ``report`` is called now and then with the run's id and the share of its steps that is done.
    """
    started, process_started = datetime.now(UTC), time.process_time()
    context = RunContext(
        config,
        job.store,
        job.data_root,
        job.checkpoint_seconds,
        report=_reporter(run_id(config), _send if report is None else report),
        checkpoint_steps=job.checkpoint_steps,
        device=job.device,
    )
    keep_checkpoint = False
    try:
        result = config.execute(context)
        record = _completed_record(config, job, result)
    except (Exception, SystemExit) as error:  # a failed run is a result, and stops no grid
        record = failed_record(config, job, error)
        # A full disk is no fault of the run: tried again, it resumes.
        keep_checkpoint = isinstance(error, OSError)
    timing = {
        "started_at": started.isoformat(timespec="seconds"),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_seconds": context.elapsed,
        "process_seconds": time.process_time() - process_started,
        "num_resumes": context.num_resumes,
    }
    record.timing.update(timing)
    write_record(job.store.records(config), record)
    if not keep_checkpoint:
        job.store.checkpoint(config).unlink(missing_ok=True)
    return record.status


def failed_record(config: RunConfig, job: Job, error: BaseException) -> Record:
    """Record of a run that ended with ``error``."""
    return Record(
        run_id=run_id(config),
        family=config.family,
        kind=config.kind,
        config=config_to_dict(config),
        status="failed",
        error={
            "type": type(error).__name__,
            "message": str(error),
            "traceback": _without_folders("".join(traceback.format_exception(error))),
        },
        provenance=provenance(job.command, job.device),
    )


def _without_folders(text: str) -> str:
    """Shorten the paths of a traceback: records are shared, and folders are nobody's business."""
    return re.sub(r'File "[^"]*/((?:[^"/]+/){2}[^"/]+)"', r'File "\1"', text)


def _completed_record(config: RunConfig, job: Job, result: RunResult) -> Record:
    artifacts: dict[str, dict[str, str]] = {}
    if result.artifact is not None:
        artifacts["artifact"] = {
            "file": f"artifacts/{job.store.artifact(config).name}",
            "sha256": hash_content(dict(result.artifact)),
        }
    if result.weights is not None:
        artifacts["weights"] = {"file": "", "sha256": hash_content(dict(result.weights))}
    record = Record(
        run_id=run_id(config),
        family=config.family,
        kind=config.kind,
        config=config_to_dict(config),
        status="completed",
        metrics=dict(result.metrics),
        curves=dict(result.curves),
        artifacts=artifacts,
        provenance={
            **provenance(job.command, job.device),
            "data_fingerprint": result.data_fingerprint,
        },
    )
    if result.artifact is not None:  # last: where an artifact is, nothing else was wrong
        save_checkpoint(job.store.artifact(config), dict(result.artifact))
    return record


def _send(identity: str, share: float) -> None:
    if _messages is not None:
        _messages.put((identity, share))


def _reporter(identity: str, send: Callable[[str, float], None]) -> Callable[[int, int], None]:
    last = 0.0

    def report(step: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _MESSAGE_SECONDS:
            last = now
            send(identity, step / total if total else 1.0)

    return report
