"""Pictures of a policy at the switch, at its lowest and at the end, of runs that were made.

A record holds no policies. A run is bitwise deterministic from the artifact of its offline agent on, so
its policies are made again by running it again; the hash of its final weights, which the record does
hold, says whether they are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segue.batches import hash_content
from segue.checks import unknown_name
from segue.experiments.compiled import prepare_jax
from segue.experiments.families import load_preset
from segue.experiments.offline_to_online.config import OnlineConfig
from segue.experiments.offline_to_online.train import OnlineRun
from segue.rl.evaluation import evaluation_seeds
from segue.rl.measures import evaluation_env_steps
from segue.rl.networks import to_numpy
from segue.rl.pictures import Episode, Panel, render_episode, write_animation, write_strip
from segue.runs.context import RunContext, Store
from segue.runs.grid import run_id
from segue.runs.records import Record, read_record

__all__ = ["Moment", "find_runs", "replay", "write_pictures"]

_MOMENTS = ("at the switch", "at its lowest", "at the end")
_SECONDS_PER_FRAME = 0.1  # of simulated time; the animation then plays at the true speed


@dataclass(frozen=True)
class Moment:
    """A policy of a run.

    Attributes:
        name: ``at the switch``, ``at its lowest`` or ``at the end``.
        env_step: Environment steps since the switch.
        mean_return: Of the run's evaluation there.
        actor: Parameters as NumPy arrays.
    """

    name: str
    env_step: int
    mean_return: float
    actor: Any


def find_runs(preset: str, shift: str, methods: Sequence[str], seed: int) -> list[OnlineConfig]:
    """Return the runs of a preset by shift, method and seed, in the order of ``methods``.

    Raises:
        ValueError: If the preset has no such run; names what it has.
    """
    every: list[Any] = [
        config
        for phase in load_preset("offline_to_online", preset).phases
        for config in phase.configs([])
    ]
    if not methods:
        raise ValueError("methods must name at least one method, got none")
    _check_known("shift", shift, {config.shift.name for config in every})
    every = [config for config in every if config.shift.name == shift]
    seeds = sorted({config.seed for config in every})
    if seed not in seeds:
        raise ValueError(f"seed must be one of the preset's {seeds}, got {seed}")
    found = {config.method.name: config for config in every if config.seed == seed}
    for method in methods:
        _check_known("method", method, found)
    return [found[method] for method in methods]


def replay(
    config: OnlineConfig,
    store: Store,
    data_root: str | None = None,
    *,
    report: Callable[[int, int], None] = lambda step, total: None,
) -> tuple[OnlineRun, list[Moment]]:
    """Run ``config`` once more, and keep its policies at the switch, at its lowest and at the end.

    Where the lowest evaluation was, the run's record says; without a record the run is evaluated as
    it was at first. Nothing is written, and no checkpoint is touched.

    Args:
        config: The run.
        store: Holds the offline agent's artifact, and the record if there is one.
        data_root: Data folder; needed only if the data set is not in the store's cache.
        report: Called with the environment steps done and their total.

    Raises:
        FileNotFoundError: If the offline agent's artifact is missing.
        ValueError: If the record's run failed, or ends in other weights than this one.
    """
    prepare_jax(store.cache)
    for source in config.requires():
        if not store.artifact(source).exists():
            raise FileNotFoundError(
                f"found no offline agent of {config.shift.name}, seed {config.seed}, in {store.root}: "
                "run `segue run offline_to_online` with this preset and --out first"
            )
    record = _record(config, store)
    run = OnlineRun(config, RunContext(config, store, data_root))
    actors, returns = {}, {} if record is None else _returns(record)
    lowest = _lowest(returns) if returns else None
    for goal in evaluation_env_steps(config.num_env_steps):
        for now in run.stretches(goal):
            report(now, config.num_env_steps)
        if record is None:
            run.measure()
            returns[goal] = run.curves.points["return"]["value"][-1]
        if record is None or goal in (0, lowest, config.num_env_steps):
            actors[goal] = to_numpy(run.training.agent.actor)
    if record is not None:
        _check_same(run, record)
    steps = (0, _lowest(returns), config.num_env_steps)
    return run, [
        Moment(name, step, returns[step], actors[step])
        for name, step in zip(_MOMENTS, steps, strict=True)
    ]


def write_pictures(
    configs: Sequence[OnlineConfig],
    store: Store,
    out: Path,
    data_root: str | None = None,
    *,
    animation: str = "gif",
    num_frames: int = 80,
    report: Callable[[int, int], None] = lambda step, total: None,
) -> list[Path]:
    """Write an image strip and an animation: a row of the animation per run, a column per moment.

    Every policy starts from the same first state, that of the run's first evaluation episode.

    Args:
        configs: Runs of one shift and seed.
        store: Where they were made.
        out: Folder for ``<shift>-seed<seed>.png`` and the animation.
        data_root: Data folder, see :func:`replay`.
        animation: ``gif`` or ``webp``.
        num_frames: Of the animation, a tenth of a second of simulated time apart.
        report: Called with the environment steps done and their total, run by run.

    Returns:
        What was written.
    """
    rows = []
    for config in configs:
        run, moments = replay(config, store, data_root, report=report)
        episodes = [_episode(config, run, moment, num_frames) for moment in moments]
        rows.append((config.method.name.replace("_", " "), moments, episodes))
    name = f"{configs[0].shift.name}-seed{configs[0].seed}"
    strip = [
        Panel(f"{method}, {_long_caption(moment, episode)}", episode)
        for method, moments, episodes in rows
        for moment, episode in zip(moments, episodes, strict=True)
    ]
    moving = [
        (method, [Panel(_caption(m, e), e) for m, e in zip(moments, episodes, strict=True)])
        for method, moments, episodes in rows
    ]
    return [
        write_strip(out / f"{name}.png", strip),
        write_animation(
            out / f"{name}.{animation}",
            moving,
            milliseconds_per_frame=round(1_000 * _SECONDS_PER_FRAME),
        ),
    ]


def _episode(config: OnlineConfig, run: OnlineRun, moment: Moment, num_frames: int) -> Episode:
    env: Any = run.task.evaluation_env
    return render_episode(
        env,
        run.training.preprocessing,
        moment.actor,
        evaluation_seeds(config.seed, config.num_episodes_at_switch)[0],
        num_frames=num_frames,
        num_env_steps_per_frame=max(1, round(_SECONDS_PER_FRAME / env.unwrapped.dt)),
    )


def _caption(moment: Moment, episode: Episode) -> str:
    return f"{moment.name.split()[-1]}, step {moment.env_step:,}: {episode.episode_return:,.0f}"


def _long_caption(moment: Moment, episode: Episode) -> str:
    return (
        f"{moment.name}: environment step {moment.env_step:,}, return of this episode "
        f"{episode.episode_return:,.0f}, mean of the evaluation {moment.mean_return:,.0f}"
    )


def _record(config: OnlineConfig, store: Store) -> Record | None:
    path = store.records(config) / f"{run_id(config)}.json"
    if not path.exists():
        return None
    record = read_record(path)
    if record.status != "completed":
        reason = record.error or {}
        raise ValueError(f"the run must have been completed, it failed: {reason.get('message')}")
    return record


def _returns(record: Record) -> dict[int, float]:
    curve = record.curves["return"]
    return dict(zip(curve["step"], curve["value"], strict=True))


def _lowest(returns: dict[int, float]) -> int:
    """The evaluated step after the switch at which the mean return is lowest; the first of equals."""
    steps = sorted(step for step in returns if step > 0)
    return steps[int(np.argmin([returns[step] for step in steps]))]


def _check_same(run: OnlineRun, record: Record) -> None:
    wanted = record.artifacts["weights"]["sha256"]
    found = hash_content(dict(run.result_weights()))
    if found != wanted:
        raise ValueError(
            f"the run must end in the weights of its record (SHA-256 {wanted[:12]}), got "
            f"{found[:12]}: another version, kind of processor or number of threads; without the "
            "record its policies are pictured as they come out here"
        )


def _check_known(what: str, name: str, known: Any) -> None:
    if name not in known:
        raise ValueError(unknown_name(what, name, known))
