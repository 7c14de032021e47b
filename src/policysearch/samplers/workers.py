"""`Workers`: n trials on worker processes, each with its own environment. No JAX.

A block of trials is one message; results are gathered by trial, so that they depend neither on the number of
workers, nor on the size of blocks, nor on workers that died on the way.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from policysearch.controller import Controller
from policysearch.samplers.gymnasium import GymnasiumTask
from policysearch.samplers.jobs import Episode, Event, HostRollouts, Jobs, gather
from policysearch.samplers.worker import ATTEMPTS, BEAT
from policysearch.specification import FAILED, Discrete
from policysearch.streams import Purpose

#: seconds that an environment may take to be made
START_DEADLINE = 300.0
#: seconds that every trial may take, and how many times the slowest good one if that is more
SHORTEST_DEADLINE = 60.0
PATIENCE = 20.0
_THREADS = ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR")
_LOST_CONNECTION = (EOFError, OSError)


class _Worker:
    """One process as the driver sees it: starting, idle, or busy with a block."""

    def __init__(self, task: bytes):
        self.state = "starting"
        self.since = time.monotonic()
        self.trials: list[int] = []
        self.jobs: Jobs | None = None
        environment = dict(os.environ) | {f"{name}_NUM_THREADS": "1" for name in _THREADS}
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with tempfile.TemporaryFile() as file:
            file.write(BEAT.pack(-1, 0.0))
            file.flush()
            self.beat = mmap.mmap(file.fileno(), BEAT.size)
            self.connection, theirs = Pipe()
            with theirs:
                descriptors = (theirs.fileno(), file.fileno())
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "policysearch.samplers.worker", *map(str, descriptors)],
                    pass_fds=descriptors,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    # what it starts can be ended with it, and a terminal's Ctrl-C does not reach it
                    start_new_session=True,
                )
        with contextlib.suppress(OSError):  # if it is dead already, its connection will say so
            self.connection.send_bytes(task)

    def assign(self, jobs: Jobs, trials: list[int], used: int) -> None:
        """Send a block of trials that have had `used` attempts before."""
        self.state, self.trials = "busy", trials
        BEAT.pack_into(self.beat, 0, -1, 0.0)
        if self.jobs is not jobs:
            self.connection.send(("jobs", jobs))
            self.jobs = jobs
        self.connection.send(("block", (trials, used)))

    def running(self) -> tuple[int, float]:
        """The trial that runs (−1: none) and for how many seconds."""
        trial, start = BEAT.unpack_from(self.beat)
        return (trial, time.monotonic() - start) if trial in self.trials else (-1, 0.0)

    def ending(self) -> str:
        """How a process ended that has lost its connection, in words."""
        try:
            code = self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "a closed connection"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """End the process and what it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()
        self.beat.close()


