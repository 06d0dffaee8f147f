"""Lightning's row of the adapters' contract.

Lightning itself averages each micro-batch and then the micro-batches. A target step that returns a
mean is left at that (so does the plain trainer, and so does weight 0, bitwise); one that returns a
sum with its count is exact over the window. The row's module does the first where nothing is smoothed
and the second on the ramp.
"""

from __future__ import annotations

import logging
import random
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, nn

import segue
from segue.adapters.lightning import SmoothingCallback, SmoothingMixin

sys.path.insert(0, str(Path(__file__).parent))
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

NUM_TOKENS, LENGTH = 11, 7


def _rows(seed: int, size: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(NUM_TOKENS, (size, LENGTH + 1), generator=generator)
    lengths = torch.randint(1, LENGTH + 1, (size,), generator=generator)
    labels = tokens[:, 1:].masked_fill(torch.arange(LENGTH) >= lengths[:, None], -100)
    return {"tokens": tokens[:, :-1], "labels": labels}


class _Loader:
    """Shuffles each epoch anew, in micro-batches, and goes on where it was."""

    def __init__(self, job: Job) -> None:
        self.data = _rows(2, NUM_TARGET_EXAMPLES)
        self.size = WINDOW // job.num_micro_batches
        self.epoch = self.position = 0

    def __len__(self) -> int:
        return -(-NUM_TARGET_EXAMPLES // self.size)

    def __iter__(self) -> Iterator[Any]:
        if self.position == len(self):
            self.epoch, self.position = self.epoch + 1, 0
        generator = torch.Generator().manual_seed(self.epoch)
        parts = torch.randperm(NUM_TARGET_EXAMPLES, generator=generator).split(self.size)
        while self.position < len(parts):
            index = parts[self.position]
            self.position += 1
            yield {name: value[index] for name, value in self.data.items()}

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]


class _Module(pl.LightningModule):
    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job
        self.exact = job.schedule is not None and job.schedule(0) > 0.0
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(
                nn.Embedding(NUM_TOKENS, 6), nn.Linear(6, 8), nn.Tanh(), nn.Dropout(job.dropout),
                nn.Linear(8, NUM_TOKENS),
            ).double()  # fmt: skip

    def loss(self, batch: Any) -> segue.LossSum:
        logits = self.net(batch["tokens"]).flatten(0, 1)
        losses = nn.functional.cross_entropy(logits, batch["labels"].flatten(), reduction="sum")
        return segue.LossSum(losses, (batch["labels"] != -100).sum())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        return loss if self.exact else loss.total / loss.count

    def on_train_batch_end(self, *args: Any) -> None:  # after the callbacks', so after saving
        if self.trainer.global_step == self.job.kill_after:
            raise Killed

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE)


class _Smoothed(SmoothingMixin, _Module):
    def source_step(self, batch: Any) -> segue.LossSum:
        fault = self.job.source_fault
        if fault == "masked":
            batch = {**batch, "labels": torch.full_like(batch["labels"], -100)}
        loss = self.loss(batch)
        factor = {"zero": 0.0, "non_finite": torch.nan}.get(fault, 1.0)
        return segue.LossSum(loss.total * factor, loss.count)


class _Lines(Logger):
    """Keeps what the trainer logs at each optimizer step."""

    name, version = "lines", 0

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Mapping[str, float]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.lines.append(dict(metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def of(self, name: str) -> list[float]:
        return [line[f"segue/{name}"] for line in self.lines if f"segue/{name}" in line]


def _callback(job: Job) -> SmoothingCallback:
    return SmoothingCallback(
        _rows(1, 20),
        schedule=job.schedule,
        batch_size=SOURCE_BATCH_SIZE,
        num_examples=16,
        non_finite="skip",
    )


def _train(job: Job) -> Outcome:
    smoothed = job.schedule is not None
    module = _Smoothed(job) if smoothed else _Module(job)
    callbacks: list[Any] = [_callback(job)] if smoothed else []
    if job.save_every:
        callbacks.append(
            ModelCheckpoint(job.out, every_n_train_steps=job.save_every, save_last=True)
        )
    lines = _Lines()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*many workers|.*LeafSpec|.*ModelCheckpoint")
        trainer = pl.Trainer(
            accelerator="cpu", devices=1, max_steps=job.num_steps, max_epochs=-1, logger=lines,
            log_every_n_steps=1, accumulate_grad_batches=job.num_micro_batches, callbacks=callbacks,
            enable_checkpointing=bool(job.save_every), enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=job.out,
        )  # fmt: skip
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(8 if job.resume else 7)  # a resumed run must not depend on it
        path = str(job.out / "last.ckpt") if job.resume else None
        trainer.fit(module, _Loader(job), ckpt_path=path, weights_only=True)
    return Outcome(
        weights={name: value.detach().clone() for name, value in module.state_dict().items()},
        source_weights=lines.of("source_weight"),
        target_losses=lines.of("target_loss"),
        source_losses=lines.of("source_loss"),
        random_states={
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index, union-attr]
            "python": random.getstate(),
        },
    )


def _initial_weights() -> Mapping[str, Tensor]:
    return _Module(Job(out=None)).state_dict()  # type: ignore[arg-type]


def _source_gradient() -> Mapping[str, Tensor]:
    module = _Module(Job(out=None))  # type: ignore[arg-type]
    replay = segue.Replay(_rows(1, 20), num_examples=16, batch_size=SOURCE_BATCH_SIZE)
    loss = module.loss(next(replay))
    (loss.total / loss.count).backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


ROW = AdapterRow(
    train=_train,
    initial_weights=_initial_weights,
    source_gradient=_source_gradient,
    tolerance=1e-10,
)
