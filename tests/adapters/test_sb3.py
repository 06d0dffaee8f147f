"""Offline-to-online smoothing of Stable-Baselines3's agents, on tiny Pendulum runs."""

from __future__ import annotations

import gc
import importlib
import json
import random
import sys
import weakref
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor, nn
from torch.nn import functional

import segue
from segue.adapters.sb3 import SACBC, TD3BC, smooth
from segue.adapters.sb3.data import transitions

ALGORITHMS = {"TD3": TD3, "SAC": SAC, "DDPG": DDPG}
K = 6
SPACES = gym.make("Pendulum-v1").observation_space, gym.make("Pendulum-v1").action_space


def offline(seed: int = 0, size: int = 40, **changes: Any) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    data = {
        "observations": draw.normal(size=(size, 3)),
        "actions": draw.uniform(-2, 2, size=(size, 1)),
        "rewards": draw.normal(size=size),
        "next_observations": draw.normal(size=(size, 3)),
        "terminations": draw.random(size) < 0.2,
    }
    return data | changes


def agent(algorithm: Any, *, env: Any = "Pendulum-v1", **settings: Any) -> Any:
    defaults = {
        "learning_starts": 10,
        "batch_size": 8,
        "policy_kwargs": {"net_arch": [8, 8]},
        "seed": 0,
        "device": "cpu",
        "buffer_size": 200,
    }
    return algorithm("MlpPolicy", env, **{**defaults, **settings})


def smoothed(algorithm: Any, schedule: Any = K, **settings: Any) -> Any:
    ramp = (
        {"num_smoothing_updates": schedule} if isinstance(schedule, int) else {"schedule": schedule}
    )
    return agent(smooth(algorithm), **{"source": offline(), **ramp, **settings})


def fill(model: Any, size: int = 60) -> Any:
    """Online data without running an environment."""
    data, buffer = offline(seed=5, size=size), model.replay_buffer
    for i in range(size):
        buffer.add(
            data["observations"][i : i + 1], data["next_observations"][i : i + 1],
            data["actions"][i : i + 1] / 2, data["rewards"][i : i + 1],
            data["terminations"][i : i + 1], [{}],
        )  # fmt: skip
    model._setup_learn(total_timesteps=1)
    return model


def weights(model: Any) -> Tensor:
    return nn.utils.parameters_to_vector(model.policy.parameters()).detach().clone()


def assert_same_states(first: Any, second: Any) -> None:
    assert torch.equal(first[0], second[0])
    assert np.array_equal(first[1][1], second[1][1])
    assert first[2] == second[2]


def states() -> Any:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


class Counting(TD3BC):
    """Counts its calls, and remembers λ at each."""

    def __init__(self) -> None:
        super().__init__()
        self.critic_weights: list[float] = []
        self.num_actor_calls = 0

    def critic_loss(self, model: Any, batch: Any) -> Tensor:
        self.critic_weights.append(model.smoothing.source_weight)
        return super().critic_loss(model, batch)

    def actor_loss(self, model: Any, batch: Any) -> Tensor:
        self.num_actor_calls += 1
        return super().actor_loss(model, batch)


