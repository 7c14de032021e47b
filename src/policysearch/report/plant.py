"""Rollouts of JAX plants as pictures: a drawing of the plant, time, cost so far, the current action.

L stages are shown, from the state before the first one to the state after the last one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import numpy as np

from policysearch.report.drawings import MOST_ACTIONS, draw, draw_actions
from policysearch.runners import Recording
from policysearch.tasks.task import Task

if TYPE_CHECKING:
    from matplotlib.artist import Artist


SIZE = (480, 480)
#: characters of a title
LONGEST = 28


class Picture:
    """The figure of one rollout; only the moving parts are redrawn for a stage.

    Args:
        task: the plant.
        motion: the rollout.
        size: width and height in pixels.
        title: at the top.
    """

    def __init__(self, task: Task, motion: Recording, size: tuple[int, int] = SIZE, title: str = ""):
        # neither pyplot nor a global style: a picture looks the same whatever else the process does
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._dt, self._costs = task.specification.dt, motion.costs
        dpi = 100 * min(size) / min(SIZE)
        # a thousandth of a pixel more, because the canvas rounds down
        figure = Figure(figsize=((size[0] + 1e-3) / dpi, (size[1] + 1e-3) / dpi), dpi=dpi)
        self._canvas = FigureCanvasAgg(figure)
        rows = min(motion.actions.shape[1], MOST_ACTIONS) if motion.actions.ndim > 1 else 1
        foot = 0.055 * rows
        figure.text(0.03, 0.955, title if len(title) <= LONGEST else f"{title[: LONGEST - 1]}…", fontsize=11)
        self._time = figure.text(0.67, 0.955, "", fontsize=11, ha="right", family="monospace")
        self._cost = figure.text(0.97, 0.955, "", fontsize=11, ha="right", family="monospace")
        plant = figure.add_axes((0.04, foot + 0.09, 0.92, 0.84 - foot))
        actions = figure.add_axes((0.3, 0.03, 0.66, foot))
        self._moves = [draw(task, plant, motion), draw_actions(task, actions, motion.actions)]
        for artist in self._move(0):
            artist.set_animated(True)
        self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(figure.bbox)

    def _move(self, k: int) -> list[Artist]:
        self._time.set_text(f"stage {k}" if self._dt is None else f"{k * self._dt:.2f} s")
        self._cost.set_text(f"cost {self._costs[:k].sum():.4g}")
        return [self._time, self._cost, *(artist for move in self._moves for artist in move(k))]

    def frame(self, k: int) -> np.ndarray:
        """The picture at stage k.

        Args:
            k: from 0; the number of stages L for the final state.

        Returns:
            RGB (height, width, 3), bytes.
        """
        self._canvas.restore_region(self._background)
        for artist in self._move(k):
            artist.draw(self._canvas.get_renderer())
        return np.array(self._canvas.buffer_rgba())[..., :3]


class Plant:
    """Pictures of some rollouts of a JAX plant; see `Studio`.

    Args:
        task: the plant.
        recordings: the rollouts.
        size: width and height of a picture in pixels.
    """

    def __init__(self, task: Task, recordings: list[Recording], size: tuple[int, int] | None):
        self.dt: float | None = task.specification.dt
        self.fallback_rate: float | None = None
        self._task, self._recordings, self._size = task, recordings, size or SIZE

    def rollout(
        self, index: int, stages: int, stride: int, show: Callable[[np.ndarray], None], title: str
    ) -> tuple[float, int, str]:
        """See `Studio`."""
        recording = self._recordings[index]
        motion, failed = _first(recording, stages), recording.reason and len(recording.costs) < stages
        last = len(motion.observations) - 1
        if len(motion.costs):
            picture = Picture(self._task, motion, self._size, f"{self._task.specification.name}  {title}")
            for k in sorted({*range(0, last, stride), last}):
                show(picture.frame(k))
        return float(motion.costs.sum()), len(motion.costs), recording.reason if failed else ""

    def close(self) -> None:
        """Nothing to end."""


def _first(recording: Recording, stages: int) -> Recording:
    """The first stages of a rollout, and the state after them, if there is one."""
    if stages >= len(recording.costs):
        return recording
    states = jax.tree.map(lambda leaf: leaf[: stages + 1], recording.states)
    return Recording(
        states, recording.observations[: stages + 1], recording.actions[:stages], recording.costs[:stages], ""
    )
