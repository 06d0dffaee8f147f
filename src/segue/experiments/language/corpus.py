"""Texts: WikiText-2 as the source; Shakespeare and GSM8K as targets. Divided before anything else."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from segue.batches import hash_content
from segue.checks import unknown_name

__all__ = [
    "TARGETS", "Divided", "Problem", "check_data", "find_texts", "fingerprint", "load_problems",
    "load_shakespeare", "load_source",
]  # fmt: skip

TARGETS = ("shakespeare", "gsm8k", "gsm8k_instructions")
"""Targets: plays and worked problems as plain text, and problems as instructions."""

_SOURCE_FILES = ("wikitext2-valid.txt", "wikitext2-test.txt")
_FILES = {
    "shakespeare": ("tinyshakespeare.txt",),
    "gsm8k": ("gsm8k-train.jsonl",),
    "gsm8k_instructions": ("gsm8k-train.jsonl",),
}
# A title stands alone before an empty line; a formula that looks like one does not.
_ARTICLE = re.compile(r"(?m)^(?= = [^=\n]+ = \n ?\n)")
_HELD_OUT_SHARE = 0.1


class Problem(NamedTuple):
    """A question with its worked answer, which ends in ``#### number``."""

    question: str
    answer: str


@dataclass(frozen=True)
class Divided:
    """Texts or problems that are trained on, chosen by, and reported on; no one is in two parts.

    Attributes:
        train: For training.
        validation: For choosing settings.
        test: For verdicts.
    """

    train: tuple[str | Problem, ...]
    validation: tuple[str | Problem, ...]
    test: tuple[str | Problem, ...]


def find_texts(data_root: str | Path | None, names: tuple[str, ...]) -> list[Path]:
    """Return the files ``names`` of the data folder.

    Raises:
        FileNotFoundError: If one is missing; says where it looked.
        ValueError: If there is no data folder.
    """
    if data_root is None:
        raise ValueError(
            "data must name the folder that holds text/: pass --data or set SEGUE_DATA"
        )
    root = Path(data_root).expanduser()
    for folder in (root / "text", root):
        if all((folder / name).is_file() for name in names):
            return [folder / name for name in names]
    raise FileNotFoundError(
        f"found no {', '.join(names)} in {root / 'text'} or {root}. Pass --data FOLDER or set "
        "SEGUE_DATA to the folder that holds text/"
    )


def check_data(data_root: str) -> None:
    """Raise an OSError or ValueError unless every text is there."""
    find_texts(data_root, _SOURCE_FILES)
    for names in _FILES.values():
        find_texts(data_root, names)


def fingerprint(target: str, data_root: str | Path | None) -> str:
    """SHA-256 of the files that the source and ``target`` are read from."""
    if target not in TARGETS:
        raise ValueError(unknown_name("target", target, TARGETS))
    files = find_texts(data_root, _SOURCE_FILES) + find_texts(data_root, _FILES[target])
    return hash_content(*((file.name, file.read_bytes()) for file in files))


def load_source(data_root: str | Path | None) -> Divided:
    """Whole articles of WikiText-2's validation and test text, a tenth of them held out.

    The held-out articles are the same for every seed. They are both validation and test part:
    nothing is chosen by the source loss.
    """
    text = "\n".join(_read(file) for file in find_texts(data_root, _SOURCE_FILES))
    # dict.fromkeys, because an article that stood in both files would be on both sides.
    parts = (part.strip("\n") + "\n" for part in _ARTICLE.split(text) if part.strip())
    articles = list(dict.fromkeys(parts))
    random.Random("segue source articles").shuffle(articles)
    number = round(_HELD_OUT_SHARE * len(articles))
    if number == 0:
        raise ValueError(
            f"the source text must hold at least five articles (lines like ' = Title = '), "
            f"got {len(articles)}"
        )
    held_out = tuple(articles[:number])
    return Divided(tuple(articles[number:]), held_out, held_out)


def load_shakespeare(data_root: str | Path | None) -> Divided:
    """Speeches in the order of the file: the first 80 % to train, a tenth each to choose and test."""
    (file,) = find_texts(data_root, _FILES["shakespeare"])
    speeches = [part + "\n\n" for part in _read(file).split("\n\n") if part.strip()]
    return _divide([*speeches], str(file))


def load_problems(data_root: str | Path | None) -> Divided:
    """GSM8K's published training problems, shuffled once: 80 % to train, a tenth each to the rest.

    Raises:
        ValueError: If a line is not a JSON object with ``question`` and ``answer``; names the line.
    """
    (file,) = find_texts(data_root, _FILES["gsm8k"])
    problems: list[str | Problem] = []
    for number, line in enumerate(_read(file).splitlines(), start=1):
        try:
            row = json.loads(line)
            problem = Problem(row["question"], row["answer"])
            if not all(isinstance(part, str) and part.strip() for part in problem):
                raise TypeError("they must be texts")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"line {number} of {file} must be a JSON object with question and answer, "
                f"got {line[:80]!r} ({error!r})"
            ) from None
        problems.append(problem)
    problems = list(dict.fromkeys(problems))
    random.Random("segue problems").shuffle(problems)
    return _divide(problems, str(file))


def _divide(items: list[str | Problem], where: str) -> Divided:
    tenth = len(items) // 10
    if tenth == 0:
        raise ValueError(f"{where} must hold at least ten texts, got {len(items)}")
    first = len(items) - 2 * tenth
    return Divided(
        tuple(items[:first]), tuple(items[first : first + tenth]), tuple(items[first + tenth :])
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} must be UTF-8 text, got {error}") from error
