"""What each family is judged by and which of its curves are drawn: the parameters of its report.

A family that is not named here is judged by accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ACCURACY", "FAMILIES", "Family", "FamilyScore", "Panel", "family_of"]


@dataclass(frozen=True)
class FamilyScore:
    """One score of a family.

    Attributes:
        metric: Name in the records.
        label: What it is, for people, with its unit.
        digits: Digits after the point.
        higher_is_better: Direction.
        unit: Unit of a difference, for sentences.
        anchor: Curve whose value at step 0 is 0 on the normalised scale, where the hard switch's mean
            is 1; "" for a score that has one scale on every task and is pooled as it is.
        improves: Whether training improves the score from there, as it does but for what is forgotten.
    """

    metric: str
    label: str
    digits: int
    higher_is_better: bool = True
    unit: str = ""
    anchor: str = ""
    improves: bool = True

    @property
    def higher_is_better_normalised(self) -> bool:
        """Direction of the normalised score."""
        return self.improves if self.anchor else self.higher_is_better


@dataclass(frozen=True)
class Panel:
    """One curve of a figure.

    Attributes:
        curve: Name in the records.
        title: Axis title.
        digits: Digits after the point in labels.
        height: Share of the figure's height.
        scale: Factor from the record's unit to the axis.
        drawn: Whether it is drawn, or only tabulated.
    """

    curve: str
    title: str
    digits: int = 1
    height: float = 0.44
    scale: float = 1.0
    drawn: bool = True


@dataclass(frozen=True)
class Family:
    """A family's report.

    Attributes:
        scores: The leading one first.
        tuning_score: Metric that settings are chosen by on the tuning seeds.
        panels: Curves of a task, the leading one first and tallest.
        steps: What the curves' steps are.
        pools_jointly: Whether a seed's tasks share a source model, so that they are redrawn together.
        start_line: Whether the value at step 0 is worth a line: the score that must not be lost.
        dense_start: Whether the first steps are drawn wider, because evaluations are dense there.
        diagnosis: Curves drawn around the end of the ramp, and tabulated at four moments.
        measures: Further metrics to list by method: metric → (label, digits).
        change_metric: A metric that only runs have whose task changes half-way; "" for none.
    """

    scores: tuple[FamilyScore, ...]
    tuning_score: str
    panels: tuple[Panel, ...]
    steps: str
    pools_jointly: bool = False
    start_line: bool = False
    dense_start: bool = False
    diagnosis: tuple[Panel, ...] = ()
    measures: Mapping[str, tuple[str, int]] | None = None
    change_metric: str = ""


_LAMBDA = Panel("source_weight", "source weight λ", 2, 0.14)
ACCURACY = Family(
    scores=(),
    tuning_score="target_accuracy",
    panels=(
        Panel("target_accuracy", "target accuracy (%)", 1, 0.44, 100.0),
        Panel("source_accuracy", "source accuracy (%)", 1, 0.30, 100.0),
        _LAMBDA,
    ),
    steps="optimizer steps after the switch",
)
"""The families that are judged by accuracy; their tables and claims are those of ``claims``."""
_D4RL = "points"
FAMILIES: Mapping[str, Family] = {
    "language": Family(
        scores=(
            FamilyScore(
                "target_loss", "Target loss (nats per token)", 3, False, "nats", "target_loss"
            ),
            FamilyScore(
                "source_loss",
                "Source loss (nats per token)",
                3,
                False,
                "nats",
                "source_loss",
                False,
            ),
        ),
        tuning_score="target_loss",
        panels=(
            Panel("target_loss", "target loss (nats)", 3),
            Panel("source_loss", "source loss (nats)", 3, 0.30),
            _LAMBDA,
        ),
        steps="optimizer steps after the switch",
        pools_jointly=True,
        measures={
            "forgetting_nats": ("forgotten (nats)", 3),
            "highest_target_loss": ("highest target loss after the switch", 3),
            "target_exact_match": ("exact match", 3),
        },
    ),
    "offline_to_online": Family(
        scores=(
            FamilyScore(
                "score_mean_score",
                "Mean of the D4RL-reference score over online training",
                1,
                unit=_D4RL,
            ),
            FamilyScore("score_final", "D4RL-reference score at the end", 1, unit=_D4RL),
            FamilyScore(
                "score_largest_drop", "Largest fall below the start (points)", 1, False, _D4RL
            ),
        ),
        tuning_score="score_mean_score",
        panels=(
            Panel("score", "D4RL-reference score", 1, 0.8),
            _LAMBDA,
        ),
        steps="environment steps after the switch",
        start_line=True,
        measures={
            "return_start": ("return at the switch", 0),
            "return_lowest": ("lowest return", 0),
            "return_final": ("return at the end", 0),
        },
        dense_start=True,
        diagnosis=(
            Panel("score", "D4RL-reference score", drawn=False),
            Panel("train_q_mean", "Q of the batch"),
            Panel("train_q_target_mean", "target of Q", drawn=False),
            Panel("train_q_twin_gap", "twin gap", 2),
            Panel("start_value", "Q at the first states", drawn=False),
            Panel("discounted_return", "discounted return", drawn=False),
            Panel("start_value_error", "Q at the start − return"),
            Panel("saturated_share", "saturated actions", 2),
            Panel("train_cloning_distance", "cloning distance", 3),
        ),
    ),
    "online_rl": Family(
        scores=(
            FamilyScore("final_return", "Return at the end of training", 1, anchor="return"),
            FamilyScore("area_under_curve", "Mean return over training", 1, anchor="return"),
        ),
        tuning_score="final_return",
        panels=(
            Panel("return", "return"),
            Panel("policy_churn", "policy churn", 4, 0.22),
            Panel("value_churn", "value churn", 2, 0.22),
        ),
        steps="environment steps",
        measures={
            "policy_churn": ("policy churn", 4),
            "value_churn": ("value churn", 2),
            "lowest_return_after_change": ("lowest return after the change", 1),
            "num_gradient_examples": ("gradient examples", 0),
        },
        change_metric="return_at_change",
    ),
}
"""Family → its report."""


def family_of(name: str) -> Family:
    """The report of a family by its name."""
    return FAMILIES.get(name, ACCURACY)
