"""One run, in whatever process it happens to be executed."""

from __future__ import annotations

import multiprocessing
import re
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import torch

from segue.batches import hash_content
from segue.runs.checkpoint import save_checkpoint
from segue.runs.context import RunContext, RunResult, Store
from segue.runs.grid import RunConfig, config_to_dict, run_id
from segue.runs.provenance import provenance
from segue.runs.records import Record, write_record

__all__ = ["Job", "failed_record", "start_worker", "work"]

_MESSAGE_SECONDS = 0.5
_messages: Any = None


class Job:
    """What every run of a grid has in common; sent to the worker processes."""

    def __init__(
        self, store: Store, data_root: str | None, checkpoint_seconds: float, command: str | None
    ) -> None:
        self.store = store
        self.data_root = data_root
        self.checkpoint_seconds = checkpoint_seconds
        self.command = command


def start_worker(messages: multiprocessing.Queue[tuple[str, float]]) -> None:
    """Prepare a worker process: one thread, since the runs themselves are what is parallel."""
    global _messages
    _messages = messages
    torch.set_num_threads(1)


def work(config: RunConfig, job: Job) -> str:
    """Execute one run and write its record; return the record's status."""
    started, process_started = datetime.now(UTC), time.process_time()
    context = RunContext(
        config,
        job.store,
        job.data_root,
        job.checkpoint_seconds,
        report=_reporter(run_id(config)),
    )
    try:
        result = config.execute(context)
        record = _completed_record(config, job, result)
    except Exception as error:  # a failed run is a result, and must not stop the grid
        record = failed_record(config, job, error)
    timing = {
        "started_at": started.isoformat(timespec="seconds"),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_seconds": context.elapsed,
        "process_seconds": time.process_time() - process_started,
        "num_resumes": context.num_resumes,
    }
    record.timing.update(timing)
    write_record(job.store.records(config), record)
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
        provenance=provenance(job.command),
    )


def _without_folders(text: str) -> str:
    """Shorten the paths of a traceback: records are shared, and folders are nobody's business."""
    return re.sub(r'File "[^"]*/((?:[^"/]+/){2}[^"/]+)"', r'File "\1"', text)


def _completed_record(config: RunConfig, job: Job, result: RunResult) -> Record:
    artifacts: dict[str, dict[str, str]] = {}
    if result.artifact is not None:
        path = job.store.artifact(config)
        save_checkpoint(path, dict(result.artifact))
        artifacts["artifact"] = {
            "file": f"artifacts/{path.name}",
            "sha256": hash_content(dict(result.artifact)),
        }
    if result.weights is not None:
        artifacts["weights"] = {"file": "", "sha256": hash_content(dict(result.weights))}
    return Record(
        run_id=run_id(config),
        family=config.family,
        kind=config.kind,
        config=config_to_dict(config),
        status="completed",
        metrics=dict(result.metrics),
        curves=dict(result.curves),
        artifacts=artifacts,
        provenance={**provenance(job.command), "data_fingerprint": result.data_fingerprint},
    )


def _reporter(identity: str) -> Callable[[int, int], None]:
    last = 0.0

    def report(step: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if _messages is not None and now - last >= _MESSAGE_SECONDS:
            last = now
            _messages.put((identity, step / total))

    return report
