"""The JAX adapter: schedules against their Python reference, and a branch that skips the source."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import segue
from segue.adapters import jax as smoothing

TOLERANCE = 1e-6  # float32 against Python's float64

SCHEDULES: dict[str, Callable[[int], segue.Schedule]] = {
    "hard_switch": lambda k: segue.hard_switch(),
    "constant": lambda k: segue.constant(0.3),
    "linear": segue.linear_decay,
    "linear with a floor": lambda k: segue.linear_decay(k, final_weight=0.1),
    "linear from below": lambda k: segue.linear_decay(k, initial_weight=0.6, final_weight=0.25),
    "cosine": segue.cosine_decay,
    "polynomial": lambda k: segue.polynomial_decay(k, power=0.5),
    "exponential": segue.exponential_decay,
    "exponential, nearly linear": lambda k: segue.exponential_decay(k, rate=1e-12),
    "exponential, steep": lambda k: segue.exponential_decay(k, rate=700.0),
    "sigmoid": segue.sigmoid_decay,
    "sigmoid, flat": lambda k: segue.sigmoid_decay(k, steepness=1e-9),
    "join": lambda k: segue.join([segue.cosine_decay(k), segue.linear_decay(2 * k)], [k + 3]),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [0, 1, 2, 5])
def test_a_twin_equals_the_reference_at_every_step(name: str, num_steps: int) -> None:
    schedule = SCHEDULES[name](num_steps)
    twin = smoothing.traceable(schedule)
    steps = jnp.arange(4 * num_steps + 6)
    reference = np.array([schedule(int(step)) for step in steps])

    @jax.jit
    def scan_and_vmap(steps: jax.Array) -> tuple[jax.Array, jax.Array]:
        scanned = lax.scan(lambda carry, step: (carry, twin(step)), 0, steps)[1]
        return scanned, jax.vmap(twin)(steps)

    scanned, mapped = scan_and_vmap(steps)
    compiled = jax.jit(twin)
    assert mapped.dtype == jnp.float32
    for found in (scanned, mapped, [compiled(step) for step in steps]):
        np.testing.assert_allclose(np.asarray(found), reference, rtol=0, atol=TOLERANCE)
    # What decides whether the source is evaluated is exact, but for what float32 cannot hold.
    released = reference < np.finfo(np.float32).tiny
    np.testing.assert_array_equal(np.asarray(mapped) == 0.0, released)


@settings(max_examples=30, deadline=None)
@given(
    num_steps=st.integers(1, 10**7),
    share=st.floats(0.0, 1.5),
    initial=st.floats(0.0, 1.0),
    floor=st.floats(0.0, 1.0),
    power=st.floats(0.05, 30.0),
)
def test_a_twin_equals_the_reference_for_long_ramps(
    num_steps: int, share: float, initial: float, floor: float, power: float
) -> None:
    ends = {"initial_weight": initial, "final_weight": floor * initial}
    step = int(share * num_steps)
    for schedule in (
        segue.linear_decay(num_steps, **ends),
        segue.exponential_decay(num_steps, rate=power, **ends),
        segue.sigmoid_decay(num_steps, steepness=power, **ends),
    ):
        found = float(smoothing.traceable(schedule)(jnp.int32(step)))
        assert found == pytest.approx(schedule(step), abs=TOLERANCE)


def test_a_python_function_is_refused_before_anything_is_compiled() -> None:
    def own(step: int) -> float:
        return 1.0 if step < 3 else 0.0

    with pytest.raises(TypeError, match=r"schedule must be made by segue\.schedules.*own.*tabulat"):
        smoothing.traceable(own)
    with pytest.raises(TypeError, match="be traceable by JAX"):
        smoothing.traceable(lambda step: math.exp(-step))
    with pytest.raises(TypeError, match="be traceable by JAX"):
        smoothing.traceable(segue.join([own, segue.linear_decay(2)], [3]))
    with pytest.raises(TypeError, match=r"schedule must map a step to a source weight, got 0\.5"):
        smoothing.traceable(0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="schedule must return a scalar"):
        smoothing.traceable(lambda step: jnp.zeros(3))  # type: ignore[arg-type,return-value]
    table = smoothing.tabulated(own, num_steps=5)
    assert [float(table(step)) for step in (0, 2, 3, 5, 900)] == [1.0, 1.0, 0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"source weight in \[0, 1\], got 2.0 at step 0"):
        smoothing.tabulated(lambda step: 2.0, num_steps=1)


def test_a_schedule_of_optax_is_taken_as_it_is() -> None:
    weight = smoothing.traceable(optax.linear_schedule(1.0, 0.0, 4))
    assert [float(weight(step)) for step in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_a_wrong_step_is_named() -> None:
    weight = smoothing.traceable(segue.linear_decay(4))
    with pytest.raises(ValueError, match="step must be >= 0, got -1"):
        weight(-1)
    with pytest.raises(TypeError, match="step must be an integer, got an array of float32"):
        weight(jnp.float32(1.0))
    assert np.isnan(jax.jit(weight)(jnp.int32(-1)))
    with pytest.raises(ValueError, match="steps are 32-bit"):
        smoothing.traceable(segue.linear_decay(2**31))


# -- the gradient ---------------------------------------------------------------------------


def losses_that_count(calls: list[str]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Squared distances to source and target; each evaluation that really happens is noted."""

    def loss(name: str, params: jax.Array, goal: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: calls.append(name))
        return jnp.sum((params - goal) ** 2)

    return (lambda p, goal: loss("source", p, goal)), (lambda p, goal: loss("target", p, goal))


