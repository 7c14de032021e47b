"""`Search` runs a method on a task until its budget is spent, or takes the trials that a rig ran.

A search is the one mutable object: seed, counts, state. Everything it computes is a function of (seed, update, trial).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

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
from policysearch.methods.start import policy_of, problem
from policysearch.runners import sampler
from policysearch.runs import snapshots
from policysearch.search import advice
from policysearch.search.evaluation import Evaluation, evaluate, fit
from policysearch.search.incumbent import Measured, Measuring
from policysearch.search.result import Record, Result
from policysearch.tasks import resolve

if TYPE_CHECKING:
    from policysearch.core.controller import Controller
    from policysearch.runs.journal import Journal
    from policysearch.search.trials import Trial, Trials, Veto
    from policysearch.workers.jobs import Event

#: updates in a row without a usable trial after which a search gives up
HOPELESS = 10


P = ParamSpec("P")
R = TypeVar("R")


def _alone(method: Callable[Concatenate[Search, P], R]) -> Callable[Concatenate[Search, P], R]:
    """A method that waits until no other thread is in one of these."""

    @functools.wraps(method)
    def called(self: Search, *arguments: P.args, **options: P.kwargs) -> R:
        with self._lock:
            return method(self, *arguments, **options)

    return called


class Search:
    """A policy search that goes on until its budget is spent or it is stopped.

    Any thread may use it (a callback of a GUI, of ROS, of a web server): calls that change it take turns.

    Args:
        task: a task object, a built-in name, a Gymnasium id, `module:attr`, `file.py:attr`, a Python cost g(θ), or a
            bare `Specification` for trials that the caller runs through `ask` and `tell`.
        method: a name, settings such as `GPOMDP(rollouts=32)`, or a `Method` composed by hand; None for the rule's.
        policy: a `Policy`, "linear", "network", or `PolicySettings`; None for what the task recommends.
        budget: rollouts, or "2e6stages", "50updates"; None for the rule's choice.
        seed: of everything random.
        initial: known parameters to start from: a file, a folder of a run, or a dict (see `initial.start`).
        workers: processes for Gymnasium tasks; the cores by default.
        failure_cost: what a trial costs that the policy made fail; None for the worst finite cost of its update.
        deadline: seconds that a trial of a Gymnasium task may take; the larger of 60 s and 20 times the slowest good
            trial by default.
        programs: folder where the traced update of a JAX task is kept for later processes, which then start faster;
            None to trace it anew.
        folder: where every trial that you ask and tell is kept on disk, for a bare `Specification`; `Search.open`
            goes on from there. It must not hold a run yet. None keeps nothing.
        largest_step: of an update, in the policy's own units: a number for all of θ, or {name: amount} of named
            numbers (of one on a logarithmic scale: the largest factor). A longer step is shortened as a whole.
        measure: (every, trials): every so many updates so many trials of the policy itself and as many of the best one
            so far, for a bare `Specification`. They count in the budget and in no gradient; see `incumbent`.
        veto: asked about each trial before it is handed out: why it must not run, or None. It then counts as failed
            without having run; where actions are sampled all trials of an update run one policy, and the search waits.

    Raises:
        ValueError: names, settings or sizes that do not fit; the sentence says what is allowed.
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
        workers: int | None = None,
        failure_cost: float | None = None,
        deadline: float | None = None,
        programs: Path | None = None,
        folder: str | Path | None = None,
        largest_step: float | dict[str, float] | None = None,
        measure: tuple[int, int] | None = None,
        veto: Veto | None = None,
    ):
        self._lock = threading.RLock()
        if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or not 0 <= seed < 2**32:
            raise ValueError(f"seed is {seed!r}; it must be a whole number from 0 to {2**32 - 1}.")
        plant: Any = task if isinstance(task, Specification) else resolve(task)
        self.specification: Specification = getattr(plant, "specification", plant)
        self.seed = int(seed)
        self.given = given = self._given(method)
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
        #: what the search uses, by name: nothing is left open in it but what another setting displaces
        self.settings: dict[str, Any] = {"parameters": seen.d, **used}
        if failure_cost is not None:
            if not math.isfinite(failure_cost):
                raise ValueError(f"failure_cost is {failure_cost}; it must be finite.")
            self.method = dataclasses.replace(self.method, failure_cost=failure_cost)
        if largest_step is not None:
            self.method = dataclasses.replace(self.method, largest_step=start.step_units(largest_step))
        if self.specification.reward:
            self.settings["survival_bonus"] = self.task.survival_bonus
        self.state: State = self.method.init(start, self.specification.draws)
        self.layout = self.method.layout(start)
        self.budget = self._budget(budget)
        self.counts = {"gradient": 0, "reference": 0, "evaluation": 0, "failed": 0, "lost": 0}
        self.rollouts = self.stages = self.updates = 0
        self.records: list[Record] = []
        #: mean stages of the last update's rollouts, where they decide how many the next update has
        self.length: float | None = None
        self.reason = ""
        self.skipped = 0
        self.failure_cost, self.largest_step, self.veto = failure_cost, largest_step, veto
        self.measuring = None if measure is None else Measuring(*measure)
        self._started: float | None = None
        self._workers, self._deadline = workers, deadline
        self._broken = False
        if deadline is not None and not 0 < deadline < math.inf:
            raise ValueError(f"deadline is {deadline}; it is a number of seconds above 0.")
        self._programs = programs
        self._sampler: Any = None
        self._events: list[Event] = []
        self._drained = 0
        self._trials: Trials | None = None
        self._journal: Journal | None = None
        advice.about_differences(self)
        if self.measuring is not None and not isinstance(plant, Specification):
            raise ValueError(f"measure= is for trials that you run yourself; for {task} see evaluate.")
        if folder is not None:
            from policysearch.search import resume

            self._journal = resume.begin(self, Path(folder))

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        method: Method | None = None,
        budget: str | int | None = None,
        veto: Veto | None = None,
        wait: float | None = None,
    ) -> Search:
        """Go on with a search that keeps its trials in a folder, exactly where it ended or was killed.

        The parameters are the same to the bit, the trials of the open update are the same, and what was told of them
        counts. Trials that were asked without a `client` and never told are handed out first.

        Args:
            folder: as given to `Search`.
            method: the same `Method` again, if it was composed by hand; no code is read from the folder.
            budget: another one from now on.
            veto: the same again, if there was one.
            wait: seconds to wait for another owner, for a short program, which itself ends soon; None not to wait.

        Raises:
            FileNotFoundError: there is no run.
            RuntimeError: another process owns the run; it is named.
            ValueError: the run is damaged, of a simulated task, or was started with another method.
        """
        from policysearch.search import resume

        search, journal, run = resume.reopened(cls, Path(folder), method, budget, wait)
        search._journal, search.veto = journal, veto
        try:
            search._desk.restore(run.trials, run.arrays, run.halted)
        except BaseException:
            search.close()
            raise
        return search

    def _given(self, method: str | MethodSettings | Method | None) -> MethodSettings | Method:
        if method is None:
            method = default_method(self.specification)
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
                "raise the budget or ask for fewer rollouts an update."
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
    @_alone
    def events(self) -> list[Event]:
        """What went wrong so far with trials on worker processes and with directions, as it happened."""
        new = getattr(self._sampler, "events", [])[self._drained :]
        self._drained += len(new)
        self._events += new
        return list(self._events)

    @_alone
    def note(self, event: Event) -> None:
        """Add to the events."""
        self._events = [*self.events, event]

    def run(self, on_update: Callable[[Record], None] | None = None) -> None:
        """Update until the budget is spent, `stop` is called, or trial after trial is lost (`reason` says why).

        Args:
            on_update: called with the record of each update.
        """
        while not self.done:
            try:
                record = self.update()
            except RuntimeError as error:
                if not hasattr(error, "events"):
                    raise
                # what was found so far is worth more than the traceback
                self._broken = True
                self.stop(str(error))
                return
            if on_update is not None:
                on_update(record)

    @_alone
    def update(self) -> Record:
        """One update on the task's own sampler; returns its record."""
        if self._sampler is None:
            self._sampler = sampler(self.task, self.seed, self._workers, self._deadline, self._programs)
        self._start_clock()
        before = time.perf_counter()
        state, info, stages = self._sampler.update(self.method, self.state, self.layout.size)
        record = self.finish(state, info, stages, time.perf_counter() - before)
        if self.specification.reward:  # only simulators end rollouts before the horizon
            self._resize(stages / self.layout.size)
        return record

    def _resize(self, length: float) -> None:
        """Fit the next update to rollouts of `length` stages in the mean."""
        self.length = length
        self.method = self.method.sized(length)
        self.layout = self.method.layout(self.policy)

    def stop(self, reason: str = "stopped") -> None:
        """End after the current update."""
        self.reason = self.reason or reason

    @_alone
    def evaluate(self, rollouts: int | None = None, seed: int | None = None) -> Evaluation:
        """The current iterate on fresh seeds, those of the search's own unless another seed is given."""
        pool, controller = getattr(self._sampler, "workers", self._workers), self.policy.controller()
        evaluation = evaluate(self.task, controller, rollouts, self.seed if seed is None else seed, pool)
        self.counts["evaluation"] += evaluation.rollouts
        return evaluation

    def result(self, rollouts: int | None = None) -> Result:
        """The last iterate, evaluated on seeds that training never sees.

        Args:
            rollouts: of the evaluation; see `evaluation.default_rollouts`.
        """
        unknown = isinstance(self.task, Specification) or self._broken
        return Result(
            policy=self.policy,
            evaluation=None if unknown else self.evaluate(rollouts),
            records=self.records,
            counts=dict(self.counts),
            reason=self.reason or "budget spent",
            specification=self.specification,
            seconds=self.elapsed,
        )

    @_alone
    def close(self) -> None:
        """End worker processes and the ownership of a folder."""
        if self._journal is not None:
            self._journal.close()
        if self._sampler is not None:
            self._events = self.events
            self._sampler.close()
            self._sampler, self._drained = None, 0

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    @_alone
    def pending(self) -> list[Trial]:
        """Trials that were asked and not told yet."""
        return self._desk.pending

    @_alone
    def ask(self, client: str = "") -> Trial:
        """The next trial that nobody was asked yet; with a folder it is on disk first.

        Args:
            client: who will run it. One that has not told its trial gets the same one again; "" gets a new one, but
                after `open` first those that were never told.

        Raises:
            RuntimeError: every trial of this update is out; tell their results first.
        """
        self._start_clock()
        return self._desk.ask(client)

    @_alone
    def tell(
        self,
        trial: Trial | int,
        *,
        cost: float | None = None,
        rollout: tuple[Any, Any, Any] | None = None,
        terminated: bool | None = None,
        failed: str | None = None,
        safety_stop: str | None = None,
        lost: str | None = None,
        abandoned: str | None = None,
        timed_out: str | None = None,
        retry: bool = False,
        notes: str = "",
    ) -> Record | None:
        """Report one trial; the last one of an update makes the update. With a folder the disk has it first.

        Args:
            trial: what `ask` gave, or its number.
            cost: total cost; not finite means that the policy made the trial fail.
            rollout: (observations (L, p) or (L + 1, p), sampled actions (L, m) or (L,), stage costs (L,)), L up to the
                horizon.
            terminated: True where the task ended the rollout by itself (a fall, a goal), so that nothing follows; False
                where it was cut. Needed of a rollout shorter than the horizon by methods that predict what follows.
            failed: why it failed because of the policy (a divergence, say).
            safety_stop: why the machine had to be stopped: counts as failed, and no trial is handed out until somebody
                has looked and calls `release`.
            lost: why the rig failed; the trial is left out, with its partner.
            abandoned: why a person gave it up; counts as lost.
            timed_out: after what time it was given up; counts as lost.
            retry: ask the same trial again later, as another attempt, instead of leaving it out.
            notes: for readers of the record.

        Returns:
            The record of the update if this was its last trial, else None. The same result told again changes
            nothing.

        Raises:
            ValueError: a trial that is not open, another result of one that was told, or a result of the wrong shape;
                nothing is lost by it.
            OSError: the disk does not take it; tell it again.
        """
        given = {
            "cost": cost,
            "rollout": rollout,
            "failed": failed,
            "safety_stop": safety_stop,
            "lost": lost,
            "abandoned": abandoned,
            "timed_out": timed_out,
        }
        return self._desk.tell(trial, given, retry, notes, terminated)

    @property
    @_alone
    def halted(self) -> str:
        """Why no trial is handed out; "" while they are."""
        return self._desk.halted

    @_alone
    def halt(self, reason: str) -> None:
        """Hand out no trial until `release`, in this process or another."""
        if not reason:
            raise ValueError("A search is halted for a reason; give one.")
        self._desk.halt(reason)

    @_alone
    def release(self, by: str = "") -> None:
        """Hand out trials again after a safety stop or `halt`.

        Args:
            by: who has looked at the machine; kept with the run.
        """
        self._desk.release(by)

    @property
    def incumbent(self) -> Measured | None:
        """The policy with the least measured cost so far, measured again each time; None without `measure`."""
        return None if self.measuring is None else self.measuring.incumbent

    @_alone
    def go_back(self, controller: Controller | None = None, reason: str = "went back") -> Record:
        """Give up the open update and go on from another policy; the learning rate's memory of steps starts anew.

        Args:
            controller: to go on from, of the same kind and sizes; None for the incumbent.
            reason: kept with the trials that were asked and not told; they count as abandoned.

        Returns:
            The record of the update that was given up; `skipped` is 1.

        Raises:
            ValueError: no incumbent was measured, or a policy of another kind.
        """
        if controller is None:
            if self.incumbent is None:
                raise ValueError("No policy was measured yet: give one, or search with measure=(every, trials).")
            controller = self.incumbent.controller
        return self._desk.go_back(controller, reason)

    @property
    def _desk(self) -> Trials:
        from policysearch.search.trials import Trials

        if self._trials is None:
            self._trials = Trials(self, self._journal)
        return self._trials

    @property
    def elapsed(self) -> float:
        """Seconds since the first trial, without those between processes."""
        return 0.0 if self._started is None else time.perf_counter() - self._started

    def _start_clock(self, ago: float = 0.0) -> None:
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
        # who goes on after hopeless updates has mended something
        self.skipped = counts["skipped"] % HOPELESS
        if counts["length"] is not None:
            self._resize(counts["length"])
        self._start_clock(counts["seconds"])

    def finish(self, state: State, info: dict[str, Any], stages: int, seconds: float, measured: int = 0) -> Record:
        """Move to the next state; see `account`."""
        self.state = state
        numbers = {name: float(value) for name, value in jax.device_get(info).items()}
        return self.account(numbers, stages, seconds, measured=measured)

    def account(
        self, numbers: dict[str, float], stages: int, seconds: float, *, rollouts: int | None = None, measured: int = 0
    ) -> Record:
        """Count an update of `stages` stages in `seconds`, and keep what it reported; returns its record.

        For those who make the updates of a search themselves, as `train_seeds` does.

        Args:
            numbers: by name.
            stages, seconds: that it took.
            rollouts: for its gradient; all of an update by default.
            measured: rollouts of the policy itself beside them.
        """
        self._start_clock(seconds)
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
