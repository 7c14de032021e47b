"""`Loop`: all that a search remembers, how an update is counted, and what is left of its budget.

What runs the trials is not known here: see `Search`, and `Rig` for those of a caller.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import jax
import msgspec
import numpy as np

from policysearch.core.identity import described
from policysearch.core.initial import start as starting_point
from policysearch.core.method import Method, State
from policysearch.core.policies import Policy
from policysearch.core.settings import Budget, PolicySettings
from policysearch.core.specification import Specification
from policysearch.methods import table
from policysearch.methods.rule import default_budget, default_method
from policysearch.methods.settings import ARS, METHODS, MethodSettings, method_settings
from policysearch.methods.start import policy_of, problem, stochastic
from policysearch.runs import snapshots
from policysearch.search import advice
from policysearch.search.evaluation import Evaluation, fit
from policysearch.search.incumbent import Measuring
from policysearch.search.result import Record, Result
from policysearch.tasks import resolve
from policysearch.workers.jobs import Event

#: updates in a row without a usable trial after which a search gives up
HOPELESS = 10


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Loop")


def alone(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A method that waits until no other thread is in one of these."""

    @functools.wraps(method)
    def called(self: S, *arguments: P.args, **options: P.kwargs) -> R:
        with self.lock:
            return method(self, *arguments, **options)

    return called


