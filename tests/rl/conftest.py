from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

from segue.rl.data import OfflineDataset, collect
from segue.rl.preprocessing import Preprocessing, fit_preprocessing


def _make(name: str, **settings: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make(name, disable_env_checker=True, **settings)


@pytest.fixture(scope="session")
def make_env() -> Callable[..., gymnasium.Env[Any, Any]]:
    """Makes an environment of Gymnasium."""
    return _make


@pytest.fixture(scope="session")
def hopper_data() -> OfflineDataset:
    """Random actions in Hopper, which falls after some twenty steps."""
    return collect(_make("Hopper-v5"), None, 300, seed=0)


@pytest.fixture(scope="session")
def hopper_preprocessing(hopper_data: OfflineDataset) -> Preprocessing:
    """Fitted to ``hopper_data``."""
    return fit_preprocessing(hopper_data.observations, -np.ones(3), np.ones(3))


@pytest.fixture(scope="session")
def pendulum_data() -> OfflineDataset:
    """A balancing pendulum with a time limit of 20 steps; its actions range over [-3, 3]."""
    gains = np.array([0.5, 15.0, 0.5, 2.5])
    env = _make("InvertedPendulum-v5", max_episode_steps=20)
    return collect(env, lambda observation: gains @ observation[:, None], 100, noise=0.05, seed=0)
