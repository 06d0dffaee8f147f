"""Two ranks under DDP: one shared network, and a head that only the source uses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")

WORKER = """
import datetime, sys
import torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
import segue

rank, rendezvous, case = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + rendezvous, rank=rank, world_size=2,
                        timeout=datetime.timedelta(seconds=60))


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.old, self.new = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x, head):
        return getattr(self, head)(torch.tanh(self.body(x)))


def data(seed, num_classes):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(64, 4, generator=generator, dtype=torch.float64),
            torch.randint(num_classes, (64,), generator=generator))


def train(model, ranks, rank, way):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    replay = segue.Replay(data(1, 3), num_examples=32, batch_size=16, rank=rank, world_size=ranks)
    target = segue.Replay(data(2, 2), num_examples=None, batch_size=16, rank=rank, world_size=ranks)
    smoothing = segue.Smoothing(segue.linear_decay(4), optimizer=optimizer, sources=[replay])

    def loss(stream, head):
        inputs, labels = next(stream)
        outputs = model(inputs, head)
        return nn.functional.cross_entropy(outputs, labels % outputs.shape[1])

    old = "old" if case == "two heads" else "new"
    for _ in range(8):
        losses = {"source": lambda: loss(replay, old), "target": lambda: loss(target, "new")}
        if way == "backward":
            smoothing.backward(**losses)
        else:
            smoothing.mix(**losses).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert replay.released

    return [p.detach().clone() for p in model.parameters()]


def build():
    torch.manual_seed(0)
    return TwoHeads().double()


ways = ["backward"] if case == "two heads" else ["mix", "backward"]
for way in ways:
    model = DistributedDataParallel(build(), find_unused_parameters=True)
    both = train(model, 2, rank, way)
    model = build()
    alone = train(model, 1, 0, way)
    for a, b in zip(both, alone):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
dist.barrier()  # gloo's threads must not outlive the other rank, nor this one's exit
dist.destroy_process_group()
print("done", rank)
"""


@pytest.mark.parametrize("case", ["one head", "two heads"])
def test_two_ranks_train_like_one_through_and_after_the_ramp(case: str, tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path / "rendezvous"), case],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    for number, process in enumerate(ranks):
        out, err = process.communicate(timeout=180)
        assert process.returncode == 0, err
        assert f"done {number}" in out
