"""Settings of TD3; needs no jax, so that a grid of runs can be listed without it."""

from __future__ import annotations

from dataclasses import dataclass

from segue.checks import check_at_least_one, check_not_negative, check_positive, check_share

__all__ = ["TD3Config"]


@dataclass(frozen=True)
class TD3Config:
    """Settings of the learner; the defaults are the papers'.

    Attributes:
        hidden_widths: Of actor and critics alike.
        layer_norm_critic: Normalise the critics' hidden layers.
        batch_size: Transitions per loss and update.
        discount: γ per environment step.
        target_update_rate: τ, the weight of the *new* parameters in the target networks.
        policy_noise: Standard deviation of the target policy's noise, as a share of the action range.
        noise_clip: Bound of that noise.
        policy_delay: Critic updates per actor update.
        actor_learning_rate: Of Adam.
        critic_learning_rate: Of Adam.
        alpha: Weight of the value in the actor's loss, against the behaviour-cloning term's 1.
        divide_by_mean_q: Divide the actor's value term by mean |Q| (detached) in both losses. Without
            it the online loss swamps the blend.
    """

    hidden_widths: tuple[int, ...] = (256, 256)
    layer_norm_critic: bool = False
    batch_size: int = 256
    discount: float = 0.99
    target_update_rate: float = 0.005
    policy_noise: float = 0.2
    noise_clip: float = 0.5
    policy_delay: int = 2
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    alpha: float = 2.5
    divide_by_mean_q: bool = True

    def __post_init__(self) -> None:
        if not self.hidden_widths:
            raise ValueError("hidden_widths must name at least one layer, got none")
        for width in self.hidden_widths:
            check_at_least_one("hidden_widths", width)
        for name in ("batch_size", "policy_delay"):
            check_at_least_one(name, getattr(self, name))
        for name in ("discount", "target_update_rate"):
            check_share(name, getattr(self, name), 1.0)
        for name in ("policy_noise", "noise_clip"):
            check_not_negative(name, getattr(self, name))
        for name in ("actor_learning_rate", "critic_learning_rate", "alpha"):
            check_positive(name, getattr(self, name))
