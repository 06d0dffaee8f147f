"""Nested batches: dicts, tuples and lists of tensors that share their first dimension."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["batch_size", "concatenate", "hash_content", "leaves", "map_tensors"]


def map_tensors(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """Apply ``function`` to every tensor of a nested batch; other leaves are kept."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {key: map_tensors(function, value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(function, value) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map_tensors(function, value) for value in batch)
    return batch


def leaves(batch: Any, name: str = "batch") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of a nested batch with its path, such as ``batch[0]['pixels']``."""
    if isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from leaves(value, f"{name}[{key!r}]")
    elif isinstance(batch, list | tuple):
        for index, value in enumerate(batch):
            yield from leaves(value, f"{name}[{index}]")
    else:
        yield name, batch


def batch_size(batch: Any, name: str = "batch") -> int:
    """Return the common first dimension of the tensors of a nested batch.

    Raises:
        TypeError: If a leaf is not a tensor.
        ValueError: If there is no tensor, one has no dimension, or their first dimensions differ.
    """
    sizes: dict[str, int] = {}
    for path, leaf in leaves(batch, name):
        if not isinstance(leaf, Tensor):
            raise TypeError(f"{path} must be a tensor, got {type(leaf).__name__}")
        if leaf.ndim == 0:
            raise ValueError(f"{path} must have a batch dimension, got a 0-d tensor")
        sizes[path] = leaf.shape[0]
    if not sizes:
        raise ValueError(f"{name} must hold at least one tensor, got {batch!r}")
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the tensors of {name} must share their first dimension, got {sizes}")
    return next(iter(sizes.values()))


def concatenate(first: Any, second: Any, names: tuple[str, str] = ("target", "source")) -> Any:
    """Concatenate two nested batches of the same structure along the first dimension.

    Raises:
        TypeError: If their structures differ.
        ValueError: If two tensors differ in device, dtype or in a later dimension.
    """
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return _concatenate_tensors(first, second, names)
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        if set(first) != set(second):
            raise TypeError(
                f"{names[0]} and {names[1]} batches must have the same keys, "
                f"got {sorted(map(str, first))} and {sorted(map(str, second))}"
            )
        return {
            key: concatenate(
                first[key], second[key], (f"{names[0]}[{key!r}]", f"{names[1]}[{key!r}]")
            )
            for key in first
        }
    if isinstance(first, Sequence) and isinstance(second, Sequence) and len(first) == len(second):
        parts = [
            concatenate(a, b, (f"{names[0]}[{i}]", f"{names[1]}[{i}]"))
            for i, (a, b) in enumerate(zip(first, second, strict=True))
        ]
        # A source collator may return a list where the target's returns a tuple: the target's wins.
        return type(first)(*parts) if hasattr(first, "_fields") else _like(first, parts)
    raise TypeError(
        f"{names[0]} and {names[1]} batches must have the same structure, "
        f"got {_shape_of(first)} and {_shape_of(second)}"
    )


def _shape_of(batch: Any) -> str:
    name = type(batch).__name__
    return f"{name} of {len(batch)}" if isinstance(batch, list | tuple) else name


def _like(first: Sequence[Any], parts: list[Any]) -> Sequence[Any]:
    return tuple(parts) if isinstance(first, tuple) else parts


def _concatenate_tensors(first: Tensor, second: Tensor, names: tuple[str, str]) -> Tensor:
    for rule, a, b in (
        ("device", first.device, second.device),
        ("dtype", first.dtype, second.dtype),
        ("shape after the first dimension", tuple(first.shape[1:]), tuple(second.shape[1:])),
    ):
        if a != b:
            raise ValueError(
                f"{names[0]} and {names[1]} must have the same {rule}, got {a} and {b}"
            )
    return torch.cat([first, second])


def hash_content(*items: Any) -> str:
    """Return the SHA-256 of nested data: values, dtypes, shapes and structure.

    Raises:
        TypeError: If an item is of a type whose content is not known to be hashable.
    """
    digest = hashlib.sha256()
    for item in items:
        _update(digest, item)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, item: Any) -> None:
    if isinstance(item, Tensor):
        array = item.detach().cpu().contiguous()
        digest.update(f"tensor {array.dtype} {tuple(array.shape)}".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(item, np.ndarray | np.generic):
        digest.update(f"array {item.dtype} {item.shape}".encode())
        if item.dtype.hasobject:  # its bytes would be addresses
            _update(digest, item.tolist())
        else:
            digest.update(np.ascontiguousarray(item).tobytes())
    elif isinstance(item, Mapping):
        digest.update(f"mapping {len(item)}".encode())
        for key, value in item.items():
            _update(digest, key)
            _update(digest, value)
    elif isinstance(item, list | tuple):
        digest.update(f"sequence {len(item)}".encode())
        for value in item:
            _update(digest, value)
    elif isinstance(item, bytes):
        digest.update(f"bytes {len(item)}".encode() + item)
    elif isinstance(item, str):
        encoded = item.encode("utf-8", "surrogatepass")
        digest.update(f"text {len(encoded)}".encode() + encoded)
    elif item is None or isinstance(item, bool | int | float | complex):
        digest.update(f"{type(item).__name__} {item!r}".encode())
    elif callable(getattr(item, "tobytes", None)):  # a Pillow image
        size, mode = getattr(item, "size", None), getattr(item, "mode", None)
        digest.update(f"image {size} {mode}".encode() + item.tobytes())
    else:
        raise TypeError(f"cannot hash the content of a {type(item).__name__}")
