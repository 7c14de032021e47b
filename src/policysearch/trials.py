"""Trials that a caller runs: what an update asks of a rig, and what the rig told, in any order.

n trials, T stages, p observations, m actions.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from safetensors.numpy import load, save

from policysearch.controller import Controller
from policysearch.journal import Journal, TrialRecord
from policysearch.method import Method, State
from policysearch.samplers import host
from policysearch.samplers.jobs import Episode, HostRollouts, Jobs, gather
from policysearch.snapshots import continuation
from policysearch.specification import FAILED, OK, Discrete, Specification
from policysearch.streams import Purpose, environment_seed, stream

if TYPE_CHECKING:
    from policysearch.search import Record, Search

#: how a trial may end without a cost: the word of `Search.tell`, the status that is kept, and whose fault it is
ENDS = {
    "failed": ("failed", "policy"),
    "lost": ("lost", "rig"),
    "abandoned": ("abandoned", "rig"),
    "timed_out": ("timed out", "rig"),
}


class Trial(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One request to a rig: run this controller once.

    Args:
        number: of the trial, counted from 0 over the whole search.
        update, index: which update asks it, and its place there.
        controller: what to run; for named numbers see `values`.
        environment_seed: partners have the same one; for rigs that can repeat a condition.
        noise: standard action noise (T, …) for `Controller.act`, a row a stage; None where the mode runs.
        attempt: from 1; more where it was lost before and is asked again.
    """

    number: int
    update: int
    index: int
    controller: Controller
    environment_seed: int
    noise: np.ndarray | None = None
    attempt: int = 1

    @property
    def values(self) -> dict[str, float]:
        """The named numbers to try, in their own units."""
        return self.controller.values()


class Told(NamedTuple):
    """What a rig said of one trial, checked: an end of `ENDS` with a reason, a cost, or a recorded rollout.

    arrays: observations (L, p) or (L + 1, p), sampled actions (L, m) or (L,), stage costs (L,) as safetensors; None for
        a cost.
    """

    status: str
    fault: str | None
    reason: str
    cost: float | None
    stages: int = 0
    arrays: bytes | None = None

    @classmethod
    def of(cls, specification: Specification, method: Method, given: dict[str, Any]) -> Told:
        """From the arguments of `Search.tell`, exactly one of which is not None.

        Raises:
            ValueError: none or several of them, or a rollout of the wrong shape.
        """
        told = {name: value for name, value in given.items() if value is not None}
        if len(told) != 1:
            raise ValueError(f"Tell exactly one of {', '.join(given)}; {len(told)} were given.")
        (name, value), *_ = told.items()
        if name in ENDS:
            return cls(*ENDS[name], str(value), None)
        if name == "cost":
            if method.space == "action":
                raise ValueError(
                    "A likelihood-ratio method learns from every stage: tell rollout=(observations, actions, costs)."
                )
            cost = float(value)
            if not math.isfinite(cost):
                return cls("failed", "policy", f"its cost is {cost}", None)
            return cls("done", None, "", cost)
        observations, actions, costs = _checked(value, specification)
        if getattr(method.credit, "bootstrap", False) and len(observations) == len(costs):
            raise ValueError(
                f"A rollout of {len(costs)} stages came with as many observations; bootstrap needs one more, what was "
                "seen after the last stage."
            )
        episode = _recorded(observations, actions, costs, specification)
        good = episode.outcome == OK
        arrays = save({"observations": observations, "actions": actions, "costs": costs})
        return cls(
            "done" if good else "failed",
            None if good else "policy",
            episode.reason,
            episode.total if good else None,
            len(costs),
            arrays,
        )

    def episode(self, specification: Specification) -> Episode | None:
        """What an update learns from it; None where the rig was at fault."""
        if self.fault == "rig":
            return None
        if self.arrays is not None:
            arrays = load(self.arrays)
            return _recorded(arrays["observations"], arrays["actions"], arrays["costs"], specification)
        return Episode.of_cost(math.nan if self.cost is None else self.cost, self.reason)


