"""Grids: tuning, verdicts, controls. What is run may depend on what was found before."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import get_args

from segue.analysis.selection import choose_settings
from segue.batchnorm import BatchNormPolicy
from segue.experiments.vision.config import CHECKPOINT, AdaptationConfig
from segue.experiments.vision.methods import METHODS, make_method
from segue.experiments.vision.setting import Setting
from segue.runs.grid import RunConfig
from segue.runs.records import Record

__all__ = [
    "ALL_PAIRS", "CHECKPOINT_PAIRS", "COMPARED", "FRESH_SEEDS", "SOURCE_FREE", "TUNED_PAIRS",
    "TUNING_SEEDS", "Grid", "all_pairs", "batch_norm", "best_baseline", "best_source_free",
    "chosen", "equal_compute", "fully_trained", "numbers_of_examples", "one_setting", "other_methods",
    "trials", "tuning", "verdicts",
]  # fmt: skip

FRESH_SEEDS = tuple(range(10))
"""Seeds of the verdicts; nothing is chosen on them."""
TUNING_SEEDS = (1000, 1001)
"""Seeds on which rates, scales and baselines are chosen, by validation accuracy."""
_DOMAINS = ("photo", "art_painting", "cartoon", "sketch")
ALL_PAIRS = tuple(f"{a}_to_{b}" for a in _DOMAINS for b in _DOMAINS if a != b)
TUNED_PAIRS = ("photo_to_sketch", "art_painting_to_cartoon", "sketch_to_photo")
"""A far pair, a near one and the way back; all methods are run on them."""
CHECKPOINT_PAIRS = ("imagenet_to_art_painting", "imagenet_to_cartoon", "imagenet_to_sketch")
COMPARED = tuple(METHODS)
SOURCE_FREE = ("smoothing_logits", "smoothing_features", "smoothing_l2sp", "target_ramp")
"""Ramps that need the checkpoint alone; the first three have a source term."""
NEEDS_NO_DATA = (
    "hard_switch", *SOURCE_FREE, "lr_warmup", "head_first", "l2sp", "lwf", "frozen_backbone",
)  # fmt: skip
"""Methods that can start from the bare checkpoint, where every head is a fresh one."""
_RAMPS = (*(name for name in METHODS if name.startswith("smoothing")), "target_ramp")

LEARNING_RATES = (0.01, 0.03, 0.08, 0.2)
SCALED_RATES = (0.03, 0.08)
SCALES: Mapping[str, tuple[float, float]] = {
    "logits": (1.0, 4.0),
    "features": (1.0, 10.0),
    "l2sp": (0.01, 0.1),
    "ewc": (10.0, 100.0),
    "replay_and_l2sp": (0.01, 0.1),
}
"""Term → the scales that are tried, at two learning rates each: four trials, as for any method."""
WISE_SHARES = (0.5, 0.8)

Grid = Callable[[Sequence[Record]], list[RunConfig]]
"""Runs, given the records of the phases before."""
Settings = dict[str, tuple[float, float, float]]
"""Method → learning rate, scale, share of the trained weights."""
_TUNED = ("optimizer.learning_rate", "method.scale", "method.wise_share")
_CHOSEN_BY = ("shift.name", "method.name")


def trials(method: str) -> list[tuple[float, float, float]]:
    """The four settings of a method that are tried: learning rate, scale, WiSE-FT's share."""
    config = make_method(method, num_smoothing_steps=1, num_target_steps=2)
    if config.has_scale:
        term = config.penalty if config.penalty != "none" else config.source_term
        return [(rate, scale, 1.0) for rate in SCALED_RATES for scale in SCALES[term]]
    if config.wise_share < 1.0:
        return [(rate, 1.0, share) for rate in SCALED_RATES for share in WISE_SHARES]
    return [(rate, 1.0, 1.0) for rate in LEARNING_RATES]


def _run(
    setting: Setting,
    shift: str,
    method: str,
    seed: int,
    how: tuple[float, float, float],
    **other: object,
) -> AdaptationConfig:
    rate, scale, share = how
    config = setting.adaptation(shift, method, seed, rate, scale=scale, **other)
    if config.method.wise_share < 1.0:
        config = replace(config, method=replace(config.method, wise_share=share))
    return config


