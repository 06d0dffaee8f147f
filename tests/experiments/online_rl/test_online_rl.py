"""The online family: arms matched in what they spend, runs that resume, and records."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.experiments.online_rl.config import (
    SHIFTS,
    OnlineConfig,
    PPOConfig,
    ShiftConfig,
    TD3OnlineConfig,
)
from segue.experiments.online_rl.grids import (
    FRESH_SEEDS,
    LEARNING_RATES,
    TUNING_SEEDS,
    chosen_rates,
    compared,
    comparison,
    tuning,
)
from segue.experiments.online_rl.methods import METHODS, make_method
from segue.experiments.online_rl.presets import PRESETS
from segue.experiments.online_rl.setting import QUICK, STANDARD
from segue.experiments.online_rl.td3_methods import TD3_METHODS, make_td3_method
from segue.experiments.online_rl.train import build_learner, evaluation_points, train_online
from segue.rl.environments import changed_constants, make_environment
from segue.rl.ppo_settings import PPOSettings
from segue.rl.td3_online_settings import OnlineTD3Settings
from segue.rl.td3_settings import TD3Config
from segue.runs.context import RunContext, RunResult, Store
from segue.runs.grid import config_from_dict, config_to_dict, run_id
from segue.runs.records import Record

TINY = PPOSettings(
    num_envs=4, num_rollout_steps=8, num_epochs=2, num_minibatches=2, hidden_sizes=(8,)
)


TINY_TD3 = OnlineTD3Settings(
    learner=TD3Config((8,), batch_size=16),
    num_envs=2,
    num_rollout_steps=8,
    num_updates=8,
    buffer_capacity=1_024,
    num_random_env_steps=32,
    period=16,
)


def tiny(method: str = "smoothing", shift: str = "cartpole-force", seed: int = 0) -> PPOConfig:
    return PPOConfig(
        shift=ShiftConfig(shift), method=make_method(method), seed=seed, learning_rate=0.003,
        num_env_steps=6 * 32, learner=TINY, num_evaluations=3, num_episodes=2,
    )  # fmt: skip


def tiny_td3(
    method: str = "smoothing", shift: str = "td3-targets-pendulum", seed: int = 0
) -> TD3OnlineConfig:
    switch = SHIFTS[shift].switch
    data = {"target_update": "average", "recent_share": 0.5} if switch == "data" else {}
    learner = dataclasses.replace(TINY_TD3, **data)  # type: ignore[arg-type]
    return TD3OnlineConfig(
        shift=ShiftConfig(shift), method=make_td3_method(method, switch), seed=seed,
        learning_rate=0.003, num_env_steps=6 * 32, learner=learner, num_evaluations=3,
        num_episodes=2,
    )  # fmt: skip


class CutOffError(Exception):
    pass


def run(config: OnlineConfig, folder: Path, cut_at: int | None = None) -> RunResult:
    context = RunContext(config, Store(folder), checkpoint_steps=1)

    def report(step: int, total: int) -> None:
        if step == cut_at:
            raise CutOffError

    context.report = report
    return train_online(config, context)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(tiny(), tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    "config",
    [tiny(), tiny_td3(), tiny_td3(shift="td3-data-pendulum-torque")],
    ids=["ppo", "td3-targets", "td3-data"],
)
def test_a_run_that_was_cut_off_ends_as_one_that_was_not(
    config: OnlineConfig, tmp_path: Path
) -> None:
    whole = run(config, tmp_path / "whole")
    for cut_at in (2, 4):  # before and after the change
        with pytest.raises(CutOffError):
            run(config, tmp_path / "resumed", cut_at)
    resumed = run(config, tmp_path / "resumed")
    assert resumed.metrics == whole.metrics
    assert resumed.curves == whole.curves
    assert resumed.weights is not None
    assert whole.weights is not None
    for name, weight in whole.weights.items():
        assert weight.numpy().tobytes() == resumed.weights[name].numpy().tobytes()


def test_a_run_records_what_it_promises(whole: RunResult) -> None:
    metrics, curves = dict(whole.metrics), whole.curves
    assert metrics["num_env_steps"] == 192
    # 6 iterations of 4 updates on 16 examples, and a source minibatch in 2 updates of all but one.
    assert metrics["num_gradient_examples"] == 6 * 4 * 16 + 5 * 2 * 16
    for name in ("final_return", "area_under_curve", "policy_churn", "value_churn"):
        assert np.isfinite(metrics[name])
    steps, values = curves["return"]["step"], curves["return"]["value"]
    assert steps == [0, 64, 96, 128, 160, 192]
    assert metrics["final_return"] == values[-1]
    assert metrics["return_before_change"] == values[1]
    assert metrics["return_at_change"] == values[2]
    assert metrics["lowest_return_after_change"] == min(values[2:])
    assert curves["source_weight"]["value"] == [0.0] + [pytest.approx(0.375)] * 5
    assert curves["source_weight"]["step"] == [32, 64, 96, 128, 160, 192]
    assert set(curves) >= {"training_return", "target_loss", "policy_churn", "value_churn"}


def test_the_cost_counts_what_a_run_really_spends(whole: RunResult) -> None:
    first_has_no_source = 2 * 16
    assert tiny().cost() - first_has_no_source == whole.metrics["num_gradient_examples"]
    assert tiny().num_gradient_examples(0.5) == 4 * 16 + 2 * 16
    assert tiny("target_ramp").num_gradient_examples(0.5) == 4 * 16
    assert tiny("more_epochs").num_gradient_examples(0.0) == 6 * 16
    assert tiny_td3().num_gradient_examples(0.5) == 16 * 16 + 8 * 16
    assert tiny_td3("target_ramp").num_gradient_examples(0.5) == 16 * 16
    assert tiny_td3("more_updates").num_gradient_examples(0.0) == 24 * 16


def spends(shift: str, method: str) -> tuple[int, float]:
    config = STANDARD.run(shift, method, 0, 1e-3)
    learner = build_learner(config)
    num_iterations = config.num_points * config.num_iterations_per_point
    return num_iterations * learner.settings.num_examples, config.cost()


@pytest.mark.parametrize(
    ("shift", "methods", "controls"),
    [
        ("cartpole", METHODS, ("more_epochs", "larger_batches", "longer_rollouts")),
        ("td3-targets-pendulum", TD3_METHODS["targets"], ("more_updates", "larger_batches")),
        ("td3-data-pendulum", TD3_METHODS["data"], ("more_updates", "larger_batches")),
    ],
)
def test_every_arm_sees_as_many_environment_steps_and_the_controls_as_many_gradients(
    shift: str, methods: dict[str, Any], controls: tuple[str, ...]
) -> None:
    assert len({spends(shift, method)[0] for method in methods}) == 1
    smoothing, plain = spends(shift, "smoothing")[1], spends(shift, "hard_switch")[1]
    assert smoothing == 1.5 * plain
    for control in (*controls, "constant_mix"):
        assert spends(shift, control)[1] == smoothing, control
    assert spends(shift, "target_ramp")[1] == plain
    assert spends(shift, "smoothing_whole")[1] == 2.0 * plain


def test_the_constant_mix_holds_as_much_of_the_old_loss_as_smoothing() -> None:
    shares = {}
    for name in ("smoothing", "constant_mix"):
        schedule = make_method(name).schedule(1000)
        shares[name] = np.mean([schedule(step) for step in range(1000)])
    assert shares["smoothing"] == pytest.approx(shares["constant_mix"], abs=1e-3)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_phase_of_every_preset_can_be_laid_out_without_records(name: str) -> None:
    for phase in PRESETS[name].phases:
        configs = phase.configs([])
        assert len(set(map(run_id, configs))) == len(configs) > 0
        for config in configs[:: max(1, len(configs) // 20)]:
            assert config_from_dict(type(config), config_to_dict(config)) == config


def test_tuning_gives_every_arm_as_many_trials_on_seeds_of_their_own() -> None:
    assert not set(TUNING_SEEDS) & set(FRESH_SEEDS)
    assert len(FRESH_SEEDS) >= 10
    shifts = ("cartpole", "td3-targets-pendulum", "td3-data-pendulum")
    configs: list[Any] = tuning(STANDARD, shifts)([])
    for shift in shifts:
        for method in compared(shift):
            trials = [c for c in configs if (c.shift.name, c.method.name) == (shift, method)]
            assert len(trials) == len(LEARNING_RATES) * len(TUNING_SEEDS)
            assert {c.split for c in trials} == {"validation"}


def test_the_comparison_takes_each_arm_at_the_rate_that_was_best_on_the_tuning_seeds() -> None:
    def record(config: Any) -> Record:
        best = 0.003 if config.method.name == "smoothing" else 0.0003
        return Record(
            run_id(config), config.family, config.kind, config_to_dict(config), "completed",
            metrics={"final_return": -abs(config.learning_rate - best)},
        )  # fmt: skip

    records = [record(c) for c in tuning(QUICK, ["acrobot"], ["hard_switch", "smoothing"])([])]
    rates = {("acrobot", "hard_switch"): 0.0003, ("acrobot", "smoothing"): 0.003}
    assert chosen_rates(records) == rates
    configs: list[Any] = comparison(QUICK, ["acrobot"], ["hard_switch", "smoothing"])(records)
    assert {(c.shift.name, c.method.name): c.learning_rate for c in configs} == rates
    assert {c.split for c in configs} == {"test"}
    assert {c.seed for c in configs} == set(FRESH_SEEDS)


def test_a_changing_task_changes_a_constant_that_its_environment_has() -> None:
    changing = {name: shift for name, shift in SHIFTS.items() if shift.changes}
    assert len(changing) >= 2
    for shift in changing.values():
        spec = make_environment(shift.environment)
        assert changed_constants(spec, dict(shift.changes)) != dict(spec.constants)


def test_a_changing_task_is_evaluated_densely_after_its_change() -> None:
    config = STANDARD.run("cartpole-force", "smoothing", 0, 1e-3)
    half = config.num_points // 2
    assert {half, half + 1, half + 2, half + 4, half + 8} <= set(evaluation_points(config))
    plain = STANDARD.run("cartpole", "smoothing", 0, 1e-3)
    assert len(evaluation_points(plain)) <= 2 * plain.num_evaluations


def test_a_wrong_configuration_is_named() -> None:
    with pytest.raises(ValueError, match="unknown shift 'cart_pole'; did you mean 'cartpole'"):
        ShiftConfig("cart_pole")
    with pytest.raises(ValueError, match="unknown method 'smooth'"):
        make_method("smooth")
    with pytest.raises(ValueError, match=r"multiple of two iterations' \(64\), got 100"):
        dataclasses.replace(tiny(), num_env_steps=100)
    with pytest.raises(ValueError, match=r"whole epochs of 3, got 1\.5"):
        make_method("more_epochs").settings(dataclasses.replace(TINY, num_epochs=3))
    with pytest.raises(ValueError, match="unknown method 'averaged_targets'"):
        make_td3_method("averaged_targets", "data")
    with pytest.raises(ValueError, match=r"whole updates of 7, got 1\.5"):
        make_td3_method("more_updates", "data").settings(
            dataclasses.replace(TINY_TD3, num_updates=7)
        )
    with pytest.raises(ValueError, match=r"period must be a multiple of num_updates \(8\), got 20"):
        dataclasses.replace(tiny_td3(), learner=dataclasses.replace(TINY_TD3, period=20))
    with pytest.raises(ValueError, match="shift must be one of the learner 'td3', got 'cartpole'"):
        dataclasses.replace(tiny_td3(), shift=ShiftConfig("cartpole"))


def test_a_remedy_takes_the_switch_away() -> None:
    averaged = make_td3_method("averaged_targets", "targets").settings(TINY_TD3)
    assert averaged.target_update == "average"
    recent = dataclasses.replace(TINY_TD3, recent_share=0.5)
    assert make_td3_method("whole_buffer", "data").settings(recent).recent_share == 1.0
