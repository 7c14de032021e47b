"""What travels between a driver and its workers: `Recipe`, `Met`, `Jobs` to run, `HostRollouts` of them. No JAX.

n trials, d parameters, p observations, m actions, L stages. Trial i runs θ + sign · std · β.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from policysearch.core.controller import Controller
from policysearch.core.plain import Plain
from policysearch.core.rng import SHAPES, Purpose, environment_seed, perturbations
from policysearch.core.specification import FAILED, LOST, OK, Specification

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True, kw_only=True, eq=False)
class Jobs:
    """The n trials of one batch; a worker computes each from this alone, wherever the rest run.

    Args:
        controller: at θ.
        seed: of the run.
        update: number of the update.
        environment: (n,) index of each trial's environment seed; partners share it.
        perturbation: (n,) index of each trial's perturbation β, −1 for no perturbation.
        sign: (n,) of ±1, or 0 for θ itself.
        std: of the perturbations, in units of θ, () or (d,).
        shape: law of the perturbations, see `rng.SHAPES`.
        offsets: (n, d) to add to θ as they are, instead of perturbations.
        purpose: of the environment seeds.
        stochastic: sample the actions; otherwise the mode acts.
        record: return observations, actions and costs too.
        block: trials per message; by default large blocks first and single trials at the end. Results do not change.

    Raises:
        ValueError: if sizes disagree; the message says which.
    """

    controller: Controller
    seed: int
    update: int
    environment: Int[np.ndarray, " n"]
    perturbation: Int[np.ndarray, " n"] | None = None
    sign: Float[np.ndarray, " n"] | None = None
    std: float | Float[np.ndarray, " d"] = 1.0
    shape: str = "gaussian"
    offsets: Float[np.ndarray, "n d"] | None = None
    purpose: Purpose = Purpose.ENVIRONMENT
    stochastic: bool = False
    record: bool = False
    block: int | None = None

    def __post_init__(self) -> None:
        n, d = len(self), self.controller.theta().size
        if n == 0:
            raise ValueError("Jobs has no trials; pass at least one environment index.")
        for name, value, allowed in (
            ("perturbation", self.perturbation, (n,)),
            ("sign", self.sign, (n,)),
            ("offsets", self.offsets, (n, d)),
        ):
            if value is not None and np.shape(value) != allowed:
                raise ValueError(f"Jobs.{name} has shape {np.shape(value)}; {n} trials need {allowed}.")
        if np.shape(self.std) not in ((), (d,)):
            raise ValueError(
                f"Jobs.std has shape {np.shape(self.std)}; pass a number, or one for each of {d} parameters."
            )
        if (self.perturbation is None) != (self.sign is None) or (
            self.offsets is not None and self.perturbation is not None
        ):
            raise ValueError("Jobs takes perturbation together with sign, or offsets, or neither.")
        if self.shape not in SHAPES:
            raise ValueError(f"Jobs.shape is {self.shape!r}; choose one of {', '.join(SHAPES)}.")
        if self.block is not None and self.block < 1:
            raise ValueError(f"Jobs.block is {self.block}; pass at least one trial per block.")
        if np.min(self.environment) < 0:
            raise ValueError("Jobs.environment has a negative index; number environment seeds from 0.")
        if self.sign is not None and np.any((np.asarray(self.sign) != 0) & (np.asarray(self.perturbation) < 0)):
            raise ValueError("Jobs.perturbation is negative where sign is not 0; number perturbations from 0.")
        environment_seed(self.seed, self.purpose, self.update, int(np.max(self.environment)))

    def __len__(self) -> int:
        return len(self.environment)

    def controllers(self, trials: Sequence[int]) -> Iterator[Controller]:
        """The perturbed controllers of some trials, one at a time: only one is kept at any time.

        Args:
            trials: their indices.

        Yields:
            One controller per trial.
        """
        theta = self.controller.theta()
        for row in self._offsets(trials):
            yield self.controller if row is None else self.controller.with_theta(theta + row)

    def _offsets(self, trials: Sequence[int]) -> Iterator[np.ndarray | None]:
        """What is added to θ in some trials, (d,); None for nothing."""
        if self.offsets is not None:
            yield from np.asarray(self.offsets, dtype=np.float64)[trials]
            return
        if self.perturbation is None or self.sign is None:
            yield from [None] * len(trials)
            return
        d = self.controller.theta().size
        sign = np.asarray(self.sign, dtype=np.float64)[trials]
        index = np.asarray(self.perturbation)[trials]
        beta: np.ndarray = np.zeros(0)
        last = -1
        for i, s in zip(index, sign, strict=True):
            if s != 0 and i != last:  # partners are consecutive and share a perturbation
                beta, last = perturbations(self.seed, self.update, [i], d, self.shape)[0], i
            yield None if s == 0 else s * self.std * beta


class Recipe(NamedTuple):
    """Everything needed to make an environment.

    environment: as the user named it. source: an id, "package:Id", "module:attr" or "/folder/file.py:attr".
    registered: the registration of an id that only the driver knows, a `gymnasium.envs.registration.EnvSpec`.
    options: keyword arguments. horizon: time limit in stages, None for the environment's own. discount: of the task.
    """

    environment: str
    source: str
    registered: Any
    options: Plain
    horizon: int | None
    discount: float

    def make(self) -> Any:
        """A new environment; see `making.make`."""
        from policysearch.workers.making import make

        return make(self)

    def rollout(self, made: Any, *trial: Any) -> Episode:
        """One rollout of what `make` made; see `episode.run_rollout`."""
        from policysearch.workers.episode import run_rollout

        return run_rollout(made, *trial)


class Met(NamedTuple):
    """The findings of first contact.

    specification: of the task. solved_return: mean return from which it counts as solved, or None.
    declared_bonus: reward per stage for staying alive. layout: name → (start, stop) among the p observations, where
    they were flattened from several; fixed: action → value, where its limits are equal.
    warnings: what the user should know, in sentences.
    """

    specification: Specification
    solved_return: float | None
    declared_bonus: float
    layout: dict[str, tuple[int, int]]
    fixed: dict[int, float]
    warnings: list[str]


class Terms(NamedTuple):
    """What a task adds to all its jobs: horizon, survival bonus of training, discount per stage."""

    horizon: int
    survival_bonus: float
    discount: float


class Event(NamedTuple):
    """Something that went wrong with a trial (−1: with no particular one).

    kind: "failed" (by the policy), "raised", "died" or "timeout" (faults; the trial is retried); "node": a
        node of a cluster was lost, its trials go to others; "direction": an update did not follow its method's
        direction.
    reason, traceback: in words; the traceback if the environment raised, else "".
    attempt: which attempt of the trial this was, from 1.
    """

    trial: int
    kind: str
    reason: str
    traceback: str
    attempt: int


class Episode(NamedTuple):
    """One rollout of L stages.

    total: discounted cost without the survival bonus, over the stages before a failure.
    returns: sum of the environment's own rewards over the same stages.
    length: stages that were stepped, up to the one that failed.
    outcome, reason: `OK` and "", or `FAILED` and why.
    terminated: the task ended by itself; False if a time limit cut it off.
    mean, m2: mean and sum of squared deviations of the observations, (p,); None if unknown.
    record: observations (L + 1, p), the last of which led to no action, or (L, p) if it is unknown; sampled actions
        (L, m) or (L,) int; discounted costs (L,), NaN at a failure.
    """

    total: float
    returns: float
    length: int
    outcome: int
    reason: str
    terminated: bool
    mean: Float[np.ndarray, " p"] | None
    m2: Float[np.ndarray, " p"] | None
    record: tuple[np.ndarray, np.ndarray, np.ndarray] | None

    @classmethod
    def of_cost(cls, cost: float, reason: str = "") -> Episode:
        """A rollout with only its total cost known; it failed if that is not finite."""
        if not math.isfinite(cost):
            return cls(cost, -cost, 1, FAILED, reason or f"its cost is {cost}", False, None, None, None)
        return cls(cost, -cost, 1, OK, "", False, None, None, None)


class HostRollouts(NamedTuple):
    """The results of n trials, in the order of the jobs.

    totals (n,): discounted cost without the survival bonus; up to the failure where `FAILED`, NaN if `LOST`.
    returns (n,): undiscounted sum of the environment's rewards, NaN where `LOST`.
    lengths (n,): stages that happened; 0 where `LOST`.
    outcome (n,): `OK`, `FAILED` or `LOST`.
    terminated (n,): the task ended by itself; False if a time limit cut it off.
    statistics: (count, mean (p,), sum of squared deviations (p,)) of all observations of the OK rollouts.
    records: a trial's `Episode.record`; None where `LOST`, or all None if not requested.
    events: failures and faults, by trial.
    stages: number of stages in all these rollouts.
    """

    totals: Float[np.ndarray, " n"]
    returns: Float[np.ndarray, " n"]
    lengths: Int[np.ndarray, " n"]
    outcome: Int[np.ndarray, " n"]
    terminated: np.ndarray
    statistics: tuple[int, np.ndarray, np.ndarray]
    records: list[tuple[np.ndarray, np.ndarray, np.ndarray] | None]
    events: list[Event]
    stages: int


def gather(episodes: list[Episode | None], events: list[Event], observation_size: int) -> HostRollouts:
    """Combine the results of single trials, always in the order of the trials.

    Args:
        episodes: an `Episode` for each trial, None for a lost one.
        events: in any order.
        observation_size: p.

    Returns:
        `HostRollouts`; statistics are merged by the parallel variance (Chan, Golub & LeVeque 1983).
    """
    nan = float("nan")
    seen = [e for e in episodes if e is not None and e.outcome == OK and e.mean is not None]
    lengths = np.array([0 if e is None else e.length for e in episodes])
    count, mean, m2 = 0, np.zeros(observation_size), np.zeros(observation_size)
    if seen:
        counts = np.array([e.length for e in seen], dtype=np.float64)[:, None]
        means = np.stack([np.asarray(e.mean) for e in seen])
        count = int(counts.sum())
        mean = (counts * means).sum(axis=0) / count
        m2 = np.stack([np.asarray(e.m2) for e in seen]).sum(axis=0) + (counts * (means - mean) ** 2).sum(axis=0)
    return HostRollouts(
        totals=np.array([nan if e is None else e.total for e in episodes]),
        returns=np.array([nan if e is None else e.returns for e in episodes]),
        lengths=lengths,
        outcome=np.array([LOST if e is None else e.outcome for e in episodes]),
        terminated=np.array([e is not None and e.terminated for e in episodes]),
        statistics=(count, mean, m2),
        records=[None if e is None else e.record for e in episodes],
        events=sorted(events, key=lambda event: (event.trial, event.attempt)),
        stages=int(lengths.sum()),
    )