class OpenUpdate:
    """The trials of one update that a caller runs, and what came back so far; a function of state, seed and results.

    records: trials that were asked, by index. told: what came back, by index; `over` are those that count.
    """

    def __init__(self, method: Method, state: State, seed: int, first: int):
        self.jobs: Jobs = host.jobs(method, state, seed)
        self.first = first
        self.records: dict[int, TrialRecord] = {}
        self.told: dict[int, Told] = {}
        self.over: set[int] = set()
        #: asked by nobody in particular before the search was opened again, and not handed out since
        self.unclaimed: list[int] = []

    @property
    def complete(self) -> bool:
        """Whether every trial was told."""
        return len(self.over) == len(self.jobs)

    def take(self, record: TrialRecord, told: Told) -> None:
        """Keep what came back of a trial, which now has this record."""
        self.records[record.index], self.told[record.index] = record, told
        if not record.retry:
            self.over.add(record.index)

    def choose(self, client: str) -> tuple[int, bool]:
        """Index of the trial to ask next, and whether that is a new attempt; see `Search.ask`."""
        for index, record in self.records.items():
            if client and record.client == client and record.status == "asked":
                return index, False
        if not client and self.unclaimed:
            return self.unclaimed.pop(0), False
        for index, record in self.records.items():
            if record.retry:
                return index, True
        index = len(self.records)
        if index >= len(self.jobs):
            raise RuntimeError(
                f"All {len(self.jobs)} trials of this update are out; "
                f"{len(self.jobs) - len(self.over)} are still to be told."
            )
        return index, True

    def trial(self, index: int, specification: Specification) -> Trial:
        """What to run: the same whenever it is asked for."""
        jobs, noise = self.jobs, None
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
            attempt=self.records[index].attempt,
        )

    def gathered(self, specification: Specification) -> HostRollouts:
        """Everything told, in the order of the trials."""
        ordered = [self.told[index].episode(specification) for index in range(len(self.jobs))]
        return gather(ordered, [], specification.observation_size)


class Trials:
    """Asks and takes the trials of a search; what was asked and told is on disk first if there is a journal."""

    def __init__(self, search: Search, journal: Journal | None = None):
        self._search, self._journal = search, journal
        self._open: OpenUpdate | None = None

    @property
    def pending(self) -> list[Trial]:
        """Trials that were asked and not told, in order."""
        update = self._open
        if update is None:
            return []
        waiting = [index for index, record in update.records.items() if record.status == "asked"]
        return [update.trial(index, self._search.specification) for index in waiting]

    def restore(self, records: dict[int, TrialRecord], arrays: dict[int, bytes | None]) -> None:
        """Go on with an update of which these trials were asked, some of them told."""
        if not records:
            return
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

    def ask(self, client: str) -> Trial:
        """See `Search.ask`."""
        search = self._search
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
            )
            if self._journal is not None:
                self._journal.add_asked(record)
            update.records[index] = record
        return update.trial(index, search.specification)

    def tell(self, trial: Trial | int, given: dict[str, Any], retry: bool, notes: str) -> Record | None:
        """See `Search.tell`."""
        search, update = self._search, self._open
        number = trial.number if isinstance(trial, Trial) else int(trial)
        index = number - update.first if update is not None else -1
        record = update.records.get(index) if update is not None else None
        before = None if record is not None else self._before(number)
        told = Told.of(search.specification, search.method, given)
        if retry and told.fault != "rig":
            raise ValueError("retry=True runs a trial again that the rig lost; a trial that ran is not repeated.")
        if before is not None:
            if _told(*before) != told:
                raise ValueError(_refusal(before[0], before[0].attempt))
            return search.records[before[0].update]
        if update is None or record is None:
            raise RuntimeError("No update is open.")
        attempt = trial.attempt if isinstance(trial, Trial) else record.attempt
        if attempt != record.attempt or record.status != "asked":
            if attempt == record.attempt and update.told[index] == told:
                return None
            raise ValueError(_refusal(record, attempt))
        outcome = {
            "status": told.status,
            "fault": told.fault,
            "reason": told.reason,
            "cost": told.cost,
            "stages": told.stages,
            "retry": retry,
            "notes": notes,
            "told": time.time(),
        }
        over = msgspec.structs.replace(record, **outcome)
        if self._journal is not None:
            self._journal.add_told(over, told.arrays)
        update.take(over, told)
        return self._finish() if update.complete else None

    def _new(self) -> OpenUpdate:
        search = self._search
        self._open = OpenUpdate(search.method, search.state, search.seed, search.rollouts)
        return self._open

    def _finish(self) -> Record:
        search, update = self._search, self._open
        if update is None:
            raise RuntimeError("No update is open.")
        came = update.gathered(search.specification)
        state, info = host.tell(search.method, search.state, update.jobs, came, search.specification)
        self._open = None
        record = search.finish(state, info, came.stages, 0.0)
        if self._journal is not None:
            self._journal.add(record, lambda: continuation(search))
            self._journal.flush()
            self._journal.save(search.policy.controller())
        return record

    def _before(self, number: int) -> tuple[TrialRecord, bytes | None]:
        """What was told of a trial whose update is over.

        Raises:
            ValueError: nothing is known of it.
        """
        before = self._journal.told(number) if self._journal is not None else None
        if before is None:
            update = self._open
            words = "nothing was asked. Call ask() first"
            if update is not None and update.records:
                words = f"open are {update.first} to {update.first + len(update.records) - 1}"
            raise ValueError(f"Trial {number} is not open; {words}.")
        return before


