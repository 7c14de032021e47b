"""`train`: a whole search in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from policysearch.method import Method
from policysearch.policies import Policy
from policysearch.result import Record, Result
from policysearch.search import Search
from policysearch.settings import Budget, PolicySettings, Settings


def train(
    task: Any,
    method: str | Settings | Method | None = None,
    *,
    policy: Policy | PolicySettings | str | None = None,
    budget: Budget | str | int | None = None,
    seed: int = 0,
    initial: Any = None,
    workers: int | None = None,
    failure_cost: float | None = None,
    deadline: float | None = None,
    evaluation_rollouts: int | None = None,
    on_update: Callable[[Record], None] | None = None,
) -> Result:
    """Search a policy for a task and evaluate what came out; see `Search` for the arguments.

    Args:
        evaluation_rollouts: of the evaluation at the end.
        on_update: called with the record of each update.

    Returns:
        The last iterate with its evaluation on fresh seeds.

    Example:
        >>> result = train("bowl", "weight_perturbation", budget=600)
        >>> result.evaluation.solved
        True
    """
    with Search(
        task,
        method,
        policy=policy,
        budget=budget,
        seed=seed,
        initial=initial,
        workers=workers,
        failure_cost=failure_cost,
        deadline=deadline,
    ) as search:
        search.run(on_update)
        return search.result(evaluation_rollouts)
