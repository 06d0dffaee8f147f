"""The methods that are compared: one configuration each, executed by the same training code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from segue import schedules
from segue.checks import check_count, check_not_negative, check_share, unknown_name

__all__ = ["METHODS", "MethodConfig", "ScheduleConfig", "build_schedule", "make_method"]

Shape = Literal["hard_switch", "constant", "linear", "cosine", "sigmoid"]
SourceTerm = Literal["replay", "nothing", "anchor"]
Mode = Literal["mix", "mixed"]


@dataclass(frozen=True)
class ScheduleConfig:
    """A schedule by name.

    Attributes:
        shape: Name of the decay, ``hard_switch``, or ``constant`` (``initial_weight`` throughout).
        num_smoothing_steps: K in optimizer steps; 0 where the shape has none.
        initial_weight: Source weight at the switch.
    """

    shape: Shape = "hard_switch"
    num_smoothing_steps: int = 0
    initial_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ValueError(unknown_name("schedule shape", self.shape, get_args(Shape)))
        check_count("num_smoothing_steps", self.num_smoothing_steps)
        check_share("initial_weight", self.initial_weight, 1.0)


@dataclass(frozen=True)
class MethodConfig:
    """What a method does at the switch and during the ramp.

    Attributes:
        name: Name in tables.
        schedule: Source weight over optimizer steps.
        source_term: ``replay``; ``nothing`` where only the target's weight is ramped; ``anchor``
            where the weights at the switch stand for the source.
        mode: ``mix`` (a source batch beside the target's) or ``mixed`` (a share of the batch).
        num_bank_examples: Sequences in the replay bank; None keeps the whole source text.
        replay_batch_size: Source sequences per step (not used by the mixed mode).
        num_warmup_steps: Steps over which the learning rate rises linearly from 0.
        l2sp_scale: Factor of the constant penalty β/2·‖w − w_source‖² (L2-SP); 0 is none.
        anchor_scale: The same factor where the anchor is the source term.
        lora_rank: Rank of the low-rank updates that are trained instead of the weights; 0 is none.
    """

    name: str
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    source_term: SourceTerm = "replay"
    mode: Mode = "mix"
    num_bank_examples: int | None = 256
    replay_batch_size: int = 8
    num_warmup_steps: int = 0
    l2sp_scale: float = 0.0
    anchor_scale: float = 0.0
    lora_rank: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("source_term", SourceTerm), ("mode", Mode)):
            value = getattr(self, name)
            if value not in get_args(choices):
                raise ValueError(unknown_name(name, value, get_args(choices)))
        for name in ("num_warmup_steps", "lora_rank"):
            check_count(name, getattr(self, name))
        for name in ("l2sp_scale", "anchor_scale"):
            check_not_negative(name, getattr(self, name))
        if self.source_term == "anchor" and self.anchor_scale == 0.0:
            raise ValueError("anchor_scale must be positive where the source term is an anchor")
        if self.mode == "mixed" and self.source_term != "replay":
            raise ValueError(
                f"mode 'mixed' must have replay as source_term, got {self.source_term!r}"
            )
        if self.num_bank_examples is not None and self.num_bank_examples < self.replay_batch_size:
            raise ValueError(
                f"replay_batch_size must be <= num_bank_examples ({self.num_bank_examples}), "
                f"got {self.replay_batch_size}"
            )

    @property
    def uses_source_data(self) -> bool:
        """Whether source text is needed after the switch."""
        return self.source_term == "replay" and self.schedule.shape != "hard_switch"

    def num_replayed(self, num_target_steps: int, batch_size: int) -> int:
        """Source sequences of a run in ``mix`` mode; in ``mixed`` mode they replace target ones."""
        if not self.uses_source_data or self.mode == "mixed":
            return 0
        ramp = self.schedule.num_smoothing_steps
        steps = num_target_steps if self.schedule.shape == "constant" else ramp
        return min(steps, num_target_steps) * self.replay_batch_size


def build_schedule(config: ScheduleConfig) -> schedules.Schedule:
    """Return the schedule that ``config`` names."""
    if config.shape == "hard_switch":
        return schedules.hard_switch()
    if config.shape == "constant":
        return schedules.constant(config.initial_weight)
    decay: Callable[..., schedules.Schedule] = getattr(schedules, f"{config.shape}_decay")
    return decay(config.num_smoothing_steps, initial_weight=config.initial_weight)


def _linear(num_steps: int) -> ScheduleConfig:
    return ScheduleConfig("linear", num_steps)


def _replayed(percent: int) -> Callable[[int], MethodConfig]:
    share = ScheduleConfig("constant", initial_weight=percent / 100)
    return lambda k: MethodConfig(f"replay_{percent}_percent", share, mode="mixed")


_RANK = 8

METHODS: dict[str, Callable[[int], MethodConfig]] = {
    "hard_switch": lambda k: MethodConfig("hard_switch"),
    "smoothing": lambda k: MethodConfig("smoothing", _linear(k)),
    "constant_replay": lambda k: MethodConfig(
        "constant_replay", ScheduleConfig("constant", initial_weight=0.25)
    ),
    "smoothing_mixed": lambda k: MethodConfig("smoothing_mixed", _linear(k), mode="mixed"),
    "replay_5_percent": _replayed(5),
    "replay_25_percent": _replayed(25),
    "replay_50_percent": _replayed(50),
    "lr_warmup": lambda k: MethodConfig("lr_warmup", num_warmup_steps=k),
    "target_ramp": lambda k: MethodConfig("target_ramp", _linear(k), source_term="nothing"),
    "l2sp": lambda k: MethodConfig("l2sp", l2sp_scale=0.1),
    "lora": lambda k: MethodConfig("lora", lora_rank=_RANK),
    "lora_smoothing": lambda k: MethodConfig("lora_smoothing", _linear(k), lora_rank=_RANK),
    "recadam_anneal": lambda k: MethodConfig(
        "recadam_anneal", ScheduleConfig("sigmoid", k), source_term="anchor", anchor_scale=1.0
    ),
}
"""Name → method, given K (smoothing steps)."""


def make_method(name: str, *, num_smoothing_steps: int) -> MethodConfig:
    """Return the named method with ramps of K optimizer steps.

    Raises:
        ValueError: If the name is unknown, or K is negative.

    >>> make_method("smoothing", num_smoothing_steps=40).schedule.num_smoothing_steps
    40
    """
    if name not in METHODS:
        raise ValueError(unknown_name("method", name, METHODS))
    return METHODS[name](check_count("num_smoothing_steps", num_smoothing_steps))
