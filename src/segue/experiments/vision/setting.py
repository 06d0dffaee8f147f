"""What a comparison holds fixed: the settings of the presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from segue.experiments.vision.config import (
    AdaptationConfig,
    OptimizerConfig,
    ShiftConfig,
    SourceConfig,
)
from segue.experiments.vision.methods import MethodConfig, make_method
from segue.experiments.vision.models import NetworkConfig

__all__ = ["DOMAINNET", "FROZEN", "FULL", "QUICK", "Setting"]


@dataclass(frozen=True)
class Setting:
    """What a comparison holds fixed: data, network, budget and the share of it that is smoothed."""

    dataset: str
    network: NetworkConfig
    num_source_steps: int
    num_target_examples: int
    num_target_steps: int
    num_smoothing_steps: int
    batch_size: int = 32
    source_learning_rate: float = 0.02
    num_fisher_samples: int | None = None

    def adaptation(
        self,
        shift: str,
        method: str | MethodConfig,
        seed: int,
        learning_rate: float,
        *,
        scale: float = 1.0,
        **other: Any,
    ) -> AdaptationConfig:
        """One run; ``other`` overrides fields of the configuration."""
        if isinstance(method, str):
            method = make_method(
                method,
                num_smoothing_steps=self.num_smoothing_steps,
                num_target_steps=self.num_target_steps,
                scale=scale,
            )
        pair = ShiftConfig(shift, self.dataset)
        network = other.pop("network", self.network)
        source = None
        if pair.from_checkpoint:
            method = replace(method, initialization="fresh_head")
        else:
            source = SourceConfig(
                dataset=self.dataset,
                domain=pair.source,
                network=network,
                seed=seed,
                num_training_steps=self.num_source_steps,
                batch_size=self.batch_size,
                optimizer=OptimizerConfig(learning_rate=self.source_learning_rate),
                num_fisher_samples=self.num_fisher_samples,
            )
        settings: dict[str, Any] = {
            "num_target_examples": self.num_target_examples,
            "num_target_steps": self.num_target_steps,
            "batch_size": self.batch_size,
            "optimizer": OptimizerConfig(learning_rate=learning_rate),
            **other,
        }
        return AdaptationConfig(
            shift=pair, network=network, source=source, method=method, seed=seed, **settings
        )


FROZEN = Setting(
    dataset="pacs",
    network=NetworkConfig(),
    num_source_steps=100,
    num_target_examples=100,
    num_target_steps=80,
    num_smoothing_steps=20,
)
"""PACS, blocks 0 to 10 frozen, 100 target examples, K = a quarter of the steps."""
FULL = replace(FROZEN, network=NetworkConfig(trained="all"))
"""The same with everything trained, five times as dear."""
QUICK = replace(FROZEN, num_source_steps=30, num_target_steps=24, num_smoothing_steps=6)
DOMAINNET = Setting(
    dataset="domainnet",
    network=NetworkConfig(image_size=224, num_classes=345, trained="all"),
    num_source_steps=20_000,
    num_target_examples=5_000,
    num_target_steps=4_000,
    num_smoothing_steps=1_000,
    batch_size=64,
    num_fisher_samples=8,
)
"""DomainNet at full size: for a GPU."""
