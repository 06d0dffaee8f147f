"""What a policy does, to look at: frames of an episode, image strips and animations.

Rendering is off-screen, by MuJoCo. It reads the simulator's state and changes nothing of it: an episode
that is pictured has the return that :func:`segue.rl.evaluation.evaluate` gives it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from segue.checks import check_at_least_one
from segue.png import write_png
from segue.rl.networks import act
from segue.rl.offscreen import OffscreenCamera
from segue.rl.preprocessing import Preprocessing
from segue.runs.records import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Episode", "Panel", "compose_strip", "render_episode", "write_animation", "write_strip"]

_MARGIN, _TEXT_HEIGHT, _FONT_SIZE = 4, 18, 13
_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (150, 150, 150)


@dataclass(frozen=True)
class Episode:
    """Frames of one episode.

    Attributes:
        frames: RGB images of shape (height, width, 3), uint8.
        env_steps: Environment step of the episode at which each was taken; the first one is 0.
        final_frame: The state in which the episode ended.
        episode_return: Undiscounted return of the whole episode, also past the last frame.
        length: Its environment steps.
        terminated: Whether the environment ended it (a fall), and not the time limit.
    """

    frames: tuple[np.ndarray, ...]
    env_steps: tuple[int, ...]
    final_frame: np.ndarray
    episode_return: float
    length: int
    terminated: bool


@dataclass(frozen=True)
class Panel:
    """An episode and what is written above it.

    Attributes:
        caption: One line, such as method, environment step and return.
        episode: Its frames.
    """

    caption: str
    episode: Episode


def render_episode(
    env: gymnasium.Env[Any, Any],
    preprocessing: Preprocessing,
    actor: Any,
    seed: int,
    *,
    num_frames: int = 80,
    num_env_steps_per_frame: int = 2,
    width: int = 200,
    height: int = 150,
) -> Episode:
    """Run one episode with the deterministic policy and picture its beginning.

    Args:
        env: Gymnasium MuJoCo environment, not the one that training uses: it is reset. It needs no
            ``render_mode``.
        preprocessing: The run's.
        actor: Parameters as NumPy arrays, see :func:`segue.rl.networks.to_numpy`.
        seed: Of the episode's first state.
        num_frames: At most so many; fewer if the episode ends before.
        num_env_steps_per_frame: Environment steps between two frames.
        width: In pixels.
        height: In pixels.

    Raises:
        TypeError: If ``env`` is no MuJoCo environment.
        RuntimeError: If OpenGL cannot draw off-screen here; says what to install.
    """
    for name, value in (
        ("num_frames", num_frames), ("num_env_steps_per_frame", num_env_steps_per_frame),
        ("width", width), ("height", height),
    ):  # fmt: skip
        check_at_least_one(name, value)
    frames: list[np.ndarray] = []
    steps: list[int] = []
    with OffscreenCamera(env, width, height) as camera:
        observation, _ = env.reset(seed=seed)
        total, length, terminated, truncated = 0.0, 0, False, False
        while not (terminated or truncated):
            if length % num_env_steps_per_frame == 0 and len(frames) < num_frames:
                frames.append(camera.shoot())
                steps.append(length)
            scaled = act(actor, preprocessing.observations(observation))
            action = preprocessing.raw_actions(scaled)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            length += 1
        final = camera.shoot()
    return Episode(tuple(frames), tuple(steps), final, total, length, bool(terminated))


def compose_strip(panels: Sequence[Panel], *, num_columns: int = 6) -> Image:
    """Lay episodes out as an image: one row each, its frames from left to right.

    All rows have the same columns in time, so that they compare; where an episode had ended by then,
    the column says so.

    Args:
        panels: At least one; their frames have one size and one distance in time.
        num_columns: Frames of each row, evenly spaced over the longest of them.

    Raises:
        ValueError: If there are no panels, or their frames do not compare.
    """
    check_at_least_one("num_columns", num_columns)
    width, height = _frame_size(panels)
    longest = max((panel.episode for panel in panels), key=lambda e: len(e.frames))
    num_columns = min(num_columns, len(longest.frames))
    places = np.linspace(0, len(longest.frames) - 1, num_columns).round().astype(int)
    row_height = _TEXT_HEIGHT + height + _MARGIN
    size = (num_columns * (width + _MARGIN) + _MARGIN, len(panels) * row_height + _TEXT_HEIGHT)
    image: Image = _pillow().Image.new("RGB", size, _PAPER)
    draw, font = _pillow().ImageDraw.Draw(image), _font()
    for row, panel in enumerate(panels):
        top = row * row_height
        draw.text((_MARGIN, top + 1), panel.caption, fill=_INK, font=font)
        for column, place in enumerate(places):
            left = _MARGIN + column * (width + _MARGIN)
            _draw_frame(image, panel.episode, int(place), (left, top + _TEXT_HEIGHT))
    for column, place in enumerate(places):
        left, text = _MARGIN + column * (width + _MARGIN), f"step {longest.env_steps[place]}"
        draw.text((left, len(panels) * row_height + 1), text, fill=_FAINT, font=font)
    return image


def write_strip(path: Path, panels: Sequence[Panel], *, num_columns: int = 6) -> Path:
    """Write :func:`compose_strip`'s image as PNG, whole or not at all; its captions also as text."""
    image = compose_strip(panels, num_columns=num_columns).quantize(256)  # a third of the size
    description = "; ".join(panel.caption for panel in panels)
    return write_png(
        path, image, title="frames of one episode, a row per policy", description=description
    )


