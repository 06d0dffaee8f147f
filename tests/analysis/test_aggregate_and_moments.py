"""Normalised scores over tasks, and the moments of a ramp."""

from __future__ import annotations

import numpy as np
import pytest

from segue.analysis.aggregate import Anchors, aggregate, normalise
from segue.analysis.moments import find_moments, ramp_end, value_by


def test_normalising_maps_the_anchors_to_0_and_1_in_either_direction() -> None:
    assert normalise([10.0, 20.0, 25.0], Anchors(10.0, 20.0)) == [0.0, 1.0, 1.5]
    assert normalise([4.0, 2.0, 1.0], Anchors(4.0, 2.0)) == [0.0, 1.0, 1.5]


@pytest.mark.parametrize("anchors", [Anchors(1.0, 1.0), Anchors(float("nan"), 1.0)])
def test_anchors_without_a_distance_are_refused(anchors: Anchors) -> None:
    with pytest.raises(ValueError, match="anchors must be finite and differ"):
        normalise([1.0], anchors)


def test_a_run_that_always_wins_has_probability_1_and_the_iqm_drops_the_tails() -> None:
    scores = {"a": [1.0, 2.0, 3.0, 100.0], "b": [1.0, 2.0, 3.0, -100.0]}
    pairs = {"a": ([5.0, 6.0], [1.0, 2.0]), "b": ([5.0, 6.0], [1.0, 2.0])}
    found = aggregate(scores, np.random.default_rng(0), pairs_by_task=pairs)
    assert found.iqm.value == 2.0
    assert found.probability is not None
    assert (found.probability.value, found.probability.low) == (1.0, 1.0)
    assert (found.num_tasks, found.num_runs) == (2, 8)


def test_equal_scores_and_seed_give_equal_intervals_whatever_the_order_of_runs() -> None:
    first = {"a": [1.0, 2.0, 3.0], "b": [2.0, 5.0, 9.0]}
    other = {"b": [9.0, 2.0, 5.0], "a": [3.0, 1.0, 2.0]}
    made = [aggregate(s, np.random.default_rng(3)) for s in (first, other)]
    assert made[0] == made[1]


def test_runs_that_go_up_together_give_a_wider_joint_interval() -> None:
    scores = {str(task): [0.0, 1.0, 2.0, 3.0, 4.0, 5.0] for task in range(6)}
    width = []
    for joint in (False, True):
        mean = aggregate(scores, np.random.default_rng(0), joint=joint).mean
        width.append(mean.high - mean.low)
    assert width[1] > 1.5 * width[0]


def test_a_single_task_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 tasks, got 1"):
        aggregate({"a": [1.0, 2.0]}, np.random.default_rng(0))


def test_the_end_of_a_linear_ramp_is_exact_between_two_evaluations() -> None:
    steps = [0, 5_000, 10_000, 15_000]
    weights = [max(0.0, 1.0 - step / 10_256) for step in steps]
    assert ramp_end({"step": steps, "value": weights}) == pytest.approx(10_256)


def test_a_weight_that_never_reaches_0_or_never_leaves_it_has_no_end() -> None:
    assert ramp_end({"step": [0, 1], "value": [0.5, 0.5]}) is None
    assert ramp_end({"step": [0, 1], "value": [0.0, 0.0]}) is None


def test_moments_of_a_run_with_a_ramp() -> None:
    score = {"step": [0, 10, 20, 30, 40], "value": [9.0, 4.0, 5.0, 1.0, 2.0]}
    weight = {"step": [0, 10, 20, 30, 40], "value": [1.0, 0.6, 0.2, 0.0, 0.0]}
    found = find_moments(score, weight)
    assert (found.before, found.lowest, found.after, found.end) == (0, 10, 30, 40)


def test_a_run_without_a_ramp_is_looked_at_in_the_window_it_is_given() -> None:
    score = {"step": [0, 10, 20], "value": [9.0, 4.0, 1.0]}
    assert find_moments(score, None).lowest is None
    found = find_moments(score, None, window=(10, 20))
    assert (found.lowest, found.after) == (10, 20)


def test_a_value_is_the_last_one_known_at_a_step() -> None:
    curves = {"q": {"step": [5, 10], "value": [1.0, None]}}
    assert value_by(curves, "q", 10) == 1.0
    assert value_by(curves, "q", 4) is None
    assert value_by(curves, "other", 10) is None
    assert value_by(curves, "q", None) is None
