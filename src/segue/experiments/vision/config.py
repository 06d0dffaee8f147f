"""Runs of the vision family: a domain model, and its adaptation to another domain."""

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
from segue.experiments.vision.methods import MethodConfig
from segue.experiments.vision.models import NetworkConfig

if TYPE_CHECKING:
    from segue.runs.execution import RunContext, RunResult
    from segue.runs.grid import RunConfig

__all__ = [
    "CHECKPOINT",
    "DOMAINS",
    "AdaptationConfig",
    "OptimizerConfig",
    "ShiftConfig",
    "SourceConfig",
]

DOMAINS = {
    "pacs": ("photo", "art_painting", "cartoon", "sketch"),
    "domainnet": ("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
}
"""Data set → its domains."""
CHECKPOINT = "imagenet"
"""As a source: the checkpoint itself, of whose data there are none."""
Split = Literal["validation", "test"]


@dataclass(frozen=True)
class OptimizerConfig:
    """SGD with momentum 0.9 (Nesterov); the rate follows half a cosine to 0 over the run.

    Attributes:
        learning_rate: Peak learning rate.
        weight_decay: Coupled.
    """

    learning_rate: float = 0.01
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)
        check_not_negative("weight_decay", self.weight_decay)


@dataclass(frozen=True)
class ShiftConfig:
    """A source → target pair by name.

    Attributes:
        name: ``<source>_to_<target>``, such as ``photo_to_sketch`` or ``imagenet_to_sketch``.
        dataset: Whose domains they are.

    >>> shift = ShiftConfig("art_painting_to_photo")
    >>> shift.source, shift.target
    ('art_painting', 'photo')
    """

    name: str
    dataset: str = "pacs"

    def __post_init__(self) -> None:
        if self.dataset not in DOMAINS:
            raise ValueError(unknown_name("dataset", self.dataset, DOMAINS))
        domains = DOMAINS[self.dataset]
        known = [f"{a}_to_{b}" for a in (*domains, CHECKPOINT) for b in domains if a != b]
        if self.name not in known:
            raise ValueError(unknown_name("shift", self.name, known))

    @property
    def source(self) -> str:
        """Source domain."""
        return self.name.partition("_to_")[0]

    @property
    def target(self) -> str:
        """Target domain."""
        return self.name.partition("_to_")[2]

    @property
    def from_checkpoint(self) -> bool:
        """Whether the source is the checkpoint itself, without any data."""
        return self.source == CHECKPOINT


@dataclass(frozen=True)
class SourceConfig:
    """Fine-tune the checkpoint on a domain; shared by every target and method that starts from it.

    Attributes:
        dataset: Such as ``pacs``.
        domain: Its domain.
        network: What is trained.
        seed: Draws the head, the order, dropout.
        num_training_steps: Optimizer steps.
        batch_size: Examples per step.
        optimizer: With a linear warm-up over the first tenth.
        num_fisher_examples: Source examples over which the Fisher is taken afterwards.
        num_fisher_samples: Labels drawn for each of them; None for the exact expectation.
    """

    dataset: str
    domain: str
    network: NetworkConfig
    seed: int
    num_training_steps: int
    batch_size: int = 32
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    num_fisher_examples: int = 128
    num_fisher_samples: int | None = None

    family: ClassVar[str] = "vision"
    kind: ClassVar[str] = "source"

    def __post_init__(self) -> None:
        if self.dataset not in DOMAINS:
            raise ValueError(unknown_name("dataset", self.dataset, DOMAINS))
        if self.domain not in DOMAINS[self.dataset]:
            raise ValueError(unknown_name("domain", self.domain, DOMAINS[self.dataset]))
        check_count("seed", self.seed)
        for name in ("num_training_steps", "batch_size", "num_fisher_examples"):
            check_at_least_one(name, getattr(self, name))

    def requires(self) -> tuple[RunConfig, ...]:
        """A domain model starts from the checkpoint."""
        return ()

    def cost(self) -> float:
        """Examples that pass forward and backward."""
        num_labels = self.num_fisher_samples or self.network.num_classes
        return float(
            self.num_training_steps * self.batch_size + self.num_fisher_examples * num_labels
        )

    def execute(self, context: RunContext) -> RunResult:
        """Train it."""
        from segue.experiments.vision.train import train_source

        return train_source(self, context)


