"""TD3 with hard target updates: what the lagged targets are, and that averaging has none."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import segue
from segue.rl.buffers import Transitions, pack, unpack
from segue.rl.td3 import TD3Config, _critic_loss, init_agent
from segue.rl.td3_lagged import HardTargets, init_lagged, make_lagged_updates

CONFIG = TD3Config(hidden_widths=(16,), batch_size=32, critic_learning_rate=3e-3)
PERIOD = 6


def rows() -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(0)
    observations = generator.normal(size=(200, 3)).astype("f")
    actions = generator.uniform(-1, 1, size=(200, 2)).astype("f")
    rewards = observations.sum(axis=1)
    following = (0.9 * observations).astype("f")
    return pack(Transitions(observations, actions, rewards, np.zeros(200, "f"), following))


def after(num_updates: int, schedule: segue.Schedule, lag: int = 1) -> tuple[Any, dict[str, Any]]:
    targets = HardTargets(PERIOD, lag)
    agent = init_lagged(init_agent(CONFIG, 3, 2, 0), targets)
    updates = make_lagged_updates(CONFIG, targets, schedule, 3, 2)
    data = jnp.asarray(rows())
    return updates(agent, data, jnp.int32(200), 0, jnp.int32(0), num_updates=num_updates)


def test_the_ramp_starts_over_at_every_hard_update_that_has_lagged_targets() -> None:
    _, metrics = after(3 * PERIOD, segue.linear_decay(2))
    ramp = [1.0, 0.5, 0.0, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(metrics["source_weight"], [0.0] * PERIOD + ramp + ramp)
    source, target = np.asarray(metrics["source_critic_loss"]), np.asarray(metrics["critic_loss"])
    evaluated = np.asarray(metrics["source_weight"]) > 0
    assert np.all(source[~evaluated] == 0.0)
    assert np.all(source[evaluated] > 0.0)
    assert np.all(np.abs(source - target)[evaluated] > 1e-3 * target[evaluated])


@pytest.mark.parametrize("lag", [1, 2])
def test_the_source_holds_the_targets_of_so_many_hard_updates_ago(lag: int) -> None:
    history = []
    for number in range(lag + 2):
        lagged, _ = after(number * PERIOD, segue.hard_switch(), lag)
        history.append(lagged)
    last = history[-1]
    oldest = jax.tree.map(lambda leaf: leaf[0], last.critics)
    then = history[-1 - lag].agent.target_critic
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), oldest, then)
    jax.tree.map(np.testing.assert_array_equal, last.agent.target_critic, last.agent.critic)


def test_hard_targets_give_two_losses_and_averaged_ones_all_but_one() -> None:
    data = jnp.asarray(rows())
    batch, key = unpack(data[:64], 3, 2), jax.random.key(1)
    lagged, _ = after(2 * PERIOD, segue.hard_switch())
    agent = lagged.agent

    def difference(previous_critic: Any, previous_actor: Any) -> float:
        before = agent._replace(target_critic=previous_critic, target_actor=previous_actor)
        now = _critic_loss(CONFIG, agent, agent.critic, batch, key)[0]
        then = _critic_loss(CONFIG, before, agent.critic, batch, key)[0]
        return float(abs(now - then) / now)

    hard = difference(
        *(jax.tree.map(lambda leaf: leaf[0], t) for t in (lagged.critics, lagged.actors))
    )
    # What the targets were one update ago, had they been averaged towards the present ones.
    rate = CONFIG.target_update_rate

    def before_averaging(old: Any, new: Any) -> Any:
        return optax.incremental_update(old, new, rate)

    averaged = difference(
        before_averaging(jax.tree.map(lambda leaf: leaf[0], lagged.critics), agent.target_critic),
        before_averaging(jax.tree.map(lambda leaf: leaf[0], lagged.actors), agent.target_actor),
    )
    assert hard > 0.01
    assert averaged < 0.05 * hard


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"num_smoothing_steps must be <= period \(6\), got 7"):
        make_lagged_updates(CONFIG, HardTargets(6), segue.linear_decay(7), 3, 2)
    with pytest.raises(TypeError, match=r"schedule must be made by segue\.schedules"):
        make_lagged_updates(CONFIG, HardTargets(6), lambda t: float(t < 3), 3, 2)
    with pytest.raises(ValueError, match="lag must be >= 1, got 0"):
        HardTargets(6, 0)
