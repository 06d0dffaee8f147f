"""Text and numbers for people: whatever a record holds is shown as inert, visible characters."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

__all__ = [
    "counted",
    "csv_cell",
    "name_of",
    "number",
    "plain",
    "plotly_text",
    "setting_text",
    "signed",
    "value_text",
]

_JOINERS = "\u200c\u200d"
"""Invisible, but words in Persian and many emoji need them."""
_JOINED = re.compile(r"(?<=[^\W_])_(?=[^\W_])")
_FORMULA_STARTS = "=+-@\t\r\n＝＋－＠"


def plain(value: object, limit: int | None = None) -> str:
    r"""Return text without control, bidirectional-override or other invisible characters.

    They are replaced by visible escapes, so that nothing hides and nothing reorders its
    surroundings. Surrogates, which UTF-8 cannot hold, are escaped too.

    >>> plain("a\u202eb\nc")
    'a\\u202eb\\nc'
    """
    text = "".join(_visible(character) for character in str(value))
    if limit is not None and len(text) > limit:
        return text[: limit - 1] + "…"
    return text


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and character not in _JOINERS:
        return character.encode("unicode_escape").decode("ascii")
    return character


def name_of(value: object, limit: int | None = None) -> str:
    """A method's or shift's name as it is read: ``hard_switch`` → "hard switch"."""
    return plain(_JOINED.sub(" ", str(value)), limit)


def plotly_text(value: object, limit: int = 40) -> str:
    """Text for a Plotly label, which would interpret some tags, links and entities.

    >>> plotly_text("<b>x</b>")
    '&lt;b&gt;x&lt;/b&gt;'
    """
    text = plain(value, limit)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def csv_cell(value: object) -> object:
    """A CSV cell: numbers as they are, missing and non-finite ones empty, text made inert.

    Text that a spreadsheet would take for a formula gets a leading apostrophe.

    >>> csv_cell("=1+1"), csv_cell(-1.5), csv_cell(float("nan"))
    ("'=1+1", -1.5, '')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return value if math.isfinite(value) else ""
    text = str(value)
    inert = plain(text)
    return "'" + inert if text.lstrip(" \u00a0").startswith(tuple(_FORMULA_STARTS)) else inert


def number(value: float | None, digits: int = 1, *, scale: float = 1.0) -> str:
    """A number, or an en dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value * scale:.{digits}f}"
    if float(text) == 0.0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def signed(value: float | None, digits: int = 1, *, scale: float = 1.0) -> str:
    """A number with its sign."""
    text = number(value, digits, scale=scale)
    return text if text[0] in "–−" or float(text) == 0.0 else "+" + text


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """``1 seed``, ``10 seeds``, ``1,234 runs``."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def value_text(value: object) -> str:
    """A setting's value: ``1,000``, ``all``, ``constant then target``."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return name_of(value)


def setting_text(path: str, value: Any) -> str:
    """A setting as it is read: ``num_target_steps`` 300 → "300 target steps"."""
    last = path.rsplit(".", 1)[-1]
    if last.startswith("num_") and isinstance(value, int) and not isinstance(value, bool):
        what = last[4:].replace("_", " ")
        return counted(value, what.removesuffix("s"), what)
    if last.isdigit() and "." in path:  # an item of a list: "hidden width 1: 64"
        what = path.rsplit(".", 2)[-2].replace("_", " ").removesuffix("s")
        return plain(f"{what} {int(last) + 1}: {value}", 80)
    owner = (
        path.rsplit(".", 2)[-2].replace("_", " ") + " " if last == "name" and "." in path else ""
    )
    label = owner.strip() if owner else last.replace("_", " ")
    return plain(f"{label} {value}", 80)
