"""Settings of TD3 from scratch; needs no jax, so that a grid of runs can be listed without it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from segue.checks import (
    check_at_least_one,
    check_count,
    check_not_negative,
    check_positive,
    check_share,
    unknown_name,
)
from segue.rl.td3_settings import TD3Config

__all__ = ["OnlineTD3Settings", "TD3SourceTerm", "TargetUpdate"]

TargetUpdate = Literal["average", "hard"]
TD3SourceTerm = Literal["lagged_targets", "older_slice", "second_batch", "nothing"]


@dataclass(frozen=True)
class OnlineTD3Settings:
    """Settings of TD3 that acts and learns in turn.

    Attributes:
        learner: Losses and networks; its learning rates are not used (one is given with the state).
        num_envs: Environments stepped side by side.
        num_rollout_steps: Environment steps of each per iteration.
        num_updates: Critic updates per iteration.
        buffer_capacity: Transitions kept; a multiple of an iteration's.
        num_random_env_steps: Environment steps with random actions first, without updates; rounded up
            to whole iterations.
        exploration_noise: Standard deviation, as a share of half the action range.
        target_update: ``average`` moves the target networks a little at every actor update (TD3's
            way); ``hard`` replaces them after every ``period`` updates.
        period: Critic updates of a phase. At its start hard targets are replaced, and the older slice
            of the buffer ends where the newer one begins.
        lag: How many hard updates the source's targets lie behind.
        recent_share: Share of the buffer, at the start of a phase, whose transitions the target's
            batches are drawn from, together with what has come since; 1 is the whole buffer.
        max_gradient_element: Each *element* of a gradient is cut to ± this bound, which bends the
            gradient's direction (rejax calls it ``max_grad_norm``); None does not.
        normalize_observations: By running mean and variance of what was seen while acting.
        measure_churn: Measure how far each iteration moves policy and value.
    """

    learner: TD3Config = field(default_factory=lambda: TD3Config((64, 64), batch_size=128))
    num_envs: int = 8
    num_rollout_steps: int = 8
    num_updates: int = 64
    buffer_capacity: int = 65_536
    num_random_env_steps: int = 1_024
    exploration_noise: float = 0.1
    target_update: TargetUpdate = "hard"
    period: int = 256
    lag: int = 1
    recent_share: float = 1.0
    max_gradient_element: float | None = field(default=None, metadata={"omit_default": True})
    normalize_observations: bool = False
    measure_churn: bool = True

    def __post_init__(self) -> None:
        for name in ("num_envs", "num_rollout_steps", "num_updates", "period", "lag"):
            check_at_least_one(name, getattr(self, name))
        check_count("num_random_env_steps", self.num_random_env_steps)
        check_not_negative("exploration_noise", self.exploration_noise)
        if self.max_gradient_element is not None:
            check_positive("max_gradient_element", self.max_gradient_element)
        if self.target_update not in get_args(TargetUpdate):
            known = get_args(TargetUpdate)
            raise ValueError(unknown_name("target_update", self.target_update, known))
        if check_share("recent_share", self.recent_share, 1.0) == 0.0:
            raise ValueError("recent_share must be > 0, got 0.0")
        if self.buffer_capacity < 1 or self.buffer_capacity % self.num_examples:
            raise ValueError(
                "buffer_capacity must be a multiple of num_envs * num_rollout_steps "
                f"({self.num_examples}), got {self.buffer_capacity}"
            )

    @property
    def num_examples(self) -> int:
        """Environment steps of an iteration, over all environments."""
        return self.num_envs * self.num_rollout_steps

    @property
    def num_random_iterations(self) -> int:
        """Iterations without updates; at least one, so that there is something to learn from."""
        return max(1, -(-self.num_random_env_steps // self.num_examples))
