"""Tests and intervals for few paired runs: t interval, exact sign-flip p, Holm.

With three to ten pairs a t interval covers close to its nominal rate where percentile
bootstraps fall short, so it is the interval of every single shift. The bootstraps, for pooled
shifts only, are in :mod:`segue.analysis.bootstrap`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

MAX_ENUMERATED_PAIRS = 20
"""Up to this many pairs the sign-flip p is exact; above, sign patterns are drawn."""

# Two sign patterns whose sums differ by rounding alone must count as a tie. Scores are
# fractions of a test set, so true differences of sums are many orders above this.
_RELATIVE_TIE = 1e-9


@dataclass(frozen=True)
class Interval:
    """A mean with its t interval; ``nan`` marks what ``num_values`` cannot bear.

    ``mean`` needs one value; ``sd`` (denominator n - 1), ``low`` and ``high`` need two.
    """

    mean: float
    sd: float
    low: float
    high: float
    num_values: int
    confidence: float


@dataclass(frozen=True)
class PairedDifference:
    """Differences ``a - b`` of paired scores, in the scores' own unit.

    Attributes:
        mean: Mean difference; ``nan`` without pairs.
        sd: Standard deviation of the differences (denominator n - 1); ``nan`` below two pairs.
        low: Lower end of the paired t interval; ``nan`` below two pairs.
        high: Upper end of the paired t interval; ``nan`` below two pairs.
        p_value: Two-sided sign-flip p of the mean; 1 without pairs.
        smallest_p: The smallest p that so many pairs can reach, ``min(1, 2 / 2**n)``; with drawn
            sign patterns at least ``1 / (num_resamples + 1)``.
        num_pairs: Number of pairs, n.
        differences: The n differences in the order given.
        confidence: Nominal coverage of ``[low, high]``.
    """

    mean: float
    sd: float
    low: float
    high: float
    p_value: float
    smallest_p: float
    num_pairs: int
    differences: tuple[float, ...]
    confidence: float = 0.95


def check_generator(rng: object) -> np.random.Generator:
    """Return ``rng`` if it is a NumPy generator, else raise ``TypeError``."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            "rng must be a numpy.random.Generator (numpy.random.default_rng(seed)), "
            f"got {type(rng).__name__}"
        )
    return rng


def check_confidence(confidence: float) -> float:
    """Return ``confidence`` if it lies in (0, 1), else raise ``ValueError``."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    return float(confidence)


def finite_vector(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return ``values`` as a float vector; raise if it is not one-dimensional and finite."""
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {vector.shape}")
    bad = np.flatnonzero(~np.isfinite(vector))
    if bad.size:
        raise ValueError(
            f"{name} must be finite, got {vector[bad[0]]} at index {bad[0]}; "
            "name failed runs and leave them out before calling"
        )
    return vector


