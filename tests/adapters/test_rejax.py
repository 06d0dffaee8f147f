"""rejax with a schedule: its own program without smoothing, two losses with it."""

from __future__ import annotations

import functools
import importlib
import math
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rejax
from rejax.buffers import Minibatch

import segue
from segue.adapters.rejax import SmoothedPPO, SmoothedTD3

KEY = jax.random.PRNGKey(0)
COMMON = {"skip_initial_evaluation": True, "learning_rate": 1e-2}
ON_POLICY = COMMON | {
    "env": "CartPole-v1", "num_envs": 4, "num_steps": 8, "num_epochs": 2, "num_minibatches": 2,
    "total_timesteps": 96, "eval_freq": 96,
    "agent_kwargs": {"hidden_layer_sizes": (8,), "activation": "tanh"},
}  # fmt: skip
OFF_POLICY = COMMON | {
    "env": "Pendulum-v1", "num_envs": 2, "policy_delay": 2, "target_update_freq": 8, "polyak": 0,
    "buffer_size": 64, "fill_buffer": 16, "batch_size": 8, "total_timesteps": 64, "eval_freq": 64,
}  # fmt: skip
ARMS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "PPO": (rejax.PPO, SmoothedPPO, ON_POLICY),
    "TD3": (rejax.TD3, SmoothedTD3, OFF_POLICY),
}
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def plain(name: str) -> Any:
    kind, _, config = ARMS[name]
    return without_evaluation(kind.create(**config))


def smoothed(name: str, schedule: segue.Schedule, **changes: Any) -> Any:
    _, kind, config = ARMS[name]
    return without_evaluation(kind.create(schedule=schedule, **(config | changes)))


def without_evaluation(algorithm: Any) -> Any:
    return algorithm.replace(eval_callback=lambda *arguments: ())


def compiled(function: Callable[..., Any], *arguments: Any) -> Any:
    return jax.jit(function).lower(*arguments).compile(compiler_options=FAST)


def trained(algorithm: Any) -> Any:
    return compiled(algorithm.train, KEY)(KEY)[0]


def program(traced: Any) -> str:
    return re.sub(r"0x[0-9a-f]+", "", str(traced))


@functools.cache
def plain_program(name: str) -> Any:
    return jax.make_jaxpr(plain(name).train)(KEY)


def assert_equal(left: Any, right: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(left), jax.tree.leaves(right))


def assert_close(left: Any, right: Any) -> None:
    def close(one: Any, other: Any) -> None:
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)

    jax.tree.map(close, left, right)


def inner_programs(jaxpr: Any) -> Iterator[Any]:
    yield jaxpr
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from inner_programs(inner)


def num_skips(traced: Any, skipped: str = "dot_general") -> int:
    """Number of branches that hold a product of matrices on one side and none on the other."""

    def holds(branch: Any) -> bool:
        return any(e.primitive.name == skipped for p in inner_programs(branch) for e in p.eqns)

    conds = [
        equation.params["branches"]
        for jaxpr in inner_programs(traced.jaxpr)
        for equation in jaxpr.eqns
        if equation.primitive.name == "cond"
    ]
    return sum(
        holds(branches[0].jaxpr) != holds(branches[1].jaxpr)
        for branches in conds
        if len(branches) == 2
    )


