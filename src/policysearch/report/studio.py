"""Where rollouts are turned into pictures: drawings of a JAX plant, or what an environment draws of itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from policysearch.core.controller import Controller
from policysearch.runners import Recording, Resources, runner


class Studio(Protocol):
    """Pictures of the policy's mode: the first rollouts of an evaluation."""

    #: seconds per stage, or None
    dt: float | None
    #: frames per second if that is unknown, or None
    fallback_rate: float | None

    def rollout(
        self, index: int, stages: int, stride: int, show: Callable[[np.ndarray], None], title: str
    ) -> tuple[float, int, str]:
        """Show each `stride`-th stage of a rollout.

        Args:
            index: of the rollout.
            stages: how many to show.
            stride: stages from one picture to the next.
            show: gets the pictures, RGB (height, width, 3), bytes.
            title: of the pictures.

        Returns:
            Cost (or return) over the stages shown, their number, and why it failed or "".
        """

    def close(self) -> None:
        """Close what draws."""


def studio(
    task: Any,
    controller: Controller,
    rollouts: int,
    seed: int,
    size: tuple[int, int] | None = None,
    recordings: list[Recording] | None = None,
) -> Studio:
    """What draws the rollouts of a task.

    Args:
        task: the plant or environment.
        controller: the policy.
        rollouts: how many.
        seed: of the evaluation.
        size: width and height of a picture in pixels; 480 × 480, or the environment's own.
        recordings: of these rollouts, if they were run already.

    Raises:
        ValueError: nothing moves in this task.
        NoRendererError: it cannot be drawn here; the message says what to install or change.
    """
    if task.runner == "workers":
        from policysearch.report.camera import Environment

        return Environment(task, controller, seed, size)
    recordings = recorded(task, controller, rollouts, seed) if recordings is None else recordings
    from policysearch.report.plant import Plant

    return Plant(task, recordings, size)


def recorded(task: Any, controller: Controller, rollouts: int, seed: int) -> list[Recording]:
    """The first rollouts of an evaluation with that seed, stage by stage; see `Runner.record`."""
    with contextlib.closing(runner(task, seed, Resources(workers=1))) as running:
        return running.record(controller, rollouts, seed)
