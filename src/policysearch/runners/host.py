"""Trials that run outside JAX: the jobs of an update, and the arrays for `Method.tell` from their results.

n trials, T stages, d parameters. Random numbers are NumPy's Philox, the same in driver and worker (see `rng`).
"""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from policysearch.core.controller import Controller
from policysearch.core.credit import Info
from policysearch.core.explore import ParameterNoise
from policysearch.core.method import Method, State
from policysearch.core.policies import Policy
from policysearch.core.rng import Purpose, environment_seed, perturbations
from policysearch.core.rollouts import Rollouts, saturated
from policysearch.core.seeded_perturbations import Regenerated
from policysearch.core.specification import LOST, OK, Continuous, Discrete, Specification
from policysearch.runners import DEFAULTS, Outcomes, Recording, Resources, motionless
from policysearch.runners.pool import TrialsLostError, Workers
from policysearch.tasks.gymnasium_task import GymnasiumTask
from policysearch.tasks.python_function import PythonFunction
from policysearch.workers.jobs import Episode, Event, HostRollouts, Jobs, gather

if TYPE_CHECKING:
    from policysearch.runners.cluster import Cluster

#: largest number of entries of β that an update forms at once
LARGEST = 4_000_000


@eqx.filter_jit
def compiled_tell(
    method: Method,
    state: State,
    offsets: Any,
    rollouts: Rollouts,
    action: Continuous | Discrete | None = None,
) -> tuple[State, Info]:
    """`Method.tell`, compiled, and the share of actions beyond the limits of `action`."""
    state, info = method.tell(state, offsets, rollouts)
    return state, {**info, **saturated(rollouts, action)}


def jobs(method: Method, state: State, seed: int) -> Jobs:
    """The trials of the next update; a pure function of the state and the seed."""
    layout, controller = method.layout(state.policy), state.policy.controller()
    ask = functools.partial(
        Jobs, controller=controller, seed=seed, update=int(state.update), environment=layout.environment
    )
    if method.space == "action":
        return ask(stochastic=True, record=True)
    explore = method.explore
    if isinstance(explore, ParameterNoise):
        return ask(
            perturbation=layout.perturbation,
            sign=layout.sign,
            std=np.asarray(explore.spread(state.explore), float),
            shape=explore.shape,
        )
    d = controller.theta().size
    return ask(offsets=np.asarray(method.offsets(state, jnp.zeros((d, d)), layout), float))


def offsets(requested: Jobs, largest: int = LARGEST) -> np.ndarray | Regenerated | None:
    """β of every trial (n, d), the numbers that the workers used; None where actions vary.

    If they have more than `largest` entries they are not formed here but regenerated from the results.
    """
    if requested.offsets is not None or requested.perturbation is None or requested.sign is None:
        return requested.offsets
    d = requested.controller.theta().size
    if len(requested) * d > largest:
        return Regenerated(
            jnp.asarray(requested.seed, jnp.uint32),
            jnp.asarray(requested.update),
            jnp.asarray(requested.perturbation),
            jnp.asarray(requested.sign, float),
            jnp.asarray(requested.std, float),
            d,
            requested.shape,
        )
    distinct, index = np.unique(requested.perturbation, return_inverse=True)
    rows = np.zeros((len(distinct), d))
    rows[distinct >= 0] = perturbations(requested.seed, requested.update, distinct[distinct >= 0], d, requested.shape)
    return np.asarray(requested.sign)[:, None] * rows[index] * requested.std


def padded_horizon(longest: int, horizon: int) -> int:
    """T for the longest rollout of a batch: 256, 1024, … or the horizon, so that only a few sizes are ever compiled."""
    size = 256
    while size < longest:
        size *= 4
    return min(size, horizon)


