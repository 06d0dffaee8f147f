import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segue.experiments.vision.images import (
    BadImageError,
    check_same_classes,
    find_dataset,
    list_images,
    read_image,
)
from segue.experiments.vision.task import check_dataset

FIRST = "photo/dog/train_000.jpg"


def test_images_and_labels_are_those_of_the_list(shared_root: Path) -> None:
    images = list_images(shared_root / "pacs", "photo", "train")
    assert (len(images), images.classes) == (60, ("dog", "guitar", "house"))
    assert images.labels.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    pixels = images.read(torch.tensor([0, 20, 40]), 16)
    assert (pixels.shape, pixels.dtype) == ((3, 3, 16, 16), torch.uint8)
    # The classes are red, green and blue.
    assert pixels.float().mean(dim=(2, 3)).argmax(dim=1).tolist() == [0, 1, 2]
    assert list_images(shared_root / "pacs", "photo", "test").labels.bincount().tolist() == [8] * 3


def test_the_layout_of_domainnet_needs_no_file_of_classes(own_root: Path) -> None:
    folder = own_root / "domainnet"
    shutil.move(own_root / "pacs", folder)
    (folder / "classes.txt").unlink()
    (folder / "photo/dog").rename(folder / "photo/The Eiffel Tower")
    for which in ("train", "test"):
        file = folder / f"photo_{which}.txt"
        file.write_text(file.read_text().replace("/dog/", "/The Eiffel Tower/"))
    images = list_images(find_dataset(own_root, "domainnet"), "photo", "train")
    assert images.classes == ("The Eiffel Tower", "guitar", "house")
    assert images.read([0], 8).shape == (1, 3, 8, 8)


def grey(path: Path) -> None:
    Image.fromarray(np.full((20, 20), 128, np.uint8)).save(path)


def cmyk(path: Path) -> None:
    Image.fromarray(np.full((20, 20, 3), 128, np.uint8)).convert("CMYK").save(path, format="JPEG")


@pytest.mark.parametrize(("save", "mode"), [(grey, "L"), (cmyk, "CMYK")])
def test_grey_and_cmyk_images_are_converted_and_named(
    own_root: Path, save: Callable[[Path], None], mode: str
) -> None:
    save(own_root / "pacs" / FIRST)
    images = list_images(own_root / "pacs", "photo", "train")
    with pytest.warns(UserWarning, match=rf"1 images of photo_train .*: train_000.jpg \({mode}\)"):
        pixels = images.read(range(2), 16)
    assert pixels.shape == (2, 3, 16, 16)
    assert (pixels[0].float() - 128).abs().max() <= 4  # 128 grey in each mode


