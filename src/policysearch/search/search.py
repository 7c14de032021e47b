"""`Search` runs a method on a task until its budget is spent, or takes trials run on a rig.

A search is the one mutable object: seed, counts, state. Everything it computes is a function of (seed, update, trial).
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from policysearch.core.method import Method
from policysearch.core.policies import Policy
from policysearch.core.settings import Budget, PolicySettings
from policysearch.core.specification import Specification
from policysearch.methods.settings import MethodSettings
from policysearch.runners import sampler
from policysearch.search import resume
from policysearch.search.evaluation import Evaluation, evaluate
from policysearch.search.loop import Loop
from policysearch.search.result import Record, Result
from policysearch.search.trials import Trial, Trials, Veto
from policysearch.workers.jobs import Event

if TYPE_CHECKING:
    from policysearch.core.controller import Controller
    from policysearch.runs.journal import Journal

P = ParamSpec("P")
R = TypeVar("R")


def _alone(method: Callable[Concatenate[Search, P], R]) -> Callable[Concatenate[Search, P], R]:
    """A method that waits until no other thread is in one of these."""

    @functools.wraps(method)
    def called(self: Search, *arguments: P.args, **options: P.kwargs) -> R:
        with self._lock:
            return method(self, *arguments, **options)

    return called


class Search(Loop):
    """A policy search that continues until its budget is spent or it is stopped.

    Any thread may use it (a callback of a GUI, of ROS, of a web server): calls that change it take turns.

    Args:
        task: a task object, a built-in name, a Gymnasium id, `module:attr`, `file.py:attr`, a Python cost g(θ), or a
            bare `Specification` for trials that the caller runs through `ask` and `tell`.
        method: a name, settings such as `GPOMDP(rollouts=32)`, or a `Method` composed by hand; None for the rule's.
        policy: a `Policy`, "linear", "network", or `PolicySettings`; None for the task's recommendation.
        budget: rollouts, or "2e6stages", "50updates"; None for the rule's choice.
        seed: of everything random.
        initial: known parameters to start from: a file, a folder of a run, or a dict (see `initial.start`).
        workers: processes for Gymnasium tasks; the cores by default.
        failure_cost: cost of a trial that fails because of the policy; None for the worst finite cost of its update.
        timeout: seconds that a trial of a Gymnasium task may take; the larger of 60 s and 20 times the slowest good
            trial by default.
        programs: folder where the traced update of a JAX task is kept for later processes, which then start faster;
            None to trace it each time.
        folder: where every trial that you ask and tell is kept on disk, for a bare `Specification`; `Search.open`
            continues from there. It must not hold a run yet. None keeps nothing.
        largest_step: of an update, in the policy's own units: a number for all of θ, or {name: amount} of named
            numbers (of one on a logarithmic scale: the largest factor). A longer step is shortened as a whole.
        measure: (every, trials): every `every` updates, `trials` trials of the policy itself and as many of the best
            so far, for a bare `Specification`. They count towards the budget but in no gradient; see `incumbent`.
        veto: called for each trial before it is handed out: why it must not run, or None. If vetoed it counts as failed
            without having run; if actions are sampled, all trials of an update run one policy, and the search waits.

    Raises:
        ValueError: names, settings or sizes that do not fit; the message says what is allowed.
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
        timeout: float | None = None,
        programs: Path | None = None,
        folder: str | Path | None = None,
        largest_step: float | dict[str, float] | None = None,
        measure: tuple[int, int] | None = None,
        veto: Veto | None = None,
    ):
        self._lock = threading.RLock()
        super().__init__(
            task,
            method,
            policy=policy,
            budget=budget,
            seed=seed,
            initial=initial,
            failure_cost=failure_cost,
            largest_step=largest_step,
            measure=measure,
        )
        self.veto = veto
        self._workers, self._timeout = workers, timeout
        self._broken = False
        if timeout is not None and not 0 < timeout < math.inf:
            raise ValueError(f"timeout is {timeout}; it must be a number of seconds above 0.")
        self._programs = programs
        self._sampler: Any = None
        self._drained = 0
        self._trials: Trials | None = None
        self._journal: Journal | None = None
        if folder is not None:
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
        """Continue a search that keeps its trials in a folder, exactly where it ended or was killed.

        The parameters are the same to the bit, the trials of the open update are the same, and results told for them
        count. Trials that were asked without a `client` and never told are handed out first.

        Args:
            folder: as given to `Search`.
            method: the same `Method` again, if it was composed by hand; no code is read from the folder.
            budget: a new one from now on.
            veto: the same one again, if there was one.
            wait: seconds to wait for another owner, for a short program, which itself ends soon; None not to wait.

        Raises:
            FileNotFoundError: there is no run.
            RuntimeError: another process owns the run; the message names it.
            ValueError: the run is damaged, of a simulated task, or was started with another method.
        """
        search, journal, run = resume.reopened(cls, Path(folder), method, budget, wait)
        search._journal, search.veto = journal, veto
        try:
            search._desk.restore(run.trials, run.arrays, run.halted)
        except BaseException:
            search.close()
            raise
        return search

    @property
    @_alone
    def events(self) -> list[Event]:
        """What has gone wrong so far with trials on worker processes and with directions, in order."""
        new = getattr(self._sampler, "events", [])[self._drained :]
        self._drained += len(new)
        self._events += new
        return list(self._events)

    @_alone
    def note(self, event: Event) -> None:
        """Add to the events."""
        super().note(event)

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
            self._sampler = sampler(self.task, self.seed, self._workers, self._timeout, self._programs)
        self._start_clock()
        before = time.perf_counter()
        state, info, stages = self._sampler.update(self.method, self.state, self.layout.size)
        record = self.finish(state, info, stages, time.perf_counter() - before)
        if self.specification.reward:  # only simulators end rollouts before the horizon
            self._resize(stages / self.layout.size)
        return record

    @_alone
    def evaluate(self, rollouts: int | None = None, seed: int | None = None) -> Evaluation:
        """The current iterate on fresh seeds, derived from the search's seed unless another is given."""
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
        """Trials that were asked but not yet told."""
        return self._desk.pending

    @_alone
    def ask(self, client: str = "") -> Trial:
        """The next trial that has not been handed out; with a folder it is on disk first.

        Args:
            client: its name. A client that has not told its trial gets the same one again; "" gets a new one, but
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
        """Report one trial; the last one of an update makes the update. With a folder it is on disk first.

        Args:
            trial: what `ask` returned, or its number.
            cost: total cost; not finite means that the policy made the trial fail.
            rollout: (observations (L, p) or (L + 1, p), sampled actions (L, m) or (L,), stage costs (L,)), L up to the
                horizon.
            terminated: True if the task ended the rollout by itself (a fall, a goal), so that nothing follows; False
                if it was cut off. Needed for a rollout shorter than the horizon by methods that predict what follows.
            failed: why it failed because of the policy (a divergence, say).
            safety_stop: why the machine had to be stopped: counts as failed, and no trial is handed out until someone
                has checked it and calls `release`.
            lost: why the rig failed; the trial is left out, with its partner.
            abandoned: why it was given up; counts as lost.
            timed_out: after how long it was given up; counts as lost.
            retry: ask the same trial again later, as another attempt, instead of leaving it out.
            notes: for readers of the record.

        Returns:
            The record of the update if this was its last trial, else None. The same result told again changes
            nothing.

        Raises:
            ValueError: a trial that is not open, another result of one that was told, or a result of the wrong shape;
                nothing is lost.
            OSError: the disk does not accept it; tell it again.
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
            by: name of the person who checked the machine; kept with the run.
        """
        self._desk.release(by)

    @_alone
    def go_back(self, controller: Controller | None = None, reason: str = "went back") -> Record:
        """Give up the open update and continue from another policy; the step's memory starts afresh.

        Args:
            controller: to continue from, of the same kind and sizes; None for the incumbent.
            reason: kept with the trials that were asked but not told; they count as abandoned.

        Returns:
            The record of the update that was given up; `skipped` is 1.

        Raises:
            ValueError: no incumbent was measured, or a policy of another kind.
        """
        if controller is None:
            if self.incumbent is None:
                raise ValueError("No policy has been measured yet: give one, or search with measure=(every, trials).")
            controller = self.incumbent.controller
        return self._desk.go_back(controller, reason)

    @property
    def _desk(self) -> Trials:
        if self._trials is None:
            self._trials = Trials(self, self._journal)
        return self._trials
