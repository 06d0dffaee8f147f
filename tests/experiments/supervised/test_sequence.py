"""Sequences of shifts on digits."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segue.batches import hash_content
from segue.experiments.supervised.config import SourceConfig
from segue.experiments.supervised.methods import make_method
from segue.experiments.supervised.models import ResNetConfig
from segue.experiments.supervised.sequence import SequenceConfig, SequenceShift
from segue.experiments.supervised.train import train_source
from segue.runs.checkpoint import save_checkpoint
from segue.runs.context import RunContext, RunResult, Store

MODEL = ResNetConfig(in_channels=1, widths=(8,), stem_width=8, stem_stride=1)
SOURCE = SourceConfig("digits", "all", MODEL, seed=0, num_training_steps=30, batch_size=16)
STEPS = 10
PARTS = ("contrast", "gaussian_noise", "colour_inversion")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("runs"))
    result = train_source(SOURCE, RunContext(SOURCE, store))
    assert result.artifact is not None
    save_checkpoint(store.artifact(SOURCE), dict(result.artifact))
    return store


def config(name: str = "smoothing") -> SequenceConfig:
    method = make_method(name, num_smoothing_steps=4, num_target_steps=STEPS)
    return SequenceConfig(
        SequenceShift("three", PARTS),
        SOURCE,
        replace(method, replay_batch_size=16, num_bank_examples=32),
        seed=0,
        num_target_examples=64,
        num_target_steps=STEPS,
        batch_size=16,
        num_curve_examples=50,
    )


def weights(result: RunResult) -> str:
    assert result.weights is not None
    return hash_content(dict(result.weights))


def test_the_weight_starts_again_at_every_switch(store: Store) -> None:
    result = config().execute(RunContext(config(), store))
    curve = result.curves["source_weight"]
    at = dict(zip(curve["step"], curve["value"], strict=True))
    assert [at[step] for step in (0, 10, 20)] == [1.0, 1.0, 1.0]
    assert [at[step] for step in (1, 11, 21)] == [0.75, 0.75, 0.75]
    assert at[30] == 0.0
    assert result.metrics["num_gradient_examples"] == config().cost() == 3 * (10 + 4) * 16


def test_measures_are_those_of_the_curves(store: Store) -> None:
    result = config("hard_switch").execute(RunContext(config("hard_switch"), store))
    metrics: Mapping[str, Any] = result.metrics

    def lowest(task: int, after: int) -> float:
        curve = result.curves[f"accuracy_of_task_{task}"]
        pairs = zip(curve["step"], curve["value"], strict=True)
        return float(min(value for step, value in pairs if step > after))

    worst = (lowest(0, 0) + lowest(1, 10) + lowest(2, 20)) / 3
    assert metrics["min_accuracy"] == pytest.approx(worst)
    current = result.curves["accuracy_of_task_3"]["value"][-1]
    assert metrics["worst_case_accuracy"] == pytest.approx(current / 4 + 0.75 * worst)
    final = [metrics[f"accuracy_of_task_{task}"] for task in range(4)]
    assert metrics["average_accuracy"] == pytest.approx(sum(final) / 4)


@pytest.mark.parametrize("stop", [3, 10, 17, 29])
def test_a_sequence_that_was_cut_off_ends_like_one_that_was_not(
    stop: int, store: Store, tmp_path: Path
) -> None:
    whole = config().execute(RunContext(config(), store))

    class StoppedError(Exception):
        pass

    def stop_there(step: int, total: int) -> None:
        if step > stop:
            raise StoppedError

    other = Store(tmp_path)
    save_checkpoint(other.artifact(SOURCE), RunContext(SOURCE, store).artifact(SOURCE))
    with pytest.raises(StoppedError):
        config().execute(RunContext(config(), other, report=stop_there, checkpoint_seconds=0.0))
    resumed = config().execute(RunContext(config(), other))
    assert weights(resumed) == weights(whole)
    assert resumed.curves == whole.curves
    assert resumed.metrics == whole.metrics


def test_what_a_sequence_does_not_support_is_named() -> None:
    with pytest.raises(ValueError, match="initialization of a method in a sequence must be"):
        config("fresh_head")
    with pytest.raises(ValueError, match="at least two shifts of one source task"):
        SequenceShift("bad", ("contrast", "class_split"))
