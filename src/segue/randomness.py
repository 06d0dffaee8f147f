"""Random numbers of our own: the global generators are left as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

__all__ = ["OwnRandomState", "derived_seed", "own_global_random_states"]


def derived_seed(*parts: object) -> int:
    """Turn any parts into a seed below 2**63; different parts give independent streams."""
    # Python's generator hashes a string with SHA-512, so that neighbours do not resemble.
    return random.Random(" ".join(("segue", *map(str, parts)))).getrandbits(63)


class OwnRandomState:
    """A random state that code using torch's global generators draws from for a while.

    Covers the CPU's generator and, once CUDA is in use, the current CUDA device's.
    """

    def __init__(self, seed: int) -> None:
        self._states = {"cpu": torch.Generator().manual_seed(seed).get_state()}
        self._seed = seed

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Exchange the global states for this one, and give them back afterwards."""
        outside = {name: _get(name) for name in _devices()}
        for name in outside:
            if name not in self._states:
                generator = torch.Generator(device=name).manual_seed(self._seed)
                self._states[name] = generator.get_state()
            _set(name, self._states[name])
        try:
            yield
        finally:
            for name, state in outside.items():
                self._states[name] = _get(name)
                _set(name, state)

    def state_dict(self) -> dict[str, Tensor]:
        """The states by device name."""
        return {name: state.clone() for name, state in self._states.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore saved states."""
        # A checkpoint may have been loaded to another device; random states live on the CPU.
        self._states = {name: value.cpu().clone() for name, value in state.items()}


@contextmanager
def own_global_random_states(seed: int) -> Iterator[None]:
    """Seed the global states of torch (CPU), NumPy and Python; give the old ones back afterwards.

    For code of others that draws from them, such as a random transform or a masking collator: what
    it draws depends on ``seed`` alone.
    """
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def _devices() -> list[str]:
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return ["cpu", f"cuda:{torch.cuda.current_device()}"]
    return ["cpu"]


def _get(device: str) -> Tensor:
    return torch.get_rng_state() if device == "cpu" else torch.cuda.get_rng_state(device)


def _set(device: str, state: Tensor) -> None:
    if device == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)
