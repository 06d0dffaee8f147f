"""The data behind figures and tables, as CSV that a spreadsheet opens without running anything."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segue.report.text import csv_cell

__all__ = ["Sheet"]


@dataclass(frozen=True)
class Sheet:
    """A table of raw values: fractions, steps and names as in the records, unrounded.

    Attributes:
        name: File name without ending.
        columns: Column names.
        rows: One sequence a row, as long as ``columns``.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[Sequence[Any], ...]

    @property
    def file_name(self) -> str:
        """A file name of letters, digits, ``-`` and ``_`` only."""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", self.name).strip("-")[:80]
        return f"{stem or 'data'}.csv"

    def to_csv(self) -> str:
        """Text of the file: UTF-8, text in quotes, numbers not, one row a line."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow([csv_cell(column) for column in self.columns])
        for row in self.rows:
            writer.writerow([csv_cell(value) for value in row])
        return buffer.getvalue()
