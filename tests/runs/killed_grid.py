"""A grid of tiny trainings with dropout and momentum, made to be killed.

``python -m killed_grid FOLDER`` executes it in a worker process. With KILL_AT_RENAME=n in the
environment the whole process group is killed when one of its processes is about to rename its n-th
file, which is then written but not in place.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from segue.runs.context import RunContext, RunResult
from segue.runs.execution import execute


@dataclass(frozen=True)
class Training:
    """Train an MLP on random data; with a source, from the source's weights."""

    name: str
    num_steps: int
    source: Training | None = None
    waits: bool = False

    family: ClassVar[str] = "killed"
    kind: ClassVar[str] = "training"

    def requires(self) -> tuple[Any, ...]:
        return () if self.source is None else (self.source,)

    def cost(self) -> float:
        return float(self.num_steps)

    def execute(self, context: RunContext) -> RunResult:
        if self.waits:
            (context.store.root / "pid").write_text(str(os.getpid()))
            time.sleep(120)
        torch.manual_seed(sum(self.name.encode()))
        data = torch.Generator().manual_seed(1)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
        if self.source is not None:
            model.load_state_dict(context.artifact(self.source))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        first, losses = 0, []
        if (state := context.load_checkpoint()) is not None:
            first, losses = state["step"], state["losses"]
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            data.set_state(state["data"])
            torch.set_rng_state(state["dropout"])
        for step in range(first, self.num_steps):
            inputs = torch.randn(16, 8, generator=data)
            loss = nn.functional.cross_entropy(model(inputs), inputs[:, :3].argmax(dim=1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            context.progress(step + 1, self.num_steps)
            if context.should_checkpoint(step + 1):
                context.save_checkpoint(
                    {
                        "step": step + 1,
                        "losses": losses,
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "data": data.get_state(),
                        "dropout": torch.get_rng_state(),
                    }
                )
        curve = {"step": list(range(1, self.num_steps + 1)), "value": losses}
        weights = model.state_dict()
        return RunResult({"loss": losses[-1]}, {"loss": curve}, artifact=weights, weights=weights)


def grid(num_steps: int) -> list[Training]:
    source = Training("source", num_steps)
    return [source, Training("first", num_steps, source), Training("second", num_steps, source)]


def die_at_rename(number: int, kill: Any, *, after: bool = False) -> None:
    """Make this process call ``kill`` just before, or just after, its ``number``-th rename."""
    replace, count = os.replace, 0

    def replace_or_die(source: Any, target: Any) -> None:
        nonlocal count
        count += 1
        if count == number and not after:
            kill()
        replace(source, target)
        if count == number:
            kill()

    os.replace = replace_or_die  # type: ignore[assignment]


# Worker processes import this module as well, so the hook is in them too.
if "KILL_AT_RENAME" in os.environ:
    die_at_rename(int(os.environ["KILL_AT_RENAME"]), lambda: os.killpg(0, signal.SIGKILL))

if __name__ == "__main__":
    import killed_grid  # the configs' classes must not be those of __main__

    configs = killed_grid.grid(300)
    if "--wait" in sys.argv:
        configs = [killed_grid.Training("waiting", 1, waits=True)]
    execute(configs, Path(sys.argv[1]), num_workers=1, checkpoint_steps=50, command="test")
