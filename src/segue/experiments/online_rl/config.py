"""Runs of the online family: one learner, one task, one seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from segue.checks import check_at_least_one, check_count, check_positive, unknown_name
from segue.experiments.online_rl.methods import MethodConfig
from segue.experiments.online_rl.td3_methods import TD3MethodConfig
from segue.rl.ppo_settings import PPOSettings
from segue.rl.td3_online_settings import OnlineTD3Settings

if TYPE_CHECKING:
    from segue.runs.execution import RunContext, RunResult
    from segue.runs.grid import RunConfig

__all__ = ["SHIFTS", "OnlineConfig", "PPOConfig", "Shift", "ShiftConfig", "TD3OnlineConfig"]

Split = Literal["validation", "test"]
Learner = Literal["ppo", "td3"]
Switch = Literal["rollout", "targets", "data"]


@dataclass(frozen=True)
class Shift:
    """A task, and what changes in it half-way through training, if anything.

    Attributes:
        environment: Name in :mod:`segue.rl.environments`.
        changes: Constants from the change on, as (name, value).
        switch: What switches again and again while training: PPO's ``rollout``, TD3's hard
            ``targets``, or the newer half of TD3's replayed ``data``.
    """

    environment: str
    changes: tuple[tuple[str, float], ...] = ()
    switch: Switch = "rollout"

    @property
    def learner(self) -> Learner:
        """Which learner is trained."""
        return "ppo" if self.switch == "rollout" else "td3"


_HEAVIER = (("gravity", 14.0), ("torque", 1.5))

SHIFTS: dict[str, Shift] = {
    "cartpole": Shift("CartPole"),
    "acrobot": Shift("Acrobot"),
    "pendulum": Shift("Pendulum"),
    "cartpole-force": Shift("CartPole", (("force", -10.0),)),
    "acrobot-gravity": Shift("Acrobot", (("gravity", 15.0),)),
    "pendulum-gravity": Shift("Pendulum", _HEAVIER),
    "brax-hopper": Shift("brax/hopper"),
    "brax-halfcheetah": Shift("brax/halfcheetah"),
    "brax-walker2d": Shift("brax/walker2d"),
    "brax-ant": Shift("brax/ant"),
    "td3-targets-pendulum": Shift("Pendulum", switch="targets"),
    "td3-data-pendulum": Shift("Pendulum", switch="data"),
    "td3-data-pendulum-torque": Shift("Pendulum", (("torque", -1.0),), "data"),
    "td3-targets-brax-hopper": Shift("brax/hopper", switch="targets"),
    "td3-targets-brax-walker2d": Shift("brax/walker2d", switch="targets"),
    "td3-targets-brax-halfcheetah": Shift("brax/halfcheetah", switch="targets"),
}
"""Tasks by name; PPO's but for those of TD3. In ``cartpole-force`` the two actions change places, and
in ``-torque`` every action turns the other way: what was right is wrong."""


@dataclass(frozen=True)
class ShiftConfig:
    """A task by name.

    Attributes:
        name: See ``SHIFTS``.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in SHIFTS:
            raise ValueError(unknown_name("shift", self.name, SHIFTS))

    @property
    def shift(self) -> Shift:
        """What the name stands for."""
        return SHIFTS[self.name]


@dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """Train one learner of one seed: what the learners have in common.

    Attributes:
        shift: The task.
        seed: Draws networks, environments, actions, minibatches and evaluations: the same for every
            method as far as the method lets it.
        learning_rate: Of Adam, constant.
        num_env_steps: Environment steps in all; a multiple of two points'.
        num_evaluations: Evaluations spread evenly over training, beside those around a change.
        num_episodes: Of an evaluation; the last one has four times as many.
        split: ``validation`` while choosing settings, on seeds of their own; ``test`` for verdicts.
    """

    shift: ShiftConfig
    seed: int
    learning_rate: float
    num_env_steps: int
    num_evaluations: int = 20
    num_episodes: int = 16
    split: Split = "test"

    family: ClassVar[str] = "online_rl"
    kind: ClassVar[str] = "target"
    learner_name: ClassVar[Learner]

    def __post_init__(self) -> None:
        check_count("seed", self.seed)
        check_positive("learning_rate", self.learning_rate)
        for name in ("num_env_steps", "num_evaluations", "num_episodes"):
            check_at_least_one(name, getattr(self, name))
        if self.split not in get_args(Split):
            raise ValueError(unknown_name("split", self.split, get_args(Split)))
        wanted = self.shift.shift.learner
        if wanted != self.learner_name:
            raise ValueError(
                f"shift must be one of the learner {self.learner_name!r}, got {self.shift.name!r}"
            )
        # An even number of points, so that a change half-way falls between two of them.
        if self.num_env_steps % (2 * self.num_env_steps_per_point):
            raise ValueError(
                "num_env_steps must be a multiple of two iterations' "
                f"({2 * self.num_env_steps_per_point}), got {self.num_env_steps}"
            )

    @property
    def num_iterations_per_point(self) -> int:
        """Iterations between two points of the curves, in one call of the compiled program."""
        raise NotImplementedError

    @property
    def num_env_steps_per_iteration(self) -> int:
        """Environment steps of an iteration, over all environments."""
        raise NotImplementedError

    def num_gradient_examples(self, source_evaluated: float) -> int:
        """Examples that passed forward and backward from one point of the curves to the next.

        ``source_evaluated`` is the share of the updates whose branch with the source was taken; where
        only the target's weight is ramped, that branch holds no examples.
        """
        raise NotImplementedError

    def cost(self) -> float:
        """Gradient examples: what passes forward and backward."""
        raise NotImplementedError

    @property
    def num_env_steps_per_point(self) -> int:
        """Environment steps between two points of the curves."""
        return self.num_iterations_per_point * self.num_env_steps_per_iteration

    @property
    def num_points(self) -> int:
        """Points of the curves."""
        return self.num_env_steps // self.num_env_steps_per_point

    def requires(self) -> tuple[RunConfig, ...]:
        """Training starts from scratch: nothing is needed."""
        return ()

    def execute(self, context: RunContext) -> RunResult:
        """Train it."""
        from segue.experiments.online_rl.train import train_online

        return train_online(self, context)


@dataclass(frozen=True, kw_only=True)
class PPOConfig(OnlineConfig):
    """PPO: each rollout is another objective.

    Attributes:
        method: The arm.
        learner: Settings of the plain arm, from which the arm's follow.
    """

    method: MethodConfig
    learner: PPOSettings = field(default_factory=PPOSettings)

    learner_name: ClassVar[Learner] = "ppo"

    @property
    def settings(self) -> PPOSettings:
        """Settings of this arm's learner."""
        return self.method.settings(self.learner)

    @property
    def num_iterations_per_point(self) -> int:
        """One."""
        return 1

    @property
    def num_env_steps_per_iteration(self) -> int:
        """A rollout."""
        return self.settings.num_examples

    def num_gradient_examples(self, source_evaluated: float) -> int:
        """See :class:`OnlineConfig`."""
        settings = self.settings
        size = settings.num_examples // settings.num_minibatches
        num_source = 0 if self.method.source_term == "nothing" else source_evaluated
        return round(settings.num_updates * (1.0 + num_source)) * size

    def cost(self) -> float:
        """See :class:`OnlineConfig`."""
        settings = self.settings
        num_updates = settings.num_updates
        num_minibatches = num_updates + self.method.num_source_updates(num_updates)
        size = settings.num_examples // settings.num_minibatches
        return float(self.num_points * num_minibatches * size)


@dataclass(frozen=True, kw_only=True)
class TD3OnlineConfig(OnlineConfig):
    """TD3: each phase has other targets, or other data.

    Attributes:
        method: The arm.
        learner: Settings of the plain arm, from which the arm's follow; a phase is whole iterations.
    """

    method: TD3MethodConfig
    learner: OnlineTD3Settings = field(default_factory=OnlineTD3Settings)

    learner_name: ClassVar[Learner] = "td3"

    def __post_init__(self) -> None:
        if self.learner.period % self.learner.num_updates:
            raise ValueError(
                f"period must be a multiple of num_updates ({self.learner.num_updates}), "
                f"got {self.learner.period}"
            )
        super().__post_init__()

    @property
    def settings(self) -> OnlineTD3Settings:
        """Settings of this arm's learner."""
        return self.method.settings(self.learner)

    @property
    def num_iterations_per_point(self) -> int:
        """A phase."""
        return self.learner.period // self.learner.num_updates

    @property
    def num_env_steps_per_iteration(self) -> int:
        """Of all environments."""
        return self.settings.num_examples

    def num_gradient_examples(self, source_evaluated: float) -> int:
        """See :class:`OnlineConfig`; iterations of random actions, without updates, count as others."""
        settings = self.settings
        num_source = 0 if self.method.source_term == "nothing" else source_evaluated
        return round(settings.period * (1.0 + num_source)) * settings.learner.batch_size

    def cost(self) -> float:
        """See :class:`OnlineConfig`."""
        period = self.settings.period
        num_batches = period + self.method.num_source_updates(period)
        return float(self.num_points * num_batches * self.settings.learner.batch_size)
