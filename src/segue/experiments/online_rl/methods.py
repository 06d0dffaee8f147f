"""The arms that are compared: one row each, executed by the same training code.

Every arm sees the same number of environment steps. What smoothing costs beside is gradient
evaluations (a second minibatch during the ramp), so the controls spend the same number of those
without any old data: in more epochs, in larger batches, or in longer rollouts.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, get_args

from segue import schedules
from segue.checks import check_at_least_one, check_positive, check_share, unknown_name
from segue.rl.ppo_settings import PPOSettings, SourceAdvantages, SourceTerm

__all__ = [
    "METHODS",
    "SMOOTHING_SHARE",
    "MethodConfig",
    "RampConfig",
    "Shape",
    "build_schedule",
    "make_method",
]

Shape = Literal["hard_switch", "linear", "constant", "constant_then_target"]
SMOOTHING_SHARE = 0.5
"""Share of an iteration's updates over which λ falls, where an arm does not say otherwise."""


def build_schedule(shape: Shape, num_steps: int, initial_weight: float) -> schedules.Schedule:
    """Return the source weight of that shape, with a ramp (or a plateau) of so many updates."""
    if shape == "hard_switch":
        return schedules.hard_switch()
    if shape == "linear":
        return schedules.linear_decay(num_steps, initial_weight=initial_weight)
    constant = schedules.constant(initial_weight)
    if shape == "constant":
        return constant
    return schedules.join([constant, schedules.hard_switch()], [num_steps])


@dataclass(frozen=True)
class RampConfig:
    """The source weight of an arm over the updates from one switch to the next.

    Attributes:
        name: Name in tables.
        shape: Source weight over these updates.
        smoothing_share: Length of the ramp as a share of them.
        initial_weight: λ at the first of them.
        source_term: What the source is; ``nothing`` ramps the target's weight alone.
    """

    name: str
    shape: Shape = "hard_switch"
    smoothing_share: float = 0.0
    initial_weight: float = 1.0
    source_term: str = "nothing"

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ValueError(unknown_name("shape", self.shape, get_args(Shape)))
        check_share("smoothing_share", self.smoothing_share, 1.0)
        check_share("initial_weight", self.initial_weight, 1.0)

    def num_smoothing_steps(self, num_updates: int) -> int:
        """K in updates: the share of so many, rounded up."""
        return math.ceil(self.smoothing_share * num_updates)

    def schedule(self, num_updates: int) -> schedules.Schedule:
        """Source weight over so many updates."""
        num_steps = self.num_smoothing_steps(num_updates)
        return build_schedule(self.shape, num_steps, self.initial_weight)

    def num_source_updates(self, num_updates: int) -> int:
        """How many of so many updates evaluate a source batch."""
        if self.shape == "hard_switch" or self.source_term == "nothing":
            return 0
        return num_updates if self.shape == "constant" else self.num_smoothing_steps(num_updates)


@dataclass(frozen=True)
class MethodConfig(RampConfig):
    """What an arm does within an iteration.

    Attributes:
        name: Name in tables.
        shape: Source weight over the updates of an iteration.
        smoothing_share: Length of the ramp as a share of an iteration's updates.
        initial_weight: λ at the first update of an iteration.
        source_term: See :class:`segue.rl.ppo.PPO`.
        source_advantages: See there.
        epochs_factor: Epochs relative to the plain arm.
        rollout_factor: Length of a rollout relative to the plain arm; with as many environment
            steps in all there are as many times fewer iterations.
    """

    source_term: SourceTerm = "previous_rollout"
    source_advantages: SourceAdvantages = "stored"
    epochs_factor: float = 1.0
    rollout_factor: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("epochs_factor", self.epochs_factor)
        check_at_least_one("rollout_factor", self.rollout_factor)

    def settings(self, plain: PPOSettings) -> PPOSettings:
        """The learner's settings, given those of the plain arm.

        Raises:
            ValueError: If ``epochs_factor`` does not give whole epochs.
        """
        num_epochs = plain.num_epochs * self.epochs_factor
        if num_epochs != int(num_epochs):
            raise ValueError(
                f"epochs_factor must give whole epochs of {plain.num_epochs}, "
                f"got {self.epochs_factor}"
            )
        return dataclasses.replace(
            plain,
            num_epochs=int(num_epochs),
            num_rollout_steps=plain.num_rollout_steps * self.rollout_factor,
        )


_HALF = SMOOTHING_SHARE

METHODS: dict[str, MethodConfig] = {
    method.name: method
    for method in (
        MethodConfig("hard_switch"),
        MethodConfig("smoothing", "linear", _HALF),
        MethodConfig("smoothing_quarter", "linear", 0.25),
        MethodConfig("smoothing_whole", "linear", 1.0),
        MethodConfig("smoothing_recomputed", "linear", _HALF, source_advantages="recomputed"),
        # As much of the old loss in all as smoothing has, at one weight.
        MethodConfig("constant_mix", "constant_then_target", _HALF, initial_weight=0.5),
        MethodConfig("constant_mix_throughout", "constant", initial_weight=0.5),
        MethodConfig("target_ramp", "linear", _HALF, source_term="nothing"),
        # Controls with as many gradient examples as smoothing, and no old data.
        MethodConfig("more_epochs", epochs_factor=1.0 + _HALF),
        MethodConfig("larger_batches", "linear", _HALF, source_term="current_rollout"),
        MethodConfig("longer_rollouts", epochs_factor=1.0 + _HALF, rollout_factor=2),
    )
}
"""Arms by name. The plain arm is called ``hard_switch``, as in every family."""


def make_method(name: str) -> MethodConfig:
    """Return the named arm; raises ValueError with the nearest name if there is none."""
    if name not in METHODS:
        raise ValueError(unknown_name("method", name, METHODS))
    return METHODS[name]
