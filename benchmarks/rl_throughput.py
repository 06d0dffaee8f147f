"""Environment steps per second of PPO: beside rejax's, with smoothing, and over ten seeds at once.

    python -m benchmarks.rl_throughput [--rejax PYTHON] [--rounds N]

CartPole, 8 environments x 64 steps, 4 epochs x 4 minibatches, 64 x 64 networks; compiled before the
clock starts. rejax needs packages of its own, so it runs in a process of the interpreter that
``--rejax`` names (one in which ``rejax`` is installed); without it that part is left out. Both
programs train without evaluation and take turns. Times are process times, so that other work on the
machine counts little; a step is an environment step of one seed.

Targets: at least rejax's throughput with smoothing off, and ten vmapped seeds at least as fast as ten
in turn. What smoothing costs is printed without a target: a ramp over half an iteration's updates
computes 1.5 times the gradients.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

import segue
from benchmarks.measuring import interleaved, ratio_of_medians, spread, verdict
from segue.rl.environments import make_environment
from segue.rl.ppo import PPO
from segue.rl.ppo_settings import PPOSettings

NUM_ITERATIONS, NUM_SEEDS = 40, 10
SETTINGS = PPOSettings(num_envs=8, num_rollout_steps=64, measure_churn=False)
NUM_ENV_STEPS = NUM_ITERATIONS * SETTINGS.num_examples

REJAX = """
import json, sys, time
import jax
from rejax import PPO

algorithm = PPO.create(
    env="CartPole-v1", num_envs=8, num_steps=64, num_epochs=4, num_minibatches=4,
    learning_rate=1e-3, total_timesteps={steps}, eval_freq={steps},
    agent_kwargs={{"hidden_layer_sizes": (64, 64), "activation": "tanh"}},
)
algorithm = algorithm.replace(eval_callback=lambda *arguments: ())
train = jax.jit(algorithm.train).lower(jax.random.PRNGKey(0)).compile()
for line in sys.stdin:
    started = time.process_time()
    jax.block_until_ready(train(jax.random.PRNGKey(int(line))))
    print(json.dumps(time.process_time() - started), flush=True)
"""


def training(schedule: segue.Schedule | None, num_seeds: int = 1) -> Callable[[], object]:
    """Return a compiled function that trains ``num_seeds`` learners from the start."""
    learner = PPO(make_environment("CartPole"), SETTINGS, schedule)

    def run(seeds: jax.Array) -> object:
        states = jax.vmap(lambda seed: learner.init(seed, 1e-3))(seeds)
        train = jax.vmap(learner.train, in_axes=(0, None, None))
        return train(states, 0, NUM_ITERATIONS)[0].params

    def run_one(seed: jax.Array) -> object:
        return learner.train(learner.init(seed, 1e-3), 0, NUM_ITERATIONS)[0].params

    seeds = jnp.arange(num_seeds, dtype=jnp.uint32)
    argument = seeds if num_seeds > 1 else seeds[0]
    compiled = jax.jit(run if num_seeds > 1 else run_one).lower(argument).compile()
    return lambda: jax.block_until_ready(compiled(argument))


def beside_rejax(python: str, num_rounds: int) -> bool:
    """Measure both in turn; return whether ours is at least as fast."""
    source = REJAX.format(steps=NUM_ENV_STEPS)
    other = subprocess.Popen(
        [python, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None
    assert other.stdout is not None
    ours, theirs, train = [], [], training(None)
    for index in range(-2, num_rounds):
        started = time.process_time()
        train()
        mine = time.process_time() - started
        other.stdin.write(f"{max(index, 0)}\n")
        other.stdin.flush()
        answer = other.stdout.readline()
        if not answer:
            raise RuntimeError(f"rejax ended with code {other.wait()}")
        if index >= 0:
            ours.append(mine)
            theirs.append(float(json.loads(answer)))
    other.stdin.close()
    other.wait()
    for name, seconds in (("segue, smoothing off", ours), ("rejax", theirs)):
        print(f"{name:28} {NUM_ENV_STEPS / statistics.median(seconds):12,.0f} steps/s")
    ratio, low, high = ratio_of_medians(theirs, ours)
    ok = high >= 1.0
    print(f"segue / rejax                {ratio:12.2f}  [{low:.2f}, {high:.2f}]  {verdict(ok)}")
    return ok


def price_of_smoothing(num_rounds: int) -> None:
    """Print how much longer a smoothed training takes than a plain one."""
    num_updates = SETTINGS.num_updates
    arms = {
        "off": training(None),
        "off again (noise)": training(segue.hard_switch()),
        "a quarter of the updates": training(segue.linear_decay(num_updates // 4)),
        "half of the updates": training(segue.linear_decay(num_updates // 2)),
        "all updates": training(segue.linear_decay(num_updates)),
    }
    seconds = interleaved(arms, num_rounds, num_warmups=1)
    for name, values in seconds.items():
        ratio, low, high = ratio_of_medians(values, seconds["off"])
        rate = NUM_ENV_STEPS / spread(values)[0]
        print(
            f"smoothing {name:26} {rate:10,.0f} steps/s  price {ratio:.2f} [{low:.2f}, {high:.2f}]"
        )


def ten_seeds(num_rounds: int) -> bool:
    """Measure ten seeds at once against ten in turn."""
    one, many = training(segue.linear_decay(8)), training(segue.linear_decay(8), NUM_SEEDS)

    def in_turn() -> None:
        for _ in range(NUM_SEEDS):
            one()

    seconds = interleaved({"at once": many, "in turn": in_turn}, num_rounds, num_warmups=1)
    for name, values in seconds.items():
        rate = NUM_SEEDS * NUM_ENV_STEPS / spread(values)[0]
        print(f"ten seeds {name:10} {rate:12,.0f} steps/s")
    ratio, low, high = ratio_of_medians(seconds["in turn"], seconds["at once"])
    ok = high >= 1.0
    print(f"in turn / at once     {ratio:12.2f}  [{low:.2f}, {high:.2f}]  {verdict(ok)}")
    return ok


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rejax", help="Python interpreter that has rejax")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    met = [ten_seeds(max(5, options.rounds // 2))]
    price_of_smoothing(options.rounds)
    if options.rejax:
        met.append(beside_rejax(options.rejax, options.rounds))
    sys.exit(not all(met))
