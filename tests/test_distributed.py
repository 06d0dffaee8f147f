"""Two ranks (gloo) decide together about a loss that only one of them finds non-finite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")

WORKER = """
import datetime, sys, warnings
import torch, torch.distributed as dist
import segue

rank, rendezvous = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + rendezvous, rank=rank, world_size=2,
                        timeout=datetime.timedelta(seconds=60))
NAN = float("nan")
weight = torch.ones((), requires_grad=True)


def blended(smoothing, way, spoilt):
    values = {side: NAN if rank == 1 and side in spoilt else 2.0 for side in ("source", "target")}
    losses = {side: (lambda value=value: weight * value) for side, value in values.items()}
    if way == "backward":
        return smoothing.backward(**losses)
    loss = smoothing.mix(**losses)
    loss.backward()
    return loss


for way in ("mix", "backward"):
    for side in ("source", "target"):
        smoothing = segue.Smoothing(segue.constant(0.25))
        try:
            blended(smoothing, way, side)
        except segue.NonFiniteLossError as error:
            assert error.side == side, error
            found = "is nan at step 0" if rank else "is not finite on another rank at step 0"
            assert found in str(error), error
        else:
            raise AssertionError(f"{way} {side}: rank {rank} went on")

        smoothing = segue.Smoothing(segue.constant(0.25), non_finite="skip")
        weight.grad = None
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            loss = blended(smoothing, way, side)
        assert any("is skipped" in str(w.message) for w in seen), rank
        share = 0.75 if side == "source" else 0.25
        assert loss.item() == weight.grad.item() == 2.0 * share, (way, side, loss, weight.grad)

# Unequal last batches: one rank's mixed batch has no target row left, the other's has. Both must
# take part in the same reductions, or one waits for ever.
size = (1, 8)[rank]
smoothing = segue.Smoothing(segue.constant(0.99), seed=0)
replay = segue.Replay(torch.ones(32), num_examples=None, batch_size=2, rank=rank, world_size=2)
counts = []
for _ in range(20):
    blend = smoothing.blend(target=torch.ones(size), source=replay, mode="mixed")
    counts.append(blend.num_target)
    blend.loss(blend.batch * weight).backward()
    smoothing.step()
assert 0 in counts
totals = torch.tensor([float(count > 0) for count in counts])
other = totals.clone()
dist.all_reduce(other)
assert (other == 1.0).any(), "the case was not met"

# The ramp's end is a matter of the step alone: no rank evaluates the source after it.
smoothing = segue.Smoothing(segue.linear_decay(2))
calls = 0
for _ in range(5):
    def source():
        global calls
        calls += 1
        return weight * 1.0
    smoothing.mix(source=source, target=lambda: weight * 1.0).backward()
    smoothing.step()
assert calls == 2
dist.barrier()
dist.destroy_process_group()
print("done")
"""


def test_ranks_agree_about_non_finite_losses_within_a_time_limit(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "rendezvous")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        for rank, process in enumerate(ranks):
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, f"rank {rank}: {err}"
            assert out.strip().endswith("done")
    finally:
        for process in ranks:
            process.kill()
