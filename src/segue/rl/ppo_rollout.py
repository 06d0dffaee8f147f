"""Rollouts of PPO: acting, advantages that bootstrap at time limits, and minibatches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from segue.rl.environments import Constants, EnvironmentSpec, EnvironmentState
from segue.rl.episodes import act
from segue.rl.policy_networks import ActorCritic, Distribution

__all__ = ["Rollout", "advantages_of", "collect", "minibatch_order"]


class Rollout(NamedTuple):
    """What one iteration saw; every array has leading dimensions [time, environments].

    Attributes:
        observations: States acted in.
        actions: Actions taken, before clipping to the action space.
        log_probs: Their log-probabilities under the policy that took them.
        values: Values of the states under the value function of that time.
        advantages: Generalised advantage estimates of that time.
        targets: Regression targets of the value function: advantages plus values.
        final_observations: What each step led to, before any reset.
        rewards: Rewards.
        terminated: Where the task ended the episode.
        done: Where the episode ended, by the task or by its time limit.
    """

    observations: jax.Array
    actions: jax.Array
    log_probs: jax.Array
    values: jax.Array
    advantages: jax.Array
    targets: jax.Array
    final_observations: jax.Array
    rewards: jax.Array
    terminated: jax.Array
    done: jax.Array


def collect(
    spec: EnvironmentSpec,
    network: ActorCritic,
    distribution: Distribution,
    params: Any,
    start: tuple[EnvironmentState, jax.Array],
    key: jax.Array,
    constants: Constants,
    *,
    num_steps: int,
    discount: float,
    gae_lambda: float,
    see: Callable[[jax.Array], jax.Array] = lambda observations: observations,
) -> tuple[tuple[EnvironmentState, jax.Array], Rollout, dict[str, jax.Array]]:
    """Act for ``num_steps`` in every environment; return where they stand and what was seen.

    ``see`` is what the networks are given of an observation; the rollout holds observations as the
    environment gave them.
    """
    acting, starting = jax.random.split(key)
    num_envs = start[1].shape[0]
    # Drawn for all steps at once: inside the loop every small operation costs.
    starts = jax.vmap(jax.vmap(spec.start))(jax.random.split(starting, (num_steps, num_envs)))

    def one(carry: Any, given: Any) -> tuple[Any, Any]:
        states, observations = carry
        key, fresh = given
        parameters = network.apply(params, see(observations), method="policy")
        actions = distribution.sample(parameters, key)
        log_probs = distribution.log_prob(parameters, actions)
        states, result = act(spec, states, actions, fresh, constants)
        seen = (observations, actions, log_probs, result)
        return (states, result.observation), seen

    start, (observations, actions, log_probs, result) = lax.scan(
        one, start, (jax.random.split(acting, num_steps), starts)
    )
    done = result.terminated | result.truncated
    values: Any = network.apply(params, see(observations), method="value")
    following: Any = network.apply(params, see(result.final_observation), method="value")
    advantages = advantages_of(
        result.reward, values, following, result.terminated, done, discount, gae_lambda
    )
    rollout = Rollout(
        observations, actions, log_probs, values, advantages, advantages + values,
        result.final_observation, result.reward, result.terminated, done,
    )  # fmt: skip
    finished = {"num_episodes": done.sum(), "sum_of_returns": result.finished_return.sum()}
    return start, rollout, finished


def advantages_of(
    rewards: jax.Array,
    values: jax.Array,
    following_values: jax.Array,
    terminated: jax.Array,
    done: jax.Array,
    discount: float,
    gae_lambda: float,
) -> jax.Array:
    """Generalised advantage estimates, of shape [time, ...]; a time limit bootstraps.

    Args:
        rewards: Rewards.
        values: Values of the states acted in.
        following_values: Values of what each step led to, before any reset.
        terminated: Where nothing follows: the value there counts as 0.
        done: Where the sum stops, because another episode begins.
        discount: γ.
        gae_lambda: The λ of the estimate (no source weight).

    Source: Schulman et al., arXiv 1506.02438, equation 16.
    """
    errors = rewards + discount * jnp.where(terminated, 0.0, following_values) - values

    def one(later: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        error, stops = now
        advantage = error + discount * gae_lambda * jnp.where(stops, 0.0, later)
        return advantage, advantage

    return lax.scan(one, jnp.zeros_like(errors[0]), (errors, done), reverse=True)[1]


def minibatch_order(
    key: jax.Array, num_examples: int, num_updates: int, num_minibatches: int
) -> jax.Array:
    """Indices of every update's minibatch, of shape [updates, examples]; each epoch shuffles anew.

    Every epoch's order has a key of its own, so that the first updates see the same whatever follows.
    """
    num_epochs = -(-num_updates // num_minibatches)
    keys = jax.vmap(lambda epoch: jax.random.fold_in(key, epoch))(jnp.arange(num_epochs))
    orders = jax.vmap(lambda key: jax.random.permutation(key, num_examples))(keys)
    return orders.reshape(num_epochs * num_minibatches, -1)[:num_updates]
