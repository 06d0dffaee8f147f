"""The methods that are compared: one configuration each, executed by the same training code.

A method differs from the hard switch in its schedule, its source term, a penalty of constant weight, its
initial weights, its learning-rate warm-up, or in what is trained, and in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from segue import schedules
from segue.checks import check_count, check_positive, check_share, unknown_name

__all__ = [
    "METHODS",
    "MethodConfig",
    "ScheduleConfig",
    "build_schedule",
    "make_method",
]

Shape = Literal["hard_switch", "constant", "linear"]
SourceTerm = Literal["nothing", "replay", "logits", "features", "l2sp", "ewc", "replay_and_l2sp"]
Penalty = Literal["none", "l2sp", "ewc", "logits"]
Initialization = Literal["source", "fresh_head"]


@dataclass(frozen=True)
class ScheduleConfig:
    """A schedule by name.

    Attributes:
        shape: ``hard_switch``, ``constant`` (at ``initial_weight``) or ``linear``.
        num_smoothing_steps: K in optimizer steps; 0 where the shape has none.
        initial_weight: Weight at the switch.
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
    """What a method does at the switch and after it.

    Attributes:
        name: Name in tables.
        schedule: Source weight over optimizer steps.
        source_term: What stands for the source under that weight. ``logits`` and ``features`` distil
            the source model on the target batch, ``nothing`` ramps the target's weight alone.
        penalty: Added to the target loss at every step, at a constant weight.
        scale: Factor on the term or penalty that has one; tuned within the budget. For ``wise_ft``
            nothing.
        num_bank_examples: Replay bank.
        replay_batch_size: Source examples per step.
        initialization: Weights at the first target step.
        num_warmup_steps: Steps over which the learning rate rises linearly from 0.
        num_head_first_steps: Steps during which only the head is trained (LP-FT).
        trains_head_only: The backbone stays as it was.
        wise_share: Share of the trained weights in the average with the source's at the end (WiSE-FT);
            1 averages nothing.
    """

    name: str
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    source_term: SourceTerm = "replay"
    penalty: Penalty = "none"
    scale: float = 1.0
    num_bank_examples: int = 256
    replay_batch_size: int = 32
    initialization: Initialization = "source"
    num_warmup_steps: int = 0
    num_head_first_steps: int = 0
    trains_head_only: bool = False
    wise_share: float = 1.0

    def __post_init__(self) -> None:
        for name, choices in (
            ("source_term", SourceTerm),
            ("penalty", Penalty),
            ("initialization", Initialization),
        ):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(unknown_name(name, getattr(self, name), get_args(choices)))
        for name in ("num_warmup_steps", "num_head_first_steps"):
            check_count(name, getattr(self, name))
        check_positive("scale", self.scale)
        check_share("wise_share", self.wise_share, 1.0)
        if self.replay_batch_size > self.num_bank_examples:
            raise ValueError(
                f"replay_batch_size must be <= num_bank_examples ({self.num_bank_examples}), "
                f"got {self.replay_batch_size}"
            )

    @property
    def ramps(self) -> bool:
        """Whether a source term has any weight."""
        return self.schedule.shape != "hard_switch"

    @property
    def needs_source_data(self) -> bool:
        """Whether source examples are needed after the switch."""
        return self.ramps and self.source_term in ("replay", "replay_and_l2sp")

    @property
    def needs_fisher(self) -> bool:
        """Whether somebody must have taken the Fisher on source data."""
        return self.penalty == "ewc" or (self.ramps and self.source_term == "ewc")

    @property
    def has_scale(self) -> bool:
        """Whether ``scale`` matters and is tuned."""
        scaled = ("logits", "features", "l2sp", "ewc", "replay_and_l2sp")
        return self.penalty != "none" or (self.ramps and self.source_term in scaled)


def build_schedule(config: ScheduleConfig) -> schedules.Schedule:
    """Return the schedule that ``config`` names."""
    if config.shape == "hard_switch":
        return schedules.hard_switch()
    if config.shape == "constant":
        return schedules.constant(config.initial_weight)
    return schedules.linear_decay(config.num_smoothing_steps, initial_weight=config.initial_weight)


def _ramp(term: SourceTerm) -> Callable[[int, int], MethodConfig]:
    return lambda k, n: MethodConfig("", ScheduleConfig("linear", k), term)


METHODS: dict[str, Callable[[int, int], MethodConfig]] = {
    "hard_switch": lambda k, n: MethodConfig(""),
    "smoothing": _ramp("replay"),
    "smoothing_replay_l2sp": _ramp("replay_and_l2sp"),
    "smoothing_logits": _ramp("logits"),
    "smoothing_features": _ramp("features"),
    "smoothing_l2sp": _ramp("l2sp"),
    "smoothing_ewc": _ramp("ewc"),
    "target_ramp": _ramp("nothing"),
    "constant_mix": lambda k, n: MethodConfig("", ScheduleConfig("constant", initial_weight=0.5)),
    "lr_warmup": lambda k, n: MethodConfig("", num_warmup_steps=k),
    "fresh_head": lambda k, n: MethodConfig("", initialization="fresh_head"),
    "head_first": lambda k, n: MethodConfig(
        "", initialization="fresh_head", num_head_first_steps=n // 5
    ),
    "wise_ft": lambda k, n: MethodConfig("", wise_share=0.5),
    "l2sp": lambda k, n: MethodConfig("", penalty="l2sp"),
    "ewc": lambda k, n: MethodConfig("", penalty="ewc"),
    "lwf": lambda k, n: MethodConfig("", penalty="logits"),
    "frozen_backbone": lambda k, n: MethodConfig("", trains_head_only=True),
}
"""Name → method, given K (smoothing steps) and the number of target steps."""


def make_method(
    name: str, *, num_smoothing_steps: int, num_target_steps: int, scale: float = 1.0
) -> MethodConfig:
    """Return the named method with ramps of K optimizer steps.

    Raises:
        ValueError: If the name is unknown, or K is negative or above ``num_target_steps``.

    >>> make_method("smoothing", num_smoothing_steps=25, num_target_steps=100).schedule.shape
    'linear'
    """
    if name not in METHODS:
        raise ValueError(unknown_name("method", name, METHODS))
    check_count("num_smoothing_steps", num_smoothing_steps)
    if num_smoothing_steps > num_target_steps:
        raise ValueError(
            f"num_smoothing_steps must be <= num_target_steps ({num_target_steps}), "
            f"got {num_smoothing_steps}"
        )
    method = METHODS[name](num_smoothing_steps, num_target_steps)
    return replace(method, name=name, scale=scale if method.has_scale else 1.0)
