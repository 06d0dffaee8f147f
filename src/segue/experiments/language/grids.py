"""Grids: tuning, verdicts, equal compute. What is run may depend on what was found before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from segue.analysis.selection import choose_settings
from segue.experiments.language.config import FineTuningConfig
from segue.experiments.language.corpus import TARGETS
from segue.experiments.language.methods import METHODS
from segue.experiments.language.setting import Setting
from segue.runs.grid import RunConfig
from segue.runs.records import Record

__all__ = [
    "COMPARED", "FRESH_SEEDS", "JUDGED_METHODS", "LEARNING_RATES", "OTHER_METHODS", "TUNING_SEEDS", "Grid",
    "chosen_rates", "equal_compute", "judged", "one_rate", "tuning", "verdicts",
]  # fmt: skip

FRESH_SEEDS = tuple(range(10))
"""Seeds of the verdicts; nothing is chosen on them."""
TUNING_SEEDS = (1000, 1001)
"""Seeds on which learning rates are chosen, by the loss on the target's validation part."""
LEARNING_RATES = (1e-3, 2.5e-3, 6e-3, 1.5e-2)
COMPARED = ("hard_switch", "smoothing", "constant_replay")
"""Methods of the standard preset, at every budget."""
OTHER_METHODS = tuple(name for name in METHODS if name not in COMPARED)
JUDGED_METHODS = ("hard_switch", "smoothing")
"""Methods whose answers are compared by the judge: the first is the reference."""
Grid = Callable[[Sequence[Record]], list[RunConfig]]
"""Runs, given the records of the phases before."""
Cell = tuple[str, int, str]
"""Target, pretraining budget in steps, method."""


def _cells(setting: Setting, budgets: Iterable[int], methods: Iterable[str]) -> list[Cell]:
    return [(t, b, m) for t in TARGETS for b in budgets for m in methods]


def one_rate(
    setting: Setting, methods: Iterable[str], seeds: Iterable[int], learning_rate: float
) -> list[RunConfig]:
    """All methods on all targets, budgets and seeds, at one learning rate."""
    cells = _cells(setting, setting.budgets, tuple(methods))
    return [setting.fine_tuning(*cell, seed, learning_rate) for seed in seeds for cell in cells]


def judged(setting: Setting, target: str, learning_rate: float) -> list[RunConfig]:
    """A hard switch and smoothing of one seed that keep their weights, to answer prompts with."""
    return [
        setting.fine_tuning(
            target, setting.budgets[-1], method, FRESH_SEEDS[0], learning_rate, keep_weights=True
        )
        for method in JUDGED_METHODS
    ]


def tuning(setting: Setting, budgets: Sequence[int], methods: Sequence[str] = COMPARED) -> Grid:
    """Every method at every learning rate on the tuning seeds: equal trials, no early stopping."""

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        return [
            setting.fine_tuning(*cell, seed, rate, split="validation")
            for seed in TUNING_SEEDS
            for cell in _cells(setting, budgets, methods)
            for rate in LEARNING_RATES
        ]

    return configs


def verdicts(setting: Setting, budgets: Sequence[int], methods: Sequence[str] = COMPARED) -> Grid:
    """Every method at its chosen rate on all fresh seeds."""

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        rates = chosen_rates(records, setting)
        return [
            setting.fine_tuning(*cell, seed, rates[cell])
            for seed in FRESH_SEEDS
            for cell in _cells(setting, budgets, methods)
        ]

    return configs


def equal_compute(setting: Setting) -> Grid:
    """The hard switch with as many gradient examples as smoothing has, in more steps."""

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        rates = chosen_rates(records, setting)
        runs = []
        for seed in FRESH_SEEDS:
            for cell in _cells(setting, setting.budgets, ("hard_switch",)):
                run: FineTuningConfig = setting.fine_tuning(*cell, seed, rates[cell])
                smoothed = setting.fine_tuning(*cell[:2], "smoothing", seed, rates[cell])
                extra = (smoothed.cost() - run.cost()) / run.batch_size
                runs.append(replace(run, num_target_steps=run.num_target_steps + round(extra)))
        return list(runs)

    return configs


def chosen_rates(records: Sequence[Record], setting: Setting) -> dict[Cell, float]:
    """Return the learning rate with the lowest mean validation loss, by target, budget and method.

    Without tuning records (as in a dry run) it is the second of the rates tried.
    """
    rates = dict.fromkeys(_cells(setting, setting.budgets, tuple(METHODS)), LEARNING_RATES[1])
    tuned = [
        record
        for record in records
        if record.kind == "target" and record.config["split"] == "validation"
    ]
    choices = (
        choose_settings(
            tuned,
            settings=("optimizer.learning_rate",),
            group_by=("shift.name", "num_pretraining_steps", "method.name"),
            metric="target_loss",
            higher_is_better=False,
        )
        if tuned
        else []
    )
    for choice in choices:
        if choice.settings is not None:
            group = choice.group
            key = (group["shift.name"], group["num_pretraining_steps"], group["method.name"])
            rates[key] = choice.settings["optimizer.learning_rate"]
    return rates
