"""The compiled TD3 learner: phases, sources, nothing of them when off, resume, and what it refuses."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import segue
from segue.rl.buffers import Transitions, unpack
from segue.rl.environments import make_environment
from segue.rl.ppo_checkpoint import arrays_of, state_from_arrays
from segue.rl.ppo_settings import TaskChange
from segue.rl.td3_losses import critic_loss
from segue.rl.td3_online import TD3, FormerTargets
from segue.rl.td3_online_settings import OnlineTD3Settings
from segue.rl.td3_settings import TD3Config

PERIOD = 12
SMALL = OnlineTD3Settings(
    learner=TD3Config((16,), batch_size=16),
    num_envs=2,
    num_rollout_steps=4,
    num_updates=6,
    buffer_capacity=64,
    num_random_env_steps=16,
    period=PERIOD,
)
DATA = dataclasses.replace(SMALL, target_update="average", recent_share=0.5)


def learner(
    schedule: segue.Schedule | None = None, settings: OnlineTD3Settings = SMALL, **options: Any
) -> TD3:
    return TD3(make_environment("Pendulum"), settings, schedule, **options)


@functools.cache
def smoothing() -> tuple[TD3, Any]:
    td3 = learner(segue.linear_decay(3))
    return td3, jax.jit(td3.train, static_argnums=2)


@functools.cache
def after(num_iterations: int) -> tuple[Any, dict[str, Any]]:
    td3, train = smoothing()
    state, measured = td3.init(0, 1e-2), {}
    for iteration in range(num_iterations):
        state, latest = train(state, iteration, 1)
        measured = {k: np.append(measured.get(k, np.zeros(0)), v) for k, v in latest.items()}
    return state, measured


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


def test_the_ramp_starts_over_at_every_hard_update_that_has_lagged_targets() -> None:
    # Two random iterations, then two iterations a phase; the first phase has no former targets.
    _, measured = after(8)
    ramp = (1.0 + 2 / 3 + 1 / 3) / 6
    np.testing.assert_allclose(measured["source_weight"], [0, 0, 0, 0, ramp, 0, ramp, 0], atol=1e-6)
    np.testing.assert_allclose(measured["source_evaluated"], [0, 0, 0, 0, 0.5, 0, 0.5, 0])
    assert (measured["source_loss"] > 0).tolist() == (measured["source_weight"] > 0).tolist()
    assert measured["target_loss"][:2].tolist() == [0.0, 0.0]  # random actions, no updates


def test_nothing_is_learnt_while_actions_are_random() -> None:
    td3, _ = smoothing()
    fresh, state = td3.init(0, 1e-2), after(2)[0]
    assert_bitwise(fresh.agent, state.agent)
    assert np.asarray(state.rows[:16]).any(axis=1).all()
    assert not np.asarray(state.rows[16:]).any()


@pytest.mark.parametrize("lag", [1, 2])
def test_the_source_holds_the_targets_of_so_many_hard_updates_ago(lag: int) -> None:
    td3 = learner(segue.linear_decay(3), dataclasses.replace(SMALL, lag=lag))
    train = jax.jit(td3.train, static_argnums=2)
    state, targets = td3.init(0, 1e-2), []
    for phase in range(lag + 2):
        state, _ = train(state, 2 * phase, 2)
        targets.append(state.agent.target_critic)
    # Phase 0 is the random one, after which targets are as drawn; then one hard update a phase.
    assert isinstance(state.former, FormerTargets)
    oldest = jax.tree.map(lambda leaf: leaf[0], state.former.critics)
    jax.tree.map(np.testing.assert_array_equal, oldest, targets[-1 - lag])
    jax.tree.map(np.testing.assert_array_equal, state.agent.target_critic, state.agent.critic)


def test_hard_targets_give_two_losses_and_averaged_ones_all_but_one() -> None:
    # Under averaging at every update the previous targets are the same thing: nothing to smooth.
    state, _ = after(6)
    batch: Transitions = unpack(state.rows[:48], 3, 1)
    agent, key = state.agent, jax.random.key(1)
    old_actor, old_critic = (jax.tree.map(lambda leaf: leaf[0], tree) for tree in state.former)

    def difference(actor: Any, critic: Any) -> float:
        before = agent._replace(target_actor=actor, target_critic=critic)
        now = critic_loss(SMALL.learner, agent, agent.critic, batch, key)[0]
        then = critic_loss(SMALL.learner, before, agent.critic, batch, key)[0]
        return float(abs(now - then) / now)

    hard = difference(old_actor, old_critic)
    rate = SMALL.learner.target_update_rate
    averaged = difference(
        optax.incremental_update(old_actor, agent.target_actor, rate),
        optax.incremental_update(old_critic, agent.target_critic, rate),
    )
    assert hard > 1e-3
    assert averaged < 0.05 * hard


def test_old_and_new_slices_are_disjoint_and_move_with_the_phase() -> None:
    td3 = learner(segue.linear_decay(3), DATA, source_term="older_slice")
    # 24 transitions when updates begin; 8 more an iteration of 6 updates; phases of 12 updates.
    assert [tuple(map(int, td3._slices(jnp.int32(n)))) for n in (0, 6, 11, 12)] == [
        (0, 12, 24), (0, 12, 32), (0, 12, 32), (0, 20, 40),
    ]  # fmt: skip
    # The ring of 64 is full after 8 iterations: the oldest are gone, the boundary is a count.
    assert tuple(map(int, td3._slices(jnp.int32(48)))) == (24, 56, 88)


def test_an_older_slice_is_drawn_from_the_ring_by_age() -> None:
    td3 = learner(segue.linear_decay(3), DATA, source_term="older_slice")
    state = td3.init(0, 1e-2)
    numbered = jnp.tile(((jnp.arange(64) - 88) % 64 + 24.0)[:, None], (1, state.rows.shape[1]))
    state = state._replace(rows=numbered)  # rows hold how manieth transition they are: 24 to 87
    oldest, boundary, newest = td3._slices(jnp.int32(48))
    old = td3._draw(state, oldest, boundary, jax.random.key(0)).rewards
    new = td3._draw(state, boundary, newest, jax.random.key(1)).rewards
    assert old.min() >= 24
    assert old.max() < 56 <= new.min()
    assert new.max() < 88


def test_without_smoothing_the_program_holds_no_branch_and_no_former_targets() -> None:
    def conds(schedule: segue.Schedule | None) -> int:
        td3 = learner(schedule)
        state = td3.init(0, 1e-2)
        jaxpr = jax.make_jaxpr(td3.train, static_argnums=2)(state, 0, 1).jaxpr
        return sum(equation.primitive.name == "cond" for equation in equations(jaxpr))

    assert learner().init(0, 1e-2).former == ()
    assert conds(None) == conds(segue.hard_switch()) == 3  # learning at all, actor, hard targets
    assert conds(segue.linear_decay(3)) == 4


def test_under_vmap_over_seeds_the_source_is_still_skipped() -> None:
    td3 = learner(segue.linear_decay(3), DATA, source_term="older_slice")
    states = jax.vmap(lambda seed: td3.init(seed, 1e-2))(jnp.arange(3, dtype=jnp.uint32))
    train = jax.vmap(td3.train, in_axes=(0, None, None))
    jaxpr = jax.make_jaxpr(lambda states, first: train(states, first, 1))(states, 0).jaxpr
    names = [equation.primitive.name for equation in equations(jaxpr)]
    assert names.count("cond") == 4  # learning, the critics' source, the actor, and its source


def test_seeds_trained_at_once_equal_seeds_trained_by_themselves() -> None:
    td3, train = smoothing()
    states = jax.vmap(lambda seed: td3.init(seed, 1e-2))(jnp.arange(2, dtype=jnp.uint32))
    together, _ = jax.jit(
        lambda states: jax.vmap(td3.train, in_axes=(0, None, None))(states, 0, 6)
    )(states)
    for seed in range(2):
        alone, _ = train(td3.init(seed, 1e-2), 0, 6)
        jax.tree.map(
            lambda many, one, seed=seed: np.testing.assert_allclose(
                many[seed], one, rtol=2e-3, atol=2e-4
            ),
            together.agent.critic,
            alone.agent.critic,
        )
    first, second = (jax.tree.map(lambda leaf, i=i: leaf[i], together.rows) for i in range(2))
    assert not np.array_equal(first, second)


def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit() -> None:
    td3, train = smoothing()
    for cut in (1, 4, 5):  # in the random phase, at a hard update, inside a ramp
        saved = {name: value.copy() for name, value in arrays_of(after(cut)[0]).items()}
        state = state_from_arrays(td3.init(1, 1e-2), saved)
        for iteration in range(cut, 7):
            state, _ = train(state, iteration, 1)
        assert_bitwise(state, after(7)[0])


def test_a_time_limit_bootstraps_and_keeps_the_true_final_observation() -> None:
    td3, train = smoothing()
    state = td3.init(0, 1e-2)
    environments, observations = state.environments
    late = environments._replace(num_steps=jnp.full(2, 198))  # the limit of 200 is the second step
    state, measured = train(state._replace(environments=(late, observations)), 0, 1)
    assert int(measured["num_episodes"][0]) == 2
    seen = unpack(state.rows[:8].reshape(4, 2, -1), 3, 1)
    assert not np.asarray(seen.terminals).any()
    np.testing.assert_array_equal(seen.next_observations[0], seen.observations[1])
    assert not np.allclose(seen.next_observations[1], seen.observations[2])


def test_a_changing_task_changes_at_its_iteration() -> None:
    td3 = learner(change=TaskChange(3, {"torque": -1.0}))
    assert [float(td3.constants_at(i)["torque"]) for i in (2, 3)] == [1.0, -1.0]


def test_normalised_observations_are_standardised_by_what_was_seen() -> None:
    td3 = learner(settings=dataclasses.replace(SMALL, normalize_observations=True))
    state, _ = jax.jit(td3.train, static_argnums=2)(td3.init(0, 1e-2), 0, 4)
    seen = np.asarray(state.rows[:32, :3])
    np.testing.assert_allclose(state.statistics.mean, seen.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(state.statistics.variance, seen.var(axis=0), rtol=1e-4)
    batch = td3._draw(state, jnp.int32(0), jnp.int32(32), jax.random.key(0))
    assert np.abs(np.asarray(batch.observations).mean(axis=0)).max() < 1.0


def test_it_learns_to_swing_a_pendulum_up() -> None:
    settings = OnlineTD3Settings(learner=TD3Config((64, 64), batch_size=64))
    td3 = learner(segue.linear_decay(64), settings)
    evaluate = jax.jit(td3.evaluate, static_argnums=3)
    state, key, constants = td3.init(0, 1e-3), jax.random.key(5), td3.constants_at(0)
    before = float(evaluate(td3.policy(state), key, constants, 16).mean())
    state, _ = jax.jit(td3.train, static_argnums=2)(state, 0, 140)
    after_training = float(evaluate(td3.policy(state), key, constants, 16).mean())
    assert before < -1000
    assert after_training > -400


@pytest.mark.parametrize(
    ("schedule", "settings", "options", "message"),
    [
        (segue.linear_decay(13), SMALL, {}, r"num_smoothing_steps must be <= period \(12\), got 13"),
        (segue.linear_decay(3), DATA, {}, "target_update must be 'hard' for the source_term"),
        (
            segue.linear_decay(3), SMALL, {"source_term": "older_slice"},
            r"recent_share must be < 1 for the source_term 'older_slice', got 1\.0",
        ),
        (
            segue.linear_decay(3), dataclasses.replace(DATA, buffer_capacity=32),
            {"source_term": "older_slice"}, "must leave an older slice of more than a phase's 16",
        ),
        (segue.linear_decay(3), SMALL, {"source_term": "lagged"}, "unknown source_term 'lagged'"),
        (None, SMALL, {"change": TaskChange(1, {"gravty": 1.0})}, "gravty"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_before_compilation(
    schedule: Any, settings: OnlineTD3Settings, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        learner(schedule, settings, **options)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match=r"schedule must be made by segue\.schedules"):
        learner(lambda step: float(step < 3))
    with pytest.raises(TypeError, match=r"action_space must be a Box for TD3, got Discrete"):
        TD3(make_environment("CartPole"), SMALL)
    with pytest.raises(ValueError, match=r"seed must be < 2\*\*32"):
        learner().init(2**32, 1e-3)
    for field, value in (("period", 0), ("recent_share", 0.0), ("buffer_capacity", 60)):
        with pytest.raises(ValueError, match=field):
            dataclasses.replace(SMALL, **{field: value})
