"""One forward for both objectives: a batch of target and source examples with their weights."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from segue.batches import batch_size, concatenate, map_tensors
from segue.losses import Term
from segue.objective import joint_example_weights, num_mixed_source_examples

__all__ = ["Blend", "BlendMode", "ExampleSource", "joint_batch", "mixed_batch", "target_batch"]

BlendMode = Literal["joint", "mixed"]
Observe = Callable[[Term | None, Term | None], tuple[bool, bool]]
"""Takes the raw mean target and source losses; returns which of them to keep."""


class ExampleSource(Protocol):
    """Something that serves source examples, such as :class:`segue.Replay`."""

    def __next__(self) -> Any:
        """Return the next source batch."""
        ...

    def take(self, num_examples: int) -> Any:
        """Return the next ``num_examples`` source examples."""
        ...


@dataclass(frozen=True, slots=True)
class Blend:
    """A batch for one forward, target examples first, then source examples.

    Attributes:
        batch: The examples, with the structure of the target batch.
        num_target: Rows ``[:num_target]`` are target examples.
        num_source: The last ``num_source`` rows are source examples.
        target_weight: Weight of every target example's loss.
        source_weight: Weight of every source example's loss.
    """

    batch: Any
    num_target: int
    num_source: int
    target_weight: float
    source_weight: float
    observe: Observe

    def weights(self, like: Tensor) -> Tensor:
        """Per-example weights, shape ``(num_target + num_source,)``, with ``like``'s dtype."""
        weights = like.new_full((self.num_target + self.num_source,), self.target_weight)
        weights[self.num_target :] = self.source_weight
        return weights

    def loss(self, losses: Tensor) -> Tensor:
        """Reduce per-example losses to the blended loss, and log both raw means.

        Args:
            losses: Shape ``(num_target + num_source,)``, one unreduced loss per row of ``batch``
                (``reduction="none"``). For sequences use each row's mean: a token mean over the
                batch would need a fixed expected number of tokens to stay unbiased.

        Raises:
            ValueError: If the shape is another.
            NonFiniteLossError: As in :meth:`segue.Smoothing.mix`.
        """
        expected = (self.num_target + self.num_source,)
        if tuple(losses.shape) != expected:
            raise ValueError(
                f"losses must have one loss per example, shape {expected}, "
                f'got {tuple(losses.shape)}; use reduction="none"'
            )
        target, source = losses[: self.num_target], losses[self.num_target :]
        keep_target, keep_source = self.observe(
            Term(target.mean(), self.num_target) if self.num_target else None,
            Term(source.mean(), self.num_source) if self.num_source else None,
        )
        if not (keep_target and keep_source):
            # Both went through one forward: even with weight 0 the rows of one term would carry
            # 0 * NaN into the gradient of the other. backward() works on the constant.
            return losses.new_zeros((), requires_grad=True)
        if self.num_source == 0:
            return losses.mean()  # bitwise the plain loop's reduction
        return self.target_weight * target.sum() + self.source_weight * source.sum()


def joint_batch(
    target: Any, source: ExampleSource, source_weight: float, observe: Observe
) -> Blend:
    """All target examples and one source batch."""
    num_target = _target_size(target)
    drawn = next(source)
    num_source = batch_size(drawn, "source")
    weights = joint_example_weights(source_weight, num_target, num_source)
    return Blend(concatenate(target, drawn), num_target, num_source, *weights, observe)


def mixed_batch(
    target: Any,
    source: ExampleSource,
    source_weight: float,
    draw: random.Random,
    observe: Observe,
) -> Blend:
    """As many examples as the target batch has; in expectation a share λ are the source's.

    The last rows of the target batch make room, so the target loader must shuffle.
    """
    size = _target_size(target)
    num_source = num_mixed_source_examples(source_weight, size, draw)
    if num_source == 0:
        return target_batch(target, observe)
    drawn = source.take(num_source)
    kept = map_tensors(lambda tensor: tensor[: size - num_source], target)
    both = concatenate(kept, drawn)
    return Blend(both, size - num_source, num_source, 1.0 / size, 1.0 / size, observe)


def target_batch(target: Any, observe: Observe) -> Blend:
    """The target batch alone, as after the ramp."""
    size = _target_size(target)
    return Blend(target, size, 0, 1.0 / size, 0.0, observe)


def _target_size(target: Any) -> int:
    size = batch_size(target, "target")
    if size == 0:
        raise ValueError("target must hold at least one example, got an empty batch")
    return size
