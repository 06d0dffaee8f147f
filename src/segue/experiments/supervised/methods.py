"""The methods that are compared: one configuration each, executed by the same training code.

A method differs from the hard switch in its schedule, its source term, its initial weights, its
learning-rate warm-up or in what is frozen at first, and in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from segue import schedules
from segue.checks import check_count, check_not_negative, check_share, unknown_name

__all__ = [
    "METHODS",
    "MethodConfig",
    "ScheduleConfig",
    "build_schedule",
    "make_method",
]

Shape = Literal[
    "hard_switch", "constant", "constant_then_target", "linear", "cosine", "exponential",
    "polynomial", "sigmoid",
]  # fmt: skip
SourceTerm = Literal["replay", "nothing"]
Mode = Literal["mix", "joint", "mixed", "backward"]
Initialization = Literal["source", "fresh_head", "scratch", "shrink_and_perturb"]


@dataclass(frozen=True)
class ScheduleConfig:
    """A schedule by name.

    Attributes:
        shape: Name of the decay, ``hard_switch``, ``constant``, or ``constant_then_target``
            (``initial_weight`` for ``num_smoothing_steps``, then 0).
        num_smoothing_steps: K in optimizer steps; 0 where the shape has none.
        initial_weight: Weight at the switch.
        final_weight: Floor of a decay.
    """

    shape: Shape = "hard_switch"
    num_smoothing_steps: int = 0
    initial_weight: float = 1.0
    final_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ValueError(unknown_name("schedule shape", self.shape, get_args(Shape)))
        check_count("num_smoothing_steps", self.num_smoothing_steps)
        check_share("initial_weight", self.initial_weight, 1.0)
        check_share("final_weight", self.final_weight, self.initial_weight, "initial_weight")


@dataclass(frozen=True)
class MethodConfig:
    """What a method does at the switch and during the ramp.

    Attributes:
        name: Name in tables.
        schedule: Source weight over optimizer steps.
        source_term: ``replay``, or ``nothing`` where only the target's weight is ramped.
        mode: How both losses are executed, see :class:`segue.Smoothing`.
        num_bank_examples: Replay bank; None keeps the whole source set.
        replay_batch_size: Source examples per step (not used by the mixed mode).
        initialization: Weights at the first target step.
        num_warmup_steps: Steps over which the learning rate rises linearly from 0.
        num_head_first_steps: Steps during which only the head is trained (LP-FT).
        num_unfreezing_steps: Steps over which blocks are unfrozen one by one, head first.
        l2sp_scale: Factor β of the constant penalty β/2·‖w − w_source‖² on all but the head (L2-SP).
        sam_radius: Radius of sharpness-aware minimisation; 0 is none.
    """

    name: str
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    source_term: SourceTerm = "replay"
    mode: Mode = "mix"
    num_bank_examples: int | None = 256
    replay_batch_size: int = 64
    initialization: Initialization = "source"
    num_warmup_steps: int = 0
    num_head_first_steps: int = 0
    num_unfreezing_steps: int = 0
    l2sp_scale: float = 0.0
    sam_radius: float = 0.0

    def __post_init__(self) -> None:
        for name, choices in (
            ("source_term", SourceTerm),
            ("mode", Mode),
            ("initialization", Initialization),
        ):
            value = getattr(self, name)
            if value not in get_args(choices):
                raise ValueError(unknown_name(name, value, get_args(choices)))
        for name in ("num_warmup_steps", "num_head_first_steps", "num_unfreezing_steps"):
            check_count(name, getattr(self, name))
        for name in ("l2sp_scale", "sam_radius"):
            check_not_negative(name, getattr(self, name))
        if self.num_bank_examples is not None and self.num_bank_examples < self.replay_batch_size:
            raise ValueError(
                f"replay_batch_size must be <= num_bank_examples ({self.num_bank_examples}), "
                f"got {self.replay_batch_size}"
            )

    @property
    def uses_source_data(self) -> bool:
        """Whether source examples are needed after the switch."""
        return self.source_term == "replay" and self.schedule.shape != "hard_switch"


def build_schedule(config: ScheduleConfig) -> schedules.Schedule:
    """Return the schedule that ``config`` names."""
    num_steps, initial = config.num_smoothing_steps, config.initial_weight
    if config.shape == "hard_switch":
        return schedules.hard_switch()
    if config.shape == "constant":
        return schedules.constant(initial)
    if config.shape == "constant_then_target":
        if num_steps == 0:
            return schedules.hard_switch()
        parts = [schedules.constant(initial), schedules.hard_switch()]
        return schedules.join(parts, [num_steps])
    decay: Callable[..., schedules.Schedule] = getattr(schedules, f"{config.shape}_decay")
    return decay(num_steps, initial_weight=initial, final_weight=config.final_weight)


def _linear(num_steps: int) -> ScheduleConfig:
    return ScheduleConfig("linear", num_steps)


METHODS: dict[str, Callable[[int, int], MethodConfig]] = {
    "hard_switch": lambda k, n: MethodConfig("hard_switch"),
    "smoothing": lambda k, n: MethodConfig("smoothing", _linear(k)),
    "smoothing_mixed": lambda k, n: MethodConfig("smoothing_mixed", _linear(k), mode="mixed"),
    "smoothing_floor": lambda k, n: MethodConfig(
        "smoothing_floor", ScheduleConfig("linear", k, final_weight=0.2)
    ),
    "constant_mix": lambda k, n: MethodConfig(
        "constant_mix", ScheduleConfig("constant_then_target", k, initial_weight=0.5)
    ),
    "constant_mix_throughout": lambda k, n: MethodConfig(
        "constant_mix_throughout", ScheduleConfig("constant", initial_weight=0.5)
    ),
    "target_ramp": lambda k, n: MethodConfig("target_ramp", _linear(k), source_term="nothing"),
    "lr_warmup": lambda k, n: MethodConfig("lr_warmup", num_warmup_steps=k),
    "fresh_head": lambda k, n: MethodConfig("fresh_head", initialization="fresh_head"),
    "fresh_head_smoothing": lambda k, n: MethodConfig(
        "fresh_head_smoothing", _linear(k), initialization="fresh_head"
    ),
    "fresh_head_target_ramp": lambda k, n: MethodConfig(
        "fresh_head_target_ramp", _linear(k), source_term="nothing", initialization="fresh_head"
    ),
    "from_scratch": lambda k, n: MethodConfig("from_scratch", initialization="scratch"),
    "l2sp": lambda k, n: MethodConfig("l2sp", l2sp_scale=0.01),
    "head_first": lambda k, n: MethodConfig(
        "head_first", initialization="fresh_head", num_head_first_steps=n // 5
    ),
    "shrink_and_perturb": lambda k, n: MethodConfig(
        "shrink_and_perturb", initialization="shrink_and_perturb"
    ),
    "gradual_unfreezing": lambda k, n: MethodConfig("gradual_unfreezing", num_unfreezing_steps=k),
    "sam": lambda k, n: MethodConfig("sam", sam_radius=0.05),
}
"""Name → method, given K (smoothing steps) and the number of target steps."""


def make_method(name: str, *, num_smoothing_steps: int, num_target_steps: int) -> MethodConfig:
    """Return the named method with ramps of K optimizer steps.

    Raises:
        ValueError: If the name is unknown, or K is negative or above ``num_target_steps``.

    >>> method = make_method("smoothing", num_smoothing_steps=300, num_target_steps=1200)
    >>> method.schedule.num_smoothing_steps
    300
    """
    if name not in METHODS:
        raise ValueError(unknown_name("method", name, METHODS))
    check_count("num_smoothing_steps", num_smoothing_steps)
    if num_smoothing_steps > num_target_steps:
        raise ValueError(
            f"num_smoothing_steps must be <= num_target_steps ({num_target_steps}), "
            f"got {num_smoothing_steps}"
        )
    return METHODS[name](num_smoothing_steps, num_target_steps)
