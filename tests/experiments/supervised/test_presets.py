import os
from typing import Any

import pytest

from segue.experiments.families import load_preset, load_presets
from segue.experiments.supervised.grids import (
    COMPARED,
    FRESH_SEEDS,
    LEARNING_RATES,
    TUNING_SEEDS,
    chosen_rates,
)
from segue.experiments.supervised.presets import PRESETS
from segue.experiments.supervised.setting import LONG, SHORT
from segue.experiments.supervised.shifts import SHIFTS
from segue.experiments.supervised.task import load_adaptation
from segue.runs.grid import config_from_dict, config_to_dict, expand, run_id
from segue.runs.records import Record


def record_of(config: Any, accuracy: float) -> Record:
    return Record(
        run_id(config),
        config.family,
        config.kind,
        config_to_dict(config),
        "completed",
        metrics={"target_accuracy": accuracy},
    )


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_phase_of_every_preset_can_be_laid_out_without_records(name: str) -> None:
    for phase in PRESETS[name].phases:
        configs = phase.configs([])
        assert configs
        assert len({run_id(config) for config in expand(configs)}) >= len(set(map(run_id, configs)))
        for config in configs[:3]:
            assert config_from_dict(type(config), config_to_dict(config)) == config


def test_tuning_and_fresh_seeds_are_apart() -> None:
    assert not set(TUNING_SEEDS) & set(FRESH_SEEDS)
    assert len(FRESH_SEEDS) >= 10


def test_tuning_gives_every_method_as_many_trials_on_validation_images() -> None:
    configs = PRESETS["short"].phases[0].configs([])
    assert {config.split for config in configs} == {"validation"}  # type: ignore[attr-defined]
    for shift in SHIFTS:
        for method in COMPARED:
            trials = [
                config
                for config in configs
                if config.shift.name == shift and config.method.name == method  # type: ignore[attr-defined]
            ]
            assert len(trials) == len(LEARNING_RATES) * len(TUNING_SEEDS)


def test_a_shift_shares_its_source_models_with_every_method() -> None:
    configs = PRESETS["short"].phases[1].configs([])
    sources = {run_id(source) for config in configs for source in config.requires()}
    assert len(sources) == len(FRESH_SEEDS) * len({s.source_task for s in SHIFTS.values()})


def test_both_budgets_share_their_source_models() -> None:
    first = SHORT.adaptation("blur", "smoothing", 0, 0.1).source
    assert first == LONG.adaptation("blur", "hard_switch", 0, 0.2).source


def test_the_learning_rate_is_the_best_on_the_tuning_seeds() -> None:
    slow, fast = LEARNING_RATES[0], LEARNING_RATES[-1]
    records = [
        record_of(SHORT.adaptation("blur", method, seed, rate, split="validation"), accuracy)
        for seed in TUNING_SEEDS
        for method, rate, accuracy in (
            ("smoothing", slow, 0.4),
            ("smoothing", fast, 0.5),
            ("hard_switch", slow, 0.6),
            ("hard_switch", fast, 0.5),
        )
    ]
    rates = chosen_rates(records, SHORT)
    assert (rates["blur", "smoothing"], rates["blur", "hard_switch"]) == (fast, slow)
    # What was tuned at one budget says nothing about the other.
    middle = LEARNING_RATES[len(LEARNING_RATES) // 2]
    assert chosen_rates(records, LONG)["blur", "smoothing"] == middle


def test_the_baseline_that_won_the_tuning_runs_on_all_fresh_seeds() -> None:
    records = [
        record_of(
            SHORT.adaptation("blur", method, seed, LEARNING_RATES[0], split="validation"),
            0.9 if method == "l2sp" else 0.5,
        )
        for seed in TUNING_SEEDS
        for method in COMPARED
    ]
    configs: list[Any] = PRESETS["short"].phases[1].configs(records)
    seeds = {
        method: {c.seed for c in configs if (c.shift.name, c.method.name) == ("blur", method)}
        for method in COMPARED
    }
    assert seeds["l2sp"] == seeds["smoothing"] == seeds["hard_switch"] == set(FRESH_SEEDS)
    assert seeds["fresh_head"] == set()
    others: list[Any] = PRESETS["other-methods"].phases[1].configs(records)
    assert "l2sp" not in {c.method.name for c in others if c.shift.name == "blur"}
    assert len({c.seed for c in others if c.method.name == "fresh_head"}) == 6


def test_ablations_vary_one_thing() -> None:
    configs: list[Any] = PRESETS["ablate-k"].phases[1].configs([])
    smoothing = [config for config in configs if config.method.name == "smoothing"]
    ramps = {config.method.schedule.num_smoothing_steps for config in smoothing}
    assert ramps == {30, 150, 300, 600}
    configs = PRESETS["ablate-bank"].phases[1].configs([])
    sizes = {c.method.num_bank_examples for c in configs if c.method.name == "smoothing"}
    assert sizes == {16, 64, 256, 1024, None}


def test_unknown_families_and_presets_suggest_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown family 'supervise'; did you mean 'supervised'"):
        load_presets("supervise")
    with pytest.raises(ValueError, match="unknown preset 'quik'; did you mean 'quick'"):
        load_preset("supervised", "quik")


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("SEGUE_DATA"), reason="SEGUE_DATA names no data folder")
def test_every_shift_of_every_preset_has_enough_examples() -> None:
    configs: dict[tuple[str, int], Any] = {}
    for name, preset in PRESETS.items():
        if name == "demo":
            continue
        for phase in preset.phases:
            for config in phase.configs([]):
                if config.kind == "target":
                    key = (config.shift.name, config.num_target_examples)  # type: ignore[attr-defined]
                    configs[key] = config
    for config in configs.values():
        task = load_adaptation(config, os.environ["SEGUE_DATA"])
        assert len(task.target_train.labels) == config.num_target_examples
