"""Files of three formats, what is refused in them, and what is generated."""

import dataclasses
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest

from segue import cli
from segue.rl.data import (
    DatasetError,
    OfflineDataset,
    check_matches_environment,
    generate,
    generate_files,
    read,
    read_d4rl,
    read_minari,
    read_npz,
    validate,
    write_d4rl,
    write_minari,
    write_npz,
)
from segue.rl.data.dataset import FIELDS
from segue.rl.data.generate import recipe
from segue.rl.data.policies import find_policies, load_policy
from segue.rl.data.training import train_policies
from segue.rl.td3 import TD3Config


def changed(dataset: OfflineDataset, **fields: Any) -> OfflineDataset:
    return dataclasses.replace(dataset, **fields)


def edited(dataset: OfflineDataset, name: str, index: Any, value: Any) -> OfflineDataset:
    array = getattr(dataset, name).copy()
    array[index] = value
    return changed(dataset, **{name: array})


def assert_same(found: OfflineDataset, wanted: OfflineDataset) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
    assert found.fingerprint() == wanted.fingerprint()


# -- the three formats --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_a_file_gives_back_what_was_written(
    hopper_data: OfflineDataset, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / f"data.{kind}"
    (write_npz if kind == "npz" else write_d4rl)(path, hopper_data)
    found = read(path)
    assert_same(found, hopper_data)
    assert found.metadata == hopper_data.metadata
    assert found.environment_id == "Hopper-v5"
    assert found.metadata["mujoco_version"].count(".") == 2


@pytest.fixture
def minari_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def test_minari_gives_back_what_was_written(
    pendulum_data: OfflineDataset, hopper_data: OfflineDataset, minari_store: Path
) -> None:
    write_minari("segue/hopper/random-v0", hopper_data)
    found = read_minari("segue/hopper/random-v0")
    assert_same(found, hopper_data)
    assert found.environment_id == "Hopper-v5"
    assert_same(read(minari_store / "segue" / "hopper" / "random-v0"), hopper_data)
    assert_same(read("minari:segue/hopper/random-v0"), hopper_data)  # by name, from here
    assert minari.load_dataset("segue/hopper/random-v0").total_steps == len(hopper_data)
    with pytest.raises(FileNotFoundError, match="found no Minari data set 'segue/none-v0'"):
        read_minari("segue/none-v0")


def test_another_format_version_is_refused_before_anything_is_read(
    hopper_data: OfflineDataset, minari_store: Path, tmp_path: Path
) -> None:
    write_minari("segue/hopper/random-v0", hopper_data)
    file = minari_store / "segue" / "hopper" / "random-v0" / "data" / "metadata.json"
    metadata = {**json.loads(file.read_text()), "minari_version": "9.0.0"}
    file.write_text(json.dumps(metadata))
    (file.parent / "main_data.hdf5").unlink()  # not even looked at
    with pytest.raises(DatasetError, match=r"minari_version .* got '9\.0\.0'"):
        read_minari("segue/hopper/random-v0")
    path = write_npz(tmp_path / "data.npz", hopper_data)
    with np.load(path) as file_:
        arrays = {name: file_[name] for name in file_.files}
    np.savez(path, **{**arrays, "metadata": np.array('{"format_version": 2}')})
    with pytest.raises(DatasetError, match="format_version must be 1, got 2"):
        read_npz(path)
    path = write_d4rl(tmp_path / "data.hdf5", hopper_data)
    with h5py.File(path, "a") as file:
        del file["metadata/segue"]
        file.create_dataset("metadata/segue", data='{"format_version": 0}')
    with pytest.raises(DatasetError, match="format_version must be 1, got 0"):
        read_d4rl(path)


def test_without_next_observations_what_is_unknown_is_left_out(
    pendulum_data: OfflineDataset, tmp_path: Path
) -> None:
    path = tmp_path / "old.hdf5"
    write_d4rl(path, pendulum_data)
    with h5py.File(path, "a") as file:
        del file["next_observations"]
        file["terminals"][39] = True  # the second of five episodes really ended
        file["timeouts"][39] = False
    found = read_d4rl(path)
    assert len(found) == 100 - 4  # the last transition of each episode cut off
    assert list(np.flatnonzero(found.truncations)) == [18, 57, 76, 95]
    assert list(np.flatnonzero(found.terminations)) == [38]
    np.testing.assert_array_equal(
        found.next_observations[:19], pendulum_data.next_observations[:19]
    )


