"""Known answers, seeds and invariances of the statistics over tasks."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from segue.analysis import (
    Estimate,
    iqm,
    mean_of_task_means,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)

TASKS = [[0.1, 0.5, 0.3, 0.9], [0.2, 0.4, 0.8], [0.7, 0.6, 0.95, 0.15, 0.25]]
OTHERS = [[0.2, 0.4, 0.35, 0.7], [0.1, 0.5, 0.6], [0.6, 0.65, 0.9, 0.1, 0.2]]
scores = st.floats(-10.0, 10.0, allow_nan=False)
task_lists = st.lists(st.lists(scores, min_size=1, max_size=6), min_size=1, max_size=4)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 1.0, 2.0, 100.0], 1.5),  # one of four cut at each end
        ([5.0, 1.0, 3.0], 3.0),  # floor(3 / 4) = 0 cut: the mean
        ([0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 99.0, 99.0], 2.5),
        ([1.0, 2.0, 3.0, 4.0, 50.0], 3.0),  # floor(5 / 4) = 1
    ],
)
def test_iqm_by_hand(values: list[float], expected: float) -> None:
    assert iqm(values) == pytest.approx(expected)


@given(st.lists(scores, min_size=1, max_size=40))
def test_iqm_is_the_quarter_trimmed_mean(values: list[float]) -> None:
    assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25))


def test_iqm_pools_the_runs_of_all_tasks() -> None:
    assert iqm(TASKS) == pytest.approx(stats.trim_mean(np.concatenate(TASKS), 0.25))
    assert iqm(np.array([[1.0, 2.0], [3.0, 100.0]])) == 2.5


@pytest.mark.parametrize("bad", [[], [math.nan], [1.0, math.inf]])
def test_iqm_refuses_no_scores_and_scores_that_are_not_finite(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="scores must"):
        iqm(bad)


def test_tasks_weigh_the_same_in_the_mean_of_task_means() -> None:
    assert mean_of_task_means([[0.0, 0.0, 0.0], [1.0]]) == 0.5


def test_probability_of_improvement_by_hand() -> None:
    # Task 1: of (3, 1) against (2, 1): 3>2, 3>1, 1<2, 1=1 -> 2.5 of 4. Task 2: 1 of 1.
    result = probability_of_improvement([[3.0, 1.0], [5.0]], [[2.0, 1.0], [4.0]], generator())
    assert result.value == pytest.approx((2.5 / 4 + 1.0) / 2)


def test_probability_of_improvement_is_mann_whitneys_u_over_its_maximum() -> None:
    x, y = np.array(TASKS[2]), np.array(OTHERS[0])
    u = stats.mannwhitneyu(x, y).statistic
    result = probability_of_improvement([x], [y], generator())
    assert result.value == pytest.approx(u / (x.size * y.size))


def test_probabilities_of_both_arms_add_up_to_one_and_equal_arms_have_one_half() -> None:
    one = probability_of_improvement(TASKS, OTHERS, generator()).value
    two = probability_of_improvement(OTHERS, TASKS, generator()).value
    assert one + two == pytest.approx(1.0)
    assert probability_of_improvement(TASKS, TASKS, generator()).value == pytest.approx(0.5)


def test_paired_resampling_keeps_the_value_and_narrows_a_shared_spread() -> None:
    rng = generator(5)
    x = rng.normal(size=40)
    y = x - 0.5
    apart = probability_of_improvement([x], [y], generator())
    together = probability_of_improvement([x], [y], generator(), paired=True)
    assert together.value == apart.value
    assert together.high - together.low < 0.6 * (apart.high - apart.low)


def test_joint_resampling_of_the_probability_keeps_the_value_and_widens_with_shared_seeds() -> None:
    seeds = generator(6).normal(size=10)
    noise = generator(7).normal(scale=0.1, size=(9, 10))
    x, y = list(seeds + noise), [np.zeros(10)] * 9  # a lucky seed wins on every task
    apart = probability_of_improvement(x, y, generator(), paired=True)
    joint = probability_of_improvement(x, y, generator(), joint=True)
    assert joint.value == pytest.approx(apart.value)
    assert joint.high - joint.low > 2.0 * (apart.high - apart.low)
    order = generator(8).permutation(10)
    again = probability_of_improvement([t[order] for t in x[::-1]], y, generator(), joint=True)
    assert again == joint
    with pytest.raises(ValueError, match="joint needs equally many runs"):
        probability_of_improvement([x[0][:9], *x[1:]], y, generator(), joint=True)


def test_performance_profile_by_hand_with_tasks_of_unequal_size() -> None:
    profile = performance_profile([[0.0, 1.0], [1.0, 1.0, 2.0, 3.0]], [0.5, 1.0, 3.0], generator())
    assert profile.value == pytest.approx(((1 / 2 + 1) / 2, (0 + 2 / 4) / 2, 0.0))
    assert all(
        low <= value <= high
        for low, value, high in zip(profile.low, profile.value, profile.high, strict=True)
    )


def every_statistic(seed: int, tasks: Any = TASKS, others: Any = OTHERS) -> list[Any]:
    return [
        stratified_bootstrap(tasks, iqm, generator(seed), num_resamples=200),
        stratified_bootstrap(tasks, mean_of_task_means, generator(seed), num_resamples=200),
        probability_of_improvement(tasks, others, generator(seed), num_resamples=200),
        probability_of_improvement(tasks, others, generator(seed), num_resamples=200, paired=True),
        performance_profile(tasks, [0.2, 0.5], generator(seed), num_resamples=200),
    ]


def test_the_same_generator_state_gives_the_same_interval_whatever_the_global_seed() -> None:
    np.random.seed(1)
    first = every_statistic(0)
    np.random.seed(2)
    assert every_statistic(0) == first


def test_another_generator_state_gives_another_interval_and_the_same_value() -> None:
    for one, two in zip(every_statistic(0), every_statistic(1), strict=True):
        assert (one.low, one.high) != (two.low, two.high)
        assert one.value == two.value


def test_global_random_state_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    every_statistic(0)
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]


@settings(deadline=None, max_examples=40)
@given(task_lists, st.randoms())
def test_intervals_do_not_depend_on_the_order_of_runs_or_tasks(
    tasks: list[list[float]], random: Any
) -> None:
    shuffled = [random.sample(task, len(task)) for task in tasks]
    random.shuffle(shuffled)
    one, two = (
        stratified_bootstrap(t, iqm, generator(), num_resamples=50) for t in (tasks, shuffled)
    )
    assert tuple(asdict(one).values()) == pytest.approx(tuple(asdict(two).values()))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(scores, scores), min_size=2, max_size=7), st.randoms())
def test_joint_and_paired_intervals_do_not_depend_on_the_order_of_seeds(
    rows: list[tuple[float, float]], random: Any
) -> None:
    def both(ordered: list[tuple[float, float]]) -> tuple[Estimate, Estimate]:
        first, second = ([row[i] for row in ordered] for i in range(2))
        return (
            stratified_bootstrap([first, second], iqm, generator(), num_resamples=50, joint=True),
            probability_of_improvement(
                [first], [second], generator(), num_resamples=50, paired=True
            ),
        )

    shuffled = random.sample(rows, len(rows))
    for one, two in zip(both(rows), both(shuffled), strict=True):
        assert tuple(asdict(one).values()) == pytest.approx(tuple(asdict(two).values()))


def test_joint_resampling_keeps_runs_of_one_seed_together() -> None:
    # The second task undoes the first: with the same seeds in both nothing is left to vary.
    first = np.array([0.0, 1.0, 2.0, 3.0])
    joint = stratified_bootstrap([first, -first], mean_of_task_means, generator(), joint=True)
    apart = stratified_bootstrap([first, -first], mean_of_task_means, generator())
    assert joint.low == joint.high == 0.0
    assert apart.low < 0.0 < apart.high


def test_a_mapping_gives_what_its_arrays_give() -> None:
    named = {"b": TASKS[1], "a": TASKS[0]}
    one = stratified_bootstrap(named, iqm, generator())
    assert one == stratified_bootstrap([TASKS[0], TASKS[1]], iqm, generator())


def test_identical_scores_have_an_interval_of_zero_width() -> None:
    result = stratified_bootstrap([[0.5] * 3, [0.5] * 4], iqm, generator())
    assert (result.low, result.value, result.high) == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "at least one task"),
        ([[1.0], []], r"scores_by_task\[1\] must hold at least one score"),
        ({"noise": [1.0, math.nan]}, r"scores_by_task\['noise'\] must be finite"),
        ([[[1.0, 2.0]]], "one-dimensional"),
    ],
)
def test_degenerate_tasks_are_named(tasks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stratified_bootstrap(tasks, iqm, generator())


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator"):
        stratified_bootstrap(TASKS, iqm, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_resamples must be >= 1, got 0"):
        stratified_bootstrap(TASKS, iqm, generator(), num_resamples=0)
    with pytest.raises(ValueError, match="joint needs equally many runs"):
        stratified_bootstrap(TASKS, iqm, generator(), joint=True)
    with pytest.raises(ValueError, match="statistic must map"):
        stratified_bootstrap(TASKS, lambda tasks: float(np.mean(tasks[0])), generator())
    with pytest.raises(ValueError, match="paired needs equal lengths"):
        probability_of_improvement([[1.0, 2.0]], [[1.0]], generator(), paired=True)
    with pytest.raises(ValueError, match=r"same tasks, \['b'\]"):
        probability_of_improvement({"a": [1.0], "b": [1.0]}, {"a": [1.0]}, generator())
    with pytest.raises(ValueError, match="got 3 and 1 tasks"):
        probability_of_improvement(TASKS, [[1.0]], generator())
