"""What a comparison holds fixed: the learner and the budget of every task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segue.experiments.online_rl.config import (
    SHIFTS,
    OnlineConfig,
    PPOConfig,
    ShiftConfig,
    Split,
    TD3OnlineConfig,
)
from segue.experiments.online_rl.methods import make_method
from segue.experiments.online_rl.td3_methods import make_td3_method
from segue.rl.ppo_settings import PPOSettings
from segue.rl.td3_online_settings import OnlineTD3Settings
from segue.rl.td3_settings import TD3Config

__all__ = ["QUICK", "STANDARD", "Setting"]

_CATEGORICAL = PPOSettings(num_envs=8, num_rollout_steps=64)
# Episodes of 200 steps that never end by themselves: a short horizon, and no bonus for noise.
_PENDULUM = PPOSettings(
    num_envs=16, num_rollout_steps=64, num_epochs=8, discount=0.95, entropy_weight=0.0
)
# rejax's settings of brax/hopper, with one epoch more for whole epochs in the controls.
_HOPPER = PPOSettings(
    num_envs=32, num_rollout_steps=32, num_epochs=10, num_minibatches=2, discount=0.995,
    normalize_observations=True,
)  # fmt: skip
_PPO_LEARNERS = {
    "CartPole": _CATEGORICAL, "Acrobot": _CATEGORICAL, "Pendulum": _PENDULUM, "brax/hopper": _HOPPER,
}  # fmt: skip
_TD3 = OnlineTD3Settings(learner=TD3Config((64, 64), batch_size=128, discount=0.95))
_TD3_LEARNERS = {
    "targets": _TD3,
    "data": dataclasses.replace(_TD3, target_update="average", recent_share=0.5),
}


@dataclass(frozen=True)
class Setting:
    """Budgets of a comparison.

    Attributes:
        num_env_steps: Of PPO, by environment; a changing task gets twice as many, half of them after.
        num_td3_env_steps: Of TD3, likewise.
        num_evaluations: See :class:`.OnlineConfig`.
        num_episodes: See there.
    """

    num_env_steps: Mapping[str, int]
    num_td3_env_steps: int
    num_evaluations: int = 20
    num_episodes: int = 16

    def run(
        self, shift: str, method: str, seed: int, learning_rate: float, *, split: Split = "test"
    ) -> OnlineConfig:
        """One run."""
        task, config = SHIFTS[shift], ShiftConfig(shift)
        factor = 2 if task.changes else 1
        common: dict[str, Any] = {
            "shift": config,
            "seed": seed,
            "learning_rate": learning_rate,
            "num_evaluations": self.num_evaluations,
            "num_episodes": self.num_episodes,
            "split": split,
        }
        if task.learner == "td3":
            return TD3OnlineConfig(
                method=make_td3_method(method, task.switch),
                learner=_TD3_LEARNERS[task.switch],
                num_env_steps=factor * self.num_td3_env_steps,
                **common,
            )
        return PPOConfig(
            method=make_method(method),
            learner=_PPO_LEARNERS[task.environment],
            num_env_steps=factor * self.num_env_steps[task.environment],
            **common,
        )


STANDARD = Setting(
    {"CartPole": 49_152, "Acrobot": 49_152, "Pendulum": 81_920, "brax/hopper": 131_072}, 12_288
)
QUICK = Setting(
    {"CartPole": 12_288, "Acrobot": 12_288, "Pendulum": 20_480, "brax/hopper": 8_192}, 4_096, 8, 8
)
