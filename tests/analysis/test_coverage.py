"""Simulated coverage, with the bands that the documentation states.

Every simulation has a fixed generator, so a test always gives the same answer; the band tells how
far a right implementation may lie by chance: 3.5 binomial standard errors around the expectation.
"""

from __future__ import annotations

import math

import numpy as np

from segue.analysis import (
    iqm,
    mean_of_task_means,
    paired_difference,
    probability_of_improvement,
    ratio_of_means,
    sign_flip_p,
    stratified_bootstrap,
)


def tolerance(rate: float, replications: int) -> float:
    return 3.5 * math.sqrt(rate * (1.0 - rate) / replications)


def test_paired_t_interval_covers_95_percent_at_ten_pairs() -> None:
    rng, replications, truth = np.random.default_rng(20), 4000, 0.3
    hits = 0
    for _ in range(replications):
        seed_effect = rng.normal(0.0, 3.0, size=10)  # shared by the pair, so it cancels
        a = truth + seed_effect + rng.normal(size=10)
        result = paired_difference(a, seed_effect)
        hits += result.low <= truth <= result.high
    assert abs(hits / replications - 0.95) < tolerance(0.95, replications)


def test_fieller_s_interval_covers_95_percent_at_six_pairs() -> None:
    rng, replications, truth = np.random.default_rng(23), 4000, 0.6
    hits = 0
    for _ in range(replications):
        seed_effect = rng.normal(0.0, 0.3, size=6)
        whole = 2.0 + seed_effect + 0.3 * rng.normal(size=6)
        part = 2.0 * truth + seed_effect + 0.3 * rng.normal(size=6)
        result = ratio_of_means(part, whole)
        hits += result.low <= truth <= result.high
    assert abs(hits / replications - 0.95) < tolerance(0.95, replications)


def test_sign_flip_test_keeps_its_level_at_ten_pairs() -> None:
    # 25 of 512 equally likely p-values are at most 0.05.
    rng, replications = np.random.default_rng(21), 4000
    expected = math.floor(0.05 * 512) / 512
    hits = sum(sign_flip_p(rng.normal(size=10)) <= 0.05 for _ in range(replications))
    assert abs(hits / replications - expected) < tolerance(expected, replications)


def bootstrap_coverage(
    num_tasks: int, num_runs: int, replications: int, *, shared: float = 0.0, joint: bool = False
) -> float:
    """Coverage of the IQM of scores around task means that are symmetric about zero."""
    rng = np.random.default_rng(22)
    means = np.linspace(-1.0, 1.0, num_tasks)
    hits = 0
    for _ in range(replications):
        common = shared * rng.normal(size=num_runs)
        scores = [mean + common + rng.normal(size=num_runs) for mean in means]
        estimate = stratified_bootstrap(scores, iqm, rng, num_resamples=400, joint=joint)
        hits += estimate.low <= 0.0 <= estimate.high
    return hits / replications


def test_stratified_bootstrap_of_nine_tasks_covers_92_to_96_percent() -> None:
    assert 0.92 <= bootstrap_coverage(9, 10, 1000) <= 0.96


def test_bootstrap_of_one_task_of_five_runs_covers_too_little_as_documented() -> None:
    rng, replications, hits = np.random.default_rng(23), 1000, 0
    for _ in range(replications):
        scores = [rng.normal(size=5)]
        estimate = stratified_bootstrap(scores, mean_of_task_means, rng, num_resamples=400)
        hits += estimate.low <= 0.0 <= estimate.high
    assert 0.80 <= hits / replications <= 0.88


def test_shared_source_models_break_the_stratified_interval_and_joint_repairs_most_of_it() -> None:
    assert bootstrap_coverage(9, 10, 500, shared=1.0) < 0.7
    assert 0.86 <= bootstrap_coverage(9, 10, 500, shared=1.0, joint=True) <= 0.95


def test_interval_of_the_probability_of_improvement_covers_91_to_97_percent() -> None:
    rng, replications, hits = np.random.default_rng(24), 600, 0
    truth = 0.5 * (1.0 + math.erf(0.5 / 2.0))  # P(N(0.5, 1) > N(0, 1))
    for _ in range(replications):
        x = [rng.normal(0.5, 1.0, size=10) for _ in range(9)]
        y = [rng.normal(0.0, 1.0, size=10) for _ in range(9)]
        estimate = probability_of_improvement(x, y, rng, num_resamples=400)
        hits += estimate.low <= truth <= estimate.high
    assert 0.91 <= hits / replications <= 0.97
