import pytest

from segue.rl.measures import d4rl_reference_score, evaluation_env_steps, measure_switch


def test_a_fall_and_its_recovery_by_hand() -> None:
    found = measure_switch([0, 100, 300, 500, 600], [80.0, 60.0, 40.0, 90.0, 70.0])
    assert found.start == 80.0
    assert (found.lowest, found.lowest_env_step) == (40.0, 300)
    assert (found.largest_drop, found.relative_drop, found.fell_over_10) == (40.0, 0.5, True)
    # Below 80: a triangle, a trapezoid, a triangle to the crossing at 460, one after 550.
    area = 0.5 * 100 * 20 + 0.5 * 200 * (20 + 40) + 0.5 * 160 * 40 + 0.5 * 50 * 10
    assert found.area_below_start == pytest.approx(area)
    assert found.num_env_steps_to_regain is None  # 70 at the end: not for good
    total = 0.5 * (100 * 140 + 200 * 100 + 200 * 130 + 100 * 160)
    assert found.mean_score == pytest.approx(total / 600)
    assert found.final == 70.0


def test_the_start_is_regained_where_the_curve_stays_above_it() -> None:
    scores = [50.0, 30.0, 55.0, 45.0, 52.0, 60.0]
    steps = [0, 1, 100, 500, 1_000, 2_000]
    assert measure_switch(steps, scores).num_env_steps_to_regain == 1_000
    assert measure_switch(steps, scores, tolerance=6.0).num_env_steps_to_regain == 100


def test_a_curve_that_never_falls_has_no_drop() -> None:
    found = measure_switch([0, 100, 200], [50.0, 50.0, 70.0])
    assert (found.largest_drop, found.area_below_start, found.num_env_steps_to_regain) == (0, 0, 0)
    assert not found.fell_over_10


def test_the_relative_drop_is_none_where_there_was_nothing_to_lose() -> None:
    assert measure_switch([0, 1], [-2.0, -5.0]).relative_drop is None
    assert measure_switch([0, 1], [-2.0, -5.0], floor=-8.0).relative_drop == 0.5


def test_measures_become_metrics_by_name() -> None:
    metrics = measure_switch([0, 1], [2.0, 1.0]).as_metrics("score_")
    assert metrics["score_largest_drop"] == 1.0
    assert metrics["score_num_env_steps_to_regain"] is None


@pytest.mark.parametrize(
    ("steps", "scores", "message"),
    [
        ([0], [1.0], "at least 2"),
        ([1, 2], [1.0, 1.0], "must start at 0 and increase"),
        ([0, 5, 5], [1.0, 1.0, 1.0], "must start at 0 and increase"),
        ([0, 1], [1.0, float("nan")], "scores must be finite"),
    ],
)
def test_a_wrong_curve_is_refused(steps: list[int], scores: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_switch(steps, scores)


def test_scores_are_scaled_by_the_references_of_d4rl() -> None:
    assert d4rl_reference_score("halfcheetah-medium-v2", 12135.0) == pytest.approx(100.0)
    assert d4rl_reference_score("Walker2d-v5", 1.629008) == pytest.approx(0.0)
    assert d4rl_reference_score("antmaze-umaze-v0", 0.5) == pytest.approx(50.0)
    assert d4rl_reference_score("maze2d-large-v1", 273.99) == pytest.approx(100.0)
    with pytest.raises(ValueError, match="unknown environment 'Humanoid-v5'"):
        d4rl_reference_score("Humanoid-v5", 0.0)


def test_evaluation_is_dense_where_the_fall_is() -> None:
    steps = evaluation_env_steps(27_000)
    assert steps[:7] == [0, 1, 100, 500, 1_000, 2_000, 5_000]
    assert steps[7:] == [10_000, 15_000, 20_000, 25_000, 27_000]
