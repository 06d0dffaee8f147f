"""Trainings of the tiny network on the tiny PACS."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from segue.experiments.vision import train
from segue.experiments.vision.config import AdaptationConfig, ShiftConfig
from segue.experiments.vision.grids import NEEDS_NO_DATA
from segue.experiments.vision.methods import METHODS, ScheduleConfig
from segue.experiments.vision.terms import Terms
from segue.runs.checkpoint import save_checkpoint
from segue.runs.execution import RunContext, RunResult, Store, execute
from segue.runs.grid import config_from_dict, config_to_dict, run_id
from segue.runs.records import load_records

Make = Callable[..., AdaptationConfig]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Where domain models and cached outputs are kept for all tests."""
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def run(store: Store, shared_root: Path) -> Callable[[AdaptationConfig], RunResult]:
    """Runs an adaptation, and first its domain model if there is none yet."""

    def execute_one(config: AdaptationConfig) -> RunResult:
        if config.source is not None and not store.artifact(config.source).exists():
            source = config.source.execute(RunContext(config.source, store, str(shared_root)))
            assert source.artifact is not None
            save_checkpoint(store.artifact(config.source), dict(source.artifact))
        return config.execute(RunContext(config, store, str(shared_root)))

    return execute_one


def same(a: RunResult, b: RunResult) -> bool:
    assert a.weights is not None
    assert b.weights is not None
    return all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(method: str, run: Any, run_config: Make) -> None:
    config = run_config(method)
    result = run(config)
    metrics = result.metrics
    assert metrics["target_accuracy"] > 0.34  # of three classes
    assert metrics["num_target_examples_used"] == 60
    assert set(result.curves["target_accuracy"]["step"]) == {0, 1, 2, 3, 5, 10}
    assert metrics["lowest_target_accuracy"] <= metrics["target_accuracy"] + 1e-9
    assert sum(result.curves["target_confusion"]["value"]) == 24
    assert len(json.loads(metrics["class_names"])) == 3
    ramp = config.method.schedule.shape == "linear"
    assert result.curves["source_weight"]["value"][0] == (
        1.0 if ramp else config.method.schedule.initial_weight * (method == "constant_mix")
    )
    assert result.curves["source_weight"]["value"][-1] == (0.5 if method == "constant_mix" else 0.0)


@pytest.mark.parametrize("method", NEEDS_NO_DATA)
def test_every_method_for_it_starts_from_the_bare_checkpoint(
    method: str, run: Any, run_config: Make
) -> None:
    result = run(run_config(method, shift="imagenet_to_sketch"))
    assert result.metrics["source_model_accuracy"] == 1.0  # it agrees with itself
    assert result.curves["source_accuracy"]["value"][0] == 1.0
    assert 0.0 <= result.metrics["source_accuracy"] <= 1.0
    if method == "frozen_backbone":
        assert result.metrics["source_accuracy"] == 1.0


def test_compute_is_counted_by_kind(run: Any, run_config: Make) -> None:
    def counts(method: str) -> tuple[int, int, int]:
        metrics = run(run_config(method)).metrics
        return tuple(
            metrics[f"num_{kind}_examples"] for kind in ("gradient", "teacher", "head_only")
        )  # type: ignore[return-value]

    assert counts("hard_switch") == (60, 0, 0)
    assert counts("smoothing") == (60 + 4 * 6, 0, 0)  # K steps of replay
    assert counts("constant_mix") == (120, 0, 0)
    assert counts("smoothing_logits") == (60, 24, 0)
    assert counts("smoothing_l2sp") == (60, 0, 0)
    assert counts("lwf") == (60, 60, 0)
    assert counts("head_first") == (48, 0, 12)
    assert counts("frozen_backbone") == (0, 0, 60)


def test_methods_of_a_seed_share_the_source_model_and_start(run: Any, run_config: Make) -> None:
    results = [run(run_config(m)) for m in ("hard_switch", "smoothing", "ewc", "lwf", "wise_ft")]
    assert len({r.metrics["target_accuracy_before"] for r in results}) == 1
    assert len({r.metrics["source_model_accuracy"] for r in results}) == 1
    assert results[0].metrics["source_accuracy_before"] > 0.5
    fresh = run(run_config("fresh_head"))
    assert fresh.metrics["source_model_accuracy"] == results[0].metrics["source_model_accuracy"]
    assert fresh.metrics["source_accuracy_before"] < fresh.metrics["source_model_accuracy"]


def test_without_weight_a_source_term_leaves_the_hard_switch_bit_identical(
    run: Any, run_config: Make
) -> None:
    hard = run(run_config("hard_switch"))
    for method in ("smoothing", "smoothing_logits", "smoothing_ewc"):
        config = run_config(method)
        none = replace(config.method, schedule=ScheduleConfig("linear", 0))
        assert same(run(replace(config, method=none)), hard)
        assert not same(run(config), hard)


