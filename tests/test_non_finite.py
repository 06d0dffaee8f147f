"""A NaN or infinite loss during the ramp is named, skipped or ignored; afterwards nothing is checked."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import segue

NAN, INF = float("nan"), float("inf")


class Problem:
    """A model, one good loss and one that can be spoilt."""

    def __init__(self, non_finite: str, schedule: segue.Schedule | None = None) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(2, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.smoothing = segue.Smoothing(
            schedule or segue.linear_decay(4),
            optimizer=self.optimizer,
            non_finite=non_finite,  # type: ignore[arg-type]
        )

    def loss(self, factor: float = 1.0) -> Tensor:
        return self.model(torch.ones(3, 2)).log_softmax(-1)[:, 0].mean() * factor

    def run(self, way: str, source: float = 1.0, target: float = 1.0) -> None:
        losses = {"source": lambda: self.loss(source), "target": lambda: self.loss(target)}
        if way == "mix":
            self.smoothing.mix(**losses).backward()
        elif way == "backward":
            self.smoothing.backward(**losses)
        else:
            replay = segue.Replay(torch.full((4, 2), source), num_examples=None, batch_size=4)
            batch = torch.full((4, 2), target)
            blend = self.smoothing.blend(target=batch, source=replay, mode="joint")
            blend.loss(self.model(blend.batch).log_softmax(-1)[:, 0]).backward()

    def gradient(self) -> Tensor | None:
        gradient = self.model.weight.grad
        self.model.zero_grad()
        return gradient


WAYS = ["mix", "backward", "joint"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_raise_names_the_loss_the_step_and_the_weight(way: str, side: str, value: float) -> None:
    problem = Problem("raise")
    problem.run(way)
    problem.optimizer.step()
    with pytest.raises(segue.NonFiniteLossError) as caught:
        problem.run(way, **{side: value})
    error = caught.value
    assert (error.side, error.num_steps, error.source_weight) == (side, 1, 0.75)
    assert f"the {side} loss is " in str(error)
    assert "at step 1 with source weight 0.75" in str(error)


@pytest.mark.parametrize("way", ["mix", "backward"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_skip_leaves_the_other_term_as_it_was(way: str, side: str) -> None:
    problem = Problem("skip", segue.constant(0.25))
    problem.loss().backward()
    alone = problem.gradient()
    assert alone is not None
    with pytest.warns(
        RuntimeWarning, match=f"the {side} loss is nan at step 0 .* is skipped"
    ) as seen:
        problem.run(way, **{side: NAN})
    assert seen[0].filename == __file__  # it points at the caller's line
    share = 0.75 if side == "source" else 0.25
    torch.testing.assert_close(problem.gradient(), share * alone)
    assert torch.isnan(problem.smoothing.log()[f"{side}_loss"])


@pytest.mark.parametrize("side", ["source", "target"])
def test_skip_in_one_forward_skips_both_because_rows_share_it(side: str) -> None:
    problem = Problem("skip", segue.constant(0.25))
    before = problem.model.weight.detach().clone()
    with pytest.warns(RuntimeWarning, match=f"the {side} loss is nan"):
        problem.run("joint", **{side: NAN})
    problem.optimizer.step()
    assert torch.equal(problem.model.weight, before)


@pytest.mark.parametrize("way", WAYS)
def test_step_with_both_terms_skipped_still_counts(way: str) -> None:
    problem = Problem("skip")
    before = problem.model.weight.detach().clone()
    with pytest.warns(RuntimeWarning, match="is skipped"):
        problem.run(way, source=NAN, target=NAN)
    problem.optimizer.step()
    assert torch.equal(problem.model.weight, before)
    assert problem.smoothing.num_steps == 1


@pytest.mark.parametrize("way", WAYS)
def test_ignore_lets_everything_through(way: str) -> None:
    problem = Problem("ignore", segue.constant(0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem.run(way, source=NAN)
    gradient = problem.gradient()
    assert gradient is not None
    assert torch.isnan(gradient).any()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("policy", ["raise", "skip", "ignore"])
def test_nan_source_is_harmless_where_its_weight_is_zero(way: str, policy: str) -> None:
    problem = Problem(policy, segue.hard_switch())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem.run(way, source=NAN)
    gradient = problem.gradient()
    assert gradient is not None
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_checked_after_the_ramp(way: str) -> None:
    problem = Problem("raise", segue.hard_switch())
    problem.run(way, target=NAN)
    gradient = problem.gradient()
    assert gradient is not None
    assert torch.isnan(gradient).any()


def test_overflow_to_infinity_in_half_precision_is_found() -> None:
    smoothing = segue.Smoothing(segue.constant(0.5))
    big = torch.tensor(6e4, dtype=torch.float16, requires_grad=True)
    with pytest.raises(segue.NonFiniteLossError, match="the target loss is inf"):
        smoothing.mix(source=lambda: big * 1, target=lambda: big * 2)


def test_loss_of_a_blend_without_source_rows_is_checked_inside_the_ramp() -> None:
    smoothing = segue.Smoothing(segue.constant(1e-9))
    replay = segue.Replay(torch.ones(4), num_examples=None, batch_size=4)
    blend = smoothing.blend(target=torch.ones(4), source=replay, mode="mixed")
    assert blend.num_source == 0
    with pytest.raises(segue.NonFiniteLossError, match="the target loss is nan"):
        blend.loss(blend.batch * NAN)
