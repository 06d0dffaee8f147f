"""What the family needs beyond the experiments' extra."""

from __future__ import annotations

from functools import partial

from segue.checks import needed as needed_by

__all__ = ["needed"]

needed = partial(needed_by, "the language family", extra="experiments,trl")
"""Say which extra to install if an import in this block fails."""
