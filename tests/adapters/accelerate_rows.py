"""Accelerate's row of the adapters' contract: a plain loop, on one process or on several."""

from __future__ import annotations

import os
import pickle
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import segue
from segue.adapters.accelerate import AcceleratedSmoothing

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from adapters import (
    LEARNING_RATE,
    NUM_TARGET_EXAMPLES,
    SOURCE_BATCH_SIZE,
    WINDOW,
    AdapterRow,
    Job,
    Killed,
    Outcome,
)

NUM_TOKENS, LENGTH, IGNORED = 11, 7, -100
WINDOWS_PER_EPOCH = -(-NUM_TARGET_EXAMPLES // WINDOW)
Batch = Sequence[Tensor]


def make_data(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(NUM_TOKENS, (NUM_TARGET_EXAMPLES, LENGTH + 1), generator=generator)
    lengths = torch.randint(1, LENGTH + 1, (NUM_TARGET_EXAMPLES, 1), generator=generator)
    labels = tokens[:, 1:].masked_fill(torch.arange(LENGTH) >= lengths, IGNORED)
    return tokens[:, :-1], labels


def make_model(dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Embedding(NUM_TOKENS, 6), nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout),
            nn.Linear(8, NUM_TOKENS),
        ).double()  # fmt: skip


def num_items(batch: Batch) -> Tensor:
    return (batch[1] != IGNORED).sum()


def loss_sum(model: nn.Module, batch: Batch) -> segue.LossSum:
    logits = model(batch[0]).flatten(0, 1)
    total = nn.functional.cross_entropy(logits, batch[1].flatten(), reduction="sum")
    return segue.LossSum(total, num_items(batch))


class Training:
    """One training of the contract, from its beginning or from its last checkpoint."""

    def __init__(self, job: Job) -> None:
        AcceleratorState._reset_state(reset_partial_state="RANK" not in os.environ)
        GradientState._reset_state()
        self.job = job
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=job.num_micro_batches)
        model = make_model(job.dropout)
        optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.smoothing: AcceleratedSmoothing | None = None
        if job.schedule is not None:
            tokens, labels = make_data(1)
            if job.source_fault == "masked":
                labels = torch.full_like(labels, IGNORED)
            self.smoothing = AcceleratedSmoothing(
                self.accelerator,
                job.schedule,
                model=self.model,
                optimizer=self.optimizer,
                source=(tokens, labels),
                source_batch_size=SOURCE_BATCH_SIZE,
                num_examples=16,
                source_count=num_items,
                target_count=num_items,
                mode=job.mode,
                non_finite="skip",
            )
        self.num_steps = 0
        self.logs: list[dict[str, float]] = []

    def run(self) -> Outcome:
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(8 if self.job.resume else 7)  # a resumed run must not depend on it
        if self.job.resume:
            last = max(self.job.out.iterdir(), key=lambda path: int(path.name))
            self.accelerator.load_state(str(last))
            self.num_steps = int(last.name)
        while self.num_steps < self.job.num_steps:
            for step in self._epoch():
                step()
                self.optimizer.step()
                self.optimizer.zero_grad()
                self._after_step()
                if self.num_steps == self.job.num_steps:
                    break
        return self._outcome()

    def _epoch(self) -> Iterator[Any]:
        """The backward passes of the windows left in this epoch."""
        epoch, done = divmod(self.num_steps, WINDOWS_PER_EPOCH)
        order = torch.randperm(NUM_TARGET_EXAMPLES, generator=torch.Generator().manual_seed(epoch))
        size = WINDOW // (self.job.num_micro_batches * self.accelerator.num_processes)
        data = TensorDataset(*(part[order] for part in make_data(2)))
        # A generator of its own: starting a loader must not draw from the global one.
        loader = self.accelerator.prepare(DataLoader(data, size, generator=torch.Generator()))
        if done:
            loader = self.accelerator.skip_first_batches(loader, done * self.job.num_micro_batches)
        if self.smoothing is None:
            yield from self._plain_windows(loader)
            return
        for window in self.smoothing.windows(loader):
            yield lambda window=window: window.backward(
                source=self._source_loss, target=lambda batch: loss_sum(self.model, batch)
            )

    def _plain_windows(self, loader: Any) -> Iterator[Any]:
        batches = list(loader)
        for start in range(0, len(batches), self.job.num_micro_batches):
            window = batches[start : start + self.job.num_micro_batches]

            def backward(window: Sequence[Batch] = window) -> None:
                count = int(sum(map(num_items, window)))
                for batch in window:
                    (loss_sum(self.model, batch).total / count).backward()

            yield backward

    def _source_loss(self, batch: Batch) -> segue.LossSum:
        part = loss_sum(self.model, batch)
        factor = {"zero": 0.0, "non_finite": torch.nan}.get(self.job.source_fault, 1.0)
        return segue.LossSum(part.total * factor, part.count)

    def _after_step(self) -> None:
        self.num_steps += 1
        if self.smoothing is not None:
            log = self.smoothing.log()
            mean = {
                name: self.accelerator.reduce(log[name], "mean").item()
                for name in ("source_loss", "target_loss")
                if name in log
            }
            self.logs.append({"source_weight": log["source_weight"], **mean})
        if self.job.save_every and self.num_steps % self.job.save_every == 0:
            self.accelerator.save_state(str(self.job.out / str(self.num_steps)))
        if self.num_steps == self.job.kill_after:
            raise Killed

    def _outcome(self) -> Outcome:
        def logged(name: str) -> list[float]:
            return [log[name] for log in self.logs if name in log]

        weights = self.accelerator.unwrap_model(self.model).state_dict()
        return Outcome(
            weights={name: value.detach().clone() for name, value in weights.items()},
            source_weights=logged("source_weight"),
            target_losses=logged("target_loss"),
            source_losses=logged("source_loss"),
            random_states={
                "torch": torch.get_rng_state(),
                "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index, union-attr]
                "python": random.getstate(),
            },
        )


def source_gradient() -> Mapping[str, Tensor]:
    model = make_model()
    replay = segue.Replay(make_data(1), num_examples=16, batch_size=SOURCE_BATCH_SIZE)
    part = loss_sum(model, next(replay))
    (part.total / part.count).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def train_on_ranks(
    jobs: Mapping[str, Sequence[Job]], num_ranks: int
) -> Mapping[str, list[Outcome]]:
    """Start one process per rank, and read what rank 0 left."""
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        Path(folder, "jobs").write_bytes(pickle.dumps(jobs))
        world = {
            "WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks), "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        ranks = [
            subprocess.Popen(
                [sys.executable, __file__, folder],
                env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(num_ranks)
        ]
        try:
            outputs = [rank.communicate(timeout=120)[0] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        if any(rank.returncode for rank in ranks):
            raise AssertionError("\n".join(outputs))
        outcomes: Mapping[str, list[Outcome]] = pickle.loads(Path(folder, "outcomes").read_bytes())
        return outcomes


ROW = AdapterRow(
    train=lambda job: Training(job).run(),
    initial_weights=lambda: make_model().state_dict(),
    source_gradient=source_gradient,
    modes=("mix", "backward"),
    tolerance=1e-10,
)


def main() -> None:
    folder = Path(sys.argv[1])
    jobs: Mapping[str, Sequence[Job]] = pickle.loads((folder / "jobs").read_bytes())
    outcomes = {name: [ROW.train(job) for job in given] for name, given in jobs.items()}
    if os.environ["RANK"] == "0":
        (folder / "outcomes").write_bytes(pickle.dumps(outcomes))
    torch.distributed.barrier()  # gloo's threads must not outlive the other process
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
