"""Pictures of runs that were made: the policies are those that the records speak of."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segue import cli
from segue.experiments.families import Phase, Preset
from segue.experiments.offline_to_online import presets
from segue.experiments.offline_to_online.config import OnlineConfig
from segue.experiments.offline_to_online.setting import Setting
from segue.experiments.offline_to_online.strip import find_runs, replay
from segue.rl.evaluation import evaluate, evaluation_seeds
from segue.rl.td3 import TD3Config
from segue.runs.context import Store
from segue.runs.execution import execute
from segue.runs.grid import RunConfig, run_id
from segue.runs.records import read_record

SHIFT, METHODS = "hopper-medium", ("hard_switch", "smoothing")
SETTING = Setting(
    learner=TD3Config(hidden_widths=(8,), batch_size=8, actor_learning_rate=3e-2),
    num_transitions=200,
    min_offline_updates=20,
    max_offline_updates=20,
    num_updates_per_evaluation=20,
    num_env_steps=520,
    num_smoothing_steps=100,
    num_episodes=2,
    num_episodes_at_switch=3,
)


def configs(methods: Sequence[str], seeds: Sequence[int]) -> list[RunConfig]:
    """Rounds of one environment step: one number of updates to compile."""
    return [
        SETTING.online(SHIFT, method, seed, num_env_steps_per_round=1)
        for seed in seeds
        for method in methods
    ]


@pytest.fixture(autouse=True)
def _tiny_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    phase = Phase("tiny", lambda records: configs(METHODS, (0, 1)))
    monkeypatch.setitem(presets.PRESETS, "tiny", Preset("tiny", (phase,)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A folder in which the hard switch of seed 0 was made."""
    out = tmp_path_factory.mktemp("runs")
    execute(configs(METHODS[:1], (0,)), out, num_workers=0, data_root=str(data_root))
    return out


@pytest.fixture
def config() -> OnlineConfig:
    return find_runs("tiny", SHIFT, ["hard_switch"], 0)[0]


@pytest.fixture
def record_of(runs: Path) -> Callable[[OnlineConfig], Path]:
    return lambda config: Store(runs).records(config) / f"{run_id(config)}.json"


def test_the_pictured_policies_are_those_of_the_record(
    runs: Path, config: OnlineConfig, record_of: Callable[[OnlineConfig], Path]
) -> None:
    curve = read_record(record_of(config)).curves["return"]
    returns = dict(zip(curve["step"], curve["value"], strict=True))
    before = sorted(runs.rglob("*.*"))
    run, moments = replay(config, Store(runs))  # the data set is in the cache
    assert sorted(runs.rglob("*.*")) == before  # nothing is written
    assert [moment.name for moment in moments] == [
        "at the switch", "at its lowest", "at the end",
    ]  # fmt: skip
    after = {step: value for step, value in returns.items() if step > 0}
    lowest = min(after, key=lambda step: after[step])
    assert [moment.env_step for moment in moments] == [0, lowest, 520]
    assert len({moment.mean_return for moment in moments}) > 1
    for moment in moments:
        num = config.num_episodes_at_switch if moment.env_step == 0 else config.num_episodes
        found = evaluate(
            run.task.evaluation_env,
            run.training.preprocessing,
            moment.actor,
            evaluation_seeds(config.seed, config.num_episodes_at_switch)[:num],
        )
        assert found.mean_return == moment.mean_return == returns[moment.env_step]


def test_without_a_record_the_lowest_is_found_by_evaluating(
    runs: Path, config: OnlineConfig, record_of: Callable[[OnlineConfig], Path]
) -> None:
    _, with_record = replay(config, Store(runs))
    content = record_of(config).read_bytes()
    record_of(config).unlink()
    try:
        _, without = replay(config, Store(runs))
    finally:
        record_of(config).write_bytes(content)
    for a, b in zip(with_record, without, strict=True):
        assert (a.env_step, a.mean_return) == (b.env_step, b.mean_return)
        layers = [each.actor["params"]["mlp"]["Dense_0"]["kernel"] for each in (a, b)]
        np.testing.assert_array_equal(*layers)


def test_a_record_of_other_weights_or_of_a_failed_run_is_refused(
    runs: Path, config: OnlineConfig, record_of: Callable[[OnlineConfig], Path]
) -> None:
    path = record_of(config)
    content = path.read_bytes()
    try:
        changed = json.loads(content)
        changed["artifacts"]["weights"]["sha256"] = "0" * 64
        path.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=r"must end in the weights of its record .* got"):
            replay(config, Store(runs))
        failed = {**json.loads(content), "status": "failed", "error": {"message": "diverged"}}
        path.write_text(json.dumps(failed))
        with pytest.raises(ValueError, match="must have been completed, it failed: diverged"):
            replay(config, Store(runs))
    finally:
        path.write_bytes(content)


def test_the_command_writes_a_strip_and_an_animation(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main([
        "strip", "offline_to_online", "--shift", SHIFT, "--methods", "hard_switch", "--preset", "tiny",
        "--runs", str(runs), "--out", str(tmp_path),
    ])  # fmt: skip
    assert capsys.readouterr().out.count("wrote") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "hopper-medium-seed0.gif", "hopper-medium-seed0.png",
    ]  # fmt: skip
    with Image.open(tmp_path / "hopper-medium-seed0.png") as strip:
        assert strip.size[1] == 3 * (150 + 22) + 18  # three policies
    with Image.open(tmp_path / "hopper-medium-seed0.gif") as moving:
        assert moving.size == (3 * 204 + 4, 150 + 40)
        assert moving.n_frames > 1  # type: ignore[attr-defined]


def test_what_was_not_run_cannot_be_pictured(tmp_path: Path, config: OnlineConfig) -> None:
    with pytest.raises(FileNotFoundError, match="found no offline agent of hopper-medium, seed 0"):
        replay(config, Store(tmp_path))
    with pytest.raises(ValueError, match="unknown shift 'hoper-medium'; did you mean"):
        find_runs("tiny", "hoper-medium", METHODS, 0)
    with pytest.raises(ValueError, match="unknown method 'smothing'; did you mean 'smoothing'"):
        find_runs("tiny", SHIFT, ["smothing"], 0)
    with pytest.raises(ValueError, match=r"seed must be one of the preset's \[0, 1\], got 7"):
        find_runs("tiny", SHIFT, METHODS, 7)
    with pytest.raises(ValueError, match="methods must name at least one method"):
        find_runs("tiny", SHIFT, [], 0)
