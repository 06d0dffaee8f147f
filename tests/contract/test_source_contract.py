"""What every schedule and every source must do, whatever it is; see the table in conftest.py."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import segue
from segue.runs.checkpoint import load_checkpoint, save_checkpoint

NUM_STEPS = 9
K = 6


class Run:
    """A model trained with one source row and one schedule row."""

    def __init__(self, source_row: Any, schedule: segue.Schedule, way: str = "mix") -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.row, self.way = source_row, way
        self.source = source_row.make(self.model)
        self.smoothing = segue.Smoothing(
            schedule, optimizer=self.optimizer, sources=[self.source], seed=3
        )
        self.num_source_calls = 0

    def source_loss(self) -> Tensor:
        self.num_source_calls += 1
        loss: Tensor = self.row.loss(self.model, self.source)
        return loss

    def target_loss(self) -> Tensor:
        return self.model(torch.ones(3, 4, dtype=torch.float64)).square().mean()

    def backward(self) -> None:
        loss = getattr(self.smoothing, self.way)(source=self.source_loss, target=self.target_loss)
        if self.way == "mix":
            loss.backward()

    def step(self) -> None:
        self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "smoothing": self.smoothing.state_dict(),
            "source": self.source.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.smoothing.load_state_dict(state["smoothing"])
        self.source.load_state_dict(state["source"])

    def weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters()]


def test_trace_of_the_weight_equals_the_table(schedule_row: Any, source_row: Any) -> None:
    run = Run(source_row, schedule_row.make())
    trace = []
    for _ in range(K + 2):
        trace.append(run.smoothing.source_weight)
        run.step()
    at = [trace[0], trace[3], trace[K - 1], trace[K], trace[K + 1]]
    assert at == pytest.approx(list(schedule_row.weights), abs=1e-12)
    if schedule_row.ends:
        assert at[3:] == [0.0, 0.0]
    assert run.num_source_calls == sum(weight > 0.0 for weight in trace)


def test_gradient_is_the_blend_of_both_gradients(schedule_row: Any, source_row: Any) -> None:
    for way in ("mix", "backward"):
        run, alone = (Run(source_row, schedule_row.make(), way) for _ in range(2))
        for _ in range(3):
            run.step()
            alone.step()
        parts = []
        for loss in (alone.source_loss, alone.target_loss):
            alone.model.zero_grad()
            if loss == alone.source_loss and run.smoothing.source_weight == 0.0:
                parts.append([torch.zeros_like(p) for p in alone.model.parameters()])
                continue
            loss().backward()  # type: ignore[no-untyped-call]
            parts.append([p.grad.clone() for p in alone.model.parameters()])  # type: ignore[union-attr]
        run.backward()
        weight = run.smoothing.source_weight
        for parameter, gs, gt in zip(run.model.parameters(), *parts, strict=True):
            want = weight * gs + (1.0 - weight) * gt
            torch.testing.assert_close(parameter.grad, want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("cut", [2, K, NUM_STEPS - 1])
def test_resumed_run_is_bit_identical(
    schedule_row: Any, source_row: Any, cut: int, tmp_path: Path
) -> None:
    undisturbed = Run(source_row, schedule_row.make())
    for _ in range(NUM_STEPS):
        undisturbed.step()
    first = Run(source_row, schedule_row.make())
    for _ in range(cut):
        first.step()
    save_checkpoint(tmp_path / "state.safetensors", first.state())
    resumed = Run(source_row, schedule_row.make())
    torch.manual_seed(77)
    resumed.load(load_checkpoint(tmp_path / "state.safetensors"))
    for _ in range(NUM_STEPS - cut):
        resumed.step()
    for got, want in zip(resumed.weights(), undisturbed.weights(), strict=True):
        assert torch.equal(got, want)
    assert resumed.num_source_calls + first.num_source_calls == undisturbed.num_source_calls


def test_source_is_released_when_the_ramp_is_over_for_good_and_only_then(
    schedule_row: Any, source_row: Any
) -> None:
    run = Run(source_row, schedule_row.make())
    for _ in range(K + 1):
        run.step()
    assert run.smoothing.finished == schedule_row.ends
    if schedule_row.ends:
        with pytest.raises(RuntimeError, match="released"):
            run.source_loss()
    else:
        run.source_loss()
    run.source.release()  # twice is harmless


def test_global_random_states_are_those_of_the_plain_loop(source_row: Any) -> None:
    def states() -> tuple[list[int], list[int], Any]:
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    run = Run(source_row, segue.linear_decay(K))
    before = states()
    source_row.make(run.model)
    for _ in range(NUM_STEPS):
        run.step()
    run.state()
    assert states() == before


def test_every_schedule_of_the_public_face_has_a_row(schedule_table: dict[str, Any]) -> None:
    decays = {name.removesuffix("_decay") for name in segue.__all__ if name.endswith("_decay")}
    assert decays
    assert decays <= set(schedule_table)
