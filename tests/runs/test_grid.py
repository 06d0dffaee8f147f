from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
from tiny_family import Head, TinySource, TinyTarget

from segue.runs.grid import config_from_dict, config_to_dict, expand, run_id

TARGET = TinyTarget(TinySource(seed=1), "smoothing")


def test_an_id_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert run_id(TARGET) == "21d015a67fd57d2a"


def test_every_field_that_matters_changes_the_id() -> None:
    others = [
        replace(TARGET, method="hard_switch"),
        replace(TARGET, source=TinySource(seed=2)),
        replace(TARGET, head=Head(width=5)),
        replace(TARGET, sizes=(2, 1)),
        replace(TARGET, added_later=2.0),
    ]
    assert len({run_id(config) for config in [TARGET, *others]}) == len(others) + 1


def test_a_field_added_later_reruns_nothing_while_it_has_its_default() -> None:
    @dataclass(frozen=True)
    class Before:
        a: int
        family: ClassVar[str] = "f"
        kind: ClassVar[str] = "k"

    @dataclass(frozen=True)
    class After(Before):
        b: tuple[int, ...] = field(default=(1,), metadata={"omit_default": True})
        c: list[int] | None = field(default_factory=lambda: None, metadata={"omit_default": True})

    assert run_id(After(3)) == run_id(Before(3))  # type: ignore[arg-type]
    assert run_id(After(3, b=(2,))) != run_id(Before(3))  # type: ignore[arg-type]
    assert config_to_dict(After(3)) == {"a": 3, "b": [1], "c": None}


def test_equal_configs_have_equal_ids() -> None:
    @dataclass(frozen=True)
    class Rates:
        rate: float
        other: float | None = None
        several: tuple[float, ...] = ()
        pair: tuple[int, float] = (1, 1.0)
        count: int = 1
        family: ClassVar[str] = "f"
        kind: ClassVar[str] = "k"

    a, b = Rates(1, 2, (3, 4), (5, 6)), Rates(1.0, 2.0, (3.0, 4.0), (5, 6.0))
    assert run_id(a) == run_id(b)  # type: ignore[arg-type]
    assert run_id(config_from_dict(Rates, config_to_dict(a))) == run_id(a)  # type: ignore[arg-type]
    assert type(config_from_dict(Rates, config_to_dict(a)).pair[0]) is int


def test_a_config_survives_its_dictionary() -> None:
    assert config_from_dict(TinyTarget, config_to_dict(TARGET)) == TARGET


def test_an_unknown_key_is_named_with_the_nearest_field() -> None:
    values = config_to_dict(TARGET) | {"methd": "x"}
    with pytest.raises(ValueError, match=r"unknown TinyTarget key 'methd'; did you mean 'method'"):
        config_from_dict(TinyTarget, values)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match="TinyTarget needs method"):
        config_from_dict(TinyTarget, {"source": {"seed": 1}})


def test_a_number_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="added_later must be finite, got nan"):
        config_to_dict(replace(TARGET, added_later=float("nan")))


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="method must be a string, number"):
        config_to_dict(replace(TARGET, method={1, 2}))  # type: ignore[arg-type]


def test_requirements_come_first_and_once() -> None:
    configs = [replace(TARGET, method=name) for name in ("a", "b")]
    assert expand([*configs, configs[0]]) == [TARGET.source, *configs]
