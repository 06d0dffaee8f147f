"""Example images of the domains of a shift, to look at: a row per domain, a column per class."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from segue.checks import check_at_least_one, check_count
from segue.experiments.vision.config import CHECKPOINT, ShiftConfig
from segue.experiments.vision.images import ImageList, check_same_classes, find_dataset, list_images
from segue.png import write_png

__all__ = ["write_samples"]

_MARGIN, _TEXT_HEIGHT, _FONT_SIZE = 4, 18, 13
_PAPER, _INK = (255, 255, 255), (20, 20, 20)


def write_samples(
    shift: ShiftConfig, data_root: str | None, out: Path, *, seed: int = 0, image_size: int = 112
) -> Path:
    """Write ``<shift>-seed<seed>.png``: a training image of each class, in both domains.

    The checkpoint has no domain of its own: of ``imagenet_to_…`` the target alone is shown.

    Args:
        shift: Source and target domain.
        data_root: Folder that holds the data set.
        out: Folder for the picture; made if missing.
        seed: Draws the images.
        image_size: Pixels of an image's side.

    Raises:
        FileNotFoundError: If the data set or an image is missing.
        ValueError: If the domains have other classes, or one has no image of a class.
    """
    check_count("seed", seed)
    check_at_least_one("image_size", image_size)
    folder = find_dataset(data_root, shift.dataset)
    domains = [name for name in (shift.source, shift.target) if name != CHECKPOINT]
    lists = [list_images(folder, domain, "train") for domain in domains]
    for other in lists[1:]:
        check_same_classes(lists[0], other)
    image = _compose(
        [(domain, _draw(images, seed, image_size)) for domain, images in zip(domains, lists, strict=True)],
        lists[0].classes,
        image_size,
    )  # fmt: skip
    return write_png(
        out / f"{shift.name}-seed{seed}.png",
        image,
        title="a training image of each class",
        description=f"{', '.join(lists[0].classes)}: {' and '.join(domains)}",
    )


def _draw(images: ImageList, seed: int, size: int) -> torch.Tensor:
    """One image of each class: uint8, shape (classes, 3, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label, name in enumerate(images.classes):
        places = (images.labels == label).nonzero().flatten()
        if not len(places):
            raise ValueError(f"{images.name} must hold an image of every class, has no {name}")
        chosen.append(int(places[int(torch.randint(len(places), (1,), generator=generator))]))
    return images.read(chosen, size)


def _compose(
    rows: list[tuple[str, torch.Tensor]], classes: tuple[str, ...], size: int
) -> Image.Image:
    row_height = _TEXT_HEIGHT + size + _MARGIN
    width = len(classes) * (size + _MARGIN) + _MARGIN
    image = Image.new("RGB", (width, _TEXT_HEIGHT + len(rows) * row_height), _PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(_FONT_SIZE)
    for column, name in enumerate(classes):
        draw.text((_MARGIN + column * (size + _MARGIN), 1), name, fill=_INK, font=font)
    for row, (domain, pixels) in enumerate(rows):
        top = _TEXT_HEIGHT + row * row_height
        draw.text((_MARGIN, top + 1), domain.replace("_", " "), fill=_INK, font=font)
        for column, picture in enumerate(pixels):
            left = _MARGIN + column * (size + _MARGIN)
            frame = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
            image.paste(frame, (left, top + _TEXT_HEIGHT))
    return image
