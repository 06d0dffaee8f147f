"""Presets of the language family: what ``segue run language`` executes."""

from __future__ import annotations

import functools
from typing import Any

from segue.experiments.families import Phase, Preset
from segue.experiments.language.corpus import check_data
from segue.experiments.language.grids import (
    COMPARED,
    OTHER_METHODS,
    equal_compute,
    judged,
    one_rate,
    tuning,
    verdicts,
)
from segue.experiments.language.loop import seconds_per_sequence
from segue.experiments.language.models import ModelConfig, build_model
from segue.experiments.language.paper import check_paper, paper_grid, paper_plan
from segue.experiments.language.setting import JUDGED, QUICK, STANDARD

__all__ = ["PRESETS"]

_TWO_BUDGETS = (STANDARD.budgets[3], STANDARD.budgets[-1])
"""One pass over the source text, and the longest pretraining."""


def _seconds_per_cost(config: Any) -> float:
    source = getattr(config, "source", config)
    return _seconds_per_sequence(source.model)


@functools.cache
def _seconds_per_sequence(model: ModelConfig) -> float:
    return seconds_per_sequence(build_model(model, seed=0), model.vocab_size, model.max_length)


PRESETS: dict[str, Preset] = {
    "quick": Preset(
        "tiny OLMo on WikiText-2: three targets, two budgets, three methods, two seeds; no verdicts",
        (Phase("quick", lambda records: one_rate(QUICK, COMPARED, range(2), 2.5e-3)),),
        check_data,
        _seconds_per_cost,
    ),
    "standard": Preset(
        "tiny OLMo on WikiText-2: three targets, seven pretraining budgets, three methods, ten seeds",
        (
            Phase("tuning", tuning(STANDARD, STANDARD.budgets)),
            Phase("verdicts", verdicts(STANDARD, STANDARD.budgets)),
            Phase("equal compute", equal_compute(STANDARD)),
        ),
        check_data,
        _seconds_per_cost,
    ),
    "other-methods": Preset(
        "tiny OLMo on WikiText-2: every other method at two budgets, ten seeds",
        (
            Phase("tuning", tuning(STANDARD, _TWO_BUDGETS, OTHER_METHODS)),
            Phase("other methods", verdicts(STANDARD, _TWO_BUDGETS, OTHER_METHODS)),
        ),
        check_data,
        _seconds_per_cost,
    ),
    "judged": Preset(
        "tiny OLMo on GSM8K as instructions: hard switch and smoothing, one seed; their weights are kept "
        "to answer prompts with",
        (Phase("judged", lambda records: judged(JUDGED, "gsm8k_instructions", 2.5e-3)),),
        check_data,
        _seconds_per_cost,
    ),
    "paper": Preset(
        "OLMo-1B revisions on Anthropic-HH and Tulu-v1, as in the paper: for GPUs and the hub",
        (Phase("paper", paper_grid),),
        check_paper,
        plan=paper_plan,
    ),
}
"""Presets by name."""
