"""Presets of the online family: what ``segue run online_rl`` executes."""

from __future__ import annotations

import functools
import time
from typing import Any

from segue.experiments.families import Phase, Preset
from segue.experiments.online_rl.config import SHIFTS
from segue.experiments.online_rl.grids import comparison, one_rate, tuning
from segue.experiments.online_rl.setting import QUICK, STANDARD

__all__ = ["PRESETS"]

_CHANGING = tuple(name for name, shift in SHIFTS.items() if shift.changes)


@functools.cache
def _seconds_per_example() -> float:
    """Seconds per gradient example, acting included, measured on one task; compiling is not."""
    import jax

    from segue.rl.environments import make_environment
    from segue.rl.ppo import PPO

    config = QUICK.run("cartpole", "hard_switch", 0, 1e-3)
    learner = PPO(make_environment("CartPole"), config.settings)
    train = jax.jit(learner.train, static_argnums=2)
    state, num_iterations = learner.init(0, 1e-3), 20
    compiled = train.lower(state, 0, num_iterations).compile()
    started = time.perf_counter()
    jax.block_until_ready(compiled(state, 0))  # type: ignore[no-untyped-call]
    seconds = time.perf_counter() - started
    return seconds / (config.cost() / config.num_iterations * num_iterations)


def _seconds_per_cost(config: Any) -> float:
    return _seconds_per_example()


def _tuned(description: str, shifts: tuple[str, ...]) -> Preset:
    phases = (
        Phase("tuning", tuning(STANDARD, shifts)),
        Phase("verdicts", comparison(STANDARD, shifts)),
    )
    return Preset(description, phases, seconds_per_cost=_seconds_per_cost)


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
    "standard": _tuned(
        "PPO on three tasks and three changing ones, ten arms, ten seeds", tuple(SHIFTS)
    ),
}
"""Presets by name."""
