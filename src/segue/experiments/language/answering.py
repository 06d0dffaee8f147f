"""Fine-tuned models of this family that answer held-out prompts, for the judge."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from segue.checks import check_at_least_one
from segue.experiments.language.config import FineTuningConfig
from segue.experiments.language.corpus import load_problems, load_shakespeare
from segue.experiments.language.loop import set_weights
from segue.experiments.language.models import add_lora, build_model
from segue.experiments.language.paper import PaperConfig
from segue.experiments.language.paper_run import HELD_OUT_EVERY, rows_of, segments
from segue.experiments.language.requirements import needed
from segue.experiments.language.task import load_task
from segue.experiments.language.tokens import ASSISTANT, END, USER
from segue.judge.generation import Responder
from segue.runs.checkpoint import load_checkpoint
from segue.runs.context import Store
from segue.runs.grid import config_from_dict
from segue.runs.records import Record

__all__ = ["held_out_prompts", "kept_runs", "load_run", "name_of_run"]

_STOPS = {"anthropic_hh": ("\n\nHuman:",), "tulu_v1": ("<|user|>", "<|assistant|>")}
"""Where the model goes on with the other side's part."""
_ASSISTANT_TURN = "\n\nAssistant:"
_OPENING = re.compile(r".+:\n(?:\S+ ){3}(?=.)")
"""A speaker and three words of a speech that goes on."""
_ROOM = 6
"""A prompt leaves at least a sixth of the longest sequence to its answer."""


def kept_runs(records: Iterable[Record]) -> list[Record]:
    """Fine-tunings whose final weights were kept, sorted by name."""
    kept = [
        record
        for record in records
        if (record.family, record.kind, record.status) == ("language", "target", "completed")
        and "artifact" in record.artifacts
    ]
    return sorted(kept, key=name_of_run)


def name_of_run(record: Record) -> str:
    """A name for files: target, budget, method, learning rate, seed, and the start of the run id."""
    config = record.config
    budget = config.get("revision") or f"step{config['num_pretraining_steps']}"
    return (
        f"{config['shift']['name']}-{budget}-{config['method']['name']}"
        f"-lr{config['optimizer']['learning_rate']:g}-seed{config['seed']}-{record.run_id[:8]}"
    )


def load_run(
    record: Record, root: Path, data_root: str | None = None, *, device: str = "cpu"
) -> Responder:
    """Build the model that a run ended with.

    Args:
        record: One of :func:`kept_runs`.
        root: The run folder that holds its artifact.
        data_root: Data folder, from which a tiny model's tokenizer is made.
        device: Where it answers.

    Raises:
        FileNotFoundError: If the weights are not in ``root``, or a text is missing.
        ValueError: If the texts are not those that the run was trained on.
    """
    config = _config(record)
    weights = load_checkpoint(Store(root).artifact(config))
    if isinstance(config, PaperConfig):
        return _paper_responder(config, record, weights, device)
    size, name = config.source.model, config.shift.name
    task = load_task(name, size.vocab_size, size.max_length, data_root, Store(root).cache)
    trained_on = record.provenance.get("data_fingerprint")
    if task.fingerprint != trained_on:
        raise ValueError(
            f"data must hold the texts that run {record.run_id} was trained on "
            f"({str(trained_on)[:12]}), got others ({task.fingerprint[:12]})"
        )
    model = build_model(size, seed=config.seed)
    if config.method.lora_rank:
        model = add_lora(model, config.method.lora_rank, seed=config.seed)
    set_weights(model, weights)
    with needed("tokenizers"):
        from tokenizers import Tokenizer
    tokenizer: Any = Tokenizer.from_str(task.tokenizer)
    end, user, assistant = (tokenizer.token_to_id(token) for token in (END, USER, ASSISTANT))

    def encode(prompt: str) -> list[int]:
        if name == "gsm8k_instructions":
            return [user, *tokenizer.encode(prompt).ids, assistant]
        text = f"Question: {prompt}\nAnswer:" if name == "gsm8k" else prompt
        return list(tokenizer.encode(text).ids)

    return Responder(
        model=model.to(device),
        encode=encode,
        decode=lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
        end_ids=(end,),
        description=_description(record),
        max_length=size.max_length,
        device=device,
    )


