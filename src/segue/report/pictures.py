"""Pictures that ``segue strip`` and ``segue samples`` wrote, embedded in the page beside their shift."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from segue.checks import unknown_name
from segue.png import read_texts

__all__ = ["Picture", "find_pictures"]

_KINDS = {".png": "image/png", ".gif": "image/gif", ".webp": "image/webp"}
_NAME = re.compile(r"(?P<shift>.+)-seed(?P<seed>\d+)")


@dataclass(frozen=True)
class Picture:
    """An image strip or an animation.

    Attributes:
        source: Data URI.
        caption: What is seen.
        alt: The text of the image.
    """

    source: str
    caption: str
    alt: str


def find_pictures(folder: Path, shifts: Iterable[str]) -> dict[str, list[Picture]]:
    """Return the pictures of each shift, named ``<shift>-seed<seed>`` with ending png, gif or webp.

    Raises:
        ValueError: If ``folder`` holds no such picture, or one of a shift that the records lack.
    """
    shifts = sorted(set(shifts))
    paths = sorted((p for p in folder.glob("*") if p.suffix in _KINDS), key=_strips_first)
    if not paths:
        raise ValueError(
            "pictures must be a folder that `segue strip` or `segue samples` wrote, found no picture "
            f"in {folder}"
        )
    found: dict[str, list[Picture]] = {}
    for path in paths:
        match = _NAME.fullmatch(path.stem)
        if match is None:
            raise ValueError(f"pictures must be named <shift>-seed<seed>, got {path.name}")
        if match["shift"] not in shifts:
            raise ValueError(unknown_name("shift of a picture", match["shift"], shifts))
        found.setdefault(match["shift"], []).append(_picture(path, match["shift"], match["seed"]))
    return found


def _strips_first(path: Path) -> tuple[str, bool]:
    return path.stem, path.suffix != ".png"


def _picture(path: Path, shift: str, seed: str) -> Picture:
    title, alt = read_texts(path)
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    caption = f"{shift}, seed {seed}: {title or 'the same episodes, moving'}"
    return Picture(f"data:{_KINDS[path.suffix]};base64,{content}", caption, alt or caption)
