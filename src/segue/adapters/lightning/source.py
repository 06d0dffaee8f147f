"""What stands for the source objective in a Lightning training: replay data, or a term of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from segue.checks import check_at_least_one
from segue.sources.replay import Replay

__all__ = ["HeldSource", "check_source"]

_TERM = ("release", "state_dict", "load_state_dict")


def check_source(source: Any, batch_size: int | None) -> str:
    """Return ``"data"``, ``"term"`` or ``"factory"`` (of a term), or say what is wrong.

    Raises:
        TypeError, ValueError: If ``source`` is none of them, or ``batch_size`` does not go with it.
    """
    if isinstance(source, Replay):
        raise TypeError(
            "source must be the source data themselves, got a Replay; the callback makes one for "
            "this trainer's ranks and micro-batches"
        )
    if callable(source) and not hasattr(source, "__len__") and not hasattr(source, "__iter__"):
        if batch_size is not None:
            raise ValueError(
                f"batch_size must be None for a source term without data, got {batch_size}"
            )
        if not hasattr(source, "release"):
            return "factory"
        _check_term(source)
        return "term"
    if batch_size is None:
        raise ValueError(
            "batch_size must say how many source examples an optimizer step takes, got None"
        )
    check_at_least_one("batch_size", batch_size)
    return "data"


class HeldSource:
    """The source on this rank: serves slices of the global source batch of an optimizer step.

    Exactly one of ``replay`` and ``term`` is given. A term is a function of no argument that returns
    a loss, with ``release``, ``state_dict`` and ``load_state_dict``, such as :class:`segue.L2SP`.
    """

    def __init__(self, replay: Replay | None = None, term: Any = None) -> None:
        if replay is None:
            _check_term(term)
        self.replay, self.term = replay, term

    def slice_sizes(self, num_slices: int) -> list[int]:
        """Split this rank's share of the source batch into at most ``num_slices`` parts."""
        if self.replay is None:
            return [1]
        share = self.replay.batch_size // self.replay.world_size
        number = min(num_slices, share)
        return [share * (i + 1) // number - share * i // number for i in range(number)]

    def loss(self, size: int, step: Callable[[Any], Any]) -> Any:
        """Return the loss of the next ``size`` examples, or of the term."""
        return self.term() if self.replay is None else step(self.replay.take(size))

    def release(self) -> None:
        """Free the bank, or what the term holds."""
        (self.term if self.replay is None else self.replay).release()

    def state_dict(self) -> dict[str, Any]:
        """State of the replay stream or of the term."""
        state: dict[str, Any] = (self.term if self.replay is None else self.replay).state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a saved state."""
        (self.term if self.replay is None else self.replay).load_state_dict(state)


def _check_term(term: Any) -> None:
    missing = [name for name in _TERM if not callable(getattr(term, name, None))]
    if missing or not callable(term):
        raise TypeError(
            "source must be data, or a term that can be called and has "
            f"{', '.join(_TERM)}; {type(term).__name__} lacks {missing or ['__call__']}"
        )
    required = [
        parameter.name
        for parameter in inspect.signature(term).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if required:
        raise TypeError(
            f"source must be a term that needs no argument, {type(term).__name__} needs {required}; "
            "give what it needs as source data, and call it in the module's source_step"
        )