# -- the objective ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_hard_switch_is_bitwise_the_plain_algorithm(name: str) -> None:
    results = []
    for make in (
        lambda: agent(ALGORITHMS[name]),
        lambda: smoothed(ALGORITHMS[name], segue.hard_switch()),
    ):
        random.seed(0)
        model = make().learn(40)
        optimizers = (model.actor.optimizer, model.critic.optimizer)
        moments = [s["exp_avg"] for o in optimizers for s in o.state_dict()["state"].values()]
        results.append((weights(model), torch.cat([m.flatten() for m in moments]), states()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert_same_states(results[0][2], results[1][2])


@pytest.mark.parametrize("name", ["TD3", "SAC"])
def test_ramp_leaves_the_global_random_states_alone(name: str) -> None:
    after = []
    for make in (lambda: agent(ALGORITHMS[name]), lambda: smoothed(ALGORITHMS[name])):
        model = fill(make())
        torch.manual_seed(3)
        model.train(gradient_steps=4, batch_size=8)
        after.append(states())
    assert_same_states(*after)


def td3_losses(model: Any, critic: Any, batch: Any, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Critic and actor loss of TD3, and TD3+BC's where ``batch`` is a dict, written out."""
    is_source = isinstance(batch, dict)
    get = (
        batch.__getitem__
        if is_source
        else lambda name: getattr(batch, name.replace("terminations", "dones"))
    )
    with torch.no_grad():
        following = (model.actor_target(get("next_observations")) + noise).clamp(-1, 1)
        q = torch.min(*model.critic_target(get("next_observations"), following))
        goal = get("rewards") + (1 - get("terminations")) * 0.99 * q
    both = critic(get("observations"), get("actions"))
    critic_loss = functional.mse_loss(both[0], goal) + functional.mse_loss(both[1], goal)
    return critic_loss, goal


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_td3_update_is_the_blend_of_both_losses_by_hand(weight: float) -> None:
    settings: dict[str, Any] = {
        "policy_kwargs": {"net_arch": [8], "optimizer_class": torch.optim.SGD},
        "learning_rate": 0.1, "policy_delay": 1, "target_policy_noise": 0.0,
    }  # fmt: skip
    model = fill(smoothed(TD3, segue.constant(weight), source_batch_size=5, **settings))
    hand = fill(smoothed(TD3, segue.constant(weight), source_batch_size=5, **settings))
    hand.policy.load_state_dict(model.policy.state_dict())
    np.random.seed(1)
    model.train(gradient_steps=1, batch_size=8)
    np.random.seed(1)
    target = hand.replay_buffer.sample(8)
    data = transitions(offline(), *SPACES)
    replay = segue.Replay(data, num_examples=None, batch_size=5, seed=0)
    source = next(replay)

    losses = [
        td3_losses(hand, hand.critic, batch, torch.zeros(()))[0] for batch in (source, target)
    ]
    hand.critic.optimizer.zero_grad()
    (weight * losses[0] + (1 - weight) * losses[1]).backward()
    with torch.no_grad():
        for parameter in hand.critic.parameters():
            parameter -= 0.1 * parameter.grad
    q = hand.critic.q1_forward(source["observations"], hand.actor(source["observations"]))
    distance = functional.mse_loss(hand.actor(source["observations"]), source["actions"])
    offline_loss = -q.mean() + q.abs().mean().detach() / 2.5 * distance
    online_loss = -hand.critic.q1_forward(
        target.observations, hand.actor(target.observations)
    ).mean()
    hand.actor.optimizer.zero_grad()
    (weight * offline_loss + (1 - weight) * online_loss).backward()
    with torch.no_grad():
        for parameter in hand.actor.parameters():
            parameter -= 0.1 * parameter.grad
    for network in ("critic", "actor"):
        pairs = zip(
            getattr(model, network).parameters(), getattr(hand, network).parameters(), strict=True
        )
        for got, want in pairs:
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["TD3", "SAC"])
def test_weight_1_does_not_depend_on_the_online_data(name: str) -> None:
    """But for SAC's temperature, which stays the algorithm's own affair and is fixed here."""
    extra = {"ent_coef": 0.1} if name == "SAC" else {}
    results = []
    for size in (30, 60):
        model = fill(smoothed(ALGORITHMS[name], segue.constant(1.0), **extra), size)
        torch.manual_seed(0)
        model.train(gradient_steps=4, batch_size=8)
        results.append(weights(model))
    assert torch.equal(*results)


def test_sac_source_losses_are_those_written_out() -> None:
    model = fill(smoothed(SAC, ent_coef=0.3))
    batch = {name: value[:6] for name, value in transitions(offline(), *SPACES).items()}
    losses = SACBC(alpha=2.0)
    torch.manual_seed(0)
    got = [losses.critic_loss(model, batch), losses.actor_loss(model, batch)]
    torch.manual_seed(0)
    with torch.no_grad():
        following, log_prob = model.actor.action_log_prob(batch["next_observations"])
        q = torch.min(*model.critic_target(batch["next_observations"], following))
        soft = q - 0.3 * log_prob[:, None]
        goal = batch["rewards"] + (1 - batch["terminations"]) * 0.99 * soft
    first, second = model.critic(batch["observations"], batch["actions"])
    errors = ((first - goal) ** 2).mean() + ((second - goal) ** 2).mean()
    actions, log_prob = model.actor.action_log_prob(batch["observations"])
    q = torch.min(*model.critic(batch["observations"], actions))
    mode = model.actor(batch["observations"], deterministic=True)
    imitation = ((mode - batch["actions"]) ** 2).mean()
    want = [0.5 * errors, 0.3 * log_prob.mean() - q.mean() + q.abs().mean() / 2.0 * imitation]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


# -- the clock -------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient_steps", [1, 3])
def test_weight_follows_gradient_updates_and_the_source_ends_with_the_ramp(
    gradient_steps: int,
) -> None:
    losses = Counting()
    model = smoothed(TD3, source_losses=losses, gradient_steps=gradient_steps, train_freq=3)
    model.learn(40)
    assert losses.critic_weights == [1 - t / K for t in range(K)]
    assert losses.num_actor_calls == K // 2  # with policy_delay 2, in every other update
    assert model.smoothing.num_steps == model._n_updates > K
    assert model.smoothing.source_weight == 0.0
    assert model._ramp._replay is None


def test_offline_data_are_let_go_after_the_ramp() -> None:
    data = offline()
    held = [weakref.ref(array) for array in data.values()]
    model = fill(smoothed(TD3, 2, source=data))
    copy = weakref.ref(model._ramp._replay)
    del data
    model.train(gradient_steps=3, batch_size=8)
    gc.collect()
    assert [each() for each in (*held, copy)] == [None] * 6


def test_delayed_actor_has_the_weight_of_its_own_update() -> None:
    model = fill(smoothed(TD3, 4))
    seen = []
    model.critic.optimizer.register_step_post_hook(lambda *_: seen.append(model._ramp._weight))
    model.actor.optimizer.register_step_post_hook(
        lambda *_: seen.append(("actor", model._ramp._weight))
    )
    model.train(gradient_steps=6, batch_size=8)
    assert seen == [
        1.0,
        0.75,
        ("actor", 0.75),
        0.5,
        0.25,
        ("actor", 0.25),
        0.0,
        0.0,
        ("actor", 0.0),
    ]


@pytest.mark.parametrize("name", ["TD3", "SAC"])
def test_loaded_agent_goes_on_with_its_ramp_bitwise(name: str, tmp_path: Path) -> None:
    algorithm = ALGORITHMS[name]
    model = fill(smoothed(algorithm, 12))
    model.train(gradient_steps=5, batch_size=8)
    model.save(tmp_path / "agent")
    model.save_replay_buffer(tmp_path / "buffer")
    torch.manual_seed(9), np.random.seed(9)
    model.train(gradient_steps=10, batch_size=8)

    loaded = smooth(algorithm).load(tmp_path / "agent", gym.make("Pendulum-v1"), source=offline())
    assert loaded.smoothing.source_weight == 1 - 5 / 12
    loaded.load_replay_buffer(tmp_path / "buffer")
    loaded._setup_learn(total_timesteps=1)
    torch.manual_seed(9), np.random.seed(9)
    loaded.train(gradient_steps=10, batch_size=8)
    assert torch.equal(weights(loaded), weights(model))
    assert loaded.smoothing.num_steps == model.smoothing.num_steps == 15


def test_saved_state_is_strict_json(tmp_path: Path) -> None:
    model = fill(smoothed(TD3))
    model.train(gradient_steps=2, batch_size=8)
    model.save(tmp_path / "agent")
    state = json.loads(json.dumps(model._segue_state, allow_nan=False))
    assert (state["num_updates"], state["replay"]["position"]) == (2, 16)


def test_agent_saved_by_the_plain_algorithm_begins_a_ramp(tmp_path: Path) -> None:
    plain = fill(agent(TD3))
    plain.train(gradient_steps=3, batch_size=8)
    plain.save(tmp_path / "offline")
    model = smooth(TD3).load(
        tmp_path / "offline", gym.make("Pendulum-v1"), source=offline(), num_smoothing_updates=K
    )
    assert torch.equal(weights(model), weights(plain))
    assert (model.smoothing.num_steps, model.smoothing.source_weight) == (0, 1.0)


def test_loaded_agent_needs_its_source_only_to_go_on_with_its_ramp(tmp_path: Path) -> None:
    model = fill(smoothed(TD3))
    model.train(gradient_steps=2, batch_size=8)
    model.save(tmp_path / "within")
    model.train(gradient_steps=K, batch_size=8)
    model.save(tmp_path / "after")
    within = smooth(TD3).load(tmp_path / "within", gym.make("Pendulum-v1"))
    assert within.predict(np.zeros(3, dtype=np.float32))[0].shape == (1,)
    with pytest.raises(ValueError, match="source must be given while the ramp is not over"):
        within.learn(5)
    after = smooth(TD3).load(tmp_path / "after", gym.make("Pendulum-v1"))
    after.learn(30)
    assert after.smoothing.source_weight == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_smoothing_updates": 99}, "schedule must be the saved one"),
        ({"source_seed": 4}, "seed must be the saved one"),
        ({"source": offline(seed=1)}, "must hold the examples it held when it was saved"),
    ],
)
def test_another_ramp_or_source_is_refused_on_loading(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = fill(smoothed(TD3))
    model.train(gradient_steps=2, batch_size=8)
    model.save(tmp_path / "agent")
    with pytest.raises(ValueError, match=message):
        smooth(TD3).load(
            tmp_path / "agent", gym.make("Pendulum-v1"), **{"source": offline(), **settings}
        )


# -- the data --------------------------------------------------------------------------------------


def test_time_limit_in_a_buffer_is_no_termination() -> None:
    buffer = ReplayBuffer(10, *SPACES, device="cpu")
    for done, info in ((False, {}), (True, {"TimeLimit.truncated": True}), (True, {})):
        zeros = np.zeros((1, 3))
        buffer.add(zeros, zeros, np.full((1, 1), 0.5), np.ones(1), np.array([done]), [info])
    data = transitions(buffer, *SPACES)
    assert data["terminations"].flatten().tolist() == [0.0, 0.0, 1.0]
    assert data["actions"].flatten().tolist() == [0.5, 0.5, 0.5]  # a buffer's are scaled already


def test_buffer_that_saves_memory_gives_the_following_observations() -> None:
    settings = {"optimize_memory_usage": True, "handle_timeout_termination": False}
    buffer = ReplayBuffer(4, *SPACES, device="cpu", **settings)
    for i in range(6):  # wraps round: transitions 3, 4 and 5 are whole
        rows = [np.full((1, 3), float(i + k)) for k in range(2)]
        buffer.add(rows[0], rows[1], np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
    data = transitions(buffer, *SPACES)
    first = data["observations"][:, 0]
    assert sorted(first.tolist()) == [3.0, 4.0, 5.0]
    assert torch.equal(data["next_observations"][:, 0], first + 1)


def test_buffer_that_an_agent_filled_online_is_a_source() -> None:
    plain = agent(TD3, env=gym.make("Pendulum-v1", max_episode_steps=15)).learn(40)
    assert plain.replay_buffer.timeouts[:40].sum() == 2
    data = transitions(plain.replay_buffer, *SPACES)
    assert data["observations"].shape == (40, 3)
    assert data["terminations"].sum() == 0


def test_minari_dataset_is_a_source() -> None:
    class Episode:
        observations = np.arange(12, dtype=np.float64).reshape(4, 3)
        actions = np.array([[-2.0], [0.0], [2.0]])
        rewards = np.array([1.0, 2.0, 3.0])
        terminations = np.array([False, False, False])
        truncations = np.array([False, False, True])

    class Dataset:
        def iterate_episodes(self) -> list[Any]:
            return [Episode, Episode]

    data = transitions(Dataset(), *SPACES)
    assert data["actions"].flatten().tolist() == [-1.0, 0.0, 1.0] * 2
    assert torch.equal(data["next_observations"][0], data["observations"][1])
    assert data["terminations"].sum() == 0


def test_normalised_environment_normalises_the_offline_data_alike() -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    seen: list[Any] = []

    class Seeing(TD3BC):
        def critic_loss(self, model: Any, batch: Any) -> Tensor:
            seen.append((batch, env.obs_rms.mean.copy(), env.obs_rms.var.copy(), env.ret_rms.var))
            return super().critic_loss(model, batch)

    smoothed(TD3, 3, env=env, source_losses=Seeing()).learn(20)
    replay = segue.Replay(transitions(offline(), *SPACES), num_examples=None, batch_size=8, seed=0)
    for batch, mean, variance, returns in seen:
        raw = next(replay)
        want = (raw["observations"] - torch.tensor(mean)) / torch.tensor(variance + 1e-8).sqrt()
        torch.testing.assert_close(batch["observations"], want.clamp(-10, 10).float())
        rewards = raw["rewards"] / float(np.sqrt(returns + 1e-8))
        torch.testing.assert_close(batch["rewards"], rewards.clamp(-10, 10))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": np.full(40, np.nan)}, r"source\['rewards'\] must be finite, .* index 0"),
        ({"observations": np.zeros((40, 4))}, r"must have shape \(40, 3\), got \(40, 4\)"),
        ({"terminations": np.zeros(39)}, r"must have shape \(40, 1\), got \(39, 1\)"),
        ({"actions": np.full((40, 1), 3.0)}, "must lie in the action space, .* at index 0"),
    ],
)
def test_wrong_field_of_the_data_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        smoothed(TD3, source=offline(**changes))


