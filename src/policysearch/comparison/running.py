"""The searches of a comparison: seeds together, one alone, or a rival's, each measured along the way.

Evaluations count neither in a search's rollouts nor in its seconds.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from policysearch import runners
from policysearch.comparison import rivals
from policysearch.comparison.cells import Cell, Point
from policysearch.comparison.entrants import Entrant
from policysearch.core.method import State
from policysearch.core.policies import Policy
from policysearch.core.rng import Purpose
from policysearch.core.settings import Budget, PolicySettings
from policysearch.methods.settings import WeightPerturbation
from policysearch.methods.start import policy_of, problem
from policysearch.runners import Outcomes, Resources, native, runner
from policysearch.search.evaluation import Evaluation, evaluate, judged
from policysearch.search.many_seeds import run_together
from policysearch.search.result import Record
from policysearch.search.search import Search
from policysearch.tasks.gymnasium_task import GymnasiumTask
from policysearch.tasks.task import Function, Task

if TYPE_CHECKING:
    from policysearch.tasks import AnyTask


#: evaluation seeds during a search, and at its end
ALONG, AT_THE_END = 0, 1
#: points of a curve after the first one, spaced evenly in the logarithm of the budget from this share of it on
POINTS, FIRST_SHARE = 24, 0.01

#: receives the seed and the record of an update, and the share of its budget that is spent
Report = Callable[[int, Record, float], None]


class Conditions(NamedTuple):
    """What all cells have in common. rollouts: per point of a curve. final: of the evaluation at the end."""

    task: AnyTask
    policy: Policy | PolicySettings | str | None
    budget: Budget
    threshold: float | None
    rollouts: int
    final: int
    points: int
    workers: int | None
    cluster: str | None = None

    @property
    def shares(self) -> np.ndarray:
        """Shares of the budget after which the policy is measured."""
        return np.geomspace(FIRST_SHARE, 1.0, self.points)

    def point(self, rollouts: int, stages: int, seconds: float, evaluation: Evaluation) -> Point:
        """A point of a curve."""
        reward = evaluation.returns is not None
        values = np.array(evaluation.returns if evaluation.returns is not None else evaluation.costs, float)
        good = np.isfinite(values)
        if not good.any():
            solved = None if self.threshold is None and evaluation.solved is None else False
            return Point(
                rollouts=rollouts, stages=stages, seconds=seconds, value=None, solved=solved, failed=len(values)
            )
        worst = values[good].min() if reward else values[good].max()
        values = np.where(good, values, worst)
        mean, solved = float(values.mean()), evaluation.solved
        if self.threshold is not None:
            solved = bool(good.all() and (mean >= self.threshold if reward else mean <= self.threshold))
        return Point(
            rollouts=rollouts,
            stages=stages,
            seconds=seconds,
            value=mean,
            error=float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0,
            solved=solved,
            failed=int((~good).sum()),
        )


def run(conditions: Conditions, label: str, entrant: Entrant, seeds: list[int], report: Report) -> list[Cell]:
    """The cells of a method with these seeds.

    Args:
        conditions: of all cells. label: of the method. entrant: settings, a `Method`, or the name of a rival.
        seeds: several only for a method of this package on a JAX task.
        report: called after each update; if seeds run together, for the first of them.
    """
    if isinstance(entrant, str):
        return [_rival(conditions, label, entrant, seeds[0], report)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about a method were given before the first search
        searches = [
            Search(
                conditions.task,
                entrant,
                policy=conditions.policy,
                budget=conditions.budget,
                seed=seed,
                workers=conditions.workers,
                cluster=conditions.cluster,
            )
            for seed in seeds
        ]
    if runners.kind(conditions.task).vectorised:
        return _together(conditions, label, searches, report)
    return [_single(conditions, label, searches[0], report)]


def _together(conditions: Conditions, label: str, searches: list[Search], report: Report) -> list[Cell]:
    task: Any = conditions.task
    count = len(searches)
    curves: list[list[Point]] = [[] for _ in searches]
    last: Any = None
    shares = list(conditions.shares)

    def measured(states: State, seed: int, rollouts: int) -> list[Evaluation]:
        key = native.purpose_key(seed, Purpose.EVALUATION)
        costs, success = _evaluate_all(task, states.policy, key, rollouts)
        costs, success = np.asarray(costs, float), [None] * count if success is None else np.asarray(success)
        lengths = np.full(rollouts, task.specification.horizon)
        return [judged(task, Outcomes(costs[i], lengths, None, success[i])) for i in range(count)]

    def look(states: State, seconds: float) -> None:
        nonlocal last
        last = (states, seconds)
        most = max(search.share for search in searches)
        ended = all(search.done for search in searches)
        if curves[0] and not ended and not (shares and most >= shares[0] - 1e-9):
            return
        while shares and most >= shares[0] - 1e-9:
            shares.pop(0)
        for search, curve, evaluation in zip(
            searches, curves, measured(states, ALONG, conditions.rollouts), strict=True
        ):
            if not (curve and curve[-1].rollouts == search.rollouts):
                curve.append(conditions.point(search.rollouts, search.stages, seconds / count, evaluation))

    compilation = run_together(
        searches,
        lambda seed, record: report(seed, record, record["share"]) if seed == searches[0].seed else None,
        look,
    )
    finals = measured(last[0], AT_THE_END, conditions.final)
    for search, curve in zip(searches, curves, strict=True):
        search.counts["evaluation"] += conditions.rollouts * len(curve) + conditions.final
    return [
        Cell(
            method=label,
            seed=search.seed,
            curve=curve,
            final=conditions.point(search.rollouts, search.stages, curve[-1].seconds, final),
            counts=dict(search.counts),
            reason=search.reason or "budget spent",
            compilation=compilation,
            together=count,
        )
        for search, curve, final in zip(searches, curves, finals, strict=True)
    ]


@eqx.filter_jit
def _evaluate_all(task: Task | Function, policies: Policy, key: jax.Array, rollouts: int) -> tuple[Any, Any]:
    """Costs (S, n) and successes (S, n) or None of S policies, on the same n environment seeds."""
    return jax.vmap(lambda policy: native.evaluate(task, policy, key, rollouts)[:2])(policies)


class _Clock:
    """Seconds of a search without those of its evaluations."""

    def __init__(self) -> None:
        self.seconds, self._since = 0.0, time.perf_counter()

    def pause(self) -> None:
        self.seconds += time.perf_counter() - self._since

    def go_on(self) -> None:
        self._since = time.perf_counter()


def _single(conditions: Conditions, label: str, search: Search, report: Report) -> Cell:
    with search:
        curve = [conditions.point(0, 0, 0.0, search.evaluate(conditions.rollouts, ALONG))]
        shares, clock = list(conditions.shares), _Clock()

        def on_update(record: Record) -> None:
            clock.pause()
            due = search.done
            while shares and search.share >= shares[0] - 1e-9:
                due = bool(shares.pop(0))
            if due:
                evaluation = search.evaluate(conditions.rollouts, ALONG)
                curve.append(conditions.point(search.rollouts, search.stages, clock.seconds, evaluation))
            report(search.seed, record, search.share)
            clock.go_on()

        search.run(on_update)
        final = search.evaluate(conditions.final, AT_THE_END)
        return Cell(
            method=label,
            seed=search.seed,
            curve=curve,
            final=conditions.point(search.rollouts, search.stages, clock.seconds, final),
            counts=dict(search.counts),
            reason=search.reason or "budget spent",
        )


def rival_policy(task: AnyTask, policy: Any, seed: int) -> Policy:
    """A rival's policy: that of methods that perturb parameters."""
    return policy_of(task, policy, WeightPerturbation(), seed)


