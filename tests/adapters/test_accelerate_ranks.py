"""Two processes (gloo) under Accelerate train like one, with DDP and with FSDP2."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("accelerate")

WORKER = Path(__file__).with_name("accelerate_worker.py")
SECONDS = 120
ALONE = ("one_by_8", "two_by_4", "four_by_2", "one_head_1x8", "one_by_8_even")
TOGETHER = (
    "one_by_4", "two_by_2", "fsdp2", "fsdp2_mix", "fsdp2_plugin", "fsdp2_plugin_mix",
    "one_head_mix", "gradients_of_the_heads", "uneven_targets", "uneven_shards",
    "different_banks", "one_empty_shard", "not_a_number_on_one_rank", "resumed",
    "resumed_with_plugin",
)  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each process found, by process and case; all three run at once, within a time limit."""
    folder = tmp_path_factory.mktemp("accelerate")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    commands = [
        [sys.executable, str(WORKER), "0", "1", port, str(folder), *ALONE],
        *(
            [sys.executable, str(WORKER), str(rank), "2", port, str(folder), *TOGETHER]
            for rank in range(2)
        ),
    ]
    processes = [
        subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for command in commands
    ]
    try:
        for process in processes:
            _, err = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, err[-3000:]
    finally:
        for process in processes:
            process.kill()
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def assert_alike(first: dict[str, list[float]], second: dict[str, list[float]]) -> None:
    assert set(first) == set(second)
    for name, values in first.items():
        assert values == pytest.approx(second[name], rel=1e-10, abs=1e-12), name


@pytest.mark.parametrize("case", ["two_by_4", "four_by_2"])
def test_accumulation_equals_the_full_batch_with_unequal_items(
    case: str, found: dict[str, Any]
) -> None:
    whole, parts = found["alone"]["one_by_8"], found["alone"][case]
    assert_alike(parts["weights"], whole["weights"])
    assert parts["trace"] == whole["trace"] == [1.0, 0.75, 0.5, 0.25] + [0.0] * 6


@pytest.mark.parametrize(
    "case",
    ["one_by_4", "two_by_2", "fsdp2", "fsdp2_mix", "fsdp2_plugin", "fsdp2_plugin_mix"],
)
def test_two_ranks_equal_one_on_the_same_global_batches(case: str, found: dict[str, Any]) -> None:
    alone = found["alone"]["one_by_8_even" if case == "one_by_4" else "one_by_8"]
    for rank in ("rank0", "rank1"):
        both = found[rank][case]
        assert_alike(both["weights"], alone["weights"])
        assert both["trace"] == alone["trace"]
        for mine, its in zip(both["losses"], alone["losses"], strict=True):
            assert mine == pytest.approx(its, rel=1e-10)


def test_one_backward_pass_for_both_losses_gives_the_same(found: dict[str, Any]) -> None:
    alone = found["alone"]["one_head_1x8"]["weights"]
    assert_alike(found["rank0"]["one_head_mix"]["weights"], alone)


def test_the_source_is_evaluated_during_the_ramp_only_and_on_every_rank(
    found: dict[str, Any],
) -> None:
    for rank in ("rank0", "rank1"):
        assert found[rank]["one_by_4"]["num_source_calls"] == 4
        assert found[rank]["two_by_2"]["num_source_calls"] == 8
        assert found[rank]["fsdp2"]["released"]
        assert found[rank]["fsdp2_plugin"]["released"]


def test_a_target_only_head_learns_from_the_first_step_and_a_source_only_head_until_the_last(
    found: dict[str, Any],
) -> None:
    for rank in ("rank0", "rank1"):
        seen = found[rank]["gradients_of_the_heads"]
        assert seen["first"] == seen["last_of_ramp"] == ["body.weight", "new.weight", "old.weight"]
        assert seen["after"] == ["body.weight", "new.weight"]


def test_ranks_with_unequal_target_batches_end_together(found: dict[str, Any]) -> None:
    first, second = (found[rank]["uneven_targets"] for rank in ("rank0", "rank1"))
    assert first["windows"] == second["windows"] == 2
    for seen in (first, second):
        assert seen["warnings"] == [
            "the processes have [1, 2] micro-batches left for optimizer step 1; "
            "1 of each are trained on"
        ]
    assert first["weights"] == second["weights"]


def test_ranks_with_unequal_source_shards_end_together(found: dict[str, Any]) -> None:
    first, second = (found[rank]["uneven_shards"] for rank in ("rank0", "rank1"))
    assert first["trace"] == second["trace"]
    assert first["weights"] == second["weights"]
    assert first["released"]
    assert second["released"]


def test_different_banks_are_refused_on_every_rank(found: dict[str, Any]) -> None:
    for rank in ("rank0", "rank1"):
        assert found[rank]["different_banks"].startswith(
            "ValueError: source must give the same bank on every process"
        )


def test_a_shard_that_cannot_be_used_is_an_error_on_every_rank(found: dict[str, Any]) -> None:
    assert found["rank0"]["one_empty_shard"] == (
        "ValueError: source must be usable on every process, it is not on [1]"
    )
    assert "must hold at least one source example" in found["rank1"]["one_empty_shard"]


def test_a_loss_that_is_nan_on_one_rank_is_named_on_both(found: dict[str, Any]) -> None:
    assert found["rank0"]["not_a_number_on_one_rank"] == "source 0"
    assert found["rank1"]["not_a_number_on_one_rank"] == "source 0"


@pytest.mark.parametrize("case", ["resumed", "resumed_with_plugin"])
def test_a_run_resumed_inside_the_ramp_is_bit_identical(case: str, found: dict[str, Any]) -> None:
    for rank in ("rank0", "rank1"):
        seen = found[rank][case]
        assert seen["resumed"] == [seen["undisturbed"]] * 2


@pytest.mark.parametrize("case", ["resumed", "resumed_with_plugin"])
def test_the_state_is_saved_without_pickle_one_file_a_process(
    case: str, found: dict[str, Any]
) -> None:
    files = found["rank0"][case]["files"]
    assert {"segue-rank-0.safetensors", "segue-rank-1.safetensors"} <= set(files)
    assert not any(name.startswith("custom_checkpoint") for name in files)
