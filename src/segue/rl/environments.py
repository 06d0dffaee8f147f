"""Classic control in JAX: batched, compiled, and with their constants passed as data.

Ports of Gymnasium's CartPole-v1, Acrobot-v1, Pendulum-v1 and MountainCarContinuous-v0, tested against
them step by step. Two differences serve learning: a time limit is told apart from a terminal state
(its true final observation is returned, so that a learner can bootstrap), and the constants of the
task (gravity, forces, lengths, the reward's scale) are an argument of every step, so that a *changing
task* switches them during training without compiling anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from segue.checks import unknown_name
from segue.rl.brax_environments import BRAX_PREFIX, brax_environment

__all__ = [
    "ENVIRONMENTS",
    "Box",
    "Discrete",
    "EnvironmentState",
    "EnvironmentSpec",
    "StepResult",
    "changed_constants",
    "make_environment",
    "reset",
    "step",
    "step_or_start",
]

Constants = dict[str, Any]
"""Physical constants by name: floats or 0-d arrays; data, not part of the program."""


@dataclass(frozen=True)
class Discrete:
    """Actions 0 to ``num_actions - 1``."""

    num_actions: int


@dataclass(frozen=True)
class Box:
    """Actions of ``size`` numbers between ``low`` and ``high``; others are clipped to it."""

    size: int
    low: float
    high: float


@dataclass(frozen=True)
class EnvironmentSpec:
    """A task as pure functions of one environment; :func:`step` adds time limit and reset.

    Attributes:
        name: Gymnasium's id without the version.
        observation_size: Numbers in an observation.
        action_space: :class:`Discrete` or :class:`Box`.
        max_episode_steps: Time limit.
        constants: Constants of the task; ``reward_scale`` multiplies the reward.
        start: ``start(key)`` → physical state: an array, or any pytree of arrays.
        advance: ``advance(physical, action, constants)`` → next state, reward, terminated.
        observe: ``observe(physical)`` → observation, of shape [``observation_size``].
    """

    name: str
    observation_size: int
    action_space: Discrete | Box
    max_episode_steps: int
    constants: Mapping[str, float]
    start: Callable[[jax.Array], Any]
    advance: Callable[[Any, jax.Array, Constants], tuple[Any, jax.Array, jax.Array]]
    observe: Callable[[Any], jax.Array]


class EnvironmentState(NamedTuple):
    """State of one environment (or, with a leading dimension, of many).

    Attributes:
        physical: State of the physics.
        num_steps: Environment steps since the start of the episode.
        episode_return: Sum of rewards since then.
    """

    physical: Any
    num_steps: jax.Array
    episode_return: jax.Array


class StepResult(NamedTuple):
    """What one environment step gave.

    Attributes:
        observation: What to act on next: of the new episode where one ended.
        final_observation: What this step really led to, before any reset.
        reward: Reward of the step.
        terminated: The task ended the episode: nothing follows, its value is 0.
        truncated: The time limit did: its value is that of ``final_observation``.
        finished_return: Return of the episode that ended, else 0.
    """

    observation: jax.Array
    final_observation: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    finished_return: jax.Array


def reset(spec: EnvironmentSpec, key: jax.Array) -> tuple[EnvironmentState, jax.Array]:
    """Start an episode; return state and first observation."""
    physical = spec.start(key)
    state = EnvironmentState(physical, jnp.int32(0), jnp.float32(0.0))
    return state, spec.observe(physical)


def step(
    spec: EnvironmentSpec,
    state: EnvironmentState,
    action: jax.Array,
    key: jax.Array,
    constants: Constants,
) -> tuple[EnvironmentState, StepResult]:
    """Advance one environment; an episode that ends is followed by a new one, drawn with ``key``."""
    return step_or_start(spec, state, action, spec.start(key), constants)


def step_or_start(
    spec: EnvironmentSpec,
    state: EnvironmentState,
    action: jax.Array,
    start: Any,
    constants: Constants,
) -> tuple[EnvironmentState, StepResult]:
    """Like :func:`step`, with the physical state of the next episode's start drawn beforehand."""
    physical, reward, terminated = spec.advance(state.physical, action, constants)
    reward = reward * constants["reward_scale"]
    num_steps = state.num_steps + 1
    truncated = (num_steps >= spec.max_episode_steps) & ~terminated
    episode_return = state.episode_return + reward
    after = EnvironmentState(physical, num_steps, episode_return)
    fresh = EnvironmentState(start, jnp.int32(0), jnp.float32(0.0))
    done = terminated | truncated
    following = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, after)
    final_observation = spec.observe(physical)
    result = StepResult(
        observation=jnp.where(done, spec.observe(start), final_observation),
        final_observation=final_observation,
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        finished_return=jnp.where(done, episode_return, 0.0),
    )
    return following, result


