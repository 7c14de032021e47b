"""`WorkerProcess`: one worker as its driver sees it, from start to end. No JAX.

They share a socket, for blocks of trials and their results, and a file: the heartbeat of the trial that runs and, after
it, the stack of a crash.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from multiprocessing import Pipe

from policysearch.workers.worker import BEAT, CALLS, STARTING

#: seconds that a hanging worker has to say where it is
_SAY = 1.0
#: seconds that a worker has to close its environment and end, once it is asked to
GRACE = 5.0
_THREADS = ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR")
#: what a connection raises whose other end is gone
LOST_CONNECTION = (EOFError, OSError)


class WorkerProcess:
    """One process as the driver sees it: starting, or ready with the blocks that it has yet to answer, in order.

    What it prints, in Python or below, goes to standard error: standard output is for results.

    Args:
        order: what it does first; see `worker.serve`.
        directory: where it starts, and what an empty entry of the path means.
    """

    def __init__(self, order: bytes, directory: str):
        self.ready = False
        self.since = time.monotonic()
        self.blocks: deque[list[int]] = deque()
        self.jobs: bytes | None = None
        environment = dict(os.environ) | {f"{name}_NUM_THREADS": "1" for name in _THREADS}
        environment["PYTHONPATH"] = os.pathsep.join(os.path.join(directory, path) for path in sys.path)
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 (open for as long as the process lives)
        self.file.write(BEAT.pack(time.monotonic(), -1))
        self.file.flush()
        self.beat = mmap.mmap(self.file.fileno(), BEAT.size)
        self.connection, theirs = Pipe()
        with theirs:
            descriptors = (theirs.fileno(), self.file.fileno())
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "policysearch.workers.worker", *map(str, descriptors)],
                pass_fds=descriptors,
                env=environment,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=_standard_error(),
                # what it starts can be ended with it, and a terminal's Ctrl-C does not reach it
                start_new_session=True,
            )
        with contextlib.suppress(OSError):  # if it is dead already, its connection will say so
            self.connection.send_bytes(order)

    def assign(self, jobs: bytes, trials: list[int], used: int) -> None:
        """Send a block of trials that have had `used` attempts before, after the jobs if they are new."""
        self.blocks.append(trials)
        if self.jobs is not jobs:
            self.connection.send_bytes(jobs)
            self.jobs = jobs
        self.connection.send(("block", (trials, used)))

    def running(self) -> tuple[int, float]:
        """The trial that runs (−1: none) and for how many seconds."""
        start, trial = BEAT.unpack(self.beat[: BEAT.size])
        if any(trial in block for block in self.blocks):
            return trial, time.monotonic() - start
        return -1, 0.0

    def calling(self) -> str:
        """What of its environment runs while it is met: "reset()", for example."""
        call = BEAT.unpack(self.beat[: BEAT.size])[1]
        return CALLS[-2 - call] if call < -1 else STARTING

    def since_call(self) -> float:
        """Seconds since that call began."""
        start: float = BEAT.unpack(self.beat[: BEAT.size])[0]
        return time.monotonic() - start

    def stack(self, ask: bool) -> str:
        """Where it crashed or, if asked while it lives, where it is; "" if that cannot be known."""
        read = lambda: os.pread(self.file.fileno(), 1 << 16, BEAT.size).decode(errors="replace")  # noqa: E731
        if ask:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGUSR1)
            end = time.monotonic() + _SAY
            while not read().endswith("\n") and time.monotonic() < end:
                time.sleep(0.01)
        return read()

    def ending(self) -> str:
        """How a process ended that has lost its connection, in words."""
        try:
            code = self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "a closed connection"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def ask_to_end(self) -> None:
        """Let it close its environment and end."""
        self.connection.close()

    def end(self, until: float | None = None) -> None:
        """Ask it to end, give it time to, then kill it and what it started.

        Args:
            until: monotonic time at which it is killed; `GRACE` seconds from now by default.
        """
        self.ask_to_end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=GRACE if until is None else max(0.0, until - time.monotonic()))
        self.kill()

    def kill(self) -> None:
        """End the process and what it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()
        self.beat.close()
        self.file.close()


def _standard_error() -> int:
    """The descriptor of standard error, or of nothing where it is closed."""
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2
