"""Arguments, log and life cycle of Smoothing."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import segue


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def test_log_names_the_weight_both_losses_and_their_counts() -> None:
    smoothing = segue.Smoothing(segue.constant(0.25))
    assert smoothing.log() == {"source_weight": 0.25}
    smoothing.mix(
        source=lambda: segue.LossSum(scalar(12.0), 3), target=lambda: segue.LossSum(scalar(8.0), 4)
    )
    log = smoothing.log()
    assert {key: float(value) for key, value in log.items()} == {
        "source_weight": 0.25,
        "source_loss": 4.0,
        "target_loss": 2.0,
        "weighted_source_loss": 1.0,
        "weighted_target_loss": 1.5,
        "source_count": 3,
        "target_count": 4,
    }


def test_log_is_the_same_for_every_way_to_execute() -> None:
    source, target = torch.tensor([1.0, 3.0]), torch.tensor([5.0, 5.0])
    logs = []
    for way in ("mix", "backward", "joint"):
        smoothing = segue.Smoothing(segue.constant(0.25))
        weight = torch.ones((), requires_grad=True)
        if way == "joint":
            replay = segue.Replay(source, num_examples=None, batch_size=2)
            blend = smoothing.blend(target=target, source=replay, mode="joint")
            blend.loss(blend.batch * weight)
        else:
            getattr(smoothing, way)(
                source=lambda w=weight: (source * w).mean(),
                target=lambda w=weight: (target * w).mean(),
            )
        logs.append({key: float(value) for key, value in smoothing.log().items()})
    # A blend knows its counts; a plain loss function does not say.
    assert logs[2] == logs[0] | {"source_count": 2.0, "target_count": 2.0}
    assert logs[0] == logs[1]
    assert logs[0]["source_loss"] == 2.0


def test_log_after_the_ramp_has_no_source() -> None:
    smoothing = segue.Smoothing(segue.hard_switch())
    smoothing.mix(source=lambda: scalar(1.0), target=lambda: scalar(2.0))
    assert set(smoothing.log()) == {"source_weight", "target_loss", "weighted_target_loss"}


def test_log_shows_the_weight_that_the_loss_had_not_the_coming_one() -> None:
    smoothing = segue.Smoothing(segue.linear_decay(2))
    smoothing.mix(source=lambda: scalar(1.0), target=lambda: scalar(2.0))
    smoothing.step()
    assert smoothing.log()["source_weight"] == 1.0
    assert smoothing.source_weight == 0.5


@pytest.mark.parametrize("way", ["mix", "backward", "joint"])
def test_log_keeps_no_graph(way: str) -> None:
    smoothing = segue.Smoothing(segue.constant(0.5))
    weight = torch.ones(4, requires_grad=True)
    inner: list[Any] = []

    def loss() -> Tensor:
        hidden = weight * 2.0
        inner.append(weakref.ref(hidden))
        return hidden.square().mean()  # the graph holds `hidden`

    if way == "joint":
        replay = segue.Replay(torch.ones(2), num_examples=None, batch_size=2)
        blended = smoothing.blend(target=torch.ones(2), source=replay, mode="joint")
        hidden = weight * blended.batch
        inner.append(weakref.ref(hidden))
        result = blended.loss(hidden.square())
        del hidden
    else:
        result = getattr(smoothing, way)(source=loss, target=loss)
    del result
    gc.collect()
    assert all(reference() is None for reference in inner)
    values = [value for value in smoothing.log().values() if isinstance(value, Tensor)]
    assert len(values) == 4
    assert not any(value.requires_grad for value in values)


def test_weight_tensor_follows_in_place() -> None:
    smoothing = segue.Smoothing(segue.linear_decay(4))
    tensor = smoothing.weight_tensor
    trace = []
    for _ in range(6):
        trace.append(tensor.item())
        assert tensor.item() == smoothing.source_weight
        smoothing.step()
    assert trace == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert smoothing.weight_tensor is tensor
    assert tensor.shape == ()


def make_replay() -> segue.Replay:
    return segue.Replay(torch.arange(8.0), num_examples=None, batch_size=2)


def test_sources_are_released_once_the_weight_is_zero_for_good() -> None:
    replay = make_replay()
    smoothing = segue.Smoothing(segue.linear_decay(2), sources=[replay])
    for step, released in enumerate([False, False, True, True]):
        assert (smoothing.finished, replay.released) == (released, released), step
        smoothing.step()
    with pytest.raises(RuntimeError, match="the replay bank was released"):
        next(replay)


def test_hard_switch_releases_its_sources_at_once() -> None:
    replay = make_replay()
    smoothing = segue.Smoothing(segue.hard_switch(), sources=[replay])
    assert smoothing.finished
    assert replay.released
    batch = torch.ones(3)
    assert smoothing.blend(target=batch, source=replay, mode="joint").batch is batch


@pytest.mark.parametrize(
    "schedule",
    [segue.linear_decay(2, final_weight=0.1), segue.constant(0.5), lambda step: 0.0],
    ids=["floor", "constant", "unknown horizon"],
)
def test_sources_are_kept_where_the_weight_stays_or_may_come_back(schedule: Any) -> None:
    replay = make_replay()
    smoothing = segue.Smoothing(schedule, sources=[replay])
    for _ in range(5):
        smoothing.step()
    assert not smoothing.finished
    assert not replay.released


def test_sources_survive_a_zero_between_two_ramps() -> None:
    replay = make_replay()
    schedule = segue.join([segue.linear_decay(2), segue.linear_decay(2)], [4])
    smoothing = segue.Smoothing(schedule, sources=[replay])
    seen = []
    for _ in range(7):
        seen.append((smoothing.source_weight, replay.released))
        smoothing.step()
    assert seen == [
        (1.0, False), (0.5, False), (0.0, False), (0.0, False), (1.0, False), (0.5, False), (0.0, True),
    ]  # fmt: skip


BAD: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "schedule must map a step to a source weight, got float": (TypeError, {"schedule": 0.5}),
    "unknown non_finite policy 'rase'; did you mean 'raise'?": (ValueError, {"non_finite": "rase"}),
    "unknown batch_norm policy 'frozen'; did you mean": (ValueError, {"batch_norm": "frozen"}),
    "batch_norm='target_only' needs model=, got None": (ValueError, {"batch_norm": "target_only"}),
    "seed must be >= 0, got -1": (ValueError, {"seed": -1}),
    "seed must be an integer, got 0.5": (TypeError, {"seed": 0.5}),
    "sources must have a release() method, got list": (TypeError, {"sources": [[1, 2]]}),
    "optimizer must be a torch.optim.Optimizer, got str": (TypeError, {"optimizer": "sgd"}),
}


@pytest.mark.parametrize("message", BAD)
def test_a_wrong_argument_is_refused_before_training(message: str) -> None:
    error, keywords = BAD[message]
    with pytest.raises(error) as caught:
        segue.Smoothing(**{"schedule": segue.linear_decay(2), **keywords})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (1.5, ValueError, "in [0, 1], got 1.5 at step 3"),
        (-1e-9, ValueError, "in [0, 1], got -1e-09 at step 3"),
        (float("nan"), ValueError, "in [0, 1], got nan at step 3"),
        ("0.5", TypeError, "must return a number, got '0.5' at step 3"),
        (None, TypeError, "must return a number, got None at step 3"),
        (True, TypeError, "must return a number, got True at step 3"),
        (np.zeros(2), TypeError, "must return a number, got array([0., 0.]) at step 3"),
        (torch.zeros(2), TypeError, "must return a number, got tensor([0., 0.]) at step 3"),
    ],
)
def test_a_schedule_that_leaves_its_range_is_refused_with_the_step(
    value: Any, error: type[Exception], shown: str
) -> None:
    with pytest.raises(error) as caught:
        segue.Smoothing(lambda step: value if step == 3 else 0.5)
    assert shown in str(caught.value)


def test_a_schedule_that_goes_wrong_late_is_named_when_it_does() -> None:
    smoothing = segue.Smoothing(lambda step: 0.5 if step < 1200 else 2.0)
    for _ in range(1199):
        smoothing.step()
    with pytest.raises(ValueError, match=r"in \[0, 1\], got 2.0 at step 1200"):
        smoothing.step()


@pytest.mark.parametrize("value", [np.float32(0.5), torch.tensor(0.5), 0, 1])
def test_any_number_will_do_as_a_weight(value: Any) -> None:
    assert segue.Smoothing(lambda step: value).source_weight == float(value)


@pytest.mark.parametrize("way", ["mix", "backward"])
def test_losses_must_agree_in_device_and_dtype(way: str) -> None:
    smoothing = segue.Smoothing(segue.constant(0.5), non_finite="ignore")
    execute = getattr(smoothing, way)
    single = torch.ones((), requires_grad=True)
    with pytest.raises(ValueError, match=r"same dtype, got torch.float32 and torch.float64"):
        execute(source=lambda: single * 1, target=lambda: scalar(1.0))
    meta = torch.ones((), device="meta", requires_grad=True)
    with pytest.raises(ValueError, match="same device, got cpu and meta"):
        execute(source=lambda: single * 1, target=lambda: meta * 1)


def test_a_smoothing_can_be_dropped_while_its_optimizer_lives_on() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    smoothing = segue.Smoothing(segue.linear_decay(2), optimizer=optimizer)
    reference = weakref.ref(smoothing)
    del smoothing
    gc.collect()
    assert reference() is None
    optimizer.step()


def test_an_empty_batch_is_named() -> None:
    replay = segue.Replay(torch.zeros(4, 1), num_examples=None, batch_size=2)
    smoothing = segue.Smoothing(segue.constant(0.5))
    with pytest.raises(ValueError, match="target must hold at least one example"):
        smoothing.blend(target=torch.zeros(0, 1), source=replay, mode="joint")


def test_a_blend_keeps_the_kind_of_the_target_batch_and_logs_counts() -> None:
    replay = segue.Replay((torch.zeros(8, 1), torch.zeros(8)), num_examples=None, batch_size=4)
    smoothing = segue.Smoothing(segue.constant(0.5))
    blend = smoothing.blend(target=[torch.ones(6, 1), torch.ones(6)], source=replay, mode="joint")
    assert isinstance(blend.batch, list)
    blend.loss(blend.batch[1])
    assert (smoothing.log()["source_count"], smoothing.log()["target_count"]) == (4, 6)
