"""Answers of small models: greedy, kept batch by batch, and the same after a cut-off."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from segue.experiments.language.models import ModelConfig, build_model
from segue.judge.generation import Responder, load_responder, write_responses
from segue.judge.lines import read_lines
from segue.judge.responses import prompt_id, read_prompts, read_responses, write_prompts

LENGTH = 24
PROMPTS = ["a", "bcd", "efghi", "jk", "lmnopqr", "st", "uvwx"]


def encode(text: str) -> list[int]:
    return [ord(letter) % 50 + 1 for letter in text]


@pytest.fixture(scope="module")
def model() -> Any:
    return build_model(ModelConfig(64, 16, 1, 2, 32, LENGTH), seed=3)


@pytest.fixture
def responder(model: Any) -> Responder:
    return Responder(
        model=model,
        encode=encode,
        decode=lambda ids: " ".join(map(str, ids)),
        end_ids=(0,),
        description={"model": "tiny"},
        max_length=LENGTH,
    )


class CountedModel:
    """Counts the batches that a model is asked for."""

    def __init__(self, model: Any) -> None:
        self.model, self.num_batches = model, 0

    def eval(self) -> None:
        self.model.eval()

    def generate(self, **arguments: Any) -> torch.Tensor:
        self.num_batches += 1
        return self.model.generate(**arguments)


@torch.no_grad()
def greedy(model: Any, prompt: str, number: int) -> list[int]:
    ids = encode(prompt)
    for _ in range(number):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == 0:
            break
    return ids[len(encode(prompt)) :]


def test_answers_are_greedy_and_do_not_depend_on_their_neighbours(
    responder: Responder, tmp_path: Path
) -> None:
    found = write_responses(
        responder, PROMPTS, tmp_path / "r.jsonl", max_new_tokens=6, batch_size=4
    )
    assert list(found.by_prompt) == [prompt_id(prompt) for prompt in PROMPTS]
    for response in found.by_prompt.values():
        ids = greedy(responder.model, response.prompt, 6)
        assert response.num_tokens == len(ids)
        assert response.finished == (ids[-1] == 0)
        assert response.text == " ".join(str(token) for token in ids if token)


def test_each_answer_has_the_room_that_its_own_prompt_leaves(
    responder: Responder, tmp_path: Path
) -> None:
    endless = replace(responder, end_ids=())
    prompts = ["a" * (LENGTH - 2), "b"]
    found = write_responses(endless, prompts, tmp_path / "r.jsonl", max_new_tokens=50)
    numbers = [response.num_tokens for response in found.by_prompt.values()]
    assert numbers == [2, LENGTH - 1]
    with pytest.raises(ValueError, match=f"a prompt must have 1 to {LENGTH - 1} tokens, got 24"):
        write_responses(endless, ["a" * LENGTH], tmp_path / "other.jsonl")


def test_no_answer_reaches_past_the_last_position_of_a_model(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    settings = GPT2Config(
        vocab_size=64,
        n_positions=LENGTH,
        n_embd=8,
        n_layer=1,
        n_head=1,
        bos_token_id=0,
        eos_token_id=0,
    )
    learned_positions = Responder(  # position LENGTH would be an index error
        GPT2LMHeadModel(settings), encode, str, (), {"model": "gpt2"}, max_length=LENGTH
    )
    prompts = ["a" * (LENGTH - 1), "b" * (LENGTH - 3), "c", "d"]
    found = write_responses(learned_positions, prompts, tmp_path / "r.jsonl", max_new_tokens=9)
    assert [r.num_tokens for r in found.by_prompt.values()] == [1, 3, 9, 9]


def test_an_answer_ends_at_its_end_token_or_before_a_stop(
    responder: Responder, tmp_path: Path
) -> None:
    endless = replace(responder, end_ids=())
    (whole,) = write_responses(
        endless, ["abc"], tmp_path / "whole.jsonl", max_new_tokens=8
    ).by_prompt.values()
    assert not whole.finished
    tokens = whole.text.split()
    end = tokens[4]
    expected = tokens[: tokens.index(end)]
    ended = replace(responder, end_ids=(int(end),))
    (first,) = write_responses(ended, ["abc"], tmp_path / "e.jsonl").by_prompt.values()
    assert (first.text, first.finished) == (" ".join(expected), True)
    assert first.num_tokens == len(expected) + 1
    stopped = replace(endless, stops=(f" {tokens[3]}",))
    (second,) = write_responses(
        stopped, ["abc"], tmp_path / "s.jsonl", max_new_tokens=8
    ).by_prompt.values()
    assert second.finished
    assert f" {tokens[3]}" not in second.text
    assert whole.text.startswith(second.text)


def test_a_run_that_was_cut_off_goes_on_and_ends_with_the_same_file(
    responder: Responder, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    counted = CountedModel(responder.model)
    counted_responder = replace(responder, model=counted)
    settings: dict[str, Any] = {"max_new_tokens": 5, "batch_size": 3}
    write_responses(responder, PROMPTS, whole, **settings)

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_responses(counted_responder, PROMPTS, cut, on_progress=stop, **settings)
    # Killed in the middle of a batch's lines: one of three is whole.
    cut.write_bytes(b"".join(cut.read_bytes().splitlines(keepends=True)[:2]) + b'{"prom')
    write_responses(counted_responder, PROMPTS, cut, **settings)
    assert cut.read_bytes() == whole.read_bytes()
    assert counted.num_batches == 1 + 3
    write_responses(counted_responder, PROMPTS, cut, **settings)
    assert counted.num_batches == 4  # nothing was left to do


def test_more_prompts_are_added_to_those_that_are_answered(
    responder: Responder, tmp_path: Path
) -> None:
    path = tmp_path / "r.jsonl"
    counted = CountedModel(responder.model)
    write_responses(responder, PROMPTS[:2], path, max_new_tokens=3)
    added = write_responses(
        replace(responder, model=counted), PROMPTS, path, max_new_tokens=3, batch_size=len(PROMPTS)
    )
    assert len(added.by_prompt) == len(PROMPTS)
    assert len(read_lines(path)) == len(PROMPTS) + 1
    assert counted.num_batches == 1


def test_answers_of_another_model_or_setting_are_never_mixed(
    responder: Responder, tmp_path: Path
) -> None:
    path = tmp_path / "r.jsonl"
    write_responses(responder, PROMPTS[:2], path, max_new_tokens=3)
    with pytest.raises(ValueError, match=r"other settings \(max_new_tokens differ\)"):
        write_responses(responder, PROMPTS[:2], path, max_new_tokens=4)
    other = replace(responder, description={"model": "other"})
    with pytest.raises(ValueError, match=r"\(model differ\)"):
        write_responses(other, PROMPTS[:2], path, max_new_tokens=3)


@pytest.mark.parametrize("name", ["max_new_tokens", "batch_size"])
def test_a_wrong_number_is_named(name: str, responder: Responder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        write_responses(responder, PROMPTS, tmp_path / "r.jsonl", **{name: 0})


def test_prompts_are_read_and_written_and_refused_where_they_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    write_prompts(path, ["one", "two\nlines"])
    assert read_prompts(path) == ["one", "two\nlines"]
    path.write_text('{"prompt": "one"}\n{"text": "two"}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*prompts.jsonl must be like"):
        read_prompts(path)
    for prompts, message in (
        (["a", "b", "a"], "prompts must differ, 1 and 3 are the same"),
        ([" "], "prompts must be texts that are not empty"),
        ([], "at least one prompt, got none"),
    ):
        with pytest.raises(ValueError, match=message):
            write_prompts(path, prompts)
    with pytest.raises(FileNotFoundError, match="found no prompts"):
        read_prompts(tmp_path / "absent.jsonl")


def test_another_kind_of_file_is_not_taken_for_responses(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"prompt": "a"}) + "\n")
    with pytest.raises(ValueError, match=r"line 1 of .*r.jsonl must be whole"):
        read_responses(path)
    path.write_text("")
    with pytest.raises(ValueError, match="must be responses of format 1"):
        read_responses(path)
    with pytest.raises(FileNotFoundError, match="segue respond"):
        read_responses(tmp_path / "absent.jsonl")


@pytest.mark.parametrize("chat", [False, True])
def test_a_model_in_transformers_format_answers_with_its_own_template(
    chat: bool, model: Any, tmp_path: Path
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<end>", "<user>", "<assistant>", *(f"w{number}" for number in range(60))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")
    if chat:
        tokenizer.chat_template = "<user> {{ messages[0]['content'] }} <assistant>"
    folder = tmp_path / "model"
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    loaded = load_responder(str(folder))
    assert loaded.encode("w1 w2") == ([1, 4, 5, 2] if chat else [4, 5])
    assert loaded.end_ids == (0,)
    assert loaded.description["model"] == "model"  # the folder's name, and not where it is
    found = write_responses(loaded, ["w1 w2"], tmp_path / "r.jsonl", max_new_tokens=4)
    (response,) = found.by_prompt.values()
    assert response.text
    assert set(response.text.split()) <= set(words)
    before = loaded.description["weights"]
    other = build_model(ModelConfig(64, 16, 1, 2, 32, LENGTH), seed=4)
    other.save_pretrained(folder)  # type: ignore[operator]
    assert load_responder(str(folder)).description["weights"] != before