def _told(record: TrialRecord, arrays: bytes | None) -> Told:
    return Told(record.status, record.fault, record.reason, record.cost, record.stages, arrays)


def _refusal(record: TrialRecord, attempt: int) -> str:
    if attempt != record.attempt:
        return f"Trial {record.number} was asked again: attempt {record.attempt} counts, not attempt {attempt}."
    return f"Trial {record.number} was told already, as {record.status}; another result of it is not taken."


def _checked(rollout: Any, specification: Specification) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A told rollout of the right shape: observations and costs of floats, actions as they were sampled."""
    observations, actions, costs = (np.array(part, order="C") for part in rollout)
    observations, costs = observations.astype(float), costs.astype(float)
    length, p, action = len(costs), specification.observation_size, specification.action
    shape = (length,) if isinstance(action, Discrete) else (length, getattr(action, "size", 0))
    if costs.ndim != 1 or not 1 <= length <= specification.horizon:
        raise ValueError(
            f"A rollout's costs have shape {costs.shape}; between 1 and {specification.horizon} stages are allowed."
        )
    if observations.shape not in ((length, p), (length + 1, p)) or actions.shape != shape:
        raise ValueError(
            f"A rollout of {length} stages came with observations {observations.shape} and actions {actions.shape}; "
            f"({length}, {p}), or a row more with what was seen at the end, and {shape} are needed, with the actions "
            "as sampled, before clipping."
        )
    if not np.all(np.isfinite(observations)) or not np.all(np.isfinite(actions)):
        raise ValueError("A rollout has observations or actions that are not finite; tell failed='…' instead.")
    return observations, actions, costs


def _recorded(
    observations: np.ndarray, actions: np.ndarray, costs: np.ndarray, specification: Specification
) -> Episode:
    """A rollout with discounted costs."""
    length = len(costs)
    paid = costs * specification.discount ** np.arange(length)
    seen = observations[:length]
    total, mean = float(paid.sum()), seen.mean(axis=0)
    outcome = OK if math.isfinite(total) else FAILED
    return Episode(
        total=total,
        returns=-float(np.sum(costs)),
        length=length,
        outcome=outcome,
        reason="" if outcome == OK else "costs that are not finite",
        terminated=False,
        mean=mean,
        m2=((seen - mean) ** 2).sum(axis=0),
        record=(observations, actions, paid),
    )