def one_setting(
    setting: Setting, shifts: Iterable[str], methods: Iterable[str], seeds: Iterable[int]
) -> list[RunConfig]:
    """All methods on all shifts and seeds, each at the first of its trials with a middle rate."""
    return [
        _run(setting, shift, method, seed, trials(method)[1])
        for seed in seeds
        for shift in shifts
        for method in methods
    ]


def tuning(setting: Setting, shifts: Iterable[str], methods: Sequence[str] = COMPARED) -> Grid:
    """Every method in its four trials on the tuning seeds, measured on validation images."""

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        return [
            _run(setting, shift, method, seed, how, split="validation")
            for seed in TUNING_SEEDS
            for shift in shifts
            for method in methods
            for how in trials(method)
        ]

    return configs


def chosen(
    records: Sequence[Record], shifts: Sequence[str], methods: Sequence[str] = COMPARED
) -> dict[str, Settings]:
    """Settings chosen on the tuning seeds, by shift and method.

    A shift that was not tuned takes the settings that are best on average over the tuned ones of its
    kind, from a domain model or from the checkpoint. Without tuning records (as in a dry run) it is the
    second trial.
    """
    tuned = [r for r in records if r.kind == "target" and r.config["split"] == "validation"]
    found: dict[str, Settings] = {}
    means: dict[tuple[bool, str], dict[tuple[float, float, float], list[float]]] = {}
    for choice in choose_settings(tuned, settings=_TUNED, group_by=_CHOSEN_BY) if tuned else []:
        shift, method = (choice.group[path] for path in _CHOSEN_BY)
        if choice.settings is not None:
            found.setdefault(shift, {})[method] = _values(choice.settings)
        for trial in choice.trials:
            kind = means.setdefault((_from_checkpoint(shift), method), {})
            kind.setdefault(_values(trial.settings), []).append(trial.mean)
    pooled = {kind: _best_on_average(each) for kind, each in means.items()}
    return {
        shift: {
            method: found.get(shift, {}).get(method)
            or pooled.get((_from_checkpoint(shift), method))
            or trials(method)[1]
            for method in methods
        }
        for shift in shifts
    }


def _from_checkpoint(shift: str) -> bool:
    return shift.startswith(f"{CHECKPOINT}_to_")


def _values(settings: Mapping[str, float]) -> tuple[float, float, float]:
    rate, scale, share = (float(settings[path]) for path in _TUNED)
    return rate, scale, share


def _best_on_average(
    means: Mapping[tuple[float, float, float], Sequence[float]],
) -> tuple[float, float, float] | None:
    most = max(map(len, means.values()))
    usable = {
        how: math.fsum(each) / len(each)
        for how, each in means.items()
        if len(each) == most and not any(map(math.isnan, each))
    }
    return max(sorted(usable), key=usable.__getitem__) if usable else None


def _best(records: Sequence[Record], candidates: Sequence[str]) -> dict[str, str]:
    """The method of ``candidates`` with the best validation accuracy, by tuned shift."""
    tuned = [
        record
        for record in records
        if record.kind == "target"
        and record.config["split"] == "validation"
        and record.config["method"]["name"] in candidates
    ]
    best: dict[str, tuple[float, str]] = {}
    for choice in choose_settings(tuned, settings=_TUNED, group_by=_CHOSEN_BY) if tuned else []:
        shift, method = (choice.group[path] for path in _CHOSEN_BY)
        if choice.settings is not None and choice.score > best.get(shift, (-1.0, ""))[0]:
            best[shift] = (choice.score, method)
    return {shift: method for shift, (_, method) in best.items()}


def best_baseline(records: Sequence[Record], methods: Sequence[str] = COMPARED) -> dict[str, str]:
    """The best method that is neither the hard switch nor a ramp, by shift; empty without records."""
    return _best(records, [m for m in methods if m != "hard_switch" and m not in _RAMPS])


def best_source_free(records: Sequence[Record]) -> dict[str, str]:
    """The best source term that needs the checkpoint alone, by shift; empty without records."""
    return _best(records, SOURCE_FREE[:3])


def _primary(records: Sequence[Record], shift: str, methods: Sequence[str]) -> list[str]:
    source_free = best_source_free(records).get(shift, SOURCE_FREE[0])
    names = ("hard_switch", "smoothing", source_free, best_baseline(records, methods).get(shift))
    return [name for name in names if name is not None and name in methods]