def test_a_frozen_backbone_stays_as_it_was_with_its_statistics(run: Any, run_config: Make) -> None:
    config = run_config("frozen_backbone")
    result = run(config)
    start = run(replace(config, optimizer=replace(config.optimizer, learning_rate=1e-12)))
    for name, value in result.weights.items():
        changed = not torch.equal(value, start.weights[name])
        assert changed == name.startswith("head."), name


def test_wise_ft_is_the_average_of_the_source_and_the_trained_weights(
    run: Any, run_config: Make
) -> None:
    config = run_config("wise_ft")
    half, trained, none = (
        run(replace(config, method=replace(config.method, wise_share=share))).weights
        for share in (0.5, 1.0, 0.0)
    )
    assert not torch.equal(trained["head.weight"], none["head.weight"])
    for name in ("head.weight", "upper.0.weight", "upper.1.running_mean"):
        torch.testing.assert_close(half[name], (trained[name] + none[name]) / 2)


def test_penalties_hold_the_weights_and_keep_the_source(run: Any, run_config: Make) -> None:
    free = run(run_config("hard_switch")).weights
    start = run(replace(run_config("frozen_backbone"))).weights
    for method in ("l2sp", "ewc", "smoothing_l2sp"):
        config = run_config(method)
        strong = replace(config, method=replace(config.method, scale=5.0))
        held = run(strong).weights
        moved = [
            sum((w[n] - start[n]).square().sum().item() for n in w if n.startswith("upper.0."))
            for w in (held, free)
        ]
        assert moved[0] < moved[1], method


@pytest.mark.parametrize(
    "method", ["smoothing_replay_l2sp", "smoothing_features", "ewc", "lwf", "head_first", "wise_ft"]
)
@pytest.mark.parametrize("cut", [2, 7])  # on the ramp and after it
def test_a_run_that_was_cut_off_resumes_bit_identical(
    method: str,
    cut: int,
    run: Any,
    run_config: Make,
    shared_root: Path,
    tmp_path: Path,
    store: Store,
) -> None:
    config = run_config(method)
    whole = run(config)
    context = RunContext(config, Store(tmp_path), str(shared_root))
    # Its own folder, so that the checkpoint is where the resumed run looks for it.
    assert config.source is not None
    artifact = context.store.artifact(config.source)
    artifact.parent.mkdir(parents=True)
    artifact.write_bytes(store.artifact(config.source).read_bytes())
    first = train._Adaptation(config, context)
    for step in range(cut):
        if step in (0, 1, 2, 3, 5):
            first.measure()
        first.train_step()
    context.save_checkpoint(first.state_dict())
    del first
    torch.manual_seed(99)
    resumed = config.execute(context)
    assert same(resumed, whole)
    assert resumed.curves == whole.curves
    assert dict(resumed.metrics) == dict(whole.metrics)


def test_a_domain_model_that_was_cut_off_resumes_bit_identical(
    run_config: Make, shared_root: Path, tmp_path: Path
) -> None:
    source = run_config("smoothing").source
    assert source is not None

    class Stop(Exception):
        pass

    def stop(step: int, total: int) -> None:
        if step == 6:
            raise Stop

    whole = source.execute(RunContext(source, Store(tmp_path / "a"), str(shared_root)))
    other = Store(tmp_path / "b")
    with pytest.raises(Stop):
        source.execute(RunContext(source, other, str(shared_root), report=stop, checkpoint_steps=5))
    resumed = source.execute(RunContext(source, other, str(shared_root)))
    assert whole.artifact is not None
    assert resumed.artifact is not None
    assert set(whole.artifact) == set(resumed.artifact)
    assert any(name.startswith("fisher.") for name in whole.artifact)
    for name, value in whole.artifact.items():
        assert torch.equal(value, resumed.artifact[name])


@pytest.mark.parametrize("method", ["smoothing", "smoothing_logits", "smoothing_ewc"])
def test_after_the_ramp_no_bank_teacher_or_anchor_is_alive(
    method: str, run: Any, run_config: Make, shared_root: Path, store: Store
) -> None:
    config = run_config(method)
    run(config)
    adaptation = train._Adaptation(config, RunContext(config, store, str(shared_root)))
    terms: Terms = adaptation.terms
    held: list[Any] = []
    if terms.replay is not None:
        held += [weakref.ref(tensor) for tensor in terms.replay._bank]
    if terms.distillation is not None:
        held += [weakref.ref(p) for p in terms.distillation._teacher.parameters()]  # type: ignore[union-attr]
    if terms.anchor is not None:
        held += [weakref.ref(tensor) for tensor in terms.anchor._anchor.values()]
    assert held
    for _ in range(4):
        assert all(reference() is not None for reference in held)
        adaptation.train_step()
    gc.collect()
    assert all(reference() is None for reference in held)
    adaptation.train_step()


