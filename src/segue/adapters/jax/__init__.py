"""Smoothing in JAX: traceable schedules, a gradient that skips the source, replay on the device.

Everything here is a pure function of its arguments, so it works under ``jit``, ``scan``, ``vmap``
and ``shard_map``, and the whole ramp is one compilation: the step is traced, not baked in.
"""

from __future__ import annotations

try:
    import jax as _jax  # noqa: F401
except ImportError as error:  # pragma: no cover - needs an environment without jax
    raise ImportError('segue.adapters.jax needs jax: pip install "segue[jax]"') from error

from segue.adapters.jax.clock import SmoothingState, increment, init_state
from segue.adapters.jax.gradient import SmoothedLosses, check_losses, smoothed_value_and_grad
from segue.adapters.jax.replay import ReplayBank, make_bank
from segue.adapters.jax.schedules import never_smooths, tabulated, traceable

__all__ = [
    "ReplayBank",
    "SmoothedLosses",
    "SmoothingState",
    "check_losses",
    "increment",
    "init_state",
    "make_bank",
    "never_smooths",
    "smoothed_value_and_grad",
    "tabulated",
    "traceable",
]
