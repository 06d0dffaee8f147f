"""A run that is cut off inside the ramp, also mid-accumulation, continues bit-identically."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segue
from segue.runs.checkpoint import load_checkpoint, save_checkpoint

NUM_STEPS, NUM_MICRO = 8, 2


class Run:
    """A training run whose whole state goes through one checkpoint file."""

    def __init__(self, way: str, seed: int) -> None:
        self.way = way
        torch.manual_seed(seed)
        self.model = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        generator = torch.Generator().manual_seed(9)
        data = {"x": torch.randn(32, 4, generator=generator), "y": torch.arange(32) % 3}
        # An own collator that draws at random, as masking collators do.
        self.replay = segue.Replay(
            data, num_examples=12, batch_size=8, num_micro_batches=NUM_MICRO, collate_fn=noisy
        )
        self.target = torch.randn(NUM_STEPS * NUM_MICRO, 4, 4, generator=generator)
        self.smoothing = segue.Smoothing(
            segue.linear_decay(6),
            optimizer=self.optimizer,
            batch_norm="shared" if way in ("joint", "mixed") else "frozen_source",
            model=self.model,
            sources=[self.replay],
        )
        self.position = 0

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(self.model(batch["x"]), batch["y"], reduction="none")

    def advance(self) -> None:
        target = {"x": self.target[self.position], "y": torch.arange(4) % 3}
        if self.way in ("mix", "backward"):
            loss = getattr(self.smoothing, self.way)(
                source=lambda: self.losses(next(self.replay)).mean() / NUM_MICRO,
                target=lambda: self.losses(target).mean() / NUM_MICRO,
            )
            if self.way == "mix":
                loss.backward()
        else:
            blend = self.smoothing.blend(target=target, source=self.replay, mode=self.way)  # type: ignore[arg-type]
            (blend.loss(self.losses(blend.batch)) / NUM_MICRO).backward()
        self.position += 1
        if self.position % NUM_MICRO == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "gradients": [p.grad for p in self.model.parameters()],
            "optimizer": self.optimizer.state_dict(),
            "smoothing": self.smoothing.state_dict(),
            "replay": self.replay.state_dict(),
            "position": self.position,
            "torch": torch.get_rng_state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, gradient in zip(self.model.parameters(), state["gradients"], strict=True):
            parameter.grad = gradient
        self.smoothing.load_state_dict(state["smoothing"])
        self.replay.load_state_dict(state["replay"])
        self.position = state["position"]
        torch.set_rng_state(state["torch"])


def noisy(examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    x = torch.stack([example["x"] for example in examples])
    shift = float(np.random.rand()) + random.random()
    return {"x": x + torch.randn_like(x) + shift, "y": torch.stack([e["y"] for e in examples])}


def assert_equal(a: Any, b: Any) -> None:
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_equal(left, right)
    else:
        assert a == b


@pytest.mark.parametrize("way", ["mix", "backward", "joint", "mixed"])
@pytest.mark.parametrize("cut", [3, 5, 9, 12, 15])
def test_resumed_run_equals_the_undisturbed_one(way: str, cut: int, tmp_path: Path) -> None:
    total = NUM_STEPS * NUM_MICRO
    undisturbed = Run(way, seed=1)
    for _ in range(total):
        undisturbed.advance()

    first = Run(way, seed=1)
    for _ in range(cut):
        first.advance()
    save_checkpoint(tmp_path / "run.safetensors", first.state())
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    second = Run(way, seed=2)  # other initial weights, as in a fresh process
    second.load(load_checkpoint(tmp_path / "run.safetensors"))
    assert second.smoothing.num_steps == cut // NUM_MICRO
    assert second.smoothing.source_weight == first.smoothing.source_weight
    assert second.smoothing.weight_tensor.item() == first.smoothing.source_weight
    for _ in range(total - cut):
        second.advance()
    assert_equal(second.state(), undisturbed.state())
    assert second.replay.released


@pytest.mark.parametrize("policy", ["target_only", "frozen_source"])
def test_going_back_into_the_ramp_keeps_the_batch_norm_policy(policy: Any) -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    model(torch.randn(16, 2) + 3.0)
    frozen = model[0].running_mean.clone()  # type: ignore[union-attr, operator]
    smoothing = segue.Smoothing(segue.linear_decay(2), model=model, batch_norm=policy)
    inside = smoothing.state_dict()
    smoothing.step()
    smoothing.step()
    assert smoothing.finished
    smoothing.load_state_dict(inside)
    assert smoothing.source_weight == 1.0
    outputs: list[Tensor] = []

    def source() -> Tensor:
        outputs.append(model(torch.full((4, 2), 100.0)))
        return outputs[0].mean()

    smoothing.mix(source=source, target=lambda: torch.zeros(()))
    assert torch.equal(model[0].running_mean, frozen)  # type: ignore[arg-type]
    assert (outputs[0].abs() > 10).all() == (policy == "frozen_source")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"schedule": segue.linear_decay(5)}, "schedule must be the saved one (Ramp("),
        ({"schedule": segue.cosine_decay(4)}, "schedule must be the saved one (Ramp("),
        ({"seed": 1}, "seed must be the saved one (0), got 1; pass strict=False"),
    ],
)
def test_state_of_another_schedule_or_seed_is_refused(other: dict[str, Any], message: str) -> None:
    saved = segue.Smoothing(segue.linear_decay(4))
    saved.step()
    resumed = segue.Smoothing(**{"schedule": segue.linear_decay(4), **other})
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        resumed.load_state_dict(saved.state_dict())
    assert message in str(caught.value)
    assert resumed.num_steps == 0  # nothing was half loaded
    resumed.load_state_dict(saved.state_dict(), strict=False)
    assert resumed.num_steps == 1


def test_state_of_another_network_or_policy_is_refused() -> None:
    def make(model: nn.Module, policy: Any = "frozen_source") -> segue.Smoothing:
        return segue.Smoothing(segue.linear_decay(4), model=model, batch_norm=policy)

    saved = make(nn.Sequential(nn.BatchNorm1d(2))).state_dict()
    with pytest.raises(ValueError, match="batch_norm must be the saved policy 'frozen_source'"):
        make(nn.Sequential(nn.BatchNorm1d(2)), "target_only").load_state_dict(saved)
    with pytest.raises(ValueError, match="model must have the saved batch-norm layers"):
        make(nn.Sequential(nn.Identity(), nn.BatchNorm1d(2))).load_state_dict(saved)


def test_custom_schedule_resumes_though_its_repr_differs_between_processes() -> None:
    def make() -> segue.Smoothing:
        return segue.Smoothing(segue.join([lambda step: 0.5, segue.linear_decay(4)], [2]))

    saved = make()
    for _ in range(3):
        saved.step()
    resumed = make()
    resumed.load_state_dict(saved.state_dict())
    assert resumed.source_weight == saved.source_weight == 0.75


def test_loading_a_finished_state_frees_the_sources() -> None:
    saved = segue.Smoothing(segue.linear_decay(1))
    saved.step()
    replay = segue.Replay(torch.arange(4.0), num_examples=None, batch_size=2)
    resumed = segue.Smoothing(segue.linear_decay(1), sources=[replay])
    resumed.load_state_dict(saved.state_dict())
    assert replay.released


def test_state_is_a_snapshot() -> None:
    smoothing = segue.Smoothing(segue.constant(0.5))
    state = smoothing.state_dict()
    before = state["random_state"]["cpu"].clone()
    smoothing.mix(source=lambda: torch.rand(()), target=lambda: torch.rand(()))
    smoothing.step()
    assert state["num_steps"] == 0
    assert torch.equal(state["random_state"]["cpu"], before)


def test_mixed_draws_continue_within_an_accumulation_window() -> None:
    replay = segue.Replay(torch.arange(4.0), num_examples=None, batch_size=1)

    def draws(smoothing: segue.Smoothing) -> list[int]:
        target = torch.zeros(1)
        return [
            smoothing.blend(target=target, source=replay, mode="mixed").num_source
            for _ in range(40)
        ]

    def make() -> segue.Smoothing:
        optimizer = torch.optim.SGD([torch.zeros((), requires_grad=True)], lr=0.1)
        return segue.Smoothing(segue.constant(0.5), optimizer=optimizer)

    saved, resumed = make(), make()
    head = draws(saved)
    resumed.load_state_dict(saved.state_dict())
    tail = draws(saved)
    assert draws(resumed) == tail != head
