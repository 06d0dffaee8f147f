"""The JAX ports against Gymnasium's own environments, step by step."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segue.rl.environments import (
    ENVIRONMENTS,
    Discrete,
    EnvironmentState,
    changed_constants,
    make_environment,
    reset,
    step,
)

VERSIONS = {"CartPole": 1, "Acrobot": 1, "Pendulum": 1, "MountainCarContinuous": 0}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "CartPole": {"gravity": ("gravity", 15.0), "force": ("force_mag", 5.0)},
    "Pendulum": {"gravity": ("g", 20.0), "length": ("l", 1.5), "mass": ("m", 0.7)},
    "MountainCarContinuous": {"power": ("power", 0.002)},
    "Acrobot": {"mass_2": ("LINK_MASS_2", 1.4), "length_1": ("LINK_LENGTH_1", 0.8)},
}


def follow(name: str, changes: dict[str, float], reference: gymnasium.Env[Any, Any]) -> int:
    """Step both from the same states with the same actions; return how many episodes ended."""
    spec = make_environment(name)
    constants = changed_constants(spec, changes)
    advance = jax.jit(lambda state, action: spec.advance(state, action, constants))
    observe = jax.jit(spec.observe)
    generator, num_terminated = np.random.default_rng(0), 0
    reference.reset(seed=0)
    core: Any = reference.unwrapped
    for index in range(600):
        if isinstance(spec.action_space, Discrete):
            action: Any = int(generator.integers(spec.action_space.num_actions))
        else:
            space = spec.action_space
            action = generator.uniform(1.5 * space.low, 1.5 * space.high, 1).astype(np.float32)
            if (
                name == "MountainCarContinuous" and index % 150 > 20
            ):  # random alone never gets there
                action = np.array([np.sign(core.state[1]) or 1.0], np.float32)
        before = jnp.asarray(core.state, jnp.float32)
        physical, reward, terminated = advance(before, jnp.asarray(action))
        observation, true_reward, true_terminated, _, _ = reference.step(action)
        np.testing.assert_allclose(observe(physical), observation, rtol=2e-5, atol=2e-5)
        assert float(reward) == pytest.approx(float(true_reward), abs=2e-5, rel=2e-5)
        assert bool(terminated) == true_terminated
        if true_terminated:
            num_terminated += 1
            reference.reset()
    return num_terminated


@pytest.mark.parametrize("name", VERSIONS)
def test_a_port_equals_gymnasium_step_by_step(name: str) -> None:
    reference = gymnasium.make(f"{name}-v{VERSIONS[name]}", max_episode_steps=10_000)
    num_terminated = follow(name, {}, reference)
    assert num_terminated > 0 or name in ("Pendulum", "Acrobot")


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_changed_constant_changes_what_it_says(name: str) -> None:
    reference = gymnasium.make(f"{name}-v{VERSIONS[name]}", max_episode_steps=10_000)
    for attribute, value in ATTRIBUTES[name].values():
        setattr(reference.unwrapped, attribute, value)
    follow(name, {key: value for key, (_, value) in ATTRIBUTES[name].items()}, reference)


@pytest.mark.parametrize("name", VERSIONS)
def test_a_port_declares_what_gymnasium_declares(name: str) -> None:
    spec, reference = make_environment(name), gymnasium.make(f"{name}-v{VERSIONS[name]}")
    assert reference.spec is not None
    assert spec.max_episode_steps == reference.spec.max_episode_steps
    assert reference.observation_space.shape == (spec.observation_size,)
    if isinstance(spec.action_space, Discrete):
        assert reference.action_space.n == spec.action_space.num_actions  # type: ignore[attr-defined]
    else:
        assert float(reference.action_space.low[0]) == spec.action_space.low  # type: ignore[attr-defined]
        assert reference.action_space.shape == (spec.action_space.size,)
    starts = jax.vmap(spec.start)(jax.random.split(jax.random.key(0), 500))
    theirs = np.stack([reference.reset(seed=i)[0] for i in range(200)])
    ours = jax.vmap(spec.observe)(starts)
    np.testing.assert_allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=0.25)
    np.testing.assert_allclose(ours.std(axis=0), theirs.std(axis=0), atol=0.1)


def acrobot_is_up() -> jax.Array:
    return jnp.array([np.pi, 0.0, 0.0, 0.0], jnp.float32)


def test_an_acrobot_above_the_line_is_terminal() -> None:
    spec = make_environment("Acrobot")
    _, reward, terminated = spec.advance(acrobot_is_up(), jnp.int32(1), dict(spec.constants))
    assert bool(terminated)
    assert float(reward) == 0.0


def test_a_time_limit_is_no_terminal_state_and_keeps_its_true_final_observation() -> None:
    spec, constants = make_environment("Pendulum"), dict(ENVIRONMENTS["Pendulum"].constants)
    state, _ = reset(spec, jax.random.key(0))
    state = state._replace(num_steps=jnp.int32(198), episode_return=jnp.float32(-5.0))
    action = jnp.zeros(1)
    state, result = step(spec, state, action, jax.random.key(1), constants)
    assert not bool(result.truncated)
    np.testing.assert_array_equal(result.observation, result.final_observation)
    expected, reward, _ = spec.advance(state.physical, action, constants)
    before = state
    state, result = step(spec, state, action, jax.random.key(1), constants)
    assert (bool(result.truncated), bool(result.terminated)) == (True, False)
    np.testing.assert_allclose(result.final_observation, spec.observe(expected), atol=1e-6)
    fresh, first = reset(spec, jax.random.key(1))
    np.testing.assert_array_equal(result.observation, first)
    jax.tree.map(np.testing.assert_array_equal, state, fresh)
    assert float(result.finished_return) == pytest.approx(float(before.episode_return + reward))


def test_a_terminal_state_at_the_time_limit_is_terminal() -> None:
    spec = make_environment("CartPole")
    falling = jnp.array([0.0, 0.0, 0.2, 3.0], jnp.float32)
    state = EnvironmentState(falling, jnp.int32(499), jnp.float32(0.0))
    _, result = step(spec, state, jnp.int32(0), jax.random.key(0), dict(spec.constants))
    assert (bool(result.terminated), bool(result.truncated)) == (True, False)


def test_a_reward_scale_scales_the_reward() -> None:
    spec = make_environment("CartPole")
    state, _ = reset(spec, jax.random.key(0))
    constants = changed_constants(spec, {"reward_scale": -2.0})
    _, result = step(spec, state, jnp.int32(0), jax.random.key(0), constants)
    assert float(result.reward) == -2.0


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown environment 'Cartpole'; did you mean 'CartPole'"):
        make_environment("Cartpole")
    with pytest.raises(ValueError, match=r"unknown constant of Pendulum 'gravty'.*'gravity'"):
        changed_constants(make_environment("Pendulum"), {"gravty": 1.0})
