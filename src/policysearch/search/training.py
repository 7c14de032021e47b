"""`train`: a whole search in one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, Unpack

from policysearch.core.method import Method
from policysearch.core.policies import Policy
from policysearch.core.settings import Budget, PolicySettings
from policysearch.methods.settings import MethodSettings
from policysearch.search.progress import Progress, quantity
from policysearch.search.result import Record, Result
from policysearch.search.search import Search


class Options(TypedDict, total=False):
    """Keyword arguments of `Search`."""

    policy: Policy | PolicySettings | str | None
    budget: Budget | str | int | None
    seed: int
    initial: Any
    workers: int | None
    failure_cost: float | None
    timeout: float | None
    folder: str | Path | None
    cluster: str | None


def train(
    task: Any,
    method: str | MethodSettings | Method | None = None,
    *,
    evaluation_rollouts: int | None = None,
    on_update: Callable[[Record], None] | None = None,
    progress: bool = False,
    **options: Unpack[Options],
) -> Result:
    """Search for a policy for a task and evaluate the result.

    Args:
        task, method, options: see `Search`: policy, budget, seed, initial, workers, failure_cost, timeout, folder,
            cluster.
        evaluation_rollouts: of the evaluation at the end.
        on_update: called with the record of each update.
        progress: show the search's progress: on a terminal, in a notebook, or as lines on standard error.

    Returns:
        The last iterate with its evaluation on fresh seeds.

    Example:
        >>> result = train("bowl", "weight_perturbation", budget=600)
        >>> result.evaluation.solved
        True
    """
    with Search(task, method, **options) as search:
        if not progress:
            search.run(on_update)
            return search.result(evaluation_rollouts)
        return _shown(search, evaluation_rollouts, on_update)


def _shown(search: Search, rollouts: int | None, on_update: Callable[[Record], None] | None) -> Result:
    """Run a search with its progress on display."""
    noun = search.specification.noun
    title = f"{search.specification.name}, {search.method_name}, seed {search.seed}"
    with Progress(title, noun=noun, stay=True) as view:

        def shown(record: Record) -> None:
            view.update(record)
            if on_update is not None:
                on_update(record)

        search.run(shown)
        view.note("evaluating on fresh seeds")
        result = search.result(rollouts)
        view.note(_outcome(result, noun))
        return result


def _outcome(result: Result, noun: str) -> str:
    """The result in one line."""
    found = result.evaluation
    if found is None:
        return result.reason
    mean, error = (found.cost_mean, found.cost_sem) if noun == "cost" else (found.return_mean, found.return_sem)
    return f"{noun} {quantity(mean, error)} on fresh seeds; {result.reason}"
