from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from segue.experiments.language.config import FineTuningConfig, OptimizerConfig, PretrainingConfig
from segue.experiments.language.corpus import TARGETS
from segue.experiments.language.grids import (
    COMPARED,
    FRESH_SEEDS,
    LEARNING_RATES,
    OTHER_METHODS,
    TUNING_SEEDS,
    chosen_rates,
)
from segue.experiments.language.methods import (
    METHODS,
    MethodConfig,
    ScheduleConfig,
    build_schedule,
    make_method,
)
from segue.experiments.language.models import ModelConfig
from segue.experiments.language.presets import PRESETS
from segue.experiments.language.setting import STANDARD
from segue.runs.grid import config_from_dict, config_to_dict, expand, run_id
from segue.runs.records import Record

Make = Callable[..., FineTuningConfig]


def record_of(config: Any, loss: float) -> Record:
    return Record(
        run_id(config),
        config.family,
        config.kind,
        config_to_dict(config),
        "completed",
        metrics={"target_loss": loss},
    )


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_phase_of_every_preset_can_be_laid_out_without_records(name: str) -> None:
    for phase in PRESETS[name].phases:
        configs = phase.configs([])
        assert configs
        assert len(set(map(run_id, configs))) == len(configs)
        for config in configs[:: max(1, len(configs) // 5)]:
            assert config_from_dict(type(config), config_to_dict(config)) == config


def test_the_standard_preset_crosses_budgets_methods_targets_and_seeds() -> None:
    tuning, verdicts, equal_compute = (p.configs([]) for p in PRESETS["standard"].phases)
    assert len(STANDARD.budgets) == 7
    cells = 7 * len(COMPARED) * len(TARGETS)
    assert len(tuning) == cells * len(LEARNING_RATES) * len(TUNING_SEEDS)
    assert len(verdicts) == cells * len(FRESH_SEEDS)
    assert len(equal_compute) == 7 * len(TARGETS) * len(FRESH_SEEDS)
    assert len(FRESH_SEEDS) >= 10
    assert not set(FRESH_SEEDS) & set(TUNING_SEEDS)
    assert {config.split for config in tuning} == {"validation"}  # type: ignore[attr-defined]
    assert {config.split for config in verdicts} == {"test"}  # type: ignore[attr-defined]


def test_all_budgets_of_a_seed_come_from_one_pretraining() -> None:
    configs: list[Any] = PRESETS["standard"].phases[1].configs([])
    sources = {run_id(config.source) for config in configs}
    assert len(sources) == len(FRESH_SEEDS)
    assert len(expand(configs)) == len(configs) + len(FRESH_SEEDS)


def test_each_budget_is_twice_the_one_before_and_the_longest_is_eight_passes() -> None:
    ratios = [b / a for a, b in zip(STANDARD.budgets, STANDARD.budgets[1:], strict=False)]
    assert ratios == pytest.approx([2.0] * 6, rel=0.01)
    config = PretrainingConfig(ModelConfig(), 0, STANDARD.budgets)
    assert config.num_tokens(2064) == 2064 * 16 * 192


def test_equal_compute_gives_the_hard_switch_what_smoothing_spends() -> None:
    runs: list[Any] = PRESETS["standard"].phases[2].configs([])
    smoothed = STANDARD.fine_tuning("gsm8k", STANDARD.budgets[0], "smoothing", 0, 1e-3)
    assert {run.cost() for run in runs} == {smoothed.cost()}
    assert {run.method.name for run in runs} == {"hard_switch"}


def test_the_other_methods_run_at_two_budgets_in_as_many_trials() -> None:
    tuning: list[Any] = PRESETS["other-methods"].phases[0].configs([])
    assert len({config.num_pretraining_steps for config in tuning}) == 2
    for method in OTHER_METHODS:
        trials = [config for config in tuning if config.method.name == method]
        assert len(trials) == 2 * len(TARGETS) * len(LEARNING_RATES) * len(TUNING_SEEDS)


def test_the_learning_rate_is_the_best_of_its_target_budget_and_method() -> None:
    slow, fast = LEARNING_RATES[0], LEARNING_RATES[-1]
    first, last = STANDARD.budgets[0], STANDARD.budgets[-1]
    records = [
        record_of(
            STANDARD.fine_tuning("gsm8k", budget, method, seed, rate, split="validation"), loss
        )
        for seed in TUNING_SEEDS
        for budget, method, rate, loss in (
            (first, "smoothing", slow, 4.0),
            (first, "smoothing", fast, 3.0),
            (last, "smoothing", slow, 2.0),
            (last, "smoothing", fast, 3.0),
        )
    ]
    rates = chosen_rates(records, STANDARD)
    assert rates["gsm8k", first, "smoothing"] == fast
    assert rates["gsm8k", last, "smoothing"] == slow
    assert rates["gsm8k", last, "hard_switch"] == LEARNING_RATES[1]


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("hard_switch", (0.0, 0.0, 0.0)),
        ("smoothing", (1.0, 0.5, 0.0)),
        ("smoothing_mixed", (1.0, 0.5, 0.0)),
        ("target_ramp", (1.0, 0.5, 0.0)),
        ("lora_smoothing", (1.0, 0.5, 0.0)),
        ("constant_replay", (0.25, 0.25, 0.25)),
        ("replay_5_percent", (0.05, 0.05, 0.05)),
        ("replay_25_percent", (0.25, 0.25, 0.25)),
        ("replay_50_percent", (0.5, 0.5, 0.5)),
        ("recadam_anneal", (1.0, 0.5, 0.0)),
        ("lr_warmup", (0.0, 0.0, 0.0)),
        ("l2sp", (0.0, 0.0, 0.0)),
        ("lora", (0.0, 0.0, 0.0)),
    ],
)
def test_a_method_has_the_source_weights_of_its_name(
    name: str, weights: tuple[float, float, float]
) -> None:
    schedule = build_schedule(make_method(name, num_smoothing_steps=40).schedule)
    assert [schedule(step) for step in (0, 20, 40)] == pytest.approx(list(weights), abs=1e-12)


def test_every_method_of_the_comparison_is_defined_and_named_as_its_row() -> None:
    assert set(COMPARED) | set(OTHER_METHODS) == set(METHODS)
    for name in METHODS:
        assert make_method(name, num_smoothing_steps=4).name == name
    with pytest.raises(ValueError, match="unknown method 'smoothng'; did you mean 'smoothing'"):
        make_method("smoothng", num_smoothing_steps=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_pretraining_steps": 5}, r"num_pretraining_steps must be one of \(4, 8\), got 5"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"split": "tset"}, "unknown split 'tset'; did you mean 'test'"),
        ({"num_target_examples": 2}, r"num_target_examples must be >= batch_size \(4\), got 2"),
        ({"num_micro_batches": 3}, r"batch_size must be a multiple of num_micro_batches \(3\)"),
        ({"num_target_steps": 3}, r"num_smoothing_steps must be <= num_target_steps \(3\), got 4"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], message: str, make: Make) -> None:
    with pytest.raises(ValueError, match=message):
        replace(make("smoothing"), **changes)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: STANDARD.fine_tuning("gms8k", 32, "smoothing", 0, 1e-3), "did you mean 'gsm8k'"),
        (lambda: OptimizerConfig(learning_rate=-1.0), "learning_rate must be positive and finite"),
        (lambda: OptimizerConfig(max_gradient_norm=0.0), "max_gradient_norm must be positive"),
        (lambda: PretrainingConfig(ModelConfig(), 0, (8, 4)), r"must rise from >= 1, got \(8, 4\)"),
        (lambda: PretrainingConfig(ModelConfig(), 0, ()), r"must rise from >= 1, got \(\)"),
        (
            lambda: ModelConfig(hidden_size=30),
            r"hidden_size must be a multiple of .* \(8\), got 30",
        ),
        (lambda: MethodConfig("m", source_term="anchor"), "anchor_scale must be positive"),
        (lambda: MethodConfig("m", mode="mixed", source_term="nothing"), "must have replay"),
        (lambda: MethodConfig("m", num_bank_examples=4), r"replay_batch_size must be <= .* \(4\)"),
        (lambda: ScheduleConfig("lineal"), "did you mean 'linear'"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_setting_is_named(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
