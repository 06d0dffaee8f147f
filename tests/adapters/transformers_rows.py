"""Rows of the adapters' contract: Transformers' Trainer, TRL's SFTTrainer and its DPOTrainer.

As a script, ``python transformers_rows.py FOLDER``, it is one rank of jobs on several.
"""

from __future__ import annotations

import os
import pickle
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, disable_progress_bars
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from transformers_tiny import (
    completions,
    make_model,
    make_tokenizer,
    preferences,
    texts,
    tokenized,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

import segue
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
from segue.adapters.transformers import Source
from segue.adapters.transformers.source import pad_examples

disable_progress_bars()
NUM_SOURCE_EXAMPLES = 20
Make = Callable[..., Trainer]


class KillsAfter(TrainerCallback):
    def __init__(self, num_steps: int | None) -> None:
        self._num_steps = num_steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._num_steps:
            raise Killed


def arguments(job: Job, num_ranks: int) -> dict[str, Any]:
    return {
        "output_dir": str(job.out),
        "max_steps": job.num_steps,
        "per_device_train_batch_size": WINDOW // (job.num_micro_batches * num_ranks),
        "gradient_accumulation_steps": job.num_micro_batches,
        "optim": "sgd",
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "weight_decay": 0.0,
        "logging_steps": 1,
        "logging_nan_inf_filter": True,
        "save_strategy": "steps" if job.save_every else "no",
        "save_steps": job.save_every or 1,
        "seed": 3,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
    }


def make_trainer(
    trainer_class: type[Trainer], args: Any, job: Job, callbacks: Sequence[Any], **extra: Any
) -> Trainer:
    ours: dict[str, Any] = {}
    if job.schedule is not None:
        trainer_class = segue.smooth(trainer_class)
        ours = {
            "source": faulty_source(job),
            "schedule": job.schedule,
            "mode": job.mode,
            "num_bank_examples": NUM_SOURCE_EXAMPLES - 1,
            "source_batch_size": SOURCE_BATCH_SIZE,
        }
    return trainer_class(
        model=make_model(job.dropout),
        args=args,
        processing_class=make_tokenizer(),
        callbacks=list(callbacks),
        **ours,
        **extra,
    )


def faulty_source(job: Job) -> Any:
    examples = texts(NUM_SOURCE_EXAMPLES, seed=1)
    factor = {"zero": 0.0, "non_finite": float("nan")}.get(job.source_fault)
    if factor is not None:
        return Source(examples, compute_loss=lambda model, batch: model(**batch).loss * factor)
    if job.source_fault == "masked":
        return Source(
            tokenized(examples),
            prepare_example=lambda example: example | {"labels": [-100] * len(example["labels"])},
        )
    return examples


def make_plain(job: Job, callbacks: Sequence[Any], num_ranks: int = 1) -> Trainer:
    return make_trainer(
        Trainer,
        TrainingArguments(**arguments(job, num_ranks)),
        job,
        callbacks,
        train_dataset=tokenized(texts(NUM_TARGET_EXAMPLES, seed=2)),
        data_collator=lambda examples: pad_examples(examples, padding_id=0),
    )


def make_sft(job: Job, callbacks: Sequence[Any], num_ranks: int = 1) -> Trainer:
    return make_trainer(
        SFTTrainer,
        SFTConfig(**arguments(job, num_ranks), max_length=None),
        job,
        callbacks,
        train_dataset=Dataset.from_list(completions(NUM_TARGET_EXAMPLES, seed=2)),
    )


def make_dpo(job: Job, callbacks: Sequence[Any], num_ranks: int = 1) -> Trainer:
    config = DPOConfig(
        **arguments(job, num_ranks), max_length=None, disable_dropout=False, beta=0.5
    )
    return make_trainer(
        DPOTrainer,
        config,
        job,
        callbacks,
        train_dataset=Dataset.from_list(preferences(NUM_TARGET_EXAMPLES, seed=2)),
        ref_model=make_model(seed=5),
    )


def run(make: Make, job: Job, num_ranks: int = 1) -> Outcome:
    trainer = make(job, [KillsAfter(job.kill_after)], num_ranks)
    checkpoint = get_last_checkpoint(str(job.out)) if job.resume else None
    trainer.train(resume_from_checkpoint=checkpoint)
    first = int(checkpoint.rpartition("-")[2]) if checkpoint else 0
    logs = [
        entry
        for entry in trainer.state.log_history
        if "loss" in entry and entry["step"] > first and job.schedule is not None
    ]
    model = trainer.accelerator.unwrap_model(trainer.model)
    return Outcome(
        weights={name: p.detach().clone() for name, p in model.named_parameters()},
        source_weights=[entry["source_weight"] for entry in logs],
        target_losses=[entry["loss"] for entry in logs],
        source_losses=[entry["source_loss"] for entry in logs if "source_loss" in entry],
        random_states={
            "torch": torch.get_rng_state(),
            "numpy": [part.tolist() if hasattr(part, "tolist") else part for part in np.random.get_state()],
            "python": random.getstate(),
        },
    )  # fmt: skip


def initial_weights() -> Mapping[str, Tensor]:
    return {name: p.detach().clone() for name, p in make_model().named_parameters()}


def source_gradient(make: Make) -> Mapping[str, Tensor]:
    """Plain cross-entropy of the first source batch in one piece, one mean over all its labels."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(Job(out=Path(folder), schedule=segue.constant(1.0)), [])
    batch = pad_examples(next(trainer.replay), padding_id=0)
    model = make_model()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def train_on_ranks(
    jobs: Mapping[str, Sequence[Job]], num_ranks: int
) -> Mapping[str, list[Outcome]]:
    """Start one process per rank, and read what rank 0 left."""
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        Path(folder, "jobs").write_bytes(pickle.dumps(jobs))
        world = {
            "WORLD_SIZE": str(num_ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        ranks = [
            subprocess.Popen(
                [sys.executable, __file__, folder],
                env=os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(num_ranks)
        ]
        try:
            outputs = [rank.communicate(timeout=180)[0] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        if any(rank.returncode for rank in ranks):
            raise AssertionError("\n".join(outputs))
        outcomes: Mapping[str, list[Outcome]] = pickle.loads(Path(folder, "outcomes").read_bytes())
        return outcomes


MAKE: dict[str, Make] = {"Trainer": make_plain, "SFTTrainer": make_sft, "DPOTrainer": make_dpo}


def make_row(name: str) -> AdapterRow:
    return AdapterRow(
        train=lambda job: run(MAKE[name], job),
        initial_weights=initial_weights,
        source_gradient=lambda: source_gradient(MAKE[name]),
        modes=("mix", "backward"),
    )


TRAINER, SFT, DPO = map(make_row, MAKE)


def main() -> None:
    folder = Path(sys.argv[1])
    jobs: Mapping[str, Sequence[Job]] = pickle.loads((folder / "jobs").read_bytes())
    num_ranks = int(os.environ["WORLD_SIZE"])
    outcomes = {
        name: [run(MAKE[name], job, num_ranks) for job in given] for name, given in jobs.items()
    }
    if os.environ["RANK"] == "0":
        (folder / "outcomes").write_bytes(pickle.dumps(outcomes))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
