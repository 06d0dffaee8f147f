"""What an actor-critic update minimises: source, target, and their blend over time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from segue.adapters.jax import never_smooths
from segue.checks import check_at_least_one, check_count, unknown_name
from segue.schedules import Schedule, constant, hard_switch

__all__ = ["Batches", "Clock", "Objective", "SourceTerm", "offline_objective"]

Clock = Literal["updates", "env_steps"]
Batches = Literal["online", "mixed", "union"]
SourceTerm = Literal["offline", "nothing"]


@dataclass(frozen=True)
class Objective:
    """What an update minimises: source, target, and their blend.

    Attributes:
        schedule: Source weight over the clock; None where the host gives it round by round.
        clock: What the schedules count: critic ``updates`` or ``env_steps``, since the switch.
        num_updates_per_env_step: Critic updates per environment step; relates the two clocks.
        num_env_steps_before_updates: Environment steps after the switch before the first update, in
            which the frozen policy fills the buffer (5,000 is WSRL's warm-up, arXiv 2412.07762).
        smooth_actor: Whether the actor's loss is blended; else it is the target's alone.
        smooth_critic: The same for the critics.
        source_term: ``offline`` (TD3+BC on an offline batch), or ``nothing``, where only the target's
            weight is ramped.
        batches: Where the target's batch comes from: the ``online`` buffer; ``mixed`` with
            ``offline_share`` of offline transitions; or the ``union`` of both, drawn uniformly.
        offline_share: Share of offline transitions in a mixed batch over the clock.
        cloning_weight: Weight of the behaviour-cloning term in the *target's* actor loss over the
            clock.
    """

    schedule: Schedule | None = field(default_factory=hard_switch)
    clock: Clock = "updates"
    num_updates_per_env_step: int = 1
    num_env_steps_before_updates: int = 0
    smooth_actor: bool = True
    smooth_critic: bool = True
    source_term: SourceTerm = "offline"
    batches: Batches = "online"
    offline_share: Schedule = field(default_factory=hard_switch)
    cloning_weight: Schedule = field(default_factory=hard_switch)

    def __post_init__(self) -> None:
        for name, choices in (
            ("clock", Clock),
            ("batches", Batches),
            ("source_term", SourceTerm),
        ):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(unknown_name(name, getattr(self, name), get_args(choices)))
        check_at_least_one("num_updates_per_env_step", self.num_updates_per_env_step)
        check_count("num_env_steps_before_updates", self.num_env_steps_before_updates)

    @property
    def needs_offline_data(self) -> bool:
        """Whether an update may draw offline transitions."""
        smooths = self.schedule is None or not never_smooths(self.schedule)
        return self.batches != "online" or (smooths and self.source_term == "offline")

    def clock_at(self, update: Any) -> Any:
        """What the clock shows at an update (counted from the first one after the switch)."""
        if self.clock == "updates":
            return update
        return self.num_env_steps_before_updates + update // self.num_updates_per_env_step


def offline_objective() -> Objective:
    """TD3+BC on whatever transitions it is given: the offline phase."""
    return Objective(cloning_weight=constant(1.0))
