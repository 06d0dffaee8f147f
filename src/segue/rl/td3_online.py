"""TD3 from scratch, compiled end to end: acting, replay, updates, and the smoothing of its switches.

Two things switch an online learner's objective from one update to the next. *Hard target updates*
replace what the critics regress on after every ``period`` updates; the source is then the critics'
loss on lagged targets. And the *data* drift: the source is then the loss on the older slice of the
buffer, the target the loss on the newer one. In both, λ falls from 1 to 0 at the beginning of each
phase of ``period`` updates. Under TD3's own averaging of targets the previous ones are all but the
present ones, and there is nothing to smooth.

Left open by the paper (arXiv 2607.00634) and chosen here: both critic losses of ``lagged_targets`` see
the same batch and the same target noise, so that they differ in the targets alone; the lag is counted
in periods; the actor's loss holds no targets and is blended only where the data differ
(``older_slice``); λ is 0 in the phases that have nothing older.
"""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax import lax

from segue.adapters.jax import never_smooths, smoothed_value_and_grad
from segue.checks import unknown_name
from segue.rl.buffers import Transitions, unpack
from segue.rl.environments import Box, Constants, EnvironmentSpec, reset
from segue.rl.episodes import act, returns_of_episodes
from segue.rl.iterated import IteratedLearner, check_start, restarting
from segue.rl.ppo_settings import TaskChange
from segue.rl.running_statistics import RunningStatistics, include, no_statistics, normalized
from segue.rl.task_constants import TaskConstants
from segue.rl.td3 import init_agent
from segue.rl.td3_losses import Agent, actor_loss, actor_network, critic_loss, critic_network
from segue.rl.td3_online_settings import OnlineTD3Settings, TD3SourceTerm
from segue.schedules import Schedule, check_horizon, hard_switch

__all__ = ["TD3", "FormerTargets", "OnlineTD3Settings", "TD3Policy", "TD3SourceTerm", "TD3State"]


class FormerTargets(NamedTuple):
    """Former target networks, oldest first, stacked: leading dimension ``lag``."""

    actors: Any
    critics: Any


class TD3State(NamedTuple):
    """Everything a resumed run needs; a pytree of arrays.

    Attributes:
        agent: Networks, target networks and Adam's states.
        former: Former targets, or () where nothing needs them.
        learning_rate: 0-d array, so that another rate is no other program.
        environments: States and current observations.
        rows: Replay buffer, packed; which of them count follows from the iteration.
        statistics: Of the observations, or () where they are not normalised.
        key: Random state.
    """

    agent: Agent
    former: FormerTargets | tuple[()]
    learning_rate: jax.Array
    environments: Any
    rows: jax.Array
    statistics: RunningStatistics | tuple[()]
    key: jax.Array


class TD3Policy(NamedTuple):
    """What it takes to act."""

    actor: Any
    statistics: RunningStatistics | tuple[()]


class _Given(NamedTuple):
    """What a batch's loss is given besides the parameters."""

    agent: Agent
    former: Any
    batch: Any
    key: jax.Array


