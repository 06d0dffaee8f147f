"""K counts applied optimizer steps: not micro-batches, optimizers, or steps that a scaler skipped."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import segue

TRACE = [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def make(**keywords: object) -> tuple[nn.Module, torch.optim.Optimizer, segue.Smoothing]:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, **keywords)  # type: ignore[arg-type]
    return model, optimizer, segue.Smoothing(segue.linear_decay(4), optimizer=optimizer)


def mix(smoothing: segue.Smoothing, model: nn.Module) -> torch.Tensor:
    def loss() -> torch.Tensor:
        return model(torch.ones(3, 2)).mean()

    return smoothing.mix(source=loss, target=loss)


@pytest.mark.parametrize("num_micro_batches", [1, 8])
def test_trace_does_not_depend_on_accumulation(num_micro_batches: int) -> None:
    model, optimizer, smoothing = make()
    trace = []
    for _ in TRACE:
        for _ in range(num_micro_batches):
            (mix(smoothing, model) / num_micro_batches).backward()
            assert smoothing.log()["source_weight"] == smoothing.source_weight
        trace.append(smoothing.source_weight)
        optimizer.step()
        optimizer.zero_grad()
    assert trace == TRACE
    assert smoothing.num_steps == len(TRACE)


def test_second_optimizer_does_not_move_the_clock() -> None:
    model, optimizer, smoothing = make()
    second = torch.optim.SGD(model.parameters(), lr=1e-3)
    trace = []
    for _ in TRACE:
        trace.append(smoothing.source_weight)
        mix(smoothing, model).backward()
        optimizer.step()
        second.step()
    assert trace == TRACE


@pytest.mark.parametrize("fused", [False, True])
def test_step_that_the_gradient_scaler_skipped_does_not_count(fused: bool) -> None:
    model, optimizer, smoothing = make(fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    trace, applied = [], []
    for step in range(7):
        trace.append(smoothing.source_weight)
        scaler.scale(mix(smoothing, model)).backward()
        if step in (0, 2):
            model.weight.grad[0, 0] = float("inf")  # type: ignore[index, union-attr]
        before = model.weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        applied.append(not torch.equal(before, model.weight))
    assert applied == [False, True, False, True, True, True, True]
    assert trace == [1.0, 1.0, 0.75, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("fused", [False, True])
def test_scaled_backward_gives_the_scaled_gradient(fused: bool) -> None:
    model, optimizer, smoothing = make(fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)

    def loss() -> torch.Tensor:
        return model(torch.ones(3, 2)).mean()

    smoothing.backward(source=loss, target=loss, scaler=scaler)
    assert model.weight.grad is not None
    torch.testing.assert_close(model.weight.grad, torch.full((1, 2), 8.0))
    scaler.step(optimizer)
    scaler.update()
    assert smoothing.num_steps == 1


def test_step_with_a_closure_counts_once() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    smoothing = segue.Smoothing(segue.linear_decay(4), optimizer=optimizer)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = mix(smoothing, model).square()
        loss.backward()
        return loss

    for expected in TRACE:
        assert smoothing.source_weight == expected
        optimizer.step(closure)


def test_manual_clock_follows_its_step() -> None:
    smoothing = segue.Smoothing(segue.linear_decay(4))
    trace = []
    for _ in TRACE:
        trace.append(smoothing.source_weight)
        smoothing.step()
    assert trace == TRACE


def test_forgotten_manual_step_is_warned_about_once() -> None:
    model = nn.Linear(2, 1)
    smoothing = segue.Smoothing(segue.linear_decay(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            mix(smoothing, model)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(20):
            mix(smoothing, model)
    assert len(seen) == 1
    assert "3 losses were blended without smoothing.step()" in str(seen[0].message)
    assert seen[0].filename == __file__  # it points at the caller's line


def test_nothing_is_warned_about_where_the_clock_runs_or_the_ramp_is_over() -> None:
    model, _, following = make()
    finished = segue.Smoothing(segue.hard_switch())
    stepped = segue.Smoothing(segue.linear_decay(4))
    evaluated = segue.Smoothing(segue.linear_decay(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(10):
            mix(following, model)
            mix(finished, model)
            mix(stepped, model)
            stepped.step()
            with torch.no_grad():
                mix(evaluated, model)


def test_a_step_by_hand_beside_an_optimizer_is_refused() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    smoothing = segue.Smoothing(segue.linear_decay(4), optimizer=optimizer)
    with pytest.raises(RuntimeError, match="the clock follows the optimizer by itself"):
        smoothing.step()
    assert smoothing.num_steps == 0