@dataclass(frozen=True)
class AdaptationConfig:
    """Adapt a domain model, or the checkpoint, to a target domain with one method.

    Attributes:
        shift: Source → target pair.
        network: What is trained.
        source: The run that trains the domain model of the same seed; None from the checkpoint.
        method: What happens at the switch.
        seed: Redraws the domain model, the target subset and the order, the same for every method. The
            checkpoint is one and the same.
        num_target_examples: Size of the target's training set.
        num_target_steps: Optimizer steps after the switch.
        batch_size: Target examples per step.
        optimizer: Optimizer of the adaptation.
        batch_norm: Policy for the source forward, see :mod:`segue.batchnorm`.
        split: ``validation`` while choosing settings, ``test`` for verdicts.
        num_curve_examples: Test examples per point of the accuracy curves.
    """

    shift: ShiftConfig
    network: NetworkConfig
    source: SourceConfig | None
    method: MethodConfig
    seed: int
    num_target_examples: int
    num_target_steps: int
    batch_size: int = 32
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    batch_norm: BatchNormPolicy = "shared"
    split: Split = "test"
    num_curve_examples: int = 256

    family: ClassVar[str] = "vision"
    kind: ClassVar[str] = "target"

    def __post_init__(self) -> None:
        if self.split not in get_args(Split):
            raise ValueError(unknown_name("split", self.split, get_args(Split)))
        check_count("seed", self.seed)
        for name in ("num_target_examples", "num_target_steps", "batch_size"):
            check_at_least_one(name, getattr(self, name))
        if self.num_target_examples < self.batch_size:
            raise ValueError(
                f"num_target_examples must be >= batch_size ({self.batch_size}), "
                f"got {self.num_target_examples}"
            )
        if self.shift.from_checkpoint:
            self._check_without_source()
        elif self.source is None:
            raise ValueError(f"source must be the run of {self.shift.source}, got None")
        else:
            self._check_source(self.source)

    def _check_without_source(self) -> None:
        if self.source is not None:
            raise ValueError(f"source must be None for {self.shift.name}, got a run")
        if self.method.needs_source_data or self.method.needs_fisher:
            raise ValueError(
                f"method must need no source data for {self.shift.name}, got {self.method.name!r}"
            )
        if self.method.initialization == "source":
            raise ValueError(
                f"initialization must be 'fresh_head' for {self.shift.name}: the checkpoint has no "
                "head for the target's classes; got 'source'"
            )

    def _check_source(self, source: SourceConfig) -> None:
        for name, mine, its in (
            ("seed", self.seed, source.seed),
            ("network", self.network, source.network),
            ("shift", (self.shift.dataset, self.shift.source), (source.dataset, source.domain)),
        ):
            if mine != its:
                raise ValueError(f"{name} must be the source's ({its}), got {mine}")

    def requires(self) -> tuple[RunConfig, ...]:
        """The domain model."""
        return () if self.source is None else (self.source,)

    def cost(self) -> float:
        """Examples that pass forward and backward; a teacher's forward counts a third."""
        method, steps = self.method, self.num_target_steps
        num_examples = float(steps * self.batch_size)
        ramp = min(method.schedule.num_smoothing_steps or steps, steps) if method.ramps else 0
        if method.needs_source_data:
            num_examples += ramp * method.replay_batch_size
        elif method.ramps and method.source_term in ("logits", "features"):
            num_examples += ramp * self.batch_size / 3
        if method.penalty == "logits":
            num_examples += steps * self.batch_size / 3
        return num_examples

    def execute(self, context: RunContext) -> RunResult:
        """Run the adaptation."""
        from segue.experiments.vision.train import adapt

        return adapt(self, context)