SOURCE, TARGET = jnp.array([1.0, 2.0]), jnp.array([-1.0, 0.5])


def test_gradient_is_that_of_the_blended_loss_at_every_step() -> None:
    schedule = segue.cosine_decay(5)
    source, target = losses_that_count([])
    step_of = jax.jit(smoothing.smoothed_value_and_grad(source, target, schedule))
    params = jnp.array([0.3, -0.2])
    for step in range(8):
        weight = schedule(step)
        losses, gradient = step_of(params, step, SOURCE, TARGET)
        expected = weight * 2 * (params - SOURCE) + (1 - weight) * 2 * (params - TARGET)
        np.testing.assert_allclose(gradient, expected, atol=1e-5)
        raw = float(jnp.sum((params - SOURCE) ** 2)), float(jnp.sum((params - TARGET) ** 2))
        log = losses.log()
        assert float(losses.source_weight) == pytest.approx(weight, abs=TOLERANCE)
        assert float(losses.loss) == pytest.approx(weight * raw[0] + (1 - weight) * raw[1])
        assert float(log["target_loss"]) == pytest.approx(raw[1])
        assert float(log["source_loss"]) == pytest.approx(raw[0] if weight > 0 else 0.0)
        assert float(log["weighted_source_loss"]) == pytest.approx(weight * raw[0], abs=1e-5)
        assert float(log["weighted_target_loss"]) == pytest.approx((1 - weight) * raw[1], abs=1e-5)
        assert bool(losses.source_evaluated) == (weight > 0)


def test_source_is_not_evaluated_after_the_ramp_and_all_of_it_is_one_compilation() -> None:
    calls: list[str] = []
    step_of = jax.jit(
        smoothing.smoothed_value_and_grad(*losses_that_count(calls), segue.linear_decay(3))
    )
    for step in range(10):
        jax.block_until_ready(step_of(SOURCE, jnp.int32(step), SOURCE, TARGET))
    jax.effects_barrier()
    assert calls.count("source") == 3
    assert calls.count("target") == 10
    assert step_of._cache_size() == 1


def equations(jaxpr: Any) -> list[Any]:
    """All equations of a program, those of inner programs included."""
    found = []
    for equation in jaxpr.eqns:
        found.append(equation)
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += equations(inner)
    return found


def primitives(jaxpr: Any) -> list[str]:
    return [equation.primitive.name for equation in equations(jaxpr)]


def erf_source(params: jax.Array, goal: jax.Array) -> jax.Array:
    return jnp.sum(lax.erf(params - goal))  # a primitive that nothing else uses


def tanh_target(params: jax.Array, goal: jax.Array) -> jax.Array:
    return jnp.sum(jnp.tanh(params - goal))


def program(step_of: Callable[..., Any], *arguments: Any) -> Any:
    return jax.make_jaxpr(step_of)(*arguments).jaxpr


def test_the_program_holds_the_source_in_one_branch_and_nowhere_else() -> None:
    step_of = smoothing.smoothed_value_and_grad(erf_source, tanh_target, segue.linear_decay(3))
    jaxpr = program(step_of, SOURCE, jnp.int32(0), SOURCE, TARGET)
    conds = [e for e in jaxpr.eqns if e.primitive.name == "cond"]
    assert len(conds) == 1
    without, with_source = conds[0].params["branches"]
    assert "erf" in primitives(with_source.jaxpr)
    assert "erf" not in primitives(without.jaxpr)
    assert "erf" not in [e.primitive.name for e in jaxpr.eqns]
    assert primitives(jaxpr).count("tanh") == 1  # the target is not doubled


