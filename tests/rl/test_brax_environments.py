"""Brax's tasks: the same trajectories as Brax's own, gravity as data, a time limit told apart."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segue.rl.environments import Box, changed_constants, make_environment, reset, step

NAME = "inverted_pendulum"


@functools.cache
def ours() -> Any:
    spec = make_environment(f"brax/{NAME}")
    return spec, jax.jit(lambda *arguments: step(spec, *arguments))


def constants(**changes: float) -> dict[str, Any]:
    return {k: jnp.float32(v) for k, v in changed_constants(ours()[0], changes).items()}


def test_a_trajectory_is_brax_s_own() -> None:
    from brax import envs

    task = envs.get_environment(NAME, backend="spring")
    advance = jax.jit(task.step)
    spec, take = ours()
    assert spec.action_space == Box(1, -1.0, 1.0)
    state, observation = reset(spec, jax.random.key(3))
    theirs = jax.jit(task.reset)(jax.random.key(3))
    np.testing.assert_array_equal(observation, theirs.obs)
    for index in range(30):
        action = jnp.sin(jnp.float32(index))[None]
        state, result = take(state, action, jax.random.key(index), constants())
        theirs = advance(theirs, action)
        np.testing.assert_allclose(result.final_observation, theirs.obs, rtol=1e-5, atol=1e-6)
        assert float(result.reward) == float(theirs.reward)
        assert bool(result.terminated) == bool(theirs.done)
        if result.terminated:
            break
    assert index > 3


def test_gravity_is_data_and_pulls_the_hopper_down() -> None:
    spec = make_environment("brax/hopper")
    take = jax.jit(lambda *arguments: step(spec, *arguments))
    start, _ = reset(spec, jax.random.key(3))
    heights = {}
    for gravity in (-9.81, -30.0, 0.0):
        changed = changed_constants(spec, {"gravity": gravity})
        given = {name: jnp.float32(value) for name, value in changed.items()}
        state = start
        for index in range(6):
            state, result = take(state, jnp.zeros(3), jax.random.key(index), given)
        heights[gravity] = float(result.final_observation[0])
    assert heights[-30.0] < heights[-9.81] < heights[0.0]


def test_a_time_limit_is_no_terminal_state() -> None:
    spec, take = ours()
    state, _ = reset(spec, jax.random.key(3))
    late = state._replace(num_steps=jnp.int32(spec.max_episode_steps - 1))
    following, result = take(late, jnp.zeros(1), jax.random.key(0), constants())
    assert bool(result.truncated)
    assert not bool(result.terminated)
    assert int(following.num_steps) == 0
    assert not np.array_equal(result.final_observation, result.observation)


def test_an_unknown_task_or_backend_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"unknown Brax environment 'hoper'; did you mean 'hopper'"
    ):
        make_environment("brax/hoper")
    with pytest.raises(ValueError, match=r"unknown backend 'sprng'; did you mean 'spring'"):
        make_environment("brax/hopper:sprng")
