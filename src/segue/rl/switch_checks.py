"""What must fit together before an agent goes online: told then, and not at the first checkpoint."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from segue.rl.control import Control, SourceLossControl
from segue.rl.data.dataset import OfflineDataset
from segue.rl.data.validation import check_matches_environment, validate
from segue.rl.objective import Objective
from segue.rl.preprocessing import Preprocessing
from segue.rl.state import check_restorable

__all__ = ["check_control", "check_dataset", "check_environment"]


def check_control(objective: Objective, control: Control | None) -> None:
    """Refuse a control beside a schedule, neither, or one that would see nothing."""
    if (objective.schedule is None) != (control is not None):
        raise ValueError(
            "control must be given where the objective's schedule is None, and only there, got "
            f"schedule {objective.schedule!r} and control {control!r}"
        )
    blind = not objective.smooth_actor or objective.source_term != "offline"
    if isinstance(control, SourceLossControl) and blind:
        raise ValueError(
            "control must not be a SourceLossControl where the actor's source loss is never evaluated "
            f"(λ would stay at 1), got smooth_actor={objective.smooth_actor} and "
            f"source_term={objective.source_term!r}"
        )


def check_dataset(
    objective: Objective, dataset: OfflineDataset | None, env: gymnasium.Env[Any, Any]
) -> None:
    """Refuse data that are missing, not whole, or of another environment."""
    if dataset is not None:
        validate(dataset)
        check_matches_environment(dataset, env)
    elif objective.needs_offline_data:
        raise ValueError("dataset must be given: the objective draws offline batches, got None")


def check_environment(env: gymnasium.Env[Any, Any], preprocessing: Preprocessing) -> None:
    """Refuse an environment that a checkpoint could not hold, or that sees or acts in other units."""
    check_restorable(env)
    sizes = preprocessing.num_observations, preprocessing.num_actions
    shapes = env.observation_space.shape, env.action_space.shape
    if shapes != ((sizes[0],), (sizes[1],)):
        raise ValueError(
            f"preprocessing must fit the environment's observations and actions {shapes}, got {sizes}"
        )
    space: Any = env.action_space
    for name, bound in (("action_low", space.low), ("action_high", space.high)):
        own = getattr(preprocessing, name)
        if not np.array_equal(own, bound):
            raise ValueError(
                f"{name} of the preprocessing must be the environment's {bound.tolist()}, "
                f"got {own.tolist()}"
            )
