"""The arguments that a smoothed trainer has beside its own, checked before anything is built."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal, get_args

from segue.adapters.transformers.source import Source
from segue.checks import check_at_least_one, unknown_name
from segue.schedules import Ramp, Schedule, linear_decay, resolve_num_smoothing_steps
from segue.smoothing import NonFinitePolicy

__all__ = ["Mode", "Settings"]

Mode = Literal["mix", "backward"]


@dataclass(frozen=True)
class Settings:
    """What :func:`segue.smooth` adds to a trainer's arguments; documented there."""

    source: Source | None
    num_smoothing_steps: int | float | None
    schedule: Any
    mode: Mode
    num_bank_examples: int | None
    source_batch_size: int | None
    non_finite: NonFinitePolicy

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(unknown_name("mode", self.mode, get_args(Mode)))
        if self.non_finite not in get_args(NonFinitePolicy):
            raise ValueError(
                unknown_name("non_finite policy", self.non_finite, get_args(NonFinitePolicy))
            )
        for name in ("num_bank_examples", "source_batch_size"):
            if getattr(self, name) is not None:
                check_at_least_one(name, getattr(self, name))
        if self.schedule is not None and not callable(self.schedule):
            raise TypeError(
                f"schedule must be a function, got {type(self.schedule).__name__}; write "
                "schedule=segue.linear_decay(500), or num_smoothing_steps=500"
            )
        if self.num_smoothing_steps is not None:
            resolve_num_smoothing_steps(self.num_smoothing_steps, sys.maxsize)
            self._decay(1)
        elif self.schedule is None:
            raise TypeError(
                "num_smoothing_steps (or schedule) must be given: an int is a number of optimizer "
                "steps, a float in (0, 1) a share of training"
            )
        if self.source is None and not self.never_smooths:
            raise TypeError(
                "source must be given, got None; pass the dataset that the model was trained on "
                "before, or num_smoothing_steps=0 for the plain trainer"
            )

    @property
    def never_smooths(self) -> bool:
        """True where the source weight is 0 at every step, by the arguments alone."""
        if self.num_smoothing_steps is not None:
            never = (
                not isinstance(self.num_smoothing_steps, float) and self.num_smoothing_steps == 0
            )
            return never and self._decay(0).final_weight == 0.0
        return isinstance(self.schedule, Ramp) and self.schedule.initial_weight == 0.0

    def resolve(self, num_training_steps: int) -> Schedule:
        """Return the schedule of a training of so many optimizer steps."""
        if self.num_smoothing_steps is None:
            schedule: Schedule = self.schedule
            return schedule
        return self._decay(
            resolve_num_smoothing_steps(self.num_smoothing_steps, num_training_steps)
        )

    def _decay(self, num_smoothing_steps: int) -> Ramp:
        if self.schedule is None:
            return linear_decay(num_smoothing_steps)
        made = self.schedule(num_smoothing_steps)
        if not isinstance(made, Ramp):
            raise TypeError(
                "schedule must be one of Segue's decays, such as segue.cosine_decay, where "
                f"num_smoothing_steps is given, got {self.schedule!r}; pass one of the two for a "
                "schedule that has its length already"
            )
        return made
