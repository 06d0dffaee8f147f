"""Ablations: smoothing and the hard switch on some shifts, with one thing varied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from segue.experiments.supervised.config import AdaptationConfig, OptimizerConfig
from segue.experiments.supervised.grids import FRESH_SEEDS, Grid, chosen_rates
from segue.experiments.supervised.methods import make_method
from segue.experiments.supervised.setting import LONG, SHORT
from segue.runs.grid import RunConfig
from segue.runs.records import Record

__all__ = ["ABLATIONS", "Ablation", "ablation"]

_TWO_SHIFTS = ("class_split", "contrast")
# The default K rests on this one. Left out are the two shifts whose source models no other shift
# uses: random labels and the warm start.
_SEVEN_SHIFTS = (
    *_TWO_SHIFTS,
    "label_permutation",
    "gaussian_noise",
    "blur",
    "colour_inversion",
    "pixel_permutation",
)
_ABLATION_SEEDS = FRESH_SEEDS[:6]


@dataclass(frozen=True)
class Ablation:
    """One thing varied.

    Attributes:
        what: What is varied, for people.
        vary: Maps a run at the long budget to its variants.
        shifts: Where it is varied.
    """

    what: str
    vary: Callable[[AdaptationConfig], Iterable[AdaptationConfig]]
    shifts: tuple[str, ...] = _TWO_SHIFTS


def ablation(chosen: Ablation) -> Grid:
    """Smoothing and the hard switch on some shifts, at the chosen rates, with one thing varied."""

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        rates = chosen_rates(records, SHORT)
        return [
            varied
            for seed in _ABLATION_SEEDS
            for shift in chosen.shifts
            for method in ("hard_switch", "smoothing")
            for varied in chosen.vary(LONG.adaptation(shift, method, seed, rates[shift, method]))
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


def _vary_k_with_few_examples(config: AdaptationConfig) -> Iterable[AdaptationConfig]:
    few = replace(config, num_target_examples=250)
    yield few
    if config.method.name == "hard_switch":
        return
    for num_steps in (15, 30):
        yield _with_schedule(few, num_smoothing_steps=num_steps)
    # The same ramp without the source's loss: is it the slow start, or what is replayed meanwhile?
    alone = make_method(
        "target_ramp",
        num_smoothing_steps=LONG.num_smoothing_steps,
        num_target_steps=LONG.num_target_steps,
    )
    yield replace(few, method=alone)


ABLATIONS: dict[str, Ablation] = {
    "ablate-k": Ablation("number of smoothing steps", _vary_k, _SEVEN_SHIFTS),
    "ablate-schedule": Ablation("shape of the schedule", _vary_schedule),
    "ablate-bank": Ablation("size of the replay bank", _vary_bank),
    "ablate-optimizer": Ablation("SGD and AdamW", _vary_optimizer),
    "ablate-norm": Ablation("group norm and batch norm, with its policies", _vary_norm),
    "ablate-target-examples": Ablation("number of target examples", _vary_target_examples),
    "ablate-few-examples": Ablation(
        "number of smoothing steps with 250 target examples", _vary_k_with_few_examples
    ),
}
"""Preset name → what is varied, how, and where."""
