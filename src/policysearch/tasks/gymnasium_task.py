"""Gymnasium environments as tasks. A worker process finds out what one is; Gymnasium is not imported here.

L of at most T stages, p observations, m actions.
"""

from __future__ import annotations

import copy
import math
import os
import pickle
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from policysearch.core.references import address
from policysearch.workers.jobs import Met, Recipe
from policysearch.workers.process import LOST_CONNECTION, WorkerProcess
from policysearch.workers.worker import CALLS, SHORTEST_TIMEOUT, START_TIMEOUT

if TYPE_CHECKING:
    import gymnasium


class UnknownEnvironmentError(ValueError):
    """There is no environment by that name. near: similar names that exist."""

    def __init__(self, message: str, near: list[str]):
        super().__init__(message)
        self.near = near


class NotAnEnvironmentError(ValueError):
    """The name is that of something other than an environment."""


class GymnasiumTask:
    """An environment, known by its Gymnasium id or by the factory that makes it.

    It is made in a worker process, which checks it before anything is searched: it is reset twice with one seed and
    stepped a little. Whatever is wrong with its spaces, observations, rewards or interface is refused here,
    with an explanation. The worker then waits for trials.

    Args:
        environment: a Gymnasium id ("Hopper-v5", or "package:Id-v0", whose package is imported first), or "module:attr"
            or "file.py:attr" of a class or function that returns an environment; a class or function of an importable
            module may be passed itself.
        horizon: largest number of stages; the environment's time limit by default.
        environment_options: keyword arguments of `gymnasium.make` or of the factory.
        survival_bonus: what the environment pays per stage for staying alive; taken out of what training
            optimises, left in returns and evaluations. None leaves it to the method: ARS takes out what the
            environment declares (`declared_bonus`), as its paper does; the others take out nothing.
        discount: per stage, of the cost that is optimised.
        timeout: seconds that each call of the first contact may take; 60 by default.

    Attributes:
        specification: what a search must know about it.
        solved_return: mean return from which it counts as solved, or None.
        declared_bonus: reward per stage for staying alive that it declares, or 0.
        observation_layout: name → (start, stop) of each part of the p observations, where they were flattened from a
            Dict, a Tuple, a MultiDiscrete; else empty.
        fixed_actions: action → value, of those whose limits are equal; they are not searched.

    Warns:
        UserWarning: equal seeds give different rollouts, or an observation lies outside its space.

    Raises:
        ValueError: if another process could not make it too, if it does not follow the interface, if the
            policies do not support its spaces, or if no time limit is known.

    Example:
        >>> GymnasiumTask("CartPole-v1").specification.horizon
        500
    """

    #: what runs its trials, see `policysearch.runners`
    runner: ClassVar[str] = "workers"

    def __init__(
        self,
        environment: str | Callable[..., gymnasium.Env],
        *,
        horizon: int | None = None,
        environment_options: dict[str, Any] | None = None,
        survival_bonus: float | None = None,
        discount: float = 1.0,
        timeout: float | None = None,
    ):
        if horizon is not None and horizon < 1:
            raise ValueError(f"horizon is {horizon}; it must be a number of stages, at least 1.")
        if not 0 < discount <= 1:
            raise ValueError(f"discount is {discount}; it must lie in (0, 1].")
        if timeout is not None and not 0 < timeout < math.inf:
            raise ValueError(f"timeout is {timeout}; it must be a number of seconds above 0.")
        self.environment = environment if isinstance(environment, str) else _address(environment)
        self.environment_options = dict(environment_options or {})
        if "max_episode_steps" in self.environment_options:
            raise ValueError("environment_options holds max_episode_steps; pass horizon=… instead.")
        if survival_bonus is not None and not math.isfinite(survival_bonus):
            raise ValueError(f"survival_bonus is {survival_bonus}; it must be finite.")
        self.survival_bonus = survival_bonus
        self.discount = float(discount)
        #: the driver's folder when the environment was named; workers start there
        self.directory = os.getcwd()
        self._source, self._registered = _absolute(self.environment), _registered(self.environment)
        self._horizon = horizon
        self._waiting = _Waiting()
        met = self._meet(timeout or SHORTEST_TIMEOUT)
        self.specification = met.specification
        self.solved_return = met.solved_return
        self.declared_bonus = met.declared_bonus
        self.observation_layout = met.layout
        self.fixed_actions = met.fixed
        self._horizon = self.specification.horizon
        for text in met.warnings:
            warnings.warn(text, stacklevel=2)

    @property
    def horizon(self) -> int:
        """Largest number of stages in a rollout."""
        return self.specification.horizon

    @property
    def recipe(self) -> Recipe:
        """What a worker needs to make the environment."""
        return Recipe(
            self.environment,
            self._source,
            self._registered,
            self.environment_options,
            self._horizon,
            self.discount,
        )

    def make(self) -> gymnasium.Env:
        """A new environment, in this process.

        Returns:
            The environment, without Gymnasium's passive checker.

        Raises:
            ValueError: if the factory does not return an environment.
        """
        from policysearch.workers.making import make

        return make(self.recipe)

    def with_survival_bonus(self, bonus: float) -> GymnasiumTask:
        """This task with the method's choice of what to take out of training."""
        task = copy.copy(self)
        task.survival_bonus = bonus
        return task

    def worker(self) -> WorkerProcess:
        """A worker process for this task: the one that has met the environment, once, then new ones.

        Raises:
            ValueError: the task's options cannot be sent to another process.
        """
        return self._waiting.take() or WorkerProcess(self._order(look=False), self.directory)

    def _order(self, look: bool) -> bytes:
        try:
            return pickle.dumps((self.recipe, look))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ValueError(
                f"The environment_options of {self.environment} cannot be sent to a worker process: {error}. "
                'Pass numbers and strings, or a factory as "module:function" that makes the rest itself.'
            ) from error

    def _meet(self, timeout: float) -> Met:
        """A new worker's answer about the environment; the worker then waits."""
        worker = WorkerProcess(self._order(look=True), self.directory)
        try:
            kind, content = _answer(worker, self.environment, timeout)
        except BaseException:
            worker.kill()
            raise
        if kind != "ready":
            worker.end()
            sentence, text, near = content
            if kind == "unknown" and _known_here(self.environment):
                sentence = (
                    f"{self.environment} is registered in this process alone, with an entry point that a worker cannot "
                    "import: workers make their own environments, and see neither lambdas nor closures nor what the "
                    "main script defines. Put the registration into a module and name it as "
                    f"module:{self.environment}."
                )
            error = {"unknown": UnknownEnvironmentError(sentence, near), "other": NotAnEnvironmentError(sentence)}
            raise error.get(kind, ValueError(sentence)) from RuntimeError(f"in a worker process:\n{text}")
        worker.ready = True
        self._waiting.put(worker)
        met: Met = content
        return met


