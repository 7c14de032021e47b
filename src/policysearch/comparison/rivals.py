"""Searches of other libraries over θ, each with a short adapter: the same trials, budget and evaluations as ours.

An adapter is a function of (costs, θ, std, seed). `costs(rows, current)` runs a rollout for each row (k, d), on fresh
environment seeds, and raises `BudgetSpent` before it would exceed the budget; `current` (d,) is what the search would
answer if it ended now.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from policysearch.core.policies import Policy
from policysearch.core.settings import Budget
from policysearch.runners import Runner

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
        runner: of the task.
        policy: whose θ is searched.
        budget: in rollouts, stages, or updates, which are calls.
        on_call: called after each batch with the `current` that `costs` was given.
    """

    def __init__(self, runner: Runner, policy: Policy, budget: Budget, on_call: Callable[[np.ndarray], None]):
        self.runner, self.policy, self.budget = runner, policy, budget
        self.rollouts = self.stages = self.calls = self.failed = 0
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
        costs, stages = self.runner.costs(self.policy, np.asarray(rows, float), self.calls)
        self.rollouts, self.stages, self.calls = self.rollouts + len(rows), self.stages + stages, self.calls + 1
        good = np.isfinite(costs)
        self.failed += int((~good).sum())
        if good.any():
            worst = float(costs[good].max())
            self._worst = worst if np.isinf(self._worst) else max(self._worst, worst)
        self._on_call(current)
        return np.where(good, costs, self._worst)

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
