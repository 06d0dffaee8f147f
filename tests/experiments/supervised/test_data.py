from __future__ import annotations

import io
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from segue.experiments.supervised import data as data_module
from segue.experiments.supervised.data import (
    ImageData,
    Labelled,
    check_labels,
    load_cifar10,
    load_data,
    load_digits,
)


def read_afresh(root: Path | str, cache_dir: Path | None = None) -> ImageData:
    load_cifar10.cache_clear()
    return load_data("cifar10", root, cache_dir)


def with_bytes(frame: pl.DataFrame, row: int, content: bytes | None) -> pl.DataFrame:
    cells: list[Any] = frame["img"].to_list()
    cells[row] = {"bytes": content, "path": None}
    return frame.with_columns(pl.Series("img", cells, dtype=frame.schema["img"]))


def test_digits_are_grey_images_with_every_class_on_both_sides() -> None:
    data = load_digits()
    assert data.train.images.shape == (1297, 1, 8, 8)
    assert data.test.images.shape == (500, 1, 8, 8)
    assert data.train.images.dtype == torch.uint8
    assert int(data.train.images.max()) == 255
    for part in (data.train, data.test):
        assert part.labels.dtype == torch.int64
        assert part.labels.unique().tolist() == list(range(10))


def test_digits_are_normalised_to_zero_mean_and_unit_variance() -> None:
    data = load_digits()
    images = data.normalise(torch.cat([data.train.images, data.test.images]).float() / 255.0)
    assert abs(float(images.mean())) < 1e-2
    assert abs(float(images.std()) - 1.0) < 1e-2


def test_the_split_of_the_digits_does_not_depend_on_the_global_random_state() -> None:
    first = load_digits().fingerprint
    load_digits.cache_clear()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert load_digits().fingerprint == first
    assert torch.equal(torch.get_rng_state(), before)


