"""What a user meets first: the import, the names, and the example that is shown everywhere."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import segue

OPTIONAL = [
    "accelerate", "jax", "jinja2", "lightning", "PIL", "pandas", "pebble", "plotly", "polars", "ray",
    "rich", "safetensors", "scipy", "sklearn", "stable_baselines3", "transformers", "trl", "tyro",
]  # fmt: skip


def modules_after(code: str) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return set(result.stdout.split())


def test_import_needs_neither_torch_nor_anything_optional() -> None:
    loaded = modules_after("import segue; segue.linear_decay(3)(1); dir(segue)")
    assert "segue.schedules" in loaded
    assert not loaded & {"torch", "numpy", *OPTIONAL}


def test_core_needs_torch_and_nothing_optional() -> None:
    # Whatever torch itself drags in is not ours.
    ours = modules_after("import segue\nfor name in segue.__all__: getattr(segue, name)")
    theirs = modules_after("import torch, numpy, torch.utils.data")
    assert "segue.smoothing" in ours
    # The compiler takes a second to import; only who compiles pays for it.
    assert not (ours - theirs) & {*OPTIONAL, "torch._dynamo"}


@pytest.mark.parametrize("name", segue.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    value: Any = getattr(segue, name)
    assert name in dir(segue)
    if name != "Schedule":
        assert value.__doc__


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'segue' has no attribute 'Smoother'"):
        _ = segue.Smoother


def test_names_of_every_core_module_exist() -> None:
    for info in pkgutil.iter_modules(segue.__path__):
        if info.ispkg or info.name == "cli":
            continue
        module = importlib.import_module(f"segue.{info.name}")
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"segue.{info.name}.{name}"


def test_example_of_the_front_page_runs() -> None:
    num_calls = 0
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    source_dataset = torch.utils.data.TensorDataset(torch.randn(500, 4), torch.arange(500) % 3)
    target_loader = [(torch.randn(16, 4), torch.arange(16) % 3) for _ in range(20)]

    def source_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        nonlocal num_calls
        num_calls += 1
        assert len(batch[0]) == 32
        return F.cross_entropy(model(batch[0]), batch[1])

    def target_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    smoothing = segue.Smoothing(segue.linear_decay(num_smoothing_steps=8), optimizer=optimizer)
    replay = segue.Replay(source_dataset, num_examples=256, batch_size=32, seed=0)

    for batch in target_loader:
        loss = smoothing.mix(
            source=lambda: source_loss(model, next(replay)),
            target=lambda batch=batch: target_loss(model, batch),
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    assert num_calls == 8
    assert smoothing.num_steps == 20
    assert smoothing.finished
