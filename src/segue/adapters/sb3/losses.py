"""What the agent was trained on offline: the source losses of actor and critic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from segue.checks import check_positive

__all__ = ["SACBC", "TD3BC", "SourceLosses"]

Batch = Mapping[str, Tensor]


class SourceLosses(Protocol):
    """The offline objective, evaluated on an offline batch with the agent's networks.

    ``batch`` has the keys of :data:`segue.adapters.sb3.data.FIELDS`; rewards and terminations have
    shape (n, 1), actions lie in [-1, 1].
    """

    def critic_loss(self, model: Any, batch: Batch) -> Tensor:
        """The critic's offline loss, a scalar."""
        ...

    def actor_loss(self, model: Any, batch: Batch) -> Tensor:
        """The actor's offline loss, a scalar."""
        ...


class TD3BC:
    r"""TD3+BC: the critic's loss of TD3, and an actor that stays near the data's actions.

    The actor's loss is :math:`-\bar Q + \tfrac{1}{\alpha} \overline{|Q|}\,\lVert\pi(s)-a\rVert^2`, the
    published one times :math:`\overline{|Q|}/\alpha` (detached). The online loss of TD3,
    :math:`-\bar Q`, is in units of Q, and grows with it; in the published form, whose first term is
    always about α, it would swamp the offline loss in any mix of the two.

    Args:
        alpha: Positive and finite; the larger, the less the actor imitates.

    Source: TD3+BC, Fujimoto and Gu, arXiv 2106.06860.
    """

    def __init__(self, alpha: float = 2.5) -> None:
        self.alpha = check_positive("alpha", alpha)

    def critic_loss(self, model: Any, batch: Batch) -> Tensor:
        """The squared temporal-difference error of all critics."""
        with torch.no_grad():
            actions = batch["actions"]
            noise = torch.randn_like(actions) * model.target_policy_noise
            noise = noise.clamp(-model.target_noise_clip, model.target_noise_clip)
            following = (model.actor_target(batch["next_observations"]) + noise).clamp(-1, 1)
            values = torch.cat(model.critic_target(batch["next_observations"], following), dim=1)
            goal = _bootstrapped(model, batch, values.amin(dim=1, keepdim=True))
        return _squared_errors(model, batch, goal)

    def actor_loss(self, model: Any, batch: Batch) -> Tensor:
        """The value of the policy's actions, less their distance from the data's."""
        actions = model.actor(batch["observations"])
        values = model.critic.q1_forward(batch["observations"], actions)
        return _with_imitation(values, actions, batch["actions"], self.alpha)


class SACBC:
    r"""SAC with an imitation term: the offline counterpart of SAC, as TD3+BC is of TD3.

    The imitated action is the policy's mode. The entropy coefficient is not smoothed: the algorithm
    goes on tuning it online.

    Args:
        alpha: As for :class:`TD3BC`.
    """

    def __init__(self, alpha: float = 2.5) -> None:
        self.alpha = check_positive("alpha", alpha)

    def critic_loss(self, model: Any, batch: Batch) -> Tensor:
        """Half the squared soft temporal-difference error of all critics."""
        with torch.no_grad():
            following, log_prob = model.actor.action_log_prob(batch["next_observations"])
            values = torch.cat(model.critic_target(batch["next_observations"], following), dim=1)
            soft = values.amin(dim=1, keepdim=True) - _temperature(model) * log_prob.reshape(-1, 1)
            goal = _bootstrapped(model, batch, soft)
        return 0.5 * _squared_errors(model, batch, goal)

    def actor_loss(self, model: Any, batch: Batch) -> Tensor:
        """The soft value of the policy's actions, less their distance from the data's."""
        sampled, log_prob = model.actor.action_log_prob(batch["observations"])
        values = torch.cat(model.critic(batch["observations"], sampled), dim=1)
        mode = model.actor(batch["observations"], deterministic=True)
        value = values.amin(dim=1, keepdim=True)
        entropy: Tensor = _temperature(model) * log_prob.mean()
        return entropy + _with_imitation(value, mode, batch["actions"], self.alpha)


def _bootstrapped(model: Any, batch: Batch, values: Tensor) -> Tensor:
    goal: Tensor = batch["rewards"] + (1.0 - batch["terminations"]) * model.gamma * values
    return goal


def _squared_errors(model: Any, batch: Batch, goal: Tensor) -> Tensor:
    estimates = model.critic(batch["observations"], batch["actions"])
    return torch.stack([functional.mse_loss(estimate, goal) for estimate in estimates]).sum()


def _with_imitation(values: Tensor, actions: Tensor, data: Tensor, alpha: float) -> Tensor:
    scale = values.detach().abs().mean() / alpha
    return -values.mean() + scale * functional.mse_loss(actions, data)


def _temperature(model: Any) -> Tensor:
    if getattr(model, "log_ent_coef", None) is not None:
        temperature: Tensor = model.log_ent_coef.detach().exp()
        return temperature
    fixed: Tensor = model.ent_coef_tensor
    return fixed
