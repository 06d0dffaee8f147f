"""The table of the adapters' contract, and what a row of it must provide.

An adapter joins by adding one line to ``ROWS``: the file and the name of its :class:`AdapterRow`. The
file is loaded when its row is first used. It finds this module as ``adapters``, after
``sys.path.insert(0, <tests/contract>)``.

A row trains its own tiny model on its own tiny data, made on the spot:

* ``NUM_TARGET_EXAMPLES`` target examples of *unequal* lengths, visited in the framework's shuffled
  order; an epoch is three windows of 8, 8 and 4 examples.
* ``SOURCE_BATCH_SIZE`` source examples per optimizer step, likewise unequal.
* SGD with learning rate ``LEARNING_RATE``, no momentum, no clipping, no warm-up, no weight decay.
* Dropout at the rate of the job, so that random states matter.

Everything is a function of the job alone: two runs of one job agree bit for bit.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

import segue

NUM_TARGET_EXAMPLES = 20
WINDOW = 8  # target examples per optimizer step, over all ranks and micro-batches
SOURCE_BATCH_SIZE = 8
LEARNING_RATE = 0.1

SourceFault = Literal["none", "zero", "non_finite", "masked"]


class Killed(Exception):
    """Raised inside training to end it at a step of the test's choice."""


@dataclass(frozen=True)
class Job:
    """One training run of the contract, in words that every framework can follow.

    Attributes:
        out: Folder for checkpoints; a resumed run finds there what a killed one left.
        schedule: Step → source weight. None trains the framework's plain trainer, without Segue.
        num_steps: Optimizer steps of the whole training, over as many epochs as that takes.
        num_micro_batches: Accumulated micro-batches per optimizer step, of ``WINDOW`` divided by
            this (and by the number of ranks) target examples each.
        dropout: Rate of the model's dropout.
        save_every: Write a checkpoint after every so many optimizer steps; 0 never does.
        kill_after: Raise :class:`Killed` once so many steps of the whole training are done (and
            their checkpoints, if due, are written).
        resume: Continue from the last checkpoint in ``out``.
        source_fault: What is wrong with every source batch: nothing; ``"zero"``, a finite loss of 0
            with gradient 0; ``"non_finite"``, a loss of NaN; ``"masked"``, no item to predict.
        mode: How the two losses are executed.
    """

    out: Path
    schedule: segue.Schedule | None = None
    num_steps: int = 3
    num_micro_batches: int = 1
    dropout: float = 0.0
    save_every: int = 0
    kill_after: int | None = None
    resume: bool = False
    source_fault: SourceFault = "none"
    mode: Literal["mix", "backward"] = "mix"


@dataclass(frozen=True)
class Outcome:
    """What a run left behind.

    Attributes:
        weights: The trained weights by name.
        source_weights: λ of every optimizer step done in *this* run (a resumed one starts at its
            checkpoint), as the trainer's own log has it. Empty without Segue.
        target_losses: The raw target loss of each of these steps, as the trainer's own log has it.
        source_losses: The raw source loss of those of these steps that evaluated it.
        random_states: The global random states at the end, in any form that ``==`` or
            ``torch.equal`` can compare, by name (``"torch"``, ``"numpy"``, ``"python"``).
    """

    weights: Mapping[str, Tensor]
    source_weights: list[float] = field(default_factory=list)
    target_losses: list[float] = field(default_factory=list)
    source_losses: list[float] = field(default_factory=list)
    random_states: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AdapterRow:
    """An adapter under test.

    Attributes:
        train: Runs a job in this process.
        initial_weights: The weights that every job starts from.
        source_gradient: Gradient, at the initial weights, of the source loss over the whole source
            batch of the first optimizer step, computed without the adapter: one plain mean over all
            its items, in one piece.
        modes: The modes of execution that the adapter has.
        tolerance: Largest difference of a weight between two ways to split the same window.
    """

    train: Callable[[Job], Outcome]
    initial_weights: Callable[[], Mapping[str, Tensor]]
    source_gradient: Callable[[], Mapping[str, Tensor]]
    modes: tuple[Literal["mix", "backward"], ...] = ("mix",)
    tolerance: float = 2e-6


_TESTS = Path(__file__).parents[1]

ROWS: dict[str, tuple[str, str]] = {
    # name of the row: (file below tests/, name of the AdapterRow in it)
    "Trainer": ("adapters/transformers_rows.py", "TRAINER"),
    "SFTTrainer": ("adapters/transformers_rows.py", "SFT"),
    "DPOTrainer": ("adapters/transformers_rows.py", "DPO"),
    "Lightning": ("contract/adapter_lightning.py", "ROW"),
    "Accelerate": ("adapters/accelerate_rows.py", "ROW"),
}


# Rows that can be trained on several processes, by file: it has a function
# ``train_on_ranks(jobs, num_ranks)`` that takes jobs by the name of their row, starts the processes
# once for all of them, and returns rank 0's outcomes in the same form.
ON_RANKS: dict[str, tuple[str, ...]] = {
    "adapters/transformers_rows.py": ("Trainer", "SFTTrainer", "DPOTrainer"),
    "adapters/accelerate_rows.py": ("Accelerate",),
}


def load_row(name: str) -> AdapterRow:
    """Import the file of the row called ``name`` and return the row."""
    file, attribute = ROWS[name]
    row: AdapterRow = getattr(load_file(file), attribute)
    return row


def load_file(file: str) -> Any:
    """Import a file below tests/ under its own name."""
    path = _TESTS / file
    sys.path.insert(0, str(path.parent))
    try:
        return importlib.import_module(path.stem)
    finally:
        sys.path.remove(str(path.parent))
