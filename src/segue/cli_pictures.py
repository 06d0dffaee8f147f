"""The commands that make pictures: ``segue strip`` and ``segue samples``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

__all__ = ["samples", "strip"]


def strip(
    family: Literal["offline_to_online"],
    /,
    *,
    shift: str,
    methods: tuple[str, ...] = ("hard_switch", "smoothing"),
    seed: int = 0,
    preset: str = "verdicts",
    runs: Path = Path("runs"),
    data: str | None = None,
    out: Path = Path("pictures"),
    animation: Literal["gif", "webp"] = "gif",
) -> None:
    """Picture policies at the switch, at their lowest and at the end, by running them once more.

    Args:
        family: The family whose policies can be looked at.
        shift: Such as halfcheetah-medium.
        methods: Methods of the preset, a row of pictures each.
        seed: Seed of the runs.
        preset: Preset that the runs were made with.
        runs: Folder that `segue run` wrote: it holds the offline agents and the records.
        data: Data folder (else the environment variable SEGUE_DATA), if the data set is not cached.
        out: Folder for the pictures.
        animation: Format of the animation beside the strip.
    """
    from rich.console import Console

    from segue.experiments.offline_to_online.strip import find_runs, write_pictures
    from segue.runs.context import Store

    configs, root = find_runs(preset, shift, methods, seed), data or os.environ.get("SEGUE_DATA")
    console = Console()
    with console.status(f"running {', '.join(methods)} once more"):
        written = write_pictures(configs, Store(runs), out, root, animation=animation)
    for path in written:
        console.print(f"wrote {path}", markup=False, highlight=False)


def samples(
    family: Literal["vision"],
    /,
    *,
    shift: str,
    dataset: str = "pacs",
    seed: int = 0,
    data: str | None = None,
    out: Path = Path("pictures"),
) -> None:
    """Picture a training image of each class in both domains of a shift.

    Args:
        family: The family whose data can be looked at.
        shift: Such as photo_to_sketch.
        dataset: Whose domains they are.
        seed: Draws the images.
        data: Data folder (else the environment variable SEGUE_DATA).
        out: Folder for the picture.
    """
    from rich.console import Console

    from segue.experiments.vision.config import ShiftConfig
    from segue.experiments.vision.samples import write_samples

    root = data or os.environ.get("SEGUE_DATA")
    path = write_samples(ShiftConfig(shift, dataset), root, out, seed=seed)
    Console().print(f"wrote {path}", markup=False, highlight=False)
