"""Transitions on the device: a fixed offline set, and an online buffer that grows.

A transition is one packed row, so that a batch is one gather. Which rows make a batch is a pure
function of (seed, update), drawn inside the compiled program: a checkpoint needs no random state.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from segue.checks import check_at_least_one

if TYPE_CHECKING:
    from segue.rl.data.dataset import OfflineDataset
    from segue.rl.preprocessing import Preprocessing

__all__ = ["OnlineBuffer", "Transitions", "draw", "pack", "prepare_rows", "unpack"]


class Transitions(NamedTuple):
    """Preprocessed transitions: arrays (NumPy or JAX) that share their leading dimensions.

    Attributes:
        observations: (..., num_observations).
        actions: (..., num_actions), in [-1, 1].
        rewards: (...,).
        terminals: (...,): 1 where the environment ended, 0 elsewhere. A time limit is no end: its
            transition is 0, and the value of its final observation is bootstrapped.
        next_observations: (..., num_observations); at a time limit the true final observation, not
            the first one of the next episode.
    """

    observations: Any
    actions: Any
    rewards: Any
    terminals: Any
    next_observations: Any


def pack(transitions: Transitions) -> np.ndarray:
    """Pack transitions into float32 rows of shape (N, 2 * num_observations + num_actions + 2)."""
    columns = [
        np.asarray(part, np.float32).reshape(len(transitions.rewards), -1) for part in transitions
    ]
    return np.concatenate(columns, axis=1)


def prepare_rows(dataset: OfflineDataset, preprocessing: Preprocessing) -> np.ndarray:
    """Pack an offline data set, seen through the preprocessing that the environment uses too."""
    return pack(
        Transitions(
            preprocessing.observations(dataset.observations),
            preprocessing.scaled_actions(dataset.actions),
            dataset.rewards,
            dataset.terminations,
            preprocessing.observations(dataset.next_observations),
        )
    )


def unpack(rows: Any, num_observations: int, num_actions: int) -> Transitions:
    """Split packed rows into views of their parts."""
    o, a = num_observations, num_actions
    return Transitions(
        rows[..., :o], rows[..., o : o + a], rows[..., o + a], rows[..., o + a + 1],
        rows[..., o + a + 2 :],
    )  # fmt: skip


def draw(rows: jax.Array, num_rows: int | jax.Array, key: jax.Array, batch_size: int) -> jax.Array:
    """Draw ``batch_size`` of the first ``num_rows`` rows, with replacement; for compiled code."""
    return rows[jax.random.randint(key, (batch_size,), 0, num_rows)]


class OnlineBuffer:
    """Ring buffer of packed rows on the device.

    Attributes:
        rows: Shape (capacity, row length), float32; the first ``size`` rows count.
        size: Number of rows that count.
        num_added: Number of transitions ever added.
    """

    def __init__(self, capacity: int, num_observations: int, num_actions: int) -> None:
        self.capacity = check_at_least_one("capacity", capacity)
        self.rows = jnp.zeros((capacity, 2 * num_observations + num_actions + 2), jnp.float32)
        self.num_added = 0

    @property
    def size(self) -> int:
        """Number of rows that count."""
        return min(self.num_added, self.capacity)

    def add(self, rows: np.ndarray) -> None:
        """Add packed rows; the oldest are overwritten once the buffer is full.

        Raises:
            ValueError: If there are more rows than the capacity, of another length, or not finite.
        """
        if rows.ndim != 2 or rows.shape[1] != self.rows.shape[1] or len(rows) > self.capacity:
            raise ValueError(
                f"rows must have shape (at most {self.capacity}, {self.rows.shape[1]}), "
                f"got {rows.shape}"
            )
        if not np.isfinite(rows).all():
            row, column = np.argwhere(~np.isfinite(rows))[0]
            raise ValueError(
                f"transitions must be finite, got {rows[row, column]} in column {column} of "
                f"transition {self.num_added + row}"
            )
        start = self.num_added % self.capacity
        first = min(len(rows), self.capacity - start)  # up to the end of the ring, then from 0 on
        for part, place in ((rows[:first], start), (rows[first:], 0)):
            if len(part):
                self.rows = _write(self.rows, jnp.asarray(part), place)
        self.num_added += len(rows)

    def state_dict(self) -> dict[str, Any]:
        """The rows that count, and where the next one goes."""
        rows = np.array(self.rows[: self.size])
        return {"rows": torch.from_numpy(rows), "num_added": self.num_added}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore saved rows.

        Raises:
            ValueError: If they do not fit this buffer.
        """
        rows, num_added = np.asarray(state["rows"]), int(state["num_added"])
        fits = rows.ndim == 2 and rows.shape[1] == self.rows.shape[1]
        if not fits or len(rows) != min(num_added, self.capacity):
            raise ValueError(
                f"saved rows must be those of a buffer of capacity {self.capacity} and row length "
                f"{self.rows.shape[1]}, got shape {rows.shape} with {num_added} added"
            )
        self.rows = jnp.zeros_like(self.rows).at[: len(rows)].set(rows)
        self.num_added = num_added


@functools.partial(jax.jit, donate_argnums=0)
def _write(rows: jax.Array, new: jax.Array, start: int) -> jax.Array:
    return lax.dynamic_update_slice(rows, new, (start, 0))