def verdicts(
    setting: Setting,
    shifts: Sequence[str],
    methods: Sequence[str] = COMPARED,
    controls: Sequence[str] = (),
    **other: object,
) -> Grid:
    """Hard switch, smoothing, the best source-free ramp and the best baseline, on ten fresh seeds.

    ``controls`` are run beside them whatever the tuning seeds say.
    """

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        how = chosen(records, shifts, methods)
        return [
            _run(setting, shift, method, seed, how[shift][method], **other)
            for seed in FRESH_SEEDS
            for shift in shifts
            for method in (*_primary(records, shift, methods), *controls)
        ]

    return configs


def other_methods(
    setting: Setting, shifts: Sequence[str], methods: Sequence[str] = COMPARED
) -> Grid:
    """Every method that has no verdict, at its chosen setting, on six fresh seeds."""

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        how = chosen(records, shifts, methods)
        return [
            _run(setting, shift, method, seed, how[shift][method])
            for seed in FRESH_SEEDS[:6]
            for shift in shifts
            for method in methods
            if method not in _primary(records, shift, methods)
        ]

    return configs


def all_pairs(setting: Setting) -> Grid:
    """The pairs that were not tuned: hard switch, smoothing, source-free, fresh head and LP-FT."""
    untuned = [pair for pair in ALL_PAIRS if pair not in TUNED_PAIRS]

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        how = chosen(records, untuned)
        source_free = list(best_source_free(records).values()) or [SOURCE_FREE[0]]
        most_often = max(sorted(set(source_free)), key=source_free.count)
        methods = ("hard_switch", "smoothing", most_often, "fresh_head", "head_first")
        return [
            _run(setting, shift, method, seed, how[shift][method])
            for seed in FRESH_SEEDS
            for shift in untuned
            for method in methods
        ]

    return configs


def numbers_of_examples(setting: Setting, numbers: Sequence[int] = (50, 500)) -> Grid:
    """The methods of the verdicts with fewer and more target examples, on six fresh seeds."""

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        how = chosen(records, TUNED_PAIRS)
        return [
            _run(setting, shift, method, seed, how[shift][method], num_target_examples=number)
            for seed in FRESH_SEEDS[:6]
            for number in numbers
            for shift in TUNED_PAIRS
            for method in _primary(records, shift, COMPARED)
        ]

    return configs


def equal_compute(setting: Setting, shifts: Sequence[str]) -> Grid:
    """The hard switch with as many gradient examples as smoothing has, in more steps."""

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        how = chosen(records, shifts)
        longer = setting.num_target_steps + setting.num_smoothing_steps
        return [
            replace(
                _run(setting, shift, "hard_switch", seed, how[shift]["hard_switch"]),
                num_target_steps=longer,
            )
            for seed in FRESH_SEEDS
            for shift in shifts
        ]

    return configs


def fully_trained(setting: Setting, shifts: Sequence[str]) -> Grid:
    """Everything trained, where features can be distorted: six seeds, rates as chosen when frozen."""

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        how = chosen(records, shifts)
        return [
            _run(setting, shift, method, seed, how[shift][method])
            for seed in FRESH_SEEDS[:6]
            for shift in shifts
            for method in _primary(records, shift, COMPARED)
        ]

    return configs


def batch_norm(setting: Setting, shifts: Sequence[str], num_seeds: int = 6) -> Grid:
    """The three batch-norm policies, and no dropout, for replay smoothing and the hard switch.

    Constant mixing shows the policies at their strongest: there the source passes to the end.
    """
    policies: tuple[BatchNormPolicy, ...] = get_args(BatchNormPolicy)

    def configs(records: Sequence[Record]) -> list[RunConfig]:
        how = chosen(records, shifts)
        found: list[RunConfig] = []
        for seed in FRESH_SEEDS[:num_seeds]:
            for shift in shifts:
                found.append(_run(setting, shift, "hard_switch", seed, how[shift]["hard_switch"]))
                for method in ("smoothing", "constant_mix"):
                    run = _run(setting, shift, method, seed, how[shift][method])
                    found += [replace(run, batch_norm=policy) for policy in policies]
                network = replace(setting.network, dropout=0.0)
                found.append(
                    _run(
                        setting, shift, "smoothing", seed, how[shift]["smoothing"], network=network
                    )
                )
        return found

    return configs