@pytest.mark.parametrize("name", ARMS)
def test_a_hard_switch_is_the_program_of_plain_rejax(name: str) -> None:
    hard_switch = jax.make_jaxpr(smoothed(name, segue.hard_switch()).train)(KEY)
    assert program(hard_switch) == program(plain_program(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ARMS)
def test_training_with_a_hard_switch_is_plain_rejax_bit_for_bit(name: str) -> None:
    expected, found = trained(plain(name)), trained(smoothed(name, segue.hard_switch()))
    assert_equal(vars(found), vars(expected))
    learnt = jnp.concatenate([x.ravel() for x in jax.tree.leaves(found.critic_ts.params)])
    assert jnp.isfinite(learnt).all()


@pytest.mark.parametrize("name", ARMS)
def test_vmap_over_seeds_keeps_the_branch_that_skips_the_source(name: str) -> None:
    algorithm = smoothed(name, segue.linear_decay(2))
    without = num_skips(plain_program(name))
    one = num_skips(jax.make_jaxpr(algorithm.train)(KEY))
    many = num_skips(jax.make_jaxpr(jax.vmap(algorithm.train))(jax.random.split(KEY, 3)))
    assert one == without + 1
    assert many == one


# -- PPO ---------------------------------------------------------------------------------------


def ppo_loss(algorithm: Any, params: Any, batch: Any) -> Any:
    """PPO's loss, written down anew."""
    seen = batch.trajectories
    log_probs, entropy = algorithm.actor.apply(
        params[0], seen.obs, seen.action, method="log_prob_entropy"
    )
    advantages = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
    ratio = jnp.exp(log_probs - seen.log_prob)
    clipped = jnp.clip(ratio, 1 - algorithm.clip_eps, 1 + algorithm.clip_eps)
    values = algorithm.critic.apply(params[1], seen.obs)
    near = seen.value + jnp.clip(values - seen.value, -algorithm.clip_eps, algorithm.clip_eps)
    errors = jnp.maximum((values - batch.targets) ** 2, (near - batch.targets) ** 2)
    policy_loss = -jnp.minimum(ratio * advantages, clipped * advantages).mean()
    value_loss = algorithm.vf_coef * 0.5 * errors.mean()
    return policy_loss - algorithm.ent_coef * entropy.mean() + value_loss


@pytest.fixture(scope="module")
def one_update() -> tuple[list[Any], Callable[..., Any]]:
    """First three states of a learner whose iteration is a single update with λ = 1/4.

    And the parameters that follow on a state, after one step on a source and a target rollout.
    """
    algorithm = smoothed("PPO", segue.constant(0.25), num_epochs=1, num_minibatches=1)
    states = [compiled(algorithm.init_state, KEY)(KEY)]
    iterate = compiled(algorithm.train_iteration, states[0])
    states += [iterate(states[0])]
    states += [iterate(states[1])]

    def step(before: Any, weight: Any, source: Any, target: Any) -> Any:
        def blended(params: Any) -> Any:
            rollouts = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (source, target))
            old, new = (ppo_loss(algorithm, params, rollout) for rollout in rollouts)
            return weight * old + (1 - weight) * new

        learners = before.actor_ts, before.critic_ts
        gradients = jax.grad(blended)(tuple(learner.params for learner in learners))
        return [
            learner.apply_gradients(grads=gradient).params
            for learner, gradient in zip(learners, gradients, strict=True)
        ]

    rollout = states[1].previous
    return states, compiled(step, states[0], jnp.float32(0), rollout, rollout)


def test_iterations_with_a_hard_switch_are_plain_rejax_bit_for_bit(one_update: Any) -> None:
    states = []
    for algorithm in (plain("PPO"), smoothed("PPO", segue.hard_switch())):
        state = one_update[0][0]
        iterate = compiled(algorithm.train_iteration, state)
        for _ in range(3):
            state = iterate(state)
        states.append(state)
    assert_equal(*states)
    assert int(states[0].global_step) == 3 * 4 * 8


def test_the_first_iteration_has_no_source(one_update: Any) -> None:
    (start, first, _), step = one_update
    expected = step(start, jnp.float32(0), start.previous, first.previous)
    assert_close([first.actor_ts.params, first.critic_ts.params], expected)


def test_later_iterations_blend_the_losses_on_the_previous_and_the_new_rollout(
    one_update: Any,
) -> None:
    (_, first, second), step = one_update
    # Each rollout with the log-probabilities, values and advantages of its own time.
    expected = step(first, jnp.float32(0.25), first.previous, second.previous)
    assert_close([second.actor_ts.params, second.critic_ts.params], expected)
    without = step(first, jnp.float32(0), first.previous, second.previous)
    changes = jax.tree.map(lambda x, y: float(abs(x - y).max()), expected, without)
    assert max(jax.tree.leaves(changes)) > 1e-4


