"""Counting the optimizer steps that were really applied."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["follow_applied_steps"]


def follow_applied_steps(optimizer: Any, tick: Callable[[], None]) -> Any:
    """Call ``tick`` after every step that ``optimizer`` applied; return the hook's handle.

    A step that a gradient scaler skipped is not applied. With an ordinary optimizer the scaler does
    not call ``step`` then; with a fused one it does, and hands over what it found in ``found_inf``.
    ``tick`` must be a bound method; its object is held weakly.

    Raises:
        TypeError: If ``optimizer`` has no step hooks.
    """
    register = getattr(optimizer, "register_step_post_hook", None)
    if not callable(register):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}; "
            "without one, call smoothing.step() once per optimizer step"
        )
    method = weakref.WeakMethod(tick)

    def after_step(stepped: Any, args: Any, kwargs: Any) -> None:
        bound = method()
        if bound is not None and not _was_skipped(stepped):
            bound()

    return register(after_step)


def _was_skipped(optimizer: Any) -> bool:
    found_inf = getattr(optimizer, "found_inf", None)
    return isinstance(found_inf, torch.Tensor) and bool(found_inf.item())