def _rival(conditions: Conditions, label: str, name: str, seed: int, report: Report) -> Cell:
    task, start = conditions.task, rival_policy(conditions.task, conditions.policy, seed)
    if isinstance(task, GymnasiumTask) and task.survival_bonus is None:
        task = task.with_survival_bonus(0.0)
    resources = Resources(conditions.workers, cluster=conditions.cluster)
    with contextlib.closing(runner(task, seed, resources)) as running:
        measure = lambda policy, n, s: evaluate(task, policy.controller(), n, s, running)  # noqa: E731
        curve = [conditions.point(0, 0, 0.0, measure(start, conditions.rollouts, ALONG))]
        shares = list(conditions.shares)
        current = np.asarray(start.theta("parameter"))

        def at(evaluation: Evaluation) -> Point:
            seconds = clock.seconds - running.compilation
            return conditions.point(trials.rollouts, trials.stages, seconds, evaluation)

        def on_call(theta: np.ndarray) -> None:
            nonlocal current
            clock.pause()
            current, due = theta, False
            while shares and trials.share >= shares[0] - 1e-9:
                due = bool(shares.pop(0))
            if due:
                evaluation = measure(trials.at(theta), conditions.rollouts, ALONG)
                curve.append(at(evaluation))
                report(seed, {}, trials.share)
            clock.go_on()

        trials = rivals.Trials(running, start, conditions.budget, on_call)
        rivals.prepare(name)
        clock = _Clock()
        std = rivals.START * problem(task.specification, start, "parameter").effect
        reason = rivals.run(name, trials, std, seed)
        clock.pause()
        if curve[-1].rollouts < trials.rollouts:  # the budget is not a whole number of calls, or it ended by itself
            evaluation = measure(trials.at(current), conditions.rollouts, ALONG)
            curve.append(at(evaluation))
        final = measure(trials.at(current), conditions.final, AT_THE_END)
    counts = {"gradient": trials.rollouts, "failed": trials.failed}
    return Cell(
        method=label,
        seed=seed,
        curve=curve,
        final=at(final),
        counts=counts,
        reason=reason,
        compilation=running.compilation,
    )