class _Waiting:
    """The worker that has met an environment, until it is taken; it ends with the tasks that refer to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: WorkerProcess | None = None
        self._end: Any = None

    def put(self, worker: WorkerProcess) -> None:
        self._worker = worker
        self._end = weakref.finalize(self, worker.end)

    def take(self) -> WorkerProcess | None:
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            self._end.detach()
        return worker

    def __reduce__(self) -> Any:
        return (_Waiting, ())  # a process cannot be pickled


def _answer(worker: WorkerProcess, name: str, timeout: float) -> tuple[str, Any]:
    """A worker's answer once it has met an environment; ValueError if none comes in time."""
    while True:
        try:
            if worker.connection.poll(0.05):
                message: tuple[str, Any] = worker.connection.recv()
                return message
        except LOST_CONNECTION:
            what = worker.calling()
            raise ValueError(
                f"{name} ended its process, with {worker.ending()}, in {what}; see its output above."
                f"{_below(worker.stack(ask=False))}"
            ) from None
        what, seconds = worker.calling(), worker.since_call()
        limit = timeout if what in CALLS[1:] else START_TIMEOUT
        if seconds > limit:
            raise ValueError(
                f"{name} did not return from {what} within {limit:g} s; --timeout, or timeout= in Python, allows "
                f"more.{_below(worker.stack(ask=True))}"
            )
        if worker.process.poll() is not None and not worker.connection.poll():
            raise ValueError(f"{name} ended its process, with {worker.ending()}, in {what}; see its output above.")


def _below(stack: str) -> str:
    return f" It was here:\n{stack.rstrip()}" if stack.strip() else ""


def _address(factory: Callable[..., Any]) -> str:
    """`module:attr` of a class or function; refuses those that another process cannot import."""
    found = address(factory)
    if found is None:
        raise ValueError(
            f"environment is {factory!r}; workers make their own environments and can import neither "
            "lambdas, closures and objects nor what the main script defines. Put a function that returns "
            'the environment into a module and pass it as "module:function".'
        )
    return found


def _absolute(environment: str) -> str:
    """The name, with its file, if it has one, as an absolute path."""
    place, colon, attribute = environment.rpartition(":")
    return f"{Path(place).resolve()}{colon}{attribute}" if place.endswith(".py") else environment


def _registered(name: str) -> Any:
    """The registration of an id that only this process may know, with an entry point that a worker can import."""
    gymnasium: Any = sys.modules.get("gymnasium")
    if gymnasium is None or ":" in name or name not in gymnasium.registry:
        return None
    spec = gymnasium.registry[name]
    if str(spec.entry_point).startswith("gymnasium.envs."):
        return None
    spec = copy.copy(spec)
    if callable(spec.entry_point):
        try:
            spec.entry_point = _address(spec.entry_point)
        except ValueError:
            return None  # a package that a worker imports may register it there too
    if spec.entry_point is None or spec.entry_point.startswith("__main__"):
        return None
    return spec


def _known_here(name: str) -> bool:
    gymnasium: Any = sys.modules.get("gymnasium")
    return gymnasium is not None and name in gymnasium.registry
