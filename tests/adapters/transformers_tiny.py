"""A language model of a few thousand parameters, its tokenizer and its data, made on the spot."""

from __future__ import annotations

import os
import random

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [f"w{number}" for number in range(24)]
SPECIAL = ["<pad>", "<eos>", "<unk>", "<user>", "<assistant>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<assistant> ' }}{% generation %}{{ message['content'] + ' <eos> ' }}{% endgeneration %}"
    "{% else %}{{ '<user> ' + message['content'] + ' ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def make_model(dropout: float = 0.0, seed: int = 0) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attention_dropout=dropout,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def sentence(draw: random.Random, shortest: int = 2, longest: int = 12) -> str:
    """Words drawn at random, of a random number."""
    return " ".join(draw.choices(WORDS, k=draw.randint(shortest, longest)))


def texts(number: int, seed: int) -> list[dict[str, str]]:
    draw = random.Random(seed)
    return [{"text": sentence(draw)} for _ in range(number)]


def completions(number: int, seed: int) -> list[dict[str, str]]:
    draw = random.Random(seed)
    return [
        {"prompt": sentence(draw, 1, 4), "completion": " " + sentence(draw, 1, 9)}
        for _ in range(number)
    ]


def preferences(number: int, seed: int) -> list[dict[str, str]]:
    draw = random.Random(seed)
    return [
        {
            "prompt": sentence(draw, 1, 4),
            "chosen": " " + sentence(draw, 1, 9),
            "rejected": " " + sentence(draw, 1, 9),
        }
        for _ in range(number)
    ]


def tokenized(examples: list[dict[str, str]]) -> list[dict[str, list[int]]]:
    """Token ids, with every token a label."""
    tokenizer = make_tokenizer()
    found = [tokenizer(example["text"] + " <eos>")["input_ids"] for example in examples]
    return [{"input_ids": ids, "labels": list(ids)} for ids in found]
