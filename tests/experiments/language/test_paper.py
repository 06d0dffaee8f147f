"""The paper-scale preset: counted without downloading, and run on a small local stand-in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from segue.batches import hash_content
from segue.experiments.language.answering import (
    held_out_prompts,
    kept_runs,
    load_run,
    name_of_run,
)
from segue.experiments.language.config import OptimizerConfig
from segue.experiments.language.loop import weights_of
from segue.experiments.language.methods import make_method
from segue.experiments.language.models import ModelConfig, build_model
from segue.experiments.language.paper import (
    KNOWN_REVISIONS,
    LEARNING_RATES,
    NUM_TARGET_STEPS,
    PaperConfig,
    PaperShiftConfig,
    check_paper,
    memory_gib,
    paper_plan,
    paper_revisions,
)
from segue.experiments.language.paper_run import load_paper_task, segments
from segue.experiments.language.presets import PRESETS
from segue.experiments.language.tokens import IGNORED, train_tokenizer
from segue.judge.generation import write_responses
from segue.runs.context import RunContext, Store
from segue.runs.execution import execute
from segue.runs.records import load_records

REVISION = KNOWN_REVISIONS[0]
OTHERS = "step100000-tokens419B,step738020-tokens3095B"


def small(target: Any = "anthropic_hh", method: str = "smoothing", **changes: Any) -> PaperConfig:
    settings = replace(make_method(method, num_smoothing_steps=2), replay_batch_size=2)
    fields: dict[str, Any] = {
        "length": 16,
        "batch_size": 4,
        "num_micro_batches": 2,
        "num_curve_examples": 2,
        "num_test_examples": 4,
        "optimizer": OptimizerConfig(1e-3, 0.0),
        **changes,
    }
    bank = replace(settings, num_bank_examples=8)
    return PaperConfig(PaperShiftConfig(target), REVISION, bank, 0, 4, **fields)


def chat(number: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"what is {number}"},
        {"role": "assistant", "content": f"it is the number {number} , friend"},
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts in the layout of the preset's data folder, and a repository beside them."""
    from transformers import PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("paper")
    (root / "olmo").mkdir()
    rows: dict[str, list[Any]] = {
        "source": [{"text": f"the river {n} runs to the sea of year {n}"} for n in range(200)],
        "anthropic_hh": [
            {"chosen": f"\n\nHuman: how is {n}?\n\nAssistant: {n} is well."} for n in range(200)
        ],
        "tulu_v1": [{"messages": chat(n)} for n in range(200)],
    }
    for name, items in rows.items():
        (root / "olmo" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, items)))
    trained = train_tokenizer([row["text"] for row in rows["source"]], 300)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained, eos_token="<|endoftext|>")
    tokenizer.save_pretrained(root / "repository")
    size = ModelConfig(300, 16, 1, 2, 32, 16)
    build_model(size, seed=0).save_pretrained(root / "repository")  # type: ignore[operator]
    return root


def test_the_dry_run_checks_and_counts_everything_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = "\n".join(paper_plan())
    for part in (
        "5 revisions (step330000-tokens1383B, step447000-tokens1874B",
        "270 runs: 2 targets, 3 methods, 3 learning rates, 3 seeds",
        "anthropic_hh: 141 updates of 262,144 target tokens = 36,962,304 a run",
        "tulu_v1: 483 updates of 262,144 target tokens = 126,615,552 a run",
        "84,240 updates; 22,083,010,560 target tokens",
        "1.177 billion parameters",
        "GiB of GPU memory",
        "h on one GPU",
        "2 revisions are not known to us",
    ):
        assert part in text


def test_source_tokens_are_those_of_the_ramps_and_of_constant_replay() -> None:
    cells = len(KNOWN_REVISIONS) * len(LEARNING_RATES) * 3
    steps = NUM_TARGET_STEPS.values()
    sequences = 32 * (sum(steps) + sum(round(number / 4) for number in steps))
    assert f"{cells * sequences * 2048:,} source tokens" in "\n".join(paper_plan())


