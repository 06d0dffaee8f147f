"""The arms of TD3, beside those of PPO: what happens at the start of every phase.

A phase is so many critic updates. In tasks of the switch ``targets`` hard targets are replaced at its
start, and the source is the loss on the targets before; in those of ``data`` the newer half of the
buffer moves on, and the source is the loss on the older half. Every arm sees the same number of
environment steps.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from segue.checks import check_positive, unknown_name
from segue.experiments.online_rl.methods import SMOOTHING_SHARE, RampConfig
from segue.rl.td3_online_settings import OnlineTD3Settings, TD3SourceTerm

__all__ = ["TD3_METHODS", "TD3MethodConfig", "make_td3_method"]

Remedy = Literal["none", "averaged_targets", "whole_buffer"]


@dataclass(frozen=True)
class TD3MethodConfig(RampConfig):
    """What an arm does within a phase.

    Attributes:
        name: Name in tables.
        shape: Source weight over the updates of a phase.
        smoothing_share: Length of the ramp as a share of a phase's updates.
        initial_weight: λ at the first update of a phase.
        source_term: See :class:`segue.rl.td3_online.TD3`.
        updates_factor: Updates relative to the plain arm; phases are as long in environment steps.
        remedy: What takes the switch away instead of smoothing it: targets that are averaged at every
            update, or batches from the whole buffer.
    """

    source_term: TD3SourceTerm = "lagged_targets"
    updates_factor: float = 1.0
    remedy: Remedy = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("remedy", Remedy), ("source_term", TD3SourceTerm)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(unknown_name(name, getattr(self, name), get_args(choices)))
        check_positive("updates_factor", self.updates_factor)

    def settings(self, plain: OnlineTD3Settings) -> OnlineTD3Settings:
        """The learner's settings, given those of the plain arm.

        Raises:
            ValueError: If ``updates_factor`` does not give whole updates.
        """
        num_updates = plain.num_updates * self.updates_factor
        if num_updates != int(num_updates):
            raise ValueError(
                f"updates_factor must give whole updates of {plain.num_updates}, "
                f"got {self.updates_factor}"
            )
        found = dataclasses.replace(
            plain,
            num_updates=int(num_updates),
            period=plain.period // plain.num_updates * int(num_updates),
        )
        if self.remedy == "averaged_targets":
            return dataclasses.replace(found, target_update="average")
        if self.remedy == "whole_buffer":
            return dataclasses.replace(found, recent_share=1.0)
        return found


_HALF = SMOOTHING_SHARE


def _arms(old: TD3SourceTerm, remedy: Remedy) -> dict[str, TD3MethodConfig]:
    arms = (
        TD3MethodConfig("hard_switch", source_term=old),
        TD3MethodConfig("smoothing", "linear", _HALF, source_term=old),
        TD3MethodConfig("smoothing_quarter", "linear", 0.25, source_term=old),
        TD3MethodConfig("smoothing_whole", "linear", 1.0, source_term=old),
        TD3MethodConfig("constant_mix", "constant_then_target", _HALF, 0.5, source_term=old),
        TD3MethodConfig("constant_mix_throughout", "constant", 0.0, 0.5, source_term=old),
        TD3MethodConfig("target_ramp", "linear", _HALF, source_term="nothing"),
        # Controls with as many gradient examples as smoothing, and nothing old.
        TD3MethodConfig("larger_batches", "linear", _HALF, source_term="second_batch"),
        TD3MethodConfig("more_updates", source_term=old, updates_factor=1.0 + _HALF),
        TD3MethodConfig(remedy, source_term=old, remedy=remedy),
    )
    return {arm.name: arm for arm in arms}


TD3_METHODS: dict[str, dict[str, TD3MethodConfig]] = {
    "targets": _arms("lagged_targets", "averaged_targets"),
    "data": _arms("older_slice", "whole_buffer"),
}
"""What switches → the arms by name."""


def make_td3_method(name: str, switch: str) -> TD3MethodConfig:
    """Return the named arm; raises ValueError with the nearest name if there is none."""
    methods = TD3_METHODS[switch]
    if name not in methods:
        raise ValueError(unknown_name("method", name, methods))
    return methods[name]
