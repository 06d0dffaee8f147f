"""What a comparison holds fixed: the settings of the presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from segue.experiments.language.config import (
    FineTuningConfig,
    OptimizerConfig,
    PretrainingConfig,
    ShiftConfig,
)
from segue.experiments.language.methods import MethodConfig, make_method
from segue.experiments.language.models import ModelConfig

__all__ = ["JUDGED", "QUICK", "STANDARD", "Setting"]


@dataclass(frozen=True)
class Setting:
    """What a comparison holds fixed: model, pretraining budgets, fine-tuning length and its ramp."""

    model: ModelConfig
    budgets: tuple[int, ...]
    num_target_steps: int
    num_smoothing_steps: int

    def fine_tuning(
        self,
        target: str,
        budget: int,
        method: str | MethodConfig,
        seed: int,
        learning_rate: float,
        **other: Any,
    ) -> FineTuningConfig:
        """One run; ``other`` overrides fields of the configuration."""
        if isinstance(method, str):
            method = make_method(method, num_smoothing_steps=self.num_smoothing_steps)
        settings: dict[str, Any] = {
            "num_target_steps": self.num_target_steps,
            "optimizer": OptimizerConfig(learning_rate=learning_rate),
            **other,
        }
        return FineTuningConfig(
            shift=ShiftConfig(target),
            source=PretrainingConfig(self.model, seed, self.budgets),
            num_pretraining_steps=budget,
            method=method,
            seed=seed,
            **settings,
        )


STANDARD = Setting(
    model=ModelConfig(),
    budgets=(32, 64, 129, 258, 516, 1032, 2064),
    num_target_steps=100,
    num_smoothing_steps=25,
)
"""Budgets of 1/8 to 8 passes over the source text (a pass is 258 steps of 16 sequences of 192
tokens), each twice the one before; K is a quarter of the fine-tuning."""
QUICK = replace(STANDARD, budgets=(32, 129), num_target_steps=24, num_smoothing_steps=6)
JUDGED = replace(STANDARD, budgets=(258,))
"""One pass over the source text: whose answers are compared by the judge."""
