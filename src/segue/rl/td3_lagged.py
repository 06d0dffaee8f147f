"""TD3 with hard target updates, each of them smoothed: lagged targets as the source.

With hard updates the targets, and so what the critic regresses on, change at once every ``period``
updates. Here the critic's loss on the lagged targets is the source: λ falls from 1 to 0 after each
hard update. Under TD3's own averaging of every update the previous targets are all but the present
ones, and there is nothing to smooth.

Left open by the paper (arXiv 2607.00634) and chosen here: both losses see the same batch and the same
target noise, so that they differ in the targets alone; the lag is counted in periods; the actor's loss
holds no targets and is not blended; until there are lagged targets λ is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from segue.adapters.jax import never_smooths, smoothed_value_and_grad, traceable
from segue.checks import check_at_least_one
from segue.rl.buffers import draw, unpack
from segue.rl.td3 import Agent, TD3Config, _actor_loss, _critic_loss, _optimizers
from segue.schedules import Schedule, horizon

__all__ = ["HardTargets", "LaggedAgent", "init_lagged", "make_lagged_updates"]

LaggedUpdates = Callable[..., "tuple[LaggedAgent, dict[str, jax.Array]]"]


@dataclass(frozen=True)
class HardTargets:
    """When targets are replaced, and how old the source's are.

    Attributes:
        period: Critic updates between two hard updates of the targets.
        lag: How many hard updates the source's targets lie behind.
    """

    period: int = 200
    lag: int = 1

    def __post_init__(self) -> None:
        check_at_least_one("period", self.period)
        check_at_least_one("lag", self.lag)


class LaggedAgent(NamedTuple):
    """An agent with its former targets; a pytree.

    Attributes:
        agent: The learner.
        actors: Former target actors, oldest first, stacked: leading dimension ``lag``.
        critics: Former target critics likewise.
    """

    agent: Agent
    actors: Any
    critics: Any


def init_lagged(agent: Agent, targets: HardTargets) -> LaggedAgent:
    """Put an agent before its first update."""

    def repeated(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * targets.lag), tree)

    return LaggedAgent(agent, repeated(agent.target_actor), repeated(agent.target_critic))


def make_lagged_updates(
    config: TD3Config,
    targets: HardTargets,
    schedule: Schedule,
    num_observations: int,
    num_actions: int,
) -> LaggedUpdates:
    """Return the compiled update.

    It is called as ``updates(agent, rows, num_rows, seed, first_update, num_updates=n)`` with packed
    transitions, of which the first ``num_rows`` count, and gives the agent and each update's metrics.
    What an update draws is a function of ``seed`` and its number alone.

    Args:
        config: The learner; its ``target_update_rate`` is not used.
        targets: Period and lag.
        schedule: Source weight over the updates since the last hard update.
        num_observations: Dimensions of an observation.
        num_actions: Dimensions of an action.

    Raises:
        TypeError: If the schedule cannot be traced.
        ValueError: If the ramp is longer than the period.
    """
    num_smoothing_steps = horizon(schedule)
    if num_smoothing_steps is not None and num_smoothing_steps > targets.period:
        raise ValueError(
            f"num_smoothing_steps must be <= period ({targets.period}), got {num_smoothing_steps}"
        )
    weight_at = _schedule_of_training(schedule, targets)

    def critic_loss(params: Any, place: Any) -> jax.Array:
        agent, batch, key = place
        return _critic_loss(config, agent, params, batch, key)[0]

    def source_loss(params: Any, place: Any) -> jax.Array:
        lagged, batch, key = place
        oldest = [jax.tree.map(lambda leaf: leaf[0], tree) for tree in lagged[1:]]
        agent = lagged.agent._replace(target_actor=oldest[0], target_critic=oldest[1])
        return critic_loss(params, (agent, batch, key))

    value_and_grad = smoothed_value_and_grad(source_loss, critic_loss, weight_at)
    actor_optimizer, critic_optimizer = _optimizers(config)

    def actor_step(agent: Agent, batch: Any) -> Agent:
        gradient = jax.grad(lambda p: _actor_loss(config, agent.critic, p, batch, None)[0])(
            agent.actor
        )
        changes, state = actor_optimizer.update(gradient, agent.actor_optimizer)
        actor = optax.apply_updates(agent.actor, changes)
        return agent._replace(actor=actor, actor_optimizer=state)

    def update(
        lagged: LaggedAgent, number: jax.Array, rows: jax.Array, num_rows: jax.Array, key: jax.Array
    ) -> tuple[LaggedAgent, dict[str, jax.Array]]:
        place, noise = jax.random.split(jax.random.fold_in(key, number))
        drawn = draw(rows, num_rows, place, config.batch_size)
        batch = unpack(drawn, num_observations, num_actions)
        agent = lagged.agent
        losses, gradient = value_and_grad(
            agent.critic, number, (lagged, batch, noise), (agent, batch, noise)
        )
        changes, state = critic_optimizer.update(gradient, agent.critic_optimizer)
        critic = optax.apply_updates(agent.critic, changes)
        agent = agent._replace(critic=critic, critic_optimizer=state)
        due = (number + 1) % config.policy_delay == 0
        agent = lax.cond(due, lambda agent: actor_step(agent, batch), lambda agent: agent, agent)
        replaced = (number + 1) % targets.period == 0
        lagged = lax.cond(replaced, _replace_targets, lambda it: it, lagged._replace(agent=agent))
        return lagged, {
            "critic_loss": losses.target_loss,
            "source_critic_loss": losses.source_loss,
            "source_weight": losses.source_weight,
        }

    def updates(
        lagged: LaggedAgent,
        rows: jax.Array,
        num_rows: jax.Array,
        seed: jax.Array,
        first_update: jax.Array,
        num_updates: int,
    ) -> tuple[LaggedAgent, dict[str, jax.Array]]:
        key = jax.random.key(seed)
        numbers = first_update + jnp.arange(num_updates, dtype=jnp.int32)
        return lax.scan(lambda it, n: update(it, n, rows, num_rows, key), lagged, numbers)

    compiled: LaggedUpdates = jax.jit(updates, static_argnames="num_updates")
    return compiled


def _schedule_of_training(schedule: Schedule, targets: HardTargets) -> Schedule:
    """The schedule over all updates: it starts over at every hard update that has lagged targets."""
    if never_smooths(schedule):
        return schedule
    within, first = traceable(schedule), targets.lag * targets.period

    def source_weight(step: Any) -> Any:
        return jnp.where(step >= first, within(step % targets.period), 0.0)

    return source_weight


def _replace_targets(lagged: LaggedAgent) -> LaggedAgent:
    agent = lagged.agent

    def shifted(history: Any, newest: Any) -> Any:
        return jax.tree.map(lambda old, new: jnp.concatenate([old[1:], new[None]]), history, newest)

    actors = shifted(lagged.actors, agent.target_actor)
    critics = shifted(lagged.critics, agent.target_critic)
    agent = agent._replace(target_actor=agent.actor, target_critic=agent.critic)
    return LaggedAgent(agent, actors, critics)
