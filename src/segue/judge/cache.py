"""Answers of judges, kept by the content of the question: what was asked once is not asked again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segue.judge.lines import append_lines, exclusive, hash_text, read_lines
from segue.runs.grid import canonical_json

__all__ = ["AnswerCache", "request_key"]


def request_key(request: dict[str, Any]) -> str:
    """SHA-256 of a whole request: model, question (template, prompt, both answers), settings."""
    return hash_text(canonical_json(request))


class AnswerCache:
    """A JSONL file with one answer a line, written as soon as it is there.

    The raw answer is kept, not its verdict, so that a better reading of answers needs no call. The
    address of the server is not part of a key: the same model elsewhere would say the same.

    Args:
        path: The file; made when there is something to keep.

    Raises:
        ValueError: If the file is damaged; names the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._answers: dict[str, str] = {}
        self._read()

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> str:
        return self._answers[key]

    def __len__(self) -> int:
        return len(self._answers)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other processes from the file meanwhile; raises OSError if one is at it."""
        with exclusive(self.path):
            self._read()  # what another process has written since
            yield

    def put(self, key: str, model: str, answer: str) -> None:
        """Keep an answer; safe to call from several threads, inside :meth:`writing`."""
        with self._lock:
            append_lines(self.path, [{"key": key, "model": model, "answer": answer}])
            self._answers[key] = answer

    def _read(self) -> None:
        self._answers.update((line["key"], line["answer"]) for line in read_lines(self.path))
