"""`Search` runs a method on a simulated task until its budget is spent; for trials that you run, see `Rig`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policysearch.core.method import Method
from policysearch.core.policies import Policy
from policysearch.core.settings import Budget, PolicySettings
from policysearch.core.specification import Specification
from policysearch.methods.settings import MethodSettings
from policysearch.runners import Resources, Runner, runner
from policysearch.search import resume
from policysearch.search.evaluation import Evaluation, evaluate
from policysearch.search.loop import Loop, alone
from policysearch.search.result import Record, Result
from policysearch.workers.jobs import Event

if TYPE_CHECKING:
    from policysearch.runs.journal import Journal


class Search(Loop):
    """A policy search that continues until its budget is spent or it is stopped.

    Any thread may use it: calls that change it take turns.

    Args:
        task: a task object, a built-in name, a Gymnasium id, `module:attr`, `file.py:attr` or a Python cost g(θ).
        method: a name, settings such as `GPOMDP(rollouts=32)`, or a `Method` composed by hand; None for the rule's.
        policy: a `Policy`, "linear", "network", or `PolicySettings`; None for the task's recommendation.
        budget: rollouts, or "2e6stages", "50updates"; None for the rule's choice.
        seed: of everything random.
        initial: known parameters to start from: a file, a folder of a run, or a dict (see `initial.start`).
        workers: processes for Gymnasium tasks; the cores by default. Of each node, if there is a cluster.
        cluster: of a running Ray cluster that runs the trials of a Gymnasium task: its address, "HOST:PORT", or "auto"
            for the one that this machine is in. The results are those of local workers. None for local workers.
        failure_cost: cost of a trial that fails because of the policy; None for the worst finite cost of its update.
        timeout: seconds that a trial of a Gymnasium task may take; the larger of 60 s and 20 times the slowest good
            trial by default.
        programs: folder where the traced update of a JAX task is kept for later processes, which then start faster;
            None to trace it each time.
        folder: where the search is kept on disk, as `policysearch train` does; `Search.open` continues from there. It
            must not hold a run yet. None keeps nothing.

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
        cluster: str | None = None,
    ):
        self.resources = Resources(workers, timeout, programs, cluster)
        if timeout is not None and not 0 < timeout < math.inf:
            raise ValueError(f"timeout is {timeout}; it must be a number of seconds above 0.")
        # code of the task may change the directory
        place, directory = None if folder is None else Path(folder).absolute(), Path.cwd()
        if isinstance(task, Specification):
            raise ValueError(f"{task.name} is a bare specification, whose trials you run yourself: use Rig instead.")
        super().__init__(
            task, method, policy=policy, budget=budget, seed=seed, initial=initial, failure_cost=failure_cost
        )
        self._broken = False
        self._runner: Runner | None = None
        self._drained = 0
        #: of the folder, if there is one
        self.journal: Journal | None = None
        if place is not None:
            self.keep(place, resume.of_simulation(self, self.resources, task) | {"directory": str(directory)})

    @classmethod
    def open(
        cls,
        folder: str | Path,
        task: Any = None,
        *,
        method: Method | None = None,
        budget: str | int | None = None,
        workers: int | None = None,
        programs: Path | None = None,
        cluster: str | None = None,
    ) -> Search:
        """Continue a search that is kept in a folder, exactly where it ended or was killed.

        Args:
            folder: as given to `Search`, or written by `policysearch train`.
            task: the same task again, unless it is a name; no code is read from the folder.
            method: the same `Method` again, if it was composed by hand.
            budget: a new one from now on.
            workers, programs: see `Search`; as before by default.
            cluster: see `Search`; local workers by default, wherever the search ran before.

        Raises:
            FileNotFoundError: there is no run.
            RuntimeError: another process owns the run; the message names it.
            ValueError: the run is damaged, of a rig, or was started with another task or method.
        """
        search, journal = resume.continued(cls, Path(folder), task, method, budget, workers, cluster, programs)
        search.journal = journal
        return search

    def keep(self, folder: Path, configuration: dict[str, Any]) -> None:
        """Keep everything that happens from now on in a new folder; see `resume.of_simulation`."""
        self.journal = resume.begin(self, folder, configuration)

    @property
    @alone
    def events(self) -> list[Event]:
        """What has gone wrong so far with trials and with directions, in order."""
        new = [] if self._runner is None else self._runner.events[self._drained :]
        self._drained += len(new)
        self._events += new
        return list(self._events)

    def run(self, on_update: Callable[[Record], None] | None = None) -> None:
        """Update until the budget is spent, `stop` is called, or trial after trial is lost (`reason` says why).

        Args:
            on_update: called with the record of each update.
        """
        try:
            while not self.done:
                record = self.update()
                if on_update is not None:
                    on_update(record)
        except RuntimeError as error:
            if not hasattr(error, "events"):
                raise
            # what was found so far is worth more than the traceback
            self._broken = True
            self.stop(str(error))
        finally:
            if self.journal is not None:
                self.journal.add_events(self.updates + 1, self.events)

    @alone
    def update(self) -> Record:
        """One update on the task's own runner; returns its record."""
        if self._runner is None:
            self._runner = runner(self.task, self.seed, self.resources)
        self.start_clock()
        before = time.perf_counter()
        state, info, stages = self._runner.update(self.method, self.state, self.layout.size)
        record = self.finish(state, info, stages, time.perf_counter() - before)
        if self.specification.ends_early:
            self.resize(stages / self.layout.size)
        if self.journal is not None:
            self.journal.add(record, self.continuation)
            self.journal.add_events(self.updates, self.events)
        return record

    @alone
    def evaluate(self, rollouts: int | None = None, seed: int | None = None) -> Evaluation:
        """The current iterate on fresh seeds, derived from the search's seed unless another is given."""
        running = self.resources.workers if self._runner is None else self._runner
        controller = self.policy.controller()
        seed = self.seed if seed is None else seed
        evaluation = evaluate(self.task, controller, rollouts, seed, running, self.resources.cluster)
        self.counts["evaluation"] += evaluation.rollouts
        return evaluation

    def result(self, rollouts: int | None = None) -> Result:
        """The last iterate, evaluated on seeds that training never sees.

        Args:
            rollouts: of the evaluation; see `evaluation.default_rollouts`.
        """
        result = self.concluded(None if self._broken else self.evaluate(rollouts))
        if self.journal is not None and self.updates and result.evaluation is not None:
            self.journal.save(self.policy.controller())
            self.journal.finish({**result.summary(), "folder": str(self.journal.folder)})
        return result

    @alone
    def close(self) -> None:
        """End worker processes and the ownership of a folder."""
        if self._runner is not None:
            self._events = self.events
            self._runner.close()
            self._runner, self._drained = None, 0
        if self.journal is not None:
            if self.updates:
                self.journal.save(self.policy.controller())
            self.journal.close()
            self.journal = None
