from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segue.experiments.vision.config import AdaptationConfig
from segue.experiments.vision.models import build_network, normalise
from segue.experiments.vision.task import AdaptationTask, balanced, load_adaptation, load_source

Make = Callable[..., AdaptationConfig]


def load(config: AdaptationConfig, root: Path, cache: Path | None = None) -> AdaptationTask:
    lower, _ = build_network(config.network, seed=0)
    return load_adaptation(config, lower, str(root), cache)


def rows(inputs: Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in inputs.flatten(1).tolist()}


def everything(examples: Any) -> Tensor:
    inputs: Tensor = examples.inputs(torch.arange(len(examples)))
    return inputs


def test_target_examples_are_drawn_by_the_seed_and_hold_every_class_equally(
    shared_root: Path, run_config: Make
) -> None:
    first, again, other = (
        load(run_config(method, seed=seed), shared_root)
        for method, seed in (("hard_switch", 0), ("smoothing", 0), ("hard_switch", 1))
    )
    assert first.target_train.labels.bincount().tolist() == [4, 4, 4]
    assert torch.equal(everything(first.target_train), everything(again.target_train))
    assert rows(everything(first.target_train)) != rows(everything(other.target_train))


def test_a_class_that_is_used_up_is_passed_over() -> None:
    labels = torch.tensor([0] * 50 + [1] * 3 + [2] * 50)
    drawn = labels[balanced(labels, 30, seed=3)]
    assert drawn.bincount().tolist() == [14, 3, 13]
    assert len(balanced(labels, 200, seed=3).unique()) == 103


def test_validation_images_are_never_trained_on_and_the_same_for_every_seed(
    shared_root: Path, run_config: Make
) -> None:
    tasks = [
        load(run_config("smoothing", seed=seed, split="validation"), shared_root) for seed in (0, 1)
    ]
    held_out = [rows(everything(task.target_test)) for task in tasks]
    assert held_out[0] == held_out[1]
    assert len(held_out[0]) == round(0.15 * 60)
    large = replace(run_config("smoothing", split="test"), num_target_examples=51)
    assert not rows(everything(load(large, shared_root).target_train)) & held_out[0]
    # Nor by the domain model of that domain.
    config = run_config("smoothing", shift="sketch_to_photo").source
    assert config is not None
    lower, _ = build_network(config.network, seed=0)
    task = load_source(config, lower, str(shared_root))
    assert len(task.train) == 51
    assert not rows(everything(task.train)) & held_out[0]


def test_outputs_of_the_frozen_blocks_are_cached(
    shared_root: Path, run_config: Make, tmp_path: Path
) -> None:
    config = run_config("smoothing")
    computed = load(config, shared_root)
    task = load(config, shared_root, tmp_path)
    cached = load(config, shared_root, tmp_path)
    files = sorted(path.name.split("-")[1] for path in tmp_path.iterdir())
    assert files == ["photo_test", "photo_train", "sketch_test", "sketch_train"]
    for a, b in ((task, computed), (cached, computed)):
        assert torch.equal(everything(a.target_train), everything(b.target_train))
        assert a.fingerprint == b.fingerprint


def test_full_training_takes_normalised_images(shared_root: Path, run_config: Make) -> None:
    frozen = run_config("smoothing")
    whole = replace(frozen.network, trained="all")
    assert frozen.source is not None
    full = replace(frozen, network=whole, source=replace(frozen.source, network=whole))
    images = everything(load(full, shared_root).target_train)
    assert images.shape == (12, 3, 16, 16)
    assert -1.0 <= images.min() < images.max() <= 1.0
    lower, _ = build_network(frozen.network, seed=0)
    features = everything(load(frozen, shared_root).target_train)
    torch.testing.assert_close(lower(images), features)


def test_a_spoilt_cache_file_is_written_again(
    shared_root: Path, run_config: Make, tmp_path: Path
) -> None:
    config = run_config("smoothing")
    want = everything(load(config, shared_root, tmp_path).target_train)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:50])
    with pytest.warns(UserWarning, match="is not used and written again"):
        got = everything(load(config, shared_root, tmp_path).target_train)
    assert torch.equal(got, want)


def test_from_the_checkpoint_there_are_no_source_data(shared_root: Path, run_config: Make) -> None:
    task = load(run_config("hard_switch", shift="imagenet_to_sketch"), shared_root)
    assert task.source_train is None
    photos = load(run_config("hard_switch", shift="photo_to_sketch"), shared_root).source_test
    assert rows(everything(task.source_test)) == rows(everything(photos))


def test_what_does_not_fit_is_named_before_training(own_root: Path, run_config: Make) -> None:
    config = replace(run_config("hard_switch"), num_target_examples=52)
    with pytest.raises(ValueError, match="num_target_examples must be <= the 51 images of sketch"):
        load(config, own_root)
    network = replace(config.network, num_classes=4)
    assert config.source is not None
    four = replace(config, network=network, source=replace(config.source, network=network))
    with pytest.raises(
        ValueError, match="num_classes must be the 3 classes of sketch_train, got 4"
    ):
        load(four, own_root)
    file = own_root / "pacs" / "photo_test.txt"
    file.write_text("\n".join(x for x in file.read_text().splitlines() if "house" not in x))
    file = own_root / "pacs" / "photo_train.txt"
    file.write_text("\n".join(x for x in file.read_text().splitlines() if "house" not in x))
    (own_root / "pacs" / "classes.txt").unlink()
    with pytest.raises(ValueError, match="must have the same classes, only sketch_train has house"):
        load(run_config("smoothing"), own_root)


def test_images_are_normalised_as_the_checkpoint_was_trained() -> None:
    got = normalise(torch.tensor([127, 255, 0], dtype=torch.uint8))
    assert got.tolist() == [0.0, 1.0, -127 / 128]