def t_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Mean of independent values with its two-sided Student t interval.

    Args:
        values: Finite scores, shape (n,); n may be 0 or 1, then the interval is ``nan``.
        confidence: Nominal coverage, in (0, 1).

    >>> t_interval([1.0, 2.0, 3.0]).mean
    2.0
    """
    vector = finite_vector("values", values)
    check_confidence(confidence)
    n = vector.size
    mean = math.fsum(vector) / n if n else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, math.nan, n, confidence)
    if np.ptp(vector) == 0.0:
        # Equal values: the rounding of their mean must not show up as spread.
        same = float(vector[0])
        return Interval(same, 0.0, same, same, n, confidence)
    sd = math.sqrt(math.fsum((vector - mean) ** 2) / (n - 1))
    half = float(stats.t.ppf(0.5 + confidence / 2.0, n - 1)) * sd / math.sqrt(n)
    return Interval(mean, sd, mean - half, mean + half, n, confidence)


def ratio_of_means(
    numerators: ArrayLike, denominators: ArrayLike, *, confidence: float = 0.95
) -> Interval:
    """Ratio of two means of paired values with Fieller's interval.

    The interval holds every ratio r at which the t interval of ``numerators - r * denominators``
    holds 0. It is bounded only where the mean of the denominators differs from 0 at the same
    confidence; elsewhere ``low`` and ``high`` are ``nan``, and so is ``sd`` always.

    Args:
        numerators: Finite values, shape (n,).
        denominators: Their partners, shape (n,).
        confidence: Nominal coverage, in (0, 1).

    Source: Fieller, "Some problems in interval estimation", J. R. Stat. Soc. B 16, 1954.

    >>> share = ratio_of_means([2.0, 2.5, 3.0], [4.0, 5.0, 6.0])
    >>> share.mean, share.low, share.high
    (0.5, 0.5, 0.5)
    """
    a, b = finite_vector("numerators", numerators), finite_vector("denominators", denominators)
    if a.size != b.size:
        raise ValueError(
            f"numerators and denominators must have one value per pair, got {a.size} and {b.size}"
        )
    check_confidence(confidence)
    n = a.size
    mean_a, mean_b = (math.fsum(v) / n if n else math.nan for v in (a, b))
    ratio = mean_a / mean_b if n and mean_b else math.nan
    if n < 2 or math.isnan(ratio):
        return Interval(ratio, math.nan, math.nan, math.nan, n, confidence)
    t = float(stats.t.ppf(0.5 + confidence / 2.0, n - 1))
    of_mean = t * t / (n * (n - 1))
    d_a, d_b = a - mean_a, b - mean_b
    square = mean_b**2 - of_mean * math.fsum(d_b * d_b)
    middle = mean_a * mean_b - of_mean * math.fsum(d_a * d_b)
    rest = mean_a**2 - of_mean * math.fsum(d_a * d_a)
    if square <= 0.0:
        return Interval(ratio, math.nan, math.nan, math.nan, n, confidence)
    half = math.sqrt(max(middle**2 - square * rest, 0.0))
    low, high = (middle - half) / square, (middle + half) / square
    return Interval(ratio, math.nan, low, high, n, confidence)


def sign_flip_p(
    differences: ArrayLike,
    *,
    rng: np.random.Generator | None = None,
    num_resamples: int = 100_000,
) -> float:
    """Two-sided sign-flip p of a mean difference of zero.

    Under the null hypothesis (differences symmetric about zero) every pattern of signs is equally
    likely; p is the share of the ``2**n`` patterns whose absolute sum is at least the observed
    one. Exact up to ``MAX_ENUMERATED_PAIRS`` pairs. Above, ``num_resamples`` patterns are drawn
    with ``rng`` and the observed one is counted in, so p is never 0 and the test keeps its level.

    Source: Fisher's randomisation test; the count that includes the observed pattern follows
    Phipson and Smyth (2010).

    >>> sign_flip_p([1.0, 2.0, 3.0])
    0.25
    """
    vector = finite_vector("differences", differences)
    n = vector.size
    if n == 0:
        return 1.0
    # Absolute values, sorted: signs do not matter to the null distribution, and the result (and
    # what is drawn) must not depend on the order in which runs were read.
    magnitudes = np.sort(np.abs(vector))
    threshold = abs(math.fsum(vector)) - _RELATIVE_TIE * math.fsum(magnitudes)
    if n <= MAX_ENUMERATED_PAIRS:
        # By symmetry the first sign is fixed: 2**(n-1) sums, built by doubling.
        sums = magnitudes[:1].copy()
        for magnitude in magnitudes[1:]:
            sums = np.concatenate((sums + magnitude, sums - magnitude))
        return float(np.count_nonzero(np.abs(sums) >= threshold) / sums.size)
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be >= 1, got {num_resamples}")
    if rng is None:
        raise ValueError(
            f"rng must be given above {MAX_ENUMERATED_PAIRS} pairs, where sign patterns are drawn; "
            f"got None with {n} pairs"
        )
    generator = check_generator(rng)
    hits, left = 0, num_resamples
    while left:
        size = min(left, 10_000)
        signs = generator.integers(0, 2, size=(size, n), dtype=np.int8) * 2.0 - 1.0
        hits += int(np.count_nonzero(np.abs(signs @ magnitudes) >= threshold))
        left -= size
    return (hits + 1) / (num_resamples + 1)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    confidence: float = 0.95,
    rng: np.random.Generator | None = None,
    num_resamples: int = 100_000,
) -> PairedDifference:
    """Compare paired scores: mean of ``a - b``, its t interval and its sign-flip p.

    Args:
        a: Finite scores of one arm, shape (n,).
        b: Finite scores of the other, shape (n,); ``b[i]`` is the partner of ``a[i]``.
        confidence: Nominal coverage of the t interval, in (0, 1).
        rng: Draws sign patterns; needed above ``MAX_ENUMERATED_PAIRS`` pairs, unused below.
        num_resamples: Number of sign patterns drawn then.

    Raises:
        ValueError: Unequal lengths, a score that is not finite, ``confidence`` out of range, or
            ``rng`` missing where it is needed.

    >>> result = paired_difference([0.8, 0.7, 0.9], [0.7, 0.6, 0.7])
    >>> round(result.mean, 3), result.p_value, result.smallest_p
    (0.133, 0.25, 0.25)
    """
    first, second = finite_vector("a", a), finite_vector("b", b)
    if first.size != second.size:
        raise ValueError(
            f"a and b must have one score per pair, got {first.size} and {second.size}"
        )
    differences = first - second
    interval = t_interval(differences, confidence=confidence)
    n = differences.size
    smallest = min(1.0, 2.0 ** (1 - n))
    if n > MAX_ENUMERATED_PAIRS:
        smallest = max(smallest, 1.0 / (num_resamples + 1))
    return PairedDifference(
        mean=interval.mean,
        sd=interval.sd,
        low=interval.low,
        high=interval.high,
        p_value=sign_flip_p(differences, rng=rng, num_resamples=num_resamples),
        smallest_p=smallest,
        num_pairs=n,
        differences=tuple(float(d) for d in differences),
        confidence=interval.confidence,
    )


def holm(p_values: Sequence[float] | ArrayLike) -> tuple[float, ...]:
    """Holm's step-down adjustment, in the order given.

    The i-th smallest of m values (i from 0) is multiplied by ``m - i``, made at least as large as
    the adjusted value before it, and cut at 1. Rejecting where the result is at most alpha keeps
    the chance of any false rejection at alpha, however the tests depend on each other.

    Raises:
        ValueError: If a value is not in [0, 1].

    Source: Holm (1979), Scandinavian Journal of Statistics 6.

    >>> holm([0.01, 0.04, 0.03])
    (0.03, 0.06, 0.06)
    """
    vector = finite_vector("p_values", p_values)
    outside = np.flatnonzero((vector < 0.0) | (vector > 1.0))
    if outside.size:
        raise ValueError(f"p_values must be in [0, 1], got {vector[outside[0]]}")
    m = vector.size
    order = np.argsort(vector, kind="stable")
    steps = np.minimum(1.0, np.maximum.accumulate(vector[order] * (m - np.arange(m))))
    adjusted = np.empty(m)
    adjusted[order] = steps
    return tuple(float(p) for p in adjusted)
