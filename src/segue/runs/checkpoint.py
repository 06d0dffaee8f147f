"""Checkpoints and artifacts: one safetensors file each, whole or absent, no pickle."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from segue.runs.records import write_atomically

__all__ = ["CheckpointError", "load_checkpoint", "save_checkpoint"]

_KEY = "segue.state"
_COMPLEX = "complex128"


class CheckpointError(ValueError):
    """A file is not a whole checkpoint."""


def save_checkpoint(path: Path, state: Any) -> None:
    """Write a nested state to one file, atomically.

    Args:
        path: File to write.
        state: Nested dicts (keys: strings or integers), lists and tuples of tensors, numbers,
            strings, booleans and None, such as the ``state_dict()`` of a model or an optimizer.

    Raises:
        TypeError: If the state holds something else.
        OSError: If the file cannot be written; what stood there before is kept.
    """
    tensors: dict[str, Tensor] = {}
    tree = _pack(state, tensors, "state")
    metadata = {_KEY: json.dumps(tree, allow_nan=False, ensure_ascii=True)}
    write_atomically(path, save(tensors, metadata=metadata))


def load_checkpoint(path: Path) -> Any:
    """Read what :func:`save_checkpoint` wrote; equal in every type and bit.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is cut short or of another kind.
    """
    if not path.exists():
        raise FileNotFoundError(f"found no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                raise CheckpointError(f"{path} must be a Segue checkpoint, found no state in it")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} must be a whole checkpoint, got {error}") from error
    return _unpack(json.loads(metadata[_KEY]), tensors)


def _pack(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    """Return JSON for ``value``; tensors go to ``tensors`` and are referred to by name."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Tensor):
        return _pack_tensor(value, tensors, where)
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_pack(v, tensors, f"{where}[{i}]") for i, v in enumerate(value)]}
    if isinstance(value, Mapping):
        for key in value:
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise TypeError(f"keys of {where} must be strings or integers, got {key!r}")
        return {"dict": [[k, _pack(v, tensors, f"{where}[{k!r}]")] for k, v in value.items()]}
    raise TypeError(
        f"{where} must be a tensor, number, string, bool, None, dict, list or tuple, "
        f"got {type(value).__name__}"
    )


def _pack_tensor(value: Tensor, tensors: dict[str, Tensor], where: str) -> dict[str, str]:
    if value.layout != torch.strided or value.is_quantized:
        raise TypeError(f"{where} must be a dense tensor, got {value.dtype} with {value.layout}")
    value = value.detach().cpu().resolve_conj().resolve_neg()
    name, kind = f"{len(tensors):06d}", "tensor"
    if value.dtype == torch.complex128:  # the one dtype that safetensors lacks
        value, kind = torch.view_as_real(value), _COMPLEX
    # A copy of its own: safetensors refuses tensors that share memory.
    tensors[name] = value.clone(memory_format=torch.contiguous_format)
    return {kind: name}


def _unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == _COMPLEX:
        return torch.view_as_complex(tensors[content])
    if kind == "float":
        return float(content)
    if kind == "dict":
        return {key: _unpack(value, tensors) for key, value in content}
    items = [_unpack(value, tensors) for value in content]
    return items if kind == "list" else tuple(items)
