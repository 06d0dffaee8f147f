"""The tokenizer, trained on the source's training text, and what it makes of texts and problems."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from segue.experiments.language.corpus import Problem
from segue.experiments.language.requirements import needed
from segue.runs.records import write_atomically

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = [
    "ASSISTANT", "END", "IGNORED", "USER", "Prompt", "TokenSet", "final_number", "load_tokenizer",
    "pack", "plain_text", "to_instructions", "to_prompts", "train_tokenizer",
]  # fmt: skip

END, USER, ASSISTANT = "<|endoftext|>", "<|user|>", "<|assistant|>"
SPECIAL = (END, USER, ASSISTANT)
"""Special tokens; their ids are 0, 1 and 2. Pretraining never shows the last two."""
IGNORED = -100
"""Label of a token that no loss counts."""
_FINAL = re.compile(r"####\s*([-+]?[\d.,]*\d)")


class TokenSet(NamedTuple):
    """Sequences of equal length.

    Attributes:
        tokens: Shape (N, length), int64; padded with the id of ``END`` on the right.
        labels: Shape (N, length): the token itself where its prediction counts, else ``IGNORED``.
            The first position of a sequence is never predicted, whatever its label.
    """

    tokens: Tensor
    labels: Tensor

    def subset(self, number: int) -> TokenSet:
        """The first ``number`` sequences, or all if there are fewer."""
        return TokenSet(self.tokens[:number], self.labels[:number])

    def to(self, device: torch.device | str) -> TokenSet:
        """The sequences on ``device``."""
        return TokenSet(self.tokens.to(device), self.labels.to(device))


class Prompt(NamedTuple):
    """What a model is to continue, and the number that must come out."""

    tokens: tuple[int, ...]
    number: str


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer that keeps digits apart; a function of its arguments alone.

    Raises:
        ValueError: If ``vocab_size`` does not hold every byte and the special tokens.
    """
    with needed("tokenizers"):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(alphabet) + len(SPECIAL):
        raise ValueError(
            f"vocab_size must be >= {len(alphabet) + len(SPECIAL)} (every byte and the special "
            f"tokens), got {vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load_tokenizer(
    texts: Sequence[str], vocab_size: int, cache_dir: Path | None, key: str
) -> Tokenizer:
    """Return the tokenizer trained on ``texts``, kept in ``cache_dir`` under ``key``."""
    if cache_dir is None:
        return train_tokenizer(texts, vocab_size)
    path = cache_dir / f"language-tokenizer-{key[:16]}-{vocab_size}.json"
    if not path.exists():
        text = train_tokenizer(texts, vocab_size).to_str()
        write_atomically(path, text.encode())
    return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def plain_text(problem: Problem) -> str:
    """A problem as plain text."""
    return f"Question: {problem.question}\nAnswer: {problem.answer}"


def pack(tokenizer: Any, texts: Iterable[str], length: int) -> TokenSet:
    """Cut the texts, each followed by ``END``, into sequences of ``length``; drop the incomplete one.

    Raises:
        ValueError: If there is not even one sequence.
    """
    end = tokenizer.token_to_id(END)
    stream = [token for each in tokenizer.encode_batch(list(texts)) for token in (*each.ids, end)]
    number = len(stream) // length
    if number == 0:
        raise ValueError(f"the text must have at least {length} tokens, got {len(stream)}")
    tokens = torch.tensor(stream[: number * length]).view(number, length)
    return TokenSet(tokens, tokens.clone())


def to_instructions(tokenizer: Any, problems: Iterable[Problem], length: int) -> TokenSet:
    """Lay problems out as ``user question assistant answer end``; only the answer and end count.

    A problem of more than ``length`` tokens is left out, never cut: a cut answer has no number.

    Raises:
        ValueError: If none is short enough.
    """
    tokens, labels = [], []
    for problem in problems:
        prompt, answer = _parts(tokenizer, problem)
        room = length - len(prompt) - len(answer)
        if room >= 0:
            end = tokenizer.token_to_id(END)
            tokens.append([*prompt, *answer, *[end] * room])
            labels.append([*[IGNORED] * len(prompt), *answer, *[IGNORED] * room])
    if not tokens:
        raise ValueError(f"at least one problem must have <= {length} tokens, got none")
    return TokenSet(torch.tensor(tokens), torch.tensor(labels))


def to_prompts(
    tokenizer: Any, problems: Iterable[Problem], length: int, *, chat: bool
) -> tuple[Prompt, ...]:
    """Prompts of the problems that fit into ``length`` tokens with their answers."""
    prompts = []
    for problem in problems:
        prompt, answer = _parts(tokenizer, problem)
        if not chat:
            prompt = tokenizer.encode(f"Question: {problem.question}\nAnswer:").ids
        number = final_number(problem.answer)
        if number is not None and len(prompt) + len(answer) <= length:
            prompts.append(Prompt(tuple(prompt), number))
    return tuple(prompts)


def final_number(text: str) -> str | None:
    """The number after ``####``, without separators; None if there is none.

    >>> final_number("so 2 x 600 = 1,200 #### 1,200")
    '1200'
    """
    found = _FINAL.search(text)
    return None if found is None else found[1].replace(",", "").rstrip(".")


def _parts(tokenizer: Any, problem: Problem) -> tuple[list[int], list[int]]:
    end, user, assistant = (tokenizer.token_to_id(token) for token in SPECIAL)
    question = tokenizer.encode(problem.question).ids
    return [user, *question, assistant], [*tokenizer.encode(problem.answer).ids, end]
