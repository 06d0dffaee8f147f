"""Grids: tuning, verdicts, controls. What is run may depend on what was found before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from segue.analysis.selection import choose_baseline, choose_settings
from segue.experiments.supervised.setting import Setting
from segue.experiments.supervised.shifts import SHIFTS
from segue.runs.grid import RunConfig
from segue.runs.records import Record

__all__ = [
    "COMPARED", "FRESH_SEEDS", "LEARNING_RATES", "TUNING_SEEDS", "Grid", "best_baselines",
    "chosen_rates", "equal_compute", "one_rate", "other_methods", "tuning", "verdicts",
]  # fmt: skip

FRESH_SEEDS = tuple(range(10))
"""Seeds of the verdicts; nothing is chosen on them."""
TUNING_SEEDS = (1000, 1001)
"""Seeds on which learning rates and the best baseline are chosen, by validation accuracy."""
LEARNING_RATES = (0.00125, 0.005, 0.02, 0.08)
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
Grid = Callable[[Sequence[Record]], list[RunConfig]]
"""Runs, given the records of the phases before."""

_CHOSEN_BY = ("shift.name", "method.name")
_TUNED = ("optimizer.learning_rate",)


def one_rate(
    setting: Setting,
    shifts: Iterable[str],
    methods: Iterable[str],
    seeds: Iterable[int],
    learning_rate: float,
) -> list[RunConfig]:
    """All methods on all shifts and seeds, at one learning rate."""
    return [
        setting.adaptation(shift, method, seed, learning_rate)
        for seed in seeds
        for shift in shifts
        for method in methods
    ]


def tuning(setting: Setting, shifts: Iterable[str] = tuple(SHIFTS)) -> Grid:
    """Every method at every learning rate on the tuning seeds, measured on validation images."""

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        return [
            setting.adaptation(shift, method, seed, rate, split="validation")
            for seed in TUNING_SEEDS
            for shift in shifts
            for method in COMPARED
            for rate in LEARNING_RATES
        ]

    return configs


def verdicts(
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


def other_methods(setting: Setting, *, tuned_at: Setting | None = None) -> Grid:
    """Every method that has no verdict, at its chosen rate, on six fresh seeds."""

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        tuned = tuned_at or setting
        rates, best = chosen_rates(records, tuned), best_baselines(records, tuned)
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


def equal_compute(setting: Setting) -> Grid:
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
