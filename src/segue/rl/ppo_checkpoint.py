"""A learner's state as plain arrays, for a checkpoint without pickle, and back, bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["arrays_of", "state_from_arrays"]


def arrays_of(state: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return every leaf of a state as a NumPy array, by its path; random keys as their data."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(_data(leaf)) for path, leaf in leaves}


def state_from_arrays(template: Any, arrays: Mapping[str, Any]) -> Any:
    """Return a state like ``template`` with the leaves of ``arrays``.

    Raises:
        ValueError: If a leaf is missing, unknown or of another shape or type: the arrays are those of
            another configuration.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    paths = [jax.tree_util.keystr(path) for path, _ in leaves]
    if set(paths) != set(arrays):
        differing = sorted(set(paths) ^ set(arrays))
        raise ValueError(f"arrays must be those of this configuration; they differ in {differing}")
    found = []
    for path, (_, leaf) in zip(paths, leaves, strict=True):
        value, like = np.asarray(arrays[path]), _data(leaf)
        if (value.shape, value.dtype) != (like.shape, like.dtype):
            raise ValueError(
                f"{path} must be {like.dtype} of shape {like.shape}, "
                f"got {value.dtype} of shape {value.shape}"
            )
        array = jnp.asarray(value)
        found.append(jax.random.wrap_key_data(array) if _is_key(leaf) else array)
    return jax.tree_util.tree_unflatten(structure, found)


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf
