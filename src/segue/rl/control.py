"""Source weights that follow what training sees, instead of a clock.

A control stands where a schedule would: ``Objective(schedule=None)`` and
``OnlineTraining(..., control=ReturnControl(10_000))``. Two are named: :class:`ReturnControl` watches the
return against that at the switch, :class:`SourceLossControl` the source's own loss. Both take a ramp of
K updates as long as nothing goes wrong, and give λ back at the same rate while something does. Their
whole state is in :meth:`OnlineTraining.state_dict`, so a run that was cut off resumes bit for bit.

They are Segue's, not the paper's, whose schedule is a function of the step alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from segue.checks import check_at_least_one, check_not_negative, check_share

__all__ = ["Control", "NoControl", "ReturnControl", "SourceLossControl"]


class Control(Protocol):
    """Gives the source weight of the next round."""

    @property
    def source_weight(self) -> float:
        """λ in [0, 1]."""
        ...

    def after_round(
        self, num_updates: int, returns: Sequence[float], metrics: Mapping[str, float]
    ) -> None:
        """Take note of a round: its updates, the training episodes it finished, its metrics."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state."""
        ...


class NoControl:
    """For objectives that have a schedule."""

    source_weight = 0.0

    def after_round(
        self, num_updates: int, returns: Sequence[float], metrics: Mapping[str, float]
    ) -> None:
        """Nothing to note."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to save."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


class _Stepwise:
    """λ falls by 1/K an update while all is well, and rises as fast while it is not."""

    def __init__(self, num_smoothing_steps: int, final_weight: float) -> None:
        self._rate = 1.0 / check_at_least_one("num_smoothing_steps", num_smoothing_steps)
        self._final = check_share("final_weight", final_weight, 1.0)
        self._weight = 1.0

    @property
    def source_weight(self) -> float:
        return self._weight

    def _move(self, num_updates: int, falls: bool) -> None:
        change = self._rate * num_updates
        weight = self._weight - change if falls else self._weight + change
        self._weight = min(1.0, max(self._final, weight))


class ReturnControl(_Stepwise):
    """Release the source only while training episodes return as much as at the switch.

    The reference, S₀ with exploration noise, is the mean of the first ``num_episodes`` training episodes
    after the switch, in which λ stays at 1; the same noise is in the mean it is compared with. That of
    the last ``num_episodes`` lags behind: with episodes of 1,000 steps by some 3,000 updates.

    Args:
        num_smoothing_steps: Updates from 1 to 0 if nothing goes wrong.
        tolerance: Share of the reference that the mean of the last ``num_episodes`` may lack.
        num_episodes: Episodes of the reference and of the moving mean.
        final_weight: Floor.

    Raises:
        ValueError: If an argument is outside its range.

    >>> control = ReturnControl(100, tolerance=0.1, num_episodes=1)
    >>> weights = []
    >>> for training_return in (1000.0, 950.0, 400.0, 980.0):  # 20 updates and an episode a round
    ...     control.after_round(20, [training_return], {})
    ...     weights.append(round(control.source_weight, 2))
    >>> weights
    [0.8, 0.6, 0.8, 0.6]
    """

    def __init__(
        self,
        num_smoothing_steps: int,
        *,
        tolerance: float = 0.05,
        num_episodes: int = 3,
        final_weight: float = 0.0,
    ) -> None:
        super().__init__(num_smoothing_steps, final_weight)
        self._tolerance = check_not_negative("tolerance", tolerance)
        self._num = check_at_least_one("num_episodes", num_episodes)
        self._reference: float | None = None
        self._last: deque[float] = deque(maxlen=num_episodes)

    def after_round(
        self, num_updates: int, returns: Sequence[float], metrics: Mapping[str, float]
    ) -> None:
        """Take note of finished training episodes, then move λ."""
        self._last.extend(returns)
        if len(self._last) < self._num:
            return
        mean = float(np.mean(self._last))
        if self._reference is None:
            self._reference = mean
        self._move(num_updates, mean >= self._reference - self._tolerance * abs(self._reference))

    def state_dict(self) -> dict[str, Any]:
        """λ, the reference and the last returns."""
        return {
            "weight": self._weight,
            "reference": self._reference,
            "last": list(self._last),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state."""
        self._weight, self._reference = state["weight"], state["reference"]
        self._last = deque(state["last"], maxlen=self._num)


class SourceLossControl(_Stepwise):
    """Release the source only while the policy stays near the data's actions.

    Watches the mean squared distance between the policy's and the data's actions on offline batches,
    as a moving average; λ falls while it is at most ``1 + tolerance`` times its value at the switch.
    At λ = 0 it is not measured, and λ stays at 0: a floor keeps it watching.

    Args:
        num_smoothing_steps: Updates from 1 to 0 if nothing goes wrong.
        tolerance: Share by which the distance may rise.
        decay: Weight of the past in the moving average, per round.
        final_weight: Floor.

    Raises:
        ValueError: If an argument is outside its range.

    >>> control = SourceLossControl(100, tolerance=0.5, decay=0.0, final_weight=0.1)
    >>> weights = []
    >>> for distance in (0.02, 0.025, 0.04, 0.028):  # 20 updates a round
    ...     control.after_round(20, [], {"source_cloning_distance": distance})
    ...     weights.append(round(control.source_weight, 2))
    >>> weights
    [0.8, 0.6, 0.8, 0.6]
    """

    def __init__(
        self,
        num_smoothing_steps: int,
        *,
        tolerance: float = 0.5,
        decay: float = 0.98,
        final_weight: float = 0.0,
    ) -> None:
        super().__init__(num_smoothing_steps, final_weight)
        self._tolerance = check_not_negative("tolerance", tolerance)
        self._decay = check_share("decay", decay, 1.0)
        self._reference: float | None = None
        self._average = 0.0
        self._num_unseen = 0  # updates since the distance was last measured

    def after_round(
        self, num_updates: int, returns: Sequence[float], metrics: Mapping[str, float]
    ) -> None:
        """Take note of the source's distance, then move λ."""
        self._num_unseen += num_updates
        distance = metrics.get("source_cloning_distance", float("nan"))
        if not np.isfinite(distance):  # no actor update in a round as short as this one
            return
        num_updates, self._num_unseen = self._num_unseen, 0
        if self._reference is None:
            self._reference = self._average = distance
        self._average = self._decay * self._average + (1.0 - self._decay) * distance
        self._move(num_updates, self._average <= (1.0 + self._tolerance) * self._reference)

    def state_dict(self) -> dict[str, Any]:
        """λ, the reference and the moving average."""
        return {
            "weight": self._weight,
            "reference": self._reference,
            "average": self._average,
            "num_unseen": self._num_unseen,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state."""
        self._weight, self._reference = state["weight"], state["reference"]
        self._average, self._num_unseen = state["average"], state["num_unseen"]
