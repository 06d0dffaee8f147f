"""Updates per second of TD3+BC on one core: ours in JAX, plain PyTorch, and d3rlpy.

    python -m benchmarks.rl_updates [--rounds N] [--d3rlpy PYTHON]

HalfCheetah's sizes (17 observations, 6 actions), batches of 256 out of 20,000 random transitions.
Process time, one thread each; arms take turns in shuffled order, and a ratio is that of the medians with
its 95 % bootstrap interval. Besides: six seeds trained in one vmapped call, and what a smoothed update
costs inside the ramp and after it.

Beside the targets stands what the core allows: the matrix products that an update cannot do without, at the
best speed this core shows on a large one, and nothing else (no optimizer, no drawing, no activations). No
program in float32 gets above it, and six seeds are six times that arithmetic.

d3rlpy needs an older Gymnasium, so it runs in a process of the interpreter that ``--d3rlpy`` names (one in
which d3rlpy 2 is installed), with its own replay buffer; without it that part is left out. It has no
target of its own: it is there to show what a user of a library gets.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import jax
import jax.numpy as jnp
import numpy as np
import torch

import segue
from benchmarks.measuring import interleaved, ratio_of_medians, verdict
from benchmarks.torch_td3 import BATCH, NUM_ACTIONS, NUM_OBSERVATIONS, TorchTD3BC
from segue.rl.objective import Objective, offline_objective
from segue.rl.td3 import TD3Config, init_agent, make_updates

NUM_ROWS, NUM_UPDATES = 20_000, 50
WANTED = {(256, 256): 2.0, (64, 64): 8.0}
SIX_SEEDS = 3.0


D3RLPY = """
import json, sys, time
import d3rlpy, numpy, torch

torch.set_num_threads(1)
hidden, num_rows, num_updates = {hidden}, {num_rows}, {num_updates}
draw = numpy.random.default_rng(0)
ends = numpy.zeros(num_rows, numpy.float32)
ends[999::1000] = 1.0
data = d3rlpy.dataset.MDPDataset(
    draw.standard_normal((num_rows, {num_observations})).astype(numpy.float32),
    draw.uniform(-1, 1, (num_rows, {num_actions})).astype(numpy.float32),
    draw.standard_normal(num_rows).astype(numpy.float32),
    numpy.zeros(num_rows, numpy.float32),
    ends,
)
network = d3rlpy.models.VectorEncoderFactory(hidden_units=hidden)
learner = d3rlpy.algos.TD3PlusBCConfig(
    batch_size={batch}, actor_encoder_factory=network, critic_encoder_factory=network,
    update_actor_interval=2,
).create(device=False)
learner.build_with_dataset(data)
for line in sys.stdin:
    started = time.process_time()
    for _ in range(num_updates):
        learner.update(data.sample_transition_batch({batch}))
    print("seconds", json.dumps(time.process_time() - started), flush=True)
