"""One update of a rig: the trials that it asks for, and the results so far.

n trials, T stages, p observations, m actions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from policysearch.core.controller import Controller
from policysearch.core.method import Method, State
from policysearch.core.rng import Purpose, environment_seed, stream
from policysearch.core.specification import Specification
from policysearch.runners import host
from policysearch.runs.reader import TrialRecord
from policysearch.search.trial_result import Told
from policysearch.workers.jobs import HostRollouts, Jobs, gather

#: what a trial is for: the gradient, or the cost of the policy itself
GRADIENT, MEASUREMENT = "gradient", "measurement"


class Trial(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One request to a rig: run this controller once.

    Args:
        number: of the trial, counted from 0 over the whole search.
        update, index: the update that asks for it, and its place there.
        controller: what to run; for named numbers see `values`.
        environment_seed: partners have the same one; for rigs that can repeat conditions.
        noise: standard action noise for each stage (T, …); None if the mode runs. `controller.act(observation,
            noise[k])` gives the action that was `sampled`, which is what to tell, and the one that is `applied`.
        attempt: from 1; more if it was lost before and is asked again.
        purpose: "gradient", or "measurement" of the policy as it is.
        hold: stages for which a drawn action is kept.
    """

    number: int
    update: int
    index: int
    controller: Controller
    environment_seed: int
    noise: np.ndarray | None = None
    attempt: int = 1
    purpose: str = GRADIENT
    hold: int = 1

    @property
    def values(self) -> dict[str, float]:
        """The named numbers to try, in their own units."""
        return self.controller.values()


class OpenUpdate:
    """The trials of one update that a caller runs, and the results so far; a function of state, seed and results.

    records: trials that were asked, by index; those of the gradient, then one for each of `measured`. told: the
    results, by index; `over` are those that count.
    """

    def __init__(self, method: Method, state: State, seed: int, first: int, measured: Sequence[Controller] = ()):
        self.jobs: Jobs = host.jobs(method, state, seed)
        self.measured = measured
        self.first = first
        self.records: dict[int, TrialRecord] = {}
        self.told: dict[int, Told] = {}
        self.over: set[int] = set()
        #: asked without a client before the search was reopened, and not handed out since
        self.unclaimed: list[int] = []

    def __len__(self) -> int:
        return len(self.jobs) + len(self.measured)

    @property
    def complete(self) -> bool:
        """Whether every trial was told."""
        return len(self.over) == len(self)

    def purpose(self, index: int) -> str:
        """What a trial is for."""
        return GRADIENT if index < len(self.jobs) else MEASUREMENT

    def take(self, record: TrialRecord, told: Told) -> None:
        """Store the result of a trial, which now has this record."""
        self.records[record.index], self.told[record.index] = record, told
        if not record.retry:
            self.over.add(record.index)

    def choose(self, client: str) -> tuple[int, bool]:
        """Index of the trial to ask next, and whether that is a new attempt; see `Rig.ask`."""
        for index, record in self.records.items():
            if client and record.client == client and record.status == "asked":
                return index, False
        if not client and self.unclaimed:
            return self.unclaimed.pop(0), False
        for index, record in self.records.items():
            if record.retry:
                return index, True
        index = len(self.records)
        if index >= len(self):
            raise RuntimeError(
                f"All {len(self)} trials of this update are out; {len(self) - len(self.over)} are still to be told."
            )
        return index, True

    def values(self, index: int) -> dict[str, float] | None:
        """What a trial runs, by name; None if its actions are sampled, so that no numbers of its own stand for it."""
        if self.purpose(index) == GRADIENT and self.jobs.stochastic:
            return None
        return _numbers(self._controller(index))

    def _controller(self, index: int) -> Controller:
        if self.purpose(index) == MEASUREMENT:
            return self.measured[index - len(self.jobs)]
        return next(self.jobs.controllers([index]))

    def trial(self, index: int, specification: Specification) -> Trial:
        """What to run: the same whenever it is asked for."""
        jobs, noise, purpose, controller = self.jobs, None, self.purpose(index), self._controller(index)
        if purpose == MEASUREMENT:
            # the compared policies meet the same conditions
            place = index - len(jobs) - self.measured.index(controller)
            environment = environment_seed(jobs.seed, Purpose.MEASUREMENT, jobs.update, place)
        else:
            environment = environment_seed(jobs.seed, Purpose.ENVIRONMENT, jobs.update, int(jobs.environment[index]))
            if jobs.stochastic:
                generator = stream(jobs.seed, Purpose.ACTION, jobs.update, index)
                drawn = jobs.controller.noise(generator, specification.draws)
                noise = np.repeat(drawn, specification.hold, axis=0)[: specification.horizon]
        return Trial(
            number=self.first + index,
            update=jobs.update,
            index=index,
            controller=controller.fresh(),
            environment_seed=environment,
            noise=noise,
            attempt=self.records[index].attempt,
            purpose=purpose,
            hold=specification.hold,
        )

    def gathered(self, specification: Specification) -> HostRollouts:
        """What was told of the gradient's trials, in their order."""
        ordered = [self.told[index].episode(specification) for index in range(len(self.jobs))]
        return gather(ordered, [], specification.observation_size)

    def measurements(self) -> list[float | None]:
        """Costs of the measuring trials, in their order: infinite if the policy failed, None if the rig did."""
        told = [self.told[index] for index in range(len(self.jobs), len(self))]
        return [None if t.fault == "rig" else math.inf if t.cost is None else t.cost for t in told]


def _numbers(controller: Controller) -> dict[str, float]:
    """Its named numbers in their own units, or else the entries of θ."""
    try:
        return controller.values()
    except TypeError:
        names = controller.record.parameter_names("parameter")
        return dict(zip(names, controller.theta().tolist(), strict=True))
