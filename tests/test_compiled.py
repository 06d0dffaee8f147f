"""A compiled step: one compilation per regime (λ > 0 and λ = 0), and the fresh λ at every step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import segue

NUM_SMOOTHING_STEPS = 100


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def losses_and_weights(
    compiled: bool, counter: CompileCounter, counts: list[int], non_finite: Any = "raise"
) -> tuple[list[float], list[Tensor]]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    smoothing = segue.Smoothing(
        segue.linear_decay(NUM_SMOOTHING_STEPS), optimizer=optimizer, non_finite=non_finite
    )
    generator = torch.Generator().manual_seed(1)
    source, target = torch.randn(2, 8, 3, generator=generator)

    def blended() -> Tensor:
        return smoothing.mix(
            source=lambda: model(source).square().mean(),
            target=lambda: (model(target) - 1.0).square().mean(),
        )

    fullgraph = non_finite == "ignore"
    function = torch.compile(blended, backend=counter, fullgraph=fullgraph) if compiled else blended
    seen = []
    for _ in range(2 * NUM_SMOOTHING_STEPS):
        loss = function()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.item())
        counts.append(counter.frame_count)
    return seen, [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("non_finite", ["raise", "ignore"])
def test_compiled_mix_recompiles_once_per_regime_and_follows_the_weight(non_finite: Any) -> None:
    counts: list[int] = []
    compiled = losses_and_weights(True, CompileCounter(), counts, non_finite)
    eager = losses_and_weights(False, CompileCounter(), [], non_finite)
    ramp, after = counts[:NUM_SMOOTHING_STEPS], counts[NUM_SMOOTHING_STEPS:]
    assert ramp[0] > 0
    if non_finite == "ignore":
        assert (ramp[0], after[0]) == (1, 2)
    assert set(ramp) == {ramp[0]}
    assert set(after) == {after[0]}
    assert compiled[0] == pytest.approx(eager[0], rel=1e-5)
    for got, want in zip(compiled[1], eager[1], strict=True):
        torch.testing.assert_close(got, want)
    assert len({round(value, 9) for value in eager[0]}) > NUM_SMOOTHING_STEPS  # every step differs


def test_compiled_mix_logs_the_weight_it_used() -> None:
    smoothing = segue.Smoothing(segue.linear_decay(4), non_finite="ignore")
    weight = torch.ones((), requires_grad=True)

    @torch.compile(backend="eager", fullgraph=True)
    def blended() -> Tensor:
        return smoothing.mix(source=lambda: weight * 4.0, target=lambda: weight * 8.0)

    for expected in (1.0, 0.75, 0.5, 0.25):
        blended()
        smoothing.step()
        log = smoothing.log()
        assert log["source_weight"] == expected
        assert float(log["weighted_source_loss"]) == 4.0 * expected
        assert not log["source_loss"].requires_grad


def test_compiled_model_inside_an_eager_mix_is_compiled_once_per_side() -> None:
    counter = CompileCounter()
    model = torch.compile(nn.Linear(3, 1), backend=counter)
    smoothing = segue.Smoothing(segue.linear_decay(20))
    x = torch.ones(4, 3)
    for _ in range(40):
        loss = smoothing.mix(source=lambda: model(x).mean(), target=lambda: model(x).mean())
        loss.backward()
        smoothing.step()
    assert counter.frame_count == 1


def test_own_if_form_with_the_weight_tensor_compiles_once_per_regime() -> None:
    counter = CompileCounter()
    smoothing = segue.Smoothing(segue.linear_decay(NUM_SMOOTHING_STEPS))

    @torch.compile(backend=counter, fullgraph=True)
    def blended(weight: Tensor, source: Tensor, target: Tensor) -> Tensor:
        return weight * source + (1.0 - weight) * target

    @torch.compile(backend=counter, fullgraph=True)
    def alone(target: Tensor) -> Tensor:
        return target * 1.0

    source, target = torch.tensor(4.0), torch.tensor(8.0)
    for step in range(NUM_SMOOTHING_STEPS + 20):
        if smoothing.source_weight > 0.0:
            loss = blended(smoothing.weight_tensor, source, target)
        else:
            loss = alone(target)
        assert loss.item() == pytest.approx(8.0 - 4.0 * max(0.0, 1.0 - step / NUM_SMOOTHING_STEPS))
        smoothing.step()
    assert counter.frame_count == 2
