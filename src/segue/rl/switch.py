"""The switch: an offline agent goes on in the environment.

A round is some environment steps with the policy as it is, then the updates they allow, compiled into
one call. Every state it depends on is in :meth:`OnlineTraining.state_dict`: a run that was cut off and
goes on equals one that was not, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from segue.adapters.jax import traceable
from segue.checks import check_at_least_one, check_count, check_not_negative
from segue.rl.buffers import OnlineBuffer, Transitions, pack, prepare_rows
from segue.rl.control import Control, NoControl
from segue.rl.data.dataset import OfflineDataset
from segue.rl.identity import check_identity, identity_of
from segue.rl.networks import act, to_numpy
from segue.rl.objective import Objective
from segue.rl.preprocessing import Preprocessing
from segue.rl.state import agent_from_state, agent_state, environment_state, restore_environment
from segue.rl.switch_checks import check_control, check_dataset, check_environment
from segue.rl.td3 import Agent, TD3Config, init_agent, make_updates, reset_optimizers

__all__ = ["OnlineTraining", "SwitchConfig"]

_PARTS = (
    "identity", "num_env_steps", "num_updates", "source_weight", "agent", "buffer", "offline_fingerprint",
    "preprocessing", "environment", "observation", "return", "generator", "control",
    "num_episodes_told", "episode_returns", "metrics",
)  # fmt: skip
"""Of a saved state."""


@dataclass(frozen=True)
class SwitchConfig:
    """What happens from the switch on.

    Attributes:
        learner: The same as offline, but for what may change at a switch.
        objective: What is minimised.
        num_env_steps_per_round: Environment steps between two calls of the compiled updates; the policy
            acts unchanged within a round. 1 is the textbook's loop.
        num_random_env_steps: First environment steps with uniformly random actions, for training from
            scratch.
        exploration_noise: Standard deviation, as a share of half the action range.
        reset_optimizers: Forget Adam's moments at the switch.
        buffer_capacity: Online transitions kept.
    """

    learner: TD3Config = field(default_factory=TD3Config)
    objective: Objective = field(default_factory=Objective)
    num_env_steps_per_round: int = 1
    num_random_env_steps: int = 0
    exploration_noise: float = 0.1
    reset_optimizers: bool = False
    buffer_capacity: int = 1_000_000

    def __post_init__(self) -> None:
        check_at_least_one("num_env_steps_per_round", self.num_env_steps_per_round)
        check_count("num_random_env_steps", self.num_random_env_steps)
        check_not_negative("exploration_noise", self.exploration_noise)
        check_at_least_one("buffer_capacity", self.buffer_capacity)


class OnlineTraining:
    """Training in the environment, from the switch on.

    Args:
        config: What happens.
        env: Gymnasium MuJoCo environment (TimeLimit and OrderEnforcing are the wrappers allowed); used
            by nothing else.
        preprocessing: The one object for data set, environment and evaluation.
        seed: Draws exploration, batches, and the environment's first states.
        dataset: Offline transitions; None if the objective needs none.
        agent: The offline agent; None starts from scratch.
        control: Gives the source weight round by round, where the objective has no schedule.

    Raises:
        ValueError: If objective, control, data set, preprocessing and environment do not fit together.
        TypeError: If the environment's state could not be saved.
        DatasetError: If the data set is not whole, or another environment gave it.

    Attributes:
        agent: What was trained so far.
        num_env_steps: Environment steps since the switch.
        num_updates: Critic updates since the switch.
        episode_returns: ``(environment step, return)`` of each finished *training* episode.
        metrics: Averages over the updates of the last round; empty before the first.
    """

    def __init__(
        self,
        config: SwitchConfig,
        env: gymnasium.Env[Any, Any],
        preprocessing: Preprocessing,
        *,
        seed: int,
        dataset: OfflineDataset | None = None,
        agent: Agent | None = None,
        control: Control | None = None,
    ) -> None:
        check_control(config.objective, control)
        check_environment(env, preprocessing)
        check_dataset(config.objective, dataset, env)
        self.config, self.env, self.preprocessing, self.seed = config, env, preprocessing, seed
        sizes = preprocessing.num_observations, preprocessing.num_actions
        fresh = init_agent(config.learner, *sizes, seed)
        self.agent: Agent = fresh if agent is None else agent
        if config.reset_optimizers:
            self.agent = reset_optimizers(config.learner, self.agent)
        self.control: Control = NoControl() if control is None else control
        self.buffer = OnlineBuffer(config.buffer_capacity, *sizes)
        self.num_env_steps = self.num_updates = 0
        self.episode_returns: list[tuple[int, float]] = []
        self.metrics: dict[str, float] = {}
        self._fingerprint = None if dataset is None else dataset.fingerprint()
        self._offline_rows = (
            jnp.zeros((1, self.buffer.rows.shape[1]), jnp.float32)
            if dataset is None
            else jnp.asarray(prepare_rows(dataset, preprocessing))
        )
        self._updates = make_updates(config.learner, config.objective, *sizes)
        self._draw = np.random.default_rng([seed, 3])
        self._observation = env.reset(seed=int(self._draw.integers(0, 2**31 - 1)))[0]
        self._return = 0.0
        self._num_episodes_told = 0

    @property
    def source_weight(self) -> float:
        """λ at the next update."""
        if self.config.objective.schedule is None:
            return self.control.source_weight
        return self._scheduled_weight(self.num_updates)

    def _scheduled_weight(self, update: int) -> float:
        schedule = self.config.objective.schedule
        assert schedule is not None
        return float(traceable(schedule)(self.config.objective.clock_at(update)))

    def train(self, until_env_step: int) -> None:
        """Go on until so many environment steps since the switch are done.

        Rounds are whole but just before ``until_env_step`` and before the first update, where single
        steps are taken; so a cut at any round changes nothing.

        Raises:
            FloatingPointError: If the critics' loss is not finite; tells updates and λ.
        """
        size = self.config.num_env_steps_per_round
        before = self.config.objective.num_env_steps_before_updates
        while self.num_env_steps < until_env_step:
            goal = until_env_step
            if self.num_env_steps < before:
                goal = min(goal, before)
            self.round(size if self.num_env_steps + size <= goal else 1)

    def round(self, num_env_steps: int) -> None:
        """Some environment steps, then their updates."""
        before = self.config.objective.num_env_steps_before_updates
        updates_follow = self.num_env_steps >= before
        self._act(num_env_steps)
        if updates_follow:
            self._update(num_env_steps * self.config.objective.num_updates_per_env_step)

    def _act(self, num_env_steps: int) -> None:
        actor, preprocessing = to_numpy(self.agent.actor), self.preprocessing
        num_actions = preprocessing.num_actions
        rows: list[list[Any]] = [[], [], [], [], []]
        for _ in range(num_env_steps):
            seen = preprocessing.observations(self._observation)
            if self.num_env_steps < self.config.num_random_env_steps:
                scaled = self._draw.uniform(-1.0, 1.0, num_actions).astype(np.float32)
            else:
                noise = self._draw.standard_normal(num_actions).astype(np.float32)
                scaled = act(actor, seen) + np.float32(self.config.exploration_noise) * noise
                scaled = np.clip(scaled, -1.0, 1.0)
            following, reward, terminated, truncated, _ = self.env.step(
                preprocessing.raw_actions(scaled)
            )
            # A time limit is no terminal state, and this is the true final observation.
            row = (seen, scaled, reward, terminated, preprocessing.observations(following))
            for column, value in zip(rows, row, strict=True):
                column.append(value)
            self.num_env_steps += 1
            self._return += float(reward)
            if terminated or truncated:
                self.episode_returns.append((self.num_env_steps, self._return))
                self._observation, self._return = self.env.reset()[0], 0.0
            else:
                self._observation = following
        self.buffer.add(pack(Transitions(*(np.asarray(column) for column in rows))))

    def _update(self, num_updates: int) -> None:
        # A schedule is in the compiled program, and evaluating it here as well would cost as much as
        # an update of a small network.
        given = self.control.source_weight if self.config.objective.schedule is None else 0.0
        self.agent, metrics = self._updates(
            self.agent, self._offline_rows, self.buffer.rows, np.int32(self.buffer.size),
            np.uint32(2 * self.seed + 1), np.int32(self.num_updates), np.float32(given),
            num_updates=num_updates,
        )  # fmt: skip
        self.metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
        first, last = self.num_updates, self.num_updates + num_updates - 1
        if not np.isfinite(self.metrics["critic_loss"]):
            raise FloatingPointError(
                f"critic_loss is {self.metrics['critic_loss']} within updates {first} to {last} after "
                f"the switch, at a source weight of {self.source_weight}"
            )
        self.num_updates = last + 1
        told = [value for _, value in self.episode_returns[self._num_episodes_told :]]
        self._num_episodes_told = len(self.episode_returns)
        self.control.after_round(num_updates, told, self.metrics)

    def state_dict(self) -> dict[str, Any]:
        """Everything it takes to go on bit for bit; call it between rounds."""
        return {
            "identity": self._identity(),
            "num_env_steps": self.num_env_steps,
            "num_updates": self.num_updates,
            "source_weight": self.source_weight,
            "agent": agent_state(self.agent),
            "buffer": self.buffer.state_dict(),
            "offline_fingerprint": self._fingerprint,
            "preprocessing": self.preprocessing.state_dict(),
            "environment": environment_state(self.env),
            "observation": [float(value) for value in self._observation],
            "return": self._return,
            "generator": self._draw.bit_generator.state,
            "control": self.control.state_dict(),
            "num_episodes_told": self._num_episodes_told,
            "episode_returns": [list(pair) for pair in self.episode_returns],
            "metrics": dict(self.metrics),
        }

    def _identity(self) -> dict[str, str | None]:
        settings = {each.name: getattr(self.config, each.name) for each in fields(self.config)}
        control = type(self.control).__name__
        spec = None if self.env.spec is None else self.env.spec.id
        return identity_of(**settings, seed=self.seed, control=control, environment=spec)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; one that is refused changes nothing.

        Raises:
            ValueError: If a part of it is missing, or it was saved with other settings, another seed or
                environment, other offline data or another preprocessing; names what differs.
        """
        _check_parts(state)
        check_identity(state["identity"], self._identity())
        if state["offline_fingerprint"] != self._fingerprint:
            raise ValueError("the offline data set must be the one the state was saved with")
        if Preprocessing.from_state_dict(state["preprocessing"]) != self.preprocessing:
            raise ValueError("preprocessing must be the one the state was saved with")
        if self.config.objective.schedule is not None:  # a function of the user's own has no name
            weight = self._scheduled_weight(state["num_updates"])
            if weight != state["source_weight"]:
                raise ValueError(
                    f"the schedule must give the source weight the state was saved with "
                    f"({state['source_weight']}), got {weight}"
                )
        agent = agent_from_state(self.agent, state["agent"])
        self.buffer.load_state_dict(state["buffer"])
        self.agent = agent
        self.num_env_steps, self.num_updates = state["num_env_steps"], state["num_updates"]
        self.control.load_state_dict(state["control"])
        restore_environment(self.env, state["environment"])
        self._observation = np.array(state["observation"], np.float64)
        self._return = state["return"]
        self._draw.bit_generator.state = state["generator"]
        self._num_episodes_told = state["num_episodes_told"]
        self.episode_returns = [(int(a), float(b)) for a, b in state["episode_returns"]]
        self.metrics = dict(state["metrics"])


def _check_parts(state: Mapping[str, Any]) -> None:
    """A state that lacks a part would go on with a fresh one, or fail half restored."""
    missing = [name for name in _PARTS if name not in state]
    if missing:
        raise ValueError(
            f"the saved state must hold {', '.join(_PARTS)}, misses {', '.join(missing)}"
        )
