"""Returns of a policy, in an environment of its own, apart from those of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from segue.checks import check_at_least_one
from segue.rl.networks import act
from segue.rl.preprocessing import Preprocessing

__all__ = ["Evaluation", "evaluate", "evaluation_seeds"]


@dataclass(frozen=True)
class Evaluation:
    """What episodes without exploration noise gave, in their order.

    Attributes:
        returns: Undiscounted, of each episode.
        discounted_returns: From the first observation, which the critic's value is compared with.
        lengths: Environment steps of each episode.
        first_observations: Preprocessed, shape (episodes, num_observations).
        saturated_share: Share of action components beyond 0.99 of their range.
    """

    returns: np.ndarray
    discounted_returns: np.ndarray
    lengths: np.ndarray
    first_observations: np.ndarray
    saturated_share: float

    @property
    def mean_return(self) -> float:
        """Mean of the undiscounted returns."""
        return float(self.returns.mean())


def evaluation_seeds(seed: int, num_episodes: int) -> list[int]:
    """Seeds of evaluation episodes: the same at every evaluation of a run, others for other runs."""
    check_at_least_one("num_episodes", num_episodes)
    draw = np.random.default_rng([seed, 2])
    return [int(value) for value in draw.integers(0, 2**31 - 1, num_episodes)]


def evaluate(
    env: gymnasium.Env[Any, Any],
    preprocessing: Preprocessing,
    actor: Any,
    seeds: Sequence[int],
    *,
    discount: float = 0.99,
) -> Evaluation:
    """Run one episode per seed with the deterministic policy.

    Args:
        env: Not the one that training uses: it is reset.
        preprocessing: The run's.
        actor: Parameters as NumPy arrays, see :func:`segue.rl.networks.to_numpy`.
        seeds: Of the episodes' first states.
        discount: For the discounted returns.
    """
    returns, discounted, lengths, first, num_saturated, num_components = [], [], [], [], 0, 0
    for seed in seeds:
        observation, _ = env.reset(seed=seed)
        first.append(preprocessing.observations(observation))
        total, value, factor, length, ended = 0.0, 0.0, 1.0, 0, False
        while not ended:
            scaled = act(actor, preprocessing.observations(observation))
            num_saturated += int((np.abs(scaled) > 0.99).sum())
            num_components += scaled.size
            action = preprocessing.raw_actions(scaled)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            value += factor * float(reward)
            factor *= discount
            length += 1
            ended = terminated or truncated
        returns.append(total)
        discounted.append(value)
        lengths.append(length)
    return Evaluation(
        np.array(returns), np.array(discounted), np.array(lengths), np.stack(first),
        num_saturated / num_components,
    )  # fmt: skip
