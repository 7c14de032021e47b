"""Many seeds of one search. Those of a JAX task run together, in one compiled program for all S seeds."""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from policysearch import runners
from policysearch.core.credit import Info
from policysearch.core.method import Method, State
from policysearch.core.policies import Policy
from policysearch.core.settings import Budget, PolicySettings
from policysearch.core.specification import Specification
from policysearch.methods.settings import MethodSettings
from policysearch.methods.start import problem
from policysearch.runners.native import search_update
from policysearch.search.search import Record, Result, Search
from policysearch.tasks import resolve
from policysearch.tasks.task import Function, Task


def train_seeds(
    task: Any,
    method: str | MethodSettings | Method | None = None,
    *,
    seeds: int | Sequence[int],
    policy: Policy | PolicySettings | str | None = None,
    budget: Budget | str | int | None = None,
    initial: Any = None,
    workers: int | None = None,
    failure_cost: float | None = None,
    evaluation_rollouts: int | None = None,
    on_update: Callable[[int, Record], None] | None = None,
) -> list[Result]:
    """Repeat a search with several seeds and evaluate each: the result of `train` for every seed; see `Search`.

    The seeds of a JAX task share each update, which takes the memory of all of them; their numbers are those of single
    searches up to rounding. Other tasks are searched one seed after another.

    Args:
        seeds: how many, counting from 0; or which.
        budget: of each seed.
        evaluation_rollouts: of the evaluation at the end of each seed.
        on_update: called with the seed and the record of each of its updates.

    Returns:
        A result per seed, in the order of `seeds`. If seeds run together, `seconds` is the time for all of them.

    Raises:
        ValueError: no seeds, or one twice; and anything `Search` refuses.

    Example:
        >>> results = train_seeds("bowl", "weight_perturbation", seeds=3, budget=600)
        >>> [result.evaluation.solved for result in results]
        [True, True, True]
    """
    chosen = _checked(seeds)
    plant = task if isinstance(task, Specification) else resolve(task)

    def search(seed: int) -> Search:
        return Search(
            plant,
            method,
            policy=policy,
            budget=budget,
            seed=seed,
            initial=initial,
            workers=workers,
            failure_cost=failure_cost,
        )

    if runners.kind(plant).vectorised:
        searches = [search(seed) for seed in chosen]
        run_together(searches, on_update)
        return [single.result(evaluation_rollouts) for single in searches]
    results = []
    for seed in chosen:
        with search(seed) as single:
            single.run(None if on_update is None else functools.partial(on_update, seed))
            results.append(single.result(evaluation_rollouts))
    return results


def run_together(
    searches: list[Search],
    on_update: Callable[[int, Record], None] | None = None,
    look: Callable[[State, float], None] | None = None,
) -> float:
    """Run searches on a JAX task that differ only in their seeds, in one program, until all are done.

    Args:
        searches: none of them started.
        on_update: called with the seed and the record of each of its updates.
        look: called before the first update, and after each, with the states of all, stacked, and the seconds that
            updates have taken.

    Returns:
        Seconds of compilation.
    """
    first = searches[0]
    plan, size = (first.task, first.method), first.layout.size
    stages = size * first.specification.horizon
    seeds = jax.device_put(np.array([search.seed for search in searches], np.uint32))
    states = jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get([search.state for search in searches]))
    states = jax.device_put(states)
    start = time.perf_counter()
    vectorised = _vectorised(first)
    program: Any = _update
    update = program.lower(plan, states, seeds, jax.device_put(np.ones(len(searches), bool)), vectorised).compile()
    compilation, total = time.perf_counter() - start, 0.0
    if look is not None:
        look(states, total)
    while not all(search.done for search in searches):
        going = np.array([not search.done for search in searches])
        start = time.perf_counter()
        states, info = update(plan, states, seeds, jax.device_put(going), vectorised)
        columns = {name: values.tolist() for name, values in jax.device_get(info).items()}
        seconds = time.perf_counter() - start
        total += seconds
        for index in np.flatnonzero(going).tolist():
            numbers = {name: float(values[index]) for name, values in columns.items()}
            record = searches[index].account(numbers, stages, seconds)
            if on_update is not None:
                on_update(searches[index].seed, record)
        if look is not None:
            look(states, total)
    states = jax.device_get(states)
    for number, search in enumerate(searches):
        search.state = jax.device_put(jax.tree.map(operator.itemgetter(number), states))
    return compilation


@eqx.filter_jit
def _update(
    plan: tuple[Task | Function, Method], states: State, seeds: Array, going: Array, vectorised: bool
) -> tuple[State, Info]:
    """The next state of every seed that continues, and what each reports, (S,) each."""

    def one(state: State, seed: Array, on: Array) -> tuple[State, Info]:
        after, info = search_update(plan, state, seed)
        return jax.tree.map(lambda new, old: jnp.where(on, new, old), after, state), info

    if vectorised:
        return jax.vmap(one)(states, seeds, going)
    arrays, static = eqx.partition(states, eqx.is_array)

    def given(inputs: tuple[Any, Array, Array]) -> tuple[Any, Info]:
        after, info = one(eqx.combine(inputs[0], static), *inputs[1:])
        return eqx.filter(after, eqx.is_array), info

    after, info = jax.lax.map(given, (arrays, seeds, going))
    return eqx.combine(after, static), info


def _vectorised(search: Search) -> bool:
    """Whether the seeds of a search are a dimension of its arrays, or run one after another within the program.

    XLA multiplies small matrices more slowly in batches than one at a time on a CPU, so networks run one after
    another; `benchmarks/seeds.py` measures both.
    """
    return jax.default_backend() != "cpu" or not problem(search.specification, search.policy, "action").network


def _checked(seeds: int | Sequence[int]) -> list[int]:
    """The seeds as a list; ValueError if there are none, or one twice."""
    chosen = list(range(seeds) if isinstance(seeds, int) else seeds)
    if not chosen:
        raise ValueError(f"seeds is {seeds!r}; give at least one.")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"seeds is {chosen}; a repeated seed repeats the same search. Give distinct ones.")
    return chosen
