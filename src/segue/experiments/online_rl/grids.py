"""Grids: tuning on seeds of their own, then the comparison on fresh ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from segue.analysis.selection import choose_settings
from segue.experiments.online_rl.config import SHIFTS
from segue.experiments.online_rl.setting import Setting
from segue.experiments.online_rl.td3_methods import TD3_METHODS
from segue.runs.grid import RunConfig
from segue.runs.records import Record

__all__ = [
    "COMPARED", "COMPARED_IN_BRAX", "FRESH_SEEDS", "LEARNING_RATES", "PRIMARY_METRIC", "TUNING_SEEDS", "Grid",
    "chosen_rates", "compared", "comparison", "one_rate", "tuning",
]  # fmt: skip

FRESH_SEEDS = tuple(range(10))
"""Seeds of the comparison; nothing is chosen on them."""
TUNING_SEEDS = (1000, 1001, 1002)
"""Seeds on which learning rates are chosen."""
LEARNING_RATES = (0.0003, 0.001, 0.003)
PRIMARY_METRIC = "final_return"
COMPARED = (
    "hard_switch",
    "smoothing",
    "smoothing_quarter",
    "smoothing_whole",
    "constant_mix",
    "constant_mix_throughout",
    "target_ramp",
    "more_epochs",
    "larger_batches",
    "longer_rollouts",
)
"""PPO's arms; each has its learning rate chosen in as many trials."""
COMPARED_IN_BRAX = tuple(
    name
    for name in COMPARED
    if name not in ("smoothing_quarter", "constant_mix", "longer_rollouts")
)
"""Those that Brax's tasks have: compiling an arm takes longer there than training it."""
Grid = Callable[[Sequence[Record]], list[RunConfig]]
"""Runs, given the records of the phases before."""


def compared(shift: str) -> tuple[str, ...]:
    """Arms of a task."""
    task = SHIFTS[shift]
    if task.learner == "td3":
        return tuple(TD3_METHODS[task.switch])
    return COMPARED_IN_BRAX if task.environment.startswith("brax/") else COMPARED


def one_rate(
    setting: Setting,
    shifts: Iterable[str],
    methods: Iterable[str],
    seeds: Iterable[int],
    learning_rate: float,
) -> list[RunConfig]:
    """Arms on tasks and seeds, at one learning rate."""
    return [
        setting.run(shift, method, seed, learning_rate)
        for shift in shifts
        for method in methods
        for seed in seeds
    ]


def tuning(setting: Setting, shifts: Iterable[str], methods: Iterable[str] | None = None) -> Grid:
    """Every arm (or ``methods``) at every learning rate on the tuning seeds."""
    arms = _arms(shifts, methods)

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        return [
            setting.run(shift, method, seed, rate, split="validation")
            for shift, method in arms
            for seed in TUNING_SEEDS
            for rate in LEARNING_RATES
        ]

    return configs


def comparison(
    setting: Setting, shifts: Iterable[str], methods: Iterable[str] | None = None
) -> Grid:
    """Every arm (or ``methods``) at its chosen learning rate on all fresh seeds."""
    arms = _arms(shifts, methods)

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        rates = chosen_rates(records)
        middle = LEARNING_RATES[len(LEARNING_RATES) // 2]
        # Task by task and arm by arm: seeds that follow each other share a compiled program.
        return [
            setting.run(shift, method, seed, rates.get((shift, method), middle))
            for shift, method in arms
            for seed in FRESH_SEEDS
        ]

    return configs


def _arms(shifts: Iterable[str], methods: Iterable[str] | None) -> list[tuple[str, str]]:
    chosen = None if methods is None else tuple(methods)
    return [(shift, method) for shift in shifts for method in chosen or compared(shift)]


def chosen_rates(records: Sequence[Record]) -> dict[tuple[str, str], float]:
    """Return the learning rate with the best final return on the tuning seeds, by task and arm."""
    tuned = [record for record in records if record.config.get("split") == "validation"]
    choices = choose_settings(tuned, metric=PRIMARY_METRIC) if tuned else []
    return {
        (choice.group["shift.name"], choice.group["method.name"]): choice.settings["learning_rate"]
        for choice in choices
        if choice.settings is not None
    }
