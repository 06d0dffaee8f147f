"""One process of the Accelerate tests: runs the named cases and writes what each found as JSON.

Started as ``python accelerate_worker.py RANK WORLD_SIZE PORT FOLDER CASE...``. Losses are sums over
items that a mask keeps, so that examples, micro-batches and processes hold unequal numbers of them.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
)
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, TensorDataset

import segue
from segue.adapters.accelerate import AcceleratedSmoothing

K, NUM_EPOCHS = 4, 2
TIMEOUT = datetime.timedelta(seconds=30)
Batch = tuple[Tensor, Tensor, Tensor]


class TwoHeads(nn.Module):
    """A body that both sides use, and a head for each."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.body, self.dropout = nn.Linear(4, 8), nn.Dropout(dropout)
        self.old, self.new = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, inputs: Tensor, head: str) -> Tensor:
        hidden = self.dropout(torch.tanh(self.body(inputs)))
        outputs: Tensor = getattr(self, head)(hidden)
        return outputs


def examples(seed: int, number: int) -> Batch:
    """Sequences of five items; between none and all of them count."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(number, 5, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (number, 5), generator=generator)
    lengths = torch.randint(0, 6, (number, 1), generator=generator)
    lengths[:2] = 0  # a first micro-batch of two without any item
    return inputs, labels, torch.arange(5).expand(number, 5) < lengths


def count(batch: Batch) -> Tensor:
    return batch[2].sum()


def loss_sum(model: nn.Module, batch: Batch, head: str) -> segue.LossSum:
    inputs, labels, mask = batch
    losses = nn.functional.cross_entropy(
        model(inputs, head).flatten(0, 1), labels.flatten(), reduction="none"
    )
    return segue.LossSum((losses * mask.flatten()).sum(), mask.sum())


def shard_with_plugin(accelerator: Accelerator) -> None:
    """Let ``prepare`` shard the model with the plugin of FSDP2.

    Accelerate chooses the plugin on accelerators only; its code for FSDP2 runs on CPUs as well.
    """
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="size_based_wrap", min_num_params=30
    )
    for state in (PartialState(), accelerator.state):  # the second is made again from the first
        state.distributed_type = DistributedType.FSDP
    assert accelerator.is_fsdp2


class Loop:
    """An accelerator, a prepared model and what smooths its training."""

    def __init__(
        self,
        num_micro_batches: int = 1,
        batch_size: int = 8,
        *,
        sharding: str = "ddp",
        dropout: float = 0.0,
        num_target: int = 36,
        heads: tuple[str, str] = ("old", "new"),
        schedule: segue.Schedule | None = None,
        source: Any = None,
        **options: Any,
    ) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        self.heads = heads
        unused = DistributedDataParallelKwargs(find_unused_parameters=heads[0] != heads[1])
        self.accelerator = Accelerator(
            cpu=True,
            gradient_accumulation_steps=num_micro_batches,
            kwargs_handlers=[unused, InitProcessGroupKwargs(timeout=TIMEOUT)],
        )
        if sharding == "fsdp2_plugin":
            shard_with_plugin(self.accelerator)
        torch.manual_seed(0)
        model: nn.Module = TwoHeads(dropout).double()
        if heads == ("new", "new"):
            del model.old
        if sharding == "fsdp2":
            mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
            for part in (*model.children(), model):
                fully_shard(part, mesh=mesh)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
        # A generator of its own: starting a loader in the middle of an epoch draws from it.
        loader = DataLoader(
            TensorDataset(*examples(2, num_target)), batch_size, generator=torch.Generator()
        )
        if sharding == "fsdp2":
            self.model = model
            self.optimizer, self.loader = self.accelerator.prepare(optimizer, loader)
        else:
            self.model, self.optimizer, self.loader = self.accelerator.prepare(
                model, optimizer, loader
            )
        assert isinstance(self.model, FSDPModule) == sharding.startswith("fsdp2")
        settings: dict[str, Any] = {
            "source": examples(1, 20) if source is None else source,
            "source_batch_size": 8,
            "num_examples": 16,
            "source_count": count,
            "target_count": count,
            **options,
        }
        self.smoothing = AcceleratedSmoothing(
            self.accelerator,
            schedule or segue.linear_decay(K),
            model=self.model,
            optimizer=self.optimizer,
            **settings,
        )
        self.num_source_calls = 0
        self.trace: list[float] = []
        self.losses: list[tuple[float, ...]] = []

    def source_loss(self, batch: Batch) -> segue.LossSum:
        self.num_source_calls += 1
        return loss_sum(self.model, batch, self.heads[0])

    def target_loss(self, batch: Batch) -> segue.LossSum:
        return loss_sum(self.model, batch, self.heads[1])

    def step(self, window: Any) -> None:
        self.trace.append(self.smoothing.source_weight)
        window.backward(source=self.source_loss, target=self.target_loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        log = self.smoothing.log()
        self.losses.append(
            tuple(
                self.accelerator.reduce(log[name], "mean").item()
                for name in ("source_loss", "target_loss")
                if name in log
            )
        )

    def epoch(self) -> None:
        for window in self.smoothing.windows(self.loader):
            self.step(window)

    def weights(self) -> dict[str, list[float]]:
        found = {}
        for name, value in self.model.state_dict().items():
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            found[name.removeprefix("module.")] = whole.flatten().tolist()
        return found

    def result(self) -> dict[str, Any]:
        return {
            "weights": self.weights(),
            "trace": self.trace,
            "losses": self.losses,
            "num_source_calls": self.num_source_calls,
            "released": self.smoothing.replay.released,
        }


def train(*args: Any, **kwargs: Any) -> dict[str, Any]:
    loop = Loop(*args, **kwargs)
    for _ in range(NUM_EPOCHS):
        loop.epoch()
    return loop.result()


def one_by_8() -> Any:
    return train(1, 8)


def two_by_4() -> Any:
    return train(2, 4)


def four_by_2() -> Any:
    return train(4, 2)


def one_by_8_even() -> Any:
    return train(1, 8, num_target=40)


def one_by_4() -> Any:
    return train(1, 4, num_target=40)  # Accelerate repeats examples where ranks do not divide them


def two_by_2() -> Any:
    return train(2, 2)


def fsdp2() -> Any:
    return train(2, 2, sharding="fsdp2")


def fsdp2_mix() -> Any:
    return train(2, 2, sharding="fsdp2", mode="mix")


def fsdp2_plugin() -> Any:
    return train(2, 2, sharding="fsdp2_plugin")


def fsdp2_plugin_mix() -> Any:
    return train(2, 2, sharding="fsdp2_plugin", mode="mix")


def one_head_1x8() -> Any:
    return train(1, 8, heads=("new", "new"))


def one_head_mix() -> Any:
    return train(2, 2, heads=("new", "new"), mode="mix")


def gradients_of_the_heads() -> Any:
    """Which head has a gradient at the first step, and after the ramp."""
    loop = Loop(2, 2)
    seen = {}
    for _ in range(NUM_EPOCHS):
        for window in loop.smoothing.windows(loop.loader):
            step = loop.smoothing.smoothing.num_steps
            window.backward(source=loop.source_loss, target=loop.target_loss)
            seen[step] = sorted(
                name.removeprefix("module.")
                for name, parameter in loop.model.named_parameters()
                if parameter.grad is not None and name.endswith("weight")
            )
            loop.optimizer.step()
            loop.optimizer.zero_grad()
    return {"first": seen[0], "last_of_ramp": seen[K - 1], "after": seen[K]}


def uneven_targets() -> Any:
    """The first process has three batches of two, the second has five."""
    loop = Loop(2, 2)
    rank = loop.accelerator.process_index
    batches = DataLoader(TensorDataset(*examples(3, 10)), 2)
    mine = [batch for number, batch in enumerate(batches) if number < (3, 5)[rank]]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        windows = 0
        for window in loop.smoothing.windows(mine):
            loop.step(window)
            windows += 1
    texts = [str(w.message) for w in caught if "micro-batches left" in str(w.message)]
    return {"windows": windows, "warnings": texts, **loop.result()}


def uneven_shards() -> Any:
    rank = int(os.environ["RANK"])
    return train(1, 4, source=examples(10 + rank, (6, 11)[rank]), sharded=True, num_examples=None)


def refused(**options: Any) -> str:
    try:
        Loop(1, 4, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def different_banks() -> Any:
    return refused(source=examples(10 + int(os.environ["RANK"]), 20))


def one_empty_shard() -> Any:
    rank = int(os.environ["RANK"])
    return refused(source=examples(1, (20, 0)[rank]), sharded=True, num_examples=None)


def not_a_number_on_one_rank() -> Any:
    inputs, labels, mask = examples(1, 20)
    if os.environ["RANK"] == "1":
        inputs = inputs * float("nan")
    loop = Loop(1, 4, source=(inputs, labels, mask), sharded=True, num_examples=16)
    try:
        loop.epoch()
    except segue.NonFiniteLossError as error:
        return f"{error.side} {error.num_steps}"
    return "nothing was raised"


def resumed(sharding: str = "ddp") -> Any:
    """Saved inside the ramp and inside an epoch, continued twice; once undisturbed."""
    folder = Path(sys.argv[4]) / f"state-{sharding}"
    settings: dict[str, Any] = {"dropout": 0.3, "sharding": sharding}
    undisturbed = Loop(2, 2, **settings)
    for number, window in enumerate(undisturbed.smoothing.windows(undisturbed.loader)):
        undisturbed.step(window)
        if number == 1:
            undisturbed.accelerator.save_state(str(folder))
    undisturbed.epoch()
    found = {"undisturbed": undisturbed.weights(), "resumed": []}
    for _ in range(2):
        loop = Loop(2, 2, **settings)
        torch.manual_seed(99)
        loop.accelerator.load_state(str(folder))
        rest = loop.accelerator.skip_first_batches(loop.loader, 4)
        for window in loop.smoothing.windows(rest):
            loop.step(window)
        loop.epoch()
        found["resumed"].append(loop.weights())
    found["files"] = sorted(path.name for path in folder.iterdir())
    return found


def resumed_with_plugin() -> Any:
    return resumed("fsdp2_plugin")


def main() -> None:
    rank, world_size, port, folder = sys.argv[1:5]
    if world_size != "1":
        os.environ |= {
            "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size,
            "LOCAL_WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
    found = {case: globals()[case]() for case in sys.argv[5:]}
    name = "alone" if world_size == "1" else f"rank{rank}"
    (Path(folder) / f"{name}.json").write_text(json.dumps(found))
    if world_size != "1":
        torch.distributed.barrier()  # gloo's threads must not outlive the other process
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
