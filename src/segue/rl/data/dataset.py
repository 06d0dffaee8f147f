"""The one form in memory that every file is read into."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["ENDS", "FIELDS", "DatasetError", "OfflineDataset"]

FIELDS = (
    "observations", "actions", "rewards", "next_observations", "terminations", "truncations",
)  # fmt: skip
"""Arrays of a data set, in the order of its constructor."""
ENDS = ("terminations", "truncations")
"""Those of them that are flags."""


class DatasetError(ValueError):
    """A data set is not what training needs; names the field and, where there is one, the index."""


@dataclass(frozen=True, eq=False)
class OfflineDataset:
    """Transitions of whole episodes, one after the other, as the environment gave them.

    Nothing is normalised or scaled: see :class:`segue.rl.preprocessing.Preprocessing`.

    Attributes:
        observations: Shape (N, num_observations), float32.
        actions: Shape (N, num_actions), float32, in the environment's range.
        rewards: Shape (N,), float32.
        next_observations: Shape (N, num_observations), float32; at the end of an episode its true
            final observation.
        terminations: Shape (N,), bool: the environment ended, and nothing comes after.
        truncations: Shape (N,), bool: the episode was cut off, by a time limit or by the recording;
            the value of its final observation is bootstrapped.
        metadata: What is known of its origin, such as ``environment_id`` and versions; JSON types.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_observations: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def environment_id(self) -> str | None:
        """Gymnasium's id of the environment that it comes from, if it says."""
        value = self.metadata.get("environment_id")
        return None if value is None else str(value)

    @property
    def episode_ends(self) -> np.ndarray:
        """Indices of the last transition of each episode."""
        return np.flatnonzero(self.terminations | self.truncations)

    def episodes(self) -> list[slice]:
        """Return the transitions of each episode."""
        stops = self.episode_ends + 1
        starts = np.concatenate([[0], stops[:-1]])
        return [slice(int(a), int(b)) for a, b in zip(starts, stops, strict=True)]

    def returns(self) -> np.ndarray:
        """Sum of rewards of each episode, float64."""
        rewards = self.rewards.astype(np.float64)
        return np.array([rewards[episode].sum() for episode in self.episodes()])

    def fingerprint(self) -> str:
        """Hash of all transitions."""
        digest = hashlib.sha256()
        for name in FIELDS:
            array = np.ascontiguousarray(getattr(self, name))
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()
