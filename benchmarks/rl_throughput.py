"""Environment steps per second of PPO and TD3: beside rejax's, with smoothing, over ten seeds at once.

    python -m benchmarks.rl_throughput [--rejax PYTHON] [--rounds N] [--only ppo | td3]

PPO: CartPole, 8 environments x 64 steps, 4 epochs x 4 minibatches. TD3: Pendulum, 8 environments, one
critic update per environment step, batches of 128, an actor update after every second, targets replaced
after every 256. Networks of 64 x 64; everything is compiled before the clock starts. rejax may need
packages of its own, so it runs in a process of the interpreter that ``--rejax`` names (one in which
``rejax`` is installed); without it that part is left out. Both programs train without evaluation and
take turns. Times are process times, so that other work on the machine counts little; a step is an
environment step of one seed.

Targets: at least rejax's throughput with smoothing off, and ten vmapped seeds at least as fast as ten
in turn. What smoothing costs is printed without a target: a ramp over half of the updates computes 1.5
times the gradients. rejax's TD3 draws minibatches without replacement, which sorts the whole buffer
at every update; ours draws with replacement. That is most of the distance between the two.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

import segue
from benchmarks.measuring import interleaved, ratio_of_medians, spread, verdict
from segue.rl.environments import make_environment
from segue.rl.ppo import PPO
from segue.rl.ppo_settings import PPOSettings
from segue.rl.td3_online import TD3
from segue.rl.td3_online_settings import OnlineTD3Settings
from segue.rl.td3_settings import TD3Config

NUM_SEEDS = 10
ON_POLICY = PPOSettings(num_envs=8, num_rollout_steps=64, measure_churn=False)
OFF_POLICY = OnlineTD3Settings(
    TD3Config((64, 64), batch_size=128), num_envs=8, num_rollout_steps=1, num_updates=8,
    buffer_capacity=8_192, num_random_env_steps=1_024, period=256, measure_churn=False,
)  # fmt: skip


@dataclass(frozen=True)
class Algorithm:
    """One algorithm at one setting, here and in rejax.

    Attributes:
        name: For the printed lines.
        learner: Makes ours, for a schedule.
        num_updates: Updates after which the ramp starts over.
        num_iterations: Ours per training.
        num_env_steps: Of a training.
        rejax: Python text that makes rejax's, of ``common``: what both algorithms are given.
    """

    name: str
    learner: Callable[[segue.Schedule | None], PPO | TD3]
    num_updates: int
    num_iterations: int
    num_env_steps: int
    rejax: str


ALGORITHMS = (
    Algorithm(
        "PPO",
        lambda schedule: PPO(make_environment("CartPole"), ON_POLICY, schedule),
        ON_POLICY.num_updates, 40, 40 * ON_POLICY.num_examples,
        """rejax.PPO.create(
            env="CartPole-v1", num_steps=64, num_epochs=4, num_minibatches=4,
            agent_kwargs={"hidden_layer_sizes": (64, 64), "activation": "tanh"}, **common
        )""",
    ),
    Algorithm(
        "TD3",
        lambda schedule: TD3(make_environment("Pendulum"), OFF_POLICY, schedule),
        OFF_POLICY.period, 512, 512 * OFF_POLICY.num_examples,
        """rejax.TD3.create(
            env="Pendulum-v1", num_epochs=8, policy_delay=2, batch_size=128, buffer_size=8_192,
            fill_buffer=1_024, polyak=0, target_update_freq=256, exploration_noise=0.2,
            target_noise=0.4, target_noise_clip=1.0, actor_kwargs={"activation": "relu"},
            critic_kwargs={"activation": "relu"}, **common
        )""",
    ),
)  # fmt: skip

REJAX = """
import json, sys, time
import jax
import rejax

common = dict(num_envs=8, learning_rate=1e-3, total_timesteps={steps}, eval_freq={steps},
              skip_initial_evaluation=True)
algorithm = {algorithm}
algorithm = algorithm.replace(eval_callback=lambda *arguments: ())
train = jax.jit(algorithm.train).lower(jax.random.PRNGKey(0)).compile()
for line in sys.stdin:
    started = time.process_time()
    jax.block_until_ready(train(jax.random.PRNGKey(int(line))))
    print(json.dumps(time.process_time() - started), flush=True)
