"""The runners outside JAX: worker processes, and this process. JAX is imported by what learns, see `host`.

n trials; a subclass of `OnHost` runs jobs, records rollouts and closes.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from policysearch.core.controller import Controller
from policysearch.core.rng import Purpose, environment_seed
from policysearch.core.specification import OK, Continuous, Specification
from policysearch.runners import DEFAULTS, Outcomes, Recording, Resources, motionless
from policysearch.runners.pool import TrialsLostError, Workers
from policysearch.tasks.gymnasium_task import GymnasiumTask
from policysearch.tasks.python_function import PythonFunction
from policysearch.workers.jobs import Episode, Event, HostRollouts, Jobs, gather

if TYPE_CHECKING:
    from policysearch.core.method import Method, State
    from policysearch.core.policies import Policy
    from policysearch.core.rollouts import Rollouts
    from policysearch.runners.cluster import Cluster


class OnHost:
    """What the runners outside JAX share; a subclass runs jobs, records rollouts and closes."""

    vectorised: ClassVar[bool] = False

    def __init__(self, task: Any, seed: int):
        self.task, self.seed = task, seed
        self.specification: Specification = task.specification
        self.events: list[Event] = []
        self.compilation = 0.0

    def run(self, requested: Jobs) -> HostRollouts:
        """The results of jobs."""
        raise NotImplementedError

    def update(self, method: Method, state: State, trials: int) -> tuple[State, dict[str, Any], int]:
        """See `Runner`."""
        from policysearch.runners import host

        requested = host.jobs(method, state, self.seed)
        came = self.run(requested)
        state, info = host.tell(method, state, requested, came, self.specification)
        return state, {**info, **self._also(came)}, came.stages

    def _also(self, came: HostRollouts) -> dict[str, Any]:
        """What an update reports besides its gradient."""
        return {}

    def sample(self, method: Method, state: State) -> tuple[Any, Rollouts]:
        """See `Runner`."""
        from policysearch.runners import host

        requested = host.jobs(method, state, self.seed)
        return host.learned_from(state, requested, self.run(requested), self.specification)

    def costs(self, policy: Policy, rows: np.ndarray, call: int) -> tuple[np.ndarray, int]:
        """See `Runner`."""
        controller = policy.controller()
        offsets = rows - controller.theta()
        came = self.run(
            Jobs(controller=controller, seed=self.seed, update=call, environment=np.arange(len(rows)), offsets=offsets)
        )
        return np.where(came.outcome == OK, came.totals, np.nan), came.stages

    def evaluate(self, controller: Controller, rollouts: int, seed: int) -> Outcomes:
        """See `Runner`."""
        came = self.run(evaluation(controller, rollouts, seed))
        good = came.outcome == OK
        costs, returns = (np.where(good, values, np.nan) for values in (came.totals, came.returns))
        return Outcomes(costs, came.lengths, returns if self.specification.returns else None)


def evaluation(controller: Controller, rollouts: int, seed: int, record: bool = False) -> Jobs:
    """The trials of an evaluation."""
    return Jobs(
        controller=controller,
        seed=seed,
        update=0,
        environment=np.arange(rollouts),
        purpose=Purpose.EVALUATION,
        record=record,
    )


class Host(OnHost):
    """Runs the trials of a Gymnasium task in worker processes, of this machine or of a cluster; see `Runner`."""

    slow: ClassVar[bool] = True

    def __init__(self, task: GymnasiumTask, seed: int, resources: Resources = DEFAULTS):
        super().__init__(task, seed)
        self.workers: Workers | Cluster
        if resources.cluster is None:
            self.workers = Workers(task, resources.workers, resources.timeout)
        else:
            from policysearch.runners.cluster import Cluster

            self.workers = Cluster(task, resources.cluster, resources.workers, resources.timeout)
        self.workers.start(wait=False)

    def run(self, requested: Jobs) -> HostRollouts:
        """The results of jobs."""
        try:
            came = self.workers.run(requested)
        except TrialsLostError as error:
            self.events.extend(error.events)
            raise
        self.events.extend(came.events)
        return came

    def _also(self, came: HostRollouts) -> dict[str, Any]:
        good = came.outcome == OK
        returns = came.returns[good]
        n = len(returns)
        return {
            "return": returns.mean() if n else np.nan,
            "return_sem": returns.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan,
            "length": came.lengths[good].mean() if n else np.nan,
        }

    def record(self, controller: Controller, rollouts: int, seed: int) -> list[Recording]:
        """See `Runner`; costs are undiscounted."""
        undiscounted = copy.copy(self.task)
        undiscounted.discount = 1.0
        with Workers(undiscounted, 1) as workers:
            came = workers.run(evaluation(controller, rollouts, seed, record=True))
        action, found = self.specification.action, []
        for index, kept in enumerate(came.records):
            events = [event for event in came.events if event.trial == index]
            if kept is None:
                raise RuntimeError(f"Rollout {index} of {self.specification.name} was lost: {events[-1].reason}.")
            observations, actions, costs = kept
            if isinstance(action, Continuous):
                actions = np.clip(actions, action.low, action.high)
            reason = next((event.reason for event in events if event.kind == "failed"), "")
            found.append(Recording(None, observations, actions, costs, reason))
        return found

    def close(self) -> None:
        """End the worker processes."""
        self.workers.close()


class InProcess(OnHost):
    """Runs the trials of a Python function g(θ), one call per trial, in this process; see `Runner`."""

    slow: ClassVar[bool] = False

    def __init__(self, task: PythonFunction, seed: int, resources: Resources = DEFAULTS):
        super().__init__(task, seed)

    def run(self, requested: Jobs) -> HostRollouts:
        """The results of jobs."""
        episodes: list[Episode | None] = []
        for trial, controller in enumerate(requested.controllers(list(range(len(requested))))):
            seed = environment_seed(
                requested.seed, requested.purpose, requested.update, int(requested.environment[trial])
            )
            cost = self.task.evaluate(np.array(list(controller.values().values())), seed)
            episodes.append(Episode.of_cost(cost))
        return gather(episodes, [], 0)

    def record(self, controller: Controller, rollouts: int, seed: int) -> list[Recording]:
        """Nothing moves."""
        raise motionless(self.specification)

    def close(self) -> None:
        """Nothing to end."""
