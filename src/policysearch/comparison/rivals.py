"""Searches of other libraries over θ, each with a short adapter: the same trials, budget and evaluations as ours.

An adapter is a function of (costs, θ, std, seed). `costs(rows, current)` runs a rollout for each row (k, d), on fresh
environment seeds, and raises `BudgetSpent` before it would exceed the budget; `current` (d,) is what the search would
answer if it ended now.
"""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from policysearch.core.policies import Policy
from policysearch.core.rng import Purpose, environment_seed
from policysearch.core.settings import Budget
from policysearch.core.specification import OK
from policysearch.runners import native
from policysearch.tasks.python_function import PythonFunction
from policysearch.tasks.task import Function, Task
from policysearch.workers.jobs import Jobs

if TYPE_CHECKING:
    from policysearch.tasks import AnyTask


#: initial spread, in multiples of a perturbation that only measures a gradient; as for `cem`
START = 3.0

Costs = Callable[[np.ndarray, np.ndarray], np.ndarray]


class BudgetSpent(Exception):  # noqa: N818 - not an error: the way every rival's search ends
    """Another call would exceed the budget."""


def cma(costs: Costs, theta: np.ndarray, std: float, seed: int) -> None:
    """CMA-ES from pycma with its defaults (Hansen 2016), with the initial spread of our `cem`."""
    from cma import CMAEvolutionStrategy

    if len(theta) < 2:
        raise ValueError("cma needs at least two parameters; this policy has one.")
    search = CMAEvolutionStrategy(theta, std, {"seed": seed + 1, "verbose": -9})
    while True:  # it continues where pycma would stop: the budget is the same for all
        rows = search.ask()
        search.tell(rows, costs(np.array(rows), search.mean).tolist())


def nelder_mead(costs: Costs, theta: np.ndarray, std: float, seed: int) -> None:
    """The simplex method of SciPy, its coefficients by dimension (Gao & Han 2012); it returns its best vertex."""
    from scipy.optimize import minimize

    best, least = theta, np.inf

    def cost(row: np.ndarray) -> float:
        nonlocal best, least
        value = float(costs(row[None], best)[0])
        if value < least:
            best, least = row.copy(), value
        return value

    simplex = np.vstack([theta, theta + std * np.eye(len(theta))])
    never = {"maxiter": np.inf, "maxfev": np.inf, "xatol": 0.0, "fatol": 0.0}
    minimize(cost, theta, method="Nelder-Mead", options={"initial_simplex": simplex, "adaptive": True, **never})


ADAPTERS = {"cma": cma, "nelder_mead": nelder_mead}


class Trials:
    """Runs the trials of a rival and counts them.

    Args:
        task: a plant, a Gymnasium task or a Python function.
        policy: whose θ is searched.
        seed: of the environment seeds.
        budget: in rollouts, stages, or updates, which are calls.
        pool: of worker processes, for Gymnasium tasks.
        on_call: called after each batch with the `current` that `costs` was given.
    """

    def __init__(
        self, task: AnyTask, policy: Policy, seed: int, budget: Budget, pool: Any, on_call: Callable[[np.ndarray], None]
    ):
        self.task, self.policy, self.seed, self.budget, self.pool = task, policy, seed, budget, pool
        self.rollouts = self.stages = self.calls = self.failed = 0
        #: seconds of compilation
        self.compilation = 0.0
        self._programs: dict[int, Any] = {}
        self._on_call = on_call
        self._worst = np.inf

    @property
    def share(self) -> float:
        """Share of the budget that is spent."""
        spent = {"rollouts": self.rollouts, "stages": self.stages, "updates": self.calls}[self.budget.unit]
        return min(1.0, spent / self.budget.amount)

    def __call__(self, rows: np.ndarray, current: np.ndarray) -> np.ndarray:
        """Costs (k,) of parameter vectors (k, d). A failed trial costs as much as the worst one so far."""
        over = self.budget.unit == "rollouts" and self.rollouts + len(rows) > self.budget.amount
        if over or self.share >= 1:
            raise BudgetSpent
        costs, stages = self._run(np.asarray(rows, float))
        self.rollouts, self.stages, self.calls = self.rollouts + len(rows), self.stages + stages, self.calls + 1
        good = np.isfinite(costs)
        self.failed += int((~good).sum())
        if good.any():
            worst = float(costs[good].max())
            self._worst = worst if np.isinf(self._worst) else max(self._worst, worst)
        self._on_call(current)
        return np.where(good, costs, self._worst)

    def _run(self, rows: np.ndarray) -> tuple[np.ndarray, int]:
        if isinstance(self.task, PythonFunction):
            seeds = [environment_seed(self.seed, Purpose.ENVIRONMENT, self.calls, i) for i in range(len(rows))]
            values = [list(self.at(row).controller().values().values()) for row in rows]
            pairs = zip(values, seeds, strict=True)
            return np.array([self.task.evaluate(v, s) for v, s in pairs], float), len(rows)
        if self.task.specification.reward:
            controller = self.policy.controller()
            jobs = Jobs(
                controller=controller,
                seed=self.seed,
                update=self.calls,
                environment=np.arange(len(rows)),
                offsets=rows - controller.theta(),
            )
            came = self.pool.run(jobs)
            return np.where(came.outcome == OK, came.totals, np.nan), came.stages
        key = jax.random.fold_in(native.purpose_key(self.seed, Purpose.ENVIRONMENT), self.calls)
        given = (self.task, self.policy, jnp.asarray(rows, self.policy.theta().dtype), key)
        if len(rows) not in self._programs:
            start = time.perf_counter()
            self._programs[len(rows)] = _costs.lower(*given).compile()
            self.compilation += time.perf_counter() - start
        costs = self._programs[len(rows)](*given)
        return np.asarray(costs, float), len(rows) * self.task.specification.horizon

    def at(self, theta: np.ndarray) -> Policy:
        """The policy with other parameters (d,)."""
        return self.policy.with_theta(jnp.asarray(theta, self.policy.theta("parameter").dtype), "parameter")


def prepare(name: str) -> None:
    """Import what a rival needs, so that importing is not timed.

    Raises:
        ImportError: it is not installed; the message says how to.
    """
    try:
        importlib.import_module({"cma": "cma", "nelder_mead": "scipy.optimize"}[name])
    except ImportError:
        raise ImportError(f"{name} needs another package: pip install 'policysearch[rivals]'.") from None


def run(name: str, trials: Trials, std: float, seed: int) -> str:
    """Search with a rival until the budget is spent; why it ended."""
    theta = np.asarray(trials.policy.theta("parameter"), float)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="cma")  # about stagnation, and about its arguments
            ADAPTERS[name](trials, theta, std, seed)
    except BudgetSpent:
        return "budget spent"
    return "ended by itself"


def _each(task: Task | Function, policy: Policy, rows: jax.Array, key: jax.Array) -> jax.Array:
    keys = jax.random.split(key, len(rows))
    return jax.vmap(lambda row, k: native.total(task, policy.with_theta(row, "parameter"), k)[0])(rows, keys)


_costs: Any = eqx.filter_jit(_each)
