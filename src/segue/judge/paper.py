"""The paper's judge (arXiv 2607.00634): its settings, and which run all others are compared with."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from segue.runs.records import Record

__all__ = [
    "MAX_JUDGE_TOKENS", "MAX_RESPONSE_CHARACTERS", "MODEL", "REFERENCE_LEARNING_RATE",
    "REFERENCE_METHOD", "REFERENCE_REVISION", "REFERENCE_SEED", "TEMPERATURE",
    "TENSOR_PARALLEL_SIZE", "choose_reference", "reference_record", "server_command",
]  # fmt: skip

MODEL = "meta-llama/Meta-Llama-3-70B-Instruct"
TENSOR_PARALLEL_SIZE = 4
"""GPUs that vLLM divides it over."""
TEMPERATURE = 0.0
MAX_JUDGE_TOKENS = 8
MAX_RESPONSE_CHARACTERS = 12_000
"""Answers are cut to this length before they are judged."""
REFERENCE_METHOD = "hard_switch"
REFERENCE_REVISION = "step447000-tokens1874B"
REFERENCE_LEARNING_RATE = 1e-5
REFERENCE_SEED = 0
"""One reference per target; its answers are reused for the candidates of all budgets."""


def server_command(*, port: int = 8000) -> str:
    """The command that serves the paper's judge with vLLM.

    >>> server_command()
    'vllm serve meta-llama/Meta-Llama-3-70B-Instruct --tensor-parallel-size 4 --port 8000'
    """
    options = {"--tensor-parallel-size": TENSOR_PARALLEL_SIZE, "--port": port}
    words = [str(word) for option in options.items() for word in option]
    return shlex.join(["vllm", "serve", MODEL, *words])


def reference_record(records: Iterable[Record], target: str) -> Record:
    """Return the run that every candidate of ``target`` is compared with.

    Args:
        records: Of the language family's preset ``paper``.
        target: ``anthropic_hh`` or ``tulu_v1``.

    Raises:
        ValueError: If it is missing, failed or did not keep its weights, or there are several.
    """
    runs = {
        record.run_id: record
        for record in records
        if record.family == "language" and record.kind == "target"
    }
    chosen = runs[choose_reference({key: run.config for key, run in runs.items()}, target)]
    if chosen.status != "completed" or "artifact" not in chosen.artifacts:
        what = "failed" if chosen.status != "completed" else "kept no weights"
        raise ValueError(
            f"the reference of {target}, run {chosen.run_id}, {what}; run it again with: "
            "segue run language --preset paper --retry-failed"
        )
    return chosen


def choose_reference(configs: Mapping[str, Mapping[str, Any]], target: str) -> str:
    """Return the key of the reference's configuration among ``configs``.

    Raises:
        ValueError: If there is none, or more than one; says what it looked for.
    """
    wanted = {
        "target": target,
        "revision": REFERENCE_REVISION,
        "method": REFERENCE_METHOD,
        "learning rate": REFERENCE_LEARNING_RATE,
        "seed": REFERENCE_SEED,
    }
    found = {key: _facts(config) for key, config in configs.items()}
    matching = [key for key, facts in found.items() if facts == wanted]
    if len(matching) == 1:
        return matching[0]
    looked_for = ", ".join(f"{name} {value}" for name, value in wanted.items())
    if matching:
        raise ValueError(
            f"the paper's reference ({looked_for}) must be one run, got {', '.join(matching)}"
        )
    raise ValueError(
        f"found no run that is the paper's reference ({looked_for}) among {len(found)} runs"
        f"{_nearest(found.values(), wanted)}; name another one with --reference"
    )


def _facts(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "target": config.get("shift", {}).get("name"),
        "revision": config.get("revision"),
        "method": config.get("method", {}).get("name"),
        "learning rate": config.get("optimizer", {}).get("learning_rate"),
        "seed": config.get("seed"),
    }


def _nearest(found: Iterable[Mapping[str, Any]], wanted: Mapping[str, Any]) -> str:
    """Where the run that agrees in most differs."""
    differences: list[list[str]] = [
        [f"{name} {facts[name]}" for name in wanted if facts[name] != wanted[name]]
        for facts in found
    ]
    if not differences:
        return ""
    nearest = min(differences, key=len)
    return f" (the nearest has {', '.join(nearest)})"
