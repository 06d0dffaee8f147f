"""What every adapter must do, whatever its framework; see the table in adapters.py."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import segue

sys.path.insert(0, str(Path(__file__).parent))
from adapters import (
    LEARNING_RATE,
    ON_RANKS,
    ROWS,
    AdapterRow,
    Job,
    Killed,
    Outcome,
    load_file,
    load_row,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(params=list(ROWS))
def row(request: pytest.FixtureRequest) -> AdapterRow:
    return load_row(request.param)


def same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


def assert_same_weights(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


def largest_difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def assert_same_random_states(a: Outcome, b: Outcome) -> None:
    assert set(a.random_states) == set(b.random_states) >= {"torch"}
    assert [n for n in a.random_states if not same(a.random_states[n], b.random_states[n])] == []


def test_constant_weight_0_is_bitwise_the_plain_trainer(row: AdapterRow, tmp_path: Path) -> None:
    plain = row.train(Job(out=tmp_path / "plain", dropout=0.2, num_micro_batches=2))
    zero = row.train(
        Job(out=tmp_path / "zero", dropout=0.2, num_micro_batches=2, schedule=segue.constant(0.0))
    )
    assert_same_weights(plain.weights, zero.weights)
    assert_same_random_states(plain, zero)
    assert zero.source_weights == [0.0, 0.0, 0.0]
    assert zero.source_losses == []


def test_target_dropout_on_the_ramp_is_the_plain_trainers(row: AdapterRow, tmp_path: Path) -> None:
    plain = row.train(Job(out=tmp_path / "plain", dropout=0.2))
    smoothed = row.train(
        Job(out=tmp_path / "smoothed", dropout=0.2, schedule=segue.linear_decay(2))
    )
    assert_same_random_states(plain, smoothed)


def test_constant_weight_1_gives_the_source_gradient(row: AdapterRow, tmp_path: Path) -> None:
    expected = row.source_gradient()
    before = row.initial_weights()
    for mode, num_micro_batches in itertools.product(row.modes, (1, 4)):
        after = row.train(
            Job(
                out=tmp_path / f"{mode}{num_micro_batches}",
                schedule=segue.constant(1.0),
                num_steps=1,
                num_micro_batches=num_micro_batches,
                mode=mode,
            )
        ).weights
        by_hand = {name: before[name] - LEARNING_RATE * g for name, g in expected.items()}
        moved = {name: after[name] for name in expected}
        assert largest_difference(moved, by_hand) <= row.tolerance
        assert largest_difference(moved, {n: before[n] for n in moved}) > 100 * row.tolerance
        others = set(before) - set(expected)
        assert all(torch.equal(after[name], before[name]) for name in others)


def test_accumulated_windows_equal_whole_ones(row: AdapterRow, tmp_path: Path) -> None:
    # Two epochs of windows of 8, 8 and 4 examples; the source keeps its 8 in each.
    schedule = segue.linear_decay(5)
    outcomes = [
        row.train(
            Job(
                out=tmp_path / f"{mode}{num}",
                schedule=schedule,
                num_steps=6,
                num_micro_batches=num,
                mode=mode,
            )
        )
        for mode, num in [("mix", 1), ("mix", 8), *((mode, 4) for mode in row.modes)]
    ]
    whole = outcomes[0]
    assert whole.source_weights == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])
    for outcome in outcomes[1:]:
        assert largest_difference(outcome.weights, whole.weights) <= row.tolerance
        assert outcome.source_weights == whole.source_weights
        assert outcome.target_losses == pytest.approx(whole.target_losses, rel=1e-5)
        assert outcome.source_losses == pytest.approx(whole.source_losses, rel=1e-5)


def test_killed_twice_on_the_ramp_and_resumed_equals_the_undisturbed_run(
    row: AdapterRow, tmp_path: Path
) -> None:
    job = Job(
        out=tmp_path / "undisturbed",
        schedule=segue.linear_decay(7),
        num_steps=8,
        num_micro_batches=2,
        dropout=0.2,
        save_every=2,
    )
    undisturbed = row.train(job)
    killed = dataclasses.replace(job, out=tmp_path / "killed")
    with pytest.raises(Killed):
        row.train(dataclasses.replace(killed, kill_after=3))
    with pytest.raises(Killed):
        row.train(dataclasses.replace(killed, kill_after=5, resume=True))
    last = row.train(dataclasses.replace(killed, resume=True))
    assert_same_weights(last.weights, undisturbed.weights)
    assert_same_random_states(last, undisturbed)
    assert last.source_weights == undisturbed.source_weights[4:]
    assert last.source_losses == undisturbed.source_losses[4:]
    assert last.target_losses == undisturbed.target_losses[4:]


@pytest.mark.parametrize("fault", ["non_finite", "masked"])
def test_a_faulty_source_batch_is_named_and_leaves_the_targets_step_intact(
    row: AdapterRow, tmp_path: Path, fault: Any
) -> None:
    job = Job(out=tmp_path / "zero", schedule=segue.constant(0.5), num_steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = row.train(dataclasses.replace(job, source_fault="zero"))
    for mode in row.modes:
        with pytest.warns(RuntimeWarning, match=r"source.*step 0"):
            outcome = row.train(
                dataclasses.replace(job, out=tmp_path / mode, source_fault=fault, mode=mode)
            )
        assert_same_weights(outcome.weights, expected.weights)
        assert outcome.target_losses == expected.target_losses


@pytest.mark.parametrize("every_mode", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("file", list(ON_RANKS))
def test_two_ranks_equal_one_on_the_same_global_batches(
    file: str, every_mode: bool, tmp_path: Path
) -> None:
    job = Job(out=tmp_path / "one", schedule=segue.linear_decay(5), num_steps=6)
    rows = {name: load_row(name) for name in ON_RANKS[file]}
    # The last window of an epoch holds 4 examples: one micro-batch of 2 for each rank.
    split = dataclasses.replace(job, num_micro_batches=2)
    jobs = {
        name: [
            dataclasses.replace(split, out=tmp_path / name / mode, mode=mode)
            for mode in row.modes[: None if every_mode else 1]
        ]
        for name, row in rows.items()
    }
    on_two = load_file(file).train_on_ranks(jobs, 2)
    for name, row in rows.items():
        one = row.train(job)
        assert len(on_two[name]) == len(jobs[name])
        for two in on_two[name]:
            assert largest_difference(two.weights, one.weights) <= row.tolerance
            assert two.source_weights == one.source_weights
            assert two.target_losses == pytest.approx(one.target_losses, rel=1e-5)
            assert two.source_losses == pytest.approx(one.source_losses, rel=1e-5)
