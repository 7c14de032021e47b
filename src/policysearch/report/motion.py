"""Evaluation rollouts as shown in reports: quantities, actions and costs over time, and a film of the first.

JAX is imported for JAX plants only. L stages; a quantity has a value before each, and in plants one after the last.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from policysearch.core.controller import Controller
from policysearch.core.rng import Purpose
from policysearch.core.specification import Discrete, Specification
from policysearch.report.player import Film, encoded
from policysearch.report.studio import NoRendererError, Pace, Studio
from policysearch.search.evaluation import fit
from policysearch.tasks.gymnasium_task import GymnasiumTask

if TYPE_CHECKING:
    from policysearch.tasks import AnyTask


#: number of quantities and actions shown, if a task has more
MOST_QUANTITIES, MOST_ACTIONS = 6, 4


class Rollout(NamedTuple):
    """One rollout: quantities by name with unit, (L,) or (L + 1,); actions likewise (L,), as applied; costs (L,).

    costs: of stages; discounted for plants. reason: why it failed, or "".
    """

    quantities: dict[str, np.ndarray]
    actions: dict[str, np.ndarray]
    costs: np.ndarray
    reason: str


class Recorded(NamedTuple):
    """Rollouts of one policy. more: number of quantities and actions left out. missing: why there is no film, or ""."""

    specification: Specification
    rollouts: list[Rollout]
    more: int
    film: Film | None
    missing: str


def record(task: AnyTask, controller: Controller, rollouts: int, seed: int, frames: int) -> Recorded:
    """Run the policy's mode: the first rollouts of an evaluation with that seed.

    Args:
        task: as `policysearch.tasks.resolve` gives it.
        controller: the policy.
        rollouts: how many; one if nothing is random.
        seed: of the evaluation.
        frames: of the film, at most; 0 for no film.

    Raises:
        ValueError: a policy that does not fit, a task in which nothing moves.
        Exception: anything the task's own code raises.
    """
    specification: Specification = task.specification
    fit(specification, controller)
    if specification.deterministic:
        rollouts = 1
    if isinstance(task, GymnasiumTask):
        return _environment(task, controller, rollouts, seed, frames)
    return _plant(task, controller, rollouts, seed, frames)


def _plant(task: AnyTask, controller: Controller, rollouts: int, seed: int, frames: int) -> Recorded:
    from policysearch.report.drawings import quantities
    from policysearch.report.plant import Plant

    specification: Specification = task.specification
    plant = Plant(task, controller, rollouts, seed, None)
    shown, more = [], 0
    for index in range(rollouts):
        motion = plant.motion(index, specification.horizon)
        found = quantities(plant.task, motion)
        actions = _named(motion.actions, specification.action_names, "action", MOST_ACTIONS)
        more = max(0, len(found) - MOST_QUANTITIES) + max(0, _width(motion.actions) - MOST_ACTIONS)
        reason = "" if len(motion.costs) == specification.horizon else _not_finite(len(motion.costs))
        shown.append(Rollout(dict(list(found.items())[:MOST_QUANTITIES]), actions, motion.costs, reason))
    film = _filmed(plant, len(shown[0].costs), frames, drawing=True)
    return Recorded(specification, shown, more, film, "" if film else "no film was requested")


def _environment(task: GymnasiumTask, controller: Controller, rollouts: int, seed: int, frames: int) -> Recorded:
    from policysearch.report.camera import Environment
    from policysearch.runners.pool import Workers
    from policysearch.workers.jobs import Jobs

    specification: Specification = task.specification
    names, shown = specification.observation_names, []
    plain = copy.copy(task)
    plain.discount = 1.0
    indices = np.arange(rollouts)
    with Workers(plain, 1) as workers:
        jobs = Jobs(
            controller=controller, seed=seed, update=0, environment=indices, purpose=Purpose.EVALUATION, record=True
        )
        came = workers.run(jobs)
    for index, kept in enumerate(came.records):
        events = [event for event in came.events if event.trial == index]
        if kept is None:
            raise RuntimeError(f"Rollout {index} of {specification.name} was lost: {events[-1].reason}.")
        observations, actions, costs = kept
        if not isinstance(specification.action, Discrete) and specification.action is not None:
            actions = np.clip(actions, specification.action.low, specification.action.high)
        reason = next((event.reason for event in events if event.kind == "failed"), "")
        shown.append(
            Rollout(
                _named(observations, names, "observation", MOST_QUANTITIES),
                _named(actions, specification.action_names, "action", MOST_ACTIONS),
                costs,
                reason,
            )
        )
    more = max(0, specification.observation_size - MOST_QUANTITIES)
    more += max(0, _width(actions) - MOST_ACTIONS)
    film, missing = None, "no film was requested"
    if frames:
        try:
            camera = Environment(task, controller, seed, None)
            try:
                film, missing = _filmed(camera, len(shown[0].costs), frames, drawing=False), ""
            finally:
                camera.close()
        except NoRendererError as error:
            missing = str(error)
    return Recorded(specification, shown, more, film, missing)


def _filmed(studio: Studio, stages: int, frames: int, drawing: bool) -> Film | None:
    """A film of the first rollout."""
    if not frames or not stages:
        return None
    pace = Pace.within(frames, stages, studio.dt, studio.fallback_rate)
    pictures: list[str] = []
    size = (0, 0)

    def show(frame: np.ndarray) -> None:
        nonlocal size
        uri, size = encoded(frame)
        pictures.append(uri)

    studio.rollout(0, stages, pace.stride, show, "")
    at = [*range(0, stages, pace.stride), stages][: len(pictures)]
    times = [f"stage {k}" if studio.dt is None else f"{k * studio.dt:.2f} s" for k in at]
    return Film(pictures, times, pace.rate, size, drawing)


def _named(values: np.ndarray, names: tuple[str, ...], noun: str, most: int) -> dict[str, np.ndarray]:
    """Columns of (L, k) or (L,) by name, the first ones."""
    table = values[:, None] if values.ndim == 1 else values
    width = min(table.shape[1], most)
    if len(names) < width:
        names = tuple(f"{noun} {i}" if table.shape[1] > 1 else noun for i in range(width))
    return {names[i]: table[:, i] for i in range(width)}


def _width(values: np.ndarray) -> int:
    return 1 if values.ndim == 1 else values.shape[1]


def _not_finite(stage: int) -> str:
    return f"the state or cost of stage {stage} is not finite"


def portrait(quantities: Mapping[str, np.ndarray]) -> tuple[str, str] | None:
    """The names of the two quantities of a plant that has two, for a phase portrait; None for others."""
    names = tuple(quantities)
    return (names[0], names[1]) if len(names) == 2 else None
