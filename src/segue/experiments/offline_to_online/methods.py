"""The arms that are compared: one configuration each, executed by the same training code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from segue import schedules
from segue.checks import check_count, check_share, unknown_name

__all__ = ["METHODS", "MethodConfig", "ScheduleConfig", "build_schedule", "make_method"]

Shape = Literal["hard_switch", "constant", "linear", "wait_then_linear", "floor_then_release"]
Initialization = Literal["offline", "scratch"]
ControlName = Literal["clock", "return", "source_loss"]


@dataclass(frozen=True)
class ScheduleConfig:
    """A schedule by name.

    Attributes:
        shape: ``hard_switch`` (0), ``constant`` (``initial_weight``), ``linear``;
            ``wait_then_linear``: ``initial_weight`` for ``num_held_steps``, then linear;
            ``floor_then_release``: linear to ``final_weight``, kept for ``num_held_steps``, then linear
            to 0 in as many steps again.
        num_smoothing_steps: Length K of a ramp, in what the method's clock counts.
        initial_weight: Weight at the switch.
        final_weight: Floor of the first ramp.
        num_held_steps: How long a weight is held.
    """

    shape: Shape = "hard_switch"
    num_smoothing_steps: int = 0
    initial_weight: float = 1.0
    final_weight: float = 0.0
    num_held_steps: int = 0

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ValueError(unknown_name("schedule shape", self.shape, get_args(Shape)))
        check_count("num_smoothing_steps", self.num_smoothing_steps)
        check_count("num_held_steps", self.num_held_steps)
        check_share("initial_weight", self.initial_weight, 1.0)
        check_share("final_weight", self.final_weight, self.initial_weight, "initial_weight")
        if self.shape in ("wait_then_linear", "floor_then_release") and not self.num_held_steps:
            raise ValueError(f"num_held_steps must be >= 1 for {self.shape}, got 0")


@dataclass(frozen=True)
class MethodConfig:
    """What an arm does at the switch and after it.

    Attributes:
        name: Name in tables.
        schedule: Source weight.
        clock: What schedules count: ``updates`` or ``env_steps``.
        smooth_actor: Blend the actor's losses.
        smooth_critic: Blend the critics' losses.
        source_term: ``offline``, or ``nothing`` where only the target's weight is ramped.
        batches: Where the target's batch comes from, see :class:`segue.rl.objective.Objective`.
        offline_share: Share of offline transitions in a mixed batch.
        cloning_weight: Weight of behaviour cloning in the target's actor loss.
        num_env_steps_before_updates: The frozen policy fills the buffer for so long.
        initialization: ``offline`` agent, or ``scratch``.
        num_random_env_steps: Environment steps with random actions first (from scratch).
        reset_optimizers: Forget Adam's moments at the switch.
        layer_norm_critic: In both phases; the offline agent is then another one.
        control: What moves λ: the ``clock``, the training ``return`` against that at the switch, or
            the ``source_loss``.
    """

    name: str
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    clock: Literal["updates", "env_steps"] = "updates"
    smooth_actor: bool = True
    smooth_critic: bool = True
    source_term: Literal["offline", "nothing"] = "offline"
    batches: Literal["online", "mixed", "union"] = "online"
    offline_share: ScheduleConfig = field(default_factory=ScheduleConfig)
    cloning_weight: ScheduleConfig = field(default_factory=ScheduleConfig)
    num_env_steps_before_updates: int = 256
    initialization: Initialization = "offline"
    num_random_env_steps: int = 0
    reset_optimizers: bool = False
    layer_norm_critic: bool = False
    control: ControlName = "clock"

    def __post_init__(self) -> None:
        for name, choices in (("initialization", Initialization), ("control", ControlName)):
            value = getattr(self, name)
            if value not in get_args(choices):
                raise ValueError(unknown_name(name, value, get_args(choices)))
        check_count("num_env_steps_before_updates", self.num_env_steps_before_updates)
        check_count("num_random_env_steps", self.num_random_env_steps)

    @property
    def evaluates_source(self) -> bool:
        """Whether an update may evaluate the source's losses beside the target's."""
        return self.schedule.shape != "hard_switch" and self.source_term == "offline"


def build_schedule(config: ScheduleConfig) -> schedules.Schedule:
    """Return the schedule that ``config`` names."""
    k, held = config.num_smoothing_steps, config.num_held_steps
    first, last = config.initial_weight, config.final_weight
    if config.shape == "hard_switch":
        return schedules.hard_switch()
    if config.shape == "constant":
        return schedules.constant(first)
    ramp = schedules.linear_decay(k, initial_weight=first, final_weight=last)
    if config.shape == "linear":
        return ramp
    if config.shape == "wait_then_linear":
        return schedules.join([schedules.constant(first), ramp], [held])
    release = schedules.linear_decay(held, initial_weight=last)
    return schedules.join([ramp, release], [k + held])


def _linear(num_steps: int, floor: float = 0.0) -> ScheduleConfig:
    return ScheduleConfig("linear", num_steps, final_weight=floor)


_FLOOR = 0.3
_WARMUP_ENV_STEPS = 5_000  # WSRL's
_RANDOM_ENV_STEPS = 1_000
_HALF = ScheduleConfig("constant", initial_weight=0.5)
_ALL = ScheduleConfig("constant", initial_weight=1.0)
_SCRATCH_START = {
    "initialization": "scratch",
    "num_random_env_steps": _RANDOM_ENV_STEPS,
    "num_env_steps_before_updates": _RANDOM_ENV_STEPS,
}

METHODS: dict[str, Callable[[int], MethodConfig]] = {
    "hard_switch": lambda k: MethodConfig("hard_switch"),
    "smoothing": lambda k: MethodConfig("smoothing", _linear(k)),
    "smoothing_half_k": lambda k: MethodConfig("smoothing_half_k", _linear(k // 2)),
    "smoothing_double_k": lambda k: MethodConfig("smoothing_double_k", _linear(2 * k)),
    "smoothing_floor": lambda k: MethodConfig("smoothing_floor", _linear(k, _FLOOR)),
    "smoothing_actor": lambda k: MethodConfig("smoothing_actor", _linear(k), smooth_critic=False),
    "smoothing_critic": lambda k: MethodConfig("smoothing_critic", _linear(k), smooth_actor=False),
    "constant_mix_throughout": lambda k: MethodConfig("constant_mix_throughout", _HALF),
    "offline_throughout": lambda k: MethodConfig("offline_throughout", _ALL),
    "target_ramp": lambda k: MethodConfig("target_ramp", _linear(k), source_term="nothing"),
    "balanced_batches": lambda k: MethodConfig(
        "balanced_batches", batches="mixed", offline_share=_HALF
    ),
    "share_anneal": lambda k: MethodConfig(
        "share_anneal", batches="mixed", offline_share=_linear(k)
    ),
    "cloning_decay": lambda k: MethodConfig("cloning_decay", cloning_weight=_linear(k)),
    "cloning_throughout": lambda k: MethodConfig("cloning_throughout", cloning_weight=_ALL),
    "policy_warmup": lambda k: MethodConfig(
        "policy_warmup", num_env_steps_before_updates=_WARMUP_ENV_STEPS
    ),
    # The actor's loss has no weight for K updates, and all of it from then on.
    "critics_first": lambda k: MethodConfig(
        "critics_first",
        ScheduleConfig("wait_then_linear", 1, num_held_steps=k),
        smooth_critic=False,
        source_term="nothing",
    ),
    "reset_optimizers": lambda k: MethodConfig("reset_optimizers", reset_optimizers=True),
    "from_scratch": lambda k: MethodConfig("from_scratch", **_SCRATCH_START),  # type: ignore[arg-type]
    "from_scratch_with_offline_data": lambda k: MethodConfig(
        "from_scratch_with_offline_data",
        batches="union",
        **_SCRATCH_START,  # type: ignore[arg-type]
    ),
    "hard_switch_layer_norm": lambda k: MethodConfig(
        "hard_switch_layer_norm", layer_norm_critic=True
    ),
    "smoothing_layer_norm": lambda k: MethodConfig(
        "smoothing_layer_norm", _linear(k), layer_norm_critic=True
    ),
    "smoothing_floor_layer_norm": lambda k: MethodConfig(
        "smoothing_floor_layer_norm", _linear(k, _FLOOR), layer_norm_critic=True
    ),
    "smoothing_waits_for_buffer": lambda k: MethodConfig(
        "smoothing_waits_for_buffer", ScheduleConfig("wait_then_linear", k, num_held_steps=k)
    ),
    "smoothing_floor_released": lambda k: MethodConfig(
        "smoothing_floor_released",
        ScheduleConfig("floor_then_release", k, final_weight=_FLOOR, num_held_steps=k),
    ),
    "smoothing_by_return": lambda k: MethodConfig(
        "smoothing_by_return", _linear(k), control="return"
    ),
    "smoothing_by_source_loss": lambda k: MethodConfig(
        "smoothing_by_source_loss", _linear(k), control="source_loss"
    ),
}
"""Name → method, given K in updates, of which there is one per environment step."""


def make_method(name: str, *, num_smoothing_steps: int) -> MethodConfig:
    """Return the named method with ramps of K updates.

    Raises:
        ValueError: If the name is unknown or K is below 2.

    >>> make_method("smoothing_floor", num_smoothing_steps=10_000).schedule.final_weight
    0.3
    """
    if name not in METHODS:
        raise ValueError(unknown_name("method", name, METHODS))
    if check_count("num_smoothing_steps", num_smoothing_steps) < 2:
        raise ValueError(f"num_smoothing_steps must be >= 2, got {num_smoothing_steps}")
    return METHODS[name](num_smoothing_steps)
