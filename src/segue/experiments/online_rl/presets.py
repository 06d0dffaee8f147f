"""Presets of the online family: what ``segue run online_rl`` executes."""

from __future__ import annotations

import functools
import time
from typing import Any

from segue.experiments.families import Phase, Preset
from segue.experiments.online_rl.grids import (
    FRESH_SEEDS,
    compared,
    comparison,
    one_rate,
    tuning,
)
from segue.experiments.online_rl.setting import BRAX, BRAX_RATES, QUICK, STANDARD
from segue.runs.grid import RunConfig

__all__ = ["PRESETS"]

_CHANGING = ("cartpole-force", "acrobot-gravity", "pendulum-gravity")
_PPO = ("cartpole", "acrobot", "pendulum", *_CHANGING, "brax-hopper")
_TD3 = ("td3-targets-pendulum", "td3-data-pendulum-torque")


@functools.cache
def _seconds_per_example(shift: str) -> float:
    """Seconds per gradient example, acting included, measured on one task; compiling is not."""
    import jax

    from segue.experiments.online_rl.train import build_learner

    config = QUICK.run(shift, "hard_switch", 0, 1e-3)
    learner = build_learner(config)
    train = jax.jit(learner.train, static_argnums=2)
    state, num_iterations = learner.init(0, 1e-3), 20
    compiled = train.lower(state, 0, num_iterations).compile()
    started = time.perf_counter()
    jax.block_until_ready(compiled(state, 10_000))  # type: ignore[no-untyped-call]
    seconds = time.perf_counter() - started
    num_points = num_iterations / config.num_iterations_per_point
    return seconds / (config.cost() / config.num_points * num_points)


def _seconds_per_cost(config: Any) -> float:
    names = {"ppo": "cartpole", "td3": "td3-targets-pendulum"}
    return _seconds_per_example(names[config.learner_name])


def _tuned(description: str, shifts: tuple[str, ...]) -> Preset:
    phases = (
        Phase("tuning", tuning(STANDARD, shifts)),
        Phase("verdicts", comparison(STANDARD, shifts)),
    )
    return Preset(description, phases, seconds_per_cost=_seconds_per_cost)


def _brax_runs(records: object) -> list[RunConfig]:
    return [
        run
        for shift, rate in BRAX_RATES.items()
        for run in one_rate(BRAX, (shift,), compared(shift), FRESH_SEEDS, rate)
    ]


PRESETS: dict[str, Preset] = {
    "quick": Preset(
        "PPO on a task and on a changing one, four arms, two seeds, short training; no verdicts",
        (
            Phase(
                "quick",
                lambda records: one_rate(
                    QUICK,
                    ("cartpole", "cartpole-force"),
                    ("hard_switch", "smoothing", "target_ramp", "larger_batches"),
                    range(2),
                    0.003,
                ),
            ),
        ),
        seconds_per_cost=_seconds_per_cost,
    ),
    "changing": _tuned("PPO on three changing tasks, ten arms, ten seeds", _CHANGING),
    "ppo": _tuned(
        "PPO on three tasks, three changing ones and Brax's hopper, seven to ten arms, ten seeds",
        _PPO,
    ),
    "td3": _tuned(
        "TD3 on Pendulum: hard targets, and drifting data in a changing task, ten arms, ten seeds",
        _TD3,
    ),
    "brax": Preset(
        "rejax's Brax settings, PPO on four tasks and TD3 on three, 5.2 million environment steps: "
        "for a GPU",
        (Phase("verdicts", _brax_runs),),
        seconds_per_cost=_seconds_per_cost,
        plan=lambda: (
            "meant for a GPU (--device cuda); learning rates are rejax's, nothing is tuned",
            "networks have 64 x 64 units; TD3's activation is ReLU where rejax's is tanh",
        ),
    ),
    "standard": _tuned("PPO on seven tasks and TD3 on two, ten arms, ten seeds", _PPO + _TD3),
}
"""Presets by name."""
