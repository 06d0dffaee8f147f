"""What judging needs beyond the experiments' extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["needed"]


@contextmanager
def needed(what: str) -> Iterator[None]:
    """Say which extra to install if an import in this block fails."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f'the judge needs {what}: pip install "segue[judge]"') from error
