"""The loop around the environment: what is stored, what is resumed, and what never happens."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.wrappers import ClipAction

import segue
from segue.rl.control import ReturnControl, SourceLossControl
from segue.rl.data import DatasetError, OfflineDataset
from segue.rl.evaluation import evaluate, evaluation_seeds
from segue.rl.networks import to_numpy
from segue.rl.objective import Objective
from segue.rl.offline import OfflineTraining
from segue.rl.preprocessing import Preprocessing, fit_preprocessing
from segue.rl.state import agent_from_state, environment_state, restore_environment
from segue.rl.switch import _PARTS, OnlineTraining, SwitchConfig
from segue.rl.td3 import TD3Config
from segue.runs.checkpoint import load_checkpoint, save_checkpoint

LEARNER = TD3Config(hidden_widths=(8,), batch_size=8)
OBJECTIVE = Objective(segue.linear_decay(40), num_env_steps_before_updates=20)
CONFIG = SwitchConfig(LEARNER, OBJECTIVE, num_env_steps_per_round=3, buffer_capacity=70)


@pytest.fixture
def start(
    make_env: Callable[..., Any], hopper_data: OfflineDataset, hopper_preprocessing: Preprocessing
) -> Callable[..., OnlineTraining]:
    """Starts online training in Hopper with a time limit of 30 steps."""

    def make(config: SwitchConfig = CONFIG, seed: int = 0, **settings: Any) -> OnlineTraining:
        env = make_env("Hopper-v5", max_episode_steps=30)
        settings = {"dataset": hopper_data, "preprocessing": hopper_preprocessing, **settings}
        return OnlineTraining(config, env, seed=seed, **settings)

    return make


def content(training: OnlineTraining, path: Path) -> bytes:
    save_checkpoint(path, training.state_dict())
    return path.read_bytes()


@pytest.mark.parametrize("cut", [10, 45, 81], ids=["before", "inside", "after"])
def test_a_resumed_run_equals_one_that_was_never_cut(
    start: Callable[..., OnlineTraining], tmp_path: Path, cut: int
) -> None:
    whole, goal = start(), 100
    while whole.num_env_steps < cut:  # cut between two rounds, not at a goal
        whole.round(1 if whole.num_env_steps in (18, 19) else 3)
    save_checkpoint(tmp_path / "cut", whole.state_dict())
    weight = {10: 1.0, 45: 0.35, 81: 0.0}[cut]
    assert whole.source_weight == pytest.approx(weight, abs=0.08)
    whole.train(goal)
    resumed = start()
    resumed.load_state_dict(load_checkpoint(tmp_path / "cut"))
    resumed.train(goal)
    assert whole.num_updates == 80
    assert content(whole, tmp_path / "a") == content(resumed, tmp_path / "b")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("offline_fingerprint", "other"),
        ("preprocessing", None),
        ("source_weight", 0.123),
    ],
)
def test_a_state_of_another_run_is_refused(
    start: Callable[..., OnlineTraining], part: str, change: Any
) -> None:
    training = start()
    state = training.state_dict()
    if part == "preprocessing":
        other = fit_preprocessing(np.random.default_rng(0).random((5, 11)), -np.ones(3), np.ones(3))
        change = other.state_dict()
    with pytest.raises(ValueError, match="the state was saved with"):
        training.load_state_dict({**state, part: change})


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"config": replace(CONFIG, learner=replace(LEARNER, discount=0.9))}, "learner.discount"),
        (
            {"config": replace(CONFIG, objective=replace(OBJECTIVE, batches="union"))},
            "objective.batches",
        ),
        (
            # Both weights are 1 at the switch, so λ alone would not tell.
            {
                "config": replace(
                    CONFIG, objective=replace(OBJECTIVE, schedule=segue.linear_decay(7))
                )
            },
            "objective.schedule",
        ),
        ({"config": replace(CONFIG, exploration_noise=0.3)}, "exploration_noise"),
        ({"seed": 1}, "seed"),
    ],
)
def test_a_state_of_another_configuration_is_refused_and_changes_nothing(
    start: Callable[..., OnlineTraining], tmp_path: Path, other: dict[str, Any], named: str
) -> None:
    training = start()
    training.train(12)
    another = start(**other)
    before = content(another, tmp_path / "a")
    with pytest.raises(ValueError, match=f"^{named} must be what the state was saved with, "):
        another.load_state_dict(training.state_dict())
    assert content(another, tmp_path / "b") == before


def test_a_refused_source_weight_changes_nothing(
    start: Callable[..., OnlineTraining], tmp_path: Path
) -> None:
    # A function of the user's own has no description to compare.
    training = start(replace(CONFIG, objective=replace(OBJECTIVE, schedule=lambda step: 0.5)))
    training.train(30)
    another = start(replace(CONFIG, objective=replace(OBJECTIVE, schedule=lambda step: 0.25)))
    before = content(another, tmp_path / "a")
    with pytest.raises(ValueError, match=r"the state was saved with \(0\.5\), got 0\.25"):
        another.load_state_dict(training.state_dict())
    assert content(another, tmp_path / "b") == before


@pytest.mark.parametrize("part", ["agent", "buffer", "preprocessing", "environment", "control"])
def test_a_part_missing_from_a_saved_state_is_named(
    start: Callable[..., OnlineTraining], part: str
) -> None:
    training = start()
    state = training.state_dict()
    assert set(state) == set(_PARTS)
    del state[part]
    with pytest.raises(ValueError, match=f"the saved state must hold .* misses {part}$"):
        training.load_state_dict(state)


def test_a_part_missing_from_a_saved_agent_is_named(start: Callable[..., OnlineTraining]) -> None:
    training = start()
    state = dict(training.state_dict()["agent"])
    del state["target_critic"]
    with pytest.raises(ValueError, match=r"must hold target_critic\.params\.first"):
        agent_from_state(training.agent, state)


def test_the_environment_resumes_in_contact_with_its_counter_and_generator(
    make_env: Callable[..., Any],
) -> None:
    env, again = (make_env("Hopper-v5", max_episode_steps=15) for _ in range(2))
    env.reset(seed=3)
    actions = np.random.default_rng(0).uniform(-1, 1, (40, 3)).astype(np.float32)
    for action in actions[:9]:
        env.step(action)
    state = environment_state(env)
    assert env.unwrapped.data.ncon > 0  # the solver's warm start matters
    restore_environment(again, state)

    def go_on(each: Any) -> list[Any]:
        seen: list[Any] = []
        for action in actions[9:]:
            observation, reward, terminated, truncated, _ = each.step(action)
            seen.append((observation.tobytes(), reward, terminated, truncated))
            if terminated or truncated:
                seen.append(each.reset()[0].tobytes())
        return seen

    assert go_on(env) == go_on(again)


@pytest.mark.parametrize(
    "name",
    ["Ant-v5", "HalfCheetah-v5", "Hopper-v5", "Humanoid-v5", "InvertedDoublePendulum-v5",
     "InvertedPendulum-v5", "Reacher-v5", "Swimmer-v5", "Walker2d-v5"],
)  # fmt: skip
def test_every_environment_as_make_gives_it_resumes_bit_for_bit(name: str) -> None:
    # Ant and Humanoid measure their forward reward from where the bodies were a step before.
    env, again = gymnasium.make(name), gymnasium.make(name)
    assert env.action_space.shape is not None
    actions = np.random.default_rng(0).uniform(-0.4, 0.4, (12, *env.action_space.shape))
    env.reset(seed=3)
    for action in actions[:6]:
        env.step(action.astype(np.float32))
    restore_environment(again, environment_state(env))
    for action in actions[6:]:
        found, expected = (each.step(action.astype(np.float32)) for each in (again, env))
        assert found[0].tobytes() == expected[0].tobytes()
        assert found[1:4] == expected[1:4]


def test_positions_and_velocities_alone_would_not_resume_it(make_env: Callable[..., Any]) -> None:
    env, again = (make_env("Hopper-v5") for _ in range(2))
    env.reset(seed=3)
    action = np.array([0.3, -0.2, 0.5], np.float32)
    for _ in range(9):
        env.step(action)
    again.reset(seed=0)
    again.unwrapped.set_state(env.unwrapped.data.qpos, env.unwrapped.data.qvel)
    assert env.step(action)[0].tobytes() != again.step(action)[0].tobytes()


def test_a_time_limit_is_no_terminal_state_and_its_final_observation_is_kept(
    make_env: Callable[..., Any], pendulum_data: OfflineDataset
) -> None:
    env = make_env("InvertedPendulum-v5", max_episode_steps=4)
    low, high = env.action_space.low, env.action_space.high
    preprocessing = fit_preprocessing(pendulum_data.observations, low, high)
    training = OnlineTraining(SwitchConfig(LEARNER), env, preprocessing, seed=0)
    training._act(8)
    rows = np.asarray(training.buffer.rows[:8])
    observations, terminals, following = rows[:, :4], rows[:, 6], rows[:, 7:]
    assert [step for step, _ in training.episode_returns] == [4, 8]
    np.testing.assert_array_equal(terminals, 0.0)
    np.testing.assert_array_equal(following[[0, 1, 2, 4]], observations[[1, 2, 3, 5]])
    assert (following[3] != observations[4]).any()  # not the first one of the next episode


def test_a_fall_is_a_terminal_state(start: Callable[..., OnlineTraining]) -> None:
    training = start(replace(CONFIG, num_random_env_steps=60, exploration_noise=0.0))
    training._act(60)
    ends = np.asarray(training.buffer.rows[:60, 11 + 3 + 1])
    assert 1 <= ends.sum() <= len(training.episode_returns)


def test_seeds_are_honoured(start: Callable[..., OnlineTraining], tmp_path: Path) -> None:
    contents = []
    for seed in (0, 0, 1):
        training = start(seed=seed)
        training.train(30)
        contents.append(content(training, tmp_path / "state"))
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]
    assert evaluation_seeds(0, 3) == evaluation_seeds(0, 5)[:3]
    assert evaluation_seeds(0, 3) != evaluation_seeds(1, 3)


def test_evaluation_changes_nothing_of_training(
    start: Callable[..., OnlineTraining], make_env: Callable[..., Any], tmp_path: Path
) -> None:
    training = start()
    training.train(10)
    before = content(training, tmp_path / "a")
    actor = to_numpy(training.agent.actor)
    env, seeds = make_env("Hopper-v5"), evaluation_seeds(0, 2)
    found = evaluate(env, training.preprocessing, actor, seeds)
    again = evaluate(env, training.preprocessing, actor, seeds)
    np.testing.assert_array_equal(found.returns, again.returns)
    assert found.returns[0] != found.returns[1]
    assert (found.discounted_returns <= found.returns).all()
    assert content(training, tmp_path / "b") == before


def test_evaluation_sees_and_acts_as_training_does(
    make_env: Callable[..., Any], pendulum_data: OfflineDataset
) -> None:
    # Actions range over [-3, 3] and observations are standardised: nothing here is the identity.
    env = make_env("InvertedPendulum-v5", max_episode_steps=20)
    low, high = env.action_space.low, env.action_space.high
    preprocessing = fit_preprocessing(pendulum_data.observations, low, high)
    config = SwitchConfig(LEARNER, exploration_noise=0.0)
    training = OnlineTraining(config, env, preprocessing, seed=0)
    first_state = int(np.random.default_rng([0, 3]).integers(0, 2**31 - 1))
    training._act(20)
    actor = to_numpy(training.agent.actor)
    other = make_env("InvertedPendulum-v5", max_episode_steps=20)
    found = evaluate(other, preprocessing, actor, [first_state])
    assert training.episode_returns[0] == (found.lengths[0], found.returns[0])
    as_it_is = fit_preprocessing(pendulum_data.observations, low, high, standardise=False)
    length = int(found.lengths[0])
    seen = np.asarray(training.buffer.rows[:length, :4])
    observation, _ = other.reset(seed=first_state)
    np.testing.assert_array_equal(seen[0], preprocessing.observations(observation))
    assert np.abs(seen[0] - as_it_is.observations(observation)).max() > 0.1


def test_data_that_are_not_whole_are_refused_by_either_phase(
    start: Callable[..., OnlineTraining],
    hopper_data: OfflineDataset,
    hopper_preprocessing: Preprocessing,
) -> None:
    rewards = hopper_data.rewards.copy()
    rewards[7] = np.nan
    broken = replace(hopper_data, rewards=rewards)
    with pytest.raises(DatasetError, match=r"rewards\[7\] must be finite, got nan"):
        start(dataset=broken)
    with pytest.raises(DatasetError, match=r"rewards\[7\] must be finite, got nan"):
        OfflineTraining(LEARNER, broken, hopper_preprocessing, seed=0)


def test_the_policy_is_frozen_until_updates_begin(start: Callable[..., OnlineTraining]) -> None:
    training = start()
    before = training.agent
    training.train(20)
    assert training.num_updates == 0
    assert training.agent is before
    training.train(23)
    assert training.num_updates == 3


def test_the_source_weight_follows_the_named_clock(start: Callable[..., OnlineTraining]) -> None:
    updates = start()
    env_steps = start(replace(CONFIG, objective=replace(OBJECTIVE, clock="env_steps")))
    assert (updates.source_weight, env_steps.source_weight) == (1.0, 0.5)


def test_optimizers_are_reset_at_the_switch_where_asked(
    start: Callable[..., OnlineTraining],
) -> None:
    first = start()
    first.train(32)
    kept = start(agent=first.agent)
    reset = start(replace(CONFIG, reset_optimizers=True), agent=first.agent)
    moments = [
        [float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(run.agent.critic_optimizer)]
        for run in (kept, reset)
    ]
    assert max(moments[0]) > 0.0
    assert max(moments[1]) == 0.0


def test_a_loss_that_is_not_finite_is_named_with_its_source_weight(
    start: Callable[..., OnlineTraining],
) -> None:
    training = start()
    broken = jax.tree.map(lambda leaf: leaf * np.nan, training.agent.critic)
    training.agent = training.agent._replace(critic=broken)
    with pytest.raises(FloatingPointError, match=r"critic_loss is nan within updates 0 to 2.*1\.0"):
        training.train(23)


def test_what_does_not_fit_together_is_refused_before_training(
    start: Callable[..., OnlineTraining],
    make_env: Callable[..., Any],
    hopper_data: OfflineDataset,
    hopper_preprocessing: Preprocessing,
) -> None:
    with pytest.raises(ValueError, match="dataset must be given"):
        start(dataset=None)
    with pytest.raises(ValueError, match="control must be given where"):
        start(replace(CONFIG, objective=replace(OBJECTIVE, schedule=None)))
    with pytest.raises(ValueError, match="control must be given where"):
        start(control=ReturnControl(10))
    other = fit_preprocessing(np.zeros((3, 4)), -np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="preprocessing must fit the environment's"):
        start(preprocessing=other)
    for blind in ({"smooth_actor": False}, {"source_term": "nothing"}):
        objective = replace(OBJECTIVE, schedule=None, **blind)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"control must not be a SourceLossControl where"):
            start(replace(CONFIG, objective=objective), control=SourceLossControl(10))
    stretched = replace(hopper_preprocessing, action_low=-3 * np.ones(3, np.float32))
    with pytest.raises(ValueError, match=r"action_low of the preprocessing must be the env.*-3\.0"):
        start(preprocessing=stretched)
    with pytest.raises(DatasetError, match=r"rewards\[\d+\]"):
        start(dataset=replace(hopper_data, rewards=hopper_data.rewards - 1.0))
    wrapped = ClipAction(make_env("Hopper-v5"))
    with pytest.raises(TypeError, match="must have no wrappers but"):
        OnlineTraining(CONFIG, wrapped, hopper_preprocessing, seed=0, dataset=hopper_data)
    with pytest.raises(TypeError, match="must have no wrappers but"):
        environment_state(wrapped)


def test_the_hard_switch_needs_no_offline_data(start: Callable[..., OnlineTraining]) -> None:
    training = start(replace(CONFIG, objective=Objective()), dataset=None)
    training._act(3)
    assert training.buffer.size == 3


def test_a_return_control_holds_then_falls_then_gives_back() -> None:
    control = ReturnControl(10, tolerance=0.1, num_episodes=2)
    control.after_round(3, [], {})
    assert control.source_weight == 1.0  # no reference yet
    control.after_round(1, [100.0, 100.0], {})
    control.after_round(4, [], {})
    assert control.source_weight == pytest.approx(0.5)
    control.after_round(2, [60.0], {})  # the mean is 80, below 90
    assert control.source_weight == pytest.approx(0.7)
    again = ReturnControl(10, tolerance=0.1, num_episodes=2)
    again.load_state_dict(control.state_dict())
    for each in (control, again):
        each.after_round(2, [120.0, 120.0], {})
    assert again.state_dict() == control.state_dict()
    assert again.source_weight == pytest.approx(0.5)


def test_a_source_loss_control_gives_back_while_the_policy_leaves_the_data() -> None:
    control = SourceLossControl(10, tolerance=0.5, decay=0.0, final_weight=0.2)
    control.after_round(1, [], {"source_cloning_distance": 1.0})
    control.after_round(4, [], {"source_cloning_distance": 1.4})
    assert control.source_weight == pytest.approx(0.5)
    control.after_round(1, [], {"source_cloning_distance": 1.6})
    assert control.source_weight == pytest.approx(0.6)
    control.after_round(100, [], {"source_cloning_distance": 1.0})
    assert control.source_weight == 0.2
    control.after_round(1, [], {"source_cloning_distance": float("nan")})
    assert control.source_weight == 0.2


def test_a_source_loss_control_takes_k_updates_where_the_actor_learns_at_every_second_one(
    start: Callable[..., OnlineTraining],
) -> None:
    # Rounds of one update: every second one has no actor update, and so no distance.
    config = replace(CONFIG, objective=replace(OBJECTIVE, schedule=None), num_env_steps_per_round=1)
    training = start(config, control=SourceLossControl(40, tolerance=1e9))
    training.train(20 + 20)
    assert training.num_updates == 20
    assert training.source_weight == pytest.approx(0.5)


def test_collecting_keeps_the_final_observation_too(pendulum_data: OfflineDataset) -> None:
    assert list(np.flatnonzero(pendulum_data.truncations)) == [19, 39, 59, 79, 99]
    assert not pendulum_data.terminations.any()
    assert (pendulum_data.next_observations[19] != pendulum_data.observations[20]).any()
