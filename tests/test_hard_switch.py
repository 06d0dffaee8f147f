"""With λ = 0 nothing differs from the plain loop, bit for bit; with λ > 0 only the source is added."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segue

NUM_STEPS = 50
ARMS = ["mix", "backward", "joint", "mixed"]


def train(arm: str, schedule: segue.Schedule, calls: dict[str, int]) -> dict[str, Any]:
    torch.manual_seed(11)
    np.random.seed(11)
    random.seed(11)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    calls.update(source=0, target=0)

    def mean_loss(x: Tensor, side: str) -> Tensor:
        calls[side] += 1
        y = x.argmax(1) % 4
        return F.cross_entropy(model(x), y, reduction="none").mean()

    if arm != "plain":
        replay = segue.Replay(torch.randn(40, 6, generator=own()), num_examples=16, batch_size=8)
        smoothing = segue.Smoothing(schedule, optimizer=optimizer, sources=[replay])
    for _ in range(NUM_STEPS):
        x = torch.randn(8, 6) + float(np.random.rand()) + random.random()
        if arm == "plain":
            mean_loss(x, "target").backward()
        elif arm == "mix":
            smoothing.mix(
                source=lambda: mean_loss(next(replay), "source"),
                target=lambda x=x: mean_loss(x, "target"),
            ).backward()
        elif arm == "backward":
            smoothing.backward(
                source=lambda: mean_loss(next(replay), "source"),
                target=lambda x=x: mean_loss(x, "target"),
            )
        else:
            blend = smoothing.blend(target=x, source=replay, mode=arm)
            rows = F.cross_entropy(model(blend.batch), blend.batch.argmax(1) % 4, reduction="none")
            blend.loss(rows).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {
        "weights": [p.detach() for p in model.parameters()],
        "optimizer": [v for s in optimizer.state_dict()["state"].values() for v in s.values()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": random.getstate(),
    }


def own() -> torch.Generator:
    return torch.Generator().manual_seed(2)


@pytest.mark.parametrize("arm", ARMS)
def test_hard_switch_is_bit_identical_to_the_plain_loop(arm: str) -> None:
    calls: dict[str, int] = {}
    plain = train("plain", segue.hard_switch(), calls)
    smoothed = train(arm, segue.hard_switch(), calls)
    for name in ("weights", "optimizer"):
        assert all(torch.equal(a, b) for a, b in zip(plain[name], smoothed[name], strict=True)), (
            name
        )
    assert torch.equal(plain["torch"], smoothed["torch"])
    assert plain["numpy"] == smoothed["numpy"]
    assert plain["python"] == smoothed["python"]
    assert calls["source"] == 0


@pytest.mark.parametrize("arm", ["mix", "backward"])
def test_smoothing_leaves_the_global_random_states_as_the_plain_loop_does(arm: str) -> None:
    plain = train("plain", segue.hard_switch(), {})
    smoothed = train(arm, segue.constant(0.5), {})
    assert torch.equal(plain["torch"], smoothed["torch"])
    assert plain["numpy"] == smoothed["numpy"]
    assert plain["python"] == smoothed["python"]
    assert not torch.equal(plain["weights"][0], smoothed["weights"][0])


@pytest.mark.parametrize("arm", ["mix", "backward"])
def test_source_is_not_evaluated_after_the_ramp_and_the_target_always_is(arm: str) -> None:
    calls: dict[str, int] = {}
    train(arm, segue.linear_decay(7), calls)
    assert calls == {"source": 7, "target": NUM_STEPS}


@pytest.mark.parametrize("arm", ["mix", "backward"])
def test_target_sees_the_same_dropout_whether_or_not_the_source_passes_through(arm: str) -> None:
    def masks(schedule: segue.Schedule) -> list[Tensor]:
        torch.manual_seed(5)
        weight, seen = torch.ones(64, requires_grad=True), []
        smoothing = segue.Smoothing(schedule)

        def target() -> Tensor:
            seen.append(F.dropout(weight, 0.5).detach())
            return (F.dropout(weight, 0.5) * 0.1).mean()

        for _ in range(4):
            loss = getattr(smoothing, arm)(source=lambda: F.dropout(weight).mean(), target=target)
            if arm == "mix":
                loss.backward()
            smoothing.step()
        return seen

    for plain, smoothed in zip(
        masks(segue.hard_switch()), masks(segue.linear_decay(3)), strict=True
    ):
        assert torch.equal(plain, smoothed)


def test_source_dropout_is_fresh_at_every_step_and_follows_the_seed_alone() -> None:
    def masks(seed: int, outside: int) -> list[Tensor]:
        torch.manual_seed(outside)
        seen: list[Tensor] = []
        smoothing = segue.Smoothing(segue.constant(0.5), seed=seed)

        def source() -> Tensor:
            seen.append(F.dropout(torch.ones(64)))
            return torch.zeros(())

        for _ in range(3):
            smoothing.mix(source=source, target=lambda: torch.rand(()))
            smoothing.step()
        return seen

    first = masks(0, 1)
    assert all(torch.equal(a, b) for a, b in zip(first, masks(0, 2), strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], masks(1, 1)[0])
    # Nor does the source repeat the target's dropout where both were given the same number.
    torch.manual_seed(0)
    assert not torch.equal(first[0], F.dropout(torch.ones(64)))
