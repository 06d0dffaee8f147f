"""The PPO learner: smoothing inside, nothing of it when off, resume, seeds, and what it refuses."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import segue
from segue.rl.environments import make_environment
from segue.rl.ppo import PPO
from segue.rl.ppo_checkpoint import arrays_of, state_from_arrays
from segue.rl.ppo_settings import PPOSettings, TaskChange

SMALL = PPOSettings(
    num_envs=4, num_rollout_steps=16, num_epochs=2, num_minibatches=2, hidden_sizes=(8,)
)


def learner(schedule: segue.Schedule | None = None, name: str = "CartPole", **options: Any) -> PPO:
    return PPO(make_environment(name), SMALL, schedule, **options)


@functools.cache
def trained(smooth: bool, num_iterations: int) -> tuple[Any, dict[str, Any]]:
    """State and measurements of seed 0 after some iterations from the start."""
    if num_iterations == 0:
        return learner(segue.linear_decay(3) if smooth else None).init(0, 1e-2), {}
    state, measured = trained(smooth, num_iterations - 1)
    state, latest = compiled(smooth)(state, num_iterations - 1, 1)
    earlier = measured or {name: np.zeros(0) for name in latest}
    return state, {name: np.append(earlier[name], value) for name, value in latest.items()}


@functools.cache
def compiled(smooth: bool) -> Any:
    ppo = learner(segue.linear_decay(3) if smooth else None)
    return jax.jit(ppo.train, static_argnums=2)


def assert_bitwise(first: Any, second: Any) -> None:
    ours, theirs = arrays_of(first), arrays_of(second)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.tobytes() == theirs[name].tobytes(), name


def equations(jaxpr: Any) -> list[Any]:
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


def num_conds(function: Any, *arguments: Any) -> int:
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return sum(e.primitive.name == "cond" for e in equations(jaxpr))


# -- smoothing ------------------------------------------------------------------------------


def test_without_smoothing_the_program_is_the_plain_one_bit_by_bit() -> None:
    state, _ = trained(False, 2)
    assert state.previous == ()
    plain = learner()

    def value_and_grad(params: Any, step: Any, source: Any, batch: Any) -> Any:
        value, gradient = jax.value_and_grad(plain.loss)(params, batch)
        zero, never = jnp.zeros(()), jnp.asarray(False)
        log = {"target_loss": value, "source_loss": zero, "source_weight": zero}
        return type("Losses", (), {**log, "source_evaluated": never}), gradient

    plain._value_and_grad = value_and_grad
    start = plain.init(0, 1e-2)
    assert num_conds(lambda s: plain.train(s, 0, 1), start) == 0
    assert num_conds(lambda s: learner().train(s, 0, 1), start) == 0
    assert num_conds(lambda s: learner(segue.linear_decay(0)).train(s, 0, 1), start) == 0
    train, expected = jax.jit(plain.train, static_argnums=2), start
    for iteration in range(2):
        expected, _ = train(expected, iteration, 1)
    assert_bitwise(state, expected)


def test_source_weight_starts_over_in_every_iteration_but_the_first() -> None:
    _, measured = trained(True, 4)
    ramp = [1.0, 2 / 3, 1 / 3, 0.0]  # 4 updates an iteration
    np.testing.assert_allclose(measured["source_weight"], [0.0] + [np.mean(ramp)] * 3, atol=1e-6)
    np.testing.assert_allclose(measured["source_evaluated"], [0.0, 0.75, 0.75, 0.75])
    assert measured["source_loss"][0] == 0.0
    assert np.all(measured["source_loss"][1:] != 0.0)


def test_the_first_iteration_has_no_previous_rollout_and_is_the_plain_one() -> None:
    smoothed, plain = trained(True, 1)[0], trained(False, 1)[0]
    for ours, theirs in zip(
        jax.tree.leaves(smoothed.params), jax.tree.leaves(plain.params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_array_equal(smoothed.environments[1], plain.environments[1])


def test_under_vmap_over_seeds_the_source_is_still_skipped_and_each_seed_is_its_own() -> None:
    ppo = learner(segue.linear_decay(3))
    states = jax.vmap(lambda seed: ppo.init(seed, 1e-2))(jnp.arange(2))
    over_seeds = jax.vmap(ppo.train, in_axes=(0, None, None))
    assert num_conds(lambda s: over_seeds(s, 0, 1), states) == 1
    train, together = jax.jit(over_seeds, static_argnums=2), states
    for iteration in range(2):
        together, _ = train(together, iteration, 1)
    alone = trained(True, 2)[0]
    first = jax.tree.map(lambda leaf: leaf[0], together.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), first, alone.params)
    weights = jax.tree.leaves(together.params)
    assert any(not np.allclose(leaf[0], leaf[1]) for leaf in weights)


def test_the_source_loss_is_that_of_the_previous_rollout_under_its_own_policy() -> None:
    ppo = learner(segue.linear_decay(3))
    before, after = trained(True, 1)[0], trained(True, 2)[0]
    previous = before.previous
    outputs: Any = ppo.network.apply(before.params, previous.observations)
    again = ppo.distribution.log_prob(outputs[0], previous.actions)
    assert not np.allclose(again, previous.log_probs)  # the policy has moved on since
    assert not np.array_equal(previous.observations, after.previous.observations)
    # With its own policy the ratio is 1, and the policy part of the loss is minus a mean of 0.
    ratio = np.exp(np.asarray(again - previous.log_probs))
    assert np.all(ratio > 0.0)
    assert np.abs(ratio - 1.0).max() < 0.7


def test_recomputed_advantages_are_the_stored_ones_under_the_same_values() -> None:
    ppo = learner(segue.linear_decay(3), source_advantages="recomputed")
    start = ppo.init(0, 1e-2)
    constants = ppo.constants_at(0)
    _, rollout, _ = ppo._collect(ppo.policy(start), start.environments, start.key, constants)
    again = ppo._with_advantages_of(start.params, rollout)
    np.testing.assert_allclose(again.advantages, rollout.advantages, atol=1e-4)
    moved = jax.tree.map(lambda leaf: leaf * 1.5, start.params)
    other = ppo._with_advantages_of(moved, rollout)
    assert not np.allclose(other.advantages, rollout.advantages)
    np.testing.assert_array_equal(other.log_probs, rollout.log_probs)


@pytest.mark.parametrize("source_term", ["current_rollout", "nothing"])
def test_a_control_without_old_data_keeps_none_and_ramps_from_the_first_iteration(
    source_term: Any,
) -> None:
    ppo = learner(segue.linear_decay(3), source_term=source_term)
    state = ppo.init(0, 1e-2)
    assert state.previous == ()
    batch_of = jax.eval_shape(lambda: ppo._source(state, _batch(ppo, state), state.key))
    assert (batch_of == ()) == (source_term == "nothing")
    batch = _batch(ppo, state)
    source = ppo._source(state, batch, state.key)
    losses, gradient = ppo._value_and_grad(state.params, jnp.int32(1), (source, 1), batch)
    assert float(losses.source_weight) == pytest.approx(2 / 3)
    if source_term == "nothing":
        alone = jax.grad(ppo.loss)(state.params, batch)
        scaled = jax.tree.map(lambda leaf: leaf / 3, alone)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient, scaled)


def _batch(ppo: PPO, state: Any) -> Any:
    from segue.rl.ppo import _examples

    rollout = ppo._collect(ppo.policy(state), state.environments, state.key, ppo.constants_at(0))[1]
    return _examples(rollout)


# -- promises -------------------------------------------------------------------------------


def test_a_resumed_run_is_bitwise_the_uninterrupted_one_also_inside_the_ramp() -> None:
    whole, measured = trained(True, 4)
    first, _ = trained(True, 2)
    saved = {name: np.array(value) for name, value in arrays_of(first).items()}
    template = learner(segue.linear_decay(3)).init(7, 1.0)
    restored = state_from_arrays(template, saved)
    for iteration in (2, 3):
        restored, later = compiled(True)(restored, iteration, 1)
        for name, values in measured.items():
            assert float(later[name][0]) == values[iteration], name
    assert_bitwise(restored, whole)


def test_a_state_of_another_configuration_is_refused() -> None:
    saved = arrays_of(trained(True, 2)[0])
    with pytest.raises(ValueError, match=r"they differ in .*previous"):
        state_from_arrays(learner().init(0, 1.0), saved)
    name = next(name for name in saved if "kernel" in name)
    with pytest.raises(
        ValueError, match=r"must be float32 of shape .*, got float32 of shape \(3,\)"
    ):
        state_from_arrays(
            learner(segue.linear_decay(3)).init(0, 1.0), {**saved, name: np.zeros(3, np.float32)}
        )


def test_a_changing_task_switches_its_constants_at_its_iteration() -> None:
    ppo = learner(change=TaskChange(3, {"gravity": 20.0, "reward_scale": 0.5}))
    values = [ppo.constants_at(iteration) for iteration in (0, 2, 3, 9)]
    assert [float(v["gravity"]) for v in values] == pytest.approx([9.8, 9.8, 20.0, 20.0])
    assert [float(v["reward_scale"]) for v in values] == [1.0, 1.0, 0.5, 0.5]
    assert float(values[-1]["force"]) == 10.0


def test_gradients_are_clipped_by_their_global_norm_and_not_element_by_element() -> None:
    ppo = learner()
    gradient = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}  # of norm 5
    _, state = ppo._optimizer.update(gradient, ppo._optimizer.init(gradient), gradient)
    momentum = jax.tree.map(lambda leaf: leaf / 0.1, state[1].mu)  # after one step of Adam
    np.testing.assert_allclose(momentum["a"], [0.3, 0.0], rtol=1e-5)
    np.testing.assert_allclose(momentum["b"], [0.4], rtol=1e-5)


def test_wrong_arguments_are_named_before_anything_is_compiled() -> None:
    spec = make_environment("CartPole")
    with pytest.raises(TypeError, match=r"schedule must be made by segue\.schedules"):
        learner(lambda step: 1.0 if step < 2 else 0.0)
    with pytest.raises(ValueError, match=r"num_smoothing_steps must be <= .* \(4 = 2 .*, got 5"):
        learner(segue.linear_decay(5))
    continuous = type(spec)(**{**vars(spec), "action_space": "MultiBinary(3)"})
    with pytest.raises(TypeError, match="action_space must be Discrete or Box, got str"):
        PPO(continuous, SMALL)
    with pytest.raises(ValueError, match="unknown source_term 'previous'"):
        learner(source_term="previous")
    with pytest.raises(ValueError, match="unknown source_advantages"):
        learner(source_advantages="fresh")
    with pytest.raises(ValueError, match="unknown constant of CartPole 'mass'"):
        learner(change=TaskChange(1, {"mass": 2.0}))
    with pytest.raises(ValueError, match=r"num_minibatches must divide .* \(64\), got 3"):
        PPOSettings(num_envs=4, num_rollout_steps=16, num_minibatches=3)
    with pytest.raises(ValueError, match="seed must be < 2"):
        learner().init(2**32, 1e-3)
    with pytest.raises(ValueError, match="learning_rate must be positive and finite, got 0"):
        learner().init(0, 0.0)


def test_it_learns_to_balance_a_pole() -> None:
    settings = PPOSettings(num_envs=8, num_rollout_steps=32, hidden_sizes=(32,))
    ppo = PPO(make_environment("CartPole"), settings, segue.linear_decay(4))
    evaluate = jax.jit(ppo.evaluate, static_argnums=3)
    state, key, constants = ppo.init(0, 5e-3), jax.random.key(5), ppo.constants_at(0)
    before = float(evaluate(ppo.policy(state), key, constants, 16).mean())
    state, _ = jax.jit(ppo.train, static_argnums=2)(state, 0, 40)
    after = float(evaluate(ppo.policy(state), key, constants, 16).mean())
    assert before < 60.0
    assert after > 100.0
