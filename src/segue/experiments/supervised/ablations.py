"""Ablations: smoothing and the hard switch on two shifts, with one thing varied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from segue.experiments.supervised.config import AdaptationConfig, OptimizerConfig
from segue.experiments.supervised.grids import FRESH_SEEDS, Grid, chosen_rates
from segue.experiments.supervised.setting import LONG, SHORT
from segue.runs.grid import RunConfig
from segue.runs.records import Record

__all__ = ["ABLATED_SHIFTS", "ABLATIONS", "ablation"]

ABLATED_SHIFTS = ("class_split", "contrast")
_ABLATION_SEEDS = FRESH_SEEDS[:6]


def ablation(vary: Callable[[AdaptationConfig], Iterable[AdaptationConfig]]) -> Grid:
    """Smoothing and the hard switch on two shifts, at the chosen rates, with one thing varied."""

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        rates = chosen_rates(records, SHORT)
        return [
            varied
            for seed in _ABLATION_SEEDS
            for shift in ABLATED_SHIFTS
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


ABLATIONS: dict[str, tuple[str, Callable[[AdaptationConfig], Iterable[AdaptationConfig]]]] = {
    "ablate-k": ("number of smoothing steps", _vary_k),
    "ablate-schedule": ("shape of the schedule", _vary_schedule),
    "ablate-bank": ("size of the replay bank", _vary_bank),
    "ablate-optimizer": ("SGD and AdamW", _vary_optimizer),
    "ablate-norm": ("group norm and batch norm, with its policies", _vary_norm),
    "ablate-target-examples": ("number of target examples", _vary_target_examples),
}
"""Preset name → what is varied, and how."""