def test_a_smoothed_iteration_draws_as_often_as_a_plain_one(one_update: Any) -> None:
    # One key for every environment step and one for every epoch: the target sees the same order.
    rng = one_update[0][0].rng
    for _ in range(2 * (ON_POLICY["num_steps"] + 1)):
        rng = jax.random.split(rng)[0]
    assert_equal(one_update[0][2].rng, rng)


# -- TD3 ---------------------------------------------------------------------------------------


def td3_loss(algorithm: Any, params: Any, ts: Any, targets: tuple[Any, Any], batch: Any) -> Any:
    """The critics' loss, written down anew."""
    actions = algorithm.actor.apply(targets[0], batch.next_obs)
    noise = algorithm.target_noise * jax.random.normal(ts.rng, actions.shape)
    bound = algorithm.target_noise_clip
    actions = jnp.clip(actions + jnp.clip(noise, -bound, bound), -2.0, 2.0)
    following = algorithm.vmap_critic(targets[1], batch.next_obs, actions).min(axis=0)
    aims = batch.reward + algorithm.gamma * (1 - batch.done) * following
    values = algorithm.vmap_critic(params, batch.obs, batch.action)
    return 0.5 * ((values - aims) ** 2).mean(axis=1).sum()


def replay(seed: int) -> Minibatch:
    draw = np.random.default_rng(seed).normal
    return Minibatch(
        obs=jnp.asarray(draw(size=(8, 3)), jnp.float32),
        action=jnp.asarray(draw(size=(8, 1)), jnp.float32),
        reward=jnp.asarray(draw(size=8), jnp.float32),
        done=jnp.arange(8) == 3,
        next_obs=jnp.asarray(draw(size=(8, 3)), jnp.float32),
    )


class LaggedByTwo:
    """A learner with a lag of two hard updates and a ramp of two critic updates."""

    def __init__(self) -> None:
        self.algorithm, self.batch = smoothed("TD3", segue.linear_decay(2), lag=2), replay(0)
        self.start = compiled(self.algorithm.init_state, KEY)(KEY).replace(global_step=100)
        self._update = compiled(self.algorithm.update_critic, self.start, self.batch)
        self._replace = compiled(self._actor_step_and_hard_update, self.start)
        targets = self.present(self.start)
        self._expected = compiled(self._blended_step, self.start, jnp.float32(0), targets)

    @staticmethod
    def present(ts: Any) -> tuple[Any, Any]:
        return ts.actor_target_params, ts.critic_target_params

    def update(self, ts: Any) -> Any:
        return self._update(ts, self.batch)

    def replace(self, ts: Any) -> Any:
        return self._replace(ts)

    def critic_after(self, ts: Any, weight: float, former: Any) -> Any:
        return self._expected(ts, jnp.float32(weight), former)[0]

    def losses(self, ts: Any, former: Any) -> Any:
        return self._expected(ts, jnp.float32(0), former)[1]

    def _actor_step_and_hard_update(self, ts: Any) -> Any:
        later = ts.replace(global_step=ts.global_step + self.algorithm.target_update_freq)
        batches = jax.tree.map(lambda leaf: leaf[None], self.batch)
        after = self.algorithm.train_policy(later, batches, ts.global_step)
        return after.replace(global_step=ts.global_step)

    def _blended_step(self, ts: Any, weight: Any, former: Any) -> Any:
        def losses(params: Any) -> Any:
            aims = former, self.present(ts)
            return [td3_loss(self.algorithm, params, ts, it, self.batch) for it in aims]

        def blended(params: Any) -> Any:
            old, new = losses(params)
            return weight * old + (1 - weight) * new

        params = ts.critic_ts.params
        gradient = jax.grad(blended)(params)
        return ts.critic_ts.apply_gradients(grads=gradient).params, losses(params)


@pytest.fixture(scope="module")
def lagged() -> LaggedByTwo:
    return LaggedByTwo()


