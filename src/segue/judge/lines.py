"""Append-only JSONL files: a killed writer loses at most the line it was writing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segue.runs.grid import canonical_json

__all__ = ["append_lines", "exclusive", "hash_text", "read_lines"]

_HASH = "sha256"


def hash_text(*texts: str) -> str:
    """SHA-256 of texts, as 64 hexadecimal digits; their borders count."""
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(f"{len(content)}:".encode() + content)
    return digest.hexdigest()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file; none if there is no file.

    A last line without its end is what a killed writer left, and is passed over.

    Raises:
        ValueError: If another line is damaged or was edited; names it.
    """
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    values = []
    for number, line in enumerate(whole.split(b"\n") if whole else (), start=1):
        try:
            value = json.loads(line)
            found = value.pop(_HASH)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line {number} of {path} must be whole, got {error!r}") from None
        if found != _hash(value):
            raise ValueError(f"line {number} of {path} must have the content of its hash")
        values.append(value)
    return values


def append_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """Append objects, each with the hash of its content, and wait until they are on disk.

    Half a line at the end of the file is removed first, so that nothing is ever joined to it: hold
    :func:`exclusive` meanwhile.
    """
    content = b"".join(
        canonical_json({**value, _HASH: _hash(value)}).encode("utf-8", "surrogatepass") + b"\n"
        for value in values
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        _remove_half_line(file)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keep other writers from ``path`` meanwhile.

    Raises:
        OSError: If another process writes it.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.parent / f".{path.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OSError(f"another process writes {path}; wait for it, or name another file") from None
    try:
        yield
    finally:
        lock.release()


def _hash(value: Mapping[str, Any]) -> str:
    return hash_text(canonical_json(value))


def _remove_half_line(file: Any) -> None:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
