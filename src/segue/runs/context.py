"""What a run is given, and what it gives back."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from segue.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from segue.runs.grid import RunConfig, run_id

__all__ = ["RunContext", "RunResult", "Store"]

Curve = dict[str, list[Any]]


@dataclass(frozen=True)
class RunResult:
    """What a run found.

    Attributes:
        metrics: Final values by name.
        curves: ``{"step": [...], "value": [...]}`` by name.
        artifact: Tensors that later runs start from, such as a source model's weights.
        weights: Final weights, of which only the hash is kept.
        data_fingerprint: Hash of the data it used.
    """

    metrics: Mapping[str, Any]
    curves: Mapping[str, Curve]
    artifact: Mapping[str, Tensor] | None = None
    weights: Mapping[str, Tensor] | None = None
    data_fingerprint: str | None = None


@dataclass(frozen=True)
class Store:
    """Where the files of a run are: ``<root>/<family>/{records,artifacts,checkpoints}``."""

    root: Path

    @property
    def cache(self) -> Path:
        """Folder for what can be made again, such as decoded data."""
        return self.root / "cache"

    def records(self, config: RunConfig) -> Path:
        """Folder of the family's records."""
        return self.root / config.family / "records"

    def artifact(self, config: RunConfig) -> Path:
        """File with the tensors that later runs start from."""
        return self.root / config.family / "artifacts" / f"{run_id(config)}.safetensors"

    def checkpoint(self, config: RunConfig) -> Path:
        """File that a run which was cut off resumes from."""
        return self.root / config.family / "checkpoints" / f"{run_id(config)}.safetensors"


@dataclass
class RunContext:
    """A run's way to the world outside.

    Attributes:
        config: The run.
        store: Where its files are.
        data_root: Data folder, or None.
        checkpoint_seconds: Least time between two checkpoints.
        report: Called with the number of steps done and their total.
        num_resumes: How often this run was cut off and went on.
        checkpoint_steps: Also ask for a checkpoint every so many steps; None for time alone.
        device: Where to train, as torch names it. Generators that draw data stay on the CPU.
    """

    config: RunConfig
    store: Store
    data_root: str | None = None
    checkpoint_seconds: float = 20.0
    report: Callable[[int, int], None] = lambda step, total: None
    num_resumes: int = 0
    checkpoint_steps: int | None = None
    device: str = "cpu"
    _elapsed: float = 0.0
    _started: float = field(default_factory=time.monotonic)
    _saved: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds spent on this run so far, those before a cut-off included."""
        return self._elapsed + time.monotonic() - self._started

    def load_checkpoint(self) -> Any:
        """Return the state this run was cut off with, or None to start afresh.

        A checkpoint that cannot be read is set aside with a warning.
        """
        path = self.store.checkpoint(self.config)
        if not path.exists():
            return None
        try:
            saved = load_checkpoint(path)
        except CheckpointError as error:
            aside = path.with_suffix(".unreadable")
            path.replace(aside)
            warnings.warn(f"{error}; set aside as {aside}, the run starts over", stacklevel=2)
            return None
        self._elapsed = saved["elapsed"]
        self.num_resumes = saved["num_resumes"] + 1
        return saved["state"]

    def should_checkpoint(self, step: int) -> bool:
        """Whether it is time for a checkpoint, ``step`` steps being done."""
        if self.checkpoint_steps and step % self.checkpoint_steps == 0:
            return True
        return time.monotonic() - self._saved >= self.checkpoint_seconds

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Save what :meth:`load_checkpoint` will return; see :func:`save_checkpoint` for types."""
        save_checkpoint(
            self.store.checkpoint(self.config),
            {"state": dict(state), "elapsed": self.elapsed, "num_resumes": self.num_resumes},
        )
        self._saved = time.monotonic()

    def progress(self, step: int, total: int) -> None:
        """Tell how far the run is."""
        self.report(step, total)

    def artifact(self, config: RunConfig) -> dict[str, Tensor]:
        """Return the tensors of a run that this one requires."""
        tensors: dict[str, Tensor] = load_checkpoint(self.store.artifact(config))
        return tensors
