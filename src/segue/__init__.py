"""Segue eases a trained network into a new objective.

It trains on λ·source + (1 − λ)·target while λ falls from 1 to 0 over the first K optimizer steps,
then on the target alone (loss smoothing, arXiv 2607.00634).

>>> import segue
>>> weight = segue.linear_decay(num_smoothing_steps=500)
>>> weight(0), weight(250), weight(500)
(1.0, 0.5, 0.0)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from segue.schedules import (
    DEFAULT_SMOOTHING_SHARE,
    Schedule,
    constant,
    cosine_decay,
    exponential_decay,
    hard_switch,
    join,
    linear_decay,
    polynomial_decay,
    resolve_num_smoothing_steps,
    sigmoid_decay,
)

if TYPE_CHECKING:
    from segue.adapters.transformers import smooth as smooth  # needs an extra
    from segue.blend import Blend
    from segue.losses import LossSum, NonFiniteLossError
    from segue.smoothing import Smoothing
    from segue.sources.anchor import L2SP
    from segue.sources.distillation import Distillation
    from segue.sources.ewc import EWC
    from segue.sources.fisher import diagonal_fisher
    from segue.sources.replay import Replay
    from segue.sources.synthetic import synthetic_text

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_SMOOTHING_SHARE",
    "L2SP",
    "Blend",
    "LossSum",
    "NonFiniteLossError",
    "Replay",
    "Schedule",
    "Smoothing",
    "constant",
    "cosine_decay",
    "exponential_decay",
    "hard_switch",
    "join",
    "linear_decay",
    "polynomial_decay",
    "resolve_num_smoothing_steps",
    "sigmoid_decay",
    "Distillation",
    "EWC",
    "diagonal_fisher",
    "synthetic_text",
]

# What needs torch is imported when it is first used, so that a report can be rebuilt from records
# on a machine without it.
_NEEDS_TORCH = {
    "Blend": "segue.blend",
    "Distillation": "segue.sources.distillation",
    "EWC": "segue.sources.ewc",
    "L2SP": "segue.sources.anchor",
    "LossSum": "segue.losses",
    "NonFiniteLossError": "segue.losses",
    "Replay": "segue.sources.replay",
    "Smoothing": "segue.smoothing",
    "diagonal_fisher": "segue.sources.fisher",
    "synthetic_text": "segue.sources.synthetic",
}

# What needs an extra is not among the names above, which a star import reaches.
_NEEDS_AN_EXTRA = {"smooth": "segue.adapters.transformers"}


def __getattr__(name: str) -> Any:
    home = _NEEDS_TORCH.get(name) or _NEEDS_AN_EXTRA.get(name)
    if home is None:
        raise AttributeError(f"module 'segue' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_NEEDS_AN_EXTRA])