def test_a_sixteen_bit_image_is_refused_by_name(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(BadImageError, match=r"deep.png must be an 8-bit image, got mode I;16"):
        read_image(tmp_path / "deep.png", 8)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def replace_by_text(path: Path) -> None:
    path.write_text("no image")


@pytest.mark.parametrize("spoil", [truncate, replace_by_text])
def test_a_corrupt_image_is_named_when_it_is_decoded(
    own_root: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(own_root / "pacs" / FIRST)
    images = list_images(own_root / "pacs", "photo", "train")
    with pytest.raises(BadImageError, match=r"photo/dog/train_000.jpg must be a whole image"):
        images.read(range(3), 16)


def test_a_missing_image_is_named_when_the_list_is_read(own_root: Path) -> None:
    (own_root / "pacs" / FIRST).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 60 images .*photo/dog/train_000.jpg is"):
        list_images(own_root / "pacs", "photo", "train")
    with pytest.raises(FileNotFoundError, match=r"train_000\.jpg"):
        check_dataset("pacs", str(own_root))


def test_bad_images_can_be_left_out_and_are_named(own_root: Path) -> None:
    (own_root / "pacs" / FIRST).unlink()
    truncate(own_root / "pacs/photo/dog/train_003.jpg")
    with pytest.warns(UserWarning, match=r"2 of 60 images .*train_000.jpg.*train_003.jpg"):
        images = list_images(own_root / "pacs", "photo", "train", bad_images="skip")
    assert len(images) == len(images.labels) == 58
    assert images.read(range(58), 8).shape[0] == 58
    with pytest.raises(ValueError, match="unknown bad_images 'skp'; did you mean 'skip'"):
        list_images(own_root / "pacs", "photo", "train", bad_images="skp")  # type: ignore[arg-type]


def without_houses(root: Path, domain: str) -> None:
    for which in ("train", "test"):
        file = root / "pacs" / f"{domain}_{which}.txt"
        kept = [line for line in file.read_text().splitlines() if "house" not in line]
        file.write_text("\n".join(kept))
    (root / "pacs" / "classes.txt").unlink(missing_ok=True)


def test_unequal_classes_are_an_error_that_names_them_or_an_explicit_mapping(
    own_root: Path,
) -> None:
    without_houses(own_root, "sketch")
    photo, sketch = (list_images(own_root / "pacs", d, "train") for d in ("photo", "sketch"))
    with pytest.raises(ValueError, match=r"same classes, only photo_train has house, only sketch"):
        check_same_classes(photo, sketch)
    with pytest.raises(ValueError, match=r"only photo_t.* has house"):
        check_dataset("pacs", str(own_root))
    mapping = {"dog": "animal", "guitar": "thing", "house": None}
    mapped = [
        list_images(own_root / "pacs", d, "train", class_mapping=mapping)
        for d in ("photo", "sketch")
    ]
    check_same_classes(*mapped)
    assert mapped[0].classes == ("animal", "thing")
    assert mapped[0].labels.bincount().tolist() == [20, 20]
    with pytest.raises(ValueError, match=r"class_mapping must hold every class .*\['house'\]"):
        list_images(own_root / "pacs", "photo", "train", class_mapping={"dog": "a", "guitar": "b"})


def test_classes_in_another_order_are_unequal(own_root: Path) -> None:
    photo = list_images(own_root / "pacs", "photo", "train")
    (own_root / "pacs" / "classes.txt").unlink()
    file = own_root / "pacs" / "sketch_train.txt"
    text = file.read_text().replace(".jpg 0", ".jpg 9").replace(".jpg 1", ".jpg 0")
    file.write_text(text.replace(".jpg 9", ".jpg 1"))
    with pytest.raises(ValueError, match="same classes, their order differs"):
        check_same_classes(photo, list_images(own_root / "pacs", "sketch", "train"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("photo/dog/x.jpg", r"line 1 of .*photo_train.txt must be 'path label', got 'photo/dog"),
        ("photo/dog/x.jpg cat", "must be 'path label'"),
        ("x.jpg 0", "must name <domain>/<class>/<image>, got 'x.jpg'"),
        ("photo/dog/../../../x.jpg 0", "must name <domain>/<class>/<image>"),
        ("photo/dog/train_000.jpg 2", "label 2 of .* is 'dog', but .*classes.txt says 'house'"),
        ("photo/dog/train_000.jpg 7", "label 7 of .* says 'only 3 classes'"),
        ("", "must list images, got none"),
    ],
)
def test_a_wrong_line_is_named(own_root: Path, line: str, message: str) -> None:
    (own_root / "pacs" / "photo_train.txt").write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        list_images(own_root / "pacs", "photo", "train")


def test_labels_without_a_file_of_classes_must_be_consistent(own_root: Path) -> None:
    (own_root / "pacs" / "classes.txt").unlink()
    file = own_root / "pacs" / "photo_train.txt"
    file.write_text("photo/dog/train_000.jpg 0\nphoto/house/train_000.jpg 0\n")
    with pytest.raises(
        ValueError, match=r"label 0 of .* of one class folder, got 'dog' and 'house'"
    ):
        list_images(own_root / "pacs", "photo", "train")
    file.write_text("photo/dog/train_000.jpg 0\nphoto/house/train_000.jpg 2\n")
    with pytest.raises(ValueError, match=r"every label up to 2, \[1\] are missing"):
        list_images(own_root / "pacs", "photo", "train")


def test_what_is_not_there_is_said_with_the_place_looked_at(shared_root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="unknown domain 'foto'; did you mean 'photo'"):
        list_images(shared_root / "pacs", "foto", "train")
    with pytest.raises(FileNotFoundError, match=r"found no domainnet; looked for .*SEGUE_DATA"):
        find_dataset(shared_root / "nowhere", "domainnet")
    with pytest.raises(ValueError, match="pacs needs a data folder: pass --data FOLDER"):
        find_dataset(None, "pacs")


def test_the_fingerprint_follows_the_content(own_root: Path) -> None:
    images = list_images(own_root / "pacs", "photo", "train")
    before = images.fingerprint(), images.fingerprint(content=False)
    grey(own_root / "pacs" / FIRST)
    assert images.fingerprint() != before[0]
    assert images.fingerprint(content=False) == before[1]
    assert images.subset(torch.arange(59)).fingerprint(content=False) != before[1]
