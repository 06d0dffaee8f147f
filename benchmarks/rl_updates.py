"""Updates per second of TD3+BC on one core: ours in JAX against the same learner in plain PyTorch.

HalfCheetah's sizes (17 observations, 6 actions), batches of 256 out of 20,000 random transitions.
Process time, one thread each; arms take turns in shuffled order, and a ratio is that of the medians with
its 95 % bootstrap interval. Besides: six seeds trained in one vmapped call, and what a smoothed update
costs inside the ramp and after it. Six seeds are six times the arithmetic: on one core their cost can only
fall below six where one seed's update is bound by overhead and not by arithmetic.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segue
from benchmarks.measuring import interleaved, ratio_of_medians, verdict
from segue.rl.objective import Objective, offline_objective
from segue.rl.td3 import TD3Config, init_agent, make_updates

NUM_OBSERVATIONS, NUM_ACTIONS, BATCH, NUM_ROWS = 17, 6, 256, 20_000
NUM_UPDATES = 50
NUM_ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 15
WANTED = {(256, 256): 2.0, (64, 64): 8.0}
SIX_SEEDS = 3.0


def mlp(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for first, second in itertools.pairwise(sizes):
        layers += [nn.Linear(first, second), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class TorchTD3BC:
    """TD3+BC as its authors wrote it, line by line."""

    def __init__(self, hidden: tuple[int, ...], rows: np.ndarray) -> None:
        torch.manual_seed(0)
        inputs = NUM_OBSERVATIONS + NUM_ACTIONS
        self.actor = mlp((NUM_OBSERVATIONS, *hidden, NUM_ACTIONS))
        self.critics = nn.ModuleList([mlp((inputs, *hidden, 1)) for _ in range(2)])
        self.target_actor = mlp((NUM_OBSERVATIONS, *hidden, NUM_ACTIONS))
        self.target_critics = nn.ModuleList([mlp((inputs, *hidden, 1)) for _ in range(2)])
        self.target_actor.load_state_dict(self.actor.state_dict())
        self.target_critics.load_state_dict(self.critics.state_dict())
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=3e-4)
        self.critic_adam = torch.optim.Adam(self.critics.parameters(), lr=3e-4)
        self.rows, self.num_updates = torch.from_numpy(rows), 0

    def update(self) -> None:
        """One update of the critics; every second one also of actor and targets."""
        self.num_updates += 1
        rows = self.rows[torch.randint(len(self.rows), (BATCH,))]
        o, a, r, d, n = rows.split([NUM_OBSERVATIONS, NUM_ACTIONS, 1, 1, NUM_OBSERVATIONS], dim=1)
        with torch.no_grad():
            noise = (0.2 * torch.randn_like(a)).clamp(-0.5, 0.5)
            b = (torch.tanh(self.target_actor(n)) + noise).clamp(-1, 1)
            x = torch.cat([n, b], 1)
            y = r + 0.99 * (1 - d) * torch.minimum(*(q(x) for q in self.target_critics))
        x = torch.cat([o, a], 1)
        loss: Tensor = sum((F.mse_loss(q(x), y) for q in self.critics), torch.zeros(()))
        self.critic_adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.critic_adam.step()
        if self.num_updates % 2:
            return
        b = torch.tanh(self.actor(o))
        q = self.critics[0](torch.cat([o, b], 1))
        loss = -2.5 / q.abs().mean().detach() * q.mean() + F.mse_loss(b, a)
        self.actor_adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.actor_adam.step()
        with torch.no_grad():
            for source, target in (
                (self.critics, self.target_critics),
                (self.actor, self.target_actor),
            ):
                for p, t in zip(source.parameters(), target.parameters(), strict=True):
                    t.lerp_(p, 0.005)


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


def compare(hidden: tuple[int, ...]) -> bool:
    """Print one network's figures; return whether a target was missed."""
    rows = np.random.default_rng(0).standard_normal((NUM_ROWS, 42)).astype(np.float32)
    rows[:, NUM_OBSERVATIONS : NUM_OBSERVATIONS + NUM_ACTIONS].clip(-1, 1)
    rows[:, NUM_OBSERVATIONS + NUM_ACTIONS + 1] = 0.0
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
    seconds = interleaved(arms, NUM_ROUNDS, num_warmups=1)
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
    return missed or six_missed


def main() -> int:
    """Print the ratios; return 1 if a target was missed."""
    torch.set_num_threads(1)
    missed = [compare(hidden) for hidden in WANTED]
    return int(any(missed))


if __name__ == "__main__":
    sys.exit(main())
