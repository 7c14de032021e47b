"""A worker process, `python -m policysearch.samplers.worker`: one environment that runs blocks of trials.

Started by `Workers` with the descriptors of a socket and of a file: the heartbeat, and after it the stack of a crash
or, on SIGUSR1, of a trial that hangs. It ends when the socket closes.
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import os
import signal
import struct
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

import gymnasium

from policysearch.controller import Controller
from policysearch.samplers.gymnasium import Episode, GymnasiumTask, run_rollout
from policysearch.samplers.jobs import Jobs
from policysearch.streams import Purpose, action_stream, environment_seed

#: the monotonic time in seconds at which a trial began, and which trial (−1: none)
BEAT = struct.Struct("<dq")
ATTEMPTS = 2
#: seconds that an environment may take to be made
START_DEADLINE = 300.0


def note(beat: Any, trial: int, ahead: float = 0.0) -> None:
    """Write the heartbeat: a trial (−1: none) begins now, or `ahead` seconds from now.

    The time comes first and is never an old one, so that a driver that reads half of it takes no trial for one that
    has run for hours.
    """
    BEAT.pack_into(beat, 0, time.monotonic() + ahead, trial)


class _Bench:
    """The environment of this process, made again after each fault."""

    def __init__(self, task: GymnasiumTask, beat: mmap.mmap, connection: Connection):
        self.task, self.beat, self.connection = task, beat, connection
        self.env = task.make()
        self.broken = False

    def environment(self) -> gymnasium.Env:
        if self.broken:
            self.close()
            self.env = self.task.make()
            self.broken = False
        return self.env

    def close(self) -> None:
        with contextlib.suppress(Exception, SystemExit):
            self.env.close()

    def trial(self, jobs: Jobs, trial: int, controller: Controller, used: int) -> tuple[Episode | None, float]:
        """Run one trial, again after a fault, which is told at once: (`Episode` or None, seconds)."""
        seed = environment_seed(jobs.seed, jobs.purpose, jobs.update, int(jobs.environment[trial]))
        horizon = self.task.horizon
        noise = None
        if jobs.stochastic:
            noise = controller.noise(action_stream(jobs.seed, jobs.purpose, jobs.update, trial), horizon)
        for attempt in range(used + 1, ATTEMPTS + 1):
            # making the environment anew is no part of the trial and has a deadline of its own
            note(self.beat, trial, START_DEADLINE)
            env = self.environment()  # not in the `try`: if it cannot be made again, no trial can run
            note(self.beat, trial)
            start = time.monotonic()
            try:
                episode = run_rollout(
                    env,
                    controller,
                    seed,
                    noise,
                    horizon,
                    jobs.record,
                    0.0 if jobs.purpose == Purpose.EVALUATION else self.task.survival_bonus or 0.0,
                    self.task.discount,
                )
            except (Exception, SystemExit) as error:
                # the next attempt may end this process
                why = f"{type(error).__name__}: {error}"
                self.connection.send(("fault", (trial, attempt, why, traceback.format_exc())))
                self.broken = True
            else:
                return episode, time.monotonic() - start
        return None, 0.0


def serve(connection: Connection, beat: mmap.mmap, driver: int) -> None:
    """Make the environment, then answer blocks of trials until the process `driver` closes the connection."""
    try:
        bench = _Bench(connection.recv(), beat, connection)
        connection.send(("ready", None))
        with contextlib.closing(bench):
            _answer(connection, bench, driver)
    except (Exception, SystemExit):
        with contextlib.suppress(OSError):  # the driver may be gone: that is how this ends
            connection.send(("failed", traceback.format_exc()))


def _answer(connection: Connection, bench: _Bench, driver: int) -> None:
    jobs: Any = None
    while True:
        kind, content = connection.recv()
        if kind == "jobs":
            jobs = content
            continue
        trials, used = content
        results = []
        for trial, controller in zip(trials, jobs.controllers(trials), strict=True):
            if os.getppid() != driver:
                return
            results.append(bench.trial(jobs, trial, controller, used))
        note(bench.beat, -1)
        connection.send(("block", results))


def _end_with(driver: int) -> None:
    """End this process group if the driver dies, even while a trial hangs."""
    while os.getppid() == driver:
        time.sleep(0.5)
    time.sleep(2.0)  # unless it ends by itself, with its environment closed
    os.killpg(os.getpid(), signal.SIGKILL)


def main(arguments: list[str]) -> None:
    """Entry point; the two arguments are descriptors."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides
    socket, file = (int(argument) for argument in arguments)
    for descriptor in (socket, file):
        os.set_inheritable(descriptor, False)
    faulthandler.enable(file, all_threads=False)
    faulthandler.register(signal.SIGUSR1, file, all_threads=False)
    driver = os.getppid()
    threading.Thread(target=_end_with, args=(driver,), daemon=True).start()
    beat = mmap.mmap(file, BEAT.size)
    with Connection(socket) as connection:
        serve(connection, beat, driver)


if __name__ == "__main__":
    main(sys.argv[1:])