def to_rollouts(came: HostRollouts, recorded: bool, specification: Specification) -> Rollouts:
    """Padded arrays of the results; totals only, (n, 1), if stages were not requested.

    A rollout without a record has no stages: it failed or was lost, and says nothing about any action. Costs are
    centred before they are rounded, so that a large offset costs no digits: totals always, stages if every rollout
    lasted to the same horizon, so that the offset is common to all.
    """
    action = specification.action
    n = len(came.totals)
    outcome, terminated = jnp.asarray(came.outcome), jnp.asarray(came.terminated)
    count, mean, m2 = came.statistics
    float_dtype = jnp.zeros(()).dtype
    array = lambda x: jnp.asarray(np.asarray(x, float_dtype))  # noqa: E731
    statistics = (array(count), array(mean), array(m2))
    good = came.outcome == OK
    if not recorded:
        mask = jnp.ones((n, 1), bool)
        level = _level(came.totals[good][:, None], float_dtype)
        return Rollouts(
            array(came.totals[:, None] - level), mask, outcome, None, None, terminated, statistics, level=array(level)
        )
    counts = {len(record[2]) for record in came.records if record is not None}
    longest = max(counts, default=1)
    T = padded_horizon(longest, specification.draws)
    level = np.zeros(T, float_dtype)
    if len(counts) == 1 and np.all((good & ~came.terminated) | (came.outcome == LOST)):
        paid = np.array([record[2] for record in came.records if record is not None])
        # a baseline without time takes no level that depends on it
        level[:longest] = _level(paid if specification.discount < 1 else paid.reshape(-1, 1), float_dtype)
    costs, alive = np.zeros((n, T), float_dtype), np.zeros((n, T), bool)
    seen = np.zeros((n, T, len(mean)), float_dtype)
    size = (action.size,) if isinstance(action, Continuous) else ()
    acted = np.zeros((n, T, *size), float_dtype if size else int)
    last = np.zeros((n, len(mean)), float_dtype)
    for index, record in enumerate(came.records):
        if record is not None:
            observations, acted_here, costs_here = record
            length = len(costs_here)
            seen[index, :length], acted[index, :length] = observations[:length], acted_here
            costs[index, :length], alive[index, :length] = costs_here - level[:length].astype(float), True
            last[index] = observations[-1]
    held = None
    if specification.hold > 1:
        # the last action of a rollout that ended early was not held to its end
        held = array(np.clip(came.lengths[:, None] - specification.hold * np.arange(T), 0, specification.hold))
    return Rollouts(
        jnp.asarray(costs),
        jnp.asarray(alive),
        outcome,
        jnp.asarray(seen),
        jnp.asarray(acted),
        terminated,
        statistics,
        jnp.asarray(last),
        held,
        array(level),
    )


def _level(costs: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Mean of each column, as a number that float32 holds exactly; 0 without rows."""
    return costs.mean(0).astype(dtype) if len(costs) else np.zeros(costs.shape[1], dtype)


def learned_from(
    state: State, requested: Jobs, came: HostRollouts, specification: Specification
) -> tuple[Any, Rollouts]:
    """Offsets and rollouts for `Method.tell` or `Method.estimate`, from the results of `requested`."""
    beta = offsets(requested)
    given = jnp.asarray(beta, state.policy.theta().dtype) if isinstance(beta, np.ndarray) else beta
    return given, to_rollouts(came, requested.record, specification)


def tell(
    method: Method, state: State, requested: Jobs, came: HostRollouts, specification: Specification
) -> tuple[State, Info]:
    """Update from the results of `requested`."""
    given, rollouts = learned_from(state, requested, came, specification)
    state, info = compiled_tell(method, state, given, rollouts, specification.action)
    level = np.asarray(rollouts.level, float).sum()
    return state, {**info, "cost": np.asarray(info["cost"], float) + level}


class OnHost:
    """What the runners outside JAX share; a subclass runs jobs."""

    vectorised: ClassVar[bool] = False
    #: rollouts have returns
    returns: ClassVar[bool] = False

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
        requested = jobs(method, state, self.seed)
        came = self.run(requested)
        state, info = tell(method, state, requested, came, self.specification)
        return state, {**info, **self._also(came)}, came.stages

    def _also(self, came: HostRollouts) -> dict[str, Any]:
        """What an update reports besides its gradient."""
        return {}

    def sample(self, method: Method, state: State) -> tuple[Any, Rollouts]:
        """See `Runner`."""
        requested = jobs(method, state, self.seed)
        return learned_from(state, requested, self.run(requested), self.specification)

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
        came = self.run(_evaluation(controller, rollouts, seed))
        good = came.outcome == OK
        costs, returns = (np.where(good, values, np.nan) for values in (came.totals, came.returns))
        return Outcomes(costs, came.lengths, returns if self.specification.returns else None)


def _evaluation(controller: Controller, rollouts: int, seed: int, record: bool = False) -> Jobs:
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
            came = workers.run(_evaluation(controller, rollouts, seed, record=True))
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