def test_demonstrations_by_episode_length_lose_their_last_transitions(tmp_path: Path) -> None:
    observations = np.arange(7, dtype=np.float32)[:, None]
    arrays = {
        "observations": observations, "actions": observations, "rewards": observations[:, 0],
        "episode_lengths": np.array([3, 4]),
    }  # fmt: skip
    np.savez(tmp_path / "demo.npz", **arrays)
    found = read(tmp_path / "demo.npz")
    assert list(found.observations[:, 0]) == [0, 1, 3, 4, 5]
    assert list(found.next_observations[:, 0]) == [1, 2, 4, 5, 6]
    assert list(np.flatnonzero(found.truncations)) == [1, 4]
    np.savez(tmp_path / "demo.npz", **{**arrays, "episode_lengths": np.array([3, 3])})
    with pytest.raises(DatasetError, match="episode_lengths must be at least 2 each and add up"):
        read(tmp_path / "demo.npz")


def test_human_demonstrations_are_read() -> None:
    root = os.environ.get("SEGUE_DATA")
    if not root:
        pytest.skip("SEGUE_DATA is not set; it names the folder of adroit-door-human.npz")
    found = read(Path(root) / "adroit-door-human.npz")
    assert len(found) == 6729 - 25
    assert len(found.episode_ends) == 25
    assert found.returns().mean() == pytest.approx(794, abs=30)


# -- what is refused ----------------------------------------------------------------------------


