"""Argument checks that name the argument, the rule and the value received (stdlib only)."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = [
    "check_at_least_one",
    "check_count",
    "check_not_negative",
    "check_positive",
    "check_share",
    "check_source_weight",
    "needed",
    "unknown_name",
]


def check_source_weight(value: object, step: int) -> float:
    """Return ``value`` as a float, or say which step of the schedule gave a wrong weight.

    Raises:
        TypeError: If ``value`` is not a number.
        ValueError: If it is not finite or outside [0, 1].
    """
    weight = _number(value)
    if weight is None:
        raise TypeError(f"the schedule must return a number, got {value!r} at step {step}")
    if not 0.0 <= weight <= 1.0:  # also refuses NaN
        raise ValueError(
            f"the schedule must return a source weight in [0, 1], got {weight!r} at step {step}"
        )
    return weight


def check_count(name: str, value: int) -> int:
    """Return ``value`` as an int ``>= 0``; TypeError or ValueError names ``name``."""
    try:
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if count < 0:
        raise ValueError(f"{name} must be >= 0, got {count}")
    return count


def check_share(name: str, value: float, upper: float, upper_name: str = "1") -> float:
    """Return ``value`` as a float in [0, ``upper``]; the error names ``name``."""
    number = _number(value)
    if number is None:
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0.0 <= number <= upper:
        bound = upper_name if upper_name == "1" else f"{upper_name} ({upper})"
        raise ValueError(f"{name} must be in [0, {bound}], got {value!r}")
    return number


def check_positive(name: str, value: float) -> float:
    """Return ``value`` as a positive finite float; the error names ``name``."""
    number = _number(value)
    if number is None:
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0.0 < number < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return number


def check_at_least_one(name: str, value: int) -> int:
    """Return ``value`` as an int ``>= 1``; TypeError or ValueError names ``name``."""
    if check_count(name, value) < 1:
        raise ValueError(f"{name} must be >= 1, got {value}")
    return int(value)


def check_not_negative(name: str, value: float) -> float:
    """Return ``value`` as a finite float ``>= 0``; the error names ``name``."""
    number = _number(value)
    if number is None:
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0.0 <= number < math.inf:
        raise ValueError(f"{name} must be >= 0 and finite, got {value!r}")
    return number


def _number(value: object) -> float | None:
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # an array of several numbers
        return None


@contextmanager
def needed(user: str, package: str, extra: str) -> Iterator[None]:
    """Say which extra to install if an import in this block fails.

    Raises:
        ImportError: In the words "``user`` needs ``package``".
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f'{user} needs {package}: pip install "segue[{extra}]"') from error


def unknown_name(what: str, name: object, known: Iterable[str]) -> str:
    """Word the error for an unknown name, with the nearest known one.

    >>> unknown_name("shift", "gausian_noise", ["blur", "gaussian_noise"])
    "unknown shift 'gausian_noise'; did you mean 'gaussian_noise'? Known: blur, gaussian_noise"
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    return f"unknown {what} {name!r}{hint} Known: {', '.join(names)}"