"""


def random_rows() -> np.ndarray:
    """Packed transitions that no time limit and no fall ended."""
    rows = np.random.default_rng(0).standard_normal((NUM_ROWS, 42)).astype(np.float32)
    actions = slice(NUM_OBSERVATIONS, NUM_OBSERVATIONS + NUM_ACTIONS)
    rows[:, actions] = rows[:, actions].clip(-1, 1)
    rows[:, NUM_OBSERVATIONS + NUM_ACTIONS + 1] = 0.0
    return rows


def in_jax(
    hidden: tuple[int, ...], rows: np.ndarray, objective: Objective, num_seeds: int | None = None
) -> Callable[[], None]:
    """Return a function that does NUM_UPDATES updates."""
    config = TD3Config(hidden_widths=hidden, batch_size=BATCH)
    sizes = NUM_OBSERVATIONS, NUM_ACTIONS
    agents = [init_agent(config, *sizes, seed=seed) for seed in range(num_seeds or 1)]
    data, seeds = jnp.asarray(rows), np.arange(num_seeds or 1, dtype=np.uint32)
    agent = agents[0]
    online = data
    if num_seeds is not None:
        agent = jax.tree.map(lambda *leaves: jnp.stack(leaves), *agents)
        online = jnp.stack([data] * num_seeds)
    updates = make_updates(config, objective, *sizes, over_seeds=num_seeds is not None)
    seed = seeds if num_seeds is not None else seeds[0]

    def run() -> None:
        nonlocal agent
        agent, metrics = updates(
            agent, data, online, np.int32(NUM_ROWS), seed, np.int32(0), np.float32(0.0),
            num_updates=NUM_UPDATES,
        )  # fmt: skip
        np.asarray(metrics["critic_loss"])  # waits

    return run


def products_of_an_update(hidden: tuple[int, ...]) -> float:
    """Return the floating-point operations of one update's matrix products, a mean over the policy delay.

    A product of (m, k) and (k, n) takes 2mkn; backwards it takes as many for the weights and as many for the
    inputs, which the first layer's need only where the actor learns through the critic. The target networks
    and one critic in the actor's loss run forwards alone, or forwards and back to their inputs.
    """

    def network(num_inputs: int, num_outputs: int) -> tuple[float, float]:
        widths = (num_inputs, *hidden, num_outputs)
        layers = [2.0 * BATCH * m * n for m, n in itertools.pairwise(widths)]
        return sum(layers), layers[0]

    critic, first_of_critic = network(NUM_OBSERVATIONS + NUM_ACTIONS, 1)
    actor, first_of_actor = network(NUM_OBSERVATIONS, NUM_ACTIONS)
    targets = actor + 2 * critic
    critics = 2 * (3 * critic - first_of_critic)
    policy = 3 * actor - first_of_actor + 2 * critic
    return targets + critics + policy / TD3Config().policy_delay


def best_product_speed() -> float:
    """Return the most floating-point operations a second this core does in one large matrix product."""
    speeds = []
    for size in (256, 512, 1024):
        left, right = torch.rand(size, size), torch.rand(size, size)
        for _ in range(20):
            started = time.process_time()
            torch.mm(left, right)
            speeds.append(2 * size**3 / max(time.process_time() - started, 1e-9))
    return max(speeds)


def compare(hidden: tuple[int, ...], num_rounds: int) -> bool:
    """Print one network's figures; return whether a target was missed."""
    rows = random_rows()
    learner = TorchTD3BC(hidden, rows)

    def in_torch() -> None:
        for _ in range(NUM_UPDATES):
            learner.update()

    arms = {
        "PyTorch": in_torch,
        "ours": in_jax(hidden, rows, offline_objective()),
        "ours, six seeds": in_jax(hidden, rows, offline_objective(), 6),
        "ours, inside the ramp": in_jax(hidden, rows, Objective(segue.constant(0.5))),
        "ours, after the ramp": in_jax(hidden, rows, Objective(segue.linear_decay(0))),
    }
    seconds = interleaved(arms, num_rounds, num_warmups=1)
    print(f"\n{' x '.join(map(str, hidden))}: updates per second of process time")
    for name, values in seconds.items():
        print(f"  {name:24s} {NUM_UPDATES / statistics.median(values):8.0f}")
    ratio, low, high = ratio_of_medians(seconds["PyTorch"], seconds["ours"])
    missed = high < WANTED[hidden]
    print(
        f"  ours against PyTorch     {ratio:8.2f} x  95 % {low:.2f} to {high:.2f}  "
        f"target >= {WANTED[hidden]:.0f}: {verdict(not missed)}"
    )
    ratio, low, high = ratio_of_medians(seconds["ours, six seeds"], seconds["ours"])
    six_missed = low > SIX_SEEDS
    print(
        f"  six seeds against one    {ratio:8.2f} x  95 % {low:.2f} to {high:.2f}  "
        f"target <= {SIX_SEEDS:.0f}: {verdict(not six_missed)}"
    )
    ratio, low, high = ratio_of_medians(seconds["ours, inside the ramp"], seconds["ours"])
    print(f"  ramp against plain       {ratio:8.2f} x  95 % {low:.2f} to {high:.2f}")
    speed, products = best_product_speed(), products_of_an_update(hidden)
    possible = products / speed * NUM_UPDATES  # seconds at the very least
    print(
        f"  what the core allows     {NUM_UPDATES / possible:8.0f} updates per second "
        f"({products / 1e6:.1f} million operations in products, {speed / 1e9:.0f} billion a second): "
        f"{statistics.median(seconds['PyTorch']) / possible:.2f} x PyTorch; "
        f"six seeds {6 * possible / statistics.median(seconds['ours']):.2f} x one of ours"
    )
    return missed or six_missed


def beside_d3rlpy(python: str, hidden: tuple[int, ...], num_rounds: int) -> None:
    """Measure ours and d3rlpy's in turn."""
    source = D3RLPY.format(
        hidden=list(hidden), num_rows=NUM_ROWS, num_updates=NUM_UPDATES, batch=BATCH,
        num_observations=NUM_OBSERVATIONS, num_actions=NUM_ACTIONS,
    )  # fmt: skip
    other = subprocess.Popen(
        [python, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    run = in_jax(hidden, random_rows(), offline_objective())
    ours, theirs = [], []
    for index in range(-1, num_rounds):
        started = time.process_time()
        run()
        mine = time.process_time() - started
        seconds = _ask(other)
        if index >= 0:
            ours.append(mine)
            theirs.append(seconds)
    assert other.stdin is not None
    other.stdin.close()
    other.wait()
    print(f"  d3rlpy                   {NUM_UPDATES / statistics.median(theirs):8.0f}")
    ratio, low, high = ratio_of_medians(theirs, ours)
    print(f"  ours against d3rlpy      {ratio:8.2f} x  95 % {low:.2f} to {high:.2f}")


def _ask(process: subprocess.Popen[str]) -> float:
    """Let the other process do its updates; return the seconds it says."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    for line in process.stdout:  # d3rlpy logs to the same stream
        if line.startswith("seconds "):
            return float(json.loads(line.removeprefix("seconds ")))
    raise RuntimeError(f"d3rlpy ended with code {process.wait()}")


def main() -> int:
    """Print the ratios; return 1 if a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--d3rlpy", help="Python interpreter that has d3rlpy 2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    missed = []
    for hidden in WANTED:
        missed.append(compare(hidden, options.rounds))
        if options.d3rlpy:
            beside_d3rlpy(options.d3rlpy, hidden, options.rounds)
    return int(any(missed))


if __name__ == "__main__":
    sys.exit(main())
