"""Tiny runs of the family: what they record, and that a cut changes nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segue.batches import hash_content
from segue.experiments.offline_to_online.config import OnlineConfig, ShiftConfig
from segue.experiments.offline_to_online.methods import METHODS, make_method
from segue.experiments.offline_to_online.setting import Setting
from segue.experiments.offline_to_online.task import load_task
from segue.experiments.offline_to_online.train import (
    build_objective,
    train_offline,
    train_online,
)
from segue.rl.data import DatasetError, read_npz, write_npz
from segue.rl.td3 import TD3Config
from segue.runs.checkpoint import save_checkpoint
from segue.runs.context import RunContext, RunResult, Store
from segue.runs.records import Record

K = 40
SETTING = Setting(
    learner=TD3Config(hidden_widths=(8,), batch_size=8),
    num_transitions=200,
    min_offline_updates=20,
    max_offline_updates=40,
    num_updates_per_evaluation=20,
    num_env_steps=120,
    num_smoothing_steps=K,
    num_episodes=2,
    num_episodes_at_switch=3,
)


def online(name: str, seed: int = 0, **other: Any) -> OnlineConfig:
    method = replace(
        make_method(name, num_smoothing_steps=K),
        num_env_steps_before_updates=20,
        num_random_env_steps=0,
    )
    settings = {"num_env_steps_per_round": 4, **other}
    return SETTING.online("hopper-medium", method, seed, **settings)


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, data_root: Path
) -> Callable[..., tuple[RunResult, RunContext]]:
    """Runs a configuration in a store that holds the offline agent of seed 0."""
    store = Store(tmp_path_factory.mktemp("runs"))
    source = online("hard_switch").source
    found = train_offline(source, RunContext(source, store, str(data_root)))
    assert found.artifact is not None
    save_checkpoint(store.artifact(source), dict(found.artifact))

    def execute(config: OnlineConfig, **settings: Any) -> tuple[RunResult, RunContext]:
        context = RunContext(config, store, str(data_root), **settings)
        return train_online(config, context), context

    execute.source = found  # type: ignore[attr-defined]
    return execute


def as_record(result: RunResult) -> Record:
    """Strict JSON or an error."""
    return Record(
        "id", "offline_to_online", "target", {}, "completed",
        metrics=dict(result.metrics), curves=dict(result.curves),
    )  # fmt: skip


def test_the_offline_phase_says_whether_it_reached_a_plateau(run: Any) -> None:
    metrics = run.source.metrics
    assert metrics["num_offline_updates"] == 40
    assert metrics["reached_plateau"] is False
    assert metrics["offline_score"] != metrics["data_score"]
    assert run.source.curves["return"]["step"] == [20, 40]


def test_an_agent_at_its_plateau_is_not_trained_on_by_a_resume(
    tmp_path: Path, data_root: Path
) -> None:
    # The checkpoint of the last evaluation is written before the record is.
    source = replace(
        online("hard_switch").source, min_updates=60, max_updates=100, plateau_tolerance=1e9
    )
    whole = train_offline(source, RunContext(source, Store(tmp_path / "whole"), str(data_root)))
    assert (whole.metrics["num_offline_updates"], whole.metrics["reached_plateau"]) == (60, True)
    cut = RunContext(source, Store(tmp_path / "cut"), str(data_root), checkpoint_steps=20)
    train_offline(source, cut)
    resumed = RunContext(source, Store(tmp_path / "cut"), str(data_root))
    again = train_offline(source, resumed)
    assert resumed.num_resumes == 1
    assert again.metrics == whole.metrics
    assert whole.artifact is not None
    assert again.artifact is not None
    assert hash_content(dict(again.artifact)) == hash_content(dict(whole.artifact))


def test_with_the_critics_first_the_actor_waits_for_k_updates() -> None:
    objective = build_objective(make_method("critics_first", num_smoothing_steps=10))
    assert objective.schedule is not None
    assert [objective.schedule(step) for step in (0, 9, 10, 11, 40)] == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert (objective.smooth_actor, objective.smooth_critic) == (True, False)
    assert not objective.needs_offline_data


def test_a_run_records_the_switch(run: Callable[..., Any]) -> None:
    result, _ = run(online("smoothing"))
    record = as_record(result)
    assert record.non_finite == []
    for name in ("score", "return", "source_weight", "start_value_error", "saturated_share"):
        assert record.curves[name]["step"] == [0, 1, 100, 120], name
    assert record.curves["source_weight"]["value"] == [1.0, 1.0, 0.0, 0.0]
    metrics = record.metrics
    assert metrics["score_start"] == record.curves["score"]["value"][0]
    assert metrics["score_final"] == record.curves["score"]["value"][-1]
    assert metrics["score_lowest"] == min(record.curves["score"]["value"][1:])
    assert (metrics["num_env_steps"], metrics["num_updates"]) == (120, 100)
    assert metrics["num_gradient_batches"] == 100 + K
    training = record.curves["training_return"]
    assert len(training["step"]) == metrics["num_training_episodes"] > 0


def test_a_run_that_was_cut_off_equals_one_that_was_not(run: Callable[..., Any]) -> None:
    config = online("smoothing")
    whole, _ = run(config)

    def stop(step: int, total: int) -> None:
        if step >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, checkpoint_steps=1, report=stop)
    resumed, context = run(config)
    assert context.num_resumes == 1
    assert hash_content(dict(resumed.weights)) == hash_content(dict(whole.weights))
    assert resumed.metrics == whole.metrics
    assert resumed.curves == whole.curves
    context.store.checkpoint(config).unlink()


def test_arms_of_a_seed_start_from_the_same_agent_and_seeds_differ(
    run: Callable[..., Any],
) -> None:
    smoothing, _ = run(online("smoothing"))
    hard, _ = run(online("hard_switch"))
    assert hard.metrics["return_start"] == smoothing.metrics["return_start"]
    assert hard.metrics["num_gradient_batches"] == 100
    assert hash_content(dict(hard.weights)) != hash_content(dict(smoothing.weights))
    with pytest.raises(FileNotFoundError):  # another seed has another offline agent
        run(online("hard_switch", seed=1))


def test_from_scratch_needs_no_offline_agent(run: Callable[..., Any]) -> None:
    config = online("from_scratch", seed=1)
    assert config.requires() == ()
    first, _ = run(config)
    again, _ = run(config)
    assert first.metrics == again.metrics


def test_without_policies_a_run_says_what_is_missing(tmp_path: Path) -> None:
    config = online("hard_switch").source
    with pytest.raises(FileNotFoundError, match="generated from policies: set SEGUE_DATA"):
        train_offline(config, RunContext(config, Store(tmp_path)))


def test_data_of_another_environment_are_refused_before_training(
    tmp_path: Path, data_root: Path
) -> None:
    config = online("hard_switch").source
    load_task(config.shift, str(data_root), tmp_path / "cache")
    (path,) = (tmp_path / "cache" / "offline").glob("*.npz")
    dataset = read_npz(path)
    write_npz(path, replace(dataset, rewards=dataset.rewards - 1.0))
    trained: list[int] = []
    context = RunContext(config, Store(tmp_path), report=lambda step, total: trained.append(step))
    with pytest.raises(DatasetError, match="rewards must be those of the environment"):
        train_offline(config, context)
    assert trained == []


@pytest.mark.parametrize("name", METHODS)
def test_every_method_names_an_objective(name: str) -> None:
    method = make_method(name, num_smoothing_steps=100)
    objective = build_objective(method)
    assert method.name == name
    if method.control == "clock":
        assert objective.schedule is not None
        weights = [objective.schedule(step) for step in range(0, 401, 20)]
        assert (max(weights) > 0.0) == (method.schedule.shape != "hard_switch")
    else:
        assert objective.schedule is None
    assert make_method("smoothing_floor", num_smoothing_steps=10).schedule.final_weight == 0.3


def test_a_floor_is_held_and_then_released() -> None:
    method = make_method("smoothing_floor_released", num_smoothing_steps=10)
    schedule = build_objective(method).schedule
    assert schedule is not None
    assert [round(schedule(step), 2) for step in (0, 10, 19, 20, 25, 30)] == [
        1.0, 0.3, 0.3, 0.3, 0.15, 0.0,
    ]  # fmt: skip


def test_wrong_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown shift 'hoper-medium'; did you mean"):
        ShiftConfig("hoper-medium")
    with pytest.raises(ValueError, match="unknown method 'smothing'; did you mean 'smoothing'"):
        make_method("smothing", num_smoothing_steps=10)
    config = online("hard_switch")
    with pytest.raises(ValueError, match=r"seed must be the source's \(0\), got 3"):
        replace(config, seed=3)
    with pytest.raises(ValueError, match="layer_norm_critic must be the source's"):
        replace(config, method=make_method("hard_switch_layer_norm", num_smoothing_steps=10))
    with pytest.raises(ValueError, match="num_episodes_at_switch must be >= num_episodes"):
        replace(config, num_episodes_at_switch=1)