class Workers:
    """Worker processes for one task; they start with the first job or with `start`, and stay until `close`.

    An environment that raises, dies or hangs costs the trial one attempt; after two the trial is `LOST`, with
    an event that says why, and everything else is unharmed.

    Args:
        task: what they run.
        workers: how many; as many as this process may use cores by default.
        deadline: seconds that one trial may take before its worker is replaced; by default the larger of 60 s
            and 20 times the slowest good trial so far.

    Raises:
        ValueError: if a number is out of range, or the task's options cannot be sent to another process.

    Example:
        >>> with Workers(GymnasiumTask("CartPole-v1"), workers=1) as workers:
        ...     controller = Controller({"policy": "softmax"}, {"weight_0": np.zeros((2, 4))})
        ...     int(workers.evaluate(controller, seed=0, rollouts=2).outcome.sum())
        0
    """

    def __init__(self, task: GymnasiumTask, workers: int | None = None, deadline: float | None = None):
        if workers is not None and workers < 1:
            raise ValueError(f"workers is {workers}; pass at least 1, or None for one per core.")
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline is {deadline}; pass seconds above 0, or None.")
        self.task = task
        try:
            self._sent = pickle.dumps(task)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ValueError(
                f"The environment_options of {task.environment} cannot be sent to a worker process: {error}. "
                'Pass numbers and strings, or a factory as "module:function" that makes the rest itself.'
            ) from error
        self.count = workers or _cores()
        self._deadline = deadline
        self._slowest = 0.0
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def deadline(self) -> float:
        """Seconds that a trial may take now."""
        return self._deadline or max(SHORTEST_DEADLINE, PATIENCE * self._slowest)

    def start(self) -> None:
        """Start the processes and wait until each has made its environment.

        Raises:
            RuntimeError: if one could not, with its traceback.
        """
        try:
            self._spawn()
            while any(worker.state == "starting" for worker in self._workers):
                for worker, message in self._messages():
                    self._started(worker, message)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the processes; a later job starts new ones."""
        workers, self._workers = self._workers, []
        for worker in workers:
            if worker.state == "idle":  # it closes its environment and ends by itself
                worker.connection.close()
        for worker in workers:
            if worker.state == "idle":
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.process.wait(timeout=2.0)
            worker.kill()

    def evaluate(self, controller: Controller, seed: int, rollouts: int, update: int = 0) -> HostRollouts:
        """Run the mode of a controller on fresh environment seeds that no gradient sees.

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
        """
        self._check(jobs.controller)
        try:
            return self._run(jobs)
        except BaseException:
            self.close()  # they may be in the middle of blocks that nobody awaits any more
            raise

    def _check(self, controller: Controller) -> None:
        specification = self.task.specification
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
            raise ValueError(f"A {controller.policy} controller came; {specification.name} needs a {fitting} policy.")

    def _spawn(self) -> None:
        while len(self._workers) < self.count:
            self._workers.append(_Worker(self._sent))

    def _messages(self) -> list[tuple[_Worker, Any]]:
        """What workers have said since, None where one has died; returns at the latest after a second."""
        silent: dict[Any, _Worker] = {worker.connection: worker for worker in self._workers}
        heard: list[tuple[_Worker, Any]] = []
        for connection in wait(list(silent), timeout=min(1.0, self.deadline / 4)):
            worker = silent.pop(connection)
            try:
                heard.append((worker, worker.connection.recv()))
            except _LOST_CONNECTION:
                heard.append((worker, None))
        for worker in silent.values():
            # a child of a dead worker may hold its end of the connection open
            if worker.process.poll() is not None and not worker.connection.poll():
                heard.append((worker, None))
            elif worker.state == "starting" and time.monotonic() - worker.since > START_DEADLINE:
                raise RuntimeError(f"{self.task.environment} was not made within {START_DEADLINE:.0f} s.")
        return heard

    def _started(self, worker: _Worker, message: Any) -> None:
        if message is None:
            raise RuntimeError(
                f"A worker process ended while it made {self.task.environment}, with {worker.ending()}; "
                "see its output above."
            )
        if message[0] == "failed":
            raise RuntimeError(f"A worker failed with {self.task.environment}:\n\n{message[1]}")
        worker.state = "idle"

    def _run(self, jobs: Jobs) -> HostRollouts:
        n = len(jobs)
        size = jobs.block or max(1, -(-n // (4 * self.count)))
        queue = deque(list(range(start, min(start + size, n))) for start in range(0, n, size))
        episodes: list[Episode | None] = [None] * n
        used = [0] * n
        events: list[Event] = []
        missing = set(range(n))
        idle_deaths = 0
        self._spawn()

        def bury(worker: _Worker, kind: str) -> None:
            """Replace a worker; its trials run again, one a block, so that the guilty one stands alone."""
            nonlocal idle_deaths
            guilty, seconds = worker.running()
            if kind == "died":
                reason = f"its worker ended with {worker.ending()}"
            else:
                reason = f"no end after {seconds:.1f} s (deadline {self.deadline:.1f} s)"
            worker.kill()
            if guilty < 0:
                idle_deaths += 1
                if idle_deaths > 3 * self.count:
                    raise RuntimeError(f"Workers keep dying outside of trials: {reason}. Is memory short?")
            else:
                used[guilty] += 1
                if used[guilty] == ATTEMPTS:
                    missing.discard(guilty)
            events.append(Event(guilty, kind, reason, "", used[guilty] if guilty >= 0 else 0))
            queue.extendleft([trial] for trial in reversed(worker.trials) if trial in missing)
            self._workers[self._workers.index(worker)] = _Worker(self._sent)

        while missing:
            for worker in list(self._workers):
                if worker.state == "idle" and queue:
                    trials = queue.popleft()
                    try:
                        # only a block of one can hold a trial that was tried before
                        worker.assign(jobs, trials, used[trials[0]])
                    except _LOST_CONNECTION:
                        bury(worker, "died")
            for worker, message in self._messages():
                if worker.state == "starting" or (message and message[0] == "failed"):
                    self._started(worker, message)
                elif message is None:
                    bury(worker, "died")
                else:
                    for trial, (episode, faults, seconds) in zip(worker.trials, message[1], strict=True):
                        episodes[trial] = episode
                        events.extend(Event(trial, "raised", why, text, i) for i, why, text in faults)
                        self._slowest = max(self._slowest, seconds)
                        if episode is not None and episode.outcome == FAILED:
                            events.append(Event(trial, "failed", episode.reason, "", used[trial] + len(faults) + 1))
                    missing.difference_update(worker.trials)
                    worker.state, worker.trials = "idle", []
            for worker in list(self._workers):
                if worker.state == "busy" and worker.running()[1] > self.deadline:
                    bury(worker, "deadline")
        return gather(episodes, events, self.task.specification.observation_size)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
