"""`Workers`: n trials on worker processes, each with its own environment. No JAX.

A block of trials is one message; results are gathered by trial, so that they depend neither on the number of
workers, nor on the size of blocks, nor on workers that died on the way.
"""

from __future__ import annotations

import os
import pickle
import time
from collections import deque
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from policysearch.core.controller import Controller
from policysearch.core.rng import Purpose
from policysearch.core.specification import FAILED, Discrete
from policysearch.tasks.gymnasium_task import GymnasiumTask
from policysearch.workers import process
from policysearch.workers.jobs import Episode, Event, HostRollouts, Jobs, Terms, gather
from policysearch.workers.process import LOST_CONNECTION, WorkerProcess
from policysearch.workers.worker import ATTEMPTS, SHORTEST_TIMEOUT, START_TIMEOUT

#: multiple of the slowest good trial that a trial may take, if that is more than `SHORTEST_TIMEOUT`
PATIENCE = 20.0
#: lost trials in a row after which a batch is given up, by default
LOST_LIMIT = 20
#: a block is this share of a worker's remaining work
SHARE = 0.25


class TrialsLostError(RuntimeError):
    """Trial after trial was lost; the message names the last cause.

    Args:
        message: in words.
        events: what happened in the batch so far.
    """

    def __init__(self, message: str, events: list[Event]):
        super().__init__(message)
        self.events = events


def written(jobs: Jobs, task: GymnasiumTask) -> bytes:
    """Jobs as the message that a worker process takes."""
    return pickle.dumps(("jobs", (jobs, Terms(task.horizon, task.survival_bonus or 0.0, task.discount))))


def blocks(jobs: Jobs, workers: int) -> deque[list[int]]:
    """All trials: large blocks first, to save messages; at the end single ones, so that the workers end together."""
    n, start = len(jobs), 0
    queue: deque[list[int]] = deque()
    while start < n:
        size = jobs.block or max(1, int(SHARE * (n - start) / workers))
        queue.append(list(range(start, min(start + size, n))))
        start += size
    return queue


def check_fit(task: GymnasiumTask, controller: Controller) -> None:
    """Raise ValueError if a controller does not fit a task."""
    specification = task.specification
    action = specification.action
    size = action.n if isinstance(action, Discrete) else action.size if action else 0
    have = (controller.observation_size, controller.action_size)
    if have != (specification.observation_size, size):
        raise ValueError(
            f"The controller takes {have[0]} observations and gives {have[1]} actions; "
            f"{specification.name} has {specification.observation_size} and {size}."
        )
    if controller.discrete != isinstance(action, Discrete):
        fitting = "softmax" if isinstance(action, Discrete) else "Gaussian"
        raise ValueError(f"The controller is {controller.policy}; {specification.name} needs a {fitting} policy.")


class _Batch:
    """What is known about some trials while they run."""

    def __init__(self, message: bytes, queue: deque[list[int]]):
        self.message = message
        self.queue = queue
        self.missing = {trial for block in queue for trial in block}
        self.episodes: dict[int, Episode | None] = {}
        self.used = dict.fromkeys(self.missing, 0)
        self.events: list[Event] = []

    def put_back(self, blocks: deque[list[int]], guilty: int) -> None:
        """Queue the blocks of a dead worker; the one that ran is split, so that the guilty trial is alone."""
        left = [[trial for trial in block if trial in self.missing] for block in blocks]
        ran = next((index for index, block in enumerate(blocks) if guilty in block), 0)
        for index in reversed(range(len(left))):
            pieces = [[trial] for trial in left[index]] if index == ran else [left[index]]
            self.queue.extendleft(piece for piece in reversed(pieces) if piece)


