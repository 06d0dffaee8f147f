"""One object that the data set, the environment and the evaluation all go through.

Data that are normalised one way offline and another way online are a silent fall at the switch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["STD_OFFSET", "Preprocessing", "fit_preprocessing"]

STD_OFFSET = 1e-3
"""Added to the standard deviation of every observation (TD3+BC, arXiv 2106.06860)."""


@dataclass(frozen=True)
class Preprocessing:
    """Standardises observations and maps actions between the environment's range and [-1, 1].

    Attributes:
        observation_mean: Shape (num_observations,), float32.
        observation_std: Divisor, already with :data:`STD_OFFSET`; same shape.
        action_low: Lower bound of the environment's actions, shape (num_actions,).
        action_high: Upper bound.
    """

    observation_mean: np.ndarray
    observation_std: np.ndarray
    action_low: np.ndarray
    action_high: np.ndarray

    def __post_init__(self) -> None:
        for name in ("observation_mean", "observation_std", "action_low", "action_high"):
            value = np.array(getattr(self, name), np.float32)
            if value.ndim != 1 or not np.isfinite(value).all():
                raise ValueError(f"{name} must be a finite vector, got {getattr(self, name)!r}")
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        _check_same_length(self, "observation_mean", "observation_std")
        _check_same_length(self, "action_low", "action_high")
        if (self.observation_std <= 0.0).any():
            raise ValueError(f"observation_std must be positive, got {self.observation_std!r}")
        if (self.action_low >= self.action_high).any():
            raise ValueError(
                f"action_low must be < action_high, got {self.action_low!r}, {self.action_high!r}"
            )

    @property
    def num_observations(self) -> int:
        """Dimensions of an observation."""
        return len(self.observation_mean)

    @property
    def num_actions(self) -> int:
        """Dimensions of an action."""
        return len(self.action_low)

    def observations(self, raw: np.ndarray) -> np.ndarray:
        """Standardise raw observations of shape (..., num_observations); float32."""
        raw = np.asarray(raw, np.float32)
        scaled: np.ndarray = (raw - self.observation_mean) / self.observation_std
        return scaled

    def scaled_actions(self, raw: np.ndarray) -> np.ndarray:
        """Map the environment's actions (..., num_actions) to [-1, 1]; float32."""
        raw = np.asarray(raw, np.float32)
        scaled: np.ndarray = (raw - self._center) / self._half_range
        return scaled

    def raw_actions(self, scaled: np.ndarray) -> np.ndarray:
        """Map actions in [-1, 1] to the environment's range; float32."""
        scaled = np.asarray(scaled, np.float32)
        raw: np.ndarray = np.clip(
            scaled * self._half_range + self._center, self.action_low, self.action_high
        )
        return raw

    @property
    def _center(self) -> np.ndarray:
        center: np.ndarray = np.float32(0.5) * (self.action_high + self.action_low)
        return center

    @property
    def _half_range(self) -> np.ndarray:
        half: np.ndarray = np.float32(0.5) * (self.action_high - self.action_low)
        return half

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a checkpoint holds of it."""
        return {
            name: torch.from_numpy(np.array(getattr(self, name)))
            for name in ("observation_mean", "observation_std", "action_low", "action_high")
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Preprocessing:
        """Rebuild it from :meth:`state_dict`, bit for bit."""
        return cls(**{name: np.asarray(value) for name, value in state.items()})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Preprocessing):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in self.state_dict()
        )

    __hash__ = None  # type: ignore[assignment]


def fit_preprocessing(
    observations: np.ndarray,
    action_low: np.ndarray,
    action_high: np.ndarray,
    *,
    standardise: bool = True,
) -> Preprocessing:
    """Fit the preprocessing to the observations of a data set.

    Args:
        observations: Raw, shape (N, num_observations).
        action_low: Of the environment's action space; finite.
        action_high: Of the environment's action space; finite.
        standardise: False leaves observations as they are, for training from scratch.

    >>> fitted = fit_preprocessing(np.array([[1.0], [3.0]]), np.array([-2.0]), np.array([2.0]))
    >>> fitted.observations(np.array([3.0])).round(3), fitted.raw_actions(np.array([0.5]))
    (array([0.999], dtype=float32), array([1.], dtype=float32))
    """
    observations = np.asarray(observations, np.float64)
    if observations.ndim != 2 or len(observations) == 0:
        raise ValueError(f"observations must have shape (N > 0, D), got {observations.shape}")
    mean = observations.mean(axis=0) if standardise else np.zeros(observations.shape[1])
    std = observations.std(axis=0) + STD_OFFSET if standardise else np.ones(observations.shape[1])
    return Preprocessing(mean, std, action_low, action_high)


def _check_same_length(value: Preprocessing, first: str, second: str) -> None:
    one, other = getattr(value, first), getattr(value, second)
    if len(one) != len(other):
        raise ValueError(f"{first} and {second} must be equally long, got {len(one)}, {len(other)}")