def test_the_critic_learns_from_lagged_and_present_targets_by_the_schedule(
    lagged: LaggedByTwo,
) -> None:
    ts = lagged.start
    first = lagged.present(ts)
    for _ in range(2):  # nothing lies two hard updates behind yet
        expected = lagged.critic_after(ts, 0.0, first)
        ts = lagged.update(ts)
        assert_close(ts.critic_ts.params, expected)
        ts = lagged.replace(ts)
    old, new = lagged.losses(ts, first)
    assert abs(float(old - new)) > 1e-3  # that is what there is to smooth
    for weight in (1.0, 0.5, 0.0, 0.0):
        expected = lagged.critic_after(ts, weight, first)
        ts = lagged.update(ts)
        assert_close(ts.critic_ts.params, expected)


def test_the_lag_counts_hard_updates(lagged: LaggedByTwo) -> None:
    ts, targets = lagged.start, []
    for _ in range(3):
        ts = lagged.update(lagged.update(ts))
        targets.append(ts.critic_target_params)
        ts = lagged.replace(ts)
    assert int(ts.lagged.num_replacements) == 3
    assert int(ts.lagged.num_updates) == 0
    assert_equal(ts.lagged.critics, jax.tree.map(lambda *x: jnp.stack(x), *targets[1:]))
    assert_equal(ts.critic_target_params, ts.critic_ts.params)


def test_targets_replaced_before_learning_began_are_no_source(lagged: LaggedByTwo) -> None:
    assert int(lagged.replace(lagged.start).lagged.num_replacements) == 0


@pytest.mark.parametrize(
    ("changes", "num_updates"),
    [
        ({}, 4),
        ({"target_update_freq": 1}, 2),  # at most one hard update an iteration
        ({"target_update_freq": 11}, 4),  # no multiple of an iteration's steps: the shortest period
        ({"num_epochs": 3}, 12),
    ],
)
def test_the_period_is_stated_in_critic_updates(changes: Any, num_updates: int) -> None:
    algorithm = smoothed("TD3", segue.linear_decay(1), **changes)
    assert algorithm.num_updates_per_period == num_updates


# -- both --------------------------------------------------------------------------------------


def refused(message: str, *arguments: Any, error: Any = ValueError, **changes: Any) -> None:
    with pytest.raises(error, match=message):
        smoothed(*arguments, **changes)


def test_bad_input_is_refused_before_anything_is_compiled() -> None:
    too_long = segue.linear_decay(5)
    refused(r"<= the updates of an iteration \(4 = 2 epochs \* 2 minib.*got 5", "PPO", too_long)
    refused(r"between two hard updates of the targets \(4, .*got 5", "TD3", too_long)
    refused(r"polyak must be 0 .*got 0\.99: .*nothing to smooth",
            "TD3", segue.linear_decay(1), polyak=0.99)  # fmt: skip
    refused("lag must be >= 1, got 0", "TD3", segue.linear_decay(1), lag=0)
    untraceable: Callable[[int], float] = lambda step: 1.0 if step < 3 else math.exp(-step)  # noqa: E731
    for name in ARMS:
        refused("cannot be traced", name, untraceable, error=TypeError)
        with pytest.raises(TypeError, match="schedule"):
            ARMS[name][1].create(**ARMS[name][2])


def test_replace_is_checked_like_create() -> None:
    algorithm = smoothed("PPO", segue.linear_decay(4))
    with pytest.raises(ValueError, match="updates of an iteration"):
        algorithm.replace(num_epochs=1)


def test_averaged_targets_are_allowed_without_smoothing() -> None:
    assert smoothed("TD3", segue.hard_switch(), polyak=0.99).polyak == 0.99


def test_a_state_of_plain_rejax_is_refused() -> None:
    state = jax.eval_shape(plain("PPO").init_state, KEY)
    with pytest.raises(TypeError, match="must come from SmoothedPPO"):
        jax.eval_shape(smoothed("PPO", segue.linear_decay(1)).train_iteration, state)


def test_a_missing_rejax_says_which_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rejax", None)
    monkeypatch.delitem(sys.modules, "segue.adapters.rejax")
    with pytest.raises(ImportError, match=r'pip install "segue\[rejax\]"'):
        importlib.import_module("segue.adapters.rejax")
