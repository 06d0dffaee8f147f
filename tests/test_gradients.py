"""The gradient of every way to execute, against λ·g_source + (1 − λ)·g_target in plain Python."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import segue
from segue.objective import interpolate, joint_example_weights, num_mixed_source_examples

B, R = 4, 6
Batch = tuple[Tensor, Tensor]


def problem() -> tuple[nn.Module, Batch, Batch]:
    generator = torch.Generator().manual_seed(3)

    def draw(size: int) -> Batch:
        x = torch.randn(size, 5, generator=generator, dtype=torch.float64)
        return x, torch.randint(0, 3, (size,), generator=generator)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    return model, draw(R), draw(B)


def gradient(model: nn.Module) -> list[Tensor]:
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return grads


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def by_mix(smoothing: segue.Smoothing, model: nn.Module, source: Batch, target: Batch) -> Tensor:
    loss = smoothing.mix(
        source=lambda: loss_of(model, source), target=lambda: loss_of(model, target)
    )
    loss.backward()
    return loss.detach()


def by_backward(
    smoothing: segue.Smoothing, model: nn.Module, source: Batch, target: Batch
) -> Tensor:
    return smoothing.backward(
        source=lambda: loss_of(model, source), target=lambda: loss_of(model, target)
    )


def by_joint(smoothing: segue.Smoothing, model: nn.Module, source: Batch, target: Batch) -> Tensor:
    replay = segue.Replay(source, num_examples=None, batch_size=R)
    blend = smoothing.blend(target=target, source=replay, mode="joint")
    x, y = blend.batch
    loss = blend.loss(F.cross_entropy(model(x), y, reduction="none"))
    loss.backward()
    return loss.detach()


WAYS: dict[str, Callable[..., Tensor]] = {"mix": by_mix, "backward": by_backward, "joint": by_joint}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("weight", [0.0, 1 / (4 * B), 0.3, 0.5, 0.9, 1.0])
def test_gradient_equals_the_plain_python_blend_of_both(way: str, weight: float) -> None:
    model, source, target = problem()
    source_loss, target_loss = loss_of(model, source), loss_of(model, target)
    source_loss.backward()
    source_gradient = gradient(model)
    target_loss.backward()
    target_gradient = gradient(model)

    blended = WAYS[way](segue.Smoothing(segue.constant(weight)), model, source, target)
    for got, gs, gt in zip(gradient(model), source_gradient, target_gradient, strict=True):
        want = [
            weight * a + (1.0 - weight) * b
            for a, b in zip(gs.flatten().tolist(), gt.flatten().tolist(), strict=True)
        ]
        assert got.flatten().tolist() == pytest.approx(want, rel=1e-12, abs=1e-15)
    want_loss = weight * source_loss.item() + (1.0 - weight) * target_loss.item()
    assert blended.item() == pytest.approx(want_loss, rel=1e-14)


def test_weight_one_gives_the_gradient_of_the_source_alone() -> None:
    model, source, target = problem()
    loss_of(model, source).backward()
    want = gradient(model)
    for way in (by_mix, by_backward):
        way(segue.Smoothing(segue.constant(1.0)), model, source, target)
        for got, expected in zip(gradient(model), want, strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("weight", [1 / 32, 0.3, 0.9])
def test_mixed_gradient_is_unbiased_over_ten_thousand_draws(weight: float) -> None:
    size, num_draws = 8, 10_000
    generator = torch.Generator().manual_seed(1)
    source = torch.randn(50, 3, generator=generator, dtype=torch.float64) * 0.3 + 2.0
    target = torch.randn(20, 3, generator=generator, dtype=torch.float64) * 0.5
    w = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)

    def losses(x: Tensor) -> Tensor:
        return (x @ w - 1.0).square()

    (gs,) = torch.autograd.grad(losses(source).mean(), w)
    (gt,) = torch.autograd.grad(losses(target).mean(), w)
    exact = torch.tensor(
        [weight * a + (1 - weight) * b for a, b in zip(gs.tolist(), gt.tolist(), strict=True)]
    ).double()

    smoothing = segue.Smoothing(segue.constant(weight), seed=5)
    replay = segue.Replay(source, num_examples=None, batch_size=1, seed=5)
    drawn = torch.empty(num_draws, 3, dtype=torch.float64)
    num_source = 0
    for i in range(num_draws):
        batch = target[torch.randperm(20, generator=generator)[:size]]
        blend = smoothing.blend(target=batch, source=replay, mode="mixed")
        (drawn[i],) = torch.autograd.grad(blend.loss(losses(blend.batch)), w)
        assert blend.batch.shape == batch.shape  # the price of a step is unchanged
        num_source += blend.num_source
        smoothing.step()
    standard_error = drawn.std(0) / num_draws**0.5
    deviation = (drawn.mean(0) - exact).abs()
    assert (deviation < 5 * standard_error).all()
    # The test has power: a weight off by 0.03 would show, and so would leaving the source out.
    assert (0.03 * (gs - gt).abs() > 5 * standard_error).any()
    share = num_source / (num_draws * size)
    fraction = weight * size % 1.0
    spread = (fraction * (1 - fraction) / num_draws) ** 0.5 / size
    assert abs(share - weight) <= 5 * spread + 1e-12


@given(st.floats(0.0, 1.0), st.integers(1, 64), st.integers(0, 2**32))
def test_number_of_source_examples_is_the_floor_or_one_more(
    weight: float, size: int, seed: int
) -> None:
    number = num_mixed_source_examples(weight, size, random.Random(seed))
    assert 0 <= number <= size
    assert abs(number - weight * size) < 1.0


@given(st.floats(0.0, 1.0), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_the_formula_blends_numbers_as_it_blends_tensors(
    weight: float, source: float, target: float
) -> None:
    want = weight * source + (1.0 - weight) * target
    assert interpolate(weight, source, target) == want
    tensors = [torch.tensor(value, dtype=torch.float64) for value in (source, target)]
    assert interpolate(weight, *tensors).item() == want


@given(st.floats(0.0, 1.0), st.integers(1, 100), st.integers(1, 100))
def test_joint_weights_sum_to_the_two_shares(
    weight: float, num_target: int, num_source: int
) -> None:
    each_target, each_source = joint_example_weights(weight, num_target, num_source)
    assert each_target * num_target == pytest.approx(1.0 - weight, abs=1e-15)
    assert each_source * num_source == pytest.approx(weight, abs=1e-15)


def test_weights_of_a_blend_reproduce_its_loss() -> None:
    source, target = torch.arange(6.0), torch.arange(4.0) + 10.0
    for mode in ("joint", "mixed"):
        replay = segue.Replay(source, num_examples=None, batch_size=6)
        smoothing = segue.Smoothing(segue.constant(0.4))
        blend = smoothing.blend(target=target, source=replay, mode=mode)
        losses = blend.batch.square()
        torch.testing.assert_close((blend.weights(losses) * losses).sum(), blend.loss(losses))
        assert torch.equal(blend.batch[: blend.num_target], target[: blend.num_target])
        assert len(blend.batch) == blend.num_target + blend.num_source


def test_blend_takes_nested_batches_and_names_what_differs() -> None:
    def blend(target: object, source: object, mode: str = "joint") -> object:
        smoothing = segue.Smoothing(segue.constant(0.5))
        replay = segue.Replay(source, num_examples=None, batch_size=2)
        return smoothing.blend(target=target, source=replay, mode=mode).batch  # type: ignore[arg-type]

    ones, zeros = torch.ones(3, 2), torch.zeros(2, 2)
    both = blend({"x": ones, "y": (ones,)}, [{"x": z, "y": (z,)} for z in zeros])
    assert isinstance(both, dict)
    assert both["x"].shape == both["y"][0].shape == (5, 2)
    for target, message in [
        ({"z": ones}, "must have the same keys, got ['z'] and ['x']"),
        ({"x": ones.double()}, "target['x'] and source['x'] must have the same dtype"),
        ({"x": torch.ones(3, 5)}, "the same shape after the first dimension, got (5,) and (2,)"),
        ({"x": ones.to("meta")}, "the same device, got meta and cpu"),
        ([ones], "must have the same structure, got list of 1 and dict"),
        ({"x": ones, "y": torch.ones(2)}, "must share their first dimension"),
        ({"x": "text"}, "target['x'] must be a tensor, got str"),
    ]:
        with pytest.raises((TypeError, ValueError)) as caught:
            blend(target, {"x": zeros})
        assert message in str(caught.value)
    with pytest.raises(ValueError, match="unknown mode 'mixd'; did you mean 'mixed'"):
        blend(ones, zeros, "mixd")


def test_blend_refuses_losses_that_are_not_one_per_example() -> None:
    smoothing = segue.Smoothing(segue.constant(0.5))
    replay = segue.Replay(torch.zeros(2, 1), num_examples=None, batch_size=2)
    blend = smoothing.blend(target=torch.ones(2, 1), source=replay, mode="joint")
    with pytest.raises(ValueError, match=r'shape \(4,\), got \(\); use reduction="none"'):
        blend.loss(torch.tensor(1.0))
