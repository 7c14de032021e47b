"""What runs the trials of a task: a compiled program, worker processes, or this process. `runner` makes one.

A task names its runner in its attribute `runner`; a new kind is a line in `RUNNERS`. n rollouts, L stages.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np

from policysearch.core.specification import Specification
from policysearch.workers.jobs import Event

if TYPE_CHECKING:
    from policysearch.core.controller import Controller
    from policysearch.core.method import Method, State
    from policysearch.core.policies import Policy
    from policysearch.core.rollouts import Rollouts

#: what a task calls its runner → where it is
RUNNERS = {
    "compiled": "policysearch.runners.native:Native",
    "workers": "policysearch.runners.on_host:Host",
    "here": "policysearch.runners.on_host:InProcess",
    "batch": "policysearch.runners.batch:Batch",
    "singly": "policysearch.runners.batch:Singly",
}


class Resources(NamedTuple):
    """What a runner may use; each takes what it needs, see `Search`.

    workers: processes, of each node of a cluster. timeout: seconds per trial. programs: folder of compiled programs.
    cluster: address of a running Ray cluster for what worker processes do, "auto" for the one that this machine is in.
    """

    workers: int | None = None
    timeout: float | None = None
    programs: Path | None = None
    cluster: str | None = None


#: the runner's own choice of each
DEFAULTS = Resources()


class Outcomes(NamedTuple):
    """Rollouts of a policy's mode.

    costs: discounted totals (n,), not finite where a rollout failed. lengths: stages (n,). returns: undiscounted (n,),
    or None. success: whether each met the physical goal (n,), or None if the task does not say.
    """

    costs: np.ndarray
    lengths: np.ndarray
    returns: np.ndarray | None = None
    success: np.ndarray | None = None


class Recording(NamedTuple):
    """One rollout of a policy's mode, up to a failure.

    states: of a JAX plant, leaves (L + 1, …), or None. observations: (L + 1, p), or (L, p) if there is none after the
    last stage. actions: as applied, (L, m) or (L,). costs: of stages (L,). reason: why it failed, or "".
    """

    states: Any
    observations: np.ndarray
    actions: np.ndarray
    costs: np.ndarray
    reason: str


class Runner(Protocol):
    """Runs the trials of one task. Random numbers depend on the seed and the update only."""

    #: a rollout takes a while, so that fewer are run where nothing else is said
    slow: ClassVar[bool]
    #: several seeds of a search can run in one program, see `search.many_seeds`
    vectorised: ClassVar[bool]
    #: what went wrong so far, in order
    events: list[Event]
    #: seconds that `costs` spent on compilation
    compilation: float

    def update(self, method: Method, state: State, trials: int) -> tuple[State, dict[str, Any], int]:
        """One update of `trials` trials: the next state, what it reports, and how many stages were run."""

    def sample(self, method: Method, state: State) -> tuple[Any, Rollouts]:
        """Offsets and rollouts of one update, from which nothing is learned."""

    def costs(self, policy: Policy, rows: np.ndarray, call: int) -> tuple[np.ndarray, int]:
        """Costs (n,) of parameters (n, d), not finite where a trial failed, and the number of stages.

        Args:
            policy: whose parameters these are.
            rows: (n, d), a trial each, on environment seeds of its own.
            call: number of the call; different calls share no random number.
        """

    def evaluate(self, controller: Controller, rollouts: int, seed: int) -> Outcomes:
        """The mode on environment seeds that no gradient uses."""

    def record(self, controller: Controller, rollouts: int, seed: int) -> list[Recording]:
        """The first rollouts of `evaluate` with that seed, stage by stage.

        Raises:
            ValueError: nothing moves in this task.
        """

    def close(self) -> None:
        """End what runs."""


def runner(task: Any, seed: int, resources: Resources = DEFAULTS) -> Runner:
    """What runs the trials of a task.

    Raises:
        RuntimeError: a bare specification, whose trials cannot be run here.
        ValueError: a cluster for a task that needs none.
    """
    if resources.cluster is not None and getattr(task, "runner", "workers") != "workers":
        raise ValueError(
            f"cluster is {resources.cluster!r}; it is for Gymnasium tasks, and {task.specification.name} runs in this "
            "process. Leave it out."
        )
    made: Runner = kind(task)(task, seed, resources)
    return made


def kind(task: Any) -> Any:
    """The class of a task's runner; RuntimeError for a bare specification."""
    if isinstance(task, Specification):
        raise RuntimeError("The trials of a bare specification cannot be run here: run them with ask() and tell().")
    module, _, name = RUNNERS[task.runner].partition(":")
    return getattr(importlib.import_module(module), name)


def motionless(specification: Specification) -> ValueError:
    """The error of a task in which nothing moves."""
    what = "is a cost of parameters" if specification.action is None else "lasts one stage"
    return ValueError(f"{specification.name} {what}: nothing moves, so there is no video of it.")
