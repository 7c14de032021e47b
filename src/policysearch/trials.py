"""Trials that a caller runs: what an update asks of a rig, and what the rig told, in any order.

n trials, T stages, p observations, m actions.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from policysearch.controller import Controller
from policysearch.method import Method, State
from policysearch.samplers import host
from policysearch.samplers.jobs import Episode, HostRollouts, Jobs, gather
from policysearch.specification import FAILED, OK, Discrete, Specification
from policysearch.streams import Purpose, environment_seed, stream


class Trial(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One request to a rig: run this controller once.

    Args:
        number: of the trial, counted from 0 over the whole search.
        update, index: which update asks it, and its place there.
        controller: what to run; for named numbers see `values`.
        environment_seed: partners have the same one; for rigs that can repeat a condition.
        noise: standard action noise (T, …) for `Controller.act`, a row a stage; None where the mode runs.
    """

    number: int
    update: int
    index: int
    controller: Controller
    environment_seed: int
    noise: np.ndarray | None = None

    @property
    def values(self) -> dict[str, float]:
        """The named numbers to try, in their own units."""
        return self.controller.values()


class OpenUpdate:
    """The trials of one update that a caller runs, and what came back so far."""

    def __init__(self, method: Method, state: State, seed: int, first: int):
        self.jobs: Jobs = host.jobs(method, state, seed)
        self.first = first
        self.next = 0
        self.results: dict[int, Episode | None] = {}

    @property
    def complete(self) -> bool:
        """Whether every trial was told."""
        return len(self.results) == len(self.jobs)

    def ask(self, specification: Specification) -> Trial:
        """The next trial that nobody was asked yet."""
        if self.next >= len(self.jobs):
            raise RuntimeError(
                f"All {len(self.jobs)} trials of this update are out; "
                f"{len(self.jobs) - len(self.results)} are still to be told."
            )
        index, jobs = self.next, self.jobs
        self.next += 1
        noise = None
        if jobs.stochastic:
            generator = stream(jobs.seed, Purpose.ACTION, jobs.update, index)
            noise = jobs.controller.noise(generator, specification.horizon)
        return Trial(
            number=self.first + index,
            update=jobs.update,
            index=index,
            controller=next(jobs.controllers([index])),
            environment_seed=environment_seed(
                jobs.seed, Purpose.ENVIRONMENT, jobs.update, int(jobs.environment[index])
            ),
            noise=noise,
        )

    def tell(
        self,
        number: int,
        specification: Specification,
        space: str,
        cost: float | None,
        rollout: tuple[Any, Any, Any] | None,
        failed: str | None,
        lost: str | None,
    ) -> None:
        """Take a result; see `Search.tell`."""
        index = number - self.first
        if not 0 <= index < self.next:
            raise ValueError(f"Trial {number} is not open; open are {self.first} to {self.first + self.next - 1}.")
        if index in self.results:
            raise ValueError(f"Trial {number} was told already.")
        given = sum(x is not None for x in (cost, rollout, failed, lost))
        if given != 1:
            raise ValueError(f"Tell exactly one of cost, rollout, failed, lost; {given} were given.")
        if lost is not None:
            self.results[index] = None
        elif failed is not None:
            self.results[index] = Episode.of_cost(math.nan, failed)
        elif cost is not None:
            if space == "action":
                raise ValueError(
                    "A likelihood-ratio method learns from every stage: tell rollout=(observations, actions, costs)."
                )
            self.results[index] = Episode.of_cost(float(cost))
        else:
            self.results[index] = _recorded(rollout, specification)

    def gathered(self, specification: Specification) -> HostRollouts:
        """Everything told, in the order of the trials."""
        ordered = [self.results[index] for index in range(len(self.jobs))]
        return gather(ordered, [], specification.observation_size)


def _recorded(rollout: Any, specification: Specification) -> Episode:
    """A told rollout, checked, with discounted costs."""
    observations, actions, costs = (np.asarray(part) for part in rollout)
    length, p, action = len(costs), specification.observation_size, specification.action
    shape = (length,) if isinstance(action, Discrete) else (length, getattr(action, "size", 0))
    if costs.ndim != 1 or not 1 <= length <= specification.horizon:
        raise ValueError(
            f"A rollout's costs have shape {costs.shape}; between 1 and {specification.horizon} stages are allowed."
        )
    if observations.shape != (length, p) or actions.shape != shape:
        raise ValueError(
            f"A rollout of {length} stages came with observations {observations.shape} and actions {actions.shape}; "
            f"({length}, {p}) and {shape} are needed, with the actions as sampled, before clipping."
        )
    if not np.all(np.isfinite(observations)) or not np.all(np.isfinite(actions)):
        raise ValueError("A rollout has observations or actions that are not finite; tell failed='…' instead.")
    paid = np.asarray(costs, float) * specification.discount ** np.arange(length)
    total, mean = float(paid.sum()), observations.mean(axis=0)
    outcome = OK if math.isfinite(total) else FAILED
    return Episode(
        total=total,
        returns=-float(np.sum(costs)),
        length=length,
        outcome=outcome,
        reason="" if outcome == OK else "costs that are not finite",
        terminated=False,
        mean=mean,
        m2=((observations - mean) ** 2).sum(axis=0),
        record=(observations, actions, paid),
    )