def make_environment(name: str) -> EnvironmentSpec:
    """Return the task of that name; ``brax/NAME`` or ``brax/NAME:BACKEND`` is one of Brax's.

    Raises:
        ImportError: If it is one of Brax's and brax is not installed.
        ValueError: If there is none.

    >>> make_environment("CartPole").action_space
    Discrete(num_actions=2)
    """
    if name.startswith(BRAX_PREFIX):
        return brax_environment(*name.removeprefix(BRAX_PREFIX).split(":", 1))
    if name not in ENVIRONMENTS:
        raise ValueError(unknown_name("environment", name, ENVIRONMENTS))
    return ENVIRONMENTS[name]


def changed_constants(spec: EnvironmentSpec, changes: Mapping[str, float]) -> Constants:
    """Return the constants of a task, some of them changed.

    Raises:
        ValueError: If the task has no such constant.

    >>> changed_constants(make_environment("Pendulum"), {"gravity": 20.0})["gravity"]
    20.0
    """
    for name in changes:
        if name not in spec.constants:
            raise ValueError(unknown_name(f"constant of {spec.name}", name, spec.constants))
    return {name: float(changes.get(name, value)) for name, value in spec.constants.items()}


# -- CartPole (Barto, Sutton and Anderson 1983) -----------------------------------------------

_MAX_ANGLE, _MAX_POSITION = 12 * 2 * np.pi / 360, 2.4


def _cart_pole(
    state: jax.Array, action: jax.Array, constants: Constants
) -> tuple[jax.Array, jax.Array, jax.Array]:
    _, velocity, angle, angular_velocity = state
    pole_mass, length, tau = constants["pole_mass"], constants["pole_half_length"], 0.02
    total_mass = constants["cart_mass"] + pole_mass
    force = jnp.where(action == 1, constants["force"], -constants["force"])
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    push = (force + pole_mass * length * angular_velocity**2 * sine) / total_mass
    angular_acceleration = (constants["gravity"] * sine - cosine * push) / (
        length * (4.0 / 3.0 - pole_mass * cosine**2 / total_mass)
    )
    acceleration = push - pole_mass * length * angular_acceleration * cosine / total_mass
    after = state + tau * jnp.stack(
        [velocity, acceleration, angular_velocity, angular_acceleration]
    )
    terminated = (jnp.abs(after[0]) > _MAX_POSITION) | (jnp.abs(after[2]) > _MAX_ANGLE)
    return after, jnp.float32(1.0), terminated


# -- Acrobot (Sutton 1996; the equations of Sutton and Barto's book) ---------------------------


def _acrobot_derivative(state: jax.Array, torque: jax.Array, constants: Constants) -> jax.Array:
    angle1, angle2, speed1, speed2 = state
    mass1, mass2, length = constants["mass_1"], constants["mass_2"], constants["length_1"]
    centre1 = centre2 = 0.5
    inertia, gravity = 1.0, constants["gravity"]
    cosine, sine = jnp.cos(angle2), jnp.sin(angle2)
    d1 = (
        mass1 * centre1**2
        + mass2 * (length**2 + centre2**2 + 2 * length * centre2 * cosine)
        + 2 * inertia
    )
    d2 = mass2 * (centre2**2 + length * centre2 * cosine) + inertia
    phi2 = mass2 * centre2 * gravity * jnp.cos(angle1 + angle2 - np.pi / 2)
    phi1 = (
        -mass2 * length * centre2 * speed2 * (speed2 + 2 * speed1) * sine
        + (mass1 * centre1 + mass2 * length) * gravity * jnp.cos(angle1 - np.pi / 2)
        + phi2
    )
    acceleration2 = (
        torque + d2 / d1 * phi1 - mass2 * length * centre2 * speed1**2 * sine - phi2
    ) / (mass2 * centre2**2 + inertia - d2**2 / d1)
    acceleration1 = -(d2 * acceleration2 + phi1) / d1
    return jnp.stack([speed1, speed2, acceleration1, acceleration2])


def _acrobot(
    state: jax.Array, action: jax.Array, constants: Constants
) -> tuple[jax.Array, jax.Array, jax.Array]:
    torque, dt = (action - 1.0) * constants["torque"], 0.2

    def slope(at: jax.Array) -> jax.Array:
        return _acrobot_derivative(at, torque, constants)

    first = slope(state)
    second = slope(state + dt / 2 * first)
    third = slope(state + dt / 2 * second)
    fourth = slope(state + dt * third)
    after = state + dt / 6 * (first + 2 * second + 2 * third + fourth)
    angles = _wrapped(after[:2])
    limits = np.array([4 * np.pi, 9 * np.pi], np.float32)
    speeds = jnp.clip(after[2:], -limits, limits)
    terminated = -jnp.cos(angles[0]) - jnp.cos(angles[0] + angles[1]) > 1.0
    reward = jnp.where(terminated, 0.0, -1.0)
    return jnp.concatenate([angles, speeds]), reward, terminated