def write_animation(
    path: Path,
    rows: Sequence[tuple[str, Sequence[Panel]]],
    *,
    milliseconds_per_frame: int = 100,
) -> Path:
    """Write episodes that play side by side as an endless GIF or WebP, whole or not at all.

    Args:
        path: Ends in ``.gif`` or ``.webp``.
        rows: A title and the panels of each row; every row has as many.
        milliseconds_per_frame: How long each frame is shown.

    Raises:
        ValueError: If the ending is another, rows differ in length, or frames do not compare.
    """
    if path.suffix not in (".gif", ".webp"):
        raise ValueError(f"path must end in .gif or .webp, got {path.name!r}")
    check_at_least_one("milliseconds_per_frame", milliseconds_per_frame)
    if len({len(row) for _, row in rows}) != 1:
        raise ValueError(f"rows must be equally long, got {[len(row) for _, row in rows]}")
    panels = [panel for _, row in rows for panel in row]
    width, height = _frame_size(panels)
    num_frames = max(len(panel.episode.frames) for panel in panels)
    images = [_animation_frame(rows, index, width, height) for index in range(num_frames)]
    buffer = io.BytesIO()
    images[0].save(
        buffer, format=path.suffix[1:].upper(), save_all=True, append_images=images[1:],
        duration=milliseconds_per_frame, loop=0,
    )  # fmt: skip
    write_atomically(path, buffer.getvalue())
    return path


def _animation_frame(
    rows: Sequence[tuple[str, Sequence[Panel]]], index: int, width: int, height: int
) -> Image:
    row_height = 2 * _TEXT_HEIGHT + height + _MARGIN
    size = (len(rows[0][1]) * (width + _MARGIN) + _MARGIN, len(rows) * row_height)
    image: Image = _pillow().Image.new("RGB", size, _PAPER)
    draw, font = _pillow().ImageDraw.Draw(image), _font()
    for row, (title, panels) in enumerate(rows):
        top = row * row_height
        draw.text((_MARGIN, top + 1), title, fill=_INK, font=font)
        for column, panel in enumerate(panels):
            left = _MARGIN + column * (width + _MARGIN)
            draw.text((left, top + _TEXT_HEIGHT), panel.caption, fill=_FAINT, font=font)
            _draw_frame(image, panel.episode, index, (left, top + 2 * _TEXT_HEIGHT))
    return image


def _draw_frame(image: Image, episode: Episode, place: int, corner: tuple[int, int]) -> None:
    """Paste a frame; past the last one the final state, faded, and where the episode ended."""
    if place < len(episode.frames):
        image.paste(_pillow().Image.fromarray(episode.frames[place]), corner)
        return
    faded = _pillow().Image.fromarray(episode.final_frame)
    faded = _pillow().Image.blend(faded, _pillow().Image.new("RGB", faded.size, _PAPER), 0.6)
    image.paste(faded, corner)
    distance = episode.env_steps[1] if len(episode.env_steps) > 1 else episode.length
    if place * distance < episode.length:  # it went on, but was not pictured
        return
    text = f"{'fell' if episode.terminated else 'ended'} at step {episode.length}"
    place_of_text = (corner[0] + _MARGIN, corner[1] + _MARGIN)
    _pillow().ImageDraw.Draw(image).text(place_of_text, text, fill=_INK, font=_font())


def _frame_size(panels: Sequence[Panel]) -> tuple[int, int]:
    if not panels:
        raise ValueError("panels must hold at least one episode, got none")
    shapes = {frame.shape for panel in panels for frame in panel.episode.frames}
    if len(shapes) != 1:
        raise ValueError(f"frames must have one size, got {sorted(shapes)}")
    distances = {panel.episode.env_steps[1] for panel in panels if len(panel.episode.env_steps) > 1}
    if len(distances) > 1:
        raise ValueError(
            f"frames must be equally many environment steps apart, got {sorted(distances)}"
        )
    height, width, _ = shapes.pop()
    return width, height


def _font() -> Any:
    return _pillow().ImageFont.load_default(_FONT_SIZE)


def _pillow() -> Any:
    try:
        import PIL.Image
        import PIL.ImageDraw
        import PIL.ImageFont
    except ImportError as error:  # pragma: no cover - needs an environment without Pillow
        raise ImportError('pictures need Pillow: pip install "segue[rl]"') from error
    return PIL
