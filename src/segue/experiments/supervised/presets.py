"""Presets of the supervised family: what ``segue run supervised`` and the demo execute."""

from __future__ import annotations

import functools

from segue.experiments.families import Phase, Preset
from segue.experiments.supervised.ablations import ABLATIONS, ablation
from segue.experiments.supervised.config import AdaptationConfig, SourceConfig
from segue.experiments.supervised.data import find_cifar10
from segue.experiments.supervised.grids import (
    equal_compute,
    one_rate,
    other_methods,
    tuning,
    verdicts,
)
from segue.experiments.supervised.loop import seconds_per_example
from segue.experiments.supervised.models import ResNetConfig, build_model
from segue.experiments.supervised.sequence import SequenceConfig, sequence_grid
from segue.experiments.supervised.setting import DIGITS, LONG, PAPER, QUICK, SHORT

__all__ = ["PRESETS"]

_SHORT_PHASES = (
    Phase("tuning", tuning(SHORT)),
    Phase("verdicts", verdicts(SHORT)),
    Phase("equal compute", equal_compute(SHORT)),
)
# Tuning anew at the long budget would take longer than all the rest: its rates are the short one's.
_LONG_VERDICTS = Phase("verdicts, long", verdicts(LONG, tuned_at=SHORT))


def _ablation_preset(name: str) -> Preset:
    chosen = ABLATIONS[name]
    phases = (
        Phase("tuning", tuning(SHORT, chosen.shifts)),
        Phase(chosen.what, ablation(chosen)),
    )
    description = f"{chosen.what}, on {', '.join(chosen.shifts)}"
    return Preset(description, phases, find_cifar10, _seconds_per_cost)


def _seconds_per_cost(config: SourceConfig | AdaptationConfig | SequenceConfig) -> float:
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
                "demo",
                lambda records: one_rate(DIGITS, _THREE_SHIFTS, _DEMO_METHODS, range(7), 0.05),
            ),
        ),
        seconds_per_cost=_seconds_per_cost,
    ),
    "quick": Preset(
        "CIFAR-10: three shifts, five methods, two seeds, short training; no verdicts",
        (
            Phase(
                "quick",
                lambda records: one_rate(
                    QUICK,
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
        (_SHORT_PHASES[0], Phase("other methods", other_methods(SHORT))),
        find_cifar10,
        _seconds_per_cost,
    ),
    "other-methods-long": Preset(
        "CIFAR-10: every other method at 1,200 target steps, six seeds",
        (
            _SHORT_PHASES[0],
            Phase("other methods, long", other_methods(LONG, tuned_at=SHORT)),
        ),
        find_cifar10,
        _seconds_per_cost,
    ),
    "sequence": Preset(
        "CIFAR-10: three shifts in turn, each target the next source; ten seeds",
        (
            _SHORT_PHASES[0],
            Phase(
                "sequence",
                sequence_grid(
                    ("contrast", "gaussian_noise", "colour_inversion"),
                    (
                        "hard_switch",
                        "smoothing",
                        "constant_mix_throughout",
                        "target_ramp",
                        "lr_warmup",
                    ),
                ),
            ),
        ),
        find_cifar10,
        _seconds_per_cost,
    ),
    "paper": Preset(
        "ResNet-18 on CIFAR-10, long training: for a GPU",
        (
            Phase("tuning", tuning(PAPER, _THREE_SHIFTS)),
            Phase("verdicts", verdicts(PAPER, _THREE_SHIFTS)),
        ),
        find_cifar10,
        _seconds_per_cost,
    ),
    **{name: _ablation_preset(name) for name in ABLATIONS},
}
"""Presets by name."""
