"""Runs of the family: an offline agent, and its life in the environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from segue.checks import check_at_least_one, check_count, unknown_name
from segue.experiments.offline_to_online.methods import MethodConfig
from segue.rl.data.generate import QUALITIES, TASKS
from segue.rl.td3 import TD3Config

if TYPE_CHECKING:
    from segue.runs.execution import RunContext, RunResult
    from segue.runs.grid import RunConfig

__all__ = ["SHIFTS", "OfflineConfig", "OnlineConfig", "ShiftConfig"]

SHIFTS = tuple(f"{task}-{quality}" for task in TASKS for quality in QUALITIES)
"""Names of the shifts: an offline data set → its environment."""


@dataclass(frozen=True)
class ShiftConfig:
    """An offline data set, and the environment it comes from.

    Attributes:
        name: ``<task>-<quality>``, such as ``hopper-medium``.
        num_transitions: Size of the data set, which is generated.
        dataset_seed: Draws it; the same for all seeds of a comparison, as a published one would be.
    """

    name: str
    num_transitions: int = 100_000
    dataset_seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in SHIFTS:
            raise ValueError(unknown_name("shift", self.name, SHIFTS))
        check_at_least_one("num_transitions", self.num_transitions)
        check_count("dataset_seed", self.dataset_seed)

    @property
    def task(self) -> str:
        """Such as ``hopper``."""
        return self.name.split("-", 1)[0]

    @property
    def quality(self) -> str:
        """Such as ``medium-replay``."""
        return self.name.split("-", 1)[1]

    @property
    def environment_id(self) -> str:
        """Gymnasium's id."""
        return TASKS[self.task]


@dataclass(frozen=True)
class OfflineConfig:
    """Train the offline agent of one seed; shared by every method that starts from it.

    Attributes:
        shift: Data set.
        learner: TD3+BC's settings.
        seed: Draws networks and batches.
        num_updates_per_evaluation: Updates between two evaluations.
        max_updates: Upper bound; it ends before if a plateau is reached.
        min_updates: Lower bound.
        plateau_tolerance: The last three evaluations differ by at most this share.
        num_episodes: Of an evaluation.
    """

    shift: ShiftConfig
    learner: TD3Config
    seed: int
    num_updates_per_evaluation: int = 5_000
    max_updates: int = 100_000
    min_updates: int = 30_000
    plateau_tolerance: float = 0.05
    num_episodes: int = 10

    family: ClassVar[str] = "offline_to_online"
    kind: ClassVar[str] = "source"

    def __post_init__(self) -> None:
        check_count("seed", self.seed)
        for name in ("num_updates_per_evaluation", "max_updates", "num_episodes"):
            check_at_least_one(name, getattr(self, name))
        if self.max_updates % self.num_updates_per_evaluation:
            raise ValueError(
                f"max_updates must be a multiple of num_updates_per_evaluation "
                f"({self.num_updates_per_evaluation}), got {self.max_updates}"
            )

    def requires(self) -> tuple[RunConfig, ...]:
        """An offline agent needs nothing."""
        return ()

    def cost(self) -> float:
        """Updates on one batch."""
        return float(self.max_updates)

    def execute(self, context: RunContext) -> RunResult:
        """Train it."""
        from segue.experiments.offline_to_online.train import train_offline

        return train_offline(self, context)


@dataclass(frozen=True)
class OnlineConfig:
    """Take the offline agent of a seed online, with one method.

    Attributes:
        shift: Data set and environment.
        source: The run that trains the offline agent, of the same shift and seed.
        method: What happens at the switch.
        seed: Draws exploration, batches and first states, the same for every method.
        num_env_steps: Environment steps after the switch.
        num_env_steps_per_round: See :class:`segue.rl.switch.SwitchConfig`.
        num_updates_per_env_step: Critic updates per environment step.
        num_episodes: Of an evaluation.
        num_episodes_at_switch: Of the one at step 0, which everything is compared with.
        exploration_noise: As a share of half the action range.
    """

    shift: ShiftConfig
    source: OfflineConfig
    method: MethodConfig
    seed: int
    num_env_steps: int
    num_env_steps_per_round: int = 20
    num_updates_per_env_step: int = 1
    num_episodes: int = 10
    num_episodes_at_switch: int = 30
    exploration_noise: float = field(default=0.1)

    family: ClassVar[str] = "offline_to_online"
    kind: ClassVar[str] = "target"

    def __post_init__(self) -> None:
        for name in (
            "num_env_steps", "num_env_steps_per_round", "num_updates_per_env_step", "num_episodes",
        ):  # fmt: skip
            check_at_least_one(name, getattr(self, name))
        if self.seed != self.source.seed:
            raise ValueError(f"seed must be the source's ({self.source.seed}), got {self.seed}")
        if self.shift != self.source.shift:
            raise ValueError(f"shift must be the source's ({self.source.shift}), got {self.shift}")
        if self.method.layer_norm_critic != self.source.learner.layer_norm_critic:
            raise ValueError(
                "layer_norm_critic must be the source's "
                f"({self.source.learner.layer_norm_critic}), got {self.method.layer_norm_critic}"
            )
        if self.num_episodes_at_switch < self.num_episodes:
            raise ValueError(
                f"num_episodes_at_switch must be >= num_episodes ({self.num_episodes}), "
                f"got {self.num_episodes_at_switch}"
            )

    def requires(self) -> tuple[RunConfig, ...]:
        """The offline agent, unless the method starts from scratch."""
        return () if self.method.initialization == "scratch" else (self.source,)

    def cost(self) -> float:
        """Updates on one batch; a smoothed update counts twice."""
        num = self.num_env_steps * self.num_updates_per_env_step
        if not self.method.evaluates_source:
            return float(num)
        schedule = self.method.schedule
        ends = schedule.shape == "linear" and schedule.final_weight == 0.0
        ramp = schedule.num_smoothing_steps if ends and self.method.control == "clock" else num
        return float(num + min(ramp, num))

    def execute(self, context: RunContext) -> RunResult:
        """Run it."""
        from segue.experiments.offline_to_online.train import train_online

        return train_online(self, context)