"""


def training(
    algorithm: Algorithm, schedule: segue.Schedule | None, num_seeds: int = 1
) -> Callable[[], object]:
    """Return a compiled function that trains ``num_seeds`` learners from the start."""
    learner = algorithm.learner(schedule)
    num_iterations = algorithm.num_iterations

    def run(seeds: jax.Array) -> object:
        states = jax.vmap(lambda seed: learner.init(seed, 1e-3))(seeds)
        train = jax.vmap(learner.train, in_axes=(0, None, None))
        return learner.policy(train(states, 0, num_iterations)[0])

    def run_one(seed: jax.Array) -> object:
        return learner.policy(learner.train(learner.init(seed, 1e-3), 0, num_iterations)[0])

    seeds = jnp.arange(num_seeds, dtype=jnp.uint32)
    argument = seeds if num_seeds > 1 else seeds[0]
    compiled = jax.jit(run if num_seeds > 1 else run_one).lower(argument).compile()
    return lambda: jax.block_until_ready(compiled(argument))


def beside_rejax(algorithm: Algorithm, python: str, num_rounds: int) -> bool:
    """Measure both in turn; return whether ours is at least as fast."""
    source = REJAX.format(steps=algorithm.num_env_steps, algorithm=algorithm.rejax)
    other = subprocess.Popen(
        [python, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None
    assert other.stdout is not None
    ours, theirs, train = [], [], training(algorithm, None)
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
        rate = algorithm.num_env_steps / statistics.median(seconds)
        print(f"{algorithm.name} {name:28} {rate:12,.0f} steps/s")
    ratio, low, high = ratio_of_medians(theirs, ours)
    ok = high >= 1.0
    print(f"{algorithm.name} segue / rejax {ratio:27.2f}  [{low:.2f}, {high:.2f}]  {verdict(ok)}")
    return ok


def price_of_smoothing(algorithm: Algorithm, num_rounds: int) -> None:
    """Print how much longer a smoothed training takes than a plain one."""
    num_updates = algorithm.num_updates
    arms = {
        "off": training(algorithm, None),
        "off again (noise)": training(algorithm, segue.hard_switch()),
        "a quarter of the updates": training(algorithm, segue.linear_decay(num_updates // 4)),
        "half of the updates": training(algorithm, segue.linear_decay(num_updates // 2)),
        "all updates": training(algorithm, segue.linear_decay(num_updates)),
    }
    seconds = interleaved(arms, num_rounds, num_warmups=1)
    for name, values in seconds.items():
        ratio, low, high = ratio_of_medians(values, seconds["off"])
        rate = algorithm.num_env_steps / spread(values)[0]
        print(
            f"{algorithm.name} smoothing {name:26} {rate:10,.0f} steps/s  "
            f"price {ratio:.2f} [{low:.2f}, {high:.2f}]"
        )


def ten_seeds(algorithm: Algorithm, num_rounds: int) -> bool:
    """Measure ten seeds at once against ten in turn."""
    schedule = segue.linear_decay(algorithm.num_updates // 2)
    one, many = training(algorithm, schedule), training(algorithm, schedule, NUM_SEEDS)

    def in_turn() -> None:
        for _ in range(NUM_SEEDS):
            one()

    seconds = interleaved({"at once": many, "in turn": in_turn}, num_rounds, num_warmups=1)
    for name, values in seconds.items():
        rate = NUM_SEEDS * algorithm.num_env_steps / spread(values)[0]
        print(f"{algorithm.name} ten seeds {name:10} {rate:12,.0f} steps/s")
    ratio, low, high = ratio_of_medians(seconds["in turn"], seconds["at once"])
    ok = high >= 1.0
    print(
        f"{algorithm.name} in turn / at once {ratio:16.2f}  [{low:.2f}, {high:.2f}]  {verdict(ok)}"
    )
    return ok


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rejax", help="Python interpreter that has rejax")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=[algorithm.name.lower() for algorithm in ALGORITHMS])
    options = parser.parse_args()
    met = []
    for algorithm in ALGORITHMS:
        if options.only not in (None, algorithm.name.lower()):
            continue
        if options.rejax:
            met.append(beside_rejax(algorithm, options.rejax, options.rounds))
        price_of_smoothing(algorithm, options.rounds)
        met.append(ten_seeds(algorithm, max(5, options.rounds // 2)))
    sys.exit(not all(met))
