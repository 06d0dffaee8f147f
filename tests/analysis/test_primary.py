"""Choices on the tuning seeds, and the primary verdict that rests on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from segue.analysis import (
    choose_baseline,
    choose_settings,
    chosen_arm,
    compare,
    primary_verdicts,
)

Make = Callable[..., Any]
NAN = {"type": "FloatingPointError", "message": "nan"}
TUNING_SEEDS = (100, 101)
FRESH_SEEDS = tuple(range(10))


def tuning(make: Make, scores: dict[tuple[str, float], float], **fields: Any) -> list[Any]:
    return [
        make(method, seed, score + 0.01 * (seed - 100), split="validation", learning_rate=rate,
             **fields)
        for (method, rate), score in scores.items()
        for seed in TUNING_SEEDS
    ]  # fmt: skip


SCORES = {
    ("hard", 0.1): 0.50,
    ("hard", 0.01): 0.55,
    ("l2_sp", 0.1): 0.60,
    ("l2_sp", 0.01): 0.40,
    ("fresh_head", 0.1): 0.58,
    ("fresh_head", 0.01): 0.30,
    ("smoothing", 0.1): 0.70,
    ("smoothing", 0.01): 0.65,
}


def fresh(make: Make, scores: dict[tuple[str, float], float], **fields: Any) -> list[Any]:
    return [
        make(method, seed, score + 0.001 * (seed % 3) * (method == "smoothing"),
             learning_rate=rate, **fields)
        for (method, rate), score in scores.items()
        for seed in FRESH_SEEDS
    ]  # fmt: skip


def test_the_learning_rate_is_chosen_per_method_on_validation_scores(make_record: Make) -> None:
    records = tuning(make_record, SCORES)
    # A test score that would turn the choice around must not be looked at.
    records += fresh(make_record, {("hard", 0.1): 0.99})
    choices = {c.group["method.name"]: c for c in choose_settings(records)}
    assert choices["hard"].settings == {"learning_rate": 0.01}
    assert choices["hard"].score == pytest.approx(0.555)
    assert choices["hard"].num_trials == 2
    assert choices["hard"].seeds == TUNING_SEEDS
    assert choices["smoothing"].settings == {"learning_rate": 0.1}


def test_a_setting_that_failed_once_is_out_of_the_race_and_named(make_record: Make) -> None:
    records = tuning(make_record, SCORES)
    records = [
        make_record("hard", 101, error=NAN, split="validation", learning_rate=0.01)
        if r.config["method"]["name"] == "hard"
        and r.config["learning_rate"] == 0.01
        and r.config["seed"] == 101
        else r
        for r in records
    ]
    (hard,) = (c for c in choose_settings(records) if c.group["method.name"] == "hard")
    assert hard.settings == {"learning_rate": 0.1}
    assert "out of the race: learning_rate=0.01, seed 101" in hard.notes[0]


def test_a_setting_not_run_at_every_tuning_seed_is_out_of_the_race(make_record: Make) -> None:
    records = tuning(make_record, {("hard", 0.1): 0.5})
    records.append(make_record("hard", 100, 0.9, split="validation", learning_rate=1.0))
    (choice,) = choose_settings(records)
    assert choice.settings == {"learning_rate": 0.1}
    assert choice.notes == ("out of the race: learning_rate=1.0 was not run at seed 101",)


def test_without_a_usable_setting_nothing_is_chosen_and_the_arm_is_empty(
    make_record: Make,
) -> None:
    records = [make_record("hard", 100, error=NAN, split="validation")]
    (choice,) = choose_settings(records, group_by=("shift.name",))
    assert choice.settings is None
    arm = chosen_arm("chosen", [choice])
    test_records = fresh(make_record, {("hard", 0.1): 0.5, ("smoothing", 0.1): 0.6})
    (row,) = compare(test_records, treatment="smoothing", baseline=arm)
    assert row.difference.num_pairs == 0
    assert row.verdict.decision == "undecided"


def test_ties_go_to_the_first_setting_and_are_told(make_record: Make) -> None:
    (choice,) = choose_settings(tuning(make_record, {("hard", 0.1): 0.5, ("hard", 0.01): 0.5}))
    assert choice.settings == {"learning_rate": 0.01}
    assert choice.notes == ("learning_rate=0.1 ties with the chosen setting",)


def test_a_trial_of_mixed_settings_is_an_error(make_record: Make) -> None:
    records = tuning(make_record, {("hard", 0.1): 0.5})
    records += tuning(make_record, {("hard", 0.1): 0.6}, num_target_steps=1200)
    with pytest.raises(ValueError, match=r"num_target_steps: \[300, 1200\]"):
        choose_settings(records)


def test_without_tuning_records_choosing_is_an_error(make_record: Make) -> None:
    with pytest.raises(ValueError, match=r"tuning records \(split=validation\), got none"):
        choose_settings(fresh(make_record, SCORES))


def test_the_baseline_is_the_best_other_method_with_its_setting(make_record: Make) -> None:
    (choice,) = choose_baseline(tuning(make_record, SCORES), exclude=("smoothing",))
    assert choice.settings == {"method.name": "l2_sp", "learning_rate": 0.1}
    assert choice.num_trials == 2
    assert choice.notes == ()


def test_unequal_numbers_of_trials_are_told(make_record: Make) -> None:
    records = tuning(make_record, {**SCORES, ("l2_sp", 0.03): 0.1})
    (choice,) = choose_baseline(records, candidates=("hard", "l2_sp"))
    assert choice.notes == ("methods had unequal numbers of trials: hard 2, l2_sp 3",)


def test_an_unknown_candidate_is_an_error(make_record: Make) -> None:
    with pytest.raises(ValueError, match=r"must name tuned methods .* got 'smooth'"):
        choose_baseline(tuning(make_record, SCORES), exclude=("smooth",))


def test_the_primary_verdict_uses_tuned_settings_on_fresh_seeds(make_record: Make) -> None:
    # On the fresh seeds fresh_head would be the best baseline; the choice was made before.
    records = tuning(make_record, SCORES) + fresh(
        make_record, {**SCORES, ("fresh_head", 0.1): 0.69, ("hard", 0.1): 0.99}
    )
    result = primary_verdicts(records, treatment="smoothing", hard_switch="hard")
    (hard,), (chosen,) = result.against_hard_switch, result.against_chosen_baseline
    assert set(hard.baseline_scores) == {0.55}
    assert hard.verdict.decision == "helps"
    assert chosen.baseline == "the chosen baseline (l2_sp)"
    assert set(chosen.baseline_scores) == {0.60}
    assert "over the chosen baseline (l2_sp)" in chosen.verdict.sentence
    assert hard.seeds == FRESH_SEEDS
    assert result.notes == ()


def test_seeds_that_were_tuned_on_are_left_out_and_named(make_record: Make) -> None:
    records = tuning(make_record, SCORES) + fresh(make_record, SCORES)
    records += [
        make_record(method, 100, 0.9, learning_rate=rate)
        for method, rate in (("smoothing", 0.1), ("hard", 0.01))
    ]
    result = primary_verdicts(records, treatment="smoothing", hard_switch="hard")
    assert result.against_hard_switch[0].seeds == FRESH_SEEDS
    assert result.notes == ("left out, tuned on and so not fresh: seed 100",)


def test_nine_fresh_seeds_are_too_few_for_the_primary_verdict(make_record: Make) -> None:
    records = tuning(make_record, SCORES)
    records += [r for r in fresh(make_record, SCORES) if r.config["seed"] != 4]
    result = primary_verdicts(records, treatment="smoothing", hard_switch="hard")
    assert result.against_hard_switch[0].verdict.decision == "undecided"
    assert "fewer than 10 pairs" in result.against_hard_switch[0].verdict.reason


def test_baselines_are_chosen_shift_by_shift(make_record: Make) -> None:
    other = {**SCORES, ("l2_sp", 0.1): 0.2}
    records = (
        tuning(make_record, SCORES) + tuning(make_record, other, shift="blur")
        + fresh(make_record, SCORES) + fresh(make_record, other, shift="blur")
    )  # fmt: skip
    result = primary_verdicts(records, treatment="smoothing", hard_switch="hard")
    assert [row.baseline for row in result.against_chosen_baseline] == [
        "the chosen baseline (fresh_head)",
        "the chosen baseline (l2_sp)",
    ]
    assert [row.adjusted_p for row in result.against_hard_switch] == [4 / 1024] * 2


def test_tuning_at_one_budget_may_serve_several(make_record: Make) -> None:
    records = tuning(make_record, SCORES)
    for steps in (300, 1200):
        records += fresh(make_record, SCORES, num_target_steps=steps)
    result = primary_verdicts(
        records,
        treatment="smoothing",
        hard_switch="hard",
        group_by=("shift.name", "num_target_steps"),
        tuned_by=("shift.name",),
    )
    assert [row.group["num_target_steps"] for row in result.against_hard_switch] == [300, 1200]
    assert all(row.difference.num_pairs == 10 for row in result.against_chosen_baseline)


def test_more_trials_for_the_treatment_are_told(make_record: Make) -> None:
    records = tuning(make_record, {**SCORES, ("smoothing", 0.03): 0.1})
    records += fresh(make_record, SCORES)
    result = primary_verdicts(records, treatment="smoothing", hard_switch="hard")
    assert result.notes == (
        "smoothing had 3 trials in shift.name=noise, a baseline 2: the comparison favours it",
    )


def test_without_fresh_seeds_there_is_no_primary_verdict(make_record: Make) -> None:
    records = tuning(make_record, SCORES)
    records += [make_record("smoothing", 100, 0.9)]
    with pytest.raises(ValueError, match="got 1 with tuned seeds only"):
        primary_verdicts(records, treatment="smoothing", hard_switch="hard")
    with pytest.raises(ValueError, match="tuned_by must be part of group_by"):
        primary_verdicts(records, treatment="smoothing", hard_switch="hard", tuned_by=("x",))
