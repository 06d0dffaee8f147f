"""Rollouts: advantages at time limits, minibatches, policies and evaluation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from segue.rl.environments import Box, Discrete, make_environment
from segue.rl.policy_networks import distribution_for
from segue.rl.ppo import PPO
from segue.rl.ppo_rollout import advantages_of, minibatch_order
from segue.rl.ppo_settings import PPOSettings


def by_definition(
    rewards: Any, values: Any, following: Any, terminated: Any, done: Any, gamma: float, lam: float
) -> np.ndarray[Any, Any]:
    """Sum of discounted errors up to the end of the episode, step by step."""
    found = np.zeros(len(rewards))
    for start in range(len(rewards)):
        factor = 1.0
        for index in range(start, len(rewards)):
            after = 0.0 if terminated[index] else following[index]
            found[start] += factor * (rewards[index] + gamma * after - values[index])
            if done[index]:
                break
            factor *= gamma * lam
    return found


def test_advantages_bootstrap_at_a_time_limit_and_not_at_a_terminal_state() -> None:
    generator = np.random.default_rng(0)
    rewards, values, following = generator.normal(size=(3, 12))
    terminated, done = np.zeros(12, bool), np.zeros(12, bool)
    terminated[3], done[[3, 7]] = True, True  # a terminal state, then a time limit
    found = advantages_of(
        *map(jnp.asarray, (rewards, values, following, terminated, done)), 0.9, 0.8
    )
    expected = by_definition(rewards, values, following, terminated, done, 0.9, 0.8)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    as_terminal = advantages_of(
        *map(jnp.asarray, (rewards, values, following, done, done)), 0.9, 0.8
    )
    assert abs(float(as_terminal[7] - found[7])) == pytest.approx(0.9 * abs(following[7]), abs=1e-5)


def test_a_rollout_over_a_time_limit_bootstraps_from_the_true_final_observation() -> None:
    settings = PPOSettings(
        num_envs=2, num_rollout_steps=6, num_minibatches=1, hidden_sizes=(8,), discount=0.9
    )
    ppo = PPO(make_environment("Pendulum"), settings)
    state, constants = ppo.init(0, 1e-3), ppo.constants_at(0)
    environments, observations = state.environments
    late = environments._replace(num_steps=jnp.full(2, 197))  # the limit of 200 lies in the rollout
    after, rollout, finished = ppo._collect(
        ppo.policy(state), (late, observations), state.key, constants
    )
    assert np.asarray(rollout.done).sum(axis=0).tolist() == [1, 1]
    assert bool(rollout.done[2].all())
    assert not bool(rollout.terminated.any())
    assert int(finished["num_episodes"]) == 2
    assert np.all(np.asarray(after[0].num_steps) == 3)
    # Where no episode ended, a step leads to the next observation; at the limit it does not.
    np.testing.assert_array_equal(rollout.final_observations[:2], rollout.observations[1:3])
    assert not np.allclose(rollout.final_observations[2], rollout.observations[3])
    following: Any = ppo.network.apply(state.params, rollout.final_observations, method="value")
    expected = by_definition(
        rollout.rewards[:, 0], rollout.values[:, 0], following[:, 0],
        rollout.terminated[:, 0], rollout.done[:, 0], 0.9, 0.95,
    )  # fmt: skip
    np.testing.assert_allclose(rollout.advantages[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_every_epoch_holds_every_example_once_and_more_epochs_leave_the_first_as_they_were() -> (
    None
):
    order = np.asarray(minibatch_order(jax.random.key(0), 12, 6, 3))
    assert order.shape == (6, 4)
    for epoch in (order[:3], order[3:]):
        assert sorted(epoch.ravel().tolist()) == list(range(12))
    assert not np.array_equal(order[:3], order[3:])
    longer = minibatch_order(jax.random.key(0), 12, 10, 3)
    np.testing.assert_array_equal(longer[:6], order)


def test_a_categorical_policy_has_the_probabilities_of_its_logits() -> None:
    policy = distribution_for(Discrete(3))
    logits, other = jnp.array([[200.0, 0.0, -200.0], [0.1, 0.5, -0.2]]), jnp.zeros((2, 3))
    probabilities = np.exp(np.asarray(policy.log_prob(logits[1], jnp.array(1))))
    expected = np.exp([0.1, 0.5, -0.2]) / np.exp([0.1, 0.5, -0.2]).sum()
    assert probabilities == pytest.approx(expected[1], abs=1e-6)
    assert float(policy.entropy(logits)[1]) == pytest.approx(stats.entropy(expected), abs=1e-6)
    assert float(policy.divergence(logits, other)[1]) == pytest.approx(
        stats.entropy(expected, np.full(3, 1 / 3)), abs=1e-6
    )
    assert np.all(np.isfinite(policy.entropy(logits)))
    draws = policy.sample(jnp.broadcast_to(logits[1], (20_000, 3)), jax.random.key(0))
    np.testing.assert_allclose(np.bincount(draws) / 20_000, expected, atol=0.015)
    assert policy.mode(logits).tolist() == [0, 1]


def test_a_gaussian_policy_has_the_density_of_its_parameters() -> None:
    policy = distribution_for(Box(2, -1.0, 1.0))
    mean, log_scale = np.array([0.3, -0.4]), np.array([0.2, -0.7])
    parameters = (jnp.asarray(mean), jnp.asarray(log_scale))
    action = np.array([1.0, 0.1])
    normal = stats.norm(mean, np.exp(log_scale))
    found = float(policy.log_prob(parameters, jnp.asarray(action)))
    assert found == pytest.approx(normal.logpdf(action).sum(), abs=1e-5)
    assert float(policy.entropy(parameters)) == pytest.approx(normal.entropy().sum(), abs=1e-5)
    other = (jnp.zeros(2), jnp.zeros(2))
    draws = policy.sample(
        (jnp.broadcast_to(parameters[0], (100_000, 2)), parameters[1]), jax.random.key(0)
    )
    estimate = (policy.log_prob(parameters, draws) - policy.log_prob(other, draws)).mean()
    assert float(policy.divergence(parameters, other)) == pytest.approx(float(estimate), abs=0.02)
    assert float(policy.divergence(parameters, parameters)) == 0.0


def test_an_evaluated_return_is_that_of_one_whole_episode() -> None:
    settings = PPOSettings(num_envs=2, num_rollout_steps=2, num_minibatches=1, hidden_sizes=(4,))
    ppo = PPO(make_environment("CartPole"), settings)
    state = ppo.init(0, 1e-3)
    evaluate = jax.jit(ppo.evaluate, static_argnums=3)
    returns = np.asarray(evaluate(ppo.policy(state), jax.random.key(1), ppo.constants_at(0), 50))
    assert returns.shape == (50,)
    assert np.all(returns == returns.astype(int))  # a point a step
    assert returns.min() >= 8  # nobody falls sooner
    assert returns.max() <= 500
    assert 12 < returns.mean() < 40  # an untrained policy is a nearly uniform one: about 22
