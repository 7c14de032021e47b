"""Trials that a caller runs: what an update asks a rig to run, and what the rig tells, in any order.

n trials, T stages, p observations, m actions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from policysearch.core import controller_file, grammar
from policysearch.core.controller import Controller
from policysearch.core.initial import from_controller
from policysearch.core.specification import OK
from policysearch.runners import host
from policysearch.runs.inbox import Inbox
from policysearch.runs.journal import Journal
from policysearch.runs.reader import TrialRecord
from policysearch.search.loop import Loop
from policysearch.search.open_update import GRADIENT, OpenUpdate, Trial
from policysearch.search.result import Record
from policysearch.search.trial_result import ENDS, Told
from policysearch.workers.jobs import Event

#: why a trial must not run, or None
Veto = Callable[["Trial"], str | None]
_GIVEN_UP = {"status": "abandoned", "fault": "rig"}
#: what an abandoned update reports
_SKIPPED = {"cost": math.nan, "cost_sem": math.nan, "snr": math.nan, "failed": 0.0, "skipped": 1.0}


class Trials:
    """Asks and takes the trials of a search; with a journal, what was asked and told is on disk first."""

    def __init__(self, search: Loop, journal: Journal | None, veto: Veto):
        self._search, self._journal, self._veto = search, journal, veto
        self._open: OpenUpdate | None = None
        self._inbox = None if journal is None else Inbox(journal.folder)
        #: why no trials are handed out until someone resumes the search; "" while they are
        self.halted = ""

    @property
    def pending(self) -> list[Trial]:
        """Trials that were asked but not yet told, in order."""
        self.receive()
        update = self._open
        if update is None:
            return []
        waiting = [index for index, record in update.records.items() if record.status == "asked"]
        return [update.trial(index, self._search.specification) for index in waiting]

    def restore(self, records: dict[int, TrialRecord], arrays: dict[int, bytes | None], halted: str) -> None:
        """Continue an update of which these trials were asked, some of them told."""
        self.halted = halted
        if records:
            update = self._new()
            for number in sorted(records):
                record = records[number]
                update.records[record.index] = record
                if record.status != "asked":
                    update.take(record, _told(record, arrays.get(number)))
                elif not record.client:
                    update.unclaimed.append(record.index)
            if update.complete:
                self._finish()
        self.receive()

    def ask(self, client: str) -> Trial:
        """See `Rig.ask`."""
        search, client = self._search, grammar.client(client)
        self.receive()
        while True:
            self._refuse_halted()
            update = self._open if self._open is not None else self._new()
            index, fresh = update.choose(client)
            if fresh:
                before = update.records.get(index)
                record = TrialRecord(
                    number=update.first + index,
                    update=update.jobs.update,
                    index=index,
                    attempt=1 if before is None else before.attempt + 1,
                    client=client,
                    asked=time.time(),
                    purpose=update.purpose(index),
                    values=update.values(index),
                )
                if self._journal is not None:
                    self._journal.add_asked(record)
                update.records[index] = record
            trial = update.trial(index, search.specification)
            if not client:
                update.unclaimed.insert(0, index)  # asked again if the veto raises or makes the search wait
            # a trial that is handed out again may never have been shown to the veto
            reason = self._veto(trial)
            if not reason:
                if not client:
                    update.unclaimed.remove(index)
                return trial
            if trial.noise is not None:
                # every trial of the update runs this controller, so nothing could be learned without it
                self.halt(f"trial {trial.number} was vetoed: {reason}")
            else:
                self.tell(trial, {"vetoed": reason}, False, "")
                if search.done:
                    raise RuntimeError(
                        f"The last trial of the search was vetoed: {reason}. {search.reason or 'The budget is spent'}."
                    )

    def tell(
        self, trial: Trial | int, given: dict[str, Any], retry: bool, notes: str, terminated: bool | None = None
    ) -> Record | None:
        """See `Rig.tell`."""
        self.receive()  # results left earlier come first
        return self._take(trial, as_kept(given), retry, grammar.words(notes), terminated)

    def _take(
        self, trial: Trial | int, given: dict[str, Any], retry: bool, notes: str, terminated: bool | None = None
    ) -> Record | None:
        search, update = self._search, self._open
        number = trial.number if isinstance(trial, Trial) else _number(trial)
        if not isinstance(retry, (bool, np.bool_)):
            raise ValueError(f"retry is {retry!r}; it must be True or False.")
        index = number - update.first if update is not None else -1
        record = update.records.get(index) if update is not None else None
        before = None if record is not None else self._before(number)
        known = record if record is not None else before[0] if before is not None else None
        learning = known is None or known.purpose == GRADIENT
        told = Told.of(search.specification, search.method if learning else None, given, terminated)
        if before is not None:
            judged(before[0], before[1], told, before[0].attempt, retry)
            return search.records[before[0].update]
        if update is None or record is None:
            raise RuntimeError("No update is open.")
        attempt = trial.attempt if isinstance(trial, Trial) else record.attempt
        arrays = update.told[index].arrays if index in update.told else None
        if judged(record, arrays, told, attempt, retry):
            return None
        asked = update.trial(index, search.specification)
        told.refuse_applied(asked.controller, asked.noise)
        outcome = {
            "status": told.status,
            "fault": told.fault,
            "reason": told.reason,
            "cost": told.cost,
            "stages": told.stages,
            "retry": bool(retry),
            "notes": notes,
            "told": time.time(),
        }
        over = msgspec.structs.replace(record, **outcome)
        halt = f"trial {number} ended by a safety stop: {told.reason}" if told.status == "safety stop" else ""
        if self._journal is not None:
            self._journal.add_told(over, told.arrays, halt)
        self.halted = self.halted or halt
        if index in update.unclaimed:
            update.unclaimed.remove(index)
        update.take(over, told)
        return self._finish() if update.complete else None

    def receive(self) -> None:
        """Take the results left in the folder's inbox; what does not fit becomes an event of the search."""
        if self._inbox is None:
            return
        for message in self._inbox.messages():
            try:
                update = self._open
                index = message.trial - update.first if update is not None else -1
                if update is not None and index in update.records and update.records[index].attempt != message.attempt:
                    raise ValueError(_refusal(update.records[index], message.attempt))
                self._take(message.trial, as_kept(message.given), message.retry, message.notes)
            except ValueError as error:
                self._search.note(Event(message.trial, "inbox", str(error), "", message.attempt))
                if self._journal is not None:
                    self._journal.add_events(self._search.updates, self._search.events)
            self._inbox.forget(message)

    def halt(self, reason: str) -> None:
        """Hand out no trial until `release`."""
        reason = grammar.words(reason)
        if self._journal is not None:
            self._journal.add_halt(reason)
        self.halted = reason

    def release(self, by: str) -> None:
        """Hand out trials again."""
        if self._journal is not None:
            self._journal.add_halt("", grammar.words(by))
        self.halted = ""

    def go_back(self, controller: Controller, reason: str) -> Record:
        """Give up the open update, and continue from another policy; see `Rig.go_back`."""
        self.receive()
        search, update = self._search, self._open
        reason = grammar.words(reason)
        asked = [] if update is None else list(update.records.values())
        old = search.state.policy
        policy = from_controller(controller).with_interface(old.interface)
        if str(jax.tree.structure(policy)) != str(jax.tree.structure(old)):
            raise ValueError(
                f"The {controller.policy} policy to go back to differs in kind or size from this search's."
            )
        policy = jax.tree.map(lambda new, now: jnp.asarray(new, now.dtype), policy, old)
        for record in asked:
            if record.status == "asked":
                over = msgspec.structs.replace(record, **_GIVEN_UP, reason=reason, told=time.time())
                if self._journal is not None:
                    self._journal.add_told(over, None)
        self._open = None
        fresh = search.method.init(policy, search.specification.draws)
        search.state = eqx.tree_at(lambda state: state.update, fresh, search.state.update + 1)
        return self._kept(search.account(_SKIPPED | {"lost": float(len(asked))}, 0, 0.0, rollouts=len(asked)))

    def _refuse_halted(self) -> None:
        if self.halted:
            folder = "DIR" if self._journal is None else self._journal.folder
            raise RuntimeError(
                f"The search waits: {self.halted}. When the rig is safe, continue with Rig.release(by=…), or "
                f"policysearch resume {folder}."
            )

    def _new(self) -> OpenUpdate:
        search = self._search
        due = search.measuring.due(search.updates, search.policy.controller()) if search.measuring is not None else []
        self._open = OpenUpdate(search.method, search.state, search.seed, search.rollouts, due)
        return self._open

    def _finish(self) -> Record:
        search, update = self._search, self._open
        if update is None:
            raise RuntimeError("No update is open.")
        came = update.gathered(search.specification)
        state, info = host.tell(search.method, search.state, update.jobs, came, search.specification)
        self._open = None
        if not np.any(came.outcome == OK):
            last = max((r for r in update.records.values() if r.fault is not None), key=lambda r: r.told or 0.0)
            search.note(Event(last.number, last.status, last.reason, "", last.attempt))
        measured: dict[str, float] = {}
        if search.measuring is not None:
            measured = search.measuring.take(update.measured, update.measurements(), search.updates)
        return self._kept(search.finish(state, {**info, **measured}, came.stages, 0.0, len(update.measured)))

    def _kept(self, record: Record) -> Record:
        search = self._search
        if self._journal is not None:
            best = None if search.measuring is None else search.measuring.incumbent
            if best is not None and best.update == record.get("incumbent_update") == search.updates - 1:
                self._journal.add_incumbent(best.update, controller_file.content(best.controller))
            self._journal.add(record, search.continuation)
            self._journal.flush()
            self._journal.add_events(search.updates, search.events)
            self._journal.save(search.policy.controller())
            if search.measuring is not None:
                search.measuring.save(self._journal.folder)
        return record

    def _before(self, number: int) -> tuple[TrialRecord, bytes | None]:
        """What was told of a trial whose update is over.

        Raises:
            ValueError: nothing is known about it.
        """
        before = self._journal.told(number) if self._journal is not None else None
        if before is None:
            update = self._open
            words = "nothing was asked. Call ask() first"
            if update is not None and update.records:
                words = f"open are {update.first} to {update.first + len(update.records) - 1}"
            raise ValueError(f"Trial {number} is not open; {words}.")
        return before


