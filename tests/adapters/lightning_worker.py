"""What one rank of tests/adapters/test_lightning_ranks.py does: python lightning_worker.py FOLDER."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler

import segue
from segue.adapters.lightning import SmoothingCallback, SmoothingMixin

warnings.filterwarnings("ignore", message=".*(many workers|isinstance|number of training batches)")


def rows(seed: int, size: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (size,), generator=generator)
    x = torch.randn(size, 6, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(size, 6, generator=generator, dtype=torch.float64)
    mask = torch.arange(6) < lengths[:, None]
    return [{"x": x[i], "y": y[i], "mask": mask[i]} for i in range(size)]


class Net(pl.LightningModule):
    """A body, a target head, and a source head if ``two_heads``."""

    def __init__(self, reduction: str, two_heads: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.reduction, self.two_heads = reduction, two_heads
        self.body = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Dropout(dropout)).double()
        self.new = nn.Linear(5, 1).double()
        if two_heads:
            self.old = nn.Linear(5, 1).double()
        self.trace: list[float] = []

    def loss(self, head: nn.Module, batch: Any) -> Any:
        errors = (head(self.body(batch["x"])).squeeze(-1) - batch["y"]).square()
        if self.reduction == "mean":
            return errors.mean()
        return segue.LossSum((errors * batch["mask"]).sum(), batch["mask"].sum())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(self.new, batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Smoothed(SmoothingMixin, Net):
    def source_step(self, batch: Any) -> Any:
        return self.loss(self.old if self.two_heads else self.new, batch)

    def target_step(self, batch: Any, batch_idx: int) -> Any:
        self.trace.append(self.smoothing.source_weight)
        return super().target_step(batch, batch_idx)


def train(
    module: Smoothed, num_ranks: int, *extra: Any, batch_size: int = 4, source: Any = None,
    schedule: Any = None, max_epochs: int = 2, fit: Any = None, **settings: Any,
) -> list[Tensor]:  # fmt: skip
    strategy: Any = SingleDeviceStrategy(torch.device("cpu"))
    if num_ranks > 1:
        strategy = DDPStrategy(
            process_group_backend="gloo", find_unused_parameters=module.two_heads
        )
    callback = SmoothingCallback(
        rows(1, 16) if source is None else source,
        schedule=schedule or segue.linear_decay(4),
        batch_size=8,
        num_examples=None,
    )
    trainer = pl.Trainer(
        accelerator="cpu", devices=num_ranks, strategy=strategy, max_epochs=max_epochs, logger=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[callback, *extra],
        enable_checkpointing=bool(extra), **settings,
    )  # fmt: skip
    # 24 examples: with four micro-batches an epoch ends in a short window. Lightning's own sampler
    # would shuffle, and differently than for one rank.
    data = rows(2, 24)
    sampler: Any = SequentialSampler(data)
    if num_ranks > 1:
        rank = int(os.environ["LOCAL_RANK"])
        sampler = DistributedSampler(data, num_ranks, rank, shuffle=False)
    trainer.fit(
        module, DataLoader(data, batch_size=batch_size // num_ranks, sampler=sampler), **(fit or {})
    )
    return [parameter.detach().clone() for parameter in module.parameters()]


def like_one_rank(mine: dict[str, list[Tensor]], num_ranks: int) -> None:
    for reduction in ("mean", "sum"):
        for two_heads in (False, True):
            for accumulate in (1, 4):
                module = Smoothed(reduction, two_heads)
                name = f"{reduction} {two_heads} {accumulate}"
                mine[name] = train(module, num_ranks, accumulate_grad_batches=accumulate)
                mine[f"{name} trace"] = [torch.tensor(module.trace)]


def resumed(mine: dict[str, list[Tensor]], folder: Path) -> None:
    """Dropout differs between the ranks, so each must get its own random state back."""
    for name, epochs in (("alone", [3]), ("killed", [1, 3])):
        fit: dict[str, Any] = {}
        for number in epochs:
            torch.manual_seed(1000 * len(fit) + torch.distributed.get_rank())
            module = Smoothed("sum", dropout=0.3)
            torch.manual_seed(1000 * len(fit) + torch.distributed.get_rank())
            saving = ModelCheckpoint(folder / name, save_last=True)
            schedule = segue.linear_decay(10)
            mine[name] = train(module, 2, saving, schedule=schedule, max_epochs=number, fit=fit)
            fit = {"ckpt_path": str(folder / name / "last.ckpt"), "weights_only": True}
    for a, b in zip(mine["alone"], mine["killed"], strict=True):
        assert torch.equal(a, b)


def non_finite() -> None:
    spoilt = rows(1, 16)
    spoilt[3]["x"][:] = float("nan")
    with pytest.raises(segue.NonFiniteLossError, match="the source loss is n"):
        train(Smoothed("sum"), 2, source=spoilt, schedule=segue.constant(0.5))


def main() -> None:
    folder, rank = Path(sys.argv[1]), int(os.environ["LOCAL_RANK"])
    torch.set_num_threads(1)
    mine: dict[str, list[Tensor]] = {}
    if rank == 0:  # before there is a process group
        like_one_rank(mine, 1)
        torch.save(mine, folder / "one.pt")
    like_one_rank(mine, 2)
    resumed(mine, folder)
    torch.save(mine, folder / f"rank{rank}.pt")
    non_finite()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
