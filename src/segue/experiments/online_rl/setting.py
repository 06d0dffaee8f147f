"""What a comparison holds fixed: the learner and the budget of every task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from segue.experiments.online_rl.config import SHIFTS, OnlineConfig, ShiftConfig, Split
from segue.experiments.online_rl.methods import make_method
from segue.rl.ppo_settings import PPOSettings

__all__ = ["QUICK", "STANDARD", "Setting"]

_CATEGORICAL = PPOSettings(num_envs=8, num_rollout_steps=64)
# Episodes of 200 steps that never end by themselves: a short horizon, and no bonus for noise.
_PENDULUM = PPOSettings(
    num_envs=16, num_rollout_steps=64, num_epochs=8, discount=0.95, entropy_weight=0.0
)
_LEARNERS = {"CartPole": _CATEGORICAL, "Acrobot": _CATEGORICAL, "Pendulum": _PENDULUM}


@dataclass(frozen=True)
class Setting:
    """Budgets of a comparison.

    Attributes:
        num_env_steps: By environment; a changing task gets twice as many, half of them after.
        num_evaluations: See :class:`.OnlineConfig`.
        num_episodes: See there.
    """

    num_env_steps: Mapping[str, int]
    num_evaluations: int = 20
    num_episodes: int = 16

    def run(
        self, shift: str, method: str, seed: int, learning_rate: float, *, split: Split = "test"
    ) -> OnlineConfig:
        """One run."""
        config = ShiftConfig(shift)
        environment = SHIFTS[shift].environment
        factor = 2 if SHIFTS[shift].changes else 1
        return OnlineConfig(
            config,
            make_method(method),
            seed,
            learning_rate,
            factor * self.num_env_steps[environment],
            _LEARNERS[environment],
            self.num_evaluations,
            self.num_episodes,
            split,
        )


STANDARD = Setting({"CartPole": 49_152, "Acrobot": 49_152, "Pendulum": 81_920})
QUICK = Setting({"CartPole": 12_288, "Acrobot": 12_288, "Pendulum": 20_480}, 8, 8)
