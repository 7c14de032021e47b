"""Evaluation rollouts as shown in reports: quantities, actions and costs over time, and a film of the first.

JAX is imported for JAX plants only. L stages; a quantity has a value before each, and in plants one after the last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from policysearch.core.controller import Controller
from policysearch.core.specification import Specification
from policysearch.report.filming import recorded, studio
from policysearch.report.player import Film, encoded
from policysearch.report.studio import NoRendererError, Pace, Studio
from policysearch.runners import Recording
from policysearch.search.evaluation import fit

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
    found = recorded(task, controller, rollouts, seed)
    shown, more = [], 0
    for recording in found:
        quantities = _quantities(task, recording)
        actions = _named(recording.actions, specification.action_names, "action", MOST_ACTIONS)
        more = max(0, len(quantities) - MOST_QUANTITIES) + max(0, _width(recording.actions) - MOST_ACTIONS)
        first = dict(list(quantities.items())[:MOST_QUANTITIES])
        shown.append(Rollout(first, actions, recording.costs, recording.reason))
    film, missing = None, "no film was requested"
    if frames and len(shown[0].costs):
        try:
            with contextlib.closing(studio(task, controller, rollouts, seed, None, found)) as camera:
                film, missing = _filmed(camera, len(shown[0].costs), frames, found[0].states is not None), ""
        except NoRendererError as error:
            missing = str(error)
    return Recorded(specification, shown, more, film, missing)


def _quantities(task: Any, recording: Recording) -> dict[str, np.ndarray]:
    """What is drawn over time: quantities of a plant, or the observations."""
    if recording.states is None:
        size = recording.observations.shape[1]
        return _named(recording.observations, task.specification.observation_names, "observation", size)
    from policysearch.report.drawings import quantities

    return quantities(task, recording)


def _filmed(camera: Studio, stages: int, frames: int, drawing: bool) -> Film:
    """A film of the first rollout."""
    pace = Pace.within(frames, stages, camera.dt, camera.fallback_rate)
    pictures: list[str] = []
    size = (0, 0)

    def show(frame: np.ndarray) -> None:
        nonlocal size
        uri, size = encoded(frame)
        pictures.append(uri)

    camera.rollout(0, stages, pace.stride, show, "")
    at = [*range(0, stages, pace.stride), stages][: len(pictures)]
    times = [f"stage {k}" if camera.dt is None else f"{k * camera.dt:.2f} s" for k in at]
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


def portrait(quantities: Mapping[str, np.ndarray]) -> tuple[str, str] | None:
    """The names of the two quantities of a plant that has two, for a phase portrait; None for others."""
    names = tuple(quantities)
    return (names[0], names[1]) if len(names) == 2 else None
