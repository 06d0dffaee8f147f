"""A camera without a screen, for Gymnasium's MuJoCo environments.

MuJoCo's own renderer takes the OpenGL that the environment variable ``MUJOCO_GL`` named when ``mujoco``
was first imported, which on a machine without a screen is none by default. Here what works is looked
for when a camera is made; ``MUJOCO_GL`` still decides where it is set.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import TracebackType
from typing import Any

import gymnasium
import numpy as np

__all__ = ["OffscreenCamera"]

_PLATFORMS = ("egl", "osmesa", "glfw")


class OffscreenCamera:
    """Pictures the state of a MuJoCo environment; a context manager.

    It looks through the environment's camera ``track`` where there is one, else from afar. Shadows
    and reflections, which take most of a processor's time for a picture, are left out.

    Args:
        env: Gymnasium MuJoCo environment.
        width: In pixels, at most what the model's off-screen buffer allows (mostly 640).
        height: In pixels, at most what it allows (mostly 480).

    Raises:
        TypeError: If ``env`` is no MuJoCo environment.
        ValueError: If a size is too large.
        RuntimeError: If OpenGL cannot draw off-screen here; says what to install.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], width: int, height: int) -> None:
        import mujoco

        simulator: Any = env.unwrapped
        if not hasattr(simulator, "model") or not hasattr(simulator, "data"):
            raise TypeError(f"env must be a Gymnasium MuJoCo environment, got {env}")
        model = simulator.model
        limits = model.vis.global_
        for name, value, limit in (
            ("width", width, limits.offwidth), ("height", height, limits.offheight),
        ):  # fmt: skip
            if value > limit:
                raise ValueError(f"{name} must be <= {limit}, the model's buffer, got {value}")
        self._simulator, self._mujoco = simulator, mujoco
        self._gl, self._context = _open(model, width, height)
        self._scene = mujoco.MjvScene(model, maxgeom=1_000)
        flags = mujoco.mjtRndFlag
        for flag in (flags.mjRND_SHADOW, flags.mjRND_REFLECTION):
            self._scene.flags[flag] = False
        self._option = mujoco.MjvOption()
        self._camera = _camera(mujoco, model)
        self._rectangle = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)

    def shoot(self) -> np.ndarray:
        """Return the present state as an RGB image of shape (height, width, 3), uint8."""
        mujoco, simulator = self._mujoco, self._simulator
        self._gl.make_current()
        mujoco.mjv_updateScene(
            simulator.model, simulator.data, self._option, None, self._camera,
            mujoco.mjtCatBit.mjCAT_ALL.value, self._scene,
        )  # fmt: skip
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._rectangle, self._context)
        return np.flipud(self._pixels).copy()  # OpenGL counts rows from below

    def close(self) -> None:
        """Free what OpenGL holds."""
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None

    def __enter__(self) -> OffscreenCamera:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _camera(mujoco: Any, model: Any) -> Any:
    camera = mujoco.MjvCamera()
    number = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA.value, "track")
    if number < 0:
        mujoco.mjv_defaultFreeCamera(model, camera)
    else:
        camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, number
    return camera


def _open(model: Any, width: int, height: int) -> tuple[Any, Any]:
    """Return an OpenGL context and MuJoCo's own, of the first platform that works."""
    import mujoco

    chosen = os.environ.get("MUJOCO_GL", "").lower().strip()
    if chosen and chosen not in _PLATFORMS and sys.platform == "linux":
        raise RuntimeError(f"MUJOCO_GL must be one of {', '.join(_PLATFORMS)}, got {chosen!r}")
    reasons = []
    for name in (chosen,) if chosen in _PLATFORMS else _PLATFORMS:
        gl = None
        try:
            if sys.platform == "linux":
                gl = importlib.import_module(f"mujoco.{name}").GLContext(width, height)
            else:  # elsewhere there is one way, which MuJoCo knows
                gl = mujoco.GLContext(width, height)
            gl.make_current()
            context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, context)
            return gl, context
        except Exception as error:  # every library fails in its own way
            reasons.append(f"{name}: {error}")
            if gl is not None:
                gl.free()
    raise RuntimeError(
        f"OpenGL cannot draw off-screen here ({'; '.join(reasons)}): install Mesa's EGL (Debian: "
        "libegl1 and libgl1-mesa-dri) or OSMesa (libosmesa6), or set MUJOCO_GL to one that works"
    )
