"""A tiny PACS: three domains of JPEG images whose class is their colour, and runs on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segue.experiments.vision.config import AdaptationConfig
from segue.experiments.vision.models import NetworkConfig
from segue.experiments.vision.setting import Setting

CLASSES = ("dog", "guitar", "house")
DOMAINS = {"photo": 0, "cartoon": 60, "sketch": 120}  # how far the colours are turned
NUM_TRAIN, NUM_TEST = 20, 8


def save_image(path: Path, label: int, turn: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    colour = np.roll(np.array([200, 80, 40]), label) * (1 - turn / 300) + turn
    pixels = np.clip(colour + draw.normal(0, 25, (20, 24, 3)), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=90)


def make_dataset(folder: Path) -> Path:
    for domain, turn in DOMAINS.items():
        for which, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
            lines = []
            for label, name in enumerate(CLASSES):
                for index in range(count):
                    path = Path(domain, name, f"{which}_{index:03d}.jpg")
                    save_image(
                        folder / path, label, turn, 1000 * turn + 100 * (which == "test") + index
                    )
                    lines.append(f"{path} {label}")
            (folder / f"{domain}_{which}.txt").write_text("\n".join(lines) + "\n")
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    return folder


@pytest.fixture(scope="session")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a tiny PACS; read only."""
    root = tmp_path_factory.mktemp("vision")
    make_dataset(root / "pacs")
    return root


@pytest.fixture
def own_root(shared_root: Path, tmp_path: Path) -> Path:
    """A copy, for tests that spoil it."""
    return shutil.copytree(shared_root, tmp_path / "data")


TINY = Setting(
    dataset="pacs",
    network=NetworkConfig("tiny", image_size=16, num_classes=3),
    num_source_steps=12,
    num_target_examples=12,
    num_target_steps=10,
    num_smoothing_steps=4,
    batch_size=6,
    source_learning_rate=0.1,
)


@pytest.fixture
def tiny() -> Setting:
    """A setting whose runs take a fraction of a second."""
    return TINY


@pytest.fixture
def run_config() -> Callable[..., AdaptationConfig]:
    """Makes a run: ``run_config(method, shift="photo_to_sketch", seed=0, **other)``."""

    def make(method: str, shift: str = "photo_to_sketch", seed: int = 0, **other: Any) -> Any:
        config = TINY.adaptation(shift, method, seed, 0.05, **other)
        small = replace(config.method, num_bank_examples=12, replay_batch_size=6)
        source = config.source and replace(config.source, num_fisher_examples=5)
        return replace(config, method=small, source=source)

    return make


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """As in a worker process."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)
