"""What a comparison holds fixed: the settings of the presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from segue.experiments.supervised.config import AdaptationConfig, OptimizerConfig, SourceConfig
from segue.experiments.supervised.methods import MethodConfig, make_method
from segue.experiments.supervised.models import ResNetConfig, resnet18
from segue.experiments.supervised.shifts import SHIFTS, ShiftConfig

__all__ = ["DIGITS", "LONG", "PAPER", "QUICK", "SHORT", "Setting"]


@dataclass(frozen=True)
class Setting:
    """What a comparison holds fixed: data, network, budget and the share of it that is smoothed."""

    dataset: str
    model: ResNetConfig
    num_source_steps: dict[str, int]
    num_target_examples: int
    num_target_steps: int
    num_smoothing_steps: int
    batch_size: int = 64
    source_learning_rate: float = 0.1
    augment: bool = True

    def adaptation(
        self, shift: str, method: str | MethodConfig, seed: int, learning_rate: float, **other: Any
    ) -> AdaptationConfig:
        """One run; ``other`` overrides fields of the configuration."""
        if isinstance(method, str):
            method = make_method(
                method,
                num_smoothing_steps=self.num_smoothing_steps,
                num_target_steps=self.num_target_steps,
            )
        task = SHIFTS[shift].source_task
        source = SourceConfig(
            dataset=self.dataset,  # type: ignore[arg-type]
            source_task=task,
            model=other.pop("model", self.model),
            seed=seed,
            num_training_steps=self.num_source_steps.get(task, self.num_source_steps["all"]),
            batch_size=self.batch_size,
            optimizer=OptimizerConfig(learning_rate=self.source_learning_rate),
            augment=self.augment and task != "random_labels",  # what is memorised must recur
        )
        settings: dict[str, Any] = {
            "num_target_examples": self.num_target_examples,
            "num_target_steps": self.num_target_steps,
            "batch_size": self.batch_size,
            "optimizer": OptimizerConfig(learning_rate=learning_rate),
            **other,
        }
        return AdaptationConfig(
            shift=ShiftConfig(shift), source=source, method=method, seed=seed, **settings
        )


_CIFAR_MODEL = ResNetConfig(
    in_channels=3,
    num_classes=10,
    widths=(40, 80, 160),
    stem_width=24,
    stem_stride=2,
    first_stride=2,
    norm="group",
)
_DIGITS_MODEL = ResNetConfig(
    in_channels=1, num_classes=10, widths=(16, 32), stem_width=8, stem_stride=1, first_stride=2
)


DIGITS = Setting(
    dataset="digits",
    model=_DIGITS_MODEL,
    num_source_steps={"all": 200},
    num_target_examples=100,
    num_target_steps=120,
    num_smoothing_steps=30,
    batch_size=32,
    augment=False,
)
QUICK = Setting(
    dataset="cifar10",
    model=_CIFAR_MODEL,
    num_source_steps={"all": 600, "first_half_classes": 400},
    num_target_examples=1_000,
    num_target_steps=120,
    num_smoothing_steps=30,
)
_SOURCE_STEPS = {
    "all": 5_000,
    "first_half_classes": 2_500,
    "random_labels": 2_000,
    "half_data": 4_500,
}
SHORT = Setting(
    dataset="cifar10",
    model=_CIFAR_MODEL,
    num_source_steps=_SOURCE_STEPS,
    num_target_examples=1_000,
    num_target_steps=300,
    num_smoothing_steps=75,
)
"""1,000 target examples, 300 steps, K = a quarter of them."""
LONG = replace(SHORT, num_target_examples=5_000, num_target_steps=1_200, num_smoothing_steps=300)
"""5,000 target examples, 1,200 steps, K = a quarter of them."""
PAPER = replace(
    LONG,
    model=resnet18(),
    num_source_steps={"all": 35_000},
    num_target_examples=5_000,
    num_target_steps=8_000,
    num_smoothing_steps=2_000,
    batch_size=128,
)
