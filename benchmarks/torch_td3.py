"""TD3+BC in plain PyTorch, as its authors wrote it, line by line: the yardstick of two benchmarks."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BATCH", "NUM_ACTIONS", "NUM_OBSERVATIONS", "TorchTD3BC"]

NUM_OBSERVATIONS, NUM_ACTIONS, BATCH = 17, 6, 256
"""HalfCheetah's sizes."""


class TorchTD3BC:
    """Learner on packed rows of transitions, of which the first ``num_rows`` count."""

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
        self.rows, self.num_rows, self.num_updates = torch.from_numpy(rows), len(rows), 0

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Action of the deterministic policy for one observation."""
        with torch.no_grad():
            action: np.ndarray = torch.tanh(self.actor(torch.from_numpy(observation))).numpy()
        return action

    def update(self) -> None:
        """One update of the critics; every second one also of actor and targets."""
        self.num_updates += 1
        rows = self.rows[torch.randint(self.num_rows, (BATCH,))]
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


def mlp(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for first, second in itertools.pairwise(sizes):
        layers += [nn.Linear(first, second), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
