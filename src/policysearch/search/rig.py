"""`Rig`: a search whose trials a caller runs, one at a time or several, through `ask` and `tell`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from policysearch.core.method import Method
from policysearch.core.policies import Policy
from policysearch.core.settings import Budget, PolicySettings
from policysearch.core.specification import Specification
from policysearch.methods.settings import MethodSettings
from policysearch.search import resume
from policysearch.search.incumbent import Measured, Measuring
from policysearch.search.loop import Loop, alone
from policysearch.search.open_update import Trial
from policysearch.search.result import Record, Result
from policysearch.search.trials import Trials, Veto
from policysearch.workers.jobs import Event

if TYPE_CHECKING:
    from policysearch.core.controller import Controller
    from policysearch.runs.journal import Journal


class Rig(Loop):
    """A policy search on a machine, or on anything else whose trials you run yourself.

    Any thread may use it (a callback of a GUI, of ROS, of a web server): calls that change it take turns.

    Args:
        task: what the search must know of the machine.
        method, policy, budget, seed, initial, failure_cost: see `Search`.
        folder: where every trial that is asked and told is kept on disk; `Rig.open` continues from there. It must not
            hold a run yet. None keeps nothing.
        largest_step: of an update, in the policy's own units: a number for all of θ, or {name: amount} of named
            numbers (of one on a logarithmic scale: the largest factor). A longer step is shortened as a whole.
        measure: (every, trials): every `every` updates, `trials` trials of the policy itself and as many of the best
            so far. They count towards the budget but in no gradient; see `incumbent`.
        veto: called for each trial before it is handed out: why it must not run, or None. If vetoed it counts as failed
            without having run; if actions are sampled, all trials of an update run one policy, and the search waits.

    Raises:
        ValueError: names, settings or sizes that do not fit; the message says what is allowed.

    Example:
        >>> from policysearch import Parameters
        >>> rig = Rig(Specification(name="oven"), policy=Parameters(["power"], [0.5]), budget=100)
        >>> trial = rig.ask()
        >>> rig.tell(trial, cost=(trial.values["power"] - 0.7) ** 2)
    """

    def __init__(
        self,
        task: Specification,
        method: str | MethodSettings | Method | None = None,
        *,
        policy: Policy | PolicySettings | str | None = None,
        budget: Budget | str | int | None = None,
        seed: int = 0,
        initial: Any = None,
        failure_cost: float | None = None,
        folder: str | Path | None = None,
        largest_step: float | dict[str, float] | None = None,
        measure: tuple[int, int] | None = None,
        veto: Veto | None = None,
    ):
        super().__init__(
            task,
            method,
            policy=policy,
            budget=budget,
            seed=seed,
            initial=initial,
            failure_cost=failure_cost,
            largest_step=largest_step,
            measuring=None if measure is None else Measuring(*measure),
        )
        self.veto = veto
        self._trials: Trials | None = None
        self._journal: Journal | None = None
        if folder is not None:
            self._journal = resume.begin(self, Path(folder), resume.of_rig(self))

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        method: Method | None = None,
        budget: str | int | None = None,
        veto: Veto | None = None,
        wait: float | None = None,
    ) -> Rig:
        """Continue a search that keeps its trials in a folder, exactly where it ended or was killed.

        The parameters are the same to the bit, the trials of the open update are the same, and results told for them
        count. Trials that were asked without a `client` and never told are handed out first.

        Args:
            folder: as given to `Rig`.
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
    def incumbent(self) -> Measured | None:
        """The policy with the least measured cost so far, measured again each time; None without `measure`."""
        return None if self.measuring is None else self.measuring.incumbent

    @alone
    def note(self, event: Event) -> None:
        """Add to the events."""
        super().note(event)

    def result(self) -> Result:
        """The last iterate; nothing can evaluate it here."""
        return self.concluded()

    @alone
    def close(self) -> None:
        """End the ownership of a folder."""
        if self._journal is not None:
            self._journal.close()

    @property
    @alone
    def pending(self) -> list[Trial]:
        """Trials that were asked but not yet told."""
        return self._desk.pending

    @alone
    def ask(self, client: str = "") -> Trial:
        """The next trial that has not been handed out; with a folder it is on disk first.

        Args:
            client: its name. A client that has not told its trial gets the same one again; "" gets a new one, but
                after `open` first those that were never told.

        Raises:
            RuntimeError: every trial of this update is out; tell their results first.
        """
        self.start_clock()
        return self._desk.ask(client)

    @alone
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
    @alone
    def halted(self) -> str:
        """Why no trial is handed out; "" while they are."""
        return self._desk.halted

    @alone
    def halt(self, reason: str) -> None:
        """Hand out no trial until `release`, in this process or another."""
        if not reason:
            raise ValueError("A search is halted for a reason; give one.")
        self._desk.halt(reason)

    @alone
    def release(self, by: str = "") -> None:
        """Hand out trials again after a safety stop or `halt`.

        Args:
            by: name of the person who checked the machine; kept with the run.
        """
        self._desk.release(by)

    @alone
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
            self._trials = Trials(self, self._journal, lambda trial: self.veto(trial) if self.veto else None)
        return self._trials
