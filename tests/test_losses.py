"""What loss callables may return: scalars, and sums with their count."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segue
from segue.losses import evaluate

WAYS = ["mix", "backward"]


def run(way: str, smoothing: segue.Smoothing, source: Any, target: Any) -> Tensor:
    loss = getattr(smoothing, way)(source=source, target=target)
    if way == "mix":
        loss.backward()
    return loss.detach()


def test_token_mean_and_sequence_mean_of_lengths_seven_and_two() -> None:
    # Token losses 1, …, 7 and 10, 20: sums 28 and 30.
    sequences = [torch.arange(1.0, 8.0), torch.tensor([10.0, 20.0])]
    tokens = segue.LossSum(torch.cat(sequences).sum(), count=9)
    rows = segue.LossSum(torch.stack([s.mean() for s in sequences]).sum(), count=2)
    assert evaluate(lambda: tokens, "target").loss.item() == pytest.approx(58 / 9)
    assert evaluate(lambda: rows, "target").loss.item() == pytest.approx((4 + 15) / 2)


@pytest.mark.parametrize("count", [0, torch.tensor(0), torch.tensor([0])])
def test_term_without_a_label_is_zero_and_leaves_the_other_alone(count: Any) -> None:
    model = nn.Linear(3, 4)
    x = torch.ones(2, 3)
    masked, labels = torch.full((2,), -100), torch.tensor([1, 2])
    smoothing = segue.Smoothing(segue.constant(0.25))

    def source() -> segue.LossSum:
        return segue.LossSum(F.cross_entropy(model(x), masked, reduction="sum"), count)

    loss = run("mix", smoothing, source, lambda: F.cross_entropy(model(x), labels))
    got = model.weight.grad
    model.weight.grad = None
    want = 0.75 * F.cross_entropy(model(x), labels)
    want.backward()
    torch.testing.assert_close(loss, want.detach())
    torch.testing.assert_close(got, model.weight.grad)
    assert smoothing.log()["source_loss"] == 0.0
    assert int(smoothing.log()["source_count"]) == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_accumulated_gradient_equals_the_full_batch(way: str, as_tensor: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 11)).double()
    lengths = {"source": [7, 2, 5, 1, 9, 3, 4, 6], "target": [1, 8, 2, 2, 6, 10, 3, 5]}
    data = {
        side: [torch.randint(0, 11, (n + 1,)) for n in counts] for side, counts in lengths.items()
    }

    def total(side: str, rows: slice) -> Tensor:
        return torch.stack(
            [F.cross_entropy(model(ids[:-1]), ids[1:], reduction="sum") for ids in data[side][rows]]
        ).sum()

    def accumulate(num_micro_batches: int) -> list[Tensor]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        smoothing = segue.Smoothing(segue.constant(0.3), optimizer=optimizer)
        size = 8 // num_micro_batches
        for micro in range(num_micro_batches):
            rows = slice(micro * size, (micro + 1) * size)

            def loss(side: str, rows: slice = rows) -> segue.LossSum:
                window: Any = sum(lengths[side])
                window = torch.tensor(window) if as_tensor else window
                return segue.LossSum(total(side, rows), sum(lengths[side][rows]), window)

            run(way, smoothing, lambda f=loss: f("source"), lambda f=loss: f("target"))
        gradients = [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]
        model.zero_grad()
        return gradients

    full = accumulate(1)
    every = slice(0, 8)
    source_mean = total("source", every) / sum(lengths["source"])
    target_mean = total("target", every) / sum(lengths["target"])
    want = torch.autograd.grad(0.3 * source_mean + 0.7 * target_mean, list(model.parameters()))
    for gradients in (full, accumulate(2), accumulate(8)):
        for got, expected in zip(gradients, want, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("normalizer", [0.5, torch.tensor(0.5), torch.tensor([0.5])])
def test_normalizer_below_one_divides_as_given(normalizer: Any) -> None:
    total = segue.LossSum(torch.tensor(2.0), 1, normalizer)
    loss = evaluate(lambda: total, "source").loss
    assert loss.shape == ()
    assert loss.item() == 4.0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (torch.zeros(3), ValueError, "loss must be a scalar, got shape (3,); take its mean"),
        (torch.zeros(0), ValueError, "loss must be a scalar, got shape (0,)"),
        (1.5, TypeError, "loss must be a scalar tensor or a segue.LossSum, got float"),
        (None, TypeError, "got NoneType"),
        ((torch.zeros(()), 3), TypeError, "got tuple"),
    ],
)
def test_what_is_no_scalar_loss_is_named(
    way: str, side: str, value: Any, error: type[Exception], message: str
) -> None:
    losses: dict[str, Any] = dict.fromkeys(
        ("source", "target"), lambda: torch.ones((), requires_grad=True) * 1
    )
    losses[side] = lambda: value
    with pytest.raises(error) as caught:
        run(way, segue.Smoothing(segue.constant(0.5)), losses["source"], losses["target"])
    assert f"the {side} {message}" in str(caught.value) or (
        message in str(caught.value) and side in str(caught.value)
    )


@pytest.mark.parametrize("way", WAYS)
def test_loss_given_instead_of_a_function_is_refused(way: str) -> None:
    smoothing = segue.Smoothing(segue.constant(0.5))
    with pytest.raises(TypeError, match=r"source must be a function of no argument .* got Tensor"):
        run(way, smoothing, torch.zeros(()), lambda: torch.zeros(()))
    with pytest.raises(TypeError, match="write target=lambda"):
        run("mix", smoothing, lambda: torch.zeros(()), torch.zeros(()))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_loss_of_one_element_is_a_scalar(shape: tuple[int, ...]) -> None:
    smoothing = segue.Smoothing(segue.constant(0.5))
    one = torch.ones(shape, requires_grad=True)
    assert smoothing.mix(source=lambda: one * 2, target=lambda: one * 4).shape == ()


def test_non_finite_error_crosses_a_process_boundary() -> None:
    error = segue.NonFiniteLossError("target", float("nan"), 7, 0.5)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert (again.side, again.num_steps, again.source_weight) == ("target", 7, 0.5)
