r"""The formula, and nothing else: :math:`L_t = \lambda_t L_{source} + (1 - \lambda_t) L_{target}`.

Every way to execute it is built from these three functions, and JAX's twin is tested against them.
"""

from __future__ import annotations

import math
import random
from typing import Any, TypeVar, cast

__all__ = ["interpolate", "joint_example_weights", "num_mixed_source_examples"]


LossT = TypeVar("LossT")


def interpolate(source_weight: Any, source_loss: LossT, target_loss: LossT) -> LossT:
    """Blend two losses (numbers or arrays); ``source_weight`` is always the source's share.

    Source: arXiv 2607.00634, the interpolated objective.

    >>> interpolate(0.25, 4.0, 8.0)
    7.0
    """
    blended = source_weight * source_loss + (1.0 - source_weight) * target_loss
    return cast(LossT, blended)


def joint_example_weights(
    source_weight: float, num_target: int, num_source: int
) -> tuple[float, float]:
    """Weights of one target and of one source example when both pass through in one forward.

    The blend of the two means: (1 − λ)/B for each of B target examples, λ/R for each of R source
    examples.

    >>> joint_example_weights(0.5, num_target=4, num_source=8)
    (0.125, 0.0625)
    """
    return (1.0 - source_weight) / num_target, source_weight / num_source


def num_mixed_source_examples(source_weight: float, batch_size: int, draw: random.Random) -> int:
    """How many examples of a batch of unchanged size are the source's: ⌊λB⌋ + Bernoulli(frac(λB)).

    Its expectation is exactly λB, so that weighting every example by 1/B is unbiased for the blend
    of the two per-example means.

    >>> num_mixed_source_examples(0.5, 32, random.Random(0))
    16
    """
    whole = math.floor(source_weight * batch_size)
    fraction = source_weight * batch_size - whole
    return whole + int(draw.random() < fraction)
