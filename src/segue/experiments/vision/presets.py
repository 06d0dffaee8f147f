"""Presets of the vision family: what ``segue run vision`` executes."""

from __future__ import annotations

import functools

import torch

from segue.experiments.families import Phase, Preset
from segue.experiments.vision.config import AdaptationConfig, SourceConfig
from segue.experiments.vision.grids import (
    CHECKPOINT_PAIRS,
    NEEDS_NO_DATA,
    TUNED_PAIRS,
    all_pairs,
    batch_norm,
    equal_compute,
    fully_trained,
    numbers_of_examples,
    one_setting,
    other_methods,
    tuning,
    verdicts,
)
from segue.experiments.vision.loop import seconds_per_example
from segue.experiments.vision.models import NetworkConfig, build_network
from segue.experiments.vision.setting import DOMAINNET, FROZEN, FULL, QUICK
from segue.experiments.vision.task import check_dataset

__all__ = ["PRESETS"]

_FULL_PAIRS = ("photo_to_sketch", "art_painting_to_cartoon")
_SHIFTED_MEANS = ("photo_to_sketch", "sketch_to_photo")
_DOMAINNET_PAIRS = ("real_to_sketch", "real_to_quickdraw", "clipart_to_painting")
_DOMAINNET_METHODS = (
    "hard_switch", "smoothing", "smoothing_logits", "smoothing_l2sp", "target_ramp",
    "fresh_head", "head_first", "wise_ft",
)  # fmt: skip

_TUNING = Phase("tuning", tuning(FROZEN, TUNED_PAIRS))
_CHECKPOINT_TUNING = Phase("tuning, no source", tuning(FROZEN, CHECKPOINT_PAIRS, NEEDS_NO_DATA))
_CHECKPOINT_PHASES = (
    _CHECKPOINT_TUNING,
    # A source-free term has to beat the ramp that has none.
    Phase(
        "verdicts, no source",
        verdicts(FROZEN, CHECKPOINT_PAIRS, NEEDS_NO_DATA, controls=("target_ramp",)),
    ),
)


def _seconds_per_cost(config: SourceConfig | AdaptationConfig) -> float:
    return _seconds_per_example(config.network)


@functools.cache
def _seconds_per_example(network: NetworkConfig) -> float:
    lower, model = build_network(network, seed=0)
    size = (16, 3, network.image_size, network.image_size)
    images = torch.rand(size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        inputs = lower(images)
    return seconds_per_example(model, inputs)


def _check_pacs(data_root: str) -> None:
    check_dataset("pacs", data_root)


def _check_domainnet(data_root: str) -> None:
    check_dataset("domainnet", data_root)


PRESETS: dict[str, Preset] = {
    "quick": Preset(
        "PACS: one pair, six methods, one seed, short training; no verdicts",
        (
            Phase(
                "quick",
                lambda records: one_setting(
                    QUICK,
                    ("photo_to_sketch",),
                    (
                        "hard_switch",
                        "smoothing",
                        "smoothing_logits",
                        "smoothing_l2sp",
                        "smoothing_ewc",
                        "head_first",
                    ),
                    range(1),
                ),
            ),
            Phase(
                "quick, no source",
                lambda records: one_setting(
                    QUICK, ("imagenet_to_sketch",), ("hard_switch", "smoothing_logits"), range(1)
                ),
            ),
        ),
        _check_pacs,
        _seconds_per_cost,
    ),
    "standard": Preset(
        "PACS: three pairs x all methods, all twelve pairs, three sizes, no source, full training",
        (
            _TUNING,
            Phase("verdicts", verdicts(FROZEN, TUNED_PAIRS)),
            Phase("equal compute", equal_compute(FROZEN, TUNED_PAIRS)),
            *_CHECKPOINT_PHASES,
            Phase("other methods", other_methods(FROZEN, TUNED_PAIRS)),
            Phase("all pairs", all_pairs(FROZEN)),
            Phase("50 and 500 target examples", numbers_of_examples(FROZEN)),
            Phase("batch norm", batch_norm(FROZEN, _SHIFTED_MEANS)),
            Phase("everything trained", fully_trained(FULL, _FULL_PAIRS)),
        ),
        _check_pacs,
        _seconds_per_cost,
    ),
    "verdicts": Preset(
        "PACS: three pairs, ten seeds, hard switch, smoothing and the best baselines only",
        (_TUNING, Phase("verdicts", verdicts(FROZEN, TUNED_PAIRS))),
        _check_pacs,
        _seconds_per_cost,
    ),
    "no-source": Preset(
        "ImageNet checkpoint to three PACS domains without source data",
        _CHECKPOINT_PHASES,
        _check_pacs,
        _seconds_per_cost,
    ),
    "batch-norm": Preset(
        "PACS: batch-norm policies and dropout on two pairs with shifted means, three seeds",
        (Phase("batch norm", batch_norm(FROZEN, _SHIFTED_MEANS, num_seeds=3)),),
        _check_pacs,
        _seconds_per_cost,
    ),
    "paper": Preset(
        "DomainNet at 224 pixels, everything trained: for a GPU",
        (
            Phase("tuning", tuning(DOMAINNET, _DOMAINNET_PAIRS, _DOMAINNET_METHODS)),
            Phase("verdicts", verdicts(DOMAINNET, _DOMAINNET_PAIRS, _DOMAINNET_METHODS)),
        ),
        _check_domainnet,
        _seconds_per_cost,
    ),
}
"""Presets by name."""
