from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.rl.buffers import prepare_rows
from segue.rl.data import OfflineDataset
from segue.rl.preprocessing import Preprocessing, fit_preprocessing
from segue.rl.switch import OnlineTraining, SwitchConfig
from segue.rl.td3 import TD3Config
from segue.runs.checkpoint import load_checkpoint, save_checkpoint


def make() -> Preprocessing:
    observations = np.random.default_rng(0).normal(3.0, 2.0, (100, 4))
    return fit_preprocessing(observations, np.array([-3.0, 0.0]), np.array([3.0, 1.0]))


def test_a_thousandth_is_added_to_the_standard_deviation() -> None:
    constant = np.full((10, 2), 7.0)
    fitted = fit_preprocessing(constant, -np.ones(1), np.ones(1))
    np.testing.assert_allclose(fitted.observation_std, [1e-3, 1e-3])
    np.testing.assert_allclose(fitted.observations(constant + 1e-3), 1.0, rtol=1e-3)


def test_actions_go_to_the_unit_range_and_back() -> None:
    preprocessing = make()
    raw = np.array([[-3.0, 0.0], [0.0, 0.5], [3.0, 1.0]], np.float32)
    scaled = preprocessing.scaled_actions(raw)
    np.testing.assert_allclose(scaled, [[-1, -1], [0, 0], [1, 1]])
    np.testing.assert_allclose(preprocessing.raw_actions(scaled), raw)


def test_it_comes_back_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    preprocessing = make()
    save_checkpoint(tmp_path / "state", preprocessing.state_dict())
    restored = Preprocessing.from_state_dict(load_checkpoint(tmp_path / "state"))
    assert restored == preprocessing
    observations = np.random.default_rng(1).normal(size=(5, 4))
    assert (
        restored.observations(observations).tobytes()
        == preprocessing.observations(observations).tobytes()
    )
    assert restored != fit_preprocessing(observations, -np.ones(2), np.ones(2))


class Recorder:
    """Keeps what the simulator was really given and gave: online training allows no wrapper for that."""

    def __init__(self, env: Any) -> None:
        self.rows: list[tuple[Any, ...]] = []
        simulator = env.unwrapped
        self.step_of, self.reset_of = simulator.step, simulator.reset
        simulator.step, simulator.reset = self.step, self.reset

    def reset(self, **settings: Any) -> Any:
        self.observation, info = self.reset_of(**settings)
        return self.observation, info

    def step(self, action: Any) -> Any:
        following, reward, terminated, truncated, info = self.step_of(action)
        self.rows.append((self.observation, action, reward, following, terminated, truncated))
        self.observation = following
        return following, reward, terminated, truncated, info


def test_data_set_and_environment_are_seen_alike(
    make_env: Callable[..., Any], pendulum_data: OfflineDataset
) -> None:
    env = make_env("InvertedPendulum-v5")
    recorder = Recorder(env)
    low, high = env.action_space.low, env.action_space.high
    preprocessing = fit_preprocessing(pendulum_data.observations, low, high)
    config = SwitchConfig(TD3Config(hidden_widths=(4,)), num_random_env_steps=40)
    training = OnlineTraining(config, env, preprocessing, seed=0)
    training._act(40)
    columns = [np.array(column) for column in zip(*recorder.rows, strict=True)]
    floats = [column.astype(np.float32) for column in columns[:4]]
    same = OfflineDataset(*floats, columns[4].astype(bool), columns[5].astype(bool))
    assert np.abs(floats[1]).max() > 1.5  # the environment's own range of actions
    online = np.asarray(training.buffer.rows[:40])
    np.testing.assert_allclose(prepare_rows(same, preprocessing), online, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (np.array([-np.inf]), np.array([1.0]), "action_low must be a finite vector"),
        (np.array([1.0]), np.array([-1.0]), "action_low must be < action_high"),
        (np.array([-1.0]), np.array([1.0, 1.0]), "must be equally long, got 1, 2"),
    ],
)
def test_wrong_bounds_are_named(low: np.ndarray, high: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_preprocessing(np.zeros((3, 2)), low, high)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(N > 0, D\), got \(0, 4\)"):
        fit_preprocessing(np.zeros((0, 4)), -np.ones(1), np.ones(1))
