"""Which studio draws a task, and the rollouts that it draws. JAX is imported for JAX plants only."""

from __future__ import annotations

import contextlib
from typing import Any

from policysearch.core.controller import Controller
from policysearch.report.studio import Studio
from policysearch.runners import Recording, Resources, runner


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
