"""A family of tiny real trainings, for the tests of runs."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from segue.runs.context import RunContext, RunResult


@dataclass(frozen=True)
class Head:
    width: int = 4
    name: str = "linear"


@dataclass(frozen=True)
class TinySource:
    seed: int
    num_steps: int = 5
    fails: bool = False
    gives_a_tensor: bool = field(default=False, metadata={"omit_default": True})

    family: ClassVar[str] = "tiny"
    kind: ClassVar[str] = "source"

    def requires(self) -> tuple[Any, ...]:
        return ()

    def cost(self) -> float:
        return float(self.num_steps)

    def execute(self, context: RunContext) -> RunResult:
        if self.fails:
            raise ValueError("the source diverged <b>badly</b>")
        model = _train(self.seed, self.num_steps, None)
        loss: Any = torch.tensor(0.5) if self.gives_a_tensor else 0.5
        return RunResult(
            {"loss": loss, "count": 3, "name": "a", "flag": True, "missing": None},
            {"loss": {"step": [0, 1], "value": [1, 0.25]}},
            artifact=model.state_dict(),
        )


@dataclass(frozen=True)
class TinyTarget:
    source: TinySource
    method: str
    ending: str = "returns"
    head: Head = field(default_factory=Head)
    sizes: tuple[int, ...] = (1, 2)
    added_later: float = field(default=1.0, metadata={"omit_default": True})

    family: ClassVar[str] = "tiny"
    kind: ClassVar[str] = "target"

    def requires(self) -> tuple[Any, ...]:
        return (self.source,)

    def cost(self) -> float:
        return 1.0

    def __reduce__(self) -> Any:
        if self.ending == "cannot_be_unpacked":
            return (__import__, ("no_such_module",))
        return super().__reduce__()

    def execute(self, context: RunContext) -> RunResult:
        weights = context.artifact(self.source)
        if self.ending == "raises":
            raise RuntimeError("exploded at step 3")
        if self.ending == "is_killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.ending == "gives_nan":
            curve = {"loss": {"step": [0, 1], "value": [1.0, float("inf")]}}
            return RunResult({"loss": float("nan"), "score": 1.0}, curve)
        if self.ending == "gives_a_tensor":
            return RunResult({"loss": torch.tensor(1.0)}, {})
        if self.ending == "exits":
            raise SystemExit(3)
        if self.ending == "disk_is_full":
            if context.load_checkpoint() is None:
                context.save_checkpoint({"step": 1})
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        model = _train(self.source.seed, 3, weights)
        return RunResult({"loss": 0.1}, {}, weights=model.state_dict())


def _train(seed: int, num_steps: int, weights: dict[str, torch.Tensor] | None) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    if weights is not None:
        model.load_state_dict(weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(num_steps):
        model(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model