def test_a_missing_field_is_named(hopper_data: OfflineDataset, tmp_path: Path) -> None:
    path = tmp_path / "data.hdf5"
    write_d4rl(path, hopper_data)
    with h5py.File(path, "a") as file:
        del file["terminals"]
    with pytest.raises(DatasetError, match=r"data\.hdf5 must hold .* misses terminals"):
        read(path)


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("rewards", 7, np.nan, r"rewards\[7\] must be finite, got nan"),
        ("observations", (3, 2), np.inf, r"observations\[3, 2\] must be finite, got inf"),
        ("actions", (4, 0), -np.inf, r"actions\[4, 0\] must be finite"),
        ("observations", (5, 0), 9.0, r"next_observations\[4\] must equal observations\[5\]"),
        ("truncations", 19, False, r"next_observations\[19\] must equal observations\[20\]"),
        ("terminations", 19, True, r"truncations\[19\] must be False where terminations is True"),
        ("truncations", 99, False, r"terminations\[99\] or truncations\[99\] must be True"),
    ],
)
def test_a_wrong_value_is_named_by_field_and_index(
    pendulum_data: OfflineDataset, name: str, index: Any, value: Any, message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        validate(edited(pendulum_data, name, index, value))


def test_shapes_and_types_are_checked(pendulum_data: OfflineDataset) -> None:
    cases = {
        r"rewards must have shape \(N > 0,\)": {"rewards": pendulum_data.rewards[:0]},
        r"actions must have shape \(N, D\) with N = 100": {"actions": pendulum_data.actions[:5]},
        "observations must be float32, got float64": {
            "observations": pendulum_data.observations.astype(float)
        },
        "terminations must be bool": {"terminations": np.zeros(100)},
        "next_observations must have the shape of observations": {
            "next_observations": pendulum_data.next_observations[:, :2]
        },
    }
    for message, fields in cases.items():
        with pytest.raises(DatasetError, match=message):
            validate(changed(pendulum_data, **fields))


def test_shifted_episode_ends_and_lost_final_observations_are_found(
    pendulum_data: OfflineDataset,
) -> None:
    shifted = np.roll(pendulum_data.truncations, 1)
    shifted[-1] = True
    with pytest.raises(DatasetError, match=r"next_observations\[19\] must equal"):
        validate(changed(pendulum_data, truncations=shifted))
    following = np.concatenate([pendulum_data.observations[1:], pendulum_data.observations[-1:]])
    with pytest.raises(DatasetError, match=r"next_observations\[19\] must be the final"):
        validate(changed(pendulum_data, next_observations=following))


def test_an_episode_longer_than_its_limit_lacks_an_end(pendulum_data: OfflineDataset) -> None:
    validate(pendulum_data, max_episode_steps=20)
    with pytest.raises(DatasetError, match="within 19 steps, got none from index 0 to 19"):
        validate(pendulum_data, max_episode_steps=19)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short"])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    for name in ("data.npz", "data.hdf5"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetError, match="must be a whole"):
            read(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="found no data set"):
        read(tmp_path / "none.npz")


def test_pickles_in_a_file_are_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", observations=np.array([{}], dtype=object))
    with pytest.raises(DatasetError, match="without pickles"):
        read(tmp_path / "data.npz")


# -- data set and environment -------------------------------------------------------------------


@pytest.mark.parametrize("task", ["Hopper-v5", "HalfCheetah-v5", "Walker2d-v5"])
def test_the_environment_that_gave_the_data_matches(
    make_env: Callable[..., Any], task: str
) -> None:
    from segue.rl.data import collect

    env = make_env(task)
    check_matches_environment(collect(env, None, 200, seed=1), env)


def test_data_of_another_environment_are_refused(
    make_env: Callable[..., Any], hopper_data: OfflineDataset
) -> None:
    env = make_env("Hopper-v5")
    no_name = changed(hopper_data, metadata={})
    std = hopper_data.observations.std(axis=0) + 1e-3
    mean = hopper_data.observations.mean(axis=0)
    cases = {
        "rewards must be those of the environment": changed(
            hopper_data, rewards=hopper_data.rewards - 1
        ),
        r"rewards must be those of the environment.* scaled": changed(
            hopper_data, rewards=0.1 * hopper_data.rewards
        ),
        "another version|normalised": changed(
            hopper_data,
            observations=(hopper_data.observations - mean) / std,
            next_observations=(hopper_data.next_observations - mean) / std,
        ),
        r"actions\[0, 0\] must be in the environment's range": edited(
            hopper_data, "actions", (0, 0), 1.5
        ),
        "environment_id of the data set must be 'Hopper-v5', got 'Hopper-v4'": changed(
            hopper_data, metadata={"environment_id": "Hopper-v4"}
        ),
    }
    for message, dataset in cases.items():
        with pytest.raises(DatasetError, match=message):
            check_matches_environment(dataset, env)
    check_matches_environment(no_name, env)
    with pytest.raises(DatasetError, match=r"observations must have the environment's shape"):
        check_matches_environment(no_name, make_env("Walker2d-v5"))


def test_another_mujoco_than_the_recorded_one_is_a_warning_that_names_both(
    make_env: Callable[..., Any], hopper_data: OfflineDataset
) -> None:
    env = make_env("Hopper-v5")
    older = changed(hopper_data, metadata={**hopper_data.metadata, "mujoco_version": "2.3.7"})
    with pytest.warns(UserWarning, match=r"recorded with MuJoCo 2\.3\.7, the environment runs on"):
        check_matches_environment(older, env)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_matches_environment(hopper_data, env)


def test_falls_that_are_called_time_limits_are_found(
    make_env: Callable[..., Any], hopper_data: OfflineDataset, pendulum_data: OfflineDataset
) -> None:
    env = make_env("Hopper-v5")
    falls = np.flatnonzero(hopper_data.terminations)
    assert len(falls) > 2
    none = changed(
        hopper_data,
        terminations=np.zeros(len(hopper_data), bool),
        truncations=hopper_data.terminations | hopper_data.truncations,
    )
    validate(none)  # whole in itself
    message = rf"truncations\[{falls[0]}\] must be False where the environment ends"
    with pytest.raises(DatasetError, match=message):
        check_matches_environment(none, env)
    # A time limit that is one passes: five episodes of twenty steps.
    check_matches_environment(pendulum_data, make_env("InvertedPendulum-v5", max_episode_steps=20))


# -- generated data -----------------------------------------------------------------------------


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """Three random policies of Hopper in the layout of the data folder."""
    folder, index = tmp_path / "policies", {}
    folder.mkdir()
    for number, name in enumerate(("Hopper-a2c", "Hopper-ppo", "Hopper-tqc")):
        draw = np.random.default_rng(number)
        arrays = {"w0": draw.normal(size=(8, 11)), "b0": np.zeros(8)}
        arrays |= {"w1": draw.normal(size=(3, 8)), "b1": np.zeros(3)}
        normalises = name == "Hopper-a2c"
        if normalises:
            arrays |= {"obs_mean": np.ones(11), "obs_var": np.full(11, 4.0)}
        np.savez(folder / f"{name}.npz", **arrays)
        index[name] = {
            "hidden_activation": "relu", "output": "tanh", "layers": 2,
            "normalises_observations": normalises, "observation_clip": 10.0, "epsilon": 1e-8,
        }  # fmt: skip
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def test_a_policy_is_what_its_index_says(policies: Path) -> None:
    policy = load_policy(policies, "Hopper-a2c")
    with np.load(policies / "Hopper-a2c.npz") as file:
        w0, w1 = file["w0"], file["w1"]
    observation = np.random.default_rng(5).normal(size=11)
    hidden = np.maximum(w0 @ ((observation - 1) / 2), 0)
    np.testing.assert_allclose(policy(observation), np.tanh(w1 @ hidden), rtol=1e-6)
    with pytest.raises(ValueError, match=r"unknown policy 'Hopper-a2d'; did you mean 'Hopper-a2c'"):
        load_policy(policies, "Hopper-a2d")


@pytest.mark.parametrize("quality", ["medium", "medium-replay", "medium-expert", "expert"])
def test_every_quality_is_generated_and_says_how(policies: Path, quality: str) -> None:
    found = generate("hopper", quality, policies, num_transitions=120, seed=0)
    assert len(found) == 120
    parts = found.metadata["recipe"]
    assert sum(part["num_transitions"] for part in parts) == 120
    assert found.metadata["is_training_buffer"] is False
    assert found.metadata["gymnasium_version"]
    assert_same(generate("hopper", quality, policies, num_transitions=120, seed=0), found)
    other = generate("hopper", quality, policies, num_transitions=120, seed=1)
    assert other.fingerprint() != found.fingerprint()


def test_medium_replay_is_a_mixture_from_random_to_medium() -> None:
    parts = recipe("walker2d", "medium-replay")
    assert parts[0].policy == "random"
    assert sum(part.share for part in parts) == pytest.approx(1.0)
    assert [part.policy for part in parts[1:]] == [
        "Walker2d-a2c", "Walker2d-a2c", "Walker2d-sac", "Walker2d-sac",
    ]  # fmt: skip
    assert parts[1].noise > parts[2].noise
    own = recipe("hopper", "expert", ["Hopper-expert"])
    assert own[0].policy == "Hopper-expert"


def test_files_are_generated_for_the_command_line(policies: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written = generate_files(
        out, policies.parent, tasks=["hopper"], qualities=["medium"], num_transitions=50
    )
    assert written == [str(out / "hopper-medium-seed0.npz")]
    assert len(read(Path(written[0]))) == 50
    with pytest.raises(ValueError, match="unknown task 'hoper'; did you mean 'hopper'"):
        generate_files(out, policies.parent, tasks=["hoper"])
    with pytest.raises(FileNotFoundError, match="found no policies in"):
        generate_files(out, tmp_path / "empty", tasks=["hopper"])


def test_policies_are_trained_where_there_are_none(tmp_path: Path) -> None:
    learner = TD3Config(hidden_widths=(8,), batch_size=8)
    found = train_policies("hopper", tmp_path, num_env_steps=200, learner=learner, num_episodes=2)
    assert list(found) == ["Hopper-weak", "Hopper-medium", "Hopper-expert"]
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["Hopper-expert"]["return_mean"] == found["Hopper-expert"]
    policy = load_policy(tmp_path, "Hopper-expert")
    assert np.abs(policy(np.zeros(11))).max() <= 1.0
    dataset = generate("hopper", "medium", tmp_path, num_transitions=30)
    assert dataset.metadata["recipe"][0]["policy"] == "Hopper-medium"


def test_the_command_trains_policies_once_and_generates_from_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGUE_DATA", raising=False)
    command = ["data", str(tmp_path), "--tasks", "hopper", "--qualities", "medium"]
    command += ["--num-transitions", "30"]
    for arguments, message in (
        ([], "--train-policies STEPS"),
        (["--train-policies", "5"], "num_env_steps must be >= 10, got 5"),
        (["--train-policies", "40", "--data", "x"], "exclude each other"),
    ):
        with pytest.raises(SystemExit):
            cli.main([*command, *arguments])
        assert message in capsys.readouterr().err
    cli.main([*command, "--train-policies", "40"])
    assert capsys.readouterr().out.count("trained Hopper-") == 3
    dataset = read(tmp_path / "hopper-medium-seed0.npz")
    assert dataset.metadata["recipe"][0]["policy"] == "Hopper-medium"
    assert find_policies(tmp_path) == tmp_path / "policies"  # where `segue run --data` looks
    written = (tmp_path / "policies" / "index.json").read_bytes()
    cli.main([*command, "--train-policies", "40"])
    assert "trained" not in capsys.readouterr().out
    assert (tmp_path / "policies" / "index.json").read_bytes() == written
