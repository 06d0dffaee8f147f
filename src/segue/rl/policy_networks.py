"""Stochastic policies and value functions for policy-gradient learners."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from segue.rl.environments import Box, Discrete

try:
    from flax import linen as nn
except ImportError as error:  # pragma: no cover - needs an environment without flax
    raise ImportError('segue.rl needs flax: pip install "segue[rl]"') from error

__all__ = ["ActorCritic", "Distribution", "distribution_for"]

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"tanh": jnp.tanh, "swish": nn.swish}
_LOG_TWO_PI = math.log(2 * math.pi)


class ActorCritic(nn.Module):
    """Separate networks for the policy's parameters and for the value.

    Attributes:
        num_outputs: Parameters of the policy: logits, or means.
        has_scale: Whether the policy has a log standard deviation per action, independent of the
            state.
        hidden_sizes: Widths of the hidden layers, of both networks.
        activation: ``tanh`` or ``swish``.
    """

    num_outputs: int
    has_scale: bool
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"

    def setup(self) -> None:
        """Make the layers: orthogonal, the policy's last one small so that it starts near uniform."""

        def network(num_outputs: int, scale: float, name: str) -> list[nn.Dense]:
            sizes = [*self.hidden_sizes, num_outputs]
            scales = [math.sqrt(2.0)] * len(self.hidden_sizes) + [scale]
            return [
                nn.Dense(size, kernel_init=nn.initializers.orthogonal(gain), name=f"{name}_{index}")
                for index, (size, gain) in enumerate(zip(sizes, scales, strict=True))
            ]

        self.actor = network(self.num_outputs, 0.01, "actor")
        self.critic = network(1, 1.0, "critic")
        if self.has_scale:
            self.log_scale = self.param("log_scale", nn.initializers.zeros, (self.num_outputs,))

    def __call__(self, observations: jax.Array) -> tuple[Any, jax.Array]:
        """Return the policy's parameters and the values, of shapes [..., A] and [...]."""
        return self.policy(observations), self.value(observations)

    def policy(self, observations: jax.Array) -> Any:
        """Return logits, or means and log standard deviations."""
        outputs = self._through(self.actor, observations)
        return (outputs, self.log_scale) if self.has_scale else outputs

    def value(self, observations: jax.Array) -> jax.Array:
        """Return the values, of shape [...]."""
        return self._through(self.critic, observations)[..., 0]

    def _through(self, layers: list[nn.Dense], inputs: jax.Array) -> jax.Array:
        activation = _ACTIVATIONS[self.activation]
        for layer in layers[:-1]:
            inputs = activation(layer(inputs))
        return layers[-1](inputs)


class Distribution(NamedTuple):
    """A family of distributions over actions, as functions of the policy's parameters.

    Attributes:
        num_outputs: Numbers the network gives per state.
        has_scale: Whether there is a log standard deviation besides.
        sample: ``sample(parameters, key)`` → actions.
        mode: ``mode(parameters)`` → the likeliest actions.
        log_prob: ``log_prob(parameters, actions)`` → log-probabilities, of shape [...].
        entropy: ``entropy(parameters)``, of shape [...].
        divergence: ``divergence(before, after)``: KL(before ‖ after), of shape [...].
    """

    num_outputs: int
    has_scale: bool
    sample: Callable[[Any, jax.Array], jax.Array]
    mode: Callable[[Any], jax.Array]
    log_prob: Callable[[Any, jax.Array], jax.Array]
    entropy: Callable[[Any], jax.Array]
    divergence: Callable[[Any, Any], jax.Array]


def distribution_for(action_space: Discrete | Box) -> Distribution:
    """Return a categorical policy for discrete actions, a diagonal Gaussian for a box.

    Raises:
        TypeError: If the action space is of another kind.
    """
    if isinstance(action_space, Discrete):
        return Distribution(
            action_space.num_actions, False, _sample_category, lambda p: p.argmax(axis=-1),
            _category_log_prob, _category_entropy, _category_divergence,
        )  # fmt: skip
    if isinstance(action_space, Box):
        return Distribution(
            action_space.size, True, _sample_normal, lambda p: p[0],
            _normal_log_prob, _normal_entropy, _normal_divergence,
        )  # fmt: skip
    raise TypeError(
        f"action_space must be Discrete or Box, got {type(action_space).__name__}: {action_space!r}"
    )


def _sample_category(logits: jax.Array, key: jax.Array) -> jax.Array:
    return jax.random.categorical(key, logits)


def _category_log_prob(logits: jax.Array, actions: jax.Array) -> jax.Array:
    logs = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(logs, actions[..., None], axis=-1)[..., 0]


def _category_entropy(logits: jax.Array) -> jax.Array:
    logs = jax.nn.log_softmax(logits)
    return -(jnp.exp(logs) * logs).sum(axis=-1)


def _category_divergence(before: jax.Array, after: jax.Array) -> jax.Array:
    logs = jax.nn.log_softmax(before)
    return (jnp.exp(logs) * (logs - jax.nn.log_softmax(after))).sum(axis=-1)


def _sample_normal(parameters: tuple[jax.Array, jax.Array], key: jax.Array) -> jax.Array:
    mean, log_scale = parameters
    return mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape)


def _normal_log_prob(parameters: tuple[jax.Array, jax.Array], actions: jax.Array) -> jax.Array:
    mean, log_scale = parameters
    standard = (actions - mean) * jnp.exp(-log_scale)
    return -(0.5 * standard**2 + log_scale + 0.5 * _LOG_TWO_PI).sum(axis=-1)


def _normal_entropy(parameters: tuple[jax.Array, jax.Array]) -> jax.Array:
    mean, log_scale = parameters
    each = log_scale.sum() + 0.5 * mean.shape[-1] * (1.0 + _LOG_TWO_PI)
    return jnp.broadcast_to(each, mean.shape[:-1])


def _normal_divergence(
    before: tuple[jax.Array, jax.Array], after: tuple[jax.Array, jax.Array]
) -> jax.Array:
    (mean, log_scale), (other_mean, other_log_scale) = before, after
    ratio = jnp.exp(2 * (log_scale - other_log_scale))
    distance = ((mean - other_mean) * jnp.exp(-other_log_scale)) ** 2
    return 0.5 * (ratio + distance - 1.0 - 2 * (log_scale - other_log_scale)).sum(axis=-1)