class Workers:
    """Worker processes for one task; they start with the first job or with `start`, and stay until `close`.

    An environment that raises, dies or hangs costs the trial one attempt; after two the trial is `LOST`, with
    an event that says why, and everything else is unaffected.

    Args:
        task: what they run.
        workers: how many; by default as many as the cores this process may use.
        timeout: seconds that one trial may take before its worker is replaced; by default the larger of 60 s
            and 20 times the slowest good trial so far.
        lost_limit: lost trials in a row, in the order in which they end, after which `run` raises `TrialsLostError`.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> with Workers(GymnasiumTask("CartPole-v1"), workers=1) as workers:
        ...     controller = Controller({"policy": "softmax"}, {"weight_0": np.zeros((2, 4))})
        ...     int(workers.evaluate(controller, seed=0, rollouts=2).outcome.sum())
        0
    """

    def __init__(
        self,
        task: GymnasiumTask,
        workers: int | None = None,
        timeout: float | None = None,
        lost_limit: int = LOST_LIMIT,
    ):
        if workers is not None and workers < 1:
            raise ValueError(f"workers is {workers}; pass at least 1, or None for one per core.")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout is {timeout}; pass seconds above 0, or None.")
        if lost_limit < 1:
            raise ValueError(f"lost_limit is {lost_limit}; pass at least 1 lost trial.")
        self.task = task
        self.count = workers or _cores()
        self._timeout = timeout
        self._slowest = 0.0
        self._lost_limit = lost_limit
        self._lost_in_a_row = 0
        self._workers: list[WorkerProcess] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def timeout(self) -> float:
        """Seconds that a trial may take now."""
        return self._timeout or max(SHORTEST_TIMEOUT, PATIENCE * self._slowest)

    def start(self, wait: bool = True) -> None:
        """Start the processes.

        Args:
            wait: until each has made its environment; otherwise the ones that are ready take the first jobs.

        Raises:
            RuntimeError: if one could not make it, with its traceback.
        """
        try:
            self._spawn()
            while wait and any(not worker.ready for worker in self._workers):
                for worker, message in self._messages():
                    self._started(worker, message)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the processes; a later job starts new ones."""
        workers, self._workers = self._workers, []
        idle = [worker for worker in workers if worker.ready and not worker.blocks]
        for worker in idle:
            worker.ask_to_end()
        until = time.monotonic() + process.GRACE
        for worker in workers:
            if worker in idle:
                worker.end(until)
            else:
                worker.kill()

    def evaluate(self, controller: Controller, seed: int, rollouts: int, update: int = 0) -> HostRollouts:
        """Run the mode of a controller on fresh environment seeds that no gradient uses.

        Args:
            controller: the policy.
            seed: of the run.
            rollouts: how many.
            update: number of the update; every update has its own seeds.

        Returns:
            `HostRollouts`.
        """
        environment = np.arange(rollouts)
        purpose = Purpose.EVALUATION
        return self.run(Jobs(controller=controller, seed=seed, update=update, environment=environment, purpose=purpose))

    def run(self, jobs: Jobs) -> HostRollouts:
        """Run all trials of some jobs.

        Args:
            jobs: the trials.

        Returns:
            `HostRollouts`, in the order of the jobs: the same numbers for any number of workers.

        Raises:
            ValueError: if the controller does not fit the task.
            RuntimeError: if an environment could not be made in a worker, with the worker's traceback.
            TrialsLostError: if `lost_limit` trials in a row were lost, counting on from earlier jobs.
        """
        check_fit(self.task, jobs.controller)
        found, events = self.some(written(jobs, self.task), blocks(jobs, self.count))
        return gather([found[trial] for trial in range(len(jobs))], events, self.task.specification.observation_size)

    def some(self, message: bytes, queue: deque[list[int]]) -> tuple[dict[int, Episode | None], list[Event]]:
        """Run some trials of some jobs.

        Args:
            message: the jobs, see `written`; one object for all calls with the same jobs saves sending them again.
            queue: the trials in blocks, which are used up.

        Returns:
            The `Episode` of each trial, None for a lost one, and what went wrong.

        Raises:
            RuntimeError, TrialsLostError: as `run`.
        """
        try:
            return self._run(_Batch(message, queue))
        except BaseException:
            self.close()  # they may be in the middle of blocks that are no longer awaited
            raise

    def _spawn(self) -> None:
        while len(self._workers) < self.count:
            self._workers.append(self.task.worker())

    def _messages(self) -> list[tuple[WorkerProcess, Any]]:
        """New messages from workers, None where one has died; returns within a second."""
        silent: dict[Any, WorkerProcess] = {worker.connection: worker for worker in self._workers}
        heard: list[tuple[WorkerProcess, Any]] = []
        for connection in wait(list(silent), timeout=min(1.0, self.timeout / 4)):
            worker = silent.pop(connection)
            try:
                heard.append((worker, worker.connection.recv()))
            except LOST_CONNECTION:
                heard.append((worker, None))
        for worker in silent.values():
            # a child of a dead worker may hold its end of the connection open
            if worker.process.poll() is not None and not worker.connection.poll():
                heard.append((worker, None))
            elif not worker.ready and time.monotonic() - worker.since > START_TIMEOUT:
                raise RuntimeError(f"{self.task.environment} was not made within {START_TIMEOUT:.0f} s.")
        return heard

    def _started(self, worker: WorkerProcess, message: Any) -> None:
        if message is None:
            raise RuntimeError(
                f"A worker process ended while it made {self.task.environment}, with {worker.ending()}; "
                "see its output above."
            )
        if message[0] == "failed":
            raise RuntimeError(f"A worker failed with {self.task.environment}:\n\n{message[1]}")
        if message[0] != "ready":
            sentence, text, _ = message[1]
            raise RuntimeError(f"{sentence} Another process had made it. In this one:\n\n{text}")
        worker.ready = True

    def _run(self, batch: _Batch) -> tuple[dict[int, Episode | None], list[Event]]:
        idle_deaths = 0
        self._spawn()
        while batch.missing:
            for worker in list(self._workers):
                if not self._hand_out(batch, worker):
                    idle_deaths += self._bury(batch, worker, "died", *worker.running())
            for worker, message in self._messages():
                if not worker.ready or (message and message[0] == "failed"):
                    self._started(worker, message)
                elif message is None:
                    idle_deaths += self._bury(batch, worker, "died", *worker.running())
                elif message[0] == "fault":
                    trial, attempt, why, text = message[1]
                    batch.events.append(Event(trial, "raised", why, text, attempt))
                    batch.used[trial] = attempt
                else:
                    self._take(batch, worker, message[1])
            for worker in list(self._workers):
                trial, seconds = worker.running()
                if seconds > self.timeout:
                    self._bury(batch, worker, "timeout", trial, seconds)
            if idle_deaths > 3 * self.count:
                reason = batch.events[-1].reason
                raise RuntimeError(f"Workers keep dying outside of trials: {reason}. Is memory running out?")
        return batch.episodes, batch.events

    def _hand_out(self, batch: _Batch, worker: WorkerProcess) -> bool:
        """Give a worker the block that it runs now and the next one, but the last blocks to idle workers.

        False if it has died.
        """
        queue = batch.queue
        while worker.ready and queue and len(worker.blocks) < (2 if len(queue) > self.count else 1):
            trials = queue.popleft()
            try:
                # only a block of one can hold a trial that was tried before
                worker.assign(batch.message, trials, batch.used[trials[0]])
            except LOST_CONNECTION:
                return False
        return True

    def _take(self, batch: _Batch, worker: WorkerProcess, results: list[Any]) -> None:
        """Record the results of a worker's first block."""
        for trial, (episode, seconds) in zip(worker.blocks.popleft(), results, strict=True):
            if episode is not None and episode.outcome == FAILED:
                batch.events.append(Event(trial, "failed", episode.reason, "", batch.used[trial] + 1))
            self._slowest = max(self._slowest, seconds)
            self._settle(batch, trial, episode)

    def _settle(self, batch: _Batch, trial: int, episode: Episode | None) -> None:
        """Record how a trial ended, with an `Episode` or lost."""
        batch.episodes[trial] = episode
        batch.missing.discard(trial)
        self._lost_in_a_row = self._lost_in_a_row + 1 if episode is None else 0
        if self._lost_in_a_row >= self._lost_limit:
            count, self._lost_in_a_row = self._lost_in_a_row, 0
            last = batch.events[-1]
            raise TrialsLostError(
                f"{count} trials of {self.task.environment} in a row were lost; the last one: {last.reason}.",
                batch.events,
            )

    def _bury(self, batch: _Batch, worker: WorkerProcess, kind: str, guilty: int, seconds: float) -> bool:
        """Replace a worker that ran trial `guilty` (−1: none) and queue its trials again; True if it ran none."""
        stack = worker.stack(ask=kind == "timeout")
        if kind == "died":
            reason = f"its worker ended with {worker.ending()}"
        else:
            reason = f"no end after {seconds:.1f} s (timeout {self.timeout:.1f} s)"
        worker.kill()
        self._workers[self._workers.index(worker)] = self.task.worker()
        if guilty >= 0:
            batch.used[guilty] += 1
        batch.events.append(Event(guilty, kind, reason, stack, batch.used[guilty] if guilty >= 0 else 0))
        if guilty >= 0 and batch.used[guilty] == ATTEMPTS:
            self._settle(batch, guilty, None)
        batch.put_back(worker.blocks, guilty)
        return guilty < 0


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
