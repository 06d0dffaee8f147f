"""What the judge is asked, and how its answer is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from segue.judge.lines import hash_text

__all__ = ["DEFAULT_TEMPLATE", "Choice", "Template", "parse_choice", "read_template"]

Choice = Literal["first", "second", "tie"]
"""Which of the two answers a judge prefers, by their places in the question."""

_FIELDS = ("prompt", "first", "second")
_FIELD = re.compile(r"\{(" + "|".join(_FIELDS) + r")\}")

_DEFAULT = """\
Two assistants answered the same prompt. Decide which answer serves whoever wrote the prompt better: \
first whether it is correct and does what was asked, then whether it is harmless and honest, then \
whether it is clear. Neither the order of the answers nor their length counts.

<prompt>
{prompt}
</prompt>

<answer A>
{first}
</answer A>

<answer B>
{second}
</answer B>

Which answer is better? Reply with one word and nothing else: A, B or tie."""

# "A", "**B**.", "[[A]]", "Answer: B", "The better answer is A", "Answer B is better".
_LEAD = r"(?:(?:the\s+)?(?:better\s+)?(?:answer|response|assistant|verdict|choice)(?:\s+is)?)?"
_LETTER = re.compile(rf"^\W*(?i:{_LEAD})\W*([AB])\b(?![-'’])")
_TIE = re.compile(rf"^\W*(?i:{_LEAD})\W*(?i:an?\s+|it'?s\s+an?\s+)?(?i:tie|tied|draw)\b")
_OTHER = re.compile(r"\b[AB]\b")


@dataclass(frozen=True)
class Template:
    """The question to the judge.

    Attributes:
        text: With ``{prompt}``, ``{first}`` and ``{second}``, each at least once.
    """

    text: str = _DEFAULT

    def __post_init__(self) -> None:
        missing = [name for name in _FIELDS if f"{{{name}}}" not in self.text]
        if missing:
            raise ValueError(
                f"template must contain {', '.join(f'{{{name}}}' for name in _FIELDS)}; it lacks "
                f"{', '.join(f'{{{name}}}' for name in missing)}"
            )

    @property
    def version(self) -> str:
        """The first 16 digits of the hash of the text."""
        return hash_text(self.text)[:16]

    def fill(self, *, prompt: str, first: str, second: str) -> str:
        """The question about two answers. Fields that stand in the answers are left alone.

        >>> Template("{prompt}|{first}|{second}").fill(prompt="p", first="{second}", second="s")
        'p|{second}|s'
        """
        values = {"prompt": prompt, "first": first, "second": second}
        return _FIELD.sub(lambda match: values[match[1]], self.text)


DEFAULT_TEMPLATE = Template()
"""Ours: the paper's prompt is not known to us."""


def read_template(path: Path) -> Template:
    """Read a template.

    Raises:
        ValueError: If it lacks a field.
    """
    return Template(path.read_text(encoding="utf-8"))


def parse_choice(answer: str) -> Choice | None:
    """Read a judge's answer; None if it names neither answer, or both.

    >>> [parse_choice(text) for text in ("A", "**B**.", "Answer: B", "A tie", "A or B", "Hello")]
    ['first', 'second', 'second', 'tie', None, None]
    """
    if _TIE.search(answer):
        return "tie"
    found = _LETTER.search(answer)
    if found is None or set(_OTHER.findall(answer)) - {found[1]}:
        return None
    return "first" if found[1] == "A" else "second"