def held_out_prompts(
    record: Record, responder: Responder, data_root: str | None, *, num_prompts: int
) -> list[str]:
    """Prompts of the run's target that no run was trained on, in the order of the held-out part.

    Problems: the question. Plays: a speaker and three words of a speech. Transcripts and chats:
    everything before the assistant's last turn. A prompt that leaves less than a sixth of the
    longest sequence to its answer is left out.

    Args:
        record: The run.
        responder: Its model, from :func:`load_run`.
        data_root: Data folder.
        num_prompts: How many.

    Raises:
        ValueError: If there are fewer than ``num_prompts``.
    """
    config, longest = _config(record), responder.max_length or 0
    if isinstance(config, PaperConfig):
        found = _paper_prompts(config.shift.name, data_root)
    elif config.shift.name == "shakespeare":
        speeches: Any = getattr(load_shakespeare(data_root), config.split)
        found = (opening[0] for speech in speeches if (opening := _OPENING.match(speech)))
    else:
        problems: Any = getattr(load_problems(data_root), config.split)
        found = (problem.question for problem in problems)
    fitting = (p for p in found if len(responder.encode(p)) <= longest - longest // _ROOM)
    prompts = list(islice(_distinct(fitting), check_at_least_one("num_prompts", num_prompts)))
    if len(prompts) < num_prompts:
        raise ValueError(
            f"num_prompts must be <= {len(prompts)}, the held-out prompts of {config.shift.name}, "
            f"got {num_prompts}"
        )
    return prompts


def _distinct(texts: Iterable[str]) -> Iterator[str]:
    """Each text once, without reading on: the hub's texts have no end in sight."""
    seen = set()
    for text in texts:
        if text not in seen:
            seen.add(text)
            yield text


def _config(record: Record) -> FineTuningConfig | PaperConfig:
    kind: Any = PaperConfig if "revision" in record.config else FineTuningConfig
    config: FineTuningConfig | PaperConfig = config_from_dict(kind, record.config)
    return config


def _description(record: Record) -> dict[str, Any]:
    return {
        "family": record.family,
        "run_id": record.run_id,
        "target": record.config["shift"]["name"],
        "weights": record.artifacts["artifact"]["sha256"],
        "config": record.config,
    }


def _paper_responder(
    config: PaperConfig, record: Record, weights: dict[str, Any], device: str
) -> Responder:
    """OLMo-1B with the run's weights: of the repository only settings and tokenizer are read."""
    with needed("transformers"):
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    settings: Any = AutoConfig.from_pretrained(config.repository, revision=config.revision)
    # The weights were kept in this type; the CPU computes faster in float32.
    dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    build: Any = AutoModelForCausalLM.from_config  # not annotated there
    model = build(settings, dtype=dtype)
    set_weights(model, weights)
    tokenizer: Any = AutoTokenizer.from_pretrained(config.repository, revision=config.revision)
    return Responder(
        model=model.to(device),
        encode=lambda prompt: list(tokenizer(prompt, add_special_tokens=False)["input_ids"]),
        decode=lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
        end_ids=(tokenizer.eos_token_id,),
        description=_description(record),
        max_length=config.length,
        stops=_STOPS[config.shift.name],
        device=device,
    )


def _paper_prompts(target: str, data_root: str | None) -> Iterable[str]:
    if data_root is None:
        raise ValueError("data must name the folder that holds olmo/, or be hub")
    for number, (where, row) in enumerate(rows_of(target, data_root)):
        if number % HELD_OUT_EVERY:
            continue
        if target == "anthropic_hh":
            ((text, _),) = segments(target, row, where)
            before, turn, _ = text.rpartition(_ASSISTANT_TURN)
            if turn:
                yield before + turn
            continue
        pieces = [text for text, _ in segments(target, row, where)]
        last = max((i for i, text in enumerate(pieces) if text == "<|assistant|>\n"), default=0)
        if last:
            yield "".join(pieces[: last + 1])