def _number(trial: Any) -> int:
    """The number of a trial.

    Raises:
        ValueError: not the number of a trial.
    """
    if isinstance(trial, (int, np.integer)) and not isinstance(trial, bool) and 0 <= trial <= grammar.LARGEST:
        return int(trial)
    raise ValueError(f"trial is {trial!r}; give what ask() returned, or its number, counted from 0.")


def as_kept(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `tell` as they will be recorded: a cost as a number, reasons as text.

    Raises:
        ValueError: a cost that is not a number.
    """
    kept = {name: value if value is None or name not in ENDS else grammar.words(value) for name, value in given.items()}
    cost = kept.get("cost")
    if cost is not None:
        try:
            if isinstance(cost, (str, bytes, bool)):
                raise TypeError
            kept["cost"] = float(cost)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"cost is {cost!r}; it must be a number.") from None
    return kept


def judged(record: TrialRecord, arrays: bytes | None, told: Told, attempt: int, retry: bool) -> bool:
    """Whether exactly this result has been told already.

    Args:
        record, arrays: what is known of the trial.
        told: the result; of which attempt.
        attempt: that was run.
        retry: the trial is to be asked again.

    Raises:
        ValueError: it is refused: another result was told, of another attempt, or a trial that ran is to run again.
    """
    if retry and told.fault != "rig":
        raise ValueError("retry=True runs a trial again that the rig lost; a trial that ran is not repeated.")
    if attempt == record.attempt:
        if record.status == "asked":
            return False
        if _told(record, arrays) == told:
            return True
        words = f"{record.status}: {record.reason}" if record.reason else record.status
        cost = f", cost {record.cost:.6g}" if record.cost is not None else ""
        raise ValueError(f"Trial {record.number} was told already, as {words}{cost}; another result is not accepted.")
    raise ValueError(_refusal(record, attempt))


def _told(record: TrialRecord, arrays: bytes | None) -> Told:
    return Told(record.status, record.fault, record.reason, record.cost, record.stages, arrays)


def _refusal(record: TrialRecord, attempt: int) -> str:
    return f"Trial {record.number} was asked again: attempt {record.attempt} counts, not attempt {attempt}."
