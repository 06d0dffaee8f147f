"""A Lightning training that is killed and resumed from its checkpoint equals one left alone."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import segue
from segue.adapters.lightning import SmoothingCallback, SmoothingMixin

pytestmark = pytest.mark.filterwarnings(
    "ignore:The '.*' does not have many workers", "ignore:The number of training batches"
)
NUM_EPOCHS = 3
PER_EPOCH = 12  # micro-batches


def data(seed: int, size: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(
        torch.randn(size, 4, generator=generator), torch.randint(3, (size,), generator=generator)
    )


class Resumable:
    """A loader that shuffles each pass anew and goes on where it was, as Lightning asks for."""

    def __init__(self) -> None:
        self.dataset, self.number, self.position = data(2, 2 * PER_EPOCH), 0, 0

    def __len__(self) -> int:
        return PER_EPOCH

    def __iter__(self) -> Iterator[Any]:
        if self.position == PER_EPOCH:
            self.number, self.position = self.number + 1, 0
        generator = torch.Generator().manual_seed(self.number)
        order = torch.randperm(len(self.dataset), generator=generator)
        while self.position < PER_EPOCH:
            index = order[2 * self.position : 2 * self.position + 2]
            self.position += 1
            yield [tensor[index] for tensor in self.dataset.tensors]

    def state_dict(self) -> dict[str, int]:
        return {"number": self.number, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.number, self.position = state["number"], state["position"]


class Killed(Exception):
    pass


class Net(pl.LightningModule):
    """Dropout from torch's generator, noise from NumPy's and Python's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3)
        )
        self.trace: list[tuple[int, float]] = []
        self.dies_at: int | None = None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        noise = np.random.normal() + random.random()
        return nn.functional.cross_entropy(self.net(batch[0] + 0.01 * noise), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.02)


class Smoothed(SmoothingMixin, Net):
    def source_step(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def target_step(self, batch: Any, batch_idx: int) -> Any:
        if self.trainer.fit_loop.total_batch_idx == self.dies_at:
            raise Killed
        self.trace.append((self.trainer.global_step, self.smoothing.source_weight))
        return super().target_step(batch, batch_idx)


def train(
    folder: Path, loader: Any, checkpoint: ModelCheckpoint, *, dies_at: int | None = None,
    accumulate: int = 1, **fit: Any,
) -> tuple[Smoothed, SmoothingCallback]:  # fmt: skip
    module = Smoothed()
    module.dies_at = dies_at
    smoothing = SmoothingCallback(
        data(1, 20),
        num_smoothing_steps=0.6,
        batch_size=4,
        num_examples=12,
        batch_norm="frozen_source",
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=NUM_EPOCHS,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[smoothing, checkpoint],
        accumulate_grad_batches=accumulate,
        default_root_dir=folder,
    )
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(5 if not fit else 99)  # what a resumed process happens to start with must not matter
    if dies_at is None:
        trainer.fit(module, loader, **fit)
    else:
        with pytest.raises(Killed):
            trainer.fit(module, loader, **fit)
    return module, smoothing


def assert_equal(a: Smoothed, b: Smoothed) -> None:
    for (name, one), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    states = [m.optimizers().optimizer.state_dict()["state"] for m in (a, b)]  # type: ignore[union-attr]
    for key, state in states[0].items():
        for name, value in state.items():
            assert torch.equal(value, states[1][key][name]), name


@pytest.mark.parametrize("accumulate", [1, 4])
def test_training_killed_twice_in_the_ramp_equals_one_left_alone(
    accumulate: int, tmp_path: Path
) -> None:
    def checkpoint(name: str) -> ModelCheckpoint:
        folder = tmp_path / name
        return ModelCheckpoint(folder, every_n_train_steps=2, save_last=True, save_top_k=1)

    alone, _ = train(tmp_path, Resumable(), checkpoint("alone"), accumulate=accumulate)
    last = str(tmp_path / "killed" / "last.ckpt")
    settings: dict[str, Any] = {"accumulate": accumulate}
    parts = []
    for dies_at in (
        9,
        18,
        None,
    ):  # of 36 micro-batches, the ramp being 22 (or 24 with accumulation)
        part, _ = train(tmp_path, Resumable(), checkpoint("killed"), dies_at=dies_at, **settings)
        settings |= {"ckpt_path": last, "weights_only": True}
        parts.append(part.trace)
    assert_equal(part, alone)
    assert {*parts[0], *parts[1], *parts[2]} == set(alone.trace)
    assert 0.0 < parts[1][0][1] < 1.0
    assert 0.0 < parts[2][0][1] < 1.0


def test_ordinary_shuffled_loader_is_resumed_exactly_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    def loader() -> Any:
        return DataLoader(data(2, 2 * PER_EPOCH), batch_size=2, shuffle=True)

    def checkpoint(name: str) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / name, save_last=True)

    alone, _ = train(tmp_path, loader(), checkpoint("alone"))
    train(tmp_path, loader(), checkpoint("killed"), dies_at=2 * PER_EPOCH - 5)
    last = str(tmp_path / "killed" / "last.ckpt")
    resumed, _ = train(tmp_path, loader(), checkpoint("killed"), ckpt_path=last, weights_only=True)
    assert_equal(resumed, alone)
    assert resumed.trace == alone.trace[PER_EPOCH:]


