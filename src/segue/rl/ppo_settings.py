"""Settings of the PPO learner; needs no jax, so that a grid of runs can be listed without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from segue.checks import (
    check_at_least_one,
    check_not_negative,
    check_positive,
    check_share,
    unknown_name,
)

__all__ = ["PPOSettings", "SourceAdvantages", "SourceTerm", "TaskChange"]

SourceTerm = Literal["previous_rollout", "current_rollout", "nothing"]
SourceAdvantages = Literal["stored", "recomputed"]


@dataclass(frozen=True)
class PPOSettings:
    """Settings of PPO.

    Attributes:
        num_envs: Environments stepped side by side.
        num_rollout_steps: Environment steps of each per iteration.
        num_epochs: Passes over an iteration's rollout.
        num_minibatches: Minibatches, and so updates, per epoch.
        discount: γ.
        gae_lambda: The λ of generalised advantage estimation (no source weight).
        clip_range: Clips the ratio of probabilities.
        value_clip_range: Also clips the change of the value, in units of the return; None does not.
        entropy_weight: Weight of the entropy bonus.
        value_weight: Weight of the value loss.
        max_gradient_global_norm: Gradients with a larger norm, taken over all parameters together,
            are scaled down to it. (Not a clip of each element.)
        hidden_sizes: Widths of the hidden layers of both networks.
        activation: ``tanh`` or ``swish``.
        normalize_observations: By running mean and variance of what was seen while acting, as of
            before the iteration.
        measure_churn: Measure how far each iteration moves policy and value.
    """

    num_envs: int = 16
    num_rollout_steps: int = 128
    num_epochs: int = 4
    num_minibatches: int = 4
    discount: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    value_clip_range: float | None = None
    entropy_weight: float = 0.01
    value_weight: float = 0.5
    max_gradient_global_norm: float = 0.5
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    measure_churn: bool = True
    normalize_observations: bool = field(default=False, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        for name in ("num_envs", "num_rollout_steps", "num_epochs", "num_minibatches"):
            check_at_least_one(name, getattr(self, name))
        for name in ("discount", "gae_lambda"):
            check_share(name, getattr(self, name), 1.0)
        for name in ("clip_range", "max_gradient_global_norm"):
            check_positive(name, getattr(self, name))
        if self.value_clip_range is not None:
            check_positive("value_clip_range", self.value_clip_range)
        for name in ("entropy_weight", "value_weight"):
            check_not_negative(name, getattr(self, name))
        if self.num_examples % self.num_minibatches:
            raise ValueError(
                f"num_minibatches must divide num_envs * num_rollout_steps ({self.num_examples}), "
                f"got {self.num_minibatches}"
            )
        if self.activation not in ("tanh", "swish"):
            raise ValueError(unknown_name("activation", self.activation, ("tanh", "swish")))

    @property
    def num_examples(self) -> int:
        """Environment steps of an iteration, over all environments."""
        return self.num_envs * self.num_rollout_steps

    @property
    def num_updates(self) -> int:
        """Optimizer steps of an iteration."""
        return self.num_epochs * self.num_minibatches


@dataclass(frozen=True)
class TaskChange:
    """A changing task: from ``iteration`` on, these constants of the environment are others."""

    iteration: int
    constants: Mapping[str, float]
