"""PNG files that say what they show: a title, and a description for who cannot see them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from segue.runs.records import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["read_texts", "write_png"]

_TITLE, _DESCRIPTION = "Title", "Description"  # keywords of the PNG specification


def write_png(path: Path, image: Image, *, title: str, description: str) -> Path:
    """Write an image with its texts, whole or not at all."""
    from PIL.PngImagePlugin import PngInfo

    buffer, texts = io.BytesIO(), PngInfo()
    texts.add_text(_TITLE, title)
    texts.add_text(_DESCRIPTION, description)
    image.save(buffer, format="PNG", optimize=True, pnginfo=texts)
    write_atomically(path, buffer.getvalue())
    return path


def read_texts(path: Path) -> tuple[str | None, str | None]:
    """Title and description of an image file, None where it has none."""
    from PIL import Image

    with Image.open(path) as image:
        return image.info.get(_TITLE), image.info.get(_DESCRIPTION)
