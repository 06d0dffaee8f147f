"""A small grid of real trainings, killed at forty random moments and resumed each time.

Every attempt is a forked child that executes the grid in its own process and gets SIGKILL: after a
random time, or, in every fourth attempt, between the writing of a file and its renaming.
"""

import os
import random
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

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


def attempt(out: Path, kill_at_rename: int | None) -> int:
    """Fork a child that executes the grid; return its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        torch.set_num_threads(1)
        if kill_at_rename is not None:
            replace, left = os.replace, kill_at_rename

            def replace_or_die(source: Any, target: Any) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                replace(source, target)

            os.replace = replace_or_die  # type: ignore[assignment]
        execute(grid(), out, num_workers=0, checkpoint_seconds=0.0, command="test")
        status = 0
    finally:
        os._exit(status)


def content(out: Path) -> list[dict[str, Any]]:
    records = [asdict(record) for record in load_records(out)]
    for record in records:
        del record["timing"]
    return records


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forty_kills_change_neither_records_nor_weights(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert os.waitpid(attempt(undisturbed, None), 0)[1] == 0

    draw = random.Random(0)
    num_kills, num_at_rename, folder = 0, 0, 0
    while num_kills < NUM_KILLS:
        out = tmp_path / f"killed{folder}"
        at_rename = draw.randint(1, 12) if num_kills % 4 == 0 else None
        child = attempt(out, at_rename)
        if at_rename is None:
            time.sleep(draw.uniform(0.05, 0.5))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            num_kills += 1
            num_at_rename += at_rename is not None
        else:  # done before it could be killed: check it, and go on with a grid that is not
            assert status == 0
            assert content(out) == content(undisturbed)
            folder += 1
    killed = tmp_path / f"killed{folder}"
    assert os.waitpid(attempt(killed, None), 0)[1] == 0

    assert num_at_rename >= 8
    assert content(killed) == content(undisturbed)
    resumed = [record.timing["num_resumes"] for record in load_records(killed)]
    assert folder > 0 or sum(resumed) > 0
    for file in sorted((undisturbed / "supervised" / "artifacts").iterdir()):
        assert (killed / "supervised" / "artifacts" / file.name).read_bytes() == file.read_bytes()
    assert not list((killed / "supervised" / "checkpoints").glob("*.safetensors"))