def test_cifar10_has_the_pixels_and_labels_of_the_files(folder: Path, frame: pl.DataFrame) -> None:
    data = read_afresh(folder)
    assert data.train.images.shape == (20, 3, 32, 32)
    assert data.train.labels.tolist() == frame["label"].to_list()
    assert len(data.test.labels) == 10
    pixels = np.asarray(Image.open(io.BytesIO(frame["img"][7]["bytes"])))
    assert np.array_equal(data.train.images[7].permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize("place", ["cifar10", "cifar10/plain_text", ".", "plain_text"])
def test_cifar10_is_found_in_every_usual_place(folder: Path, tmp_path: Path, place: str) -> None:
    root = tmp_path / "elsewhere"
    shutil.copytree(folder / "cifar10", root / place)
    assert read_afresh(root).fingerprint == read_afresh(folder).fingerprint


def test_both_column_namings_of_the_hub_are_read(
    folder: Path, frame: pl.DataFrame, train_file: Path
) -> None:
    expected = read_afresh(folder)
    frame.rename({"img": "image", "label": "labels"}).write_parquet(train_file)
    assert read_afresh(folder).fingerprint == expected.fingerprint


def test_several_files_of_a_split_are_joined_in_the_order_of_their_names(
    folder: Path, frame: pl.DataFrame, train_file: Path
) -> None:
    expected = read_afresh(folder)
    train_file.unlink()
    frame[12:].write_parquet(train_file.with_name("train-00001-of-00002.parquet"))
    frame[:12].write_parquet(train_file.with_name("train-00000-of-00002.parquet"))
    assert read_afresh(folder).fingerprint == expected.fingerprint


def test_grey_images_of_the_right_size_become_colour_images(
    folder: Path, frame: pl.DataFrame, train_file: Path, png: Callable[..., bytes]
) -> None:
    with_bytes(frame, 0, png(0, grey=True)).write_parquet(train_file)
    image = read_afresh(folder).train.images[0]
    assert torch.equal(image[0], image[1])


def test_the_hub_is_read_by_its_address(
    folder: Path, monkeypatch: pytest.MonkeyPatch, train_file: Path
) -> None:
    asked: list[str] = []

    def read(address: str) -> pl.DataFrame:
        asked.append(address)
        return real(str(train_file))

    real = data_module._read_parquet
    monkeypatch.setattr(data_module, "_read_parquet", read)
    assert len(read_afresh("hub").train.labels) == 20
    assert asked == [
        f"hf://datasets/uoft-cs/cifar10/plain_text/{split}-*.parquet" for split in ("train", "test")
    ]


def test_a_hub_that_cannot_be_reached_is_named_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(address: str) -> pl.DataFrame:
        raise OSError("no connection")

    monkeypatch.setattr(pl, "read_parquet", refuse)
    with pytest.raises(ValueError, match=r"hf://.* no connection; .*--data FOLDER"):
        read_afresh("hub")


def test_a_missing_folder_says_where_it_looked_and_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        read_afresh(tmp_path / "nowhere")
    message = str(caught.value)
    assert str(tmp_path / "nowhere" / "cifar10") in message
    assert f"{tmp_path / 'nowhere'}/{{train,test}}" in message
    assert "--data" in message
    assert "SEGUE_DATA" in message


def test_a_folder_without_the_test_split_is_not_enough(folder: Path) -> None:
    (folder / "cifar10" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"\{train,test\}"):
        read_afresh(folder)


def test_no_folder_at_all_says_how_to_give_one() -> None:
    with pytest.raises(ValueError, match=r"--data FOLDER.*SEGUE_DATA"):
        load_data("cifar10", None)


def test_an_unknown_dataset_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown dataset 'cifar'; did you mean 'cifar10'\?"):
        load_data("cifar", None)


@pytest.mark.parametrize("column", ["img", "label"])
def test_a_missing_column_is_named(
    folder: Path, frame: pl.DataFrame, train_file: Path, column: str
) -> None:
    frame.rename({column: "other"}).write_parquet(train_file)
    with pytest.raises(ValueError, match=rf"{re.escape(str(train_file))} .*{column}.*other"):
        read_afresh(folder)


@pytest.mark.parametrize(
    "content", [b"not an image", b"", None, "truncated"], ids=["text", "empty", "null", "truncated"]
)
def test_a_broken_image_is_named_by_file_and_row(
    folder: Path, frame: pl.DataFrame, train_file: Path, content: bytes | str | None
) -> None:
    if isinstance(content, str):
        content = bytes(frame["img"][13]["bytes"][:700])
    with_bytes(frame, 13, content).write_parquet(train_file)
    with pytest.raises(ValueError, match=rf"row 13 of {re.escape(str(train_file))} .*image"):
        read_afresh(folder)


def test_an_image_of_another_size_is_named_by_file_and_row(
    folder: Path, frame: pl.DataFrame, train_file: Path, png: Callable[..., bytes]
) -> None:
    with_bytes(frame, 4, png(4, width=48, height=16)).write_parquet(train_file)
    with pytest.raises(ValueError, match=r"row 4 of .* must be 32 x 32 pixels, got \(48, 16\)"):
        read_afresh(folder)


def test_a_column_without_image_bytes_is_refused(
    folder: Path, frame: pl.DataFrame, train_file: Path
) -> None:
    frame.with_columns(pl.lit("0.png").alias("img")).write_parquet(train_file)
    with pytest.raises(ValueError, match=r"column img of .* must hold structs with a field bytes"):
        read_afresh(folder)


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_outside_the_range_names_file_and_value(
    folder: Path, frame: pl.DataFrame, train_file: Path, label: int
) -> None:
    labels = frame["label"].to_list()
    labels[3] = label
    frame.with_columns(pl.Series("label", labels)).write_parquet(train_file)
    with pytest.raises(ValueError, match=rf"{re.escape(str(train_file))}.*\[0, 10\).*got {label}$"):
        read_afresh(folder)


@pytest.mark.parametrize("label", [None, 1.5], ids=["missing", "float"])
def test_a_label_that_is_no_integer_is_refused(
    folder: Path, frame: pl.DataFrame, train_file: Path, label: float | None
) -> None:
    labels: list[float | None] = [*frame["label"].to_list()[:-1], label]
    frame.with_columns(pl.Series("label", labels, strict=False)).write_parquet(train_file)
    with pytest.raises(ValueError, match=r"column label of .* must hold integers"):
        read_afresh(folder)


def test_a_file_without_rows_is_refused(
    folder: Path, frame: pl.DataFrame, train_file: Path
) -> None:
    frame.clear().write_parquet(train_file)
    with pytest.raises(ValueError, match=r"the train split of cifar10 must hold images, got none"):
        read_afresh(folder)


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing"], ids=["empty", "cut off"])
def test_a_file_that_is_not_parquet_is_named(
    folder: Path, train_file: Path, content: bytes
) -> None:
    train_file.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"{re.escape(str(train_file))} must be a readable Parquet"
    ):
        read_afresh(folder)


