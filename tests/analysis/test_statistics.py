"""Known answers, invariances and degenerate input of the paired statistics."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from segue.analysis import holm, paired_difference, ratio_of_means, sign_flip_p, t_interval

scores = st.floats(-100.0, 100.0, allow_nan=False).map(lambda x: round(x, 4))


def brute_force_p(differences: list[float]) -> float:
    """Every sign pattern, in integers (ten-thousandths), so that ties are exact."""
    whole = [round(d * 10_000) for d in differences]
    observed = abs(sum(whole))
    patterns = list(product((-1, 1), repeat=len(whole)))
    hits = sum(
        abs(sum(s * d for s, d in zip(signs, whole, strict=True))) >= observed for signs in patterns
    )
    return hits / len(patterns)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        # All of one sign: only that pattern and its mirror image reach the sum, 2 / 2**n.
        ([1.0, 2.0, 3.0], 2 / 8),
        ([0.5, 1.0, 0.2, 0.1, 2.0], 2 / 32),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2 / 64),
        ([1.0] * 8, 2 / 256),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], 2 / 1024),
        # -1 + 2 + 3 = 4 is reached by sums 4 and 6 and their mirrors: 4 of 8.
        ([-1.0, 2.0, 3.0], 4 / 8),
        # Nine ones and a minus one sum to 8: ten patterns have one minus, one has none; doubled.
        ([1.0] * 9 + [-1.0], 22 / 1024),
        # Four ones and a minus one: (1 + 5) * 2 of 32.
        ([1.0] * 4 + [-1.0], 12 / 32),
        # 2+3+4+5+6-1 = 19 of at most 21: minus on nothing or on the 1; doubled, of 64.
        ([-1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 4 / 64),
        # Seven ones and a minus one: (1 + 8) * 2 of 256.
        ([1.0] * 7 + [-1.0], 18 / 256),
        # Balanced: every pattern reaches a sum of 0.
        ([1.0, -1.0, 2.0, -2.0], 1.0),
        # Zeros do not help: eight of ten pairs tie, so only two signs count.
        ([0.0] * 8 + [1.0, 1.0], 2 / 4),
    ],
)
def test_sign_flip_p_equals_the_count_by_hand(differences: list[float], expected: float) -> None:
    assert sign_flip_p(differences) == expected


@given(st.lists(scores, min_size=1, max_size=9))
def test_sign_flip_p_equals_brute_force_with_exact_ties(differences: list[float]) -> None:
    assert sign_flip_p(differences) == brute_force_p(differences)


def test_sign_flip_p_agrees_with_scipys_permutation_test() -> None:
    differences = np.random.default_rng(3).normal(0.4, 1.0, size=9)
    result = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_p(differences) == pytest.approx(result.pvalue)


def test_rounding_does_not_break_ties_between_equal_accuracies() -> None:
    a = [0.1 + 0.2, 0.7, 0.8]  # 0.30000000000000004
    b = [0.2, 0.6, 0.9]
    assert paired_difference(a, b).p_value == 1.0


def test_drawn_p_above_twenty_pairs_honours_the_generator_and_nears_the_exact_value() -> None:
    differences = np.r_[np.ones(15), -np.ones(8)]  # 23 pairs: a binomial count
    exact = stats.binomtest(15, 23).pvalue
    p = sign_flip_p(differences, rng=np.random.default_rng(0))
    assert p == sign_flip_p(differences, rng=np.random.default_rng(0))
    assert p != sign_flip_p(differences, rng=np.random.default_rng(1))
    assert p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 100_000))


def test_drawn_p_is_never_zero() -> None:
    result = paired_difference(
        np.ones(40), np.zeros(40), rng=np.random.default_rng(0), num_resamples=999
    )
    assert result.p_value == result.smallest_p == 1 / 1000


def test_above_twenty_pairs_a_missing_generator_is_an_error() -> None:
    with pytest.raises(ValueError, match="rng must be given above 20 pairs"):
        paired_difference(np.ones(21), np.zeros(21))
    with pytest.raises(TypeError, match=r"numpy.random.Generator.*got int"):
        sign_flip_p(np.ones(21), rng=7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("n", "smallest"), [(0, 1.0), (1, 1.0), (3, 0.25), (5, 0.0625), (6, 0.03125), (8, 0.0078125)]
)
def test_smallest_reachable_p(n: int, smallest: float) -> None:
    assert paired_difference(np.ones(n), np.zeros(n)).smallest_p == smallest


def test_t_interval_equals_scipys() -> None:
    values = np.random.default_rng(0).normal(size=7)
    ours = t_interval(values, confidence=0.9)
    theirs = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)
    assert ours.sd == pytest.approx(np.std(values, ddof=1), rel=1e-12)


def test_paired_t_interval_equals_scipys() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=10), rng.normal(size=10)
    ours, theirs = paired_difference(a, b), stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)


def test_holm_equals_the_worked_example() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04 -> last made 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))


def test_holm_cuts_at_one_and_takes_none_and_one() -> None:
    assert holm([0.6, 0.7]) == (1.0, 1.0)
    assert holm([]) == ()
    assert holm([0.2]) == (0.2,)


@pytest.mark.parametrize("bad", [-0.1, 1.1])
def test_holm_refuses_what_is_no_probability(bad: float) -> None:
    with pytest.raises(ValueError, match=r"p_values must be in \[0, 1\], got"):
        holm([0.5, bad])


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8), st.randoms())
def test_holm_follows_a_permutation_and_never_lowers_a_p(ps: list[float], random: object) -> None:
    order = list(range(len(ps)))
    random.shuffle(order)  # type: ignore[attr-defined]
    adjusted = holm(ps)
    assert holm([ps[i] for i in order]) == tuple(adjusted[i] for i in order)
    assert all(a >= p for a, p in zip(adjusted, ps, strict=True))


@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=12), st.randoms())
def test_paired_difference_does_not_depend_on_the_order_of_pairs(
    pairs: list[tuple[float, float]], random: object
) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one = paired_difference(*map(list, zip(*pairs, strict=True)))
    two = paired_difference(*map(list, zip(*shuffled, strict=True)))
    assert (one.mean, one.p_value) == (two.mean, two.p_value)
    assert (one.low, one.high) == pytest.approx((two.low, two.high), nan_ok=True)


@given(arrays(float, 7, elements=scores), arrays(float, 7, elements=scores))
def test_swapping_the_arms_mirrors_the_difference(a: np.ndarray, b: np.ndarray) -> None:
    one, two = paired_difference(a, b), paired_difference(b, a)
    assert (one.mean, one.p_value) == (-two.mean, two.p_value)
    assert (one.low, one.high) == pytest.approx((-two.high, -two.low))


def test_no_pairs_and_one_pair_have_no_interval() -> None:
    none, one = paired_difference([], []), paired_difference([0.5], [0.25])
    assert math.isnan(none.mean)
    assert none.p_value == 1.0
    assert one.mean == 0.25
    assert math.isnan(one.sd)
    assert math.isnan(one.low)
    assert one.p_value == 1.0


def test_identical_differences_have_zero_spread_without_rounding_dust() -> None:
    result = paired_difference([0.1] * 10, [0.0] * 10)
    assert (result.sd, result.low, result.high) == (0.0, 0.1, 0.1)


def test_identical_arms_have_p_one() -> None:
    assert paired_difference([0.3, 0.4] * 5, [0.3, 0.4] * 5).p_value == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_named_with_its_place(bad: float) -> None:
    with pytest.raises(ValueError, match=f"b must be finite, got {bad} at index 1"):
        paired_difference([1.0, 2.0], [1.0, bad])


def test_unequal_lengths_are_an_error_and_nothing_is_cut() -> None:
    with pytest.raises(ValueError, match="one score per pair, got 3 and 2"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_must_be_a_share(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\), got"):
        t_interval([1.0, 2.0], confidence=confidence)


@given(
    arrays(np.float64, 7, elements=st.floats(-5.0, 5.0, width=32)),
    arrays(np.float64, 7, elements=st.floats(2.0, 5.0, width=32)),
)
def test_at_the_ends_of_fieller_s_interval_the_difference_touches_zero(
    a: np.ndarray, b: np.ndarray
) -> None:
    found = ratio_of_means(a, b)
    assert found.mean == pytest.approx(a.mean() / b.mean())
    if t_interval(b).low > 1e-3:
        assert found.low <= found.mean + 1e-9
        assert found.mean <= found.high + 1e-9
        for ratio, side in ((found.low, "low"), (found.high, "high")):
            touching = t_interval(a - ratio * b)
            assert getattr(touching, side) == pytest.approx(0.0, abs=1e-6)


def test_a_ratio_whose_denominator_may_be_zero_has_no_interval() -> None:
    found = ratio_of_means([1.0, 2.0, 3.0], [1.0, -1.0, 2.0])
    assert found.mean == pytest.approx(3.0)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(ratio_of_means([1.0, 1.0], [0.0, 0.0]).mean)
    assert ratio_of_means([], []).num_values == 0


def test_a_ratio_needs_one_denominator_a_numerator() -> None:
    with pytest.raises(ValueError, match="one value per pair, got 2 and 1"):
        ratio_of_means([1.0, 2.0], [1.0])
