"""Trainings on digits, small enough for every run of the tests."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from segue.batches import hash_content
from segue.experiments.supervised.config import AdaptationConfig, OptimizerConfig, SourceConfig
from segue.experiments.supervised.loop import (
    build_optimizer,
    drop_frozen_gradients,
    evaluate,
    sharpness_aware,
)
from segue.experiments.supervised.methods import METHODS, make_method
from segue.experiments.supervised.models import ResNetConfig, build_model
from segue.experiments.supervised.shifts import ShiftConfig
from segue.experiments.supervised.train import adapt, train_source
from segue.experiments.training import learning_rate
from segue.runs.checkpoint import save_checkpoint
from segue.runs.context import RunContext, RunResult, Store

MODEL = ResNetConfig(in_channels=1, widths=(8, 16), stem_width=8, stem_stride=1)
SOURCE = SourceConfig(
    "digits", "all", MODEL, seed=0, num_training_steps=30, batch_size=16, augment=False
)
STEPS, K = 12, 4


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("runs"))
    result = train_source(SOURCE, RunContext(SOURCE, store))
    assert result.artifact is not None
    save_checkpoint(store.artifact(SOURCE), dict(result.artifact))
    return store


def config(name: str, **changes: Any) -> AdaptationConfig:
    method = replace(
        make_method(name, num_smoothing_steps=K, num_target_steps=STEPS), replay_batch_size=16
    )
    settings: dict[str, Any] = {
        "method": method,
        "num_target_examples": 64,
        "num_target_steps": STEPS,
        "batch_size": 16,
        "num_curve_examples": 50,
        **changes,
    }
    return AdaptationConfig(ShiftConfig("label_permutation"), SOURCE, seed=0, **settings)


def run(adaptation: AdaptationConfig, store: Store) -> RunResult:
    return adapt(adaptation, RunContext(adaptation, store))


def weights(result: RunResult) -> str:
    assert result.weights is not None
    return hash_content(dict(result.weights))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_trains_and_differs_from_the_hard_switch(name: str, store: Store) -> None:
    result = run(config(name), store)
    assert result.curves["target_accuracy"]["step"][0] == 0
    assert result.curves["target_accuracy"]["step"][-1] == STEPS
    assert 0.0 <= result.metrics["target_accuracy"] <= 1.0
    assert (weights(result) == weights(run(config("hard_switch"), store))) == (
        name == "hard_switch"
    )


@pytest.mark.parametrize(
    ("name", "num_examples", "num_target"),
    [
        ("hard_switch", 12 * 16, 12 * 16),
        ("smoothing", 12 * 16 + 4 * 16, 12 * 16),
        ("constant_mix", 12 * 16 + 4 * 16, 12 * 16),
        ("constant_mix_throughout", 24 * 16, 12 * 16),
        ("target_ramp", 12 * 16, 12 * 16),
        ("smoothing_mixed", 12 * 16, 12 * 16 - (16 + 12 + 8 + 4)),
        ("sam", 24 * 16, 24 * 16),
    ],
)
def test_compute_is_counted_in_gradient_examples(
    name: str, num_examples: int, num_target: int, store: Store
) -> None:
    adaptation = config(name)
    metrics = run(adaptation, store).metrics
    assert metrics["num_gradient_examples"] == num_examples
    assert metrics["num_target_examples_used"] == num_target
    assert adaptation.cost() == num_examples


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(store: Store) -> None:
    assert weights(run(config("smoothing"), store)) == weights(run(config("smoothing"), store))
    source = replace(SOURCE, seed=1)
    save_checkpoint(store.artifact(source), dict(build_model(MODEL, seed=0).state_dict()))
    other = replace(config("smoothing"), source=source, seed=1)
    assert weights(run(other, store)) != weights(run(config("smoothing"), store))


def test_mix_joint_and_backward_train_alike(store: Store) -> None:
    results = []
    for mode in ("mix", "joint", "backward"):
        method = replace(config("smoothing").method, mode=mode)
        results.append(run(config("smoothing", method=method), store))
    for other in results[1:]:
        assert results[0].weights is not None
        assert other.weights is not None
        for name, value in results[0].weights.items():
            torch.testing.assert_close(other.weights[name], value, rtol=1e-3, atol=1e-4)


def test_the_hard_switch_is_the_plain_loop(store: Store) -> None:
    from segue.experiments.supervised.task import load_adaptation
    from segue.runs.checkpoint import load_checkpoint
    from segue.sources.replay import Replay

    adaptation = config("hard_switch")
    task = load_adaptation(adaptation, None)
    model = build_model(MODEL, seed=5).train()
    model.load_state_dict(load_checkpoint(store.artifact(SOURCE)))
    optimizer = build_optimizer(adaptation.optimizer, model)
    stream = Replay(tuple(task.target_train), num_examples=None, batch_size=16, seed=0)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = learning_rate(0.05, step, STEPS, 0)
        images, labels = next(stream)
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert hash_content(dict(model.state_dict())) == weights(run(adaptation, store))


def test_a_fresh_head_keeps_the_body_and_scratch_keeps_nothing(store: Store) -> None:
    from segue.experiments.supervised.train import _initial_model
    from segue.runs.checkpoint import load_checkpoint

    source = load_checkpoint(store.artifact(SOURCE))

    def shared(name: str) -> set[str]:
        adaptation = config(name)
        model = _initial_model(adaptation, source if adaptation.requires() else None)
        return {n for n, v in model.state_dict().items() if torch.equal(v, source[n])}

    everything = set(source)
    assert shared("hard_switch") == everything
    assert everything - shared("fresh_head") == {"head.weight", "head.bias"}
    # Norm layers begin as ones and zeros, so some may be alike by chance of initialisation.
    assert not any("conv" in name for name in shared("from_scratch"))
    assert not any("conv" in name for name in shared("shrink_and_perturb"))


def test_a_source_model_that_diverges_says_so(store: Store) -> None:
    source = replace(SOURCE, optimizer=OptimizerConfig(learning_rate=1e20))
    with pytest.raises(FloatingPointError, match=r"the source model's loss is .* at step"):
        train_source(source, RunContext(source, store))


def test_head_first_trains_the_head_alone_at_first() -> None:
    model = build_model(MODEL, seed=0)
    model(torch.randn(4, 1, 8, 8)).sum().backward()
    drop_frozen_gradients(model, step=0, num_head_first_steps=5, num_unfreezing_steps=0)
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        "head.weight",
        "head.bias",
    }


def test_unfreezing_opens_one_part_after_the_other_and_ends_with_all() -> None:
    num_open = []
    for step in range(12):
        model = build_model(MODEL, seed=0)
        model(torch.randn(4, 1, 8, 8)).sum().backward()
        drop_frozen_gradients(model, step, num_head_first_steps=0, num_unfreezing_steps=10)
        num_open.append(sum(p.grad is not None for p in model.parameters()))
    assert num_open == sorted(num_open)
    assert num_open[0] == 2
    assert num_open[10] == num_open[11] == len(list(model.parameters()))


def test_the_learning_rate_rises_over_the_warm_up_and_ends_near_zero() -> None:
    rates = [learning_rate(0.1, step, 100, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == max(rates[9:12])
    assert rates[-1] < 1e-4
    assert learning_rate(0.1, 0, 100, 0) == 0.1


def test_evaluation_counts_by_hand_and_leaves_the_mode() -> None:
    class Constant(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, 1.0]]).expand(len(images), 2)

    model = Constant().train()
    accuracy, loss = evaluate(model, torch.zeros(1001, 1), torch.tensor([1] * 1000 + [0]))
    assert accuracy == 1000 / 1001
    one, zero = 0.3132616875182228, 1.3132616875182228
    assert loss == pytest.approx((1000 * one + zero) / 1001, rel=1e-5)
    assert model.training


def test_sam_moves_along_the_gradient_and_back() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    with sharpness_aware(model, radius=0.5):
        moved = model.weight.detach() - before
        assert model.weight.grad is None
    torch.testing.assert_close(moved, torch.tensor([[0.3, 0.4]]))
    assert torch.equal(model.weight, before)


def test_a_label_that_does_not_fit_the_head_is_named_before_training(tmp_path: Path) -> None:
    narrow = replace(SOURCE, model=replace(MODEL, num_classes=7))
    message = r"labels of digits must be in \[0, 7\) for a head of 7 units, got 9"
    with pytest.raises(ValueError, match=message):
        train_source(narrow, RunContext(narrow, Store(tmp_path)))


def test_the_seeds_of_source_and_adaptation_must_agree() -> None:
    with pytest.raises(ValueError, match=r"seed must be the source's \(0\), got 1"):
        replace(config("smoothing"), seed=1)


def test_fewer_target_examples_than_a_batch_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"num_target_examples must be >= batch_size \(16\), got 8"
    ):
        config("smoothing", num_target_examples=8)


def test_a_source_that_does_not_match_the_shift_is_refused() -> None:
    with pytest.raises(ValueError, match="source_task of class_split must be 'first_half_classes'"):
        replace(config("smoothing"), shift=ShiftConfig("class_split"))
    with pytest.raises(ValueError, match="unknown source_task 'al'; did you mean 'all'"):
        replace(SOURCE, source_task="al")


def test_what_the_source_model_could_do_is_measured_before_anything_is_drawn_anew(
    store: Store,
) -> None:
    before = run(config("hard_switch"), store).metrics["source_model_accuracy"]
    assert before > 0.2
    for name in ("fresh_head", "shrink_and_perturb", "smoothing"):
        assert run(config(name), store).metrics["source_model_accuracy"] == before
    assert run(config("from_scratch"), store).metrics["source_model_accuracy"] is None