class TD3(IteratedLearner[TD3State]):
    """A TD3 learner; its methods are pure functions to be compiled and vmapped over seeds.

    Args:
        environment: The task; its actions are a :class:`~segue.rl.environments.Box`.
        settings: Settings.
        schedule: Source weight over the updates *of one phase*, starting over in each.
        source_term: ``lagged_targets`` or ``older_slice`` (see the module); or, as controls,
            ``second_batch`` (another batch of the target's own: as many gradient examples, nothing
            old) and ``nothing`` (the new loss alone is ramped).
        change: Switches constants of the task during training.

    Raises:
        TypeError: If the schedule cannot be traced, or the action space is not a box.
        ValueError: If the ramp is longer than a phase, a name is unknown, or source and settings do
            not go together. All of it before anything is compiled.

    Source: Fujimoto et al., arXiv 1802.09477; smoothing: arXiv 2607.00634.
    """

    def __init__(
        self,
        environment: EnvironmentSpec,
        settings: OnlineTD3Settings,
        schedule: Schedule | None = None,
        *,
        source_term: TD3SourceTerm = "lagged_targets",
        change: TaskChange | None = None,
    ) -> None:
        self.environment, self.settings = environment, settings
        self.schedule = hard_switch() if schedule is None else schedule
        self.source_term = source_term
        space = environment.action_space
        if not isinstance(space, Box):
            raise TypeError(f"action_space must be a Box for TD3, got {space!r}")
        self.action_space = space
        # A Python-level branch: without smoothing nothing of the source is in the program.
        self.smooths = not never_smooths(self.schedule)
        self.keeps_former = self.smooths and source_term == "lagged_targets"
        self._check_source()
        self.sizes = environment.observation_size, space.size
        self._constants = TaskConstants(environment, change)
        adam = optax.scale_by_adam()
        if settings.max_gradient_element is not None:
            adam = optax.chain(optax.clip(settings.max_gradient_element), adam)
        self._optimizer = optax.flatten(adam)
        weight = self._schedule_of_training()
        self._critic_gradient = smoothed_value_and_grad(
            self._source_critic_loss, self._critic_loss, weight
        )
        self._actor_gradient = smoothed_value_and_grad(
            self._source_actor_loss,
            self._actor_loss,
            weight if source_term == "older_slice" else hard_switch(),
        )

    # -- what is compiled ------------------------------------------------------------------

    def init(self, seed: int | jax.Array, learning_rate: float | jax.Array) -> TD3State:
        """Return the state before the first iteration; everything drawn is a function of ``seed``.

        Raises:
            ValueError: If ``seed`` is negative or does not fit 32 bits, or the rate is not positive.
        """
        check_start(seed, learning_rate)
        settings = self.settings
        numbers = jnp.asarray(seed, jnp.uint32)
        key, starting = jax.random.split(jax.random.fold_in(jax.random.key(numbers), 1))
        starts = jax.random.split(starting, settings.num_envs)
        environments = jax.vmap(lambda key: reset(self.environment, key))(starts)
        agent = init_agent(settings.learner, *self.sizes, numbers)
        agent = agent._replace(
            actor_optimizer=self._optimizer.init(agent.actor),
            critic_optimizer=self._optimizer.init(agent.critic),
        )
        former: Any = ()
        if self.keeps_former:
            targets = (agent.target_actor, agent.target_critic)
            former = FormerTargets(
                *jax.tree.map(lambda leaf: jnp.stack([leaf] * settings.lag), targets)
            )
        width = 2 * self.sizes[0] + self.sizes[1] + 2
        rows = jnp.zeros((settings.buffer_capacity, width), jnp.float32)
        statistics: Any = no_statistics(self.sizes[0]) if settings.normalize_observations else ()
        rate = jnp.asarray(learning_rate, jnp.float32)
        return TD3State(agent, former, rate, environments, rows, statistics, key)

    def iterate(
        self, state: TD3State, iteration: jax.Array, constants: Constants
    ) -> tuple[TD3State, dict[str, jax.Array]]:
        """Act, store what was seen, and learn from the buffer."""
        settings = self.settings
        key, acting, learning = jax.random.split(state.key, 3)
        learns = iteration >= settings.num_random_iterations
        environments, seen, finished = self._act(state, acting, constants, learns)
        place = (iteration * settings.num_examples) % settings.buffer_capacity
        packed = jnp.concatenate([part.reshape(settings.num_examples, -1) for part in seen], axis=1)
        rows = lax.dynamic_update_slice(state.rows, packed, (place, 0))
        statistics = state.statistics
        if isinstance(statistics, RunningStatistics):
            statistics = include(statistics, seen.observations)
        state = state._replace(environments=environments, rows=rows, statistics=statistics, key=key)
        first = (iteration - settings.num_random_iterations) * settings.num_updates
        agent, former, log = lax.cond(
            learns,
            lambda: self._learn(state, first, learning),
            lambda: (state.agent, state.former, dict.fromkeys(_LOGGED, jnp.float32(0.0))),
        )
        measured = finished | log
        if settings.measure_churn:
            observations = normalized(statistics, seen.observations)
            measured |= self._churn(state.agent, agent, observations, seen.actions)
        return state._replace(agent=agent, former=former), measured

    def policy(self, state: TD3State) -> TD3Policy:
        """What :meth:`evaluate` needs of a state."""
        return TD3Policy(state.agent.actor, state.statistics)

    def evaluate(
        self, policy: TD3Policy, key: jax.Array, constants: Constants, num_episodes: int
    ) -> jax.Array:
        """Return of whole episodes without exploration noise, in environments of their own."""

        def choose(observations: jax.Array, key: jax.Array) -> jax.Array:
            actor = actor_network(self.settings.learner, self.sizes[1])
            actions: Any = actor.apply(policy.actor, normalized(policy.statistics, observations))
            return self._raw(actions)

        return returns_of_episodes(
            self.environment, choose, key, constants, num_episodes=num_episodes
        )

    # -- acting ----------------------------------------------------------------------------

    def _act(
        self, state: TD3State, key: jax.Array, constants: Constants, learns: jax.Array
    ) -> tuple[Any, Transitions, dict[str, jax.Array]]:
        settings, (_, num_actions) = self.settings, self.sizes
        starting, noising, guessing = jax.random.split(key, 3)
        shape = settings.num_rollout_steps, settings.num_envs
        # Drawn for all steps at once: inside the loop every small operation costs.
        starts = jax.vmap(jax.vmap(self.environment.start))(jax.random.split(starting, shape))
        noise = settings.exploration_noise * jax.random.normal(noising, (*shape, num_actions))
        guesses = jax.random.uniform(guessing, (*shape, num_actions), minval=-1.0)
        actor = actor_network(settings.learner, num_actions)

        def one(carry: Any, given: Any) -> tuple[Any, Any]:
            states, observations = carry
            fresh, noise, guess = given
            chosen: Any = actor.apply(state.agent.actor, normalized(state.statistics, observations))
            actions = jnp.where(learns, jnp.clip(chosen + noise, -1.0, 1.0), guess)
            states, result = act(self.environment, states, self._raw(actions), fresh, constants)
            # A time limit is no terminal state, and this is the true final observation.
            transition = Transitions(
                observations,
                actions,
                result.reward,
                result.terminated.astype(jnp.float32),
                result.final_observation,
            )
            ended = result.terminated | result.truncated
            return (states, result.observation), (transition, ended, result.finished_return)

        environments, (seen, ended, returns) = lax.scan(
            one, state.environments, (starts, noise, guesses)
        )
        return environments, seen, {"num_episodes": ended.sum(), "sum_of_returns": returns.sum()}

    def _raw(self, actions: jax.Array) -> jax.Array:
        """Actions as the environment takes them, from those in [-1, 1]."""
        space = self.action_space
        return space.low + 0.5 * (actions + 1.0) * (space.high - space.low)

    # -- learning --------------------------------------------------------------------------

    def _learn(
        self, state: TD3State, first: jax.Array, key: jax.Array
    ) -> tuple[Agent, Any, dict[str, jax.Array]]:
        def one(carry: Any, index: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
            return self._update(state, carry, first + index, jax.random.fold_in(key, index))

        numbers = jnp.arange(self.settings.num_updates, dtype=jnp.int32)
        (agent, former), log = lax.scan(one, (state.agent, state.former), numbers)
        return agent, former, jax.tree.map(jnp.mean, log)

    def _update(
        self, state: TD3State, carry: Any, number: jax.Array, key: jax.Array
    ) -> tuple[Any, dict[str, jax.Array]]:
        settings, config = self.settings, self.settings.learner
        agent, former = carry
        oldest, boundary, newest = self._slices(number)
        keys = jax.random.split(key, 4)
        low = oldest if settings.recent_share == 1.0 else boundary
        batch = self._draw(state, low, newest, keys[0])

        def older() -> Transitions:
            # Called inside the source's losses, so that after the ramp nothing is drawn for them.
            if self.source_term == "older_slice":
                return self._draw(state, oldest, boundary, keys[1])
            return self._draw(state, low, newest, keys[1])

        losses, gradient = self._critic_gradient(
            agent.critic,
            number,
            _Given(agent, former, batch if self.keeps_former else older, keys[3]),
            _Given(agent, former, batch, keys[3] if self.keeps_former else keys[2]),
        )
        direction, moments = self._optimizer.update(gradient, agent.critic_optimizer)
        critic = _moved(agent.critic, direction, state.learning_rate)
        agent = agent._replace(critic=critic, critic_optimizer=moments)

        def actor_step(agent: Agent) -> Agent:
            _, gradient = self._actor_gradient(
                agent.actor,
                number,
                _Given(agent, former, older, keys[3]),
                _Given(agent, former, batch, keys[2]),
            )
            direction, moments = self._optimizer.update(gradient, agent.actor_optimizer)
            actor = _moved(agent.actor, direction, state.learning_rate)
            agent = agent._replace(actor=actor, actor_optimizer=moments)
            return self._averaged(agent) if settings.target_update == "average" else agent

        due = (number + 1) % config.policy_delay == 0
        agent = lax.cond(due, actor_step, lambda agent: agent, agent)
        if settings.target_update == "hard":
            replaced = (number + 1) % settings.period == 0
            agent, former = lax.cond(replaced, _replace_targets, lambda *it: it, agent, former)
        return (agent, former), {
            "target_loss": losses.target_loss,
            "source_loss": losses.source_loss,
            "source_weight": losses.source_weight,
            "source_evaluated": losses.source_evaluated.astype(jnp.float32),
        }

    def _averaged(self, agent: Agent) -> Agent:
        rate = self.settings.learner.target_update_rate
        return agent._replace(
            target_actor=optax.incremental_update(agent.actor, agent.target_actor, rate),
            target_critic=optax.incremental_update(agent.critic, agent.target_critic, rate),
        )

    def _slices(self, number: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Oldest transition that is kept, first one of the newer slice, and the end, at an update.

        Transitions are counted from the start of training.
        """
        settings = self.settings

        def num_added(number: jax.Array) -> jax.Array:
            iteration = settings.num_random_iterations + number // settings.num_updates
            return (iteration + 1) * settings.num_examples

        newest, then = num_added(number), num_added(number - number % settings.period)
        oldest = jnp.maximum(newest - settings.buffer_capacity, 0)
        recent = settings.recent_share * jnp.minimum(then, settings.buffer_capacity)
        return oldest, then - recent.astype(jnp.int32), newest

    def _draw(self, state: TD3State, low: Any, high: Any, key: jax.Array) -> Transitions:
        size = self.settings.learner.batch_size
        places = jax.random.randint(key, (size,), low, high) % self.settings.buffer_capacity
        batch = unpack(state.rows[places], *self.sizes)
        return batch._replace(
            observations=normalized(state.statistics, batch.observations),
            next_observations=normalized(state.statistics, batch.next_observations),
        )

    # -- losses ----------------------------------------------------------------------------

    def _critic_loss(self, params: Any, given: _Given) -> jax.Array:
        return critic_loss(self.settings.learner, given.agent, params, given.batch, given.key)[0]

    def _source_critic_loss(self, params: Any, given: _Given) -> jax.Array:
        if self.source_term == "nothing":
            return jnp.zeros(())
        if self.keeps_former:
            actor, critic = (jax.tree.map(lambda leaf: leaf[0], tree) for tree in given.former)
            agent = given.agent._replace(target_actor=actor, target_critic=critic)
            return self._critic_loss(params, given._replace(agent=agent))
        return self._critic_loss(params, given._replace(batch=given.batch()))

    def _actor_loss(self, params: Any, given: _Given) -> jax.Array:
        config = self.settings.learner
        return actor_loss(config, given.agent.critic, params, given.batch, None)[0]

    def _source_actor_loss(self, params: Any, given: _Given) -> jax.Array:
        return self._actor_loss(params, given._replace(batch=given.batch()))

    def _churn(
        self, before: Agent, after: Agent, observations: jax.Array, actions: jax.Array
    ) -> dict[str, jax.Array]:
        """How far an iteration moved policy and value, on the states it acted in."""
        config = self.settings.learner
        actor, critic = actor_network(config, self.sizes[1]), critic_network(config)
        old: Any = actor.apply(before.actor, observations)
        new: Any = actor.apply(after.actor, observations)
        was: Any = critic.apply(before.critic, observations, actions)
        now: Any = critic.apply(after.critic, observations, actions)
        return {
            "policy_churn": jnp.abs(new - old).mean(),
            "value_churn": jnp.abs(now[0] - was[0]).mean(),
        }

    # -- checks ----------------------------------------------------------------------------

    def _check_source(self) -> None:
        settings, source_term = self.settings, self.source_term
        if source_term not in get_args(TD3SourceTerm):
            raise ValueError(unknown_name("source_term", source_term, get_args(TD3SourceTerm)))
        check_horizon(self.schedule, settings.period, f"period ({settings.period})")
        if not self.smooths:
            return
        if source_term == "lagged_targets" and settings.target_update != "hard":
            raise ValueError(
                "target_update must be 'hard' for the source_term 'lagged_targets' (averaged targets "
                f"hardly differ from the previous ones), got {settings.target_update!r}"
            )
        if source_term == "older_slice":
            if settings.recent_share == 1.0:
                raise ValueError(
                    "recent_share must be < 1 for the source_term 'older_slice', got 1.0"
                )
            per_phase = -(-settings.period // settings.num_updates) * settings.num_examples
            if (1.0 - settings.recent_share) * settings.buffer_capacity <= per_phase:
                raise ValueError(
                    "buffer_capacity must leave an older slice of more than a phase's "
                    f"{per_phase} transitions, got {settings.buffer_capacity}"
                )

    def _schedule_of_training(self) -> Schedule:
        """The schedule over all updates: it starts over in every phase that has something older."""
        if not self.smooths:
            return self.schedule
        period = self.settings.period
        first = period * (self.settings.lag if self.source_term == "lagged_targets" else 1)
        return restarting(self.schedule, period, first)


_LOGGED = ("target_loss", "source_loss", "source_weight", "source_evaluated")


def _moved(params: Any, direction: Any, rate: jax.Array) -> Any:
    return jax.tree.map(lambda value, change: value - rate * change, params, direction)


def _replace_targets(agent: Agent, former: Any) -> tuple[Agent, Any]:
    if isinstance(former, FormerTargets):

        def shifted(history: Any, newest: Any) -> Any:
            def shift(old: jax.Array, new: jax.Array) -> jax.Array:
                return jnp.concatenate([old[1:], new[None]])

            return jax.tree.map(shift, history, newest)

        former = FormerTargets(
            shifted(former.actors, agent.target_actor),
            shifted(former.critics, agent.target_critic),
        )
    return agent._replace(target_actor=agent.actor, target_critic=agent.critic), former
