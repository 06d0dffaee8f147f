"""What a saved state belongs to: the settings it cannot go on without."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from segue.schedules import describe

__all__ = ["check_identity", "identity_of"]


def identity_of(**parts: Any) -> dict[str, str | None]:
    """Return a text for every setting by its path, for a checkpoint.

    Dataclasses are taken apart. A schedule's text is :func:`segue.schedules.describe`'s: a function of
    the user's own has none, and its entry is None.

    >>> from segue.rl.td3 import TD3Config
    >>> identity_of(learner=TD3Config(discount=0.9), seed=3)["learner.discount"]
    '0.9'
    """
    found: dict[str, str | None] = {}
    for name, value in parts.items():
        if callable(value):
            found[name] = describe(value)
        elif dataclasses.is_dataclass(value):
            fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
            inner = identity_of(**fields)
            found.update({f"{name}.{path}": text for path, text in inner.items()})
        else:
            found[name] = repr(value)
    return found


def check_identity(saved: Mapping[str, str | None], own: Mapping[str, str | None]) -> None:
    """Refuse a state that was saved with other settings; what has no text is not compared.

    Raises:
        ValueError: Names the first setting that differs, and both values.
    """
    for name in sorted({*saved, *own}):
        was, now = saved.get(name), own.get(name)
        if (name in saved) == (name in own) and None in (was, now):
            continue
        if was != now:
            raise ValueError(f"{name} must be what the state was saved with, {was}, got {now}")
