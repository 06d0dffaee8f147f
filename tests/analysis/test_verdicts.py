"""What a verdict says, and when it refuses to say anything."""

from __future__ import annotations

import numpy as np
import pytest

from segue.analysis import Verdict, paired_difference, verdict
from segue.analysis.verdicts import format_p


def judge(differences: list[float], adjusted_p: float | None = None, **kwargs: object) -> Verdict:
    paired = paired_difference(differences, np.zeros(len(differences)))
    p = paired.p_value if adjusted_p is None else adjusted_p
    return verdict(paired, p, **kwargs)  # type: ignore[arg-type]


TEN = [0.01, 0.02, 0.03, 0.015, 0.025, 0.005, 0.02, 0.03, 0.01, 0.025]


def test_a_gain_is_one_sentence() -> None:
    result = judge(TEN, 9 * 2 / 1024, baseline="the hard switch", num_comparisons=9)
    assert result.decision == "helps"
    assert result.sentence == (
        "helps: +1.9 points over the hard switch "
        "(95 % interval 1.3 to 2.5, 10 pairs, Holm-adjusted p 0.018)"
    )


def test_a_loss_is_one_sentence() -> None:
    result = judge([-d for d in TEN], baseline="the hard switch")
    assert result.sentence == (
        "hurts: −1.9 points against the hard switch "
        "(95 % interval −2.5 to −1.3, 10 pairs, p 0.0020)"
    )


def test_a_lower_score_helps_where_lower_is_better() -> None:
    assert judge([-d for d in TEN], higher_is_better=False).decision == "helps"
    assert judge(TEN, higher_is_better=False).decision == "hurts"


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_fewer_than_six_pairs_never_decide_and_the_smallest_p_is_printed(n: int) -> None:
    result = judge([10.0 + i for i in range(n)], alpha=0.9999)
    assert result.decision == "undecided"
    assert "fewer than 6 pairs" in result.sentence
    assert f"can reach is {format_p(2 / 2**n)}" in result.sentence


def test_min_pairs_cannot_be_lowered_below_six() -> None:
    with pytest.raises(ValueError, match="min_pairs must be >= 6, got 3"):
        judge(TEN, min_pairs=3)


def test_six_pairs_of_one_sign_decide_a_single_comparison() -> None:
    assert judge([0.01, 0.02, 0.03, 0.04, 0.05, 0.06]).decision == "helps"


def test_six_pairs_over_nine_shifts_cannot_decide_and_say_so() -> None:
    six = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]
    p = 9 * 2 / 64
    result = judge(six, p, num_comparisons=9, smallest_adjusted_p=p)
    assert result.decision == "undecided"
    assert (
        "no outcome could decide: the smallest p that 6 pairs can reach is 0.28 "
        "after Holm over 9 comparisons" in result.sentence
    )


def test_a_primary_verdict_needs_its_ten_pairs() -> None:
    result = judge(TEN[:9], min_pairs=10)
    assert result.decision == "undecided"
    assert "fewer than 10 pairs" in result.reason


def test_a_large_p_is_undecided_with_its_size() -> None:
    result = judge([0.1, -0.1] * 5, baseline="the hard switch")
    assert result.decision == "undecided"
    assert result.sentence.startswith("undecided: 0.0 points over the hard switch")
    assert result.sentence.endswith("p 1.00 is above 0.05")


def test_no_pairs_are_undecided_without_numbers() -> None:
    result = judge([], baseline="the hard switch")
    assert result.sentence == "undecided: no pairs with the hard switch"
    assert "nan" not in result.sentence


def test_one_pair_has_no_interval_and_no_nan() -> None:
    sentence = judge([0.1]).sentence
    assert "no interval, 1 pair," in sentence
    assert "nan" not in sentence


def test_failed_treatment_runs_block_help_but_not_hurt() -> None:
    helped = judge(TEN, treatment_only_failures=(3, 7))
    assert helped.decision == "undecided"
    assert "the treatment has no usable run where the baseline has one (seeds 3, 7)" in (
        helped.sentence
    )
    assert judge([-d for d in TEN], treatment_only_failures=(3,)).decision == "hurts"


def test_failed_baseline_runs_block_hurt_but_not_help() -> None:
    assert judge([-d for d in TEN], baseline_only_failures=(3,)).decision == "undecided"
    assert judge(TEN, baseline_only_failures=(3,)).decision == "helps"


def test_equal_differences_draw_a_caveat_about_the_seed() -> None:
    notes = judge([0.1] * 10).notes
    assert notes == ("all 10 differences are equal: check that the seed changes the runs",)


def test_an_interval_with_zero_beside_a_rejection_is_a_caveat() -> None:
    result = judge([0.01] * 9 + [5.0])
    assert result.decision == "helps"
    assert any("interval includes 0" in note for note in result.notes)


@pytest.mark.parametrize("p", [0.0001, 1.5, float("nan")])
def test_an_adjusted_p_below_the_unadjusted_one_is_an_error(p: float) -> None:
    with pytest.raises(ValueError, match="at least the unadjusted p"):
        judge(TEN, p)


@pytest.mark.parametrize(
    ("p", "text"),
    [(1.0, "1.00"), (0.25, "0.25"), (0.0625, "0.062"), (0.0078125, "0.0078"), (1e-5, "< 0.0001")],
)
def test_p_is_printed_with_two_digits(p: float, text: str) -> None:
    assert format_p(p) == text
