"""How good a policy is: its mode on environment seeds that training never sees. JAX only if the task needs it."""

from __future__ import annotations

import contextlib
import math
import warnings
from typing import Any

import msgspec
import numpy as np

from policysearch.core.controller import Controller
from policysearch.core.policies.registry import ACTIONS, CHOICE, NUMBERS
from policysearch.core.specification import Continuous, Discrete, Specification
from policysearch.runners import Outcomes, Resources, Runner, runner

#: names of the quantiles that are reported
QUANTILES = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
#: fields with a number for each rollout
SINGLE = ("costs", "returns", "lengths")


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Mean and standard error over rollouts, in the task's cost unit, and the result of each rollout.

    Args:
        cost_mean, cost_sem: discounted total cost of the rollouts that did not fail, without any training bonus.
        rollouts: how many were run; `failed` of them failed and count as unsuccessful.
        stages: how many stages they took.
        solved: by the task's own criterion; None if it has none.
        success_share: share of rollouts that met the physical goal; None if the task has none.
        return_mean, return_sem: undiscounted return, for tasks with rewards.
        costs: of each rollout, in the order of their seeds; NaN if it failed.
        returns: the same in returns; None for tasks with costs.
        lengths: stages of each rollout, up to the failure if it failed.

    Example:
        >>> Evaluation(cost_mean=2.0, cost_sem=0.5, rollouts=3, costs=(1.0, 3.0, 2.0)).quantiles()["median"]
        2.0
    """

    cost_mean: float
    cost_sem: float
    rollouts: int
    failed: int = 0
    stages: int = 0
    solved: bool | None = None
    success_share: float | None = None
    return_mean: float | None = None
    return_sem: float | None = None
    costs: tuple[float, ...] = ()
    returns: tuple[float, ...] | None = None
    lengths: tuple[int, ...] = ()

    def quantiles(self) -> dict[str, float]:
        """Quantiles of the return if there is one, else of the cost, over rollouts that did not fail.

        Returns:
            min, q05, q25, median, q75, q95 and max, interpolated linearly; NaN if all failed.
        """
        values = np.array(self.costs if self.returns is None else self.returns)
        values = values[np.isfinite(values)]
        found = np.quantile(values, list(QUANTILES.values())) if len(values) else [math.nan] * len(QUANTILES)
        return dict(zip(QUANTILES, map(float, found), strict=True))

    def summary(self) -> dict[str, Any]:
        """All numbers except those of single rollouts, JSON-able.

        Returns:
            The fields by name, `quantiles`, and the mean, min and max of the lengths (in stages, of rollouts that
            did not fail) as `length`.
        """
        lengths = [length for length, cost in zip(self.lengths, self.costs, strict=True) if math.isfinite(cost)]
        length = {"mean": float(np.mean(lengths)), "min": min(lengths), "max": max(lengths)} if lengths else None
        return {**self._scalars(), "quantiles": self.quantiles(), "length": length}

    def _scalars(self) -> dict[str, Any]:
        return {name: value for name, value in msgspec.structs.asdict(self).items() if name not in SINGLE}

    def __repr__(self) -> str:
        # thousands of single numbers would hide the rest
        return f"Evaluation({', '.join(f'{name}={value!r}' for name, value in self._scalars().items())})"


def default_rollouts(specification: Specification) -> int:
    """The task's own number; else 100 rollouts of a plant, 20 of an environment, 1 if nothing is random."""
    if specification.evaluation_rollouts is not None:
        return specification.evaluation_rollouts
    if specification.deterministic:
        return 1
    return 20 if specification.ends_early else 100


def evaluate(
    task: Any,
    controller: Controller,
    rollouts: int | None = None,
    seed: int = 0,
    workers: int | Runner | None = None,
    cluster: str | None = None,
) -> Evaluation:
    """Run a policy's mode on fresh seeds.

    Args:
        task: as `policysearch.tasks.resolve` gives it.
        controller: the policy.
        rollouts: how many; see `default_rollouts`.
        seed: from which the environment seeds derive.
        workers: how many processes to start, for Gymnasium tasks; or the runner that is there already.
        cluster: see `Search`.

    Raises:
        ValueError: fewer than one rollout, or a policy whose sizes do not fit the task.

    Warns:
        UserWarning: the policy's own limits differ from those of the task.
    """
    specification: Specification = task.specification
    n = rollouts if rollouts is not None else default_rollouts(specification)
    if n < 1:
        raise ValueError(f"rollouts is {n}; it must be at least 1.")
    fit(specification, controller)
    limits = controller.interface.limits
    if isinstance(specification.action, Continuous) and limits not in (None, specification.action):
        warnings.warn(
            f"The policy was made for actions from {limits.low} to {limits.high}; here it acts within the limits of "
            f"{specification.name}, {specification.action.low} to {specification.action.high}.",
            stacklevel=2,
        )
    if workers is not None and not isinstance(workers, int):
        return judged(task, workers.evaluate(controller, n, seed))
    with contextlib.closing(runner(task, seed, Resources(workers, cluster=cluster))) as made:
        return judged(task, made.evaluate(controller, n, seed))


def fit(specification: Specification, controller: Controller) -> None:
    """Raise ValueError unless the policy's sizes match the task's."""
    action = specification.action
    wanted = NUMBERS if action is None else CHOICE if isinstance(action, Discrete) else ACTIONS
    if controller.outputs != wanted:
        raise ValueError(f"A {controller.policy} policy does not fit {specification.name}, whose actions are {action}.")
    if action is None:
        return
    p = specification.observation_size
    observation = np.zeros(p)
    try:
        output = controller.output(observation)
    except ValueError as error:
        raise ValueError(f"The policy does not take the {p} observations of {specification.name}: {error}") from None
    size = action.n if isinstance(action, Discrete) else action.size
    if output.shape != (size,):
        raise ValueError(f"The policy has {output.shape[0]} outputs; {specification.name} takes {size}.")


def judged(task: Any, outcomes: Outcomes) -> Evaluation:
    """An evaluation of rollouts, by the task's own criterion."""
    good = np.isfinite(outcomes.costs)
    mean, sem = _mean_sem(outcomes.costs[good])
    return_mean = return_sem = returns = share = solved = None
    if outcomes.returns is not None:
        return_mean, return_sem = _mean_sem(outcomes.returns[good])
        returns = tuple(np.where(good, outcomes.returns, math.nan).tolist())
    if outcomes.success is not None:
        share = float((outcomes.success & good).mean())
        solved = share >= task.solved_share
    elif return_mean is not None:
        threshold = task.solved_return
        solved = None if threshold is None else bool(good.all() and return_mean >= threshold)
    else:
        threshold = task.solved_cost()
        solved = None if threshold is None else bool(good.all() and mean <= threshold)
    return Evaluation(
        cost_mean=mean,
        cost_sem=sem,
        rollouts=len(outcomes.costs),
        failed=int((~good).sum()),
        stages=int(outcomes.lengths.sum()),
        solved=solved,
        success_share=share,
        return_mean=return_mean,
        return_sem=return_sem,
        costs=tuple(np.where(good, outcomes.costs, math.nan).tolist()),
        returns=returns,
        lengths=tuple(outcomes.lengths.tolist()),
    )


def _mean_sem(values: np.ndarray) -> tuple[float, float]:
    if not len(values):
        return math.nan, math.nan
    sem = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
    return float(values.mean()), sem
