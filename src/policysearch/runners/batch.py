"""Trials of plants in NumPy: many rollouts in one loop over stages in this process, or singly in worker processes.

n rollouts, T stages. Random numbers are those of `core.rng`, by trial, however many run together.
"""

from __future__ import annotations

import pickle
from typing import Any, ClassVar, cast

import numpy as np

from policysearch.core.controller import Controller
from policysearch.core.rng import action_stream, environment_seed
from policysearch.runners import DEFAULTS, Recording, Resources
from policysearch.runners.on_host import Host, OnHost, evaluation
from policysearch.tasks.gymnasium_task import GymnasiumTask
from policysearch.tasks.plant import Plant
from policysearch.workers.jobs import Episode, Event, HostRollouts, Jobs, gather
from policysearch.workers.lockstep import Rollout, rollouts, rows, together
from policysearch.workers.process import WorkerProcess


class Batch(OnHost):
    """Runs all trials of an update in step with each other, in this process; see `Runner`."""

    slow: ClassVar[bool] = False

    def __init__(self, task: Plant, seed: int, resources: Resources = DEFAULTS):
        super().__init__(task, seed)

    def run(self, requested: Jobs) -> HostRollouts:
        """The results of jobs."""
        episodes: list[Episode | None] = []
        for rollout in self._rollouts(requested):
            episodes.append(rollout.episode(requested.record, self.specification.hold))
        events = [Event(i, "failed", e.reason, "", 1) for i, e in enumerate(episodes) if e is not None and e.reason]
        self.events += events
        return gather(episodes, events, self.specification.observation_size)

    def _rollouts(self, requested: Jobs) -> list[Rollout]:
        """All rollouts, as many at a time as fit into memory; which ones depends on nothing but sizes."""
        equations, horizon = self.task.equations, self.specification.horizon
        moved, found = _offsets(requested), []
        size = rows(equations, self.specification.observation_size, horizon, requested.controller.theta().size)
        address = (requested.seed, requested.purpose, requested.update)
        for start in range(0, len(requested), size):
            trials = range(start, min(start + size, len(requested)))
            places, which = np.unique(requested.environment[trials.start : trials.stop], return_inverse=True)
            seeds = [environment_seed(*address, place) for place in places.tolist()]
            deviations, controller = None, requested.controller
            if requested.stochastic:
                draws = self.specification.draws
                drawn = [controller.noise(action_stream(*address, trial), draws) for trial in trials]
                deviations = controller.std * np.stack(drawn, 1)
            if moved is None or isinstance(moved, np.ndarray):
                thetas = None if moved is None else controller.theta() + moved[list(trials)]
            else:
                thetas = np.stack([one.theta() for one in requested.controllers(list(trials))])
            law = together(controller, thetas)
            found += rollouts(equations, law, seeds, which, deviations, horizon, self.specification.discount)
        return found

    def record(self, controller: Controller, rollouts: int, seed: int) -> list[Recording]:
        """See `Runner`; costs are discounted."""
        return [_recording(rollout) for rollout in self._rollouts(evaluation(controller, rollouts, seed))]

    def close(self) -> None:
        """Nothing to end."""


def _recording(rollout: Rollout) -> Recording:
    """A rollout up to its failure, with the state in which that began."""
    good = len(rollout.costs) - bool(rollout.reason)
    last = good + 1 if np.isfinite(rollout.observations[good]).all() else good
    return Recording(
        rollout.states[:last],
        rollout.observations[:last],
        rollout.applied[:good],
        rollout.costs[:good],
        rollout.reason,
    )


class Singly(Batch):
    """Runs the trials of a plant whose functions take one state at a time, in worker processes; see `Runner`."""

    slow: ClassVar[bool] = True

    def __init__(self, task: Plant, seed: int, resources: Resources = DEFAULTS):
        super().__init__(task, seed)
        self._host = Host(cast(GymnasiumTask, _Workplace(task)), seed, resources)
        self.events = self._host.events

    def run(self, requested: Jobs) -> HostRollouts:
        """The results of jobs."""
        return self._host.run(requested)

    def close(self) -> None:
        """End the worker processes."""
        self._host.close()


class _Workplace:
    """A plant as its worker processes need it; see `GymnasiumTask`."""

    survival_bonus = 0.0

    def __init__(self, plant: Plant):
        self.specification, self.environment = plant.specification, plant.name
        self.horizon, self.discount = plant.horizon, plant.specification.discount
        self._order, self._directory = pickle.dumps((plant.equations, False)), plant.directory

    def worker(self) -> WorkerProcess:
        """A new process."""
        return WorkerProcess(self._order, self._directory)


def _offsets(requested: Jobs) -> Any:
    """See `host.offsets`; JAX is imported for perturbations only."""
    if requested.perturbation is None:
        return requested.offsets
    from policysearch.runners import host

    return host.offsets(requested)
