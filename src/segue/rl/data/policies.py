"""Trained policies as plain arrays: what data sets are generated from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from segue.checks import unknown_name

__all__ = ["Policy", "find_policies", "load_policy"]

Policy = Callable[[np.ndarray], np.ndarray]
"""Maps one raw observation to one raw action."""

_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
}
_OUTPUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": np.tanh,
    "clip": lambda x: np.clip(x, -1.0, 1.0),
}


def find_policies(data_root: str | Path) -> Path:
    """Return the folder of policies in a data folder, or that folder itself.

    Raises:
        FileNotFoundError: If neither holds an ``index.json``.
    """
    for folder in (Path(data_root) / "policies", Path(data_root)):
        if (folder / "index.json").exists():
            return folder
    raise FileNotFoundError(
        f"found no policies in {data_root}: expected policies/index.json and one npz file each; "
        "`segue data FOLDER --train-policies STEPS` trains some"
    )


def load_policy(folder: Path, name: str) -> Policy:
    """Load one policy: layers ``w0, b0, w1, b1, …`` (rows are outputs) and what the index says.

    Raises:
        ValueError: If the index lacks it, or its arrays do not fit together.
    """
    index: dict[str, Any] = json.loads((folder / "index.json").read_text())
    if name not in index:
        raise ValueError(unknown_name("policy", name, index))
    entry = index[name]
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key].astype(np.float64) for key in file.files}
    layers = [(arrays[f"w{i}"], arrays[f"b{i}"]) for i in range(int(entry["layers"]))]
    for (weights, bias), (following, _) in zip(layers, [*layers[1:], layers[-1]], strict=True):
        fits = following is weights or following.shape[1] == weights.shape[0]
        if not fits or bias.shape != weights.shape[:1]:
            raise ValueError(f"the layers of policy {name} must fit together, got {weights.shape}")
    activation = _ACTIVATIONS[entry["hidden_activation"]]
    output = _OUTPUTS[entry["output"]]
    normalises = bool(entry["normalises_observations"])

    def policy(observation: np.ndarray) -> np.ndarray:
        x = np.asarray(observation, np.float64)
        if normalises:
            x = (x - arrays["obs_mean"]) / np.sqrt(arrays["obs_var"] + entry["epsilon"])
            x = np.clip(x, -entry["observation_clip"], entry["observation_clip"])
        for weights, bias in layers[:-1]:
            x = activation(weights @ x + bias)
        weights, bias = layers[-1]
        return output(weights @ x + bias)

    return policy
