"""What a comparison holds fixed: the settings of the presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from segue.experiments.offline_to_online.config import OfflineConfig, OnlineConfig, ShiftConfig
from segue.experiments.offline_to_online.methods import MethodConfig, make_method
from segue.rl.td3 import TD3Config

__all__ = ["LARGE", "QUICK", "STANDARD", "Setting"]


@dataclass(frozen=True)
class Setting:
    """Networks, sizes and budgets of a comparison.

    Attributes:
        learner: Of both phases; the critics' normalisation is the method's.
        num_transitions: Of each data set.
        min_offline_updates: Before a plateau is looked for.
        max_offline_updates: At most.
        num_updates_per_evaluation: In the offline phase.
        num_env_steps: After the switch: three K past a ramp of K; a ramp of 2 K, or one that waits for
            K first, leaves 2 K, and a floor that is released leaves one.
        num_smoothing_steps: K in updates, of which there is one per environment step.
        num_episodes: Of an evaluation.
        num_episodes_at_switch: Of S₀.
    """

    learner: TD3Config
    num_transitions: int
    min_offline_updates: int
    max_offline_updates: int
    num_updates_per_evaluation: int
    num_env_steps: int
    num_smoothing_steps: int
    num_episodes: int = 10
    num_episodes_at_switch: int = 30

    def online(
        self, shift: str, method: str | MethodConfig, seed: int, **other: Any
    ) -> OnlineConfig:
        """One run; ``other`` overrides fields of the configuration."""
        if isinstance(method, str):
            method = make_method(method, num_smoothing_steps=self.num_smoothing_steps)
        data = ShiftConfig(shift, self.num_transitions)
        source = OfflineConfig(
            shift=data,
            learner=replace(self.learner, layer_norm_critic=method.layer_norm_critic),
            seed=seed,
            num_updates_per_evaluation=self.num_updates_per_evaluation,
            min_updates=self.min_offline_updates,
            max_updates=self.max_offline_updates,
            num_episodes=self.num_episodes,
        )
        settings: dict[str, Any] = {
            "num_env_steps": self.num_env_steps,
            "num_episodes": self.num_episodes,
            "num_episodes_at_switch": self.num_episodes_at_switch,
            **other,
        }
        return OnlineConfig(shift=data, source=source, method=method, seed=seed, **settings)


_SMALL = TD3Config(hidden_widths=(64, 64))

QUICK = Setting(
    learner=_SMALL,
    num_transitions=20_000,
    min_offline_updates=5_000,
    max_offline_updates=5_000,
    num_updates_per_evaluation=2_500,
    num_env_steps=6_000,
    num_smoothing_steps=1_500,
    num_episodes=3,
    num_episodes_at_switch=5,
)
"""For a first look within three minutes; no verdicts."""
STANDARD = Setting(
    learner=_SMALL,
    num_transitions=100_000,
    min_offline_updates=30_000,
    max_offline_updates=60_000,
    num_updates_per_evaluation=5_000,
    num_env_steps=40_000,
    num_smoothing_steps=10_000,
)
"""64 × 64 networks, 40,000 environment steps, K a quarter of them."""
LONGER_OFFLINE = replace(STANDARD, min_offline_updates=200_000, max_offline_updates=200_000)
"""Critics go on learning long after the returns have stopped rising: the discount's horizon of 100 steps
and a target update rate of 0.005 ask for many tens of thousands of updates before values are right."""
LARGE = replace(STANDARD, learner=TD3Config(hidden_widths=(256, 256)))
"""The papers' networks."""
