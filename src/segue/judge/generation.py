"""Greedy answers of causal language models in Transformers' format, kept batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from segue.checks import check_at_least_one, needed
from segue.judge.lines import exclusive
from segue.judge.responses import (
    Response,
    Responses,
    add_responses,
    check_prompts,
    prompt_id,
    read_responses,
    start_responses,
)

__all__ = ["Responder", "load_responder", "write_responses"]

_WEIGHTS = ("*.safetensors", "*.bin", "*.json")


@dataclass(frozen=True)
class Responder:
    """A language model that answers prompts.

    Attributes:
        model: A causal model with Transformers' ``generate``; put into evaluation mode.
        encode: From a prompt to token ids, with whatever tells the model that it is its turn.
        decode: From the ids of an answer to its text.
        end_ids: Tokens that end an answer.
        description: What the answers depend on: names and hashes of weights and texts.
        max_length: Longest sequence, prompt included; None for no limit.
        stops: Texts that end an answer and do not belong to it.
    """

    model: Any
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    end_ids: tuple[int, ...]
    description: Mapping[str, Any]
    max_length: int | None = None
    stops: tuple[str, ...] = ()
    device: str = field(default="cpu", kw_only=True)


def load_responder(name: str, *, revision: str | None = None, device: str = "cpu") -> Responder:
    """Load a causal model of the hub, or of a folder that ``save_pretrained`` wrote.

    A prompt becomes a user's message where the tokenizer has a chat template, and is continued as
    it stands where it has none.

    Raises:
        ImportError: Without Transformers.
        OSError: If there is no such model.
    """
    with needed("the judge", "transformers", extra="judge"):
        from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(name, revision=revision)
    # Half precision on the CPU would be slower, and not the same everywhere.
    dtype = torch.float32 if torch.device(device).type == "cpu" else "auto"
    model: Any = AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype=dtype)
    chat = tokenizer.chat_template is not None

    def encode(prompt: str) -> list[int]:
        if not chat:
            return list(tokenizer(prompt)["input_ids"])
        message = [{"role": "user", "content": prompt}]
        made = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)
        return list(made["input_ids"])

    ends = model.generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    folder = Path(name)
    return Responder(
        model=model.to(device),
        encode=encode,
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        end_ids=tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,),
        description={
            "model": folder.name if folder.is_dir() else name,
            "revision": revision,
            "weights": _hash_folder(folder)
            if folder.is_dir()
            else getattr(model.config, "_commit_hash", None),
        },
        max_length=getattr(model.config, "max_position_embeddings", None),
        device=device,
    )


def write_responses(
    responder: Responder,
    prompts: Sequence[str],
    path: Path,
    *,
    max_new_tokens: int = 512,
    batch_size: int = 8,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Responses:
    """Answer the prompts that ``path`` holds no answer to, and return all its answers to them.

    Decoding is greedy. Batches are made of prompts of like length and depend on the prompts and
    ``batch_size`` alone, so that a run that was cut off and went on gives the same file.

    Args:
        responder: The model.
        prompts: Prompts; no two the same.
        path: JSONL file; made if it is not there.
        max_new_tokens: Most tokens of an answer.
        batch_size: Prompts that are answered at once.
        on_progress: Called with the number of prompts done and their total.

    Raises:
        ValueError: If a prompt leaves no room for an answer, or ``path`` holds answers of another
            model or other settings.
    """
    check_at_least_one("max_new_tokens", max_new_tokens)
    check_at_least_one("batch_size", batch_size)
    encoded = [(prompt, responder.encode(prompt)) for prompt in check_prompts(prompts)]
    longest = responder.max_length
    for prompt, ids in encoded:
        if not ids or (longest is not None and len(ids) >= longest):
            raise ValueError(
                f"a prompt must have 1 to {'any number of' if longest is None else longest - 1} "
                f"tokens, got {len(ids)}: {prompt[:60]!r}"
            )
    description = {
        **responder.description,
        "decoding": "greedy",
        "max_new_tokens": max_new_tokens,
        "stops": list(responder.stops),
    }
    responder.model.eval()
    with exclusive(path):
        present = start_responses(path, description).by_prompt
        done = sum(prompt_id(prompt) in present for prompt in prompts)
        on_progress(done, len(prompts))
        for batch in _batches(encoded, batch_size):
            due = [prompt_id(prompt) not in present for prompt, _ in batch]
            if any(due):
                made = _answer(responder, batch, max_new_tokens)
                add_responses(path, [r for r, is_due in zip(made, due, strict=True) if is_due])
                done += sum(due)
                on_progress(done, len(prompts))
    everything = read_responses(path)
    wanted = [prompt_id(prompt) for prompt in prompts]
    return Responses(everything.description, {key: everything.by_prompt[key] for key in wanted})


def _batches(
    encoded: list[tuple[str, list[int]]], size: int
) -> Iterator[list[tuple[str, list[int]]]]:
    """Prompts of like length together: little padding."""
    ordered = sorted(encoded, key=lambda pair: (len(pair[1]), pair[0]))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _answer(
    responder: Responder, batch: list[tuple[str, list[int]]], max_new_tokens: int
) -> list[Response]:
    """Answers in the order of the prompts; those with unlike room are generated apart.

    So each answer has its own prompt's room, and no position is past the model's last.
    """
    most = responder.max_length

    def room(pair: tuple[str, list[int]]) -> int:
        return max_new_tokens if most is None else min(max_new_tokens, most - len(pair[1]))

    found = []
    for number, part in groupby(batch, key=room):  # sorted by length, and so by room
        pairs = list(part)
        written = _generate(responder, [ids for _, ids in pairs], number)
        found += [
            _response(responder, prompt, ids)
            for (prompt, _), ids in zip(pairs, written, strict=True)
        ]
    return found


@torch.no_grad()
def _generate(responder: Responder, prompts: list[list[int]], number: int) -> list[list[int]]:
    """At most ``number`` new tokens for each prompt, greedily."""
    width = max(map(len, prompts))
    padding = responder.end_ids[0] if responder.end_ids else 0
    rows = [[padding] * (width - len(ids)) + ids for ids in prompts]
    seen = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
    written: list[list[int]] = responder.model.generate(
        input_ids=torch.tensor(rows, device=responder.device),
        attention_mask=torch.tensor(seen, device=responder.device),
        max_new_tokens=number,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=padding,
        eos_token_id=list(responder.end_ids) or None,
    )[:, width:].tolist()
    return written


def _response(responder: Responder, prompt: str, ids: list[int]) -> Response:
    ends = [place for place, token in enumerate(ids) if token in responder.end_ids]
    finished = bool(ends)
    if finished:
        ids = ids[: ends[0] + 1]
    text = responder.decode(ids[:-1] if finished else ids)
    places = [place for stop in responder.stops if (place := text.find(stop)) >= 0]
    return Response(
        prompt, text[: min(places)] if places else text, len(ids), finished or bool(places)
    )


def _hash_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(file for pattern in _WEIGHTS for file in folder.glob(pattern)):
        with file.open("rb") as content:
            digest.update(file.name.encode() + hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
