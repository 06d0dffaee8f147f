"""Running one of the paper's fine-tunings: OLMo-1B from the hub, the same loop as at toy scale."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from segue.batches import hash_content
from segue.experiments.language.fine_tuning import FineTuning
from segue.experiments.language.loop import weights_of
from segue.experiments.language.paper import PaperConfig
from segue.experiments.language.requirements import needed
from segue.experiments.language.task import Task
from segue.experiments.language.tokens import IGNORED, TokenSet

if TYPE_CHECKING:
    from segue.runs.execution import RunContext, RunResult

__all__ = ["HELD_OUT_EVERY", "fine_tune_revision", "load_paper_task", "rows_of", "segments"]

HELD_OUT_EVERY = 20
"""Each twentieth row is for tests only."""
_CHECKPOINT_SECONDS = 1800.0  # a checkpoint has 14 GB
_HUB = {
    "anthropic_hh": {"path": "Anthropic/hh-rlhf", "split": "train"},
    "tulu_v1": {"path": "allenai/tulu-v1-sft-mixture", "split": "train"},
    # Dolma, which OLMo was trained on, contains C4 and is too large to sample from afar.
    "source": {"path": "allenai/c4", "name": "en", "split": "train"},
}


def fine_tune_revision(config: PaperConfig, context: RunContext) -> RunResult:
    """Load the revision, its tokenizer and the texts, and fine-tune.

    Texts come from ``<data>/olmo/{source,anthropic_hh,tulu_v1}.jsonl``, or with ``--data hub`` from
    the hub. Rows of the source hold ``text``, of Anthropic-HH ``chosen``, of Tulu ``messages``.
    """
    with needed("transformers"):
        from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(config.repository, revision=config.revision)
    task = load_paper_task(config, tokenizer, context.data_root)
    model: Any = AutoModelForCausalLM.from_pretrained(
        config.repository, revision=config.revision, dtype=torch.float32
    )
    model.config.use_cache = False
    on_gpu = torch.device(context.device).type != "cpu"
    if on_gpu:
        model.gradient_checkpointing_enable()
    context.checkpoint_seconds = max(context.checkpoint_seconds, _CHECKPOINT_SECONDS)
    run = FineTuning(
        config,
        task,
        model.to(context.device),
        context.device,
        torch.bfloat16 if on_gpu else None,
    )
    result = run.execute(context)
    tokens = int(config.revision.partition("-tokens")[2].removesuffix("B")) * 10**9
    kept = {name: value.bfloat16() for name, value in weights_of(run.model).items()}
    return replace(
        result,
        metrics={**result.metrics, "num_pretraining_tokens": tokens},
        artifact=kept if config.keep_weights else None,
    )


def load_paper_task(config: PaperConfig, tokenizer: Any, data_root: str | None) -> Task:
    """Pack source and target into sequences; every twentieth row is held out."""
    if data_root is None:
        raise ValueError("data must name the folder that holds olmo/, or be hub")
    bank = config.method.num_bank_examples or config.method.replay_batch_size
    target = config.shift.name
    needed = config.num_target_steps * config.batch_size
    source_train, source_test = _pack(
        rows_of("source", data_root), "source", tokenizer, config, bank, must_fill=True
    )
    target_train, target_test = _pack(rows_of(target, data_root), target, tokenizer, config, needed)
    parts = {"train": target_train, "validation": target_test, "test": target_test}
    return Task(
        source={"train": source_train, "test": source_test},
        target=parts,
        prompts={},
        tokenizer="",
        fingerprint=hash_content(
            list(source_train), list(source_test), list(target_train), list(target_test)
        ),
    )


def rows_of(name: str, data_root: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a text of the preset, each with where it stands, for errors."""
    if data_root == "hub":
        with needed("datasets"):
            from datasets import load_dataset

        for number, row in enumerate(load_dataset(**_HUB[name], streaming=True), start=1):
            yield f"row {number} of {_HUB[name]['path']}", row
        return
    file = Path(data_root).expanduser() / "olmo" / f"{name}.jsonl"
    if not file.is_file():
        raise FileNotFoundError(f"found no {file}; pass --data FOLDER with olmo/, or --data hub")
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"line {number} of {file}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{where} must be JSON, got {error}") from None
            yield where, row


def segments(name: str, row: Any, where: str) -> list[tuple[str, bool]]:
    """Pieces of text of a row, each with whether its tokens count in the loss.

    Raises:
        ValueError: If the row lacks what it must have; says where it stands.
    """
    try:
        if name == "tulu_v1":
            pieces: list[tuple[str, bool]] = []
            for message in row["messages"]:
                role, content = message["role"], message["content"].strip()
                pieces.append((f"<|{role}|>\n", False))
                pieces.append((f"{content}\n", role == "assistant"))
            return pieces
        text = row["chosen" if name == "anthropic_hh" else "text"]
        return [(text.strip() + "\n", True)]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{where} must be a row of {name}, it lacks {error}") from None


def _pack(
    rows: Iterable[tuple[str, dict[str, Any]]],
    name: str,
    tokenizer: Any,
    config: PaperConfig,
    num_sequences: int,
    *,
    must_fill: bool = False,
) -> tuple[TokenSet, TokenSet]:
    """Training and held-out sequences; reading stops when there are enough of both."""
    length = config.length
    wanted = {"train": num_sequences * length, "test": config.num_test_examples * length}
    tokens: dict[str, list[int]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    end = tokenizer.eos_token_id
    for number, (where, row) in enumerate(rows):
        part = "test" if number % HELD_OUT_EVERY == 0 else "train"
        if all(len(tokens[p]) >= wanted[p] for p in wanted):
            break
        if len(tokens[part]) >= wanted[part]:
            continue
        for text, counts in itertools.chain(segments(name, row, where), [("", True)]):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"] if text else [end]
            tokens[part].extend(ids)
            labels[part].extend(ids if counts else [IGNORED] * len(ids))
    sets = []
    for part, least in (("train", num_sequences if must_fill else config.batch_size), ("test", 1)):
        number = min(len(tokens[part]), wanted[part]) // length
        if number < least:
            raise ValueError(
                f"{name} must give at least {least} sequences of {length} tokens to {part}, "
                f"got {number}"
            )
        shape = (number, length)
        sets.append(
            TokenSet(
                torch.tensor(tokens[part][: number * length]).view(shape),
                torch.tensor(labels[part][: number * length]).view(shape),
            )
        )
    return sets[0], sets[1]
