"""Prompts, and what a model answered them: JSONL files whose every line has a hash."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segue.judge.lines import append_lines, hash_text, read_lines
from segue.runs.records import write_atomically

__all__ = [
    "Response", "Responses", "add_responses", "prompt_id", "read_prompts", "read_responses",
    "start_responses", "write_prompts",
]  # fmt: skip

_FORMAT = 1


@dataclass(frozen=True)
class Response:
    """What a model answered.

    Attributes:
        prompt: The prompt.
        text: The answer; may be empty.
        num_tokens: Tokens that were generated, the one that ends an answer included.
        finished: Whether it ended by itself, rather than at the largest number of tokens.
    """

    prompt: str
    text: str
    num_tokens: int
    finished: bool


@dataclass(frozen=True)
class Responses:
    """The answers of one model.

    Attributes:
        description: Model, its weights' hash, and settings that the answers depend on.
        by_prompt: Answers by :func:`prompt_id`, in the order they were generated.
    """

    description: Mapping[str, Any]
    by_prompt: Mapping[str, Response]

    @property
    def target(self) -> str | None:
        """Target that the model was fine-tuned on, where that is known."""
        target = self.description.get("target")
        return None if target is None else str(target)


def prompt_id(prompt: str) -> str:
    """Sixteen hexadecimal digits that stand for the content of a prompt."""
    return hash_text(prompt)[:16]


def check_prompts(prompts: Sequence[str], where: str = "prompts") -> list[str]:
    """Return the prompts.

    Raises:
        ValueError: If there are none, one is empty, or two are the same.
    """
    seen: dict[str, int] = {}
    for number, prompt in enumerate(prompts, start=1):
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f"{where} must be texts that are not empty, got {prompt!r} ({number})")
        if prompt in seen:
            raise ValueError(f"{where} must differ, {seen[prompt]} and {number} are the same")
        seen[prompt] = number
    if not seen:
        raise ValueError(f"{where} must hold at least one prompt, got none")
    return list(prompts)


def read_prompts(path: Path) -> list[str]:
    """Read prompts: a JSON object with ``prompt`` in every line.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is something else, or two prompts are the same.
    """
    if not path.is_file():
        raise FileNotFoundError(f"found no prompts at {path}")
    prompts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            prompts.append(json.loads(line)["prompt"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f'line {number} of {path} must be like {{"prompt": "..."}}, got {error!r}'
            ) from None
    return check_prompts(prompts, str(path))


def write_prompts(path: Path, prompts: Sequence[str]) -> None:
    """Write prompts, whole or not at all."""
    lines = [json.dumps({"prompt": p}, ensure_ascii=False) + "\n" for p in check_prompts(prompts)]
    write_atomically(path, "".join(lines).encode())


def read_responses(path: Path) -> Responses:
    """Read what :func:`add_responses` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is another kind of file, or damaged; names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"found no responses at {path}; write them with: segue respond")
    header, *lines = read_lines(path) or [{}]
    if header.get("format") != _FORMAT or "description" not in header:
        raise ValueError(f"{path} must be responses of format {_FORMAT}, got {list(header)}")
    found = [Response(**line) for line in lines]
    return Responses(header["description"], {prompt_id(r.prompt): r for r in found})


def start_responses(path: Path, description: Mapping[str, Any]) -> Responses:
    """Begin a file of responses, or return what it holds already.

    Raises:
        ValueError: If what it holds comes from another model or other settings; names what differs.
    """
    if not read_lines(path):
        append_lines(path, [{"format": _FORMAT, "description": dict(description)}])
        return Responses(description, {})
    present = read_responses(path)
    wanted = json.loads(json.dumps(description))
    differing = sorted(
        name
        for name in {*wanted, *present.description}
        if wanted.get(name) != present.description.get(name)
    )
    if differing:
        raise ValueError(
            f"{path} holds responses of another model or other settings ({', '.join(differing)} "
            "differ): write to another folder, or remove it"
        )
    return present


def add_responses(path: Path, responses: Iterable[Response]) -> None:
    """Append responses to a file that was begun."""
    append_lines(path, [vars(response) for response in responses])
