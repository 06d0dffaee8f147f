"""Two ranks (gloo) under Lightning train like one, resume, and stop together."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
WORKER = Path(__file__).with_name("lightning_worker.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[torch.Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
    running = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "LOCAL_RANK": str(rank), **variables},
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=180)[0] for process in running]
    for process, output in zip(running, outputs, strict=True):
        assert process.returncode == 0, output
    files = ("one.pt", "rank0.pt", "rank1.pt")
    return [torch.load(folder / name, weights_only=True) for name in files]


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("two_heads", [False, True], ids=["one head", "a head for the source only"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_two_ranks_train_like_one_on_the_same_global_batches(
    results: list[dict[str, list[torch.Tensor]]], reduction: str, two_heads: bool, accumulate: int
) -> None:
    name = f"{reduction} {two_heads} {accumulate}"
    windows = [4, 2] * 2 if accumulate == 4 else [1] * 12
    for result in results:
        weights = [max(0.0, 1 - step / 4) for step, size in enumerate(windows) for _ in range(size)]
        assert result[f"{name} trace"][0].tolist() == weights
    one, *ranks = (result[name] for result in results)
    for rank in ranks:
        for got, want in zip(rank, one, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_ranks_with_dropout_of_their_own_resume_exactly(
    results: list[dict[str, list[torch.Tensor]]],
) -> None:
    _, *ranks = results
    for rank in ranks:
        for got, want in zip(rank["killed"], rank["alone"], strict=True):
            assert torch.equal(got, want)
