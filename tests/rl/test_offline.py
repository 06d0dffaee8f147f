"""Both phases where they were cut off and go on, and what their seeds and clocks are for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

import segue
from segue.rl.control import Control, ReturnControl, SourceLossControl
from segue.rl.data import OfflineDataset
from segue.rl.objective import Clock, Objective
from segue.rl.offline import OfflineTraining
from segue.rl.preprocessing import Preprocessing
from segue.rl.switch import OnlineTraining, SwitchConfig
from segue.rl.td3 import TD3Config
from segue.runs.checkpoint import load_checkpoint, save_checkpoint

LEARNER = TD3Config(hidden_widths=(8,), batch_size=8)


@pytest.fixture
def start_offline(
    hopper_data: OfflineDataset, hopper_preprocessing: Preprocessing
) -> Callable[[int], OfflineTraining]:
    """Starts offline training with a seed."""
    return lambda seed: OfflineTraining(LEARNER, hopper_data, hopper_preprocessing, seed=seed)


@pytest.fixture
def go_online(
    make_env: Callable[..., Any], hopper_data: OfflineDataset, hopper_preprocessing: Preprocessing
) -> Callable[..., OnlineTraining]:
    """Starts online training in Hopper, whose episodes end after 12 steps: before it falls."""

    def make(objective: Objective, control: Control | None = None) -> OnlineTraining:
        config = SwitchConfig(LEARNER, objective, buffer_capacity=40)
        env = make_env("Hopper-v5", max_episode_steps=12)
        return OnlineTraining(
            config, env, hopper_preprocessing, seed=0, dataset=hopper_data, control=control
        )

    return make


def content(training: OfflineTraining | OnlineTraining, path: Path) -> bytes:
    save_checkpoint(path, training.state_dict())
    return path.read_bytes()


def num_applied(optimizer: Any) -> int:
    return int(optax.tree_utils.tree_get(optimizer, "count"))


def test_resumed_offline_training_equals_training_that_was_never_cut(
    start_offline: Callable[[int], OfflineTraining], tmp_path: Path
) -> None:
    whole, cut, resumed = (start_offline(0) for _ in range(3))
    for _ in range(3):
        whole.train(3)
    cut.train(3)  # the next update is the actor's, which is every second one's
    save_checkpoint(tmp_path / "cut", cut.state_dict())
    resumed.load_state_dict(load_checkpoint(tmp_path / "cut"))
    for _ in range(2):
        resumed.train(3)
    assert num_applied(resumed.agent.critic_optimizer) == 9
    assert num_applied(resumed.agent.actor_optimizer) == 4
    assert content(whole, tmp_path / "a") == content(resumed, tmp_path / "b")
    np.testing.assert_equal(resumed.metrics, whole.metrics)


def test_the_seed_draws_the_offline_agent_and_its_batches(
    start_offline: Callable[[int], OfflineTraining],
) -> None:
    def parts(training: OfflineTraining) -> list[bytes]:
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(training.agent)]

    one, same, other = (start_offline(seed) for seed in (3, 3, 4))
    assert parts(one) == parts(same)
    assert parts(one) != parts(other)
    other.agent = one.agent
    for training in (one, same, other):
        training.train(3)
    assert parts(one) == parts(same)
    assert parts(one) != parts(other)  # the same networks, on other batches


@pytest.mark.parametrize(
    ("clock", "weight", "mean_of_the_round"),
    # After 26 environment steps and 12 updates; the last round was steps 23 to 25, updates 6 to 11.
    [("env_steps", 1 - 26 / 40, 1 - 24 / 40), ("updates", 1 - 12 / 40, 1 - 8.5 / 40)],
)
def test_two_updates_an_environment_step_are_two_and_the_clock_counts_what_it_says(
    go_online: Callable[..., OnlineTraining], clock: Clock, weight: float, mean_of_the_round: float
) -> None:
    objective = Objective(
        segue.linear_decay(40), clock=clock, num_updates_per_env_step=2,
        num_env_steps_before_updates=20,
    )  # fmt: skip
    training = go_online(objective)
    training.train(20)
    assert training.num_updates == 0
    training.round(3)
    assert training.num_updates == 6
    training.round(3)
    assert (training.num_env_steps, training.num_updates) == (26, 12)
    assert num_applied(training.agent.critic_optimizer) == 12
    assert num_applied(training.agent.actor_optimizer) == 6
    assert training.source_weight == pytest.approx(weight)
    assert training.metrics["source_weight"] == pytest.approx(mean_of_the_round)


@pytest.mark.parametrize(
    ("control", "weight_at_the_cut"),
    [
        # Two episodes, to step 24, are the reference; λ falls from there on.
        (lambda: ReturnControl(100, tolerance=0.5, num_episodes=2), 1 - 18 / 100),
        # λ falls at every second update, the actor's, by as much as two.
        (lambda: SourceLossControl(100, tolerance=1.0, decay=0.5), 1 - 40 / 100),
    ],
    ids=["return", "source loss"],
)
def test_a_resumed_run_with_a_control_equals_one_that_was_never_cut(
    go_online: Callable[..., OnlineTraining], tmp_path: Path, control: Callable[[], Control],
    weight_at_the_cut: float,
) -> None:  # fmt: skip
    whole, cut, resumed = (go_online(Objective(schedule=None), control()) for _ in range(3))
    whole.train(62)
    cut.train(41)  # within the fourth episode, and between two updates of the actor
    assert cut.source_weight == pytest.approx(weight_at_the_cut)
    save_checkpoint(tmp_path / "cut", cut.state_dict())
    resumed.load_state_dict(load_checkpoint(tmp_path / "cut"))
    assert resumed.source_weight == cut.source_weight
    resumed.train(62)
    assert resumed.num_updates == 62
    assert content(whole, tmp_path / "a") == content(resumed, tmp_path / "b")
