"""Rollouts in Gymnasium environments as pictures: what the environment draws, time, return, action. No JAX.

Everything is drawn without a display; for MuJoCo, OpenGL comes from EGL or OSMesa.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from policysearch.core.controller import Controller
from policysearch.core.rng import Purpose, environment_seed
from policysearch.report.studio import INSTALL_VIDEO, NoRendererError
from policysearch.tasks.gymnasium_task import GymnasiumTask
from policysearch.workers.episode import run_rollout

#: seconds that a trial of OpenGL may take
PATIENCE = 60.0
#: of MuJoCo's shadow map, in pixels; the default 4096 takes most of the time without a GPU
SHADOWS = 1024
MOST_ACTIONS = 17
_TRY = """
import mujoco
context = mujoco.GLContext(8, 8)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100)
"""
OPENGL = (
    "MuJoCo needs OpenGL that works without a display. On Debian and Ubuntu: apt-get install libegl1 libgl1 "
    "libgl1-mesa-dri; leave MUJOCO_GL unset."
)


@functools.cache
def prepare_opengl() -> bool:
    """Set MUJOCO_GL to what works here, best before MuJoCo is imported; the user's choice stays.

    Each is tried in a process of its own, because a missing or broken library may end the process.

    Returns:
        False if MuJoCo cannot draw; True if that is not known before trying.
    """
    if sys.platform != "linux" or importlib.util.find_spec("mujoco") is None:
        return True
    chosen = os.environ.get("MUJOCO_GL")
    for name in (chosen,) if chosen else ("egl", "osmesa", "glfw"):
        environment = os.environ | {"MUJOCO_GL": name}
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-c", _TRY], env=environment, capture_output=True, timeout=PATIENCE
            )
        except subprocess.TimeoutExpired:
            continue
        if done.returncode == 0:
            os.environ["MUJOCO_GL"] = name
            return True
    return False


class _Camera(gymnasium.Wrapper):
    """Shows the environment before each `stride`-th stage."""

    def __init__(self, env: gymnasium.Env, stride: int, take: Callable[[int, float, object], None]):
        super().__init__(env)
        self.stage, self.returns = 0, 0.0
        self._stride, self._take = stride, take

    def step(self, action: object) -> Any:
        if self.stage % self._stride == 0:
            self._take(self.stage, self.returns, action)
        result = self.env.step(action)
        self.stage += 1
        self.returns += float(result[1])
        return result


class Environment:
    """Rollouts of the policy's mode in a Gymnasium environment: the first ones of an evaluation with that seed.

    Args:
        task: the environment.
        controller: the policy.
        seed: of the evaluation.
        size: width and height of a picture in pixels; the environment's own by default.

    Raises:
        NoRendererError: the environment cannot draw itself here; the message says what to install or change.
    """

    def __init__(self, task: GymnasiumTask, controller: Controller, seed: int, size: tuple[int, int] | None):
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # standard output is for results
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        prepare_opengl()
        self._task, self._controller, self._seed, self._size = task, controller, seed, size
        self._env = _drawing(task, size)
        self.dt = task.specification.dt
        self.fallback_rate: float | None = self._env.metadata.get("render_fps")

    def rollout(
        self, index: int, stages: int, stride: int, show: Callable[[np.ndarray], None], title: str
    ) -> tuple[float, int, str]:
        """See `Studio`; returns instead of costs."""

        def take(stage: int, returns: float, action: object) -> None:
            time = f"stage {stage}" if self.dt is None else f"{stage * self.dt:.2f} s"
            show(self._picture([*([title] if title else []), time, f"return {returns:.4g}"], action))

        camera = _Camera(self._env, stride, take)
        seed = environment_seed(self._seed, Purpose.EVALUATION, 0, index)
        episode = run_rollout(camera, self._controller, seed, horizon=stages)
        take(camera.stage, camera.returns, None)
        return episode.returns, episode.length, episode.reason

    def close(self) -> None:
        """Close the environment."""
        with contextlib.suppress(Exception):  # the pictures are taken
            self._env.close()

    def _picture(self, lines: list[str], action: object) -> np.ndarray:
        name = self._task.environment
        try:
            frame = self._env.render()
        except gymnasium.error.DependencyNotInstalled as error:
            raise NoRendererError(f"{name} cannot be drawn: {error}. Install what it needs: {INSTALL_VIDEO}") from error
        except Exception as error:  # OpenGL's errors have no common base class
            why = f"{type(error).__name__}: {error}"
            what = f" {OPENGL}" if "mujoco" in sys.modules else ""
            raise NoRendererError(f"{name} cannot be drawn here ({why}).{what}") from error
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise NoRendererError(
                f"render() of {name} gave {frame.dtype} of shape {frame.shape}; a picture is uint8 of (height, "
                "width, 3)."
            )
        image = Image.fromarray(frame)
        if self._size is not None and image.size != self._size:
            image = ImageOps.pad(image, self._size, color="white")
        _caption(image, lines)
        if action is not None:
            _bars(image, action, self._env.action_space)
        return np.array(image)


def _drawing(task: GymnasiumTask, size: tuple[int, int] | None) -> gymnasium.Env:
    """The task's environment with rendering; of that size and with a camera that follows, if it can."""
    pixels = {"width": size[0], "height": size[1]} if size else {}
    # MuJoCo robots run out of their usual camera's view
    chosen = {"camera_id", "camera_name", "default_camera_config"} & set(task.environment_options)
    follow = {} if chosen else {"camera_name": "track"}
    failure: Exception | None = None
    for more in ({**pixels, **follow}, pixels, {}):
        drawing = copy.copy(task)
        drawing.environment_options = {**task.environment_options, "render_mode": "rgb_array", **more}
        try:
            env = drawing.make()
        except TypeError as error:  # not all accept these
            failure = error
            continue
        model: Any = getattr(env.unwrapped, "model", None)
        if hasattr(model, "vis"):
            if not prepare_opengl():
                env.close()
                raise NoRendererError(f"{task.environment} cannot be drawn here. {OPENGL}")
            model.vis.quality.shadowsize = min(model.vis.quality.shadowsize, SHADOWS)
        return env
    raise NoRendererError(
        f"{task.environment} cannot be drawn: it was not made with render_mode='rgb_array' ({failure}). Let its "
        "factory accept render_mode and return an environment whose render() returns a picture."
    ) from failure


