"""Models whose weights were kept answer prompts that nobody was trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segue.batches import hash_content
from segue.experiments.language.answering import (
    held_out_prompts,
    kept_runs,
    load_run,
    name_of_run,
)
from segue.experiments.language.config import FineTuningConfig
from segue.experiments.language.corpus import load_problems, load_shakespeare
from segue.experiments.language.loop import weights_of
from segue.experiments.language.presets import PRESETS
from segue.judge.generation import write_responses
from segue.runs.execution import execute
from segue.runs.grid import canonical_json, config_to_dict, run_id
from segue.runs.records import Record, load_records

Make = Callable[..., FineTuningConfig]


def kept(config: FineTuningConfig, root: Path, texts: Path) -> Record:
    execute([config], root, num_workers=0, data_root=str(texts))
    (record,) = kept_runs(load_records(root))
    return record


@pytest.mark.parametrize(
    ("target", "method"),
    [("gsm8k_instructions", "smoothing"), ("gsm8k", "lora"), ("shakespeare", "hard_switch")],
)
def test_a_run_that_kept_its_weights_answers_with_them(
    target: str, method: str, make: Make, texts: Path, tmp_path: Path
) -> None:
    record = kept(make(method, target, keep_weights=True), tmp_path, texts)
    responder = load_run(record, tmp_path, str(texts))
    # The hash of the weights that the training ended with is in every record.
    ended_with = record.artifacts["weights"]["sha256"]
    assert hash_content(weights_of(responder.model)) == ended_with
    prompts = held_out_prompts(record, responder, str(texts), num_prompts=5)
    found = write_responses(responder, prompts, tmp_path / "r.jsonl", max_new_tokens=6)
    assert found.target == target
    assert [response.prompt for response in found.by_prompt.values()] == prompts
    assert all(1 <= response.num_tokens <= 6 for response in found.by_prompt.values())


def test_prompts_are_of_the_held_out_part(make: Make, texts: Path, tmp_path: Path) -> None:
    record = kept(make("hard_switch", "gsm8k_instructions", keep_weights=True), tmp_path, texts)
    responder = load_run(record, tmp_path, str(texts))
    prompts = held_out_prompts(record, responder, str(texts), num_prompts=8)
    problems: Any = load_problems(texts)
    assert set(prompts) <= {problem.question for problem in problems.test}
    assert not set(prompts) & {problem.question for problem in problems.train}
    with pytest.raises(ValueError, match=r"num_prompts must be <= \d+, .* got 1000"):
        held_out_prompts(record, responder, str(texts), num_prompts=1000)
    play = replace(record, config={**record.config, "shift": {"name": "shakespeare"}})
    openings = held_out_prompts(play, responder, str(texts), num_prompts=4)
    speeches: Any = load_shakespeare(texts)
    assert all(any(s.startswith(o) and s.strip() != o for s in speeches.test) for o in openings)


def test_an_instruction_is_laid_out_as_in_training(make: Make, texts: Path, tmp_path: Path) -> None:
    from segue.experiments.language.task import load_task

    config = make("hard_switch", "gsm8k_instructions", keep_weights=True)
    responder = load_run(kept(config, tmp_path, texts), tmp_path, str(texts))
    size = config.source.model
    task = load_task("gsm8k_instructions", size.vocab_size, size.max_length, texts)
    problems: Any = load_problems(texts)
    encoded = {tuple(responder.encode(problem.question)) for problem in problems.test}
    assert {prompt.tokens for prompt in task.prompts["test"]} <= encoded


def test_weights_are_kept_on_request_only(make: Make, texts: Path, tmp_path: Path) -> None:
    execute([make("hard_switch")], tmp_path, num_workers=0, data_root=str(texts))
    assert kept_runs(load_records(tmp_path)) == []


def test_the_option_changes_no_run_id_while_it_is_off(make: Make) -> None:
    config = make("smoothing")
    values = config_to_dict(config)
    assert values.pop("keep_weights") is False
    content = {"family": "language", "kind": "target", "config": values}
    before = hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]
    assert run_id(config) == before
    assert run_id(replace(config, keep_weights=True)) != before


def test_texts_other_than_those_of_the_training_are_refused(
    make: Make, texts: Path, tmp_path: Path
) -> None:
    record = kept(make("hard_switch", "gsm8k", keep_weights=True), tmp_path / "runs", texts)
    other = tmp_path / "data"
    other.mkdir()
    for file in (texts / "text").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    with (other / "gsm8k-train.jsonl").open("a") as problems:
        problems.write(json.dumps({"question": "One more?", "answer": "#### 1"}) + "\n")
    with pytest.raises(ValueError, match=r"data must hold the texts that run .* was trained on"):
        load_run(record, tmp_path / "runs", str(other))


def test_the_preset_for_the_judge_keeps_the_weights_of_both_methods() -> None:
    (phase,) = PRESETS["judged"].phases
    configs: list[Any] = phase.configs([])
    assert [config.method.name for config in configs] == ["hard_switch", "smoothing"]
    assert all(config.keep_weights for config in configs)
    assert len({config.optimizer.learning_rate for config in configs}) == 1
    assert name_of_run(
        Record("0123456789abcdef", "language", "target", config_to_dict(configs[0]), "completed")
    ) == ("gsm8k_instructions-step258-hard_switch-lr0.0025-seed0-01234567")
