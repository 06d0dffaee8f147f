from dataclasses import dataclass, replace
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
    class After(TinySource):
        pass

    assert "added_later" in config_to_dict(TARGET)
    assert run_id(replace(TARGET, added_later=1.0)) == run_id(TARGET)


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
