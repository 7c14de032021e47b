"""`compare`: every method on the same task with the same seeds, budget and evaluation seeds; finished cells are kept.

All seeds of a method on a JAX task run in one program. Other tasks run one search after another, each on all workers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import equinox as eqx
import numpy as np

from policysearch import runners
from policysearch.comparison import cells as kept
from policysearch.comparison import rivals
from policysearch.comparison.cells import Cell
from policysearch.comparison.entrants import Entrant, named
from policysearch.comparison.running import AT_THE_END, POINTS, Conditions, rival_policy, run
from policysearch.comparison.summary import Comparison
from policysearch.core.plain import Plain
from policysearch.core.policies import Policy
from policysearch.core.settings import Budget, PolicySettings
from policysearch.core.specification import Specification
from policysearch.methods.settings import RIVALS, by_rule, plain
from policysearch.search.evaluation import default_rollouts, evaluate
from policysearch.search.result import Record
from policysearch.search.search import Search
from policysearch.tasks import resolve
from policysearch.tasks.regulator import lqr

if TYPE_CHECKING:
    from policysearch.tasks import AnyTask


#: rollouts per point, for tasks that run on worker processes
SIMULATED_ROLLOUTS = 5


class Progress(NamedTuple):
    """A moment of a comparison.

    method, seed: of the record. record: of an update; empty when a method begins, and for a rival. share: of the grid.
    """

    method: str
    seed: int
    record: Record
    share: float


def compare(
    task: AnyTask,
    methods: str | Sequence[Entrant] | Mapping[str, Entrant],
    *,
    seeds: int | Sequence[int] = 10,
    budget: Budget | str | int | None = None,
    policy: Policy | PolicySettings | str | None = None,
    threshold: float | None = None,
    folder: str | Path | None = None,
    workers: int | None = None,
    points: int = POINTS,
    evaluation_rollouts: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cluster: str | None = None,
) -> Comparison:
    """Run every method with every seed, and measure the policies along the way on the same evaluation seeds.

    Args:
        task: as `Search` takes it; not a bare specification.
        methods: "trpo,ars", names, settings and rivals (`cma`, `nelder_mead`), or a mapping from labels to these or to
            a `Method` composed by hand.
        seeds: how many, counting from 0; or which.
        budget: of each search; None for what `train` spends on the task with its default method, in rollouts, or in
            stages of simulators.
        policy: of all; None for each method's default.
        threshold: largest cost, or smallest return, that counts as solved; None for the task's own criterion.
        folder: where finished cells are kept; the same call continues after an interruption, and more seeds or
            methods may be added. None keeps them in memory.
        workers: processes for Gymnasium tasks.
        points: of a curve, after the first.
        evaluation_rollouts: per point and at the end; by default what the task asks for, and 5 per point of a
            Gymnasium task.
        on_progress: called after each update.
        cluster: see `Search`.

    Returns:
        The comparison.

    Raises:
        ValueError: a method that does not suit the task, or a folder that holds another comparison; nothing has run.

    Example:
        >>> found = compare("bowl", "weight_perturbation,nelder_mead", seeds=3, budget=600)
        >>> [row.solved for row in found.table()], found.improvement("nelder_mead", "weight_perturbation").value
        ([3, 3], 1.0)
    """
    entrants = named(methods)
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds is {seeds!r}; give at least one, and none twice.")
    if points < 1:
        raise ValueError(f"points is {points}; measure at least one.")
    plant = resolve(task)
    specification: Specification = plant.specification
    if isinstance(plant, Specification):
        raise ValueError(f"{specification.name} only describes trials; a comparison runs them itself.")
    common = _budget(plant) if budget is None else Budget.parse(budget)
    if common.unit == "updates":
        raise ValueError(f"A budget of {common} is not the same for all; give rollouts (2000) or stages (2e6stages).")
    if threshold is not None and not np.isfinite(threshold):
        raise ValueError(f"threshold is {threshold}; it must be finite.")
    settings: Plain = {}
    chosen: Plain = {}
    for label, entrant in entrants.items():  # what does not fit is refused before anything runs
        if isinstance(entrant, str):
            rivals.prepare(entrant)
            rival_policy(plant, policy, numbers[0])
            settings[label] = RIVALS[entrant]
        else:
            search = Search(plant, entrant, policy=policy, budget=common)
            settings[label] = search.settings
            chosen[label] = by_rule(plain(search.given), search.settings)
    along = evaluation_rollouts or (SIMULATED_ROLLOUTS if runners.kind(plant).slow else default_rollouts(specification))
    final = evaluation_rollouts or default_rollouts(specification)
    conditions = Conditions(plant, policy, common, threshold, along, final, points, workers, cluster)
    baseline = _baseline(plant, final)
    found: dict[tuple[str, int], Cell] = {}
    if folder is not None:
        described = {
            "task": task if isinstance(task, str) else specification.name,
            "horizon": specification.horizon,
            "budget": str(conditions.budget),
            "policy": repr(policy),
            "threshold": threshold,
            "points": points,
            "evaluation_rollouts": evaluation_rollouts,
        }
        about = {
            "specification": specification.plain(),
            "budget": str(conditions.budget),
            "evaluation_rollouts": along,
            "baseline": baseline,
            "settings": settings,
            "chosen": chosen,
        }
        texts = {label: _described(entrant) for label, entrant in entrants.items()}
        found = kept.begin(Path(folder), described, texts, about)
    grid = [(label, seed) for label in entrants for seed in numbers]
    done = sum(key in found for key in grid)
    for label, entrant in entrants.items():
        missing = [seed for seed in numbers if (label, seed) not in found]
        for group in _groups(plant, entrant, missing):
            report = functools.partial(_report, on_progress, label, done / len(grid), len(group) / len(grid))
            report(group[0], {}, 0.0)  # compilation comes first, and takes a while
            new = run(conditions, label, entrant, group, report)
            if folder is not None:
                kept.append(Path(folder), new)
            found |= {(cell.method, cell.seed): cell for cell in new}
            done += len(new)
    return Comparison(
        specification=specification,
        budget=str(conditions.budget),
        threshold=threshold,
        evaluation_rollouts=along,
        methods=list(entrants),
        cells=[found[key] for key in grid],
        baseline=baseline,
    )


def _report(
    on_progress: Callable[[Progress], None] | None,
    label: str,
    before: float,
    whole: float,
    seed: int,
    record: Record,
    share: float,
) -> None:
    if on_progress is not None:
        on_progress(Progress(label, seed, record, before + whole * share))


def _baseline(task: AnyTask, rollouts: int) -> tuple[str, float, float] | None:
    """The regulator's cost on the final evaluation seeds; None without a regulator."""
    policy = lqr(task)
    if policy is None:
        return None
    evaluation = evaluate(task, policy.controller(), rollouts, AT_THE_END)
    return "LQR", evaluation.cost_mean, evaluation.cost_sem


def _budget(task: AnyTask) -> Budget:
    """What `train` spends on the task by default, in stages for simulators, else in rollouts."""
    search = Search(task)
    if search.budget.unit == "updates":
        return Budget(search.budget.amount * search.layout.size, "rollouts")
    return search.budget


def _described(entrant: Entrant) -> str:
    """Text by which a later process recognises the same method."""
    return eqx.tree_pformat(entrant, short_arrays=False) if isinstance(entrant, eqx.Module) else repr(entrant)


def _groups(task: AnyTask, entrant: Entrant, seeds: list[int]) -> list[list[int]]:
    """Seeds that run together."""
    together = runners.kind(task).vectorised and not isinstance(entrant, str)
    return ([seeds] if seeds else []) if together else [[seed] for seed in seeds]
