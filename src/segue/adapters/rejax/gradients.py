"""rejax's own gradients, got from update functions that only apply them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["Probe", "as_loss"]


class Probe(NamedTuple):
    """Stands in for a train state: what rejax would apply is what it gives back."""

    params: Any

    def apply_gradients(self, grads: Any) -> Any:
        """Return the gradients."""
        return grads


def as_loss(
    gradients_of: Callable[[Any, Any, Any], Any], params: Any, ts: Any, batch: Any
) -> jax.Array:
    """A function of the parameters that has rejax's gradient: rejax gives gradients, no losses."""
    gradients = lax.stop_gradient(gradients_of(lax.stop_gradient(params), ts, batch))
    products = jax.tree.map(lambda gradient, leaf: (gradient * leaf).sum(), gradients, params)
    total: jax.Array = sum(jax.tree.leaves(products), jnp.zeros(()))
    return total