def test_under_vmap_of_seeds_the_branch_stays_and_under_vmap_of_steps_both_run() -> None:
    step_of = smoothing.smoothed_value_and_grad(erf_source, tanh_target, segue.linear_decay(3))
    many = jnp.stack([SOURCE] * 4)
    over_seeds = program(jax.vmap(step_of, in_axes=(0, None, 0, 0)), many, jnp.int32(0), many, many)
    assert primitives(over_seeds).count("cond") == 1
    assert "erf" not in [e.primitive.name for e in over_seeds.eqns]
    steps = jnp.arange(4)
    over_steps = program(jax.vmap(step_of), many, steps, many, many)
    assert "cond" not in primitives(over_steps)
    assert "erf" in primitives(over_steps)
    _, batched = jax.vmap(step_of)(many, steps, many, -many)
    alone = [step_of(SOURCE, int(step), SOURCE, -SOURCE)[1] for step in steps]
    np.testing.assert_allclose(batched, jnp.stack(alone), atol=1e-6)


def test_a_hard_switch_leaves_the_plain_program() -> None:
    def untraceable(params: jax.Array, goal: jax.Array) -> jax.Array:
        raise AssertionError("the source was traced")

    step_of = smoothing.smoothed_value_and_grad(untraceable, tanh_target, segue.hard_switch())
    found = program(lambda p, g: step_of(p, 0, None, g)[1], SOURCE, TARGET)
    plain = program(lambda p, g: jax.value_and_grad(tanh_target)(p, g)[1], SOURCE, TARGET)
    assert "cond" not in primitives(found)
    used = [name for name in primitives(found) if name != "broadcast_in_dim"]
    assert used == [name for name in primitives(plain) if name != "broadcast_in_dim"]
    gradient = jax.jit(step_of)(SOURCE, 0, None, TARGET)[1]
    expected = jax.jit(jax.grad(tanh_target))(SOURCE, TARGET)
    assert np.asarray(gradient).tobytes() == np.asarray(expected).tobytes()


def test_after_the_ramp_the_gradient_is_bitwise_that_of_the_target_whatever_the_source() -> None:
    def poisoned(params: jax.Array, goal: jax.Array) -> jax.Array:
        return jnp.sum(params) * jnp.nan

    step_of = jax.jit(
        smoothing.smoothed_value_and_grad(poisoned, tanh_target, segue.linear_decay(2))
    )
    losses, gradient = step_of(SOURCE, 2, SOURCE, TARGET)
    expected = jax.jit(jax.grad(tanh_target))(SOURCE, TARGET)
    assert np.asarray(gradient).tobytes() == np.asarray(expected).tobytes()
    smoothing.check_losses(losses, 2)
    stacked = lax.scan(lambda c, t: (c, step_of(SOURCE, t, SOURCE, TARGET)[0]), 0, jnp.arange(4))
    with pytest.raises(segue.NonFiniteLossError, match=r"source loss is nan at step 100 .* 1.0"):
        smoothing.check_losses(stacked[1], first_step=100)


def test_both_losses_may_return_something_beside() -> None:
    def with_aux(params: dict[str, jax.Array], goal: jax.Array) -> tuple[jax.Array, Any]:
        return jnp.sum((params["w"] - goal) ** 2), {"accuracy": jnp.float32(0.7), "num": 3}

    step_of = jax.jit(
        smoothing.smoothed_value_and_grad(with_aux, with_aux, segue.linear_decay(2), has_aux=True)
    )
    params = {"w": SOURCE.astype(jnp.bfloat16)}
    during, gradient = step_of(params, 0, SOURCE, TARGET)
    after, _ = step_of(params, 2, SOURCE, TARGET)
    assert gradient["w"].dtype == jnp.bfloat16
    assert (int(during.source_aux["num"]), int(after.source_aux["num"])) == (3, 0)
    assert float(after.target_aux["accuracy"]) == pytest.approx(0.7)


def test_something_else_than_a_loss_is_named() -> None:
    with pytest.raises(TypeError, match="target_loss must be a function, got float"):
        smoothing.smoothed_value_and_grad(erf_source, 0.5, segue.hard_switch())  # type: ignore[arg-type]


# -- the clock ------------------------------------------------------------------------------