def test_the_two_unknown_revisions_are_taken_from_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="of which 5 are known: set SEGUE_OLMO_REVISIONS="):
        check_paper("hub")
    monkeypatch.setenv("SEGUE_OLMO_REVISIONS", OTHERS)
    check_paper("hub")
    assert paper_revisions()[0] == "step100000-tokens419B"
    configs: list[Any] = PRESETS["paper"].phases[0].configs([])
    assert len(configs) == 7 * 2 * 3 * 3 * 3
    assert {config.num_target_steps for config in configs} == {141, 483}
    assert {config.batch_size * config.length for config in configs} == {262_144}
    assert "not known" not in "\n".join(paper_plan())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("main", "revision must look like step330000-tokens1383B, got 'main'"),
        ("step330000-tokens999B", r"must name the tokens of its steps \(about 1384B\)"),
        (KNOWN_REVISIONS[1], "must name 2 other revisions than the known ones"),
        (OTHERS + ",step200000-tokens838B", "must name 2 other revisions"),
    ],
)
def test_a_wrong_revision_is_named(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGUE_OLMO_REVISIONS", text)
    with pytest.raises(ValueError, match=message):
        paper_revisions()


@pytest.mark.parametrize("target", ["anthropic_hh", "tulu_v1"])
def test_a_run_of_the_preset_trains_on_a_local_stand_in(
    target: str, folder: Path, tmp_path: Path
) -> None:
    config = small(target, repository=str(folder / "repository"))
    result = config.execute(RunContext(config, Store(tmp_path), str(folder)))
    assert result.metrics["num_target_examples_used"] == 16
    assert result.metrics["num_gradient_examples"] == 16 + 2 * 2 == config.cost()
    assert result.metrics["num_pretraining_tokens"] == 1383 * 10**9
    assert result.artifact is not None
    assert {value.dtype for value in result.artifact.values()} == {torch.bfloat16}
    again = config.execute(RunContext(config, Store(tmp_path), str(folder)))
    assert again.weights is not None
    assert result.weights is not None
    assert hash_content(dict(again.weights)) == hash_content(dict(result.weights))


def test_only_what_the_assistant_says_counts_in_chats(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "repository")
    task = load_paper_task(small("tulu_v1"), tokenizer, str(folder))
    train = task.target["train"]
    tokens, labels = train.tokens.flatten(), train.labels.flatten()
    counted = tokenizer.decode(labels[labels != IGNORED])
    masked = tokenizer.decode(tokens[labels == IGNORED])
    assert "it is the number 1 , friend" in counted
    assert "what is" not in counted
    assert "what is 1" in masked
    assert "friend" not in masked
    hh = load_paper_task(small("anthropic_hh"), tokenizer, str(folder)).target["train"]
    assert torch.equal(hh.tokens, hh.labels)


def test_held_out_rows_are_not_trained_on(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "repository")
    task = load_paper_task(small(), tokenizer, str(folder))
    held_out = tokenizer.decode(task.target["test"].tokens.flatten())
    trained = tokenizer.decode(task.target["train"].tokens.flatten())
    assert "how is 0?" in held_out
    assert "how is 0?" not in trained
    assert "how is 1?" in trained


@pytest.mark.parametrize(
    ("name", "row"),
    [("tulu_v1", {"messages": [{"role": "user"}]}), ("anthropic_hh", {"text": "x"}), ("source", 3)],
)
def test_a_row_that_lacks_a_field_says_where_it_stands(name: str, row: Any) -> None:
    with pytest.raises(ValueError, match=rf"line 7 must be a row of {name}"):
        segments(name, row, "line 7")


def test_missing_or_broken_texts_are_named(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "repository")
    with pytest.raises(FileNotFoundError, match=r"olmo.source.jsonl; pass --data FOLDER"):
        load_paper_task(small(), tokenizer, str(tmp_path))
    with pytest.raises(ValueError, match="data must name the folder that holds olmo/, or be hub"):
        load_paper_task(small(), tokenizer, None)
    (tmp_path / "olmo").mkdir()
    (tmp_path / "olmo" / "source.jsonl").write_text("{")
    with pytest.raises(ValueError, match=r"line 1 of .*source.jsonl must be JSON"):
        load_paper_task(small(), tokenizer, str(tmp_path))


def test_too_few_sequences_are_refused_before_training(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "repository")
    long = small(length=4096)
    with pytest.raises(ValueError, match="source must give at least 8 sequences of 4096 tokens"):
        load_paper_task(long, tokenizer, str(folder))


def test_memory_grows_with_the_micro_batch_and_starts_above_the_states() -> None:
    assert memory_gib(8, 2048) > memory_gib(4, 2048) > 16 * 1.17e9 / 2**30


@pytest.mark.parametrize(
    ("target", "prompt", "stop"),
    [
        ("anthropic_hh", "Human: how is 0?\n\nAssistant:", "\n\nHuman:"),
        ("tulu_v1", "<|user|>\nwhat is 0\n<|assistant|>\n", "<|user|>"),
    ],
)
def test_a_run_answers_held_out_prompts_with_the_weights_it_kept(
    target: str, prompt: str, stop: str, folder: Path, tmp_path: Path
) -> None:
    config = small(target, repository=str(folder / "repository"), length=64)
    execute([config], tmp_path, num_workers=0, data_root=str(folder))
    (record,) = kept_runs(load_records(tmp_path))
    assert name_of_run(record) == f"{target}-{REVISION}-smoothing-lr0.001-seed0-{record.run_id[:8]}"
    responder = load_run(record, tmp_path)
    assert stop in responder.stops
    rounded = {n: w.bfloat16() for n, w in weights_of(responder.model).items()}
    assert hash_content(rounded) == record.artifacts["artifact"]["sha256"]
    prompts = held_out_prompts(record, responder, str(folder), num_prompts=3)
    assert prompts[0] == prompt
    assert "is 20" in prompts[1]  # each twentieth row is held out
    found = write_responses(responder, prompts, tmp_path / "r.jsonl", max_new_tokens=8)
    assert found.target == target
    assert len(found.by_prompt) == 3
