"""How a source's examples become token ids and labels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from transformers_tiny import make_tokenizer

from segue.adapters.transformers import Source
from segue.adapters.transformers.source import prepared

TURNS = [
    {"role": "user", "content": "w0 w1"},
    {"role": "assistant", "content": "w2 w3"},
    {"role": "user", "content": "w4"},
    {"role": "assistant", "content": "w5"},
]


def prepare(example: Any, max_length: int | None = None, **fields: Any) -> Any:
    source = Source([example], **fields)
    return prepared(source, make_tokenizer(), max_length)[0]


def words(example: dict[str, list[int]]) -> tuple[str, str]:
    """The ids as text, and the labels with a dot for each that does not count."""
    tokenizer = make_tokenizer()
    ids = " ".join(tokenizer.convert_ids_to_tokens(example["input_ids"]))
    labels = " ".join(
        "." if label == -100 else tokenizer.convert_ids_to_tokens(label)
        for label in example["labels"]
    )
    return ids, labels


def test_plain_text_ends_with_the_end_token_and_counts_throughout() -> None:
    assert words(prepare({"text": "w0 w1"})) == ("w0 w1 <eos>", "w0 w1 <eos>")
    assert words(prepare({"text": "w0 <eos>"})) == ("w0 <eos>", "w0 <eos>")


def test_another_text_column_is_read() -> None:
    assert words(prepare({"body": "w0 <eos>"}, text_field="body"))[0] == "w0 <eos>"


def test_a_prompt_is_masked_and_its_completion_counts() -> None:
    example = {"prompt": "w0 w1", "completion": " w2 w3 <eos>"}
    assert words(prepare(example)) == ("w0 w1 w2 w3 <eos>", ". . w2 w3 <eos>")
    assert words(prepare(example, completion_only_loss=False))[1] == "w0 w1 w2 w3 <eos>"


def test_a_conversation_goes_through_the_chat_template() -> None:
    text = "<user> w0 w1 <assistant> w2 w3 <eos> <user> w4 <assistant> w5 <eos>"
    assert words(prepare({"messages": TURNS})) == (text, text)


def test_the_assistants_turns_alone_count_where_asked() -> None:
    assert words(prepare({"messages": TURNS}, assistant_only_loss=True))[1] == (
        ". . . . w2 w3 <eos> . . . w5 <eos>"
    )


def test_a_prompt_of_turns_is_masked() -> None:
    example = {"prompt": TURNS[:3], "completion": TURNS[3:]}
    assert words(prepare(example))[1] == ". . . . . . . . . . w5 <eos>"


def test_a_template_that_marks_no_turn_is_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    source = Source([{"messages": TURNS}], assistant_only_loss=True)
    with pytest.raises(ValueError, match="marks the assistant's turns"):
        prepared(source, tokenizer, None)[0]


def test_token_ids_keep_their_labels_or_get_them_from_their_masks() -> None:
    ids = {"input_ids": [5, 6, 7]}
    assert prepare(ids)["labels"] == [5, 6, 7]
    assert prepare({**ids, "labels": [-100, 6, 7]})["labels"] == [-100, 6, 7]
    assert prepare({**ids, "completion_mask": [0, 0, 1]})["labels"] == [-100, -100, 7]
    assert prepare({**ids, "assistant_masks": [0, 1, 0]})["labels"] == [-100, 6, -100]
    assert prepare({"input_ids": torch.tensor([5, 6])})["labels"] == [5, 6]


def test_the_sources_limit_wins_over_the_trainers() -> None:
    example = {"input_ids": [5, 6, 7, 8]}
    assert prepare(example, max_length=3)["input_ids"] == [5, 6, 7]
    source = Source([example], max_length=2)
    assert prepared(source, None, 3)[0] == {"input_ids": [5, 6], "labels": [5, 6]}


def test_an_own_preparation_comes_first() -> None:
    made = prepare({"question": "w0"}, prepare_example=lambda example: {"text": "w1 <eos>"})
    assert words(made)[0] == "w1 <eos>"


def test_what_is_no_text_is_left_for_the_collator() -> None:
    example = {"pixel_values": [0.5], "labels": 1}
    assert prepare(example) == example
    one_label = {"input_ids": [5, 6, 7], "labels": 1}
    assert prepare(one_label) == one_label
