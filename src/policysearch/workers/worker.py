"""A worker process, `python -m policysearch.workers.worker`: one environment that runs blocks of trials.

Started by the driver with the descriptors of a socket and of a file: the heartbeat, and after it the stack of a crash
or, on SIGUSR1, of a trial that hangs. It ends when the socket closes.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
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

from policysearch.core.controller import Controller
from policysearch.core.rng import Purpose, action_stream, environment_seed
from policysearch.workers.jobs import Episode, Jobs, Recipe, Terms

#: the monotonic time in seconds at which a trial began, and which trial (−1: none)
BEAT = struct.Struct("<dq")
ATTEMPTS = 2
#: seconds that making an environment, each call and every trial may take
START_TIMEOUT, SHORTEST_TIMEOUT = 300.0, 60.0
#: calls during first contact, numbered −2, −3, … in the heartbeat; before them comes the start
CALLS = ("making it", "reset()", "step()")
STARTING = "importing what it needs"


def note(beat: mmap.mmap, trial: int, ahead: float = 0.0) -> None:
    """Write the heartbeat: a trial (−1: none) begins now, or `ahead` seconds from now.

    The time comes first and is never an old one, so that a driver that reads half of it mistakes no trial for one that
    has run for hours.
    """
    BEAT.pack_into(beat, 0, time.monotonic() + ahead, trial)


class _Bench:
    """The environment of this process, made again after each fault."""

    def __init__(self, recipe: Recipe, beat: mmap.mmap, connection: Connection):
        self.recipe, self.beat, self.connection = recipe, beat, connection
        self.broken = False
        self.env = self._made()

    def _made(self) -> Any:
        return self.recipe.make()

    def environment(self) -> Any:
        if self.broken:
            self.close()
            self.env = self._made()
            self.broken = False
        return self.env

    def close(self) -> None:
        # anything it raises, even an interrupt, does no harm now
        with contextlib.suppress(BaseException):
            self.env.close()

    def calls(self, what: str) -> None:
        """Record which call of the environment begins."""
        note(self.beat, -2 - CALLS.index(what))

    def trial(self, jobs: Jobs, terms: Terms, trial: int, controller: Controller, used: int) -> tuple[Any, float]:
        """Run one trial, again after a fault, which is reported at once: (`Episode` or None, seconds)."""
        seed = environment_seed(jobs.seed, jobs.purpose, jobs.update, int(jobs.environment[trial]))
        noise = None
        if jobs.stochastic:
            noise = controller.noise(action_stream(jobs.seed, jobs.purpose, jobs.update, trial), terms.horizon)
        for attempt in range(used + 1, ATTEMPTS + 1):
            # making the environment again is not part of the trial and has its own timeout
            note(self.beat, trial, START_TIMEOUT)
            env = self.environment()  # not in the `try`: if it cannot be made again, no trial can run
            note(self.beat, trial)
            start = time.monotonic()
            try:
                episode: Episode = self.recipe.rollout(
                    env,
                    controller,
                    seed,
                    noise,
                    terms.horizon,
                    jobs.record,
                    0.0 if jobs.purpose == Purpose.EVALUATION else terms.survival_bonus,
                    terms.discount,
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
    """Make the environment, check it on request, then answer blocks of trials until the driver is gone.

    The order comes first: (a `Recipe` or `Equations`, whether to check). The answer is ("ready", a `Met` or None), or
    ("refused" | "unknown" | "other", (a sentence, the traceback, similar names)).

    Args:
        connection: to the driver.
        beat: the heartbeat.
        driver: number of the driver's process.
    """
    try:
        bench, met = _begin(connection, beat)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the driver may be gone: that is how this ends
            connection.send(_refusal(error))
        return
    with contextlib.closing(bench):
        try:
            connection.send(("ready", met))
            _answer(connection, bench, driver)
        except (Exception, SystemExit):
            with contextlib.suppress(OSError):
                connection.send(("failed", traceback.format_exc()))


def _begin(connection: Connection, beat: mmap.mmap) -> tuple[_Bench, Any]:
    """The environment, made and, on request, checked; it is closed again if that fails."""
    from policysearch.workers import contact, making

    recipe, look = connection.recv()
    note(beat, -2 - CALLS.index("making it"))
    try:
        bench = _Bench(recipe, beat, connection)
    except (making.UnknownError, making.OtherKindError, making.UnfitEnvironmentError):
        raise
    except BaseException as error:
        raise contact.ContactError(f"{recipe.environment} could not be made: {contact.told(error)}") from error
    if not look:
        return bench, None
    try:
        return bench, contact.meet(bench.env, recipe, bench.calls)
    except BaseException:
        bench.close()
        raise


def _refusal(error: BaseException) -> tuple[str, object]:
    """The answer for an environment that cannot be made or searched: (kind, (a sentence, the traceback, near))."""
    from policysearch.workers import contact, making

    text = "".join(traceback.format_exception(error))
    if isinstance(error, making.UnknownError):
        return "unknown", (str(error), text, error.near)
    if isinstance(error, making.OtherKindError):
        return "other", (str(error), text, [])
    return "refused", (str(error) if isinstance(error, ValueError) else contact.told(error), text, [])


def _answer(connection: Connection, bench: _Bench, driver: int) -> None:
    jobs: Any = None  # before the first message there are none
    terms: Any = None
    while True:
        kind, content = connection.recv()
        if kind == "jobs":
            jobs, terms = content
            continue
        trials, used = content
        results = []
        for trial, controller in zip(trials, jobs.controllers(trials), strict=True):
            if os.getppid() != driver:
                return
            results.append(bench.trial(jobs, terms, trial, controller, used))
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
    if isinstance(sys.stdout, io.TextIOWrapper):  # which is standard error here, shown at once
        sys.stdout.reconfigure(line_buffering=True)
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
