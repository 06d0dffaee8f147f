"""How far a grid is, and how long it will take: measured, not guessed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from segue.runs.grid import RunConfig, run_id

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Progress"]

_LINE_SECONDS = 15.0


class Progress:
    """Counts runs and shows the time left.

    The time left is the cost that remains at the speed measured in this execution so far; before
    anything is done there is no estimate. On a terminal it is one live line, elsewhere a plain line
    now and then.
    """

    def __init__(
        self, pending: Sequence[RunConfig], *, num_skipped: int, console: Console | None
    ) -> None:
        self._cost = {run_id(config): config.cost() for config in pending}
        self._share: dict[str, float] = {}
        self._offset: dict[str, float] = {}
        self._running: set[str] = set()
        self._left = dict(self._cost)  # of the runs that have no record yet
        self._measured = 0.0
        self._num_runs = len(pending)
        self._console = console
        self._live: Any = None
        self._started = self._printed = time.monotonic()
        self.num_completed = 0
        self.num_failed = 0
        self.num_skipped = num_skipped

    def __enter__(self) -> Progress:
        if self._console is not None and self._console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if self._console is not None:
            self._console.print(self.text(), markup=False, highlight=False)

    def started(self, identity: str) -> None:
        """A run has begun, or resumed."""
        self._running.add(identity)

    def moved(self, identity: str, share: float) -> None:
        """A run has done ``share`` of its steps."""
        if identity not in self._left:
            return  # a message that was overtaken by the end of its run
        # What a resumed run had done before does not count as speed.
        self._offset.setdefault(identity, share)
        self._share[identity] = share

    def finished(self, identity: str, status: str) -> None:
        """A run has a record."""
        cost = self._left.pop(identity)
        share, offset = self._share.pop(identity, 0.0), self._offset.pop(identity, 0.0)
        if status == "completed":
            self.num_completed += 1
            share = 1.0
        else:
            self.num_failed += 1  # counts for no more than it did: a quick failure is no speed
        self._measured += cost * (share - offset)
        self._running.discard(identity)
        self.refresh()

    def refresh(self) -> None:
        """Show the state, if it is time."""
        now = time.monotonic()
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(self.text()))
        elif self._console is not None and now - self._printed >= _LINE_SECONDS:
            self._printed = now
            self._console.print(self.text(), markup=False, highlight=False)

    def text(self) -> str:
        """One line: counts and the time left."""
        num_done = self.num_completed + self.num_failed
        parts = [f"{num_done}/{self._num_runs} runs", f"{len(self._running)} running"]
        if self.num_failed:
            parts.append(f"{self.num_failed} failed")
        if self.num_skipped:
            parts.append(f"{self.num_skipped} were done before")
        if num_done < self._num_runs:
            left = self.seconds_left()
            parts.append("time left unknown yet" if left is None else f"{_duration(left)} left")
        return ", ".join(parts)

    def seconds_left(self) -> float | None:
        """Remaining cost at the measured speed; None before there is one."""
        under_way = sum(self._cost[i] * share for i, share in self._share.items())
        before = sum(self._cost[i] * self._offset[i] for i in self._share)
        measured = self._measured + under_way - before
        elapsed = time.monotonic() - self._started
        if measured <= 0.0 or elapsed <= 0.0:
            return None
        return max(0.0, (sum(self._left.values()) - under_way) * elapsed / measured)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
