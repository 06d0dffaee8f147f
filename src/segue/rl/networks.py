"""The networks of TD3: a deterministic actor and twin critics, as multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

try:
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
except ImportError as error:  # pragma: no cover - needs an environment without jax
    raise ImportError('segue.rl needs jax, flax and optax: pip install "segue[rl]"') from error

__all__ = ["Actor", "TwinCritic", "act", "to_numpy"]


class _MLP(nn.Module):
    """Hidden layers of ReLU units and a linear output; optionally normalised before each ReLU."""

    hidden_widths: tuple[int, ...]
    num_outputs: int
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.hidden_widths:
            x = nn.Dense(width)(x)
            if self.layer_norm:
                x = nn.LayerNorm()(x)
            x = nn.relu(x)
        return nn.Dense(self.num_outputs)(x)


class Actor(nn.Module):
    """Deterministic policy: preprocessed observation → action in [-1, 1].

    Attributes:
        hidden_widths: Units of each hidden layer.
        num_actions: Dimensions of the action.
    """

    hidden_widths: tuple[int, ...]
    num_actions: int

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        """Map observations of shape (..., num_observations) to actions (..., num_actions)."""
        return jnp.tanh(_MLP(self.hidden_widths, self.num_actions, name="mlp")(observations))


class TwinCritic(nn.Module):
    """Two independent action values; the smaller one is the target's, the first the actor's.

    Attributes:
        hidden_widths: Units of each hidden layer.
        layer_norm: Normalise hidden layers, which bounds what the critic can say of actions that the
            data do not show (arXiv 2302.02948).
    """

    hidden_widths: tuple[int, ...]
    layer_norm: bool = False

    @nn.compact
    def __call__(self, observations: jax.Array, actions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return both values, each of shape (...,)."""
        first, second = (
            _MLP(self.hidden_widths, 1, self.layer_norm, name=name) for name in ("first", "second")
        )
        inputs = jnp.concatenate([observations, actions], axis=-1)
        return first(inputs)[..., 0], second(inputs)[..., 0]


def to_numpy(params: Any) -> Any:
    """Copy a pytree of parameters to the host."""
    return jax.tree.map(np.asarray, params)


def act(params: Mapping[str, Any], observations: np.ndarray) -> np.ndarray:
    """The actor's forward pass on the host, which for one observation is faster than a device call.

    Args:
        params: Of one :class:`Actor`, as NumPy arrays.
        observations: Preprocessed, float32, shape (..., num_observations).

    Returns:
        Actions in [-1, 1], shape (..., num_actions).
    """
    layers = params["params"]["mlp"]
    x = observations
    last = len(layers) - 1
    for index in range(last + 1):
        layer = layers[f"Dense_{index}"]
        x = x @ layer["kernel"] + layer["bias"]
        x = np.maximum(x, 0.0) if index < last else np.tanh(x)
    return x
