"""Rollouts of JAX plants as pictures: a drawing of the plant, time, cost so far, the current action.

L stages are shown, from the state before the first one to the state after the last one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from policysearch.core.controller import Controller
from policysearch.core.initial import from_controller
from policysearch.core.rng import Purpose
from policysearch.report.drawings import MOST_ACTIONS, Motion, draw, draw_actions
from policysearch.runners import native
from policysearch.tasks.task import Task, clip

if TYPE_CHECKING:
    from matplotlib.artist import Artist

    from policysearch.tasks import AnyTask

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

    def __init__(self, task: Task, motion: Motion, size: tuple[int, int] = SIZE, title: str = ""):
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
    """Rollouts of the policy's mode in a JAX plant: the first ones of an evaluation with that seed.

    Args:
        task: the plant.
        controller: the policy.
        rollouts: how many.
        seed: of the evaluation.
        size: width and height of a picture in pixels.

    Raises:
        ValueError: nothing moves in this task.
    """

    def __init__(self, task: AnyTask, controller: Controller, rollouts: int, seed: int, size: tuple[int, int] | None):
        specification = task.specification
        if not isinstance(task, Task) or specification.horizon < 2:
            what = "lasts one stage" if isinstance(task, Task) else "is a cost of parameters"
            raise ValueError(f"{specification.name} {what}: nothing moves, so there is no video of it.")
        self.dt: float | None = specification.dt
        self.fallback_rate: float | None = None
        self.task, self._size = task, size or SIZE
        key = native.purpose_key(seed, Purpose.EVALUATION)
        trace: Any = native.compiled_evaluate(task, from_controller(controller), key, rollouts).trace
        observations: Any = jax.vmap(jax.vmap(task.observe))(trace.states)
        applied: Any = clip(trace.actions, specification.action)
        self._motion = jax.tree.map(np.asarray, Motion(trace.states, observations, applied, trace.costs))

    def rollout(
        self, index: int, stages: int, stride: int, show: Callable[[np.ndarray], None], title: str
    ) -> tuple[float, int, str]:
        """Show each `stride`-th stage of a rollout.

        Args:
            index: of the rollout.
            stages: how many to show.
            stride: stages from one picture to the next.
            show: receives the pictures.
            title: of the pictures, after the task's name.

        Returns:
            Cost over the stages shown, their number, and why it failed or "".
        """
        motion = self.motion(index, stages)
        good = len(motion.costs)
        last = len(motion.observations) - 1
        failed = good < stages
        if good:
            picture = Picture(self.task, motion, self._size, f"{self.task.specification.name}  {title}")
            for k in sorted({*range(0, last, stride), last}):
                show(picture.frame(k))
        reason = f"the state or cost of stage {good} is not finite" if failed else ""
        return float(motion.costs.sum()), good, reason

    def motion(self, index: int, stages: int) -> Motion:
        """The first stages of a rollout, up to a failure.

        Args:
            index: of the rollout.
            stages: at most; fewer if one has a cost that is not finite.

        Returns:
            L actions and costs; states and observations of L + 1, or of L if the rollout failed.
        """
        motion = jax.tree.map(lambda leaf: leaf[index], self._motion)
        finite = np.isfinite(motion.costs[:stages])
        good = stages if finite.all() else int(np.argmin(finite))
        last = good if finite.all() else good - 1  # a rollout that did not fail has a state after its last stage
        states = jax.tree.map(lambda leaf: leaf[: last + 1], motion.states)
        return Motion(states, motion.observations[: last + 1], motion.actions[:good], motion.costs[:good])

    def close(self) -> None:
        """Nothing to end."""
