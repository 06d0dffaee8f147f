"""PPO in JAX, compiled end to end, with smoothing inside every iteration.

Each iteration of PPO brings a new batch and with it a new objective. With smoothing, the first K
updates of an iteration minimise λ·(loss on the previous rollout) + (1 − λ)·(loss on the new one),
with λ falling from 1 to 0 and starting over in every iteration.

The paper (arXiv 2607.00634) leaves two details open. Chosen here: the previous rollout keeps the
log-probabilities and advantages of its own time (``source_advantages="recomputed"`` estimates the
advantages anew with the current value function), and an iteration's source minibatches follow
shuffled epochs of their own, drawn apart from the target's.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from segue.adapters.jax import never_smooths, smoothed_value_and_grad
from segue.checks import unknown_name
from segue.rl.environments import Constants, EnvironmentSpec, reset
from segue.rl.episodes import returns_of_episodes
from segue.rl.iterated import IteratedLearner, check_start, restarting
from segue.rl.policy_networks import ActorCritic, distribution_for
from segue.rl.ppo_rollout import Rollout, advantages_of, collect, minibatch_order
from segue.rl.ppo_settings import PPOSettings, SourceAdvantages, SourceTerm, TaskChange
from segue.rl.running_statistics import RunningStatistics, include, no_statistics, normalized
from segue.rl.task_constants import TaskConstants
from segue.schedules import Schedule, check_horizon, hard_switch

__all__ = [
    "PPO",
    "PPOPolicy",
    "PPOSettings",
    "PPOState",
    "SourceAdvantages",
    "SourceTerm",
    "TaskChange",
]


class PPOState(NamedTuple):
    """Everything a resumed run needs; a pytree of arrays.

    Attributes:
        params: Networks.
        optimizer: Adam's state.
        learning_rate: 0-d array, so that another rate is no other program.
        environments: States and current observations.
        previous: The previous rollout, or () where nothing needs it.
        statistics: Of the observations, or () where they are not normalised.
        key: Random state.
    """

    params: Any
    optimizer: Any
    learning_rate: jax.Array
    environments: Any
    previous: Any
    statistics: RunningStatistics | tuple[()]
    key: jax.Array


class PPOPolicy(NamedTuple):
    """What it takes to act."""

    params: Any
    statistics: RunningStatistics | tuple[()]


class Examples(NamedTuple):
    """What the loss needs of a rollout, with one leading dimension."""

    observations: jax.Array
    actions: jax.Array
    log_probs: jax.Array
    values: jax.Array
    advantages: jax.Array
    targets: jax.Array


class PPO(IteratedLearner[PPOState]):
    """A PPO learner; its methods are pure functions to be compiled and vmapped over seeds.

    Args:
        environment: The task.
        settings: Settings.
        schedule: Source weight over the updates *of one iteration*, starting over in each. In the
            first iteration, which has no previous rollout, the target alone is trained on.
        source_term: ``previous_rollout``; or, as controls, ``current_rollout`` (a second minibatch of
            the same rollout: as many gradient examples, no old data) and ``nothing`` (the new loss
            alone is ramped).
        source_advantages: ``stored``, or ``recomputed`` with the current value function.
        change: Switches constants of the task during training.

    Raises:
        TypeError: If the schedule cannot be traced, or the action space is neither discrete nor a
            box.
        ValueError: If the ramp is longer than an iteration's updates, a name is unknown, or the task
            has no such constant. All of it before anything is compiled.

    Source: Schulman et al., arXiv 1707.06347; smoothing: arXiv 2607.00634.
    """

    def __init__(
        self,
        environment: EnvironmentSpec,
        settings: PPOSettings,
        schedule: Schedule | None = None,
        *,
        source_term: SourceTerm = "previous_rollout",
        source_advantages: SourceAdvantages = "stored",
        change: TaskChange | None = None,
    ) -> None:
        self.environment, self.settings = environment, settings
        self.schedule = hard_switch() if schedule is None else schedule
        if source_term not in get_args(SourceTerm):
            raise ValueError(unknown_name("source_term", source_term, get_args(SourceTerm)))
        if source_advantages not in get_args(SourceAdvantages):
            known = get_args(SourceAdvantages)
            raise ValueError(unknown_name("source_advantages", source_advantages, known))
        num_smoothing_steps = check_horizon(
            self.schedule,
            settings.num_updates,
            f"the updates of an iteration ({settings.num_updates} = {settings.num_epochs} epochs * "
            f"{settings.num_minibatches} minibatches)",
        )
        self.distribution = distribution_for(environment.action_space)
        self.network = ActorCritic(
            self.distribution.num_outputs,
            self.distribution.has_scale,
            settings.hidden_sizes,
            settings.activation,
        )
        self.source_term, self.source_advantages = source_term, source_advantages
        # A Python-level branch: without smoothing nothing of the source is in the program.
        self.smooths = not never_smooths(self.schedule)
        self.keeps_previous = self.smooths and source_term == "previous_rollout"
        self._num_source_updates = self._last_source_update(num_smoothing_steps)
        self._constants = TaskConstants(environment, change)
        self._optimizer = optax.chain(
            optax.clip_by_global_norm(settings.max_gradient_global_norm),
            optax.scale_by_adam(eps=1e-5),
        )
        self._value_and_grad = smoothed_value_and_grad(
            self._source_loss, self.loss, self._schedule_of_training(), has_aux=False
        )

    # -- what is compiled ------------------------------------------------------------------

    def init(self, seed: int | jax.Array, learning_rate: float | jax.Array) -> PPOState:
        """Return the state before the first iteration; everything drawn is a function of ``seed``.

        Raises:
            ValueError: If ``seed`` is negative or does not fit 32 bits, or the rate is not positive.
        """
        check_start(seed, learning_rate)
        key, weights, starting = jax.random.split(jax.random.key(jnp.asarray(seed, jnp.uint32)), 3)
        starts = jax.random.split(starting, self.settings.num_envs)
        environments = jax.vmap(lambda key: reset(self.environment, key))(starts)
        params = self.network.init(weights, environments[1])
        size = self.environment.observation_size
        statistics: Any = no_statistics(size) if self.settings.normalize_observations else ()
        previous: Any = ()
        if self.keeps_previous:
            policy, constants = PPOPolicy(params, statistics), self.constants_at(0)
            shapes = jax.eval_shape(self._collect, policy, environments, key, constants)[1]
            previous = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        optimizer = self._optimizer.init(params)
        rate = jnp.asarray(learning_rate, jnp.float32)
        return PPOState(params, optimizer, rate, environments, previous, statistics, key)

    def iterate(
        self, state: PPOState, iteration: jax.Array, constants: Constants
    ) -> tuple[PPOState, dict[str, jax.Array]]:
        """Collect one rollout and learn from it."""
        settings = self.settings
        key, acting, ordering = jax.random.split(state.key, 3)
        environments, rollout, finished = self._collect(
            self.policy(state), state.environments, acting, constants
        )
        statistics = state.statistics
        if isinstance(statistics, RunningStatistics):
            observations, final = rollout.observations, rollout.final_observations
            rollout = rollout._replace(
                observations=normalized(statistics, observations),
                final_observations=normalized(statistics, final),
            )
            statistics = include(statistics, observations)
        current = _examples(rollout)
        order = minibatch_order(
            ordering, settings.num_examples, settings.num_updates, settings.num_minibatches
        )
        source = self._source(state, current, jax.random.fold_in(ordering, 2**31))

        def update(carry: Any, index: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
            params, optimizer = carry
            batch = jax.tree.map(lambda leaf: leaf[order[index]], current)
            step = iteration * settings.num_updates + index
            losses, gradient = self._value_and_grad(params, step, (source, index), batch)
            direction, optimizer = self._optimizer.update(gradient, optimizer, params)
            params = jax.tree.map(lambda p, d: p - state.learning_rate * d, params, direction)
            return (params, optimizer), {
                "target_loss": losses.target_loss,
                "source_loss": losses.source_loss,
                "source_weight": losses.source_weight,
                "source_evaluated": losses.source_evaluated.astype(jnp.float32),
            }

        (params, optimizer), log = lax.scan(
            update, (state.params, state.optimizer), jnp.arange(settings.num_updates)
        )
        measured = finished | jax.tree.map(jnp.mean, log)
        if settings.measure_churn:
            measured |= self._churn(state.params, params, current.observations)
        previous = rollout if self.keeps_previous else ()
        return state._replace(
            params=params,
            optimizer=optimizer,
            environments=environments,
            previous=previous,
            statistics=statistics,
            key=key,
        ), measured

    def loss(self, params: Any, batch: Examples) -> jax.Array:
        """PPO's loss on a minibatch, relative to the policy and values stored with it."""
        settings = self.settings
        outputs: Any = self.network.apply(params, batch.observations)
        parameters, values = outputs
        ratio = jnp.exp(self.distribution.log_prob(parameters, batch.actions) - batch.log_probs)
        advantages = batch.advantages - batch.advantages.mean()
        advantages = advantages / (batch.advantages.std() + 1e-8)
        clip = settings.clip_range
        clipped_ratio = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
        policy_loss: jax.Array = -jnp.minimum(ratio * advantages, clipped_ratio * advantages).mean()
        errors = (values - batch.targets) ** 2
        if settings.value_clip_range is not None:
            bound = settings.value_clip_range
            near = batch.values + jnp.clip(values - batch.values, -bound, bound)
            errors = jnp.maximum(errors, (near - batch.targets) ** 2)
        entropy = self.distribution.entropy(parameters).mean()
        value_loss = settings.value_weight * 0.5 * errors.mean()
        total: jax.Array = policy_loss + value_loss - settings.entropy_weight * entropy
        return total

    def policy(self, state: PPOState) -> PPOPolicy:
        """What :meth:`evaluate` needs of a state."""
        return PPOPolicy(state.params, state.statistics)

    def evaluate(
        self, policy: PPOPolicy, key: jax.Array, constants: Constants, num_episodes: int
    ) -> jax.Array:
        """Return of whole episodes of the stochastic policy, in environments of their own."""

        def choose(observations: jax.Array, key: jax.Array) -> jax.Array:
            seen = normalized(policy.statistics, observations)
            parameters: Any = self.network.apply(policy.params, seen, method="policy")
            return self.distribution.sample(parameters, key)

        return returns_of_episodes(
            self.environment, choose, key, constants, num_episodes=num_episodes
        )

    # -- inside ----------------------------------------------------------------------------

    def _collect(
        self, policy: PPOPolicy, environments: Any, key: jax.Array, constants: Constants
    ) -> tuple[Any, Rollout, dict[str, jax.Array]]:
        settings = self.settings
        return collect(
            self.environment,
            self.network,
            self.distribution,
            policy.params,
            environments,
            key,
            constants,
            num_steps=settings.num_rollout_steps,
            discount=settings.discount,
            gae_lambda=settings.gae_lambda,
            see=functools.partial(normalized, policy.statistics),
        )

    def _last_source_update(self, num_smoothing_steps: int | None) -> int:
        """How many updates of an iteration may need a source minibatch."""
        if not self.smooths or self.source_term == "nothing":
            return 0
        ends = num_smoothing_steps is not None and self.schedule(num_smoothing_steps) == 0.0
        return num_smoothing_steps or 0 if ends else self.settings.num_updates

    def _schedule_of_training(self) -> Schedule:
        """The schedule over all updates of training: it starts over in every iteration."""
        if not self.smooths:
            return self.schedule
        num_updates = self.settings.num_updates
        first = num_updates if self.source_term == "previous_rollout" else 0
        return restarting(self.schedule, num_updates, first)

    def _source(self, state: PPOState, current: Examples, key: jax.Array) -> Any:
        """The examples that source minibatches are drawn from, and their order."""
        if self._num_source_updates == 0:
            return ()
        settings = self.settings
        order = minibatch_order(
            key, settings.num_examples, self._num_source_updates, settings.num_minibatches
        )
        if self.source_term == "current_rollout":
            return current, order
        previous: Rollout = state.previous
        if self.source_advantages == "recomputed":
            previous = self._with_advantages_of(state.params, previous)
        return _examples(previous), order

    def _with_advantages_of(self, params: Any, rollout: Rollout) -> Rollout:
        values: Any = self.network.apply(params, rollout.observations, method="value")
        following: Any = self.network.apply(params, rollout.final_observations, method="value")
        advantages = advantages_of(
            rollout.rewards,
            values,
            following,
            rollout.terminated,
            rollout.done,
            self.settings.discount,
            self.settings.gae_lambda,
        )
        targets = advantages + values
        return rollout._replace(values=values, advantages=advantages, targets=targets)

    def _source_loss(self, params: Any, source: Any) -> jax.Array:
        """Loss on a source minibatch; drawn in here, so that after the ramp nothing is."""
        place, index = source
        if self.source_term == "nothing":
            return jnp.zeros(())
        examples, order = place
        chosen = order[jnp.minimum(index, order.shape[0] - 1)]
        return self.loss(params, jax.tree.map(lambda leaf: leaf[chosen], examples))

    def _churn(self, before: Any, after: Any, observations: jax.Array) -> dict[str, jax.Array]:
        """How far an iteration moved policy and value, on the states it learnt from."""
        old: Any = self.network.apply(before, observations)
        new: Any = self.network.apply(after, observations)
        return {
            "policy_churn": self.distribution.divergence(old[0], new[0]).mean(),
            "value_churn": jnp.abs(new[1] - old[1]).mean(),
        }


def _examples(rollout: Rollout) -> Examples:
    """Flatten time and environments."""
    parts = [getattr(rollout, name) for name in Examples._fields]
    return Examples(*(leaf.reshape(-1, *np.shape(leaf)[2:]) for leaf in parts))
