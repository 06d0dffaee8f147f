"""TD3's losses and networks, shared by every learner of the package.

Sources: TD3, arXiv 1802.09477; TD3+BC, arXiv 2106.06860.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from segue.rl.buffers import Transitions
from segue.rl.networks import Actor, TwinCritic
from segue.rl.td3_settings import TD3Config

__all__ = [
    "Agent",
    "actions_of",
    "actor_loss",
    "actor_network",
    "critic_loss",
    "critic_network",
    "values_of",
]

Metrics = dict[str, jax.Array]


class Agent(NamedTuple):
    """Everything that learns. A pytree; for several seeds, each leaf has a leading dimension."""

    actor: Any
    critic: Any
    target_actor: Any
    target_critic: Any
    actor_optimizer: Any
    critic_optimizer: Any


def critic_loss(
    config: TD3Config, agent: Agent, params: Any, batch: Transitions, key: jax.Array
) -> tuple[jax.Array, Metrics]:
    """Return both critics' squared errors against the agent's targets, and what they said.

    Args:
        config: The learner.
        agent: Gives the target networks; its critics are not used.
        params: The critics that are trained.
        batch: Transitions.
        key: Draws the target policy's noise.
    """
    noise = config.policy_noise * jax.random.normal(key, batch.actions.shape)
    noise = jnp.clip(noise, -config.noise_clip, config.noise_clip)
    actions = actions_of(config, agent.target_actor, batch.next_observations, batch)
    actions = jnp.clip(actions + noise, -1.0, 1.0)
    values = values_of(config, agent.target_critic, batch.next_observations, actions)
    goal = batch.rewards + config.discount * (1.0 - batch.terminals) * jnp.minimum(*values)
    goal = lax.stop_gradient(goal)
    first, second = values_of(config, params, batch.observations, batch.actions)
    loss = jnp.mean((first - goal) ** 2) + jnp.mean((second - goal) ** 2)
    return loss, {
        "q_mean": first.mean(),
        "q_target_mean": goal.mean(),
        "q_twin_gap": jnp.abs(first - second).mean(),
    }


def actor_loss(
    config: TD3Config, critic: Any, params: Any, batch: Transitions, cloning: jax.Array | None
) -> tuple[jax.Array, Metrics]:
    """Return the actor's loss, minus the first critic's value, and what its actions look like.

    Args:
        config: The learner.
        critic: The critics, which are not trained by it.
        params: The actor that is trained.
        batch: Transitions.
        cloning: Weight of the behaviour-cloning term; None leaves it out.
    """
    actions = actions_of(config, params, batch.observations, batch)
    values = values_of(config, critic, batch.observations, actions)[0]
    scale: Any = config.alpha
    if config.divide_by_mean_q:
        scale = config.alpha / lax.stop_gradient(jnp.abs(values).mean())
    distance = jnp.mean((actions - batch.actions) ** 2)
    loss = -scale * values.mean()
    if cloning is not None:
        loss = loss + cloning * distance
    saturated = jnp.mean((jnp.abs(actions) > 0.99).astype(jnp.float32))
    return loss, {"cloning_distance": distance, "saturated_share": saturated}


def actions_of(config: TD3Config, params: Any, observations: jax.Array, batch: Transitions) -> Any:
    """Return the actor's actions in [-1, 1], as many numbers as the batch's have."""
    return actor_network(config, batch.actions.shape[-1]).apply(params, observations)


def values_of(config: TD3Config, params: Any, observations: jax.Array, actions: jax.Array) -> Any:
    """Return both critics' values, each of shape (...,)."""
    return critic_network(config).apply(params, observations, actions)


def actor_network(config: TD3Config, num_actions: int) -> Actor:
    """Return the actor's module."""
    return Actor(config.hidden_widths, num_actions)


def critic_network(config: TD3Config) -> TwinCritic:
    """Return the critics' module."""
    return TwinCritic(config.hidden_widths, config.layer_norm_critic)
