from segue.experiments.offline_to_online.config import OnlineConfig
from segue.experiments.offline_to_online.grids import COMPARED, PRIMARY, REMEDIES
from segue.experiments.offline_to_online.methods import METHODS
from segue.experiments.offline_to_online.presets import PRESETS
from segue.runs.grid import config_from_dict, config_to_dict, expand, run_id


def configs(preset: str) -> list[OnlineConfig]:
    found = [config for phase in PRESETS[preset].phases for config in phase.configs([])]
    assert all(isinstance(config, OnlineConfig) for config in found)
    return found  # type: ignore[return-value]


def test_every_method_is_run_by_the_standard_preset() -> None:
    assert {config.method.name for config in configs("standard")} == set(METHODS)
    assert set(PRIMARY) <= set(COMPARED)
    assert not set(COMPARED) & set(REMEDIES)


def test_verdicts_have_ten_seeds_and_every_arm_has_enough_for_one() -> None:
    for config in configs("verdicts"):
        assert config.method.name in PRIMARY
    assert {config.seed for config in configs("verdicts")} == set(range(10))
    assert {config.seed for config in configs("arms")} == set(range(7))
    known = {run_id(config) for config in configs("verdicts")}
    shared = [c for c in configs("arms") if c.method.name in PRIMARY]
    assert {run_id(config) for config in shared} <= known  # run once


def test_online_training_is_three_ramps_past_the_ramp() -> None:
    for config in configs("verdicts"):
        k = config.method.schedule.num_smoothing_steps
        assert config.num_env_steps >= 4 * k


def test_arms_of_a_seed_share_the_offline_agent() -> None:
    sources = [c for c in expand(configs("arms")) if c.kind == "source"]
    assert len(sources) == 3 * 7
    with_norm = [c for c in expand(configs("remedies")) if c.kind == "source"]
    assert len(with_norm) == 2 * 3 * 7  # critics with and without LayerNorm


def test_a_longer_offline_phase_changes_nothing_but_the_offline_agent() -> None:
    longer, usual = configs("longer-offline"), configs("verdicts")
    assert {c.source.min_updates for c in longer} == {c.source.max_updates for c in longer}
    known = {(c.shift, c.method, c.seed, c.num_env_steps) for c in usual}
    assert {(c.shift, c.method, c.seed, c.num_env_steps) for c in longer} <= known
    assert all(c.source.max_updates > usual[0].source.max_updates for c in longer)


def test_configurations_survive_json() -> None:
    for config in configs("quick"):
        again = config_from_dict(OnlineConfig, config_to_dict(config))
        assert again == config
        assert run_id(again) == run_id(config)
        assert config.cost() >= config.num_env_steps
