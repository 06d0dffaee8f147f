"""Records: one strict-JSON file per run, and one Parquet file per family."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import operator
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "Record",
    "compact",
    "load_records",
    "read_record",
    "remove_unfinished",
    "write_atomically",
    "write_record",
]

SCHEMA = 1
_JSON_COLUMNS = ("config", "error", "artifacts", "provenance", "timing")
_METRIC, _CURVE, _AS_JSON = "metric.", "curve.", ".json"
_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Record:
    """What a run was, and what came out.

    Raises:
        TypeError: If a metric or a step of a curve is of a type that JSON does not have, such as a
            NumPy scalar or a tensor; names it.

    Attributes:
        run_id: Hash of family, kind and configuration.
        family: Experiment family.
        kind: Kind of run within the family, such as ``source`` or ``target``.
        config: The resolved configuration.
        status: ``completed`` or ``failed``.
        error: ``{"type", "message", "traceback"}`` of a failed run.
        metrics: Final values by name; None where a value was not finite.
        curves: ``{"step": [...], "value": [...]}`` by name; None where a value was not finite.
        non_finite: Names of the metrics and curves that had such values.
        artifacts: ``{"file", "sha256"}`` by name.
        provenance: Versions, commit, machine, threads, seeds, command and data.
        timing: Everything that may differ between a run that was cut off and one that was not.
        schema: Version of this layout.
    """

    run_id: str
    family: str
    kind: str
    config: dict[str, Any]
    status: Literal["completed", "failed"]
    error: dict[str, str] | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    non_finite: list[str] = field(default_factory=list)
    artifacts: dict[str, dict[str, str]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        # Strict JSON has no NaN: such values become None, and are named.
        named = list(self.non_finite)
        metrics = {
            name: _finite(_plain(value, name), name, named) for name, value in self.metrics.items()
        }
        curves = {
            name: {
                "step": [operator.index(step) for step in curve["step"]],
                "value": [_finite(_number(value), name, named) for value in curve["value"]],
            }
            for name, curve in self.curves.items()
        }
        object.__setattr__(self, "metrics", metrics)
        object.__setattr__(self, "curves", curves)
        object.__setattr__(self, "non_finite", sorted(set(named)))


def write_record(folder: Path, record: Record) -> Path:
    """Write ``folder/<run id>.json``, whole or not at all."""
    # ASCII, because a traceback may hold a file name that has no UTF-8.
    text = json.dumps(dataclasses.asdict(record), allow_nan=False, indent=1)
    path = folder / f"{record.run_id}.json"
    write_atomically(path, text.encode("ascii"))
    return path


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        ValueError: If the file is not a record of a layout that is known; names the file.
    """
    try:
        values = json.loads(path.read_bytes().decode("utf-8", "surrogatepass"))
        return _from_dict(values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must be a record, got {error}") from error


def load_records(paths: Path | Iterable[Path]) -> list[Record]:
    """Load records from run folders and Parquet files, sorted by run id.

    A folder holds records directly, in ``records/``, or in ``<family>/records/``. A record in a folder
    wins over a Parquet row of the same id.

    Raises:
        FileNotFoundError: If a path does not exist.
    """
    paths = [paths] if isinstance(paths, Path) else list(paths)
    found: dict[str, Record] = {}
    for path in sorted(paths, key=lambda p: p.is_dir()):  # folders last: theirs win
        if not path.exists():
            raise FileNotFoundError(f"found no records: {path} does not exist")
        records = _read_folder(path) if path.is_dir() else _read_parquet(path)
        found.update((record.run_id, record) for record in records)
    return [found[identity] for identity in sorted(found)]


def compact(records: Iterable[Record], path: Path) -> None:
    """Write records to one Parquet file, a row per run, sorted by run id.

    Metrics and curves are columns of their own; what is read as a whole (configuration, provenance,
    timing, error, artifacts) is JSON text. :func:`load_records` gives back equal records.

    Raises:
        ValueError: If the records are of several families.
    """
    import io

    import polars as pl

    ordered = sorted(records, key=lambda record: record.run_id)
    families = {record.family for record in ordered}
    if len(families) > 1:
        raise ValueError(f"one file holds one family, got {sorted(families)}")
    columns: dict[str, Any] = {
        name: [getattr(record, name) for record in ordered]
        for name in ("run_id", "family", "kind", "status", "schema", "non_finite")
    }
    series = [
        pl.Series(name, values, dtype=pl.List(pl.String) if name == "non_finite" else None)
        for name, values in columns.items()
    ]
    for name in _JSON_COLUMNS:
        texts = [json.dumps(getattr(r, name), allow_nan=False, sort_keys=False) for r in ordered]
        series.append(pl.Series(name, texts, dtype=pl.String))
    series += _metric_columns(ordered, pl)
    series += _curve_columns(ordered, pl)
    buffer = io.BytesIO()
    pl.DataFrame(series).write_parquet(buffer, compression="zstd", compression_level=12)
    write_atomically(path, buffer.getvalue())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent, whenever the process ends.

    Raises:
        OSError: If it cannot be written (full disk, no permission); what stood there before is kept.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.parent / f".{path.name}.{secrets.token_hex(8)}{_UNFINISHED}"
        # "x" leaves the permissions to the umask, where mkstemp would lock out a shared folder.
        with beside.open("xb") as file:
            temporary = beside
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(
            error.errno,
            f"could not write {path} ({error.strerror or error}); nothing that was saved is lost",
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def remove_unfinished(folder: Path) -> None:
    """Remove what writers that were killed left in ``folder``; none may be at work in it."""
    for file in folder.glob(f".*{_UNFINISHED}"):
        file.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # Without this the rename itself may be lost when the machine, not the process, goes down.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _plain(value: Any, name: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"metric {name!r} must be a number, string, bool or None, got {type(value).__name__}"
    )


def _finite(value: Any, name: str, named: list[str]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        named.append(name)
        return None
    return value


def _from_dict(values: Mapping[str, Any]) -> Record:
    if values.get("schema") != SCHEMA:
        raise ValueError(f"schema must be {SCHEMA}, got {values.get('schema')!r}")
    return Record(**values)


def _read_folder(folder: Path) -> list[Record]:
    places = [folder, folder / "records", *sorted(folder.glob("*/records"))]
    files = [file for place in places for file in sorted(place.glob("*.json"))]
    return [read_record(file) for file in files]


def _read_parquet(path: Path) -> list[Record]:
    import polars as pl

    try:
        frame = pl.read_parquet(path)
        return [_from_row(row) for row in frame.iter_rows(named=True)]
    except (AttributeError, KeyError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{path} must be a Parquet file of records, got {error!r}") from error


def _from_row(row: Mapping[str, Any]) -> Record:
    values = {
        name: row[name] for name in ("run_id", "family", "kind", "status", "schema", "non_finite")
    }
    values.update((name, json.loads(row[name])) for name in _JSON_COLUMNS)
    order = json.loads(row["order"])
    values["metrics"] = {name: _metric(row, name) for name in order["metrics"]}
    values["curves"] = {
        name: {
            "step": row[f"{_CURVE}{name}.step"],
            "value": row[f"{_CURVE}{name}.value"],
        }
        for name in order["curves"]
    }
    return _from_dict(values)


def _metric(row: Mapping[str, Any], name: str) -> Any:
    text = row.get(f"{_METRIC}{name}{_AS_JSON}")
    if text is not None:
        return json.loads(text)
    return None if name.endswith(_AS_JSON) else row.get(f"{_METRIC}{name}")


def _metric_columns(records: Sequence[Record], pl: Any) -> list[Any]:
    """Float metrics are float columns; where a run has another type, its value is JSON beside."""
    names = sorted({name for record in records for name in record.metrics})
    order = [
        json.dumps({"metrics": list(record.metrics), "curves": list(record.curves)})
        for record in records
    ]
    series = [pl.Series("order", order, dtype=pl.String)]
    for name in names:
        values = [record.metrics.get(name) for record in records]
        # A name that ends like a JSON column has no float column, which could be another's.
        types = () if name.endswith(_AS_JSON) else (float,)
        floats = [value if isinstance(value, types) else None for value in values]
        others = [
            None if value is None or isinstance(value, types) else json.dumps(value)
            for value in values
        ]
        if types:
            series.append(pl.Series(f"{_METRIC}{name}", floats, dtype=pl.Float64))
        if any(other is not None for other in others):
            series.append(pl.Series(f"{_METRIC}{name}{_AS_JSON}", others, dtype=pl.String))
    return series


def _curve_columns(records: Sequence[Record], pl: Any) -> list[Any]:
    series = []
    for name in sorted({name for record in records for name in record.curves}):
        for part, dtype in (("step", pl.Int64), ("value", pl.Float64)):
            values = [record.curves.get(name, {}).get(part) for record in records]
            series.append(pl.Series(f"{_CURVE}{name}.{part}", values, dtype=pl.List(dtype)))
    return series
