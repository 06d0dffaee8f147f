"""Runs of the online family: one learner, one task, one seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from segue.checks import check_at_least_one, check_count, check_positive, unknown_name
from segue.experiments.online_rl.methods import MethodConfig
from segue.rl.ppo_settings import PPOSettings

if TYPE_CHECKING:
    from segue.runs.execution import RunContext, RunResult
    from segue.runs.grid import RunConfig

__all__ = ["SHIFTS", "OnlineConfig", "Shift", "ShiftConfig"]

Split = Literal["validation", "test"]


@dataclass(frozen=True)
class Shift:
    """A task, and what changes in it half-way through training, if anything.

    Attributes:
        environment: Name in :mod:`segue.rl.environments`.
        changes: Constants from the change on, as (name, value).
    """

    environment: str
    changes: tuple[tuple[str, float], ...] = ()


SHIFTS: dict[str, Shift] = {
    "cartpole": Shift("CartPole"),
    "acrobot": Shift("Acrobot"),
    "pendulum": Shift("Pendulum"),
    "cartpole-force": Shift("CartPole", (("force", -10.0),)),
    "acrobot-gravity": Shift("Acrobot", (("gravity", 15.0),)),
    "pendulum-gravity": Shift("Pendulum", (("gravity", 14.0), ("torque", 1.5))),
}
"""Tasks by name. In ``cartpole-force`` the two actions change places: what was right is wrong."""


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


@dataclass(frozen=True)
class OnlineConfig:
    """Train one learner of one seed.

    Attributes:
        shift: The task.
        method: The arm.
        seed: Draws networks, environments, actions, minibatches and evaluations: the same for every
            method as far as the method lets it.
        learning_rate: Of Adam, constant.
        num_env_steps: Environment steps in all; a multiple of an iteration's.
        learner: Settings of the plain arm, from which the arm's follow.
        num_evaluations: Evaluations spread evenly over training, beside those around a change.
        num_episodes: Of an evaluation; the last one has four times as many.
        split: ``validation`` while choosing settings, on seeds of their own; ``test`` for verdicts.
    """

    shift: ShiftConfig
    method: MethodConfig
    seed: int
    learning_rate: float
    num_env_steps: int
    learner: PPOSettings = field(default_factory=PPOSettings)
    num_evaluations: int = 20
    num_episodes: int = 16
    split: Split = "test"

    family: ClassVar[str] = "online_rl"
    kind: ClassVar[str] = "target"

    def __post_init__(self) -> None:
        check_count("seed", self.seed)
        check_positive("learning_rate", self.learning_rate)
        for name in ("num_env_steps", "num_evaluations", "num_episodes"):
            check_at_least_one(name, getattr(self, name))
        if self.split not in get_args(Split):
            raise ValueError(unknown_name("split", self.split, get_args(Split)))
        # An even number of iterations, so that a change half-way falls between two of them.
        if self.num_env_steps % (2 * self.settings.num_examples):
            raise ValueError(
                "num_env_steps must be a multiple of two iterations' "
                f"({2 * self.settings.num_examples}), got {self.num_env_steps}"
            )

    @property
    def settings(self) -> PPOSettings:
        """Settings of this arm's learner."""
        return self.method.settings(self.learner)

    @property
    def num_iterations(self) -> int:
        """Rollouts in all."""
        return self.num_env_steps // self.settings.num_examples

    def requires(self) -> tuple[RunConfig, ...]:
        """Training starts from scratch: nothing is needed."""
        return ()

    def cost(self) -> float:
        """Gradient examples: what passes forward and backward."""
        settings = self.settings
        num_updates = settings.num_updates
        num_minibatches = num_updates + self.method.num_source_updates(num_updates)
        size = settings.num_examples // settings.num_minibatches
        return float(self.num_iterations * num_minibatches * size)

    def execute(self, context: RunContext) -> RunResult:
        """Train it."""
        from segue.experiments.online_rl.train import train_online

        return train_online(self, context)
