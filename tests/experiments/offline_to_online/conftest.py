from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two random policies of Hopper."""
    root = tmp_path_factory.mktemp("data")
    folder, index = root / "policies", {}
    folder.mkdir()
    for number, name in enumerate(("Hopper-a2c", "Hopper-ppo")):
        draw = np.random.default_rng(number)
        arrays = {"w0": 0.1 * draw.normal(size=(3, 11)), "b0": np.zeros(3)}
        np.savez(folder / f"{name}.npz", **arrays)
        index[name] = {
            "hidden_activation": "relu", "output": "tanh", "layers": 1,
            "normalises_observations": False, "observation_clip": None, "epsilon": None,
        }  # fmt: skip
    (folder / "index.json").write_text(json.dumps(index))
    return root


@pytest.fixture(scope="module", autouse=True)
def own_compilation_cache() -> Any:
    """Runs keep compiled programs in their own folder; give the setting back."""
    before = jax.config.jax_compilation_cache_dir
    yield
    update: Any = jax.config.update
    update("jax_compilation_cache_dir", before)