def test_labels_are_checked_against_the_head() -> None:
    check_labels(torch.tensor([0, 4]), 5, "digits")
    with pytest.raises(ValueError, match=r"labels of digits must be in \[0, 5\).*got 7"):
        check_labels(torch.tensor([0, 7]), 5, "digits")
    with pytest.raises(ValueError, match=r"got -1"):
        check_labels(torch.tensor([-1, 2]), 5, "digits")
    with pytest.raises(ValueError, match="digits must hold examples, got none"):
        check_labels(torch.empty(0, dtype=torch.int64), 5, "digits")


def test_the_fingerprint_changes_with_one_pixel_or_one_label(
    folder: Path, frame: pl.DataFrame, train_file: Path, png: Callable[..., bytes]
) -> None:
    seen = {read_afresh(folder).fingerprint}
    with_bytes(frame, 5, png(99)).write_parquet(train_file)
    seen.add(read_afresh(folder).fingerprint)
    frame.with_columns(pl.Series("label", [1, *frame["label"].to_list()[1:]])).write_parquet(
        train_file
    )
    seen.add(read_afresh(folder).fingerprint)
    assert len(seen) == 3


# The file of decoded images


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, decoding an image fails the test."""

    def decode(*_: object) -> Labelled:
        raise AssertionError("images were decoded")

    return lambda: monkeypatch.setattr(data_module, "_decode", decode)


def test_decoded_images_are_read_back_without_decoding(
    folder: Path, tmp_path: Path, no_decoding: Callable[[], None]
) -> None:
    first = read_afresh(folder, tmp_path / "cache")
    assert first.fingerprint == read_afresh(folder).fingerprint
    no_decoding()
    again = read_afresh(folder, tmp_path / "cache")
    assert again.fingerprint == first.fingerprint
    assert torch.equal(again.train.images, first.train.images)
    assert torch.equal(again.test.labels, first.test.labels)


def test_decoded_images_of_other_files_are_not_used(
    folder: Path, frame: pl.DataFrame, tmp_path: Path, train_file: Path
) -> None:
    first = read_afresh(folder, tmp_path / "cache")
    swapped = frame.with_columns(frame["label"].reverse())
    swapped.write_parquet(train_file)  # same name, and possibly the same size
    again = read_afresh(folder, tmp_path / "cache")
    assert again.train.labels.tolist() == swapped["label"].to_list()
    assert again.fingerprint != first.fingerprint


@pytest.mark.parametrize("damage", ["cut off", "changed", "without fingerprint"])
def test_a_damaged_file_of_decoded_images_is_replaced(
    folder: Path, tmp_path: Path, damage: str, no_decoding: Callable[[], None]
) -> None:
    first = read_afresh(folder, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    content = bytearray(path.read_bytes())
    if damage == "cut off":
        content = content[: len(content) // 2]
    elif damage == "changed":
        content[-5] ^= 1
    else:
        content = bytearray(bytes(content).replace(b'"fingerprint"', b'"fingerprunt"'))
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="is not used and written again"):
        assert read_afresh(folder, tmp_path / "cache").fingerprint == first.fingerprint
    no_decoding()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_afresh(folder, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_only_costs_time(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="decoded images are not kept"):
        data = read_afresh(folder, tmp_path / "cache")
    assert len(data.train.labels) == 20


def test_data_are_read_once_per_process(folder: Path, no_decoding: Callable[[], None]) -> None:
    first = load_data("cifar10", folder)
    no_decoding()
    assert load_data("cifar10", folder) is first


@pytest.mark.data
def test_real_cifar10_is_complete_and_balanced(real_data: str) -> None:
    data = load_data("cifar10", real_data)
    assert data.train.images.shape == (50_000, 3, 32, 32)
    assert data.test.images.shape == (10_000, 3, 32, 32)
    assert data.train.labels.bincount().tolist() == [5_000] * 10
    assert data.test.labels.bincount().tolist() == [1_000] * 10
    sample = data.normalise(data.train.images[::10].float() / 255.0)
    assert sample.mean(dim=(0, 2, 3)).abs().max() < 0.02
    assert (sample.std(dim=(0, 2, 3)) - 1.0).abs().max() < 0.02
