"""Environment steps per second with one update each, environment included: HalfCheetah-v5, one core.

    python -m benchmarks.rl_end_to_end [--rounds N] [--width UNITS]

A step is: act, step the simulator, store the transition, one TD3 update. Ours does it in rounds of 20
environment steps, as the experiments do, and in rounds of one, as the textbook does; the yardstick is the
textbook's loop in plain PyTorch. Besides: six seeds, whose six environments are stepped in turn and whose
updates are one vmapped call. Process time, one thread each; arms take turns in shuffled order.

No target: half of the time and more is the simulator's, the same for all.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from benchmarks.measuring import interleaved, ratio_of_medians
from benchmarks.torch_td3 import NUM_ACTIONS, NUM_OBSERVATIONS, TorchTD3BC
from segue.rl.networks import act, to_numpy
from segue.rl.objective import Objective
from segue.rl.preprocessing import Preprocessing
from segue.rl.switch import OnlineTraining, SwitchConfig
from segue.rl.td3 import TD3Config, init_agent, make_updates

NUM_ENV_STEPS, NUM_BEFORE, CAPACITY, NUM_SEEDS = 100, 260, 20_000, 6
NOISE = np.float32(0.1)


def make_env() -> gymnasium.Env[Any, Any]:
    """Make the environment."""
    return gymnasium.make("HalfCheetah-v5", disable_env_checker=True)


def preprocessing() -> Preprocessing:
    """Leave everything as it is: HalfCheetah's actions range over [-1, 1]."""
    zeros, ones = np.zeros(NUM_OBSERVATIONS), np.ones(NUM_OBSERVATIONS)
    return Preprocessing(zeros, ones, -np.ones(NUM_ACTIONS), np.ones(NUM_ACTIONS))


def ours(hidden: tuple[int, ...], num_env_steps_per_round: int) -> Callable[[], None]:
    """Return a function that takes NUM_ENV_STEPS steps with the library's loop."""
    config = SwitchConfig(
        TD3Config(hidden_widths=hidden),
        Objective(num_env_steps_before_updates=NUM_BEFORE),
        num_env_steps_per_round=num_env_steps_per_round,
        buffer_capacity=CAPACITY,
    )
    training = OnlineTraining(config, make_env(), preprocessing(), seed=0)
    training.train(NUM_BEFORE)
    return lambda: training.train(training.num_env_steps + NUM_ENV_STEPS)


class Walker:
    """An environment, and where it stands."""

    def __init__(self, seed: int) -> None:
        self.env, self.draw = make_env(), np.random.default_rng(seed)
        self.observation = self.env.reset(seed=seed)[0].astype(np.float32)

    def step(self, policy: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """One environment step; returns the packed transition."""
        noise = NOISE * self.draw.standard_normal(NUM_ACTIONS).astype(np.float32)
        action = np.clip(policy(self.observation) + noise, -1.0, 1.0)
        following, reward, terminated, truncated, _ = self.env.step(action)
        following = following.astype(np.float32)
        ends = np.array([reward, terminated], np.float32)
        row = np.concatenate([self.observation, action, ends, following])
        if terminated or truncated:
            following = self.env.reset()[0].astype(np.float32)
        self.observation = following
        return row


def in_torch(hidden: tuple[int, ...]) -> Callable[[], None]:
    """Return a function that takes NUM_ENV_STEPS steps with the textbook's loop."""
    walker, rows = Walker(0), np.zeros((CAPACITY, 2 * NUM_OBSERVATIONS + 8), np.float32)
    learner = TorchTD3BC(hidden, rows)
    learner.num_rows = 0

    def steps(num: int, *, updates: bool = True) -> None:
        for _ in range(num):
            rows[learner.num_rows % CAPACITY] = walker.step(learner.act)
            learner.num_rows += 1
            if updates:
                learner.update()

    steps(NUM_BEFORE, updates=False)
    return lambda: steps(NUM_ENV_STEPS)


@functools.partial(jax.jit, donate_argnums=0)
def store(rows: jax.Array, new: jax.Array, place: int) -> jax.Array:
    """Write transitions of all seeds into their buffers."""
    return lax.dynamic_update_slice(rows, new, (0, place, 0))


def six_seeds(hidden: tuple[int, ...], num_env_steps_per_round: int) -> Callable[[], None]:
    """Return a function that takes NUM_ENV_STEPS steps of six seeds at once."""
    config, sizes = TD3Config(hidden_widths=hidden), (NUM_OBSERVATIONS, NUM_ACTIONS)
    agents = [init_agent(config, *sizes, seed=seed) for seed in range(NUM_SEEDS)]
    agent = jax.tree.map(lambda *leaves: jnp.stack(leaves), *agents)
    walkers = [Walker(seed) for seed in range(NUM_SEEDS)]
    rows = jnp.zeros((NUM_SEEDS, CAPACITY, 2 * NUM_OBSERVATIONS + 8), jnp.float32)
    updates = make_updates(config, Objective(), *sizes, over_seeds=True)
    seeds, nothing = np.arange(NUM_SEEDS, dtype=np.uint32), jnp.zeros((1, rows.shape[2]))
    done = 0

    def round_of(num: int, *, with_updates: bool = True) -> None:
        nonlocal agent, rows, done
        actors = to_numpy(agent.actor)
        each = [jax.tree.map(lambda leaf, i=i: leaf[i], actors) for i in range(NUM_SEEDS)]
        new = [
            [walker.step(lambda seen, actor=actor: act(actor, seen)) for _ in range(num)]
            for walker, actor in zip(walkers, each, strict=True)
        ]
        rows = store(rows, np.asarray(new), done)
        done += num
        if with_updates:
            agent, metrics = updates(
                agent, nothing, rows, np.int32(done), seeds, np.int32(done), np.float32(0.0),
                num_updates=num,
            )  # fmt: skip
            np.asarray(metrics["critic_loss"])  # waits

    for _ in range(NUM_BEFORE // 20):
        round_of(20, with_updates=False)

    def run() -> None:
        for _ in range(NUM_ENV_STEPS // num_env_steps_per_round):
            round_of(num_env_steps_per_round)

    return run


def compare(hidden: tuple[int, ...], num_rounds: int) -> None:
    """Print one network's figures."""
    arms = {
        "PyTorch, textbook's loop": in_torch(hidden),
        "ours, rounds of 1": ours(hidden, 1),
        "ours, rounds of 20": ours(hidden, 20),
        "ours, six seeds": six_seeds(hidden, 20),
    }
    seconds = interleaved(arms, num_rounds, num_warmups=1)
    print(f"\n{' x '.join(map(str, hidden))}: environment steps with one update each, per second")
    for name, values in seconds.items():
        print(f"  {name:26s} {NUM_ENV_STEPS / statistics.median(values):8.0f}")
    for name in ("ours, rounds of 1", "ours, rounds of 20"):
        ratio, low, high = ratio_of_medians(seconds["PyTorch, textbook's loop"], seconds[name])
        print(f"  {name} against PyTorch: {ratio:.2f} x  95 % {low:.2f} to {high:.2f}")
    ratio, low, high = ratio_of_medians(seconds["ours, six seeds"], seconds["ours, rounds of 20"])
    print(f"  six seeds against one: {ratio:.2f} x  95 % {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--width", type=int, help="units of both layers; 64 and 256 by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for width in (options.width,) if options.width else (64, 256):
        compare((width, width), options.rounds)
