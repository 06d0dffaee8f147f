"""Example images of a shift's domains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segue.cli import main
from segue.experiments.vision.config import ShiftConfig
from segue.experiments.vision.images import read_image
from segue.experiments.vision.samples import write_samples

SIZE = 16


def frame(picture: Path, row: int, column: int) -> np.ndarray:
    left, top = 4 + column * (SIZE + 4), 18 + row * (18 + SIZE + 4) + 18
    with Image.open(picture) as image:
        return np.asarray(image)[top : top + SIZE, left : left + SIZE]


def is_of(root: Path, domain: str, name: str, pixels: np.ndarray) -> bool:
    files = sorted((root / "pacs" / domain / name).glob("train_*.jpg"))
    return any(
        np.array_equal(read_image(file, SIZE)[0].permute(1, 2, 0).numpy(), pixels) for file in files
    )


def test_each_row_is_a_domain_and_each_column_a_class(shared_root: Path, tmp_path: Path) -> None:
    shift = ShiftConfig("photo_to_sketch")
    path = write_samples(shift, str(shared_root), tmp_path, image_size=SIZE)
    assert path.name == "photo_to_sketch-seed0.png"
    for row, domain in enumerate(("photo", "sketch")):
        for column, name in enumerate(("dog", "guitar", "house")):
            assert is_of(shared_root, domain, name, frame(path, row, column)), (domain, name)
    with Image.open(path) as image:
        assert image.info["Description"] == "dog, guitar, house: photo and sketch"
    other = write_samples(shift, str(shared_root), tmp_path, seed=1, image_size=SIZE)
    assert other != path
    assert any(not np.array_equal(frame(path, 0, i), frame(other, 0, i)) for i in range(3))


def test_the_checkpoint_has_no_row(shared_root: Path, tmp_path: Path) -> None:
    shift = ShiftConfig("imagenet_to_sketch")
    path = write_samples(shift, str(shared_root), tmp_path, image_size=SIZE)
    with Image.open(path) as image:
        assert image.size[1] == 18 + (18 + SIZE + 4)
    assert is_of(shared_root, "sketch", "house", frame(path, 0, 2))


def test_a_class_without_an_image_is_named(own_root: Path, tmp_path: Path) -> None:
    file = own_root / "pacs" / "sketch_train.txt"
    kept = [line for line in file.read_text().splitlines() if "/house/" not in line]
    file.write_text("\n".join(kept) + "\n")
    with pytest.raises(ValueError, match="sketch_train must hold an image of every class, has no"):
        write_samples(ShiftConfig("photo_to_sketch"), str(own_root), tmp_path)


def test_the_command_writes_the_picture(
    shared_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pictures"
    shift, data = ("--shift", "photo_to_cartoon"), ("--data", str(shared_root))
    main(["samples", "vision", *shift, *data, "--out", str(out)])
    assert "photo_to_cartoon-seed0.png" in capsys.readouterr().out.replace("\n", "")
    assert (out / "photo_to_cartoon-seed0.png").exists()
