"""Runs of the supervised family: a source model, and its adaptation to a target."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from segue.batchnorm import BatchNormPolicy
from segue.checks import (
    check_at_least_one,
    check_count,
    check_not_negative,
    check_positive,
    unknown_name,
)
from segue.experiments.supervised.methods import MethodConfig
from segue.experiments.supervised.models import ResNetConfig
from segue.experiments.supervised.shifts import SOURCE_TASKS, ShiftConfig

if TYPE_CHECKING:
    from segue.runs.execution import RunContext, RunResult
    from segue.runs.grid import RunConfig

__all__ = ["AdaptationConfig", "OptimizerConfig", "SourceConfig"]

Dataset = Literal["digits", "cifar10"]
OptimizerName = Literal["sgd", "adamw"]
Split = Literal["validation", "test"]


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and peak learning rate; the rate follows half a cosine to 0 over the run.

    Attributes:
        name: ``sgd`` (momentum 0.9, Nesterov) or ``adamw``.
        learning_rate: Peak learning rate.
        weight_decay: Of SGD coupled, of AdamW decoupled.
    """

    name: OptimizerName = "sgd"
    learning_rate: float = 0.05
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        if self.name not in get_args(OptimizerName):
            raise ValueError(unknown_name("optimizer", self.name, get_args(OptimizerName)))
        check_positive("learning_rate", self.learning_rate)
        check_not_negative("weight_decay", self.weight_decay)


@dataclass(frozen=True)
class SourceConfig:
    """Train the source model of one seed; shared by every shift and method that starts from it.

    Attributes:
        dataset: ``digits`` or ``cifar10``.
        source_task: What it is trained on, see :mod:`.shifts`.
        model: Architecture.
        seed: Draws initial weights, order, augmentation, and what the source task draws.
        num_training_steps: Optimizer steps.
        batch_size: Examples per step.
        optimizer: With a linear warm-up over the first tenth.
        augment: Random flips and shifts (not for digits, where a flip is another picture).
    """

    dataset: Dataset
    source_task: str
    model: ResNetConfig
    seed: int
    num_training_steps: int
    batch_size: int = 64
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=0.1))
    augment: bool = True

    family: ClassVar[str] = "supervised"
    kind: ClassVar[str] = "source"

    def __post_init__(self) -> None:
        if self.dataset not in get_args(Dataset):
            raise ValueError(unknown_name("dataset", self.dataset, get_args(Dataset)))
        if self.source_task not in SOURCE_TASKS:
            raise ValueError(unknown_name("source_task", self.source_task, SOURCE_TASKS))
        check_count("seed", self.seed)
        check_at_least_one("num_training_steps", self.num_training_steps)

    def requires(self) -> tuple[RunConfig, ...]:
        """A source model needs nothing."""
        return ()

    def cost(self) -> float:
        """Examples that pass forward and backward."""
        return float(self.num_training_steps * self.batch_size)

    def execute(self, context: RunContext) -> RunResult:
        """Train it."""
        from segue.experiments.supervised.train import train_source

        return train_source(self, context)


@dataclass(frozen=True)
class AdaptationConfig:
    """Adapt the source model of a seed to the target of a shift, with one method.

    Attributes:
        shift: Source → target pair.
        source: The run that trains the source model, of the same seed.
        method: What happens at the switch.
        seed: Redraws the source model, the target subset and the order, the same for every method.
        num_target_examples: Size of the target's training set.
        num_target_steps: Optimizer steps after the switch.
        batch_size: Target examples per step (for the mixed mode: examples per step).
        optimizer: Optimizer of the adaptation.
        batch_norm: Policy for the source forward, see :mod:`segue.batchnorm`.
        split: ``validation`` while choosing settings, ``test`` for verdicts.
        num_curve_examples: Test examples per point of the accuracy curves.
    """

    shift: ShiftConfig
    source: SourceConfig
    method: MethodConfig
    seed: int
    num_target_examples: int
    num_target_steps: int
    batch_size: int = 64
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    batch_norm: BatchNormPolicy = "shared"
    split: Split = "test"
    num_curve_examples: int = 500

    family: ClassVar[str] = "supervised"
    kind: ClassVar[str] = "target"

    def __post_init__(self) -> None:
        if self.split not in get_args(Split):
            raise ValueError(unknown_name("split", self.split, get_args(Split)))
        for name in ("num_target_examples", "num_target_steps", "batch_size"):
            check_at_least_one(name, getattr(self, name))
        if self.seed != self.source.seed:
            raise ValueError(f"seed must be the source's ({self.source.seed}), got {self.seed}")
        if self.source.source_task != self.shift.shift.source_task:
            raise ValueError(
                f"source_task of {self.shift.name} must be {self.shift.shift.source_task!r}, "
                f"got {self.source.source_task!r}"
            )
        if self.num_target_examples < self.batch_size:
            raise ValueError(
                f"num_target_examples must be >= batch_size ({self.batch_size}), "
                f"got {self.num_target_examples}"
            )

    def requires(self) -> tuple[RunConfig, ...]:
        """The source model, unless the method starts from scratch and needs none."""
        return () if self.method.initialization == "scratch" else (self.source,)

    def cost(self) -> float:
        """Examples that pass forward and backward."""
        method = self.method
        num_examples = self.num_target_steps * self.batch_size
        if method.uses_source_data and method.mode != "mixed":
            ramp = method.schedule.num_smoothing_steps or self.num_target_steps
            num_examples += min(ramp, self.num_target_steps) * method.replay_batch_size
        return float(num_examples * (2 if method.sam_radius else 1))

    def execute(self, context: RunContext) -> RunResult:
        """Run the adaptation."""
        from segue.experiments.supervised.train import adapt

        return adapt(self, context)