def test_missing_terminations_are_not_taken_from_dones() -> None:
    data = offline()
    data["dones"] = data.pop("terminations")
    with pytest.raises(ValueError, match=r"it lacks \['terminations'\]; 'dones' will not do"):
        smoothed(TD3, source=data)
    with pytest.raises(ValueError, match="at least one transition, got an empty buffer"):
        smoothed(TD3, source=ReplayBuffer(4, *SPACES))
    with pytest.raises(TypeError, match="source must be a stable_baselines3 ReplayBuffer"):
        smoothed(TD3, source=[1, 2])


# -- numbers, log, errors --------------------------------------------------------------------------


class Spoilt(TD3BC):
    def critic_loss(self, model: Any, batch: Any) -> Tensor:
        return super().critic_loss(model, batch) * torch.nan

    def actor_loss(self, model: Any, batch: Any) -> Tensor:
        return super().actor_loss(model, batch) * torch.nan


def test_non_finite_source_is_named_and_can_be_skipped() -> None:
    settings: dict[str, Any] = {
        "policy_kwargs": {"net_arch": [8], "optimizer_class": torch.optim.SGD},
        "source_losses": Spoilt(),
    }
    model = fill(smoothed(TD3, segue.constant(0.5), **settings))
    with pytest.raises(
        segue.NonFiniteLossError, match="the source loss is nan at step 0"
    ) as caught:
        model.train(gradient_steps=1, batch_size=8)
    assert caught.value.__notes__ == ["it is the critic's, and a step is a gradient update"]

    results = []
    for schedule, rate in ((segue.constant(0.5), 0.1), (segue.hard_switch(), 0.05)):
        settings |= {"learning_rate": rate, "non_finite": "skip"}
        model = fill(smoothed(TD3, schedule, **settings))
        torch.manual_seed(1), np.random.seed(1)
        if schedule(0):
            with pytest.warns(
                RuntimeWarning, match="the source loss is nan .* the term is skipped"
            ):
                model.train(gradient_steps=2, batch_size=8)
        else:
            model.train(gradient_steps=2, batch_size=8)
        results.append(weights(model))
    torch.testing.assert_close(*results)  # half the gradient at twice the rate


