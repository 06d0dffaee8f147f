"""Small grids of real trainings, killed at forty random moments and resumed each time.

Every attempt is a forked child that executes the grid in its own process and gets SIGKILL: after a
random time, or, in every fourth attempt, between the writing of a file and its renaming. Further
grids are killed at each of their renames in turn, and with all their worker processes.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import killed_grid
import psutil
import pytest

from segue.experiments.supervised.config import AdaptationConfig, OptimizerConfig, SourceConfig
from segue.experiments.supervised.methods import make_method
from segue.experiments.supervised.models import ResNetConfig
from segue.experiments.supervised.shifts import ShiftConfig
from segue.runs.execution import execute
from segue.runs.records import load_records

NUM_KILLS = 40
MODEL = ResNetConfig(in_channels=1, widths=(8,), stem_width=8, stem_stride=1, norm="batch")


def grid() -> list[AdaptationConfig]:
    source = SourceConfig("digits", "all", MODEL, seed=0, num_training_steps=40, batch_size=16)
    configs = []
    for name in ("smoothing", "smoothing_mixed", "l2sp"):
        method = make_method(name, num_smoothing_steps=20, num_target_steps=40)
        configs.append(
            AdaptationConfig(
                ShiftConfig("label_permutation"),
                source,
                method,
                seed=0,
                num_target_examples=64,
                num_target_steps=40,
                batch_size=16,
                optimizer=OptimizerConfig("adamw" if name == "l2sp" else "sgd", 0.01),
                batch_norm="frozen_source" if name == "smoothing" else "shared",
                num_curve_examples=50,
            )
        )
    return configs


def attempt(
    grid: Sequence[Any],
    out: Path,
    kill_at_rename: int | None = None,
    *,
    after: bool = False,
    **settings: Any,
) -> int:
    """Fork a child that executes the grid; return its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        if kill_at_rename is not None:
            killed_grid.die_at_rename(
                kill_at_rename, lambda: os.kill(os.getpid(), signal.SIGKILL), after=after
            )
        execute(grid, out, num_workers=0, command="test", **settings)
        status = 0
    finally:
        os._exit(status)


def content(out: Path) -> list[dict[str, Any]]:
    """Records without what may differ: the timing, and a commit made while the tests run."""
    records = [asdict(record) for record in load_records(out)]
    for record in records:
        del record["timing"], record["provenance"]["commit"]
        del record["provenance"]["uncommitted_changes"]
    return records


def assert_same(out: Path, undisturbed: Path) -> None:
    """Equal records and weights, and nothing left over."""
    assert content(out) == content(undisturbed)
    files = sorted(undisturbed.glob("*/artifacts/*"))
    assert files
    for file in files:
        assert (out / file.relative_to(undisturbed)).read_bytes() == file.read_bytes()
    assert not list(out.glob("*/checkpoints/*"))
    assert not list(out.glob("*/*/.*"))


def kill_forty_times(tmp_path: Path, start: Callable[..., int]) -> int:
    """Kill and resume until forty kills are done; return how often a grid came to its end."""
    undisturbed = tmp_path / "undisturbed"
    started = time.monotonic()
    assert os.waitpid(start(undisturbed), 0)[1] == 0
    seconds = time.monotonic() - started

    draw = random.Random(0)
    num_kills, num_at_rename, folder = 0, 0, 0
    while num_kills < NUM_KILLS:
        out = tmp_path / f"killed{folder}"
        at_rename = draw.randint(1, 12) if num_kills % 4 == 0 else None
        child = start(out, at_rename)
        if at_rename is None:
            time.sleep(draw.uniform(0.05, 0.5) * min(1.0, seconds))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            num_kills += 1
            num_at_rename += at_rename is not None
        else:  # done before it could be killed: check it, and go on with a grid that is not
            assert status == 0
            assert_same(out, undisturbed)
            folder += 1
    killed = tmp_path / f"killed{folder}"
    assert os.waitpid(start(killed), 0)[1] == 0
    assert_same(killed, undisturbed)
    assert num_at_rename >= 8
    resumed = [record.timing["num_resumes"] for record in load_records(killed)]
    assert folder > 0 or sum(resumed) > 0
    return folder


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forty_kills_change_neither_records_nor_weights(tmp_path: Path) -> None:
    kill_forty_times(tmp_path, lambda *at: attempt(grid(), *at, checkpoint_seconds=0.0))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forty_kills_do_not_change_the_dropout(tmp_path: Path) -> None:
    kill_forty_times(tmp_path, lambda *at: attempt(killed_grid.grid(300), *at, checkpoint_steps=20))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_rename_loses_nothing(tmp_path: Path, after: bool) -> None:
    configs, undisturbed = killed_grid.grid(20), tmp_path / "undisturbed"
    assert os.waitpid(attempt(configs, undisturbed, checkpoint_steps=10), 0)[1] == 0
    for number in range(1, 20):
        out = tmp_path / str(number)
        status = os.waitpid(attempt(configs, out, number, after=after, checkpoint_steps=10), 0)[1]
        if status == 0:
            break  # fewer renames than that
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert os.waitpid(attempt(configs, out, checkpoint_steps=10), 0)[1] == 0
        assert_same(out, undisturbed)
    # The probe of the folder, then two checkpoints, an artifact and a record of each of three runs.
    assert number == 1 + 3 * 4 + 1


def start_processes(out: Path, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "killed_grid", str(out), *arguments],
        cwd=Path(__file__).parent,
        env={**os.environ, **environment},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )


def test_a_grid_killed_with_its_workers_ends_as_one_in_a_single_process(tmp_path: Path) -> None:
    execute(
        killed_grid.grid(300), tmp_path / "here", num_workers=0, checkpoint_steps=50, command="test"
    )
    # The third checkpoint of the source; then, resumed from the second, its artifact.
    for number in ("3", "5"):
        process = start_processes(tmp_path / "there", KILL_AT_RENAME=number)
        assert process.wait(120) == -signal.SIGKILL
        assert not list((tmp_path / "there").glob("killed/artifacts/*.safetensors"))
    assert start_processes(tmp_path / "there").wait(120) == 0
    assert_same(tmp_path / "there", tmp_path / "here")
    source = min(load_records(tmp_path / "there"), key=lambda r: r.config["source"] is not None)
    assert source.timing["num_resumes"] >= 1


def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    process = start_processes(tmp_path, "--wait")
    pid = tmp_path / "pid"
    try:
        wait_until(lambda: pid.exists() and pid.read_text() != "")
        worker = psutil.Process(int(pid.read_text()))
        process.kill()
        process.wait()
        worker.wait(60)  # raises if it goes on
    finally:
        os.killpg(process.pid, signal.SIGKILL) if psutil.pid_exists(process.pid) else None
    assert not list(tmp_path.glob("*/records/*"))


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("waited for two minutes")
