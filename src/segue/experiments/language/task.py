"""From a configuration to tensors: what a pretraining and a fine-tuning are trained and tested on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segue.batches import hash_content
from segue.checks import unknown_name
from segue.experiments.language.corpus import (
    TARGETS,
    fingerprint,
    load_problems,
    load_shakespeare,
    load_source,
)
from segue.experiments.language.tokens import (
    Prompt,
    TokenSet,
    load_tokenizer,
    pack,
    plain_text,
    to_instructions,
    to_prompts,
)
from segue.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint

__all__ = ["LAYOUT", "Task", "load_task"]

LAYOUT = 1
"""Of what is cached; a change of the code that makes it raises this number."""
_SPLITS = ("train", "validation", "test")
_tasks: dict[tuple[Any, ...], Task] = {}


@dataclass(frozen=True)
class Task:
    """Source and target as sequences of one length.

    Attributes:
        source: ``train`` for pretraining and replay, ``test`` for forgetting.
        target: ``train``, ``validation`` and ``test``.
        prompts: What is answered for exact match, of ``validation`` and ``test``; none for plays.
        tokenizer: Tokenizer, as its JSON text.
        fingerprint: SHA-256 of all of it.
    """

    source: Mapping[str, TokenSet]
    target: Mapping[str, TokenSet]
    prompts: Mapping[str, tuple[Prompt, ...]]
    tokenizer: str
    fingerprint: str


def load_task(
    target: str,
    vocab_size: int,
    length: int,
    data_root: str | Path | None,
    cache_dir: Path | None = None,
) -> Task:
    """Tokenise the source and a target; kept in ``cache_dir``, and in this process.

    Raises:
        FileNotFoundError, ValueError: If a text is missing, or not what it must be.
    """
    if target not in TARGETS:
        raise ValueError(unknown_name("target", target, TARGETS))
    files = fingerprint(target, data_root)
    key = (files, target, vocab_size, length)
    if key not in _tasks:
        _tasks.clear()
        name = hash_content([LAYOUT, *map(str, key)])
        path = (
            None if cache_dir is None else cache_dir / f"language-{target}-{name[:16]}.safetensors"
        )
        made = _read(path) if path is not None and path.exists() else None
        if made is None:
            made = _make(target, vocab_size, length, data_root, cache_dir, files)
            if path is not None:
                save_checkpoint(path, made)
        _tasks[key] = _unpack(made)
    return _tasks[key]


def _make(
    target: str,
    vocab_size: int,
    length: int,
    data_root: str | Path | None,
    cache_dir: Path | None,
    key: str,
) -> dict[str, Any]:
    source: Any = load_source(data_root)
    tokenizer = load_tokenizer(
        source.train, vocab_size, cache_dir, hash_content(list(source.train))
    )
    sets: dict[str, TokenSet] = {
        f"source.{split}": pack(tokenizer, getattr(source, split), length)
        for split in ("train", "test")
    }
    prompts: dict[str, list[list[Any]]] = {}
    texts: Any = (
        load_shakespeare(data_root) if target == "shakespeare" else load_problems(data_root)
    )
    for split in _SPLITS:
        part = getattr(texts, split)
        if target == "gsm8k_instructions":
            sets[f"target.{split}"] = to_instructions(tokenizer, part, length)
        else:
            plain = part if target == "shakespeare" else map(plain_text, part)
            sets[f"target.{split}"] = pack(tokenizer, plain, length)
        if target != "shakespeare" and split != "train":
            chat = target == "gsm8k_instructions"
            found = to_prompts(tokenizer, part, length, chat=chat)
            prompts[split] = [[list(prompt.tokens), prompt.number] for prompt in found]
    return {
        "sets": {name: list(tokens) for name, tokens in sets.items()},
        "prompts": prompts,
        "tokenizer": tokenizer.to_str(),
    }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        made: dict[str, Any] = load_checkpoint(path)
    except CheckpointError:  # the texts are at hand, so that it is made and written again
        return None
    return made


def _unpack(made: Mapping[str, Any]) -> Task:
    sets = {name: TokenSet(*tensors) for name, tensors in made["sets"].items()}
    prompts = {
        split: tuple(Prompt(tuple(tokens), number) for tokens, number in found)
        for split, found in made["prompts"].items()
    }
    return Task(
        source={split: sets[f"source.{split}"] for split in ("train", "test")},
        target={split: sets[f"target.{split}"] for split in _SPLITS},
        prompts=prompts,
        tokenizer=made["tokenizer"],
        fingerprint=hash_content(made),
    )
