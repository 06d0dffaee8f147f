"""The compiled update, against PyTorch's autograd and against what it must skip."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F

import segue
from segue.rl.buffers import unpack
from segue.rl.networks import act, to_numpy
from segue.rl.objective import Objective, offline_objective
from segue.rl.td3 import (
    Agent,
    TD3Config,
    _Data,
    _target_rows,
    init_agent,
    make_updates,
)
from segue.rl.td3_losses import critic_loss

NUM_OBSERVATIONS, NUM_ACTIONS = 3, 2
CONFIG = TD3Config(hidden_widths=(8,), batch_size=4, policy_noise=0.0)
RAMP = Objective(segue.linear_decay(4))


def random_rows(num: int, seed: int, *, terminal: float = 0.0) -> jax.Array:
    rows = np.random.default_rng(seed).standard_normal((num, 2 * NUM_OBSERVATIONS + 4))
    rows[:, NUM_OBSERVATIONS + NUM_ACTIONS + 1] = terminal
    return jnp.asarray(np.clip(rows, -1, 1), jnp.float32)


OFFLINE, ONLINE = random_rows(20, seed=0), random_rows(20, seed=1)


def train(
    objective: Objective, num_updates: int, *, config: TD3Config = CONFIG, offline: Any = OFFLINE,
    online: Any = ONLINE, seed: int = 0, first: int = 0, weight: float = 0.0,
    agent: Agent | None = None,
) -> tuple[Agent, dict[str, Any]]:  # fmt: skip
    if agent is None:
        agent = init_agent(config, NUM_OBSERVATIONS, NUM_ACTIONS, seed=0)
    updates = make_updates(config, objective, NUM_OBSERVATIONS, NUM_ACTIONS)
    every: list[dict[str, Any]] = []
    for update in range(first, first + num_updates):  # one by one: compiled once
        agent, metrics = updates(
            agent, offline, online, np.int32(len(online)), np.uint32(seed), np.int32(update),
            np.float32(weight), num_updates=1,
        )  # fmt: skip
        every.append({name: float(value) for name, value in metrics.items()})
    means = {}
    for name in every[0]:
        there = [metrics[name] for metrics in every if np.isfinite(metrics[name])]
        means[name] = float(np.mean(there)) if there else float("nan")
    return agent, means


def equal(a: Any, b: Any) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


RAMPED, NEVER = (1.0, 0.75, 0.5, 0.25, 0.0, 0.0), (0.0,) * 6


class Wanted(NamedTuple):
    """An objective as the oracle is told it: source weights by update, and what the losses hold."""

    critic_weights: tuple[float, ...] = RAMPED
    actor_weights: tuple[float, ...] = RAMPED
    source_scale: float = 1.0
    target_cloning: tuple[float, ...] = NEVER


class TorchTD3:
    """The same learner by hand, on one transition each, without noise."""

    def __init__(self, agent: Agent) -> None:
        self.actor = self._tensors(agent.actor)
        self.critic = self._tensors(agent.critic)
        self.target_actor = {k: v.detach().clone() for k, v in self.actor.items()}
        self.target_critic = {k: v.detach().clone() for k, v in self.critic.items()}
        self.actor_adam = torch.optim.Adam(self.actor.values(), lr=CONFIG.actor_learning_rate)
        self.critic_adam = torch.optim.Adam(self.critic.values(), lr=CONFIG.critic_learning_rate)

    @staticmethod
    def _tensors(params: Any) -> dict[str, torch.Tensor]:
        flat = jax.tree_util.tree_flatten_with_path(params)[0]
        return {
            jax.tree_util.keystr(path): torch.tensor(np.array(leaf), requires_grad=True)
            for path, leaf in flat
        }

    @staticmethod
    def _mlp(params: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
        for index in range(2):
            layer = f"['params']['{name}']['Dense_{index}']"
            x = x @ params[f"{layer}['kernel']"] + params[f"{layer}['bias']"]
            x = F.relu(x) if index == 0 else x
        return x

    def act(self, params: dict[str, torch.Tensor], o: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self._mlp(params, "mlp", o))

    def q(self, params: dict[str, torch.Tensor], name: str, o: Any, a: Any) -> torch.Tensor:
        return self._mlp(params, name, torch.cat([o, a], -1))[..., 0]

    def critic_loss(self, row: torch.Tensor) -> torch.Tensor:
        o, a, r, d, n = row.split([3, 2, 1, 1, 3])
        with torch.no_grad():
            b = self.act(self.target_actor, n)
            v = torch.minimum(*(self.q(self.target_critic, q, n, b) for q in ("first", "second")))
            y = r[0] + 0.99 * (1 - d[0]) * v
        first, second = (self.q(self.critic, name, o, a) for name in ("first", "second"))
        return (first - y) ** 2 + (second - y) ** 2

    def actor_loss(self, row: torch.Tensor, cloning: float) -> torch.Tensor:
        o, a = row[:3], row[3:5]
        b = self.act(self.actor, o)
        q = self.q({k: v.detach() for k, v in self.critic.items()}, "first", o, b)
        return -2.5 / q.abs().detach() * q + cloning * ((b - a) ** 2).mean()

    def update(
        self, source: torch.Tensor, target: torch.Tensor, index: int, wanted: Wanted
    ) -> None:
        weight = wanted.critic_weights[index]
        loss = weight * wanted.source_scale * self.critic_loss(source)
        loss = loss + (1 - weight) * self.critic_loss(target)
        self.critic_adam.zero_grad()
        loss.backward()
        self.critic_adam.step()
        if index % 2 == 1:
            weight = wanted.actor_weights[index]
            loss = weight * wanted.source_scale * self.actor_loss(source, 1.0)
            loss = loss + (1 - weight) * self.actor_loss(target, wanted.target_cloning[index])
            self.actor_adam.zero_grad()
            loss.backward()
            self.actor_adam.step()
            with torch.no_grad():
                for params, targets in (
                    (self.actor, self.target_actor),
                    (self.critic, self.target_critic),
                ):
                    for name, value in params.items():
                        targets[name].lerp_(value, 0.005)


@pytest.mark.parametrize(
    ("objective", "wanted"),
    [
        pytest.param(RAMP, Wanted(), id="both blended"),
        pytest.param(replace(RAMP, smooth_actor=False), Wanted(RAMPED, NEVER), id="critic alone"),
        pytest.param(replace(RAMP, smooth_critic=False), Wanted(NEVER, RAMPED), id="actor alone"),
        pytest.param(
            replace(RAMP, source_term="nothing"), Wanted(source_scale=0.0), id="target ramped"
        ),
        pytest.param(
            Objective(cloning_weight=segue.constant(0.5)),
            Wanted(NEVER, NEVER, target_cloning=(0.5,) * 6),
            id="target clones",
        ),
        pytest.param(
            Objective(cloning_weight=segue.linear_decay(4)),
            Wanted(NEVER, NEVER, target_cloning=RAMPED),
            id="target clones for a while",
        ),
        pytest.param(
            offline_objective(),
            Wanted(NEVER, NEVER, target_cloning=(1.0,) * 6),
            id="offline phase",
        ),
    ],
)
def test_an_update_is_what_autograd_gives_for_its_objective(
    objective: Objective, wanted: Wanted
) -> None:
    agent = init_agent(CONFIG, NUM_OBSERVATIONS, NUM_ACTIONS, seed=0)
    oracle = TorchTD3(agent)
    # Equal rows: whatever is drawn, it is these two. As many as ever, to compile once.
    source, target = (jnp.repeat(rows[:1], 20, axis=0) for rows in (OFFLINE, ONLINE))
    trained, _ = train(objective, len(RAMPED), offline=source, online=target, agent=agent)
    rows = [torch.from_numpy(np.array(row[0])) for row in (source, target)]
    for index in range(len(RAMPED)):
        oracle.update(rows[0], rows[1], index, wanted)
    for name in ("actor", "critic", "target_actor", "target_critic"):
        for key, value in TorchTD3._tensors(getattr(trained, name)).items():
            expected = getattr(oracle, name)[key].detach()
            torch.testing.assert_close(value.detach(), expected, rtol=2e-4, atol=2e-6)
    # Adam moves by as much whatever the scale of a gradient; its moments tell.
    for name in ("actor", "critic"):
        moments = optax.tree_utils.tree_get(getattr(trained, f"{name}_optimizer"), "mu")
        adam: torch.optim.Adam = getattr(oracle, f"{name}_adam")
        expected = torch.cat([state["exp_avg"].flatten() for state in adam.state.values()])
        assert expected.abs().max() > 0.01
        torch.testing.assert_close(
            torch.from_numpy(np.array(moments)), expected, rtol=2e-4, atol=2e-6
        )


def test_the_source_is_not_drawn_after_the_ramp() -> None:
    poisoned = jnp.full_like(OFFLINE, jnp.nan)
    clean, _ = train(RAMP, 4, first=4)
    trained, metrics = train(RAMP, 4, first=4, offline=poisoned)
    assert equal(clean, trained)
    assert np.isnan(metrics["source_critic_loss"])
    assert metrics["source_weight"] == 0.0


def test_the_hard_switch_equals_what_comes_after_a_ramp() -> None:
    after, _ = train(RAMP, 4, first=4)
    hard, _ = train(Objective(), 4, first=4)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(hard), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def conds(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond":
            yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from conds(inner)


def trace(objective: Objective, num_seeds: int | None) -> Any:
    agent, rows, seed = init_agent(CONFIG, 3, 2, seed=0), ONLINE, jnp.uint32(0)
    if num_seeds is not None:
        agent = jax.tree.map(lambda leaf: jnp.stack([leaf] * num_seeds), agent)
        rows, seed = jnp.stack([rows] * num_seeds), jnp.arange(num_seeds, dtype=jnp.uint32)
    updates = make_updates(CONFIG, objective, 3, 2, over_seeds=num_seeds is not None)
    given = (agent, OFFLINE, rows, jnp.int32(20), seed, jnp.int32(0), jnp.float32(0.0))
    return jax.make_jaxpr(lambda *a: updates(*a, num_updates=3))(*given)  # compiles nothing


def test_the_skip_survives_vmap_over_seeds() -> None:
    one, six = (list(conds(trace(RAMP, num).jaxpr)) for num in (None, 6))
    # The critics' λ, the delayed actor, and λ within it; a batched condition would be a select.
    assert len(one) == len(six) == 3
    assert all(equation.invars[0].aval.shape == () for equation in six)


def test_the_hard_switch_traces_no_source() -> None:
    assert len(list(conds(trace(Objective(), None).jaxpr))) == 1  # the delayed actor alone


def test_seeds_trained_together_are_those_trained_alone() -> None:
    updates = make_updates(CONFIG, RAMP, NUM_OBSERVATIONS, NUM_ACTIONS, over_seeds=True)
    agents = [init_agent(CONFIG, NUM_OBSERVATIONS, NUM_ACTIONS, seed=seed) for seed in (0, 1)]
    together, _ = updates(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *agents), OFFLINE,
        jnp.stack([ONLINE, ONLINE]), np.int32(20), np.array([5, 6], np.uint32), np.int32(1),
        np.float32(0.0), num_updates=1,
    )  # fmt: skip
    for index, (agent, seed) in enumerate(zip(agents, (5, 6), strict=True)):
        alone, _ = train(RAMP, 1, agent=agent, seed=seed, first=1)
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[index], b, rtol=1e-4, atol=1e-6)


def test_one_call_of_four_updates_is_four_of_one_and_the_seed_is_honoured() -> None:
    one_by_one, means = train(RAMP, 4)
    updates = make_updates(CONFIG, RAMP, NUM_OBSERVATIONS, NUM_ACTIONS)
    start = init_agent(CONFIG, NUM_OBSERVATIONS, NUM_ACTIONS, seed=0)
    together, metrics = updates(
        start, OFFLINE, ONLINE, np.int32(20), np.uint32(0), np.int32(0), np.float32(0.0),
        num_updates=4,
    )  # fmt: skip
    for a, b in zip(jax.tree.leaves(one_by_one), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    for name, value in means.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-4), name
    assert not equal(one_by_one, train(RAMP, 4, seed=1)[0])


def test_actor_and_targets_move_every_second_update_only() -> None:
    start = init_agent(CONFIG, NUM_OBSERVATIONS, NUM_ACTIONS, seed=0)
    once, metrics = train(RAMP, 1, agent=start)
    assert equal(once.actor, start.actor)
    assert equal(once.target_critic, start.target_critic)
    assert not equal(once.critic, start.critic)
    assert np.isnan(metrics["actor_loss"])
    twice, _ = train(RAMP, 1, agent=once, first=1)
    assert not equal(twice.actor, start.actor)
    assert not equal(twice.target_critic, start.target_critic)


@pytest.mark.parametrize("terminal", [0.0, 1.0])
def test_only_a_terminal_state_is_not_bootstrapped(terminal: float) -> None:
    rows = jnp.repeat(random_rows(1, seed=3, terminal=terminal), 20, axis=0)
    _, metrics = train(RAMP, 4, online=rows, first=4)
    reward = float(rows[0, NUM_OBSERVATIONS + NUM_ACTIONS])
    assert (abs(float(metrics["q_target_mean"]) - reward) < 1e-6) == bool(terminal)


def test_the_share_of_offline_transitions_is_what_was_asked() -> None:
    offline, online = jnp.ones((30, 10)), jnp.zeros((10, 10))
    config = replace(CONFIG, batch_size=1_000)

    def share(objective: Objective, clock: int) -> float:
        data = _Data(offline, online, jnp.int32(10), jax.random.key(0), jnp.float32(0.0))
        keys = jax.random.split(jax.random.key(1))
        return float(_target_rows(config, objective, data, *keys, jnp.int32(clock)).mean())

    half = Objective(batches="mixed", offline_share=segue.constant(0.5))
    anneal = Objective(batches="mixed", offline_share=segue.linear_decay(10))
    assert share(half, 0) == 0.5
    assert [share(anneal, clock) for clock in (0, 4, 10)] == pytest.approx([1.0, 0.6, 0.0])
    assert share(Objective(batches="union"), 0) == pytest.approx(0.75)


def test_the_target_policy_is_noisy_within_the_clip() -> None:
    agent = init_agent(CONFIG, NUM_OBSERVATIONS, NUM_ACTIONS, seed=0)
    batch = unpack(ONLINE, NUM_OBSERVATIONS, NUM_ACTIONS)

    def goal(noise: float, clip: float) -> float:
        config = replace(CONFIG, policy_noise=noise, noise_clip=clip)
        _, found = critic_loss(config, agent, agent.critic, batch, jax.random.key(0))
        return float(found["q_target_mean"])

    assert goal(0.2, 0.5) != goal(0.0, 0.5)
    assert goal(1e6, 0.0) == goal(0.0, 0.5)


def test_environment_steps_and_updates_are_different_clocks() -> None:
    by_env = Objective(
        segue.linear_decay(40), clock="env_steps", num_updates_per_env_step=4,
        num_env_steps_before_updates=10,
    )  # fmt: skip
    assert [by_env.clock_at(update) for update in (0, 3, 4, 8)] == [10, 10, 11, 12]
    by_update = replace(by_env, clock="updates")
    assert [by_update.clock_at(update) for update in (0, 3, 4, 8)] == [0, 3, 4, 8]


def test_a_given_source_weight_is_used_where_there_is_no_schedule() -> None:
    given = Objective(schedule=None)
    _, metrics = train(given, 4, weight=0.25)
    assert metrics["source_weight"] == 0.25
    assert np.isfinite(metrics["source_critic_loss"])
    _, metrics = train(given, 4, weight=0.0, offline=jnp.full_like(OFFLINE, jnp.nan))
    assert np.isfinite(metrics["critic_loss"])


def test_the_policy_on_the_host_is_the_one_on_the_device() -> None:
    from segue.rl.networks import Actor

    agent = init_agent(CONFIG, NUM_OBSERVATIONS, NUM_ACTIONS, seed=0)
    observations = np.asarray(OFFLINE[:, :NUM_OBSERVATIONS])
    on_device = Actor((8,), NUM_ACTIONS).apply(agent.actor, observations)
    np.testing.assert_allclose(act(to_numpy(agent.actor), observations), on_device, atol=1e-6)


def test_layer_norm_bounds_the_critic_far_from_the_data() -> None:
    from segue.rl.networks import TwinCritic

    far = jnp.full((1, NUM_OBSERVATIONS), 1e4)
    actions = jnp.zeros((1, NUM_ACTIONS))
    values = []
    for layer_norm in (False, True):
        critic = TwinCritic((8,), layer_norm)
        params = critic.init(jax.random.key(0), far, actions)
        values.append(float(jnp.abs(critic.apply(params, far, actions)[0])[0]))
    assert values[0] > 100.0
    assert values[1] < 10.0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"hidden_widths": ()}, "hidden_widths must name at least one layer"),
        ({"discount": 1.5}, r"discount must be in \[0, 1\], got 1.5"),
        ({"policy_delay": 0}, "policy_delay must be >= 1, got 0"),
        ({"alpha": 0.0}, "alpha must be positive and finite, got 0.0"),
    ],
)
def test_a_wrong_setting_is_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TD3Config(**setting)


def test_a_wrong_clock_is_named() -> None:
    with pytest.raises(ValueError, match="unknown clock 'epochs'"):
        Objective(clock="epochs")  # type: ignore[arg-type]
