"""Presets of the family: what ``segue run offline_to_online --preset NAME`` executes."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

from segue.experiments.families import Phase, Preset
from segue.experiments.offline_to_online.config import OfflineConfig, OnlineConfig
from segue.experiments.offline_to_online.grids import (
    COMPARED,
    MEDIUM,
    MEDIUM_REPLAY,
    PRIMARY,
    REMEDIES,
    arms,
)
from segue.experiments.offline_to_online.setting import LARGE, LONGER_OFFLINE, QUICK, STANDARD
from segue.rl.data.policies import find_policies
from segue.rl.td3 import TD3Config

__all__ = ["PRESETS"]

_QUICK_ARMS = ("hard_switch", "smoothing", "smoothing_floor", "constant_mix_throughout")


def _seconds_per_cost(config: OfflineConfig | OnlineConfig) -> float:
    source = config if isinstance(config, OfflineConfig) else config.source
    return _seconds_per_update(source.learner)


@functools.cache
def _seconds_per_update(learner: TD3Config) -> float:
    """Measure one update on random transitions, compiled."""
    import numpy as np

    from segue.rl.objective import offline_objective
    from segue.rl.td3 import init_agent, make_updates

    sizes, num = (17, 6), 100
    updates = make_updates(learner, offline_objective(), *sizes)
    agent = init_agent(learner, *sizes, seed=0)
    rows = np.random.default_rng(0).standard_normal((1_000, 42)).astype(np.float32)
    given = (rows, rows, np.int32(1_000), np.uint32(0), np.int32(0), np.float32(0.0))
    seconds = []
    for _ in range(3):  # the first one compiles
        started = time.process_time()
        agent, metrics = updates(agent, *given, num_updates=num)
        float(metrics["critic_loss"])  # waits for the result
        seconds.append(time.process_time() - started)
    return min(seconds) / num


def _preset(description: str, *phases: Phase) -> Preset:
    return Preset(description, phases, find_policies, _seconds_per_cost)


def _by_shift(
    name: str, shifts: Sequence[str], methods: Sequence[str], num_seeds: int
) -> list[Phase]:
    """A phase for each shift, so that a grid that is cut off has whole shifts."""
    return [
        Phase(f"{name}, {shift}", arms(STANDARD, (shift,), methods, range(num_seeds)))
        for shift in shifts
    ]


_VERDICTS = _by_shift("verdicts", MEDIUM, PRIMARY, 10)
# Under Holm over three tasks six pairs can decide nothing, seven can.
_MEDIUM_ARMS = _by_shift("all arms", MEDIUM, COMPARED, 7)
_REPLAY_ARMS = _by_shift("all arms", MEDIUM_REPLAY, COMPARED, 7)
_REMEDIES = _by_shift("remedies", MEDIUM, REMEDIES, 7)
_LONGER = Phase("longer offline", arms(LONGER_OFFLINE, MEDIUM[:1], PRIMARY, range(6)))

PRESETS: dict[str, Preset] = {
    "quick": _preset(
        "HalfCheetah: four arms, two seeds, short training; no verdicts",
        Phase("quick", arms(QUICK, ("halfcheetah-medium",), _QUICK_ARMS, range(2))),
    ),
    "standard": _preset(
        "three tasks, medium and medium-replay: verdicts on ten seeds, all arms on seven",
        *_VERDICTS,
        *_REMEDIES,
        *_MEDIUM_ARMS,
        *_REPLAY_ARMS,
        _LONGER,
    ),
    "verdicts": _preset("three medium tasks: four arms, ten seeds", *_VERDICTS),
    "arms": _preset("three medium tasks: all arms, seven seeds", *_MEDIUM_ARMS),
    "medium-replay": _preset("three medium-replay tasks: all arms, seven seeds", *_REPLAY_ARMS),
    "remedies": _preset("three medium tasks: what may remove the fall for good", *_REMEDIES),
    "longer-offline": _preset(
        "HalfCheetah: the primary arms after 200,000 offline updates, six seeds", _LONGER
    ),
    "large": _preset(
        "256 × 256 units: HalfCheetah, the primary arms and staying offline, six seeds; Walker2d, two arms, five",
        Phase("large", arms(LARGE, MEDIUM[:1], (*PRIMARY, "offline_throughout"), range(6))),
        Phase("another task", arms(LARGE, MEDIUM[1:2], PRIMARY[:2], range(5))),
    ),
}
"""Presets by name."""
