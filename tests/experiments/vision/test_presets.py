from typing import Any

import pytest

from segue.experiments.vision.grids import (
    ALL_PAIRS,
    CHECKPOINT_PAIRS,
    COMPARED,
    FRESH_SEEDS,
    NEEDS_NO_DATA,
    TUNED_PAIRS,
    TUNING_SEEDS,
    all_pairs,
    best_baseline,
    best_source_free,
    chosen,
    trials,
    tuning,
    verdicts,
)
from segue.experiments.vision.methods import METHODS, MethodConfig, make_method
from segue.experiments.vision.presets import PRESETS
from segue.experiments.vision.setting import FROZEN
from segue.runs.grid import config_from_dict, config_to_dict, expand, run_id
from segue.runs.records import Record


def record_of(config: Any, accuracy: float) -> Record:
    return Record(
        run_id(config), config.family, config.kind, config_to_dict(config), "completed",
        metrics={"target_accuracy": accuracy},
    )  # fmt: skip


def tuning_records(winners: dict[str, str]) -> list[Record]:
    """All tuning runs; the winner of a shift is best, at its last trial."""
    records = []
    for config in tuning(FROZEN, TUNED_PAIRS)([]):
        any_config: Any = config
        name, shift = any_config.method.name, any_config.shift.name
        rate, scale, share = trials(name)[-1]
        last = (
            any_config.optimizer.learning_rate, any_config.method.scale, any_config.method.wise_share
        ) == (rate, scale, share)  # fmt: skip
        records.append(record_of(config, (0.9 if winners[shift] == name else 0.5) + 0.01 * last))
    return records


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_phase_of_every_preset_can_be_laid_out_without_records(name: str) -> None:
    for phase in PRESETS[name].phases:
        configs = phase.configs([])
        assert configs
        assert len({run_id(config) for config in expand(configs)}) >= len(set(map(run_id, configs)))
        for config in configs[:3]:
            assert config_from_dict(type(config), config_to_dict(config)) == config
            assert config.cost() > 0.0


def test_every_method_has_an_equal_budget_on_the_tuning_seeds() -> None:
    assert {len(trials(method)) for method in METHODS} == {4}
    assert all(len(set(trials(method))) == 4 for method in METHODS)
    configs: list[Any] = tuning(FROZEN, TUNED_PAIRS)([])
    assert {config.split for config in configs} == {"validation"}
    assert {config.seed for config in configs} == set(TUNING_SEEDS)
    assert not set(TUNING_SEEDS) & set(FRESH_SEEDS)
    assert len({run_id(c) for c in configs}) == len(TUNED_PAIRS) * len(COMPARED) * 4 * 2


def test_terms_with_a_scale_have_it_tuned() -> None:
    scaled = {
        name
        for name in METHODS
        if make_method(name, num_smoothing_steps=1, num_target_steps=2).has_scale
    }
    assert scaled == {
        "smoothing_replay_l2sp", "smoothing_logits", "smoothing_features", "smoothing_l2sp",
        "smoothing_ewc", "l2sp", "ewc", "lwf",
    }  # fmt: skip
    for name in scaled:
        assert len({scale for _, scale, _ in trials(name)}) == 2


def test_settings_and_baselines_are_those_of_the_tuning_seeds() -> None:
    winners = dict(zip(TUNED_PAIRS, ("l2sp", "fresh_head", "smoothing_features"), strict=True))
    records = tuning_records(winners)
    settings = chosen(records, TUNED_PAIRS)
    for shift in TUNED_PAIRS:
        for method in COMPARED:
            assert settings[shift][method] == trials(method)[-1]
    baselines = best_baseline(records)
    assert (baselines["photo_to_sketch"], baselines["art_painting_to_cartoon"]) == (
        "l2sp",
        "fresh_head",
    )
    # A ramp is no baseline, but may be the best source-free term.
    assert not baselines["sketch_to_photo"].startswith("smoothing")
    assert best_source_free(records)["sketch_to_photo"] == "smoothing_features"
    runs: list[Any] = verdicts(FROZEN, TUNED_PAIRS)(records)
    by_method = {
        name: {c.seed for c in runs if (c.shift.name, c.method.name) == ("photo_to_sketch", name)}
        for name in COMPARED
    }
    for name in ("hard_switch", "smoothing", "l2sp"):
        assert by_method[name] == set(FRESH_SEEDS)
    assert by_method["fresh_head"] == set()