def test_state_in_the_checkpoint_is_plain_and_small(tmp_path: Path) -> None:
    train(tmp_path, Resumable(), ModelCheckpoint(tmp_path, save_last=True), dies_at=PER_EPOCH + 1)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    state = saved["callbacks"]["SmoothingCallback"]

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.tolist()
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(plain(state), allow_nan=False)
    assert json.loads(text)["ranks"][0]["smoothing"]["num_steps"] == PER_EPOCH
    assert state["source"]["position"] == 4 * PER_EPOCH
    assert len(text) < 100_000


def test_after_the_ramp_a_resumed_training_holds_no_bank(tmp_path: Path) -> None:
    train(tmp_path, Resumable(), ModelCheckpoint(tmp_path, save_last=True), dies_at=30)
    fit: dict[str, Any] = {"ckpt_path": str(tmp_path / "last.ckpt"), "weights_only": True}
    resumed, smoothing = train(tmp_path, Resumable(), ModelCheckpoint(tmp_path), **fit)
    assert resumed.trace[0][1] == 0.0
    assert smoothing._held is not None
    assert smoothing._held.replay is not None
    assert smoothing._held.replay.released


def test_source_models_own_checkpoint_begins_a_ramp_of_its_own(tmp_path: Path) -> None:
    """A checkpoint without the callback's state is a switch, not a resume."""
    source = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=5, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, enable_checkpointing=False,
    )  # fmt: skip
    source.fit(Net(), Resumable())
    source.save_checkpoint(tmp_path / "source.ckpt")
    path = str(tmp_path / "source.ckpt")
    module, _ = train(tmp_path, Resumable(), ModelCheckpoint(tmp_path), ckpt_path=path)
    assert module.trace[0] == (5, 1.0)


def test_second_fit_of_a_trainer_goes_on_with_the_ramp(tmp_path: Path) -> None:
    module = Smoothed()
    smoothing = SmoothingCallback(
        data(1, 20), num_smoothing_steps=20, batch_size=4, num_examples=12
    )
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=2, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[smoothing], enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, Resumable())
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, Resumable())
    assert [weight for _, weight in module.trace] == [max(0.0, 1 - t / 20) for t in range(36)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_smoothing_steps": 9}, "schedule must be the saved one"),
        ({"num_smoothing_steps": 8, "seed": 1}, "seed must equal the saved replay's"),
        ({"num_smoothing_steps": 8, "batch_size": 5}, "batch_size must equal the saved replay's"),
    ],
)
def test_another_ramp_or_source_is_refused_on_resume(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    def fit(path: str | None, **settings: Any) -> pl.Trainer:
        arguments = {"num_examples": 12, "batch_size": 4} | settings
        trainer = pl.Trainer(
            accelerator="cpu", devices=1, max_epochs=2, logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False,
            callbacks=[SmoothingCallback(data(1, 20), **arguments)], limit_train_batches=6,
        )  # fmt: skip
        if path is None:
            trainer.fit_loop.max_epochs = 1
        trainer.fit(Smoothed(), Resumable(), ckpt_path=path)
        return trainer

    first = fit(None, schedule=segue.linear_decay(8))
    first.save_checkpoint(tmp_path / "first.ckpt")
    with pytest.raises(ValueError, match=message):
        fit(str(tmp_path / "first.ckpt"), **settings)