def test_non_finite_target_is_named() -> None:
    model = fill(smoothed(TD3, segue.constant(0.5)))
    model.replay_buffer.rewards[:] = np.nan
    with pytest.raises(segue.NonFiniteLossError, match="the target loss is nan at step 0"):
        model.train(gradient_steps=1, batch_size=8)


def test_log_keeps_the_raw_target_losses_apart_from_the_sources() -> None:
    model, plain = fill(smoothed(TD3, segue.constant(0.25))), fill(agent(TD3))
    for each in (model, plain):
        torch.manual_seed(1), np.random.seed(1)
        each.train(gradient_steps=1, batch_size=8)
    log, plain_log = model.logger.name_to_value, plain.logger.name_to_value
    assert log["train/critic_loss"] == plain_log["train/critic_loss"]
    assert log["segue/source_weight"] == 0.25
    assert log["segue/source_count"] == 8
    raw = log["segue/critic_source_loss"]
    assert log["segue/critic_weighted_source_loss"] == pytest.approx(0.25 * raw)
    model = fill(smoothed(TD3, 0))
    model.train(gradient_steps=1, batch_size=8)
    assert {name for name in model.logger.name_to_value if name.startswith("segue/")} == {
        "segue/source_weight"
    }


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"num_smoothing_updates": -1}, ValueError, "num_smoothing_updates must be >= 0, got -1"),
        ({"num_smoothing_updates": 0.5}, TypeError, "num_smoothing_updates must be an integer, got 0.5"),
        ({}, ValueError, "one of num_smoothing_updates and schedule must be given"),
        ({"num_smoothing_updates": 1, "schedule": segue.constant(0.1)}, ValueError, "only one of"),
        ({"num_smoothing_updates": 1, "source_batch_size": 99}, ValueError, "batch_size must be <="),
        ({"num_smoothing_updates": 1, "non_finite": "drop"}, ValueError, "unknown non_finite policy"),
    ],
)  # fmt: skip
def test_wrong_argument_is_named(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        agent(smooth(TD3), source=offline(), **settings)


def test_algorithm_without_a_ramp_to_offer_is_refused() -> None:
    with pytest.raises(TypeError, match="algorithm must be an off-policy algorithm class"):
        smooth(PPO)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="SmoothedDQN has no actor"):
        smooth(DQN)("MlpPolicy", "CartPole-v1", num_smoothing_updates=1)  # type: ignore[call-arg]
    assert smooth(TD3) is smooth(TD3)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf")])
def test_alpha_must_be_positive_and_finite(value: float) -> None:
    for losses in (TD3BC, SACBC):
        with pytest.raises(ValueError, match="alpha must be positive and finite"):
            losses(alpha=value)


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("segue.adapters.sb3")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(ImportError, match=r'pip install "segue\[sb3\]"'):
        importlib.import_module("segue.adapters.sb3")
