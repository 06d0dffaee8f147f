import pytest

from segue.experiments.supervised.methods import (
    METHODS,
    MethodConfig,
    ScheduleConfig,
    build_schedule,
    make_method,
)


def test_every_method_is_named_as_it_is_registered() -> None:
    for name in METHODS:
        method = make_method(name, num_smoothing_steps=30, num_target_steps=100)
        assert method.name == name


def test_methods_differ_in_more_than_their_name() -> None:
    methods = [make_method(n, num_smoothing_steps=30, num_target_steps=100) for n in METHODS]
    assert len({repr(m).replace(m.name, "", 1) for m in methods}) == len(METHODS)


def test_only_methods_that_replay_need_source_data() -> None:
    def needs(name: str) -> bool:
        method = make_method(name, num_smoothing_steps=30, num_target_steps=100)
        return method.uses_source_data

    assert {name for name in METHODS if needs(name)} == {
        "smoothing",
        "smoothing_mixed",
        "smoothing_floor",
        "constant_mix",
        "constant_mix_throughout",
        "fresh_head_smoothing",
    }


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ScheduleConfig(), [0.0, 0.0, 0.0]),
        (ScheduleConfig("constant", initial_weight=0.5), [0.5, 0.5, 0.5]),
        (ScheduleConfig("constant_then_target", 2, initial_weight=0.5), [0.5, 0.5, 0.0]),
        (ScheduleConfig("constant_then_target", 0, initial_weight=0.5), [0.0, 0.0, 0.0]),
        (ScheduleConfig("linear", 2), [1.0, 0.5, 0.0]),
        (ScheduleConfig("linear", 2, final_weight=0.5), [1.0, 0.75, 0.5]),
        (ScheduleConfig("polynomial", 2), [1.0, 0.25, 0.0]),
    ],
)
def test_a_schedule_is_built_by_name(config: ScheduleConfig, expected: list[float]) -> None:
    schedule = build_schedule(config)
    assert [schedule(step) for step in range(3)] == expected


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown method 'smothing'; did you mean 'smoothing'"):
        make_method("smothing", num_smoothing_steps=1, num_target_steps=2)
    with pytest.raises(ValueError, match="unknown schedule shape 'linaer'; did you mean 'linear'"):
        ScheduleConfig("linaer")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown mode 'mixd'; did you mean"):
        MethodConfig("x", mode="mixd")  # type: ignore[arg-type]


def test_a_ramp_longer_than_training_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_smoothing_steps must be <= num_target_steps \(10\)"):
        make_method("smoothing", num_smoothing_steps=11, num_target_steps=10)


def test_a_replay_batch_larger_than_the_bank_is_refused() -> None:
    with pytest.raises(ValueError, match=r"replay_batch_size must be <= num_bank_examples \(16\)"):
        MethodConfig("x", num_bank_examples=16)
