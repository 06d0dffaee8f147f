"""TD3 and TD3+BC, compiled: many updates in one call, for one seed or for several at once.

Offline training, online training and everything between are one update with another
:class:`~segue.rl.objective.Objective`. In a smoothed update the actor's and the critic's losses are computed twice, on
an offline batch (source) and on an independent online batch (target), and blended after that.

Sources: TD3, arXiv 1802.09477; TD3+BC, arXiv 2106.06860; the blend, arXiv 2607.00634.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from segue.adapters.jax import never_smooths, smoothed_value_and_grad, traceable
from segue.rl.buffers import Transitions, draw, unpack
from segue.rl.objective import Objective
from segue.rl.td3_losses import (
    Agent,
    actor_loss,
    actor_network,
    critic_loss,
    critic_network,
    values_of,
)
from segue.rl.td3_settings import TD3Config
from segue.schedules import Schedule, hard_switch

__all__ = [
    "Agent",
    "TD3Config",
    "init_agent",
    "make_updates",
    "reset_optimizers",
    "start_values",
]

Metrics = dict[str, jax.Array]
Updates = Callable[..., tuple["Agent", Metrics]]


def init_agent(
    config: TD3Config, num_observations: int, num_actions: int, seed: int | jax.Array
) -> Agent:
    """Draw an untrained agent; its targets are copies."""
    actor_key, critic_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 0))
    observations, actions = jnp.zeros((1, num_observations)), jnp.zeros((1, num_actions))
    actor = actor_network(config, num_actions).init(actor_key, observations)
    critic = critic_network(config).init(critic_key, observations, actions)
    agent = Agent(actor, critic, actor, critic, None, None)
    return reset_optimizers(config, agent)


def reset_optimizers(config: TD3Config, agent: Agent) -> Agent:
    """Forget the moments of both optimizers, as some do at the switch."""
    actor_optimizer, critic_optimizer = _optimizers(config)
    return agent._replace(
        actor_optimizer=actor_optimizer.init(agent.actor),
        critic_optimizer=critic_optimizer.init(agent.critic),
    )


def start_values(config: TD3Config, agent: Agent, observations: Any, num_actions: int) -> jax.Array:
    """Return what the first critic says the actor is worth from preprocessed observations."""
    values: jax.Array = _start_values(config, num_actions, agent.actor, agent.critic, observations)
    return values


@functools.partial(jax.jit, static_argnums=(0, 1))
def _start_values(
    config: TD3Config, num_actions: int, actor: Any, critic: Any, observations: jax.Array
) -> jax.Array:
    actions: Any = actor_network(config, num_actions).apply(actor, observations)
    values: jax.Array = values_of(config, critic, observations, actions)[0]
    return values


def make_updates(
    config: TD3Config,
    objective: Objective,
    num_observations: int,
    num_actions: int,
    *,
    over_seeds: bool = False,
) -> Updates:
    """Return the compiled update of an objective.

    The result is called as ``updates(agent, offline_rows, rows, num_rows, seed, first_update,
    source_weight, num_updates=n)``. It draws every batch itself: what it draws at an update is a
    function of ``seed`` and the update's number alone. ``offline_rows`` are the source's packed
    transitions, the first ``num_rows`` of ``rows`` the target's (in the offline phase both are the
    same). ``source_weight`` counts only where the objective has no schedule. ``num_updates`` is
    static: each value compiles once.

    Args:
        config: The learner.
        objective: What is minimised.
        num_observations: Dimensions of an observation.
        num_actions: Dimensions of an action.
        over_seeds: Train several seeds at once: ``agent``, ``rows`` and ``seed`` have a leading
            dimension; the update's number does not, so that what is not needed is skipped for all.

    Returns:
        The function; it gives the agent and metrics averaged over the updates in which they exist
        (NaN where they never do). Equal arguments give the same function, compiled once a process.
    """
    return _compiled_updates(config, objective, (num_observations, num_actions), over_seeds)


@functools.lru_cache(maxsize=32)
def _compiled_updates(
    config: TD3Config, objective: Objective, sizes: tuple[int, int], over_seeds: bool
) -> Updates:
    step = functools.partial(_update, config, objective, sizes)

    def updates(
        agent: Agent,
        offline_rows: jax.Array,
        rows: jax.Array,
        num_rows: jax.Array,
        seed: jax.Array,
        first_update: jax.Array,
        source_weight: jax.Array,
        num_updates: int,
    ) -> tuple[Agent, Metrics]:
        data = _Data(offline_rows, rows, num_rows, jax.random.key(seed), source_weight)

        def body(agent: Agent, update: jax.Array) -> tuple[Agent, Metrics]:
            return step(agent, data, update)

        numbers = first_update + jnp.arange(num_updates, dtype=jnp.int32)
        agent, metrics = lax.scan(body, agent, numbers)
        # A loss that is there at every update must show a NaN; one that is there at some, must not.
        means = {name: jnp.nanmean(value) for name, value in metrics.items()}
        return agent, {**means, "critic_loss": metrics["critic_loss"].mean()}

    def batched(*arguments: Any, num_updates: int) -> tuple[Agent, Metrics]:
        axes = (0, None, 0, None, 0, None, None)
        function = functools.partial(updates, num_updates=num_updates)
        result: tuple[Agent, Metrics] = jax.vmap(function, in_axes=axes)(*arguments)
        return result

    compiled: Updates = jax.jit(batched if over_seeds else updates, static_argnames="num_updates")
    return compiled


class _Data(NamedTuple):
    """What a compiled call is given besides the agent."""

    offline_rows: jax.Array
    rows: jax.Array
    num_rows: jax.Array
    key: jax.Array
    source_weight: jax.Array


def _update(
    config: TD3Config, objective: Objective, sizes: tuple[int, int], agent: Agent, data: _Data,
    update: jax.Array,
) -> tuple[Agent, Metrics]:  # fmt: skip
    """One critic update and, every ``policy_delay`` of them, one of actor and targets."""
    keys = jax.random.split(jax.random.fold_in(data.key, update + 1), 5)
    clock = objective.clock_at(update)
    weight = objective.schedule
    schedule: Any = (lambda step: data.source_weight) if weight is None else weight
    target = unpack(_target_rows(config, objective, data, keys[0], keys[1], clock), *sizes)

    def source() -> Transitions:
        # Called inside the source's losses, so that after the ramp nothing is drawn for them.
        rows = draw(data.offline_rows, len(data.offline_rows), keys[2], config.batch_size)
        return unpack(rows, *sizes)

    loss = functools.partial(critic_loss, config, agent)
    losses, gradient = smoothed_value_and_grad(
        _source_or_nothing(objective, lambda params, key: loss(params, source(), key)),
        lambda params, key: loss(params, target, key),
        schedule if objective.smooth_critic else hard_switch(),
        has_aux=True,
    )(agent.critic, clock, keys[3], keys[4])
    _, critic_optimizer = _optimizers(config)
    changes, critic_state = critic_optimizer.update(gradient, agent.critic_optimizer)
    agent = agent._replace(
        critic=optax.apply_updates(agent.critic, changes), critic_optimizer=critic_state
    )
    metrics = {
        "critic_loss": losses.target_loss,
        **losses.target_aux,
        "source_critic_loss": _where(losses.source_evaluated, losses.source_loss),
        "source_weight": traceable(schedule)(clock),
    }
    actor_step = functools.partial(_actor_step, config, objective, schedule, clock, source, target)
    agent, actor_metrics = lax.cond(
        (update + 1) % config.policy_delay == 0,
        actor_step,
        lambda agent: (agent, dict.fromkeys(_ACTOR_METRICS, jnp.float32(jnp.nan))),
        agent,
    )
    return agent, {**metrics, **actor_metrics}


_ACTOR_METRICS = (
    "actor_loss", "source_actor_loss", "cloning_distance", "source_cloning_distance",
    "saturated_share",
)  # fmt: skip


def _actor_step(
    config: TD3Config, objective: Objective, schedule: Schedule, clock: jax.Array,
    source: Callable[[], Transitions], target: Transitions, agent: Agent,
) -> tuple[Agent, Metrics]:  # fmt: skip
    clones = not never_smooths(objective.cloning_weight)
    cloning = traceable(objective.cloning_weight)(clock) if clones else None
    loss = functools.partial(actor_loss, config, agent.critic)
    losses, gradient = smoothed_value_and_grad(
        _source_or_nothing(objective, lambda params, _: loss(params, source(), jnp.float32(1.0))),
        lambda params, _: loss(params, target, cloning),
        schedule if objective.smooth_actor else hard_switch(),
        has_aux=True,
    )(agent.actor, clock, None, None)
    actor_optimizer, _ = _optimizers(config)
    changes, state = actor_optimizer.update(gradient, agent.actor_optimizer)
    agent = agent._replace(actor=optax.apply_updates(agent.actor, changes), actor_optimizer=state)
    rate = config.target_update_rate
    agent = agent._replace(
        target_actor=optax.incremental_update(agent.actor, agent.target_actor, rate),
        target_critic=optax.incremental_update(agent.critic, agent.target_critic, rate),
    )
    there, aux = losses.source_evaluated, losses.source_aux or {}
    nothing = jnp.float32(jnp.nan)
    values = (
        losses.target_loss,
        _where(there, losses.source_loss),
        losses.target_aux["cloning_distance"],
        _where(there, aux["cloning_distance"]) if "cloning_distance" in aux else nothing,
        losses.target_aux["saturated_share"],
    )
    return agent, dict(zip(_ACTOR_METRICS, values, strict=True))


def _target_rows(
    config: TD3Config, objective: Objective, data: _Data, first: jax.Array, second: jax.Array,
    clock: jax.Array,
) -> jax.Array:  # fmt: skip
    size = config.batch_size
    online = draw(data.rows, data.num_rows, first, size)
    if objective.batches == "online":
        return online
    num_offline = len(data.offline_rows)
    if objective.batches == "union":
        share = num_offline / (num_offline + data.num_rows)
    else:
        share = traceable(objective.offline_share)(clock)
    place, rounding = jax.random.split(second)
    offline = draw(data.offline_rows, num_offline, place, size)
    # As many as the share says in expectation: the fraction of a row is drawn.
    num_chosen = jnp.floor(share * size + jax.random.uniform(rounding))
    return jnp.where((jnp.arange(size) < num_chosen)[:, None], offline, online)


def _source_or_nothing(objective: Objective, loss: Callable[..., Any]) -> Callable[..., Any]:
    if objective.source_term == "nothing":  # only the target's weight is ramped
        return lambda params, key: (jnp.float32(0.0), {})
    return loss


def _where(there: jax.Array, value: jax.Array) -> jax.Array:
    return jnp.where(there, value, jnp.float32(jnp.nan))


def _optimizers(
    config: TD3Config,
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    # Over one flat vector: a small network's update is bound by the number of operations.
    actor, critic = config.actor_learning_rate, config.critic_learning_rate
    return optax.flatten(optax.adam(actor)), optax.flatten(optax.adam(critic))