class Loop:
    """State, counts and records of a search; for the arguments see `Search`.

    Everything that steers the next update is in `continuation`, together with the records.
    """

    def __init__(
        self,
        task: Any,
        method: str | MethodSettings | Method | None = None,
        *,
        policy: Policy | PolicySettings | str | None = None,
        budget: Budget | str | int | None = None,
        seed: int = 0,
        initial: Any = None,
        failure_cost: float | None = None,
        largest_step: float | dict[str, float] | None = None,
        measuring: Measuring | None = None,
    ):
        if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or not 0 <= seed < 2**32:
            raise ValueError(f"seed is {seed!r}; it must be a whole number from 0 to {2**32 - 1}.")
        plant: Any = task if isinstance(task, Specification) else resolve(task)
        self.specification: Specification = getattr(plant, "specification", plant)
        self.seed = int(seed)
        self.given = given = self._given(method, policy)
        self.method_name = given.label() if isinstance(given, MethodSettings) else "composed"
        if getattr(plant, "survival_bonus", 0.0) is None:
            plant = plant.with_survival_bonus(plant.declared_bonus if isinstance(given, ARS) else 0.0)
        self.task: Any = plant
        start = policy_of(plant, policy, given, self.seed)
        if initial is not None:
            start = starting_point(start, initial)
        if isinstance(policy, Policy) or initial is not None:
            fit(self.specification, start.controller())  # what the rule makes fits
        # so that each controller of this search, in memory or in a file, knows its limits, names and time step
        start = start.with_interface(self.specification.interface)
        seen = problem(self.specification, start, given.space)
        if isinstance(given, Method):
            self.method, used = given, _numbers(given)
        else:
            resolved = given.resolved(seen)
            self.method, used = table.build(resolved, seen), msgspec.structs.asdict(resolved)
        #: the settings used, by name: nothing is left open except what another setting displaces
        self.settings: dict[str, Any] = {**used, "parameters": seen.d}
        if failure_cost is not None:
            if not math.isfinite(failure_cost):
                raise ValueError(f"failure_cost is {failure_cost}; it must be finite.")
            self.method = dataclasses.replace(self.method, failure_cost=failure_cost)
        if largest_step is not None:
            self.method = dataclasses.replace(self.method, largest_step=start.step_units(largest_step))
        if hasattr(self.task, "survival_bonus"):
            self.settings["survival_bonus"] = self.task.survival_bonus
        self.state: State = self.method.init(start, self.specification.draws)
        self.layout = self.method.layout(start)
        self.budget = self._budget(budget)
        self.counts = {"gradient": 0, "reference": 0, "evaluation": 0, "failed": 0, "lost": 0}
        self.rollouts = self.stages = self.updates = 0
        self.records: list[Record] = []
        #: mean stages of the last update's rollouts, if they decide how many the next update has
        self.length: float | None = None
        self.reason = ""
        self.skipped = 0
        self.failure_cost, self.largest_step, self.measuring = failure_cost, largest_step, measuring
        self.lock = threading.RLock()
        self._started: float | None = None
        self._events: list[Event] = []
        advice.about_differences(self)

    def _given(self, method: str | MethodSettings | Method | None, policy: Any) -> MethodSettings | Method:
        if method is None:
            method = default_method(self.specification, stochastic(policy))
        if isinstance(method, str):
            return method_settings(method, {})
        if not isinstance(method, (MethodSettings, Method)):
            raise TypeError(
                f"method is a {type(method).__name__}; give a name ({', '.join(METHODS)}), its settings, or a Method."
            )
        return method

    def _budget(self, budget: Budget | str | int | None) -> Budget:
        chosen = Budget.parse(budget) if budget is not None else default_budget(self.specification, self.layout.size)
        if chosen.unit == "rollouts" and chosen.amount < self.layout.size:
            raise ValueError(
                f"A budget of {chosen.amount} rollouts is less than one update of {self.layout.size}; "
                "raise the budget or use fewer rollouts per update."
            )
        return chosen

    @property
    def share(self) -> float:
        """Share of the budget that is spent, 0 to 1."""
        spent = {"rollouts": self.rollouts, "stages": self.stages, "updates": self.updates}[self.budget.unit]
        return min(1.0, spent / self.budget.amount)

    @property
    def done(self) -> bool:
        """Whether another update would exceed the budget, or the search was stopped."""
        if self.reason:
            return True
        if self.budget.unit == "rollouts":
            measuring = 0 if self.measuring is None else self.measuring.size(self.updates)
            return self.rollouts + self.layout.size + measuring > self.budget.amount
        return self.share >= 1.0

    @property
    def policy(self) -> Policy:
        """The current iterate."""
        return self.state.policy

    @property
    def events(self) -> list[Event]:
        """What has gone wrong so far, in order."""
        return list(self._events)

    def note(self, event: Event) -> None:
        """Add to the events."""
        self._events = [*self.events, event]

    def resize(self, length: float) -> None:
        """Fit the next update to rollouts of mean length `length`, in stages."""
        self.length = length
        self.method = self.method.sized(length)
        self.layout = self.method.layout(self.policy)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End what runs for this search."""

    def stop(self, reason: str = "stopped") -> None:
        """End after the current update."""
        self.reason = self.reason or reason

    @property
    def elapsed(self) -> float:
        """Seconds since the first trial, without those between processes."""
        return 0.0 if self._started is None else time.perf_counter() - self._started

    def start_clock(self, ago: float = 0.0) -> None:
        """Count the seconds from now on, unless they are counted already."""
        if self._started is None:
            self._started = time.perf_counter() - ago

    def continuation(self) -> tuple[dict[str, Any], bytes]:
        """Counts and state between two updates: with the records, all that it takes to go on; see `restore`."""
        counts = {
            "counts": dict(self.counts),
            "rollouts": self.rollouts,
            "stages": self.stages,
            "updates": self.updates,
            "skipped": self.skipped,
            "length": self.length,
            "seconds": self.elapsed,
            "measuring": None if self.measuring is None else self.measuring.plain(),
        }
        return counts, snapshots.encode(self.state)

    def restore(self, state: State, counts: dict[str, Any], records: list[Record]) -> None:
        """Take over where another process ended: state, counts (see `continuation`) and records."""
        self.state, self.records = state, records
        self.counts.update(counts["counts"])
        self.rollouts, self.stages, self.updates = counts["rollouts"], counts["stages"], counts["updates"]
        # a search continued after hopeless updates has been repaired
        self.skipped = counts["skipped"] % HOPELESS
        if counts["length"] is not None:
            self.resize(counts["length"])
        self.start_clock(counts["seconds"])

    def concluded(self, evaluation: Evaluation | None = None) -> Result:
        """The last iterate and all that is known of it."""
        return Result(
            task=self.specification.name,
            method=self.method_name,
            seed=self.seed,
            budget=str(self.budget),
            policy=self.policy,
            evaluation=evaluation,
            records=self.records,
            counts=dict(self.counts),
            reason=self.reason or "budget spent",
            specification=self.specification,
            seconds=self.elapsed,
        )

    def finish(self, state: State, info: dict[str, Any], stages: int, seconds: float, measured: int = 0) -> Record:
        """Move to the next state; see `account`."""
        self.state = state
        numbers = {name: float(value) for name, value in jax.device_get(info).items()}
        return self.account(numbers, stages, seconds, measured=measured)

    def account(
        self, numbers: dict[str, float], stages: int, seconds: float, *, rollouts: int | None = None, measured: int = 0
    ) -> Record:
        """Count an update of `stages` stages in `seconds`, and keep its report; returns its record.

        For code that makes the updates of a search itself, such as `train_seeds`.

        Args:
            numbers: by name.
            stages, seconds: that it took.
            rollouts: for its gradient; all of an update by default.
            measured: additional rollouts of the policy itself.
        """
        self.start_clock(seconds)
        self.updates += 1
        whole = rollouts is None
        size = self.layout.size if rollouts is None else rollouts
        references = int(self.layout.reference.sum()) if whole and self.method.space == "parameter" else 0
        self.counts["reference"] += references
        self.counts["gradient"] += size - references
        self.counts["evaluation"] += measured
        self.counts["failed"] += int(numbers["failed"])
        self.counts["lost"] += int(numbers["lost"])
        self.rollouts += size + measured
        self.stages += stages
        record = {
            "update": float(self.updates),
            "rollouts": float(self.rollouts),
            "stages": float(self.stages),
            "seconds": self.elapsed,
            "share": self.share,
            "stages_per_second": stages / seconds if seconds > 0 else math.nan,
            **numbers,
        }
        self.records.append(record)
        advice.about_noise(self)
        advice.about_direction(self, numbers)
        self.skipped = self.skipped + 1 if numbers["skipped"] else 0
        if self.skipped >= HOPELESS:
            self.stop(
                f"{HOPELESS} updates in a row had no usable trial "
                f"({int(numbers['failed'])} failed and {int(numbers['lost'])} lost of the last {self.layout.size})"
                + (f"; the last one: {self.events[-1].reason}" if self.events else "")
            )
        return record


def _numbers(method: Method) -> dict[str, Any]:
    """Names and numbers of a composed method, by place."""
    return {place: entry for place, entry in described(method).items() if isinstance(entry, (bool, int, float, str))}
