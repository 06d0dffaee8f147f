from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from torch import Tensor


def make_png(seed: int, *, width: int = 32, height: int = 32, grey: bool = False) -> bytes:
    shape = (height, width) if grey else (height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def png() -> Callable[..., bytes]:
    """Makes a PNG of random pixels: ``png(seed, width=32, height=32, grey=False)``."""
    return make_png


@pytest.fixture
def frame() -> pl.DataFrame:
    """Twenty images in the layout of the hub."""
    return pl.DataFrame(
        {
            "img": [{"bytes": make_png(row), "path": f"{row}.png"} for row in range(20)],
            "label": [row % 10 for row in range(20)],
        }
    )


@pytest.fixture
def folder(tmp_path: Path, frame: pl.DataFrame) -> Path:
    """A data folder with a CIFAR-10 of twenty training and ten test images."""
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    frame.write_parquet(tmp_path / "data" / "cifar10" / "train-00000-of-00001.parquet")
    frame[:10].write_parquet(tmp_path / "data" / "cifar10" / "test-00000-of-00001.parquet")
    return tmp_path / "data"


@pytest.fixture
def train_file(folder: Path) -> Path:
    """The training file of ``folder``."""
    return folder / "cifar10" / "train-00000-of-00001.parquet"


@pytest.fixture
def real_data() -> str:
    """The folder with real data."""
    root = os.environ.get("SEGUE_DATA")
    if not root:
        pytest.skip("SEGUE_DATA is not set; it names the folder that holds cifar10/")
    return root


@pytest.fixture
def random_images() -> Tensor:
    """Six colour images in [0, 1]."""
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
