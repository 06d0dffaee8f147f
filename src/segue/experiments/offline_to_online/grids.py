"""Grids: which arms run on which shifts and seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from segue.experiments.offline_to_online.setting import Setting
from segue.runs.grid import RunConfig
from segue.runs.records import Record

__all__ = [
    "COMPARED",
    "MEDIUM",
    "MEDIUM_REPLAY",
    "PRIMARY",
    "REMEDIES",
    "Grid",
    "arms",
]

Grid = Callable[[Sequence[Record]], list[RunConfig]]

MEDIUM = ("halfcheetah-medium", "walker2d-medium", "hopper-medium")
MEDIUM_REPLAY = ("halfcheetah-medium-replay", "walker2d-medium-replay", "hopper-medium-replay")
PRIMARY = ("hard_switch", "smoothing", "smoothing_floor", "constant_mix_throughout")
"""Arms of the verdicts, on ten seeds; nothing is tuned, so every seed is fresh."""
COMPARED = (
    "hard_switch",
    "smoothing",
    "smoothing_half_k",
    "smoothing_double_k",
    "smoothing_floor",
    "smoothing_actor",
    "smoothing_critic",
    "constant_mix_throughout",
    "target_ramp",
    "balanced_batches",
    "share_anneal",
    "cloning_decay",
    "policy_warmup",
    "from_scratch",
    "from_scratch_with_offline_data",
)
"""Arms of the whole comparison."""
REMEDIES = (
    "offline_throughout",
    "cloning_throughout",
    "critics_first",
    "reset_optimizers",
    "hard_switch_layer_norm",
    "smoothing_layer_norm",
    "smoothing_floor_layer_norm",
    "smoothing_waits_for_buffer",
    "smoothing_floor_released",
    "smoothing_by_return",
    "smoothing_by_source_loss",
)
"""What may keep the fall away for good, beside a floor and a longer ramp."""


def arms(
    setting: Setting, shifts: Iterable[str], methods: Iterable[str], seeds: Iterable[int]
) -> Grid:
    """All methods on all shifts and seeds; seed by seed, so that a cut-off grid is balanced."""
    shifts, methods, seeds = tuple(shifts), tuple(methods), tuple(seeds)

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        return [
            setting.online(shift, method, seed)
            for seed in seeds
            for shift in shifts
            for method in methods
        ]

    return configs
