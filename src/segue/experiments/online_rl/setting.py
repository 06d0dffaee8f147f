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

__all__ = ["BRAX", "BRAX_RATES", "QUICK", "STANDARD", "Setting"]

_CATEGORICAL = PPOSettings(num_envs=8, num_rollout_steps=64)
# Episodes of 200 steps that never end by themselves: a short horizon, and no bonus for noise.
_PENDULUM = PPOSettings(
    num_envs=16, num_rollout_steps=64, num_epochs=8, discount=0.95, entropy_weight=0.0
)
# rejax's settings of Brax's tasks (sizes of a rollout that we do not know are hopper's; nine epochs
# there are ten here, so that half as many again are whole ones).
_HOPPER = PPOSettings(
    num_envs=32, num_rollout_steps=32, num_epochs=10, num_minibatches=2, discount=0.995,
    normalize_observations=True,
)  # fmt: skip
_CHEETAH = dataclasses.replace(_HOPPER, num_epochs=2, discount=0.99, gae_lambda=0.8)
_ANT = dataclasses.replace(
    _CHEETAH, num_envs=64, num_rollout_steps=64, num_epochs=8, num_minibatches=16, discount=0.98
)
_PPO_LEARNERS = {
    "CartPole": _CATEGORICAL, "Acrobot": _CATEGORICAL, "Pendulum": _PENDULUM, "brax/hopper": _HOPPER,
    "brax/halfcheetah": _CHEETAH, "brax/walker2d": _CHEETAH, "brax/ant": _ANT,
}  # fmt: skip
_TD3 = OnlineTD3Settings(learner=TD3Config((64, 64), batch_size=128, discount=0.95))
_TD3_HOPPER = OnlineTD3Settings(
    learner=TD3Config(
        (64, 64), batch_size=256, discount=0.995, target_update_rate=0.05, policy_noise=0.8,
        policy_delay=3,
    ),
    num_envs=128,
    num_rollout_steps=1,
    num_updates=128,
    buffer_capacity=2**20,
    num_random_env_steps=8_192,
    exploration_noise=0.5,
    period=1_280,
    max_gradient_element=2.0,
    normalize_observations=True,
)  # fmt: skip
_TD3_CHEETAH = dataclasses.replace(
    _TD3_HOPPER,
    learner=TD3Config(
        (64, 64), batch_size=512, discount=0.99, target_update_rate=0.01, policy_noise=0.8,
        noise_clip=0.6, policy_delay=1,
    ),
    exploration_noise=0.3,
    max_gradient_element=5.0,
)  # fmt: skip
_TD3_LEARNERS = {
    "Pendulum": _TD3, "brax/hopper": _TD3_HOPPER, "brax/walker2d": _TD3_HOPPER,
    "brax/halfcheetah": _TD3_CHEETAH,
}  # fmt: skip
_TD3_SWITCHES: dict[str, dict[str, Any]] = {
    "targets": {},
    "data": {"target_update": "average", "recent_share": 0.5},
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
                learner=dataclasses.replace(
                    _TD3_LEARNERS[task.environment], **_TD3_SWITCHES[task.switch]
                ),
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
BRAX_RATES = {
    "brax-hopper": 2.567e-4, "brax-halfcheetah": 1.72e-3, "brax-walker2d": 1.72e-3,
    "brax-ant": 1.084e-4, "td3-targets-brax-hopper": 1.879e-4, "td3-targets-brax-walker2d": 1.879e-4,
    "td3-targets-brax-halfcheetah": 1.199e-4,
}  # fmt: skip
"""rejax's learning rates of Brax's tasks."""
_MILLIONS = 5_242_880
BRAX = Setting(dict.fromkeys(_PPO_LEARNERS, _MILLIONS), _MILLIONS)