def _caption(image: Image.Image, lines: list[str]) -> None:
    draw, font = _pen(image)
    text = "   ".join(lines)
    pad = max(2, image.height // 80)
    box = draw.textbbox((2 * pad, pad), text, font=font)
    draw.rectangle((0, 0, box[2] + 2 * pad, box[3] + pad), fill=(0, 0, 0, 140))
    draw.text((2 * pad, pad), text, font=font, fill="white")


def _bars(image: Image.Image, action: Any, space: gymnasium.Space) -> None:
    """The action in the lower left corner: a bar from the middle of each range, or a number."""
    draw, font = _pen(image)
    unit = max(2, min(image.size) // 80)
    bottom = image.height - unit
    if not isinstance(space, gymnasium.spaces.Box):
        box = draw.textbbox((2 * unit, bottom), f"action {action}", font=font, anchor="ls")
        draw.rectangle((0, box[1] - unit, box[2] + 2 * unit, image.height), fill=(0, 0, 0, 140))
        draw.text((2 * unit, bottom), f"action {action}", font=font, fill="white", anchor="ls")
        return
    low, high = space.low.ravel(), space.high.ravel()
    bounded = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    share = (np.ravel(action) - low) / np.where(high > low, high - low, 1.0)
    count = min(len(share), MOST_ACTIONS)
    top, width = bottom - 10 * unit, 3 * unit
    draw.rectangle((0, top - unit, (count + 1) * width, image.height), fill=(0, 0, 0, 140))
    middle = (top + bottom) / 2
    for i, value in enumerate(share[:count]):
        if not math.isfinite(value):
            continue
        left = width // 2 + i * width
        end = bottom - float(np.clip(value, 0, 1)) * (bottom - top)
        draw.rectangle((left, min(middle, end), left + 2 * unit, max(middle, end)), fill=(240, 120, 60, 255))
        draw.line((left, middle, left + 2 * unit, middle), fill="white")


def _pen(image: Image.Image) -> tuple[ImageDraw.ImageDraw, Any]:
    return ImageDraw.Draw(image, "RGBA"), ImageFont.load_default(max(10, image.height // 26))