def _acrobot_observation(state: jax.Array) -> jax.Array:
    cosines, sines = jnp.cos(state[:2]), jnp.sin(state[:2])
    return jnp.stack([cosines[0], sines[0], cosines[1], sines[1], state[2], state[3]])


# -- Pendulum ----------------------------------------------------------------------------------


def _pendulum(
    state: jax.Array, action: jax.Array, constants: Constants
) -> tuple[jax.Array, jax.Array, jax.Array]:
    angle, speed = state
    mass, length, dt = constants["mass"], constants["length"], 0.05
    torque = jnp.clip(action[0], -2.0, 2.0)
    reward = -(_wrapped(angle) ** 2 + 0.1 * speed**2 + 0.001 * torque**2)
    acceleration = (
        3 * constants["gravity"] / (2 * length) * jnp.sin(angle)
        + 3.0 / (mass * length**2) * torque * constants["torque"]
    )
    speed = jnp.clip(speed + acceleration * dt, -8.0, 8.0)
    return jnp.stack([angle + speed * dt, speed]), reward, jnp.asarray(False)


def _pendulum_observation(state: jax.Array) -> jax.Array:
    return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])


# -- MountainCarContinuous (Moore 1990) --------------------------------------------------------


def _mountain_car(
    state: jax.Array, action: jax.Array, constants: Constants
) -> tuple[jax.Array, jax.Array, jax.Array]:
    position, velocity = state
    force = jnp.clip(action[0], -1.0, 1.0)
    velocity = velocity + force * constants["power"] - constants["gravity"] * jnp.cos(3 * position)
    velocity = jnp.clip(velocity, -0.07, 0.07)
    position = jnp.clip(position + velocity, -1.2, 0.6)
    velocity = jnp.where((position <= -1.2) & (velocity < 0), 0.0, velocity)
    terminated = (position >= 0.45) & (velocity >= 0.0)
    # The action that was sent costs, as in Gymnasium, and not the one clipped to its bounds.
    reward = jnp.where(terminated, 100.0, 0.0) - 0.1 * action[0] ** 2
    return jnp.stack([position, velocity]), reward, terminated


def _wrapped(angle: jax.Array) -> jax.Array:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _uniform(low: tuple[float, ...], high: tuple[float, ...]) -> Callable[[jax.Array], jax.Array]:
    lows, highs = np.asarray(low, np.float32), np.asarray(high, np.float32)
    return lambda key: jax.random.uniform(key, lows.shape, minval=lows, maxval=highs)


ENVIRONMENTS: dict[str, EnvironmentSpec] = {
    "CartPole": EnvironmentSpec(
        "CartPole", 4, Discrete(2), 500,
        {
            "gravity": 9.8, "cart_mass": 1.0, "pole_mass": 0.1, "pole_half_length": 0.5,
            "force": 10.0, "reward_scale": 1.0,
        },
        _uniform((-0.05,) * 4, (0.05,) * 4), _cart_pole, lambda state: state,
    ),
    "Acrobot": EnvironmentSpec(
        "Acrobot", 6, Discrete(3), 500,
        {
            "gravity": 9.8, "mass_1": 1.0, "mass_2": 1.0, "length_1": 1.0, "torque": 1.0,
            "reward_scale": 1.0,
        },
        _uniform((-0.1,) * 4, (0.1,) * 4), _acrobot, _acrobot_observation,
    ),
    "Pendulum": EnvironmentSpec(
        "Pendulum", 3, Box(1, -2.0, 2.0), 200,
        {"gravity": 10.0, "mass": 1.0, "length": 1.0, "torque": 1.0, "reward_scale": 1.0},
        _uniform((-np.pi, -1.0), (np.pi, 1.0)), _pendulum, _pendulum_observation,
    ),
    "MountainCarContinuous": EnvironmentSpec(
        "MountainCarContinuous", 2, Box(1, -1.0, 1.0), 999,
        {"gravity": 0.0025, "power": 0.0015, "reward_scale": 1.0},
        _uniform((-0.6, 0.0), (-0.4, 0.0)), _mountain_car, lambda state: state,
    ),
}  # fmt: skip
"""Tasks by name."""