@pytest.mark.parametrize("policy", ["shared", "target_only", "frozen_source"])
def test_the_batch_norm_policy_decides_whose_statistics_stay(
    policy: str, run: Any, run_config: Make, store: Store, shared_root: Path
) -> None:
    config = replace(run_config("constant_mix"), batch_norm=policy)  # type: ignore[arg-type]
    run(config)
    adaptation = train._Adaptation(config, RunContext(config, store, str(shared_root)))
    norm = adaptation.model.upper[1]  # type: ignore[index]
    before = int(norm.num_batches_tracked)
    for _ in range(3):
        adaptation.train_step()
    assert int(norm.num_batches_tracked) - before == (6 if policy == "shared" else 3)


def test_full_training_moves_the_lower_blocks(run: Any, run_config: Make) -> None:
    config = run_config("smoothing")
    whole = replace(config.network, trained="all")
    assert config.source is not None
    config = replace(config, network=whole, source=replace(config.source, network=whole))
    before = run(replace(config, optimizer=replace(config.optimizer, learning_rate=1e-12)))
    after = run(config)
    assert not torch.equal(after.weights["lower.0.weight"], before.weights["lower.0.weight"])
    assert after.metrics["target_accuracy"] > 0.34


def test_a_grid_writes_one_record_per_run_and_skips_what_is_done(
    run_config: Make, shared_root: Path, tmp_path: Path
) -> None:
    configs = [run_config("hard_switch"), run_config("lwf", shift="imagenet_to_cartoon")]
    for num_done in (0, 2):
        summary = execute(configs, tmp_path, num_workers=0, data_root=str(shared_root))
        assert (summary.num_failed, summary.num_skipped) == (0, num_done)
    records = {record.run_id: record for record in load_records(tmp_path / "vision")}
    assert len(records) == 3  # and the domain model's
    for config in configs:
        record = records[run_id(config)]
        assert config_from_dict(AdaptationConfig, record.config) == config
        assert record.provenance["data_fingerprint"]
        assert record.non_finite == []


def test_a_corrupt_image_fails_the_run_and_is_named_in_its_record(
    run_config: Make, own_root: Path, tmp_path: Path
) -> None:
    (own_root / "pacs/photo/dog/train_000.jpg").write_text("no image")
    execute([run_config("hard_switch")], tmp_path, num_workers=0, data_root=str(own_root))
    failed = {r.kind: r.error["message"] for r in load_records(tmp_path / "vision") if r.error}
    assert "train_000.jpg must be a whole image" in failed["source"]
    assert "has failed" in failed["target"]


def test_what_contradicts_itself_is_refused(run_config: Make) -> None:
    config = run_config("smoothing")
    assert config_from_dict(AdaptationConfig, config_to_dict(config)) == config
    with pytest.raises(ValueError, match="seed must be the source's"):
        replace(config, seed=5)
    with pytest.raises(ValueError, match="network must be the source's"):
        replace(config, network=replace(config.network, dropout=0.0))
    with pytest.raises(ValueError, match="shift must be the source's"):
        replace(config, shift=ShiftConfig("sketch_to_photo"))
    with pytest.raises(ValueError, match="source must be the run of photo, got None"):
        replace(config, source=None)
    with pytest.raises(ValueError, match=r"num_target_examples must be >= batch_size \(6\), got 3"):
        replace(config, num_target_examples=3)
    bare = run_config("lwf", shift="imagenet_to_sketch")
    with pytest.raises(ValueError, match=r"method must need no source data .* got 'smoothing'"):
        replace(bare, method=replace(config.method, initialization="fresh_head"))
    with pytest.raises(ValueError, match=r"method must need no source data .* got 'ewc'"):
        replace(bare, method=run_config("ewc").method)
    with pytest.raises(ValueError, match="initialization must be 'fresh_head' for imagenet_to_s"):
        replace(bare, method=run_config("lwf").method)
    with pytest.raises(ValueError, match="source must be None for imagenet_to_sketch, got a run"):
        replace(bare, source=config.source)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("photo_to_scetch", "unknown shift 'photo_to_scetch'; did you mean 'photo_to_sketch'"),
        ("photo_to_photo", "unknown shift 'photo_to_photo'"),
        ("sketch_to_imagenet", "unknown shift 'sketch_to_imagenet'"),
    ],
)
def test_an_unknown_pair_suggests_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShiftConfig(name)
