"""Presets of the supervised family: which grids ``segue run supervised`` and the demo execute."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from segue.analysis.selection import choose_baseline, choose_settings
from segue.experiments.families import Phase, Preset
from segue.experiments.supervised.config import AdaptationConfig, OptimizerConfig, SourceConfig
from segue.experiments.supervised.data import find_cifar10
from segue.experiments.supervised.loop import seconds_per_example
from segue.experiments.supervised.methods import MethodConfig, make_method
from segue.experiments.supervised.models import ResNetConfig, build_model, resnet18
from segue.experiments.supervised.shifts import SHIFTS, ShiftConfig
from segue.runs.grid import RunConfig
from segue.runs.records import Record

__all__ = ["PRESETS"]

FRESH_SEEDS = tuple(range(10))
"""Seeds of the verdicts; nothing is chosen on them."""
TUNING_SEEDS = (1000, 1001)
"""Seeds on which learning rates and the best baseline are chosen, by validation accuracy."""

Grid = Callable[[Sequence[Record]], list[RunConfig]]


@dataclass(frozen=True)
class Setting:
    """What a comparison holds fixed: data, network, budget and the share of it that is smoothed."""

    dataset: str
    model: ResNetConfig
    num_source_steps: dict[str, int]
    num_target_examples: int
    num_target_steps: int
    num_smoothing_steps: int
    batch_size: int = 64
    source_learning_rate: float = 0.1
    augment: bool = True

    def adaptation(
        self, shift: str, method: str | MethodConfig, seed: int, learning_rate: float, **other: Any
    ) -> AdaptationConfig:
        """One run; ``other`` overrides fields of the configuration."""
        if isinstance(method, str):
            method = make_method(
                method,
                num_smoothing_steps=self.num_smoothing_steps,
                num_target_steps=self.num_target_steps,
            )
        task = SHIFTS[shift].source_task
        source = SourceConfig(
            dataset=self.dataset,  # type: ignore[arg-type]
            source_task=task,
            model=other.pop("model", self.model),
            seed=seed,
            num_training_steps=self.num_source_steps.get(task, self.num_source_steps["all"]),
            batch_size=self.batch_size,
            optimizer=OptimizerConfig(learning_rate=self.source_learning_rate),
            augment=self.augment and task != "random_labels",  # what is memorised must recur
        )
        settings: dict[str, Any] = {
            "num_target_examples": self.num_target_examples,
            "num_target_steps": self.num_target_steps,
            "batch_size": self.batch_size,
            "optimizer": OptimizerConfig(learning_rate=learning_rate),
            **other,
        }
        return AdaptationConfig(
            shift=ShiftConfig(shift), source=source, method=method, seed=seed, **settings
        )


_CIFAR_MODEL = ResNetConfig(
    in_channels=3,
    num_classes=10,
    widths=(40, 80, 160),
    stem_width=24,
    stem_stride=2,
    first_stride=2,
    norm="group",
)
_DIGITS_MODEL = ResNetConfig(
    in_channels=1, num_classes=10, widths=(16, 32), stem_width=8, stem_stride=1, first_stride=2
)


_DIGITS = Setting(
    dataset="digits",
    model=_DIGITS_MODEL,
    num_source_steps={"all": 200},
    num_target_examples=100,
    num_target_steps=120,
    num_smoothing_steps=30,
    batch_size=32,
    augment=False,
)
_QUICK = Setting(
    dataset="cifar10",
    model=_CIFAR_MODEL,
    num_source_steps={"all": 600, "first_half_classes": 400},
    num_target_examples=1_000,
    num_target_steps=120,
    num_smoothing_steps=30,
)
_SOURCE_STEPS = {
    "all": 5_000,
    "first_half_classes": 2_500,
    "random_labels": 2_000,
    "half_data": 4_500,
}
SHORT = Setting(
    dataset="cifar10",
    model=_CIFAR_MODEL,
    num_source_steps=_SOURCE_STEPS,
    num_target_examples=1_000,
    num_target_steps=300,
    num_smoothing_steps=75,
)
LONG = replace(SHORT, num_target_examples=5_000, num_target_steps=1_200, num_smoothing_steps=300)
_PAPER = replace(
    LONG,
    model=resnet18(),
    num_source_steps={"all": 35_000},
    num_target_examples=11_000,
    num_target_steps=8_000,
    num_smoothing_steps=2_000,
    batch_size=128,
)
BUDGETS = {"short": SHORT, "long": LONG}

LEARNING_RATES = (0.005, 0.02, 0.08)
COMPARED = (
    "hard_switch",
    "smoothing",
    "constant_mix_throughout",
    "target_ramp",
    "lr_warmup",
    "fresh_head",
    "fresh_head_smoothing",
    "l2sp",
    "head_first",
    "from_scratch",
)
"""Methods of the standard preset; each has its learning rate chosen in as many trials."""

_CHOSEN_BY = ("shift.name", "method.name")
_TUNED = ("optimizer.learning_rate",)


def _grid(
    setting: Setting,
    shifts: Iterable[str],
    methods: Iterable[str],
    seeds: Iterable[int],
    learning_rate: float,
) -> list[RunConfig]:
    return [
        setting.adaptation(shift, method, seed, learning_rate)
        for seed in seeds
        for shift in shifts
        for method in methods
    ]


def _tuning(setting: Setting, shifts: Iterable[str] = tuple(SHIFTS)) -> Grid:
    def configs(records: Sequence[Record]) -> list[RunConfig]:
        return [
            setting.adaptation(shift, method, seed, rate, split="validation")
            for seed in TUNING_SEEDS
            for shift in shifts
            for method in COMPARED
            for rate in LEARNING_RATES
        ]

    return configs


def _verdicts(
    setting: Setting, shifts: Iterable[str] = tuple(SHIFTS), *, tuned_at: Setting | None = None
) -> Grid:
    """Hard switch, smoothing and the best baseline at their chosen rates, on all fresh seeds."""

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        tuned = tuned_at or setting
        rates, best = chosen_rates(records, tuned), best_baselines(records, tuned)
        return [
            setting.adaptation(shift, method, seed, rates[shift, method])
            for seed in FRESH_SEEDS
            for shift in shifts
            for method in _primary_methods(best.get(shift))
        ]

    return configs


def _other_methods(setting: Setting) -> Grid:
    """Every method that has no verdict, at its chosen rate, on six fresh seeds."""

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        rates, best = chosen_rates(records, setting), best_baselines(records, setting)
        return [
            setting.adaptation(shift, method, seed, rates[shift, method])
            for seed in FRESH_SEEDS[:6]
            for shift in SHIFTS
            for method in COMPARED
            if method not in _primary_methods(best.get(shift))
        ]

    return configs


def _primary_methods(best_baseline: str | None) -> list[str]:
    methods = ["hard_switch", *_SMOOTHING, best_baseline]
    return [method for method in methods if method is not None]


_SMOOTHING = ("smoothing", "fresh_head_smoothing")


def chosen_rates(records: Sequence[Record], setting: Setting) -> dict[tuple[str, str], float]:
    """Return the learning rate chosen on the tuning seeds, by shift and method.

    Without tuning records (as in a dry run) it is the middle one of the rates tried.
    """
    middle = LEARNING_RATES[len(LEARNING_RATES) // 2]
    rates = {(shift, method): middle for shift in SHIFTS for method in COMPARED}
    tuned = _tuned(records, setting)
    choices = choose_settings(tuned, settings=_TUNED, group_by=_CHOSEN_BY) if tuned else []
    for choice in choices:
        if choice.settings is not None:
            key = (choice.group["shift.name"], choice.group["method.name"])
            rates[key] = choice.settings["optimizer.learning_rate"]
    return rates


def best_baselines(records: Sequence[Record], setting: Setting) -> dict[str, str]:
    """Return the method with the best validation accuracy on the tuning seeds, by shift.

    The hard switch and every form of smoothing are left out. Empty without tuning records.
    """
    tuned = _tuned(records, setting)
    excluded = ("hard_switch", *_SMOOTHING)
    choices = choose_baseline(tuned, exclude=excluded, settings=_TUNED) if tuned else []
    return {
        choice.group["shift.name"]: choice.settings["method.name"]
        for choice in choices
        if choice.settings is not None
    }


def _tuned(records: Sequence[Record], setting: Setting) -> list[Record]:
    return [
        record
        for record in records
        if record.kind == "target"
        and record.config["split"] == "validation"
        and record.config["num_target_steps"] == setting.num_target_steps
    ]


def _equal_compute(setting: Setting) -> Grid:
    """The hard switch with as many gradient examples as smoothing has, in more steps."""

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        rates = chosen_rates(records, setting)
        longer = setting.num_target_steps + setting.num_smoothing_steps
        return [
            replace(
                setting.adaptation(shift, "hard_switch", seed, rates[shift, "hard_switch"]),
                num_target_steps=longer,
            )
            for seed in FRESH_SEEDS
            for shift in SHIFTS
        ]

    return configs


_ABLATED_SHIFTS = ("class_split", "contrast")
_ABLATION_SEEDS = FRESH_SEEDS[:6]


def _ablation(vary: Callable[[AdaptationConfig], Iterable[AdaptationConfig]]) -> Grid:
    """Smoothing and the hard switch on two shifts, at the chosen rates, with one thing varied."""

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        rates = chosen_rates(records, SHORT)
        return [
            varied
            for seed in _ABLATION_SEEDS
            for shift in _ABLATED_SHIFTS
            for method in ("hard_switch", "smoothing")
            for varied in vary(LONG.adaptation(shift, method, seed, rates[shift, method]))
        ]

    return configs


def _with_schedule(config: AdaptationConfig, **changes: Any) -> AdaptationConfig:
    if config.method.name == "hard_switch":
        return config
    schedule = replace(config.method.schedule, **changes)
    return replace(config, method=replace(config.method, schedule=schedule))


def _vary_k(config: AdaptationConfig) -> Iterable[AdaptationConfig]:
    for num_steps in (30, 150, 300, 600):
        yield _with_schedule(config, num_smoothing_steps=num_steps)


def _vary_schedule(config: AdaptationConfig) -> Iterable[AdaptationConfig]:
    for shape in ("linear", "cosine", "exponential", "polynomial", "sigmoid"):
        yield _with_schedule(config, shape=shape)


def _vary_bank(config: AdaptationConfig) -> Iterable[AdaptationConfig]:
    for size in (16, 64, 256, 1024, None):
        batch = min(config.method.replay_batch_size, size or config.method.replay_batch_size)
        if config.method.name == "hard_switch":
            yield config
        else:
            yield replace(
                config,
                method=replace(config.method, num_bank_examples=size, replay_batch_size=batch),
            )


def _vary_optimizer(config: AdaptationConfig) -> Iterable[AdaptationConfig]:
    yield config
    yield replace(config, optimizer=OptimizerConfig("adamw", 1e-3, 1e-2))


def _vary_norm(config: AdaptationConfig) -> Iterable[AdaptationConfig]:
    yield config
    model = replace(config.source.model, norm="batch")
    batch = replace(config, source=replace(config.source, model=model))
    yield batch
    if config.method.name != "hard_switch":
        yield replace(batch, batch_norm="target_only")
        yield replace(batch, batch_norm="frozen_source")


def _vary_target_examples(config: AdaptationConfig) -> Iterable[AdaptationConfig]:
    for number in (250, 1_000, 5_000):
        yield replace(config, num_target_examples=number)


_SHORT_PHASES = (
    Phase("tuning", _tuning(SHORT)),
    Phase("verdicts", _verdicts(SHORT)),
    Phase("equal compute", _equal_compute(SHORT)),
)
# Tuning anew at the long budget would take longer than all the rest: its rates are the short one's.
_LONG_VERDICTS = Phase("verdicts, long", _verdicts(LONG, tuned_at=SHORT))


def _ablation_preset(
    what: str, vary: Callable[[AdaptationConfig], Iterable[AdaptationConfig]]
) -> Preset:
    phases = (Phase("tuning", _tuning(SHORT, _ABLATED_SHIFTS)), Phase(what, _ablation(vary)))
    description = f"{what}, on {' and '.join(_ABLATED_SHIFTS)}"
    return Preset(description, phases, find_cifar10, _seconds_per_cost)


def _seconds_per_cost(config: SourceConfig | AdaptationConfig) -> float:
    source = config if isinstance(config, SourceConfig) else config.source
    return _seconds_per_example(source.model, 8 if source.dataset == "digits" else 32)


@functools.cache
def _seconds_per_example(model: ResNetConfig, width: int) -> float:
    return seconds_per_example(build_model(model, seed=0), (model.in_channels, width, width))


_DEMO_METHODS = (
    "hard_switch", "smoothing", "smoothing_mixed", "constant_mix", "target_ramp", "lr_warmup",
    "fresh_head", "fresh_head_smoothing", "from_scratch",
)  # fmt: skip
_THREE_SHIFTS = ("class_split", "gaussian_noise", "label_permutation")

PRESETS: dict[str, Preset] = {
    "demo": Preset(
        "digits: three shifts, nine methods, seven seeds; one learning rate for all",
        (
            Phase(
                "demo", lambda records: _grid(_DIGITS, _THREE_SHIFTS, _DEMO_METHODS, range(7), 0.05)
            ),
        ),
        seconds_per_cost=_seconds_per_cost,
    ),
    "quick": Preset(
        "CIFAR-10: three shifts, five methods, two seeds, short training; no verdicts",
        (
            Phase(
                "quick",
                lambda records: _grid(
                    _QUICK,
                    _THREE_SHIFTS,
                    ("hard_switch", "smoothing", "smoothing_mixed", "target_ramp", "fresh_head"),
                    range(2),
                    0.05,
                ),
            ),
        ),
        find_cifar10,
        _seconds_per_cost,
    ),
    "short": Preset(
        "CIFAR-10: nine shifts at 300 target steps and 1,000 target examples, ten seeds",
        _SHORT_PHASES,
        find_cifar10,
        _seconds_per_cost,
    ),
    "long": Preset(
        "CIFAR-10: nine shifts at 1,200 target steps and 5,000 target examples, ten seeds",
        (_SHORT_PHASES[0], _LONG_VERDICTS),
        find_cifar10,
        _seconds_per_cost,
    ),
    "standard": Preset(
        "CIFAR-10: nine shifts at both budgets, ten seeds",
        (*_SHORT_PHASES, _LONG_VERDICTS),
        find_cifar10,
        _seconds_per_cost,
    ),
    "other-methods": Preset(
        "CIFAR-10: every other method at 300 target steps, six seeds",
        (_SHORT_PHASES[0], Phase("other methods", _other_methods(SHORT))),
        find_cifar10,
        _seconds_per_cost,
    ),
    "paper": Preset(
        "ResNet-18 on CIFAR-10, long training: for a GPU",
        (
            Phase("tuning", _tuning(_PAPER, _THREE_SHIFTS)),
            Phase("verdicts", _verdicts(_PAPER, _THREE_SHIFTS)),
        ),
        find_cifar10,
        _seconds_per_cost,
    ),
    "ablate-k": _ablation_preset("number of smoothing steps", _vary_k),
    "ablate-schedule": _ablation_preset("shape of the schedule", _vary_schedule),
    "ablate-bank": _ablation_preset("size of the replay bank", _vary_bank),
    "ablate-optimizer": _ablation_preset("SGD and AdamW", _vary_optimizer),
    "ablate-norm": _ablation_preset("group norm and batch norm, with its policies", _vary_norm),
    "ablate-target-examples": _ablation_preset("number of target examples", _vary_target_examples),
}
"""Presets by name."""
