"""Several devices: data-parallel steps equal the single device's, the source skipped on all."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = r"""
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

import segue
from segue.adapters import jax as smoothing

assert jax.device_count() == 4
mesh = Mesh(np.array(jax.devices()), ("data",))
bank = smoothing.make_bank(
    np.random.default_rng(0).normal(size=(20, 3)).astype("f"), num_examples=16, batch_size=8
)
target = jnp.asarray(np.random.default_rng(1).normal(size=(12, 3)).astype("f"))
# Unequal counts: a mean of means would be another number.
mask = jnp.asarray([1, 1, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0], jnp.float32)
schedule, calls = segue.linear_decay(3), []


def squares(params, rows, weights, axis):
    total = weights.sum() if axis is None else jax.lax.psum(weights.sum(), axis)
    return jnp.sum(weights * jnp.sum((params - rows) ** 2, axis=1)) / total


def losses(axis):
    def source_loss(params, place):
        bank, index = place
        shard = 0 if axis is None else jax.lax.axis_index(axis)
        rows = bank.draw(index, shard=shard, num_shards=1 if axis is None else 4)
        jax.debug.callback(lambda: calls.append(1))
        return squares(params, rows, jnp.ones(len(rows)), axis)

    def target_loss(params, batch):
        return squares(params, *batch, axis)

    return smoothing.smoothed_value_and_grad(source_loss, target_loss, schedule)


def one(params, index, bank, rows, weights):
    found, gradient = losses(None)(params, index, (bank, index), (rows, weights))
    return found.loss, found.source_loss, gradient


def many(params, index, bank, rows, weights):
    found, gradient = losses("data")(params, index, (bank, index), (rows, weights))
    return jax.lax.psum(found.loss, "data"), jax.lax.psum(found.source_loss, "data"), gradient


sharded = jax.jit(jax.shard_map(
    many, mesh=mesh, in_specs=(P(), P(), P(), P("data"), P("data")), out_specs=(P(), P(), P())
))
alone = jnp.zeros(3)
together = jax.device_put(jnp.zeros(3), NamedSharding(mesh, P()))
for step in range(6):
    calls.clear()
    first = jax.jit(one)(alone, jnp.int32(step), bank, target, mask)
    jax.effects_barrier()
    num_alone = len(calls)
    second = sharded(together, jnp.int32(step), bank, target, mask)
    jax.effects_barrier()
    assert (num_alone, len(calls)) == ((1, 5) if step < 3 else (0, 0)), (step, num_alone, len(calls))
    for a, b in zip(first, second):
        np.testing.assert_allclose(a, b, atol=2e-6)
    alone, together = alone - 0.1 * first[2], together - 0.1 * second[2]
assert sharded._cache_size() == 1
print("equal")
"""


def test_four_devices_equal_one_at_every_step_of_the_ramp_and_after() -> None:
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        env={**os.environ, **flags},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "equal"
