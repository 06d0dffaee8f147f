"""Schedules against formulas written a second time, independently, from the literature."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import segue
from segue.schedules import Ramp, describe, horizon

NAN, INF = float("nan"), float("inf")


def logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def oracle(shape: str, progress: float, parameter: float) -> float:
    if progress >= 1.0:
        return 0.0
    if shape == "linear":
        return 1.0 - progress
    if shape == "cosine":
        return math.cos(math.pi * progress / 2.0) ** 2
    if shape == "polynomial":
        return math.exp(parameter * math.log1p(-progress))
    if shape == "exponential":
        floor = math.exp(-parameter)
        return (math.exp(-parameter * progress) - floor) / (1.0 - floor)
    low, high = logistic(-parameter / 2.0), logistic(parameter / 2.0)
    return (logistic(parameter * (0.5 - progress)) - low) / (high - low)


DECAYS: dict[str, tuple[Callable[..., Ramp], str | None, float]] = {
    "linear": (segue.linear_decay, None, 0.0),
    "cosine": (segue.cosine_decay, None, 0.0),
    "polynomial": (segue.polynomial_decay, "power", 2.0),
    "exponential": (segue.exponential_decay, "rate", 5.0),
    "sigmoid": (segue.sigmoid_decay, "steepness", 10.0),
}


@st.composite
def ramps(draw: st.DrawFn) -> tuple[Ramp, str, float, float, float, int]:
    shape = draw(st.sampled_from(sorted(DECAYS)))
    make, name, _ = DECAYS[shape]
    steps = draw(st.integers(0, 5000))
    initial = draw(st.floats(0.0, 1.0))
    final = draw(st.floats(0.0, 1.0)) * initial
    parameter = draw(st.floats(0.05, 30.0))
    keywords = {} if name is None else {name: parameter}
    ramp = make(steps, initial_weight=initial, final_weight=final, **keywords)
    return ramp, shape, parameter, initial, final, steps


@given(ramps(), st.integers(0, 6000))
def test_weight_equals_the_formula(
    made: tuple[Ramp, str, float, float, float, int], t: int
) -> None:
    ramp, shape, parameter, initial, final, steps = made
    share = oracle(shape, t / steps, parameter) if steps else 0.0
    assert ramp(t) == pytest.approx(final + (initial - final) * share, rel=1e-9, abs=1e-12)


@given(ramps(), st.integers(0, 6000))
def test_weight_falls_monotonically_within_its_ends(
    made: tuple[Ramp, str, float, float, float, int], t: int
) -> None:
    ramp, _, _, initial, final, steps = made
    assert final <= ramp(t) <= initial
    assert ramp(t + 1) <= ramp(t) + 4e-16  # rounding at nearly equal ends
    assert ramp(0) == (initial if steps else final)
    assert ramp(steps) == ramp(steps + 1) == ramp(steps + 10**9) == final


@pytest.mark.parametrize("shape", sorted(DECAYS))
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_boundaries_are_exact(shape: str, steps: int) -> None:
    make, _, default = DECAYS[shape]
    ramp = make(steps)
    last = oracle(shape, (steps - 1) / steps, default) if steps else 0.0
    at = [ramp(0), ramp(max(steps - 1, 0)), ramp(steps), ramp(steps + 1)]
    assert at[0] == (1.0 if steps else 0.0)
    assert at[1] == pytest.approx(last, abs=1e-15)
    assert at[2] == at[3] == 0.0
    if steps == 2:
        middle = {"polynomial": 0.25, "exponential": pytest.approx(0.0758581800212435)}
        assert ramp(1) == middle.get(shape, 0.5)


LINEAR = {
    0: [0.0, 0.0, 0.0],
    1: [1.0, 0.0, 0.0],
    2: [1.0, 0.5, 0.0, 0.0],
    5: [1.0, 1 - 1 / 5, 1 - 2 / 5, 1 - 3 / 5, 1 - 4 / 5, 0.0, 0.0],
}


@pytest.mark.parametrize("steps", LINEAR)
def test_linear_table_is_exact(steps: int) -> None:
    ramp = segue.linear_decay(steps)
    assert [ramp(t) for t in range(steps + 2)] == LINEAR[steps][: steps + 2]


@pytest.mark.parametrize("shape", sorted(DECAYS))
def test_jumping_to_a_step_equals_stepping_there(shape: str) -> None:
    ramp = DECAYS[shape][0](17)
    stepped = [ramp(t) for t in range(40)]
    assert [ramp(t) for t in reversed(range(40))] == stepped[::-1]
    assert ramp(31) == stepped[31]


@pytest.mark.parametrize(
    ("make", "name"),
    [(segue.exponential_decay, "rate"), (segue.sigmoid_decay, "steepness")],
)
@pytest.mark.parametrize("value", [1e-4, 1e-7, 1e-12, 5e-324])
def test_a_tiny_parameter_tends_to_the_linear_decay(
    make: Callable[..., Ramp], name: str, value: float
) -> None:
    ramp, linear = make(10, **{name: value}), segue.linear_decay(10)
    for t in range(12):
        assert ramp(t) == pytest.approx(linear(t), abs=2 * value + 1e-12)


def test_a_huge_parameter_stays_in_range() -> None:
    for ramp in (
        segue.exponential_decay(10, rate=700.0),
        segue.sigmoid_decay(10, steepness=1e300),
        segue.polynomial_decay(10, power=1e300),
    ):
        assert ramp(0) == 1.0
        assert all(0.0 <= ramp(t) <= 1.0 for t in range(12))


def test_constants_never_change() -> None:
    assert [segue.constant(0.3)(t) for t in (0, 1, 10**6)] == [0.3] * 3
    assert [segue.hard_switch()(t) for t in (0, 1, 10**6)] == [0.0] * 3
    assert segue.hard_switch() == segue.constant(0.0)


def test_join_restarts_every_part_at_its_boundary() -> None:
    weight = segue.join(
        [segue.linear_decay(2), segue.linear_decay(4), segue.constant(0.25)], [3, 7]
    )
    assert [weight(t) for t in range(9)] == [1.0, 0.5, 0.0, 1.0, 0.75, 0.5, 0.25, 0.25, 0.25]
    assert weight(7 + 10**9) == 0.25


def test_join_knows_its_horizon_when_its_last_part_does() -> None:
    first = segue.linear_decay(2)
    assert horizon(segue.join([first, segue.linear_decay(4)], [3])) == 7
    assert segue.join([first, segue.linear_decay(4, final_weight=0.5)], [3]).final_weight == 0.5
    assert horizon(segue.join([first, lambda step: 0.0], [3])) is None
    assert horizon(segue.join([first], [])) == 2
    assert horizon(lambda step: 0.5) is None


def test_schedules_compare_hash_print_and_pickle_by_value() -> None:
    for schedule in (
        segue.cosine_decay(7, final_weight=0.25),
        segue.join([segue.hard_switch(), segue.sigmoid_decay(4)], [2]),
    ):
        again = pickle.loads(pickle.dumps(schedule))
        assert again == schedule
        assert hash(again) == hash(schedule)
        assert repr(again) == repr(schedule)
        assert again(3) == schedule(3)
    assert segue.linear_decay(3) != segue.cosine_decay(3) != segue.cosine_decay(4)
    assert "num_smoothing_steps=3" in repr(segue.linear_decay(3))


def test_only_schedules_of_known_parts_describe_themselves_across_processes() -> None:
    ramp = segue.linear_decay(3)
    assert describe(ramp) == repr(ramp)
    assert describe(segue.join([ramp, ramp], [4])) is not None
    # A function's repr holds an address, which another process would not reproduce.
    assert describe(segue.join([lambda step: 0.5, ramp], [4])) is None
    assert describe(lambda step: 0.5) is None


@given(
    st.decimals("0.0001", "0.9999", places=4),
    st.integers(0, 10**7),
)
def test_a_share_is_rounded_up_in_decimal(share: object, total: int) -> None:
    exact = Fraction(str(share)) * total
    assert segue.resolve_num_smoothing_steps(float(str(share)), total) == math.ceil(exact)


def test_resolving_takes_the_number_that_was_written() -> None:
    assert math.ceil(0.07 * 100) == 8  # what plain floats would give
    assert segue.resolve_num_smoothing_steps(0.07, 100) == 7
    assert segue.resolve_num_smoothing_steps(np.float64(0.07), 100) == 7
    assert segue.resolve_num_smoothing_steps(1e-05, 1000) == 1
    assert segue.resolve_num_smoothing_steps(0, 100) == 0
    resolved = segue.resolve_num_smoothing_steps(np.int64(5), 100)
    assert resolved == 5
    assert type(resolved) is int


BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: segue.linear_decay(-1), ValueError, "num_smoothing_steps must be >= 0, got -1"),
    (lambda: segue.cosine_decay("5"), TypeError, "num_smoothing_steps must be an integer, got '5'"),  # type: ignore[arg-type]
    (lambda: segue.linear_decay(5.0), TypeError, "num_smoothing_steps must be an integer, got 5.0"),  # type: ignore[arg-type]
    (lambda: segue.linear_decay(True), TypeError, "num_smoothing_steps must be an integer, got True"),
    (lambda: segue.linear_decay(NAN), TypeError, "num_smoothing_steps must be an integer, got nan"),  # type: ignore[arg-type]
    (lambda: segue.linear_decay(None), TypeError, "must be an integer, got None"),  # type: ignore[arg-type]
    (lambda: segue.linear_decay(5, initial_weight=1.5), ValueError, "initial_weight must be in [0, 1], got 1.5"),
    (lambda: segue.linear_decay(5, final_weight=-0.1), ValueError, "final_weight must be in [0, initial_weight (1.0)], got -0.1"),
    (lambda: segue.linear_decay(5, initial_weight=0.5, final_weight=0.6), ValueError, "final_weight must be in [0, initial_weight (0.5)], got 0.6"),
    (lambda: segue.linear_decay(5, initial_weight="1"), TypeError, "initial_weight must be a number, got '1'"),  # type: ignore[arg-type]
    (lambda: segue.constant(NAN), ValueError, "weight must be in [0, 1], got nan"),
    (lambda: segue.constant(1.01), ValueError, "weight must be in [0, 1], got 1.01"),
    (lambda: segue.constant(True), TypeError, "weight must be a number, got True"),
    (lambda: segue.polynomial_decay(5, power=0.0), ValueError, "power must be positive and finite, got 0.0"),
    (lambda: segue.polynomial_decay(5, power=INF), ValueError, "power must be positive and finite, got inf"),
    (lambda: segue.exponential_decay(5, rate=-2.0), ValueError, "rate must be positive and finite, got -2.0"),
    (lambda: segue.exponential_decay(5, rate=701.0), ValueError, "rate must be <= 700, got 701.0"),
    (lambda: segue.sigmoid_decay(5, steepness=NAN), ValueError, "steepness must be positive and finite, got nan"),
    (lambda: segue.join([], []), ValueError, "schedules must hold at least one schedule, got none"),
    (lambda: segue.join([segue.hard_switch()], [3]), ValueError, "boundaries must hold one step fewer than there are schedules (0), got 1"),
    (lambda: segue.join([segue.hard_switch()] * 2, [0]), ValueError, "boundaries must be > 0 and strictly increasing, got [0]"),
    (lambda: segue.join([segue.hard_switch()] * 3, [4, 4]), ValueError, "strictly increasing, got [4, 4]"),
    (lambda: segue.join([segue.hard_switch()] * 2, [2.5]), TypeError, "boundaries must be an integer, got 2.5"),  # type: ignore[list-item]
    (lambda: segue.join([0.5], []), TypeError, "schedules must map a step to a source weight, got 0.5"),  # type: ignore[list-item]
    (lambda: segue.linear_decay(5)(-1), ValueError, "step must be >= 0, got -1"),
    (lambda: segue.linear_decay(5)(1.5), TypeError, "step must be an integer, got 1.5"),  # type: ignore[arg-type]
    (lambda: segue.resolve_num_smoothing_steps(1.0, 10), ValueError, "must be in (0, 1), got 1.0"),
    (lambda: segue.resolve_num_smoothing_steps(300.0, 10), ValueError, "got 300.0; pass an int"),
    (lambda: segue.resolve_num_smoothing_steps(0.0, 10), ValueError, "must be in (0, 1), got 0.0"),
    (lambda: segue.resolve_num_smoothing_steps(-0.5, 10), ValueError, "must be in (0, 1), got -0.5"),
    (lambda: segue.resolve_num_smoothing_steps(NAN, 10), ValueError, "must be in (0, 1), got nan"),
    (lambda: segue.resolve_num_smoothing_steps(-1, 10), ValueError, "num_smoothing_steps must be >= 0, got -1"),
    (lambda: segue.resolve_num_smoothing_steps(True, 10), TypeError, "num_smoothing_steps must be an int"),
    (lambda: segue.resolve_num_smoothing_steps("10%", 10), TypeError, "got '10%'"),  # type: ignore[arg-type]
    (lambda: segue.resolve_num_smoothing_steps(0.5, -1), ValueError, "num_training_steps must be >= 0, got -1"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "message"), BAD, ids=[message for *_, message in BAD])
def test_a_bad_argument_is_named_with_the_rule_and_the_value(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)


def test_a_ramp_longer_than_training_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be <= num_training_steps \(100\), got 300"):
        segue.resolve_num_smoothing_steps(300, 100)
    assert segue.resolve_num_smoothing_steps(100, 100) == 100


def test_boundaries_that_are_no_sequence_are_named() -> None:
    with pytest.raises(TypeError, match="boundaries must be a sequence of steps, got 3"):
        segue.join([segue.constant(0.5), segue.hard_switch()], 3)  # type: ignore[arg-type]


def test_an_array_as_weight_is_named() -> None:
    with pytest.raises(TypeError, match="initial_weight must be a number, got array"):
        segue.linear_decay(3, initial_weight=np.ones(2))  # type: ignore[arg-type]
