"""A replay bank on the device, drawn from by a pure function of seed and position."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segue.adapters.jax.schedules import LAST_STEP, Step, as_step
from segue.checks import check_at_least_one, check_count

__all__ = ["ReplayBank", "make_bank"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ReplayBank:
    """Retained source examples on the device; made by :func:`make_bank`.

    The stream of examples is the concatenation of shuffled passes over the bank; pass ``p`` is a
    permutation drawn from ``(seed, p)`` alone. A pytree: pass it to compiled functions as an
    argument, so that the bank is not baked into the program.

    Attributes:
        examples: Pytree of arrays that share their first dimension.
        seed: 0-d uint32.
        batch_size: Examples of a global batch.
    """

    examples: Any
    seed: jax.Array
    batch_size: int = field(metadata={"static": True})

    @property
    def num_examples(self) -> int:
        """Size of the bank."""
        return int(jax.tree.leaves(self.examples)[0].shape[0])

    def draw(self, index: Step, *, shard: Step = 0, num_shards: int = 1) -> Any:
        """Return batch number ``index`` of the stream, or one shard of it.

        Args:
            index: Which batch; the optimizer step, for one batch a step. Traced or not.
            shard: Which slice of the global batch, such as ``lax.axis_index("data")``, or
                ``rank * num_micro_batches + micro_batch``.
            num_shards: Number of slices.

        Returns:
            The examples, ``batch_size // num_shards`` of them.

        Raises:
            ValueError: If ``batch_size`` is not a multiple of ``num_shards``.
        """
        if self.batch_size % check_at_least_one("num_shards", num_shards):
            raise ValueError(
                f"batch_size must be a multiple of num_shards ({num_shards}), got {self.batch_size}"
            )
        size, num = self.batch_size // num_shards, self.num_examples
        cycle, place = jnp.divmod(as_step(index), num)  # so that nothing overflows 32 bits
        first_pass = cycle * self.batch_size + place * self.batch_size // num
        start = place * self.batch_size % num + jnp.asarray(shard) * size
        # A batch is no larger than the bank, so it lies within two passes.
        order = jnp.concatenate([self._order(first_pass), self._order(first_pass + 1)])
        chosen = order[start + jnp.arange(size)]
        return jax.tree.map(lambda leaf: leaf[chosen], self.examples)

    def _order(self, number: jax.Array) -> jax.Array:
        key = jax.random.fold_in(_key(self.seed, "order"), number)
        return jax.random.permutation(key, self.num_examples)


def make_bank(
    examples: Any, *, num_examples: int | None = 256, batch_size: int, seed: int = 0
) -> ReplayBank:
    """Keep a random subset of source examples on the device.

    Args:
        examples: Pytree of arrays that share their first dimension.
        num_examples: Size of the bank; None keeps everything.
        batch_size: Source examples per optimizer step, over all devices; at most the bank's size.
        seed: Seeds the choice and the order, below 2**32.

    Raises:
        ValueError: If there are no examples, fewer than ``num_examples`` or than a batch, the
            arrays differ in their first dimension, or a number is out of range.

    Source: arXiv 2607.00634; 256 retained source examples.

    >>> bank = make_bank(jnp.arange(100), num_examples=8, batch_size=4, seed=0)
    >>> len(set(map(int, jnp.concatenate([bank.draw(0), bank.draw(1)]))))
    8
    """
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(examples)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(f"examples must share their first dimension, got {sorted(sizes)}")
    ((available,),) = sizes
    if available == 0:
        raise ValueError("examples must hold at least one example, got none")
    num = available if num_examples is None else check_at_least_one("num_examples", num_examples)
    if num > available:
        raise ValueError(f"num_examples must be <= {available} (all there are), got {num}")
    if check_at_least_one("batch_size", batch_size) > num:
        raise ValueError(f"batch_size must be <= the bank's {num} examples, got {batch_size}")
    if num * batch_size > LAST_STEP:
        raise ValueError(f"num_examples * batch_size must be <= {LAST_STEP}, got {num} examples")
    if check_count("seed", seed) >= 2**32:
        raise ValueError(f"seed must be < 2**32, got {seed}")
    stored = jnp.asarray(seed, jnp.uint32)
    chosen = jax.random.permutation(_key(stored, "choice"), available)[:num]
    kept = jax.tree.map(lambda leaf: jnp.asarray(leaf)[chosen], examples)
    return ReplayBank(kept, stored, batch_size)


def _key(seed: jax.Array, use: str) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), {"choice": 0, "order": 1}[use])
