"""Families and their presets: what ``segue run FAMILY --preset NAME`` executes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segue.checks import unknown_name
from segue.runs.grid import RunConfig
from segue.runs.records import Record

__all__ = ["FAMILIES", "Phase", "Preset", "load_preset", "load_presets"]


@dataclass(frozen=True)
class Phase:
    """One grid of a preset.

    Attributes:
        name: For the console, such as ``"tuning"``.
        configs: The grid, given the records of the phases before it: a later phase may depend on
            what an earlier one found, such as the best learning rate.
    """

    name: str
    configs: Callable[[Sequence[Record]], list[RunConfig]]


@dataclass(frozen=True)
class Preset:
    """A named experiment of a family, as phases that run one after the other.

    Attributes:
        description: One line for people.
        phases: The grids, in order.
        check_data: Raises an OSError or ValueError if a data folder is not what the runs need; None
            if they need none.
        seconds_per_cost: Measures, on this machine, how long a unit of a run's cost takes one core.
        plan: Lines for a dry run: what it would cost where it is meant to run.
    """

    description: str
    phases: tuple[Phase, ...]
    check_data: Callable[[str], object] | None = None
    seconds_per_cost: Callable[[Any], float] | None = None
    plan: Callable[[], Sequence[str]] | None = None


FAMILIES: Mapping[str, str] = {
    "language": "segue.experiments.language.presets",
    "offline_to_online": "segue.experiments.offline_to_online.presets",
    "online_rl": "segue.experiments.online_rl.presets",
    "supervised": "segue.experiments.supervised.presets",
    "vision": "segue.experiments.vision.presets",
}
"""Family → module that holds its ``PRESETS``."""


def load_presets(family: str) -> Mapping[str, Preset]:
    """Return the presets of a family.

    Raises:
        ValueError: If there is no such family.
    """
    if family not in FAMILIES:
        raise ValueError(unknown_name("family", family, FAMILIES))
    presets: Mapping[str, Preset] = importlib.import_module(FAMILIES[family]).PRESETS
    return presets


def load_preset(family: str, name: str) -> Preset:
    """Return one preset; raises ValueError with the nearest name if there is none."""
    presets = load_presets(family)
    if name not in presets:
        raise ValueError(unknown_name("preset", name, presets))
    return presets[name]