def test_pairs_that_were_not_tuned_take_what_is_best_on_average() -> None:
    records = tuning_records(dict.fromkeys(TUNED_PAIRS, "l2sp"))
    settings = chosen(records, ["cartoon_to_photo"])
    assert settings["cartoon_to_photo"]["hard_switch"] == trials("hard_switch")[-1]
    runs: list[Any] = all_pairs(FROZEN)(records)
    assert {c.shift.name for c in runs} | set(TUNED_PAIRS) == set(ALL_PAIRS)
    assert len(ALL_PAIRS) == 12
    assert {c.optimizer.learning_rate for c in runs if c.method.name == "hard_switch"} == {
        trials("hard_switch")[-1][0]
    }


def test_what_is_best_from_the_checkpoint_is_not_chosen_for_domain_models() -> None:
    records = []
    for pairs, best in ((TUNED_PAIRS, 0.01), (CHECKPOINT_PAIRS, 0.2)):
        for config in tuning(FROZEN, pairs, ("hard_switch",))([]):
            any_config: Any = config
            is_best = any_config.optimizer.learning_rate == best
            # The checkpoint's pairs would outvote the others, were they counted together.
            gap = 0.1 if best == 0.01 else 0.4
            records.append(record_of(config, 0.5 + gap * is_best))
    settings = chosen(records, ["cartoon_to_photo", "imagenet_to_photo"])
    assert settings["cartoon_to_photo"]["hard_switch"][0] == 0.01
    assert settings["imagenet_to_photo"]["hard_switch"][0] == 0.2


def test_from_the_checkpoint_no_method_uses_source_data() -> None:
    configs: list[Any] = tuning(FROZEN, CHECKPOINT_PAIRS, NEEDS_NO_DATA)([])
    assert all(config.source is None for config in configs)
    assert {config.method.initialization for config in configs} == {"fresh_head"}


def test_verdicts_from_the_checkpoint_hold_the_ramp_that_has_no_term() -> None:
    phase = next(p for p in PRESETS["no-source"].phases if p.name == "verdicts, no source")
    configs: list[Any] = phase.configs([])
    for shift in CHECKPOINT_PAIRS:
        for method in ("hard_switch", "target_ramp"):
            seeds = {c.seed for c in configs if (c.shift.name, c.method.name) == (shift, method)}
            assert seeds == set(FRESH_SEEDS)


def test_domainnet_is_laid_out_at_paper_scale() -> None:
    configs: list[Any] = PRESETS["paper"].phases[0].configs([])
    assert {(c.network.image_size, c.network.num_classes, c.network.trained) for c in configs} == {
        (224, 345, "all")
    }
    assert {c.shift.dataset for c in configs} == {"domainnet"}


def test_the_batch_norm_preset_varies_the_policy_and_the_dropout() -> None:
    configs: list[Any] = PRESETS["batch-norm"].phases[0].configs([])
    assert {c.batch_norm for c in configs} == {"shared", "target_only", "frozen_source"}
    assert {c.network.dropout for c in configs} == {0.0, 0.2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source_term": "reply"}, "unknown source_term 'reply'; did you mean 'replay'"),
        ({"penalty": "l2"}, "unknown penalty 'l2'"),
        ({"scale": 0.0}, "scale must be positive and finite, got 0.0"),
        ({"wise_share": 2.0}, r"wise_share must be in \[0, 1\], got 2.0"),
        ({"num_bank_examples": 8}, r"replay_batch_size must be <= num_bank_examples \(8\), got 32"),
    ],
)
def test_wrong_methods_are_named(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MethodConfig("x", **settings)
    with pytest.raises(ValueError, match="unknown method 'smoothin'; did you mean 'smoothing'"):
        make_method("smoothin", num_smoothing_steps=1, num_target_steps=2)
    with pytest.raises(ValueError, match=r"num_smoothing_steps must be <= num_target_steps \(2\)"):
        make_method("smoothing", num_smoothing_steps=3, num_target_steps=2)
