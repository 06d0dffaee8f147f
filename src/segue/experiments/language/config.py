"""Runs of the language family: a pretraining with checkpoints, and a fine-tuning from one of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from segue.checks import (
    check_at_least_one,
    check_count,
    check_not_negative,
    check_positive,
    unknown_name,
)
from segue.experiments.language.corpus import TARGETS
from segue.experiments.language.methods import MethodConfig
from segue.experiments.language.models import ModelConfig

if TYPE_CHECKING:
    from segue.runs.execution import RunContext, RunResult
    from segue.runs.grid import RunConfig

__all__ = [
    "check_fine_tuning",
    "FineTuningConfig",
    "OptimizerConfig",
    "PretrainingConfig",
    "ShiftConfig",
    "Split",
]

Split = Literal["validation", "test"]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with betas (0.9, 0.95) and clipping by the global norm.

    Attributes:
        learning_rate: Peak learning rate.
        weight_decay: Decoupled.
        max_gradient_norm: Gradients are scaled down to this norm over all parameters.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)
        check_not_negative("weight_decay", self.weight_decay)
        check_positive("max_gradient_norm", self.max_gradient_norm)


@dataclass(frozen=True)
class ShiftConfig:
    """WikiText-2 → a target.

    Attributes:
        name: ``shakespeare``, ``gsm8k`` or ``gsm8k_instructions``.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in TARGETS:
            raise ValueError(unknown_name("target", self.name, TARGETS))


@dataclass(frozen=True)
class PretrainingConfig:
    """Pretrain the model of one seed; its weights at every budget are the run's artifact.

    The learning rate is constant after a short rise, so that a checkpoint is what a pretraining
    of that length would have given, and the budgets differ in nothing else.

    Attributes:
        model: Architecture.
        seed: Draws initial weights and order.
        checkpoint_steps: The budgets in optimizer steps, rising; training ends at the last.
        batch_size: Sequences per step.
        optimizer: With a linear warm-up over ``num_warmup_steps``.
        num_warmup_steps: Optimizer steps.
    """

    model: ModelConfig
    seed: int
    checkpoint_steps: tuple[int, ...]
    batch_size: int = 16
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=3e-3, weight_decay=0.1)
    )
    num_warmup_steps: int = 20

    family: ClassVar[str] = "language"
    kind: ClassVar[str] = "source"

    def __post_init__(self) -> None:
        check_count("seed", self.seed)
        check_at_least_one("batch_size", self.batch_size)
        check_count("num_warmup_steps", self.num_warmup_steps)
        steps = self.checkpoint_steps
        if not steps or steps[0] < 1 or list(steps) != sorted(set(steps)):
            raise ValueError(f"checkpoint_steps must rise from >= 1, got {steps}")

    def requires(self) -> tuple[RunConfig, ...]:
        """A pretraining needs nothing."""
        return ()

    def num_tokens(self, num_steps: int) -> int:
        """Tokens seen in ``num_steps`` optimizer steps."""
        return num_steps * self.batch_size * self.model.max_length

    def cost(self) -> float:
        """Sequences that pass forward and backward."""
        return float(self.checkpoint_steps[-1] * self.batch_size)

    def execute(self, context: RunContext) -> RunResult:
        """Train it."""
        from segue.experiments.language.train import pretrain

        return pretrain(self, context)


@dataclass(frozen=True)
class FineTuningConfig:
    """Fine-tune one checkpoint of a pretraining on a target, with one method.

    Attributes:
        shift: Target.
        source: The pretraining, of the same seed.
        num_pretraining_steps: Which of its checkpoints: one of ``source.checkpoint_steps``.
        method: What happens at the switch.
        seed: Redraws the model, the target subset and its order, the same for every method.
        num_target_steps: Optimizer steps after the switch; there is no early stopping.
        num_target_examples: Size of the target's training set; None takes all of it.
        batch_size: Target sequences per step (mixed mode: sequences per step).
        num_micro_batches: Parts that a step's sequences are divided into, to save memory.
        optimizer: The rate follows half a cosine to 0 over the run.
        split: ``validation`` while choosing settings, ``test`` for verdicts.
        num_curve_examples: Held-out sequences per point of the curves.
        num_test_examples: Held-out sequences behind the final metrics, at most.
        num_generated_answers: Problems answered at the end of a test run, for exact match.
        keep_weights: Keep the final weights as an artifact, for the judge.
    """

    shift: ShiftConfig
    source: PretrainingConfig
    num_pretraining_steps: int
    method: MethodConfig
    seed: int
    num_target_steps: int
    num_target_examples: int | None = None
    batch_size: int = 8
    num_micro_batches: int = 1
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    split: Split = "test"
    num_curve_examples: int = 24
    num_test_examples: int = 128
    num_generated_answers: int = 32
    keep_weights: bool = field(default=False, metadata={"omit_default": True})

    family: ClassVar[str] = "language"
    kind: ClassVar[str] = "target"

    def __post_init__(self) -> None:
        check_fine_tuning(self)
        if self.seed != self.source.seed:
            raise ValueError(f"seed must be the source's ({self.source.seed}), got {self.seed}")
        if self.num_pretraining_steps not in self.source.checkpoint_steps:
            raise ValueError(
                f"num_pretraining_steps must be one of {self.source.checkpoint_steps}, "
                f"got {self.num_pretraining_steps}"
            )

    def requires(self) -> tuple[RunConfig, ...]:
        """The pretraining."""
        return (self.source,)

    def cost(self) -> float:
        """Sequences that pass forward and backward."""
        replayed = self.method.num_replayed(self.num_target_steps, self.batch_size)
        return float(self.num_target_steps * self.batch_size + replayed)

    def execute(self, context: RunContext) -> RunResult:
        """Run the fine-tuning."""
        from segue.experiments.language.train import fine_tune

        return fine_tune(self, context)


def check_fine_tuning(config: Any) -> None:
    """Check what a fine-tuning at toy and one at paper scale have in common.

    Raises:
        TypeError, ValueError: Name the field, the rule and the value.
    """
    if config.split not in get_args(Split):
        raise ValueError(unknown_name("split", config.split, get_args(Split)))
    for name in (
        "num_target_steps", "batch_size", "num_micro_batches", "num_curve_examples",
        "num_test_examples",
    ):  # fmt: skip
        check_at_least_one(name, getattr(config, name))
    for name in ("seed", "num_generated_answers"):
        check_count(name, getattr(config, name))
    if config.num_target_examples is not None and config.num_target_examples < config.batch_size:
        raise ValueError(
            f"num_target_examples must be >= batch_size ({config.batch_size}), "
            f"got {config.num_target_examples}"
        )
    for name, size in (
        ("batch_size", config.batch_size),
        ("replay_batch_size", config.method.replay_batch_size),
    ):
        if size % config.num_micro_batches:
            raise ValueError(
                f"{name} must be a multiple of num_micro_batches ({config.num_micro_batches}), "
                f"got {size}"
            )
    for name, value in (
        ("num_smoothing_steps", config.method.schedule.num_smoothing_steps),
        ("num_warmup_steps", config.method.num_warmup_steps),
    ):
        if value > config.num_target_steps:
            raise ValueError(
                f"{name} must be <= num_target_steps ({config.num_target_steps}), got {value}"
            )
