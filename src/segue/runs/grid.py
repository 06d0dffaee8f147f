"""Frozen configurations and their ids."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from segue.checks import unknown_name

if TYPE_CHECKING:
    from segue.runs.execution import RunContext, RunResult

__all__ = ["RunConfig", "config_from_dict", "config_to_dict", "expand", "run_id"]

ConfigT = TypeVar("ConfigT")


class RunConfig(Protocol):
    """A frozen dataclass that fully describes one run.

    Its fields are strings, numbers, booleans, None, tuples of these, and frozen dataclasses.
    """

    family: ClassVar[str]
    kind: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def requires(self) -> tuple[RunConfig, ...]:
        """Runs whose artifact this one starts from, such as the source model's."""
        ...

    def cost(self) -> float:
        """Relative cost, such as gradient examples; from it the time left is told."""
        ...

    def execute(self, context: RunContext) -> RunResult:
        """Do the work; called in a worker process."""
        ...


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return the resolved configuration as strict JSON types: every field, nested, tuples as lists.

    Raises:
        TypeError: If a value is of another type.
        ValueError: If a number is not finite.
    """
    return {
        field.name: _plain(getattr(config, field.name), field.name)
        for field in dataclasses.fields(config)
    }


def config_from_dict(cls: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Build a configuration from what :func:`config_to_dict` gave.

    Raises:
        ValueError: If a key is unknown (names the nearest field) or missing.
    """
    hints = _hints(cls)  # type: ignore[arg-type]
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise ValueError(unknown_name(f"{cls.__name__} key", key, fields))
    missing = [
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{cls.__name__} needs {', '.join(missing)}")
    return cls(**{key: _typed(hints[key], value) for key, value in values.items()})


def run_id(config: RunConfig) -> str:
    """Return the id of a run: a hash of its family, kind and resolved configuration.

    Equal configurations have equal ids: an integer in a field of floats counts as a float. A field
    with metadata ``omit_default`` is left out while it has its default value, so that a field added
    in a later version reruns nothing.
    """
    content = {
        "family": config.family,
        "kind": config.kind,
        "config": _identity(config, type(config)),
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]


def expand(configs: Iterable[RunConfig]) -> list[RunConfig]:
    """Return every run once, with all the runs it requires, those first."""
    found: dict[str, RunConfig] = {}

    def add(config: RunConfig) -> None:
        identity = run_id(config)
        if identity in found:
            return
        for required in config.requires():
            add(required)
        found[identity] = config

    for config in configs:
        add(config)
    return list(found.values())


def canonical_json(value: Any) -> str:
    """Strict JSON with sorted keys and no spaces: equal content, equal text."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )


def _identity(value: Any, hint: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = _hints(type(value))
        return {
            field.name: _identity(getattr(value, field.name), hints[field.name])
            for field in dataclasses.fields(value)
            if not (field.metadata.get("omit_default") and _has_default(field, value))
        }
    if isinstance(value, tuple):
        return [_identity(item, each) for item, each in _items(hint, value)]
    return _plain(_typed(hint, value), "config")


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _items(hint: Any, values: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Pair the items of a tuple with their types."""
    hint = _without_none(hint)
    types_ = typing.get_args(hint) if typing.get_origin(hint) is tuple else ()
    if len(types_) == 2 and types_[1] is ...:
        types_ = types_[:1] * len(values)
    if len(types_) != len(values):
        types_ = (Any,) * len(values)
    return list(zip(values, types_, strict=True))


def _without_none(hint: Any) -> Any:
    """``T`` of ``T | None``; any other type as it is."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return options[0] if len(options) == 1 else hint
    return hint


def _has_default(field: dataclasses.Field[Any], config: Any) -> bool:
    default = field.default
    if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return bool(getattr(config, field.name) == default)


def _plain(value: Any, name: str) -> Any:
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value!r}")
        return value
    if isinstance(value, tuple):
        return [_plain(item, name) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return config_to_dict(value)
    raise TypeError(
        f"{name} must be a string, number, bool, None, tuple or frozen dataclass, "
        f"got {type(value).__name__}"
    )


def _typed(hint: Any, value: Any) -> Any:
    """Give a JSON value the type of the field it came from."""
    hint = _without_none(hint)
    if isinstance(value, Mapping) and dataclasses.is_dataclass(hint):
        return config_from_dict(typing.cast(type[Any], hint), value)
    if isinstance(value, list):
        return tuple(_typed(each, item) for item, each in _items(hint, value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value