def weights_seen(num_micro_batches: int, poisoned_step: int | None = None) -> list[float]:
    """λ of each applied optimizer step, with accumulation and a step that is skipped."""
    accumulated = optax.MultiSteps(optax.sgd(0.1), num_micro_batches)
    optimizer = optax.apply_if_finite(optax.sgd(0.1), 5)
    schedule = smoothing.traceable(segue.linear_decay(4))
    params, state, seen = jnp.ones(2), smoothing.init_state(), []
    multi_state, finite_state = accumulated.init(params), optimizer.init(params)
    accumulate, update = jax.jit(accumulated.update), jax.jit(optimizer.update)
    for index in range(6 * num_micro_batches):
        weight = float(schedule(state.num_steps))
        if poisoned_step is None:
            _, multi_state = accumulate(params, multi_state, params)
            applied = accumulated.has_updated(multi_state)
        else:
            gradient = jnp.full(2, jnp.nan if index == poisoned_step else 1.0)
            _, finite_state = update(gradient, finite_state, params)
            applied = finite_state.last_finite
        if bool(applied):
            seen.append(weight)
        state = smoothing.increment(state, applied)
    return seen


def test_the_clock_counts_applied_optimizer_steps() -> None:
    expected = [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert weights_seen(1) == expected
    assert weights_seen(8) == expected
    assert weights_seen(1, poisoned_step=2) == expected[:5]


def test_the_count_does_not_wrap_around() -> None:
    last = jnp.int32(2**31 - 1)
    assert int(smoothing.increment(smoothing.SmoothingState(last)).num_steps) == 2**31 - 1


# -- replay ---------------------------------------------------------------------------------


def bank_of(num: int, batch_size: int, seed: int = 0) -> smoothing.ReplayBank:
    return smoothing.make_bank(
        {"x": np.arange(1000), "y": -np.arange(1000)},
        num_examples=num,
        batch_size=batch_size,
        seed=seed,
    )


@pytest.mark.parametrize(("num", "batch_size"), [(12, 4), (10, 4), (7, 7), (5, 1)])
def test_every_pass_holds_every_example_once_in_another_order(num: int, batch_size: int) -> None:
    bank = bank_of(num, batch_size)
    draw = jax.jit(lambda bank, index: bank.draw(index))
    batches = [draw(bank, index) for index in range(4 * num)]
    assert all(np.array_equal(batch["x"], -batch["y"]) for batch in batches)
    stream = np.concatenate([batch["x"] for batch in batches])
    passes = stream.reshape(-1, num)
    kept = sorted(passes[0])
    assert len(set(kept)) == num
    assert all(sorted(each) == kept for each in passes)
    assert len({tuple(each) for each in passes}) > min(3, num - 1)
    assert draw._cache_size() == 1
    np.testing.assert_array_equal(bank.draw(17)["x"], batches[17]["x"])  # resuming needs no state


def test_shards_are_slices_of_the_global_batch() -> None:
    bank = bank_of(10, 6)
    for index in range(8):
        parts = [bank.draw(index, shard=shard, num_shards=3)["x"] for shard in range(3)]
        np.testing.assert_array_equal(np.concatenate(parts), bank.draw(index)["x"])
    with pytest.raises(ValueError, match=r"multiple of num_shards \(4\), got 6"):
        bank.draw(0, num_shards=4)


def test_choice_and_order_follow_the_seed() -> None:
    def stream(seed: int) -> list[int]:
        return [int(x) for index in range(4) for x in bank_of(8, 4, seed).draw(index)["x"]]

    assert stream(3) == stream(3)
    assert sorted(set(stream(3))) != sorted(set(stream(4)))


def test_far_positions_do_not_overflow() -> None:
    bank = bank_of(256, 64)
    far = 2**31 - 1
    assert len(set(np.asarray(bank.draw(far)["x"]).tolist())) == 64


@pytest.mark.parametrize(
    ("examples", "options", "message"),
    [
        (np.zeros((0, 3)), {"batch_size": 1}, "at least one example, got none"),
        (np.zeros(5), {"batch_size": 1}, r"num_examples must be <= 5 .*, got 256"),
        (
            np.zeros(5),
            {"batch_size": 6, "num_examples": None},
            "batch_size must be <= the bank's 5",
        ),
        ((np.zeros(5), np.zeros(4)), {"batch_size": 1}, "share their first dimension"),
        (np.zeros(5), {"batch_size": 0, "num_examples": 5}, "batch_size must be >= 1, got 0"),
        (np.zeros(9), {"batch_size": 1, "num_examples": 9, "seed": 2**32}, "seed must be < 2"),
    ],
)
def test_a_wrong_bank_is_refused(examples: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        smoothing.make_bank(examples, **options)
