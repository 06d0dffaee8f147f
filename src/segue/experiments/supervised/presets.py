"""Presets of the supervised family: which grids ``segue run supervised`` and the demo execute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from segue.analysis.selection import choose_settings
from segue.experiments.families import Phase, Preset
from segue.experiments.supervised.config import AdaptationConfig, OptimizerConfig, SourceConfig
from segue.experiments.supervised.methods import MethodConfig, ScheduleConfig, make_method
from segue.experiments.supervised.models import ResNetConfig
from segue.experiments.supervised.shifts import SHIFTS, ShiftConfig
from segue.runs.grid import RunConfig, run_id
from segue.runs.records import Record

__all__ = ["PRESETS"]

FRESH_SEEDS = tuple(range(10))
"""Seeds of the verdicts; nothing is chosen on them."""
TUNING_SEEDS = (1000, 1001)
"""Seeds on which learning rates and the best baseline are chosen, by validation accuracy."""


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
            augment=self.augment,
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


_DIGITS = Setting(
    dataset="digits",
    model=_DIGITS_MODEL,
    num_source_steps={"all": 300},
    num_target_examples=100,
    num_target_steps=160,
    num_smoothing_steps=40,
    batch_size=32,
    augment=False,
)


def _grid(
    setting: Setting,
    shifts: Iterable[str],
    methods: Iterable[str],
    seeds: Iterable[int],
    learning_rate: float,
) -> list[RunConfig]:
    return [
        setting.adaptation(shift, method, seed, learning_rate)
        for seed in seeds
        for shift in shifts
        for method in methods
    ]


PRESETS: dict[str, Preset] = {}
