"""The three batch-norm policies on domains with shifted means."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segue

MOMENTUM = 0.1


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, momentum=MOMENTUM)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x))


def setting() -> tuple[Net, Tensor, Tensor]:
    torch.manual_seed(0)
    model = Net().double()
    for _ in range(200):
        model.norm(torch.randn(32, 3, dtype=torch.float64) + 5.0)  # the source domain
    return model, torch.randn(16, 3).double() + 5.0, torch.randn(16, 3).double() - 5.0


def step(model: Net, policy: Any, source: Tensor, target: Tensor, way: str) -> list[Tensor]:
    smoothing = segue.Smoothing(segue.constant(0.5), model=model, batch_norm=policy)
    outputs: list[Tensor] = []

    def loss(x: Tensor) -> Tensor:
        outputs.append(model(x))
        return outputs[-1].square().mean()

    result = getattr(smoothing, way)(source=lambda: loss(source), target=lambda: loss(target))
    if way == "mix":
        result.backward()
    return outputs


@pytest.mark.parametrize("way", ["mix", "backward"])
@pytest.mark.parametrize("policy", ["shared", "target_only", "frozen_source"])
def test_running_statistics_are_those_the_policy_states(way: str, policy: str) -> None:
    model, source, target = setting()
    mean, num = model.norm.running_mean.clone(), int(model.norm.num_batches_tracked)  # type: ignore[union-attr, arg-type]
    outputs = step(model, policy, source, target, way)
    expected = mean
    if policy == "shared":
        expected = (1 - MOMENTUM) * expected + MOMENTUM * source.mean(0)
    expected = (1 - MOMENTUM) * expected + MOMENTUM * target.mean(0)
    torch.testing.assert_close(model.norm.running_mean, expected, rtol=1e-12, atol=1e-12)
    assert int(model.norm.num_batches_tracked) == num + (2 if policy == "shared" else 1)  # type: ignore[arg-type]

    batch_normalised = F.batch_norm(source, None, None, training=True)
    if policy == "frozen_source":
        batch_normalised = F.batch_norm(source, mean, setting()[0].norm.running_var)
    fresh = setting()[0]
    torch.testing.assert_close(outputs[0], fresh.head(batch_normalised))


@pytest.mark.parametrize("way", ["mix", "backward"])
def test_gradient_through_frozen_statistics_is_that_of_a_fixed_affine_map(way: str) -> None:
    model, source, target = setting()
    reference = setting()[0]
    step(model, "frozen_source", source, target, way)
    mean, var = reference.norm.running_mean, reference.norm.running_var
    assert mean is not None
    assert var is not None
    scaled = (source - mean) / torch.sqrt(var + reference.norm.eps)
    source_out = reference.head(scaled * reference.norm.weight + reference.norm.bias)
    target_out = reference(target)
    (0.5 * source_out.square().mean() + 0.5 * target_out.square().mean()).backward()
    for got, want in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(got.grad, want.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("policy", ["target_only", "frozen_source"])
def test_layers_are_as_before_also_after_an_exception(policy: Any) -> None:
    model, _, _ = setting()
    buffers = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    smoothing = segue.Smoothing(segue.constant(0.5), model=model, batch_norm=policy)

    def source() -> Tensor:
        model(torch.ones(4, 3).double())
        raise KeyError("no such batch")

    with pytest.raises(KeyError, match="no such batch"):
        smoothing.mix(source=source, target=lambda: torch.zeros(()))
    assert model.norm.training
    assert model.norm.track_running_stats
    for name, buffer in model.named_buffers():
        held, value = buffers[name]
        assert buffer is held
        assert torch.equal(buffer, value)


@pytest.mark.parametrize("policy", ["target_only", "frozen_source"])
def test_layer_in_evaluation_mode_stays_in_it(policy: Any) -> None:
    model, source, target = setting()
    model.norm.eval()
    before = model.norm.running_mean.clone()  # type: ignore[union-attr]
    step(model, policy, source, target, "mix")
    assert not model.norm.training
    assert model.norm.track_running_stats
    assert torch.equal(model.norm.running_mean, before)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["target_only", "frozen_source"])
def test_network_without_batch_norm_is_left_alone(policy: Any) -> None:
    model = nn.Sequential(
        nn.Linear(3, 3), nn.GroupNorm(1, 3), nn.BatchNorm1d(3, track_running_stats=False)
    )
    smoothing = segue.Smoothing(segue.constant(0.5), model=model, batch_norm=policy)
    x = torch.ones(4, 3)
    loss = smoothing.mix(source=lambda: model(x).mean(), target=lambda: model(x).mean())
    torch.testing.assert_close(loss, model(x).mean())


@pytest.mark.parametrize("policy", ["target_only", "frozen_source"])
@pytest.mark.parametrize("mode", ["joint", "mixed"])
def test_one_forward_for_both_refuses_a_policy_for_one(policy: Any, mode: Any) -> None:
    model, source, target = setting()
    smoothing = segue.Smoothing(segue.constant(0.5), model=model, batch_norm=policy)
    replay = segue.Replay(source, num_examples=None, batch_size=4)
    with pytest.raises(ValueError, match=rf"batch_norm must be 'shared', got '{policy}'"):
        smoothing.blend(target=target, source=replay, mode=mode)
