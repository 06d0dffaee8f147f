"""Frames of an episode, strips and animations, drawn off-screen by MuJoCo itself."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from PIL import Image

from segue.rl.evaluation import evaluate
from segue.rl.networks import to_numpy
from segue.rl.offscreen import OffscreenCamera
from segue.rl.pictures import (
    Episode,
    Panel,
    compose_strip,
    render_episode,
    write_animation,
    write_strip,
)
from segue.rl.preprocessing import Preprocessing
from segue.rl.state import environment_state
from segue.rl.td3 import TD3Config, init_agent

WIDTH, HEIGHT = 64, 48
SIZE: dict[str, int] = {"width": WIDTH, "height": HEIGHT}


@pytest.fixture(scope="module")
def actor() -> Any:
    return to_numpy(init_agent(TD3Config(hidden_widths=(8,)), 11, 3, seed=0).actor)


@pytest.fixture(scope="module")
def episode(
    make_env: Callable[..., Any], hopper_preprocessing: Preprocessing, actor: Any
) -> Episode:
    env = make_env("Hopper-v5")
    return render_episode(
        env, hopper_preprocessing, actor, 3, num_frames=5, num_env_steps_per_frame=4, **SIZE
    )


def cut(episode: Episode, num_frames: int) -> Episode:
    """The same episode, had it ended in a fall after so many frames."""
    return replace(
        episode,
        frames=episode.frames[:num_frames],
        env_steps=episode.env_steps[:num_frames],
        final_frame=episode.frames[num_frames],
        length=4 * num_frames - 3,
        terminated=True,
    )


def test_a_pictured_episode_is_the_one_that_is_evaluated(
    make_env: Callable[..., Any], hopper_preprocessing: Preprocessing, actor: Any, episode: Episode
) -> None:
    found = evaluate(make_env("Hopper-v5"), hopper_preprocessing, actor, [3])
    assert episode.episode_return == found.returns[0]
    assert episode.length == found.lengths[0]
    assert episode.terminated  # an untrained hopper falls
    assert episode.env_steps == (0, 4, 8, 12, 16)
    assert [frame.shape for frame in episode.frames] == [(HEIGHT, WIDTH, 3)] * 5
    assert all(frame.std() > 10.0 for frame in episode.frames)  # something is to be seen
    assert (episode.frames[0] != episode.frames[-1]).any()
    assert (episode.final_frame != episode.frames[-1]).any()


def test_a_picture_leaves_the_simulator_as_it_was(make_env: Callable[..., Any]) -> None:
    env = make_env("Hopper-v5")
    env.reset(seed=0)
    env.step(np.full(3, 0.5, np.float32))
    before = environment_state(env)["simulator"]
    with OffscreenCamera(env, **SIZE) as camera:
        first, second = camera.shoot(), camera.shoot()
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(environment_state(env)["simulator"], before)


def test_the_sky_is_up_and_a_model_without_a_tracking_camera_is_seen_too(
    make_env: Callable[..., Any],
) -> None:
    env = make_env("Walker2d-v5")
    env.reset(seed=0)
    with OffscreenCamera(env, **SIZE) as camera:
        picture = camera.shoot().astype(float)
    floor, sky = picture[-10:].std(), picture[:5].std()
    assert floor > 2.0 * sky  # the floor is chequered
    pendulum = make_env("InvertedPendulum-v5")
    pendulum.reset(seed=0)
    with OffscreenCamera(pendulum, **SIZE) as camera:
        assert camera.shoot().std() > 5.0


def test_a_strip_has_a_row_per_policy_and_says_where_an_episode_ended(
    episode: Episode, tmp_path: Path
) -> None:
    panels = [Panel("at the switch", episode), Panel("at its lowest", cut(episode, 2))]
    image = compose_strip(panels, num_columns=3)
    columns, row = (4, 4 + WIDTH + 4, 4 + 2 * (WIDTH + 4)), 18 + HEIGHT + 4
    assert image.size == (columns[-1] + WIDTH + 4, 2 * row + 18)
    pixels = np.asarray(image).astype(float)

    def frame(top: int, left: int) -> np.ndarray:
        return pixels[top + 18 : top + 18 + HEIGHT, left : left + WIDTH]

    np.testing.assert_array_equal(frame(0, columns[0]), episode.frames[0])
    np.testing.assert_array_equal(frame(0, columns[2]), episode.frames[4])
    np.testing.assert_array_equal(frame(row, columns[0]), episode.frames[0])
    # It had fallen by then: its final state, faded.
    below = slice(25, HEIGHT)  # the text
    faded = 0.4 * episode.frames[2][below] + 0.6 * 255
    np.testing.assert_allclose(frame(row, columns[2])[below], faded, atol=1.0)
    assert frame(row, columns[2])[:25].min() < 60.0
    assert pixels[1:17, 4:WIDTH].min() < 100.0  # a caption
    with Image.open(write_strip(tmp_path / "strip.png", panels)) as written:
        assert written.size[1] == image.size[1]
        assert written.info["Description"] == "at the switch; at its lowest"


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_an_animation_plays_for_ever_until_the_longest_episode_ends(
    episode: Episode, tmp_path: Path, ending: str
) -> None:
    panels = [Panel("before", episode), Panel("lowest", cut(episode, 2))]
    rows = [("hard switch", panels), ("smoothing", panels)]
    path = write_animation(tmp_path / f"run.{ending}", rows, milliseconds_per_frame=70)
    with Image.open(path) as image:
        assert image.n_frames == 5  # type: ignore[attr-defined]
        assert image.info["loop"] == 0
        assert image.size == (2 * (WIDTH + 4) + 4, 2 * (36 + HEIGHT + 4))
        image.seek(1)
        image.load()
        assert image.info["duration"] == 70


def test_what_does_not_compare_is_refused(episode: Episode, tmp_path: Path) -> None:
    small = replace(episode, frames=tuple(frame[:10] for frame in episode.frames))
    dense = replace(episode, env_steps=(0, 1, 2, 3, 4))
    for others, message in (
        ([], "panels must hold at least one episode"),
        ([small], "frames must have one size, got"),
        ([dense], r"must be equally many environment steps apart, got \[1, 4\]"),
    ):
        panels = [Panel("a", each) for each in ([episode, *others] if others else [])]
        with pytest.raises(ValueError, match=message):
            compose_strip(panels)
    one, two = [Panel("a", episode)], [Panel("a", episode)] * 2
    with pytest.raises(ValueError, match=r"rows must be equally long, got \[1, 2\]"):
        write_animation(tmp_path / "run.gif", [("x", one), ("y", two)])
    with pytest.raises(ValueError, match=r"must end in \.gif or \.webp, got 'run\.mp4'"):
        write_animation(tmp_path / "run.mp4", [("x", one)])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_pictured_is_refused(
    make_env: Callable[..., Any], hopper_preprocessing: Preprocessing, actor: Any
) -> None:
    with pytest.raises(TypeError, match="env must be a Gymnasium MuJoCo environment"):
        OffscreenCamera(gymnasium.make("CartPole-v1"), **SIZE)
    env = make_env("Hopper-v5")
    with pytest.raises(ValueError, match="width must be <= 640, the model's buffer, got 5000"):
        OffscreenCamera(env, 5_000, HEIGHT)
    with pytest.raises(ValueError, match="num_frames must be >= 1, got 0"):
        render_episode(env, hopper_preprocessing, actor, 0, num_frames=0)


@pytest.mark.parametrize(
    ("platform", "message"),
    [
        ("off", "MUJOCO_GL must be one of egl, osmesa, glfw, got 'off'"),
        ("glfw", r"cannot draw off-screen here \(glfw: .*libegl1 and libgl1-mesa-dri"),
    ],
)
def test_without_opengl_it_says_what_to_install(
    make_env: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, platform: str, message: str
) -> None:
    monkeypatch.setenv("MUJOCO_GL", platform)
    for screen in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(screen, raising=False)
    with pytest.raises(RuntimeError, match=message):
        OffscreenCamera(make_env("Hopper-v5"), **SIZE)
