"""`Keeper`: runs commands for a rig one at a time, under a supervisor that ends them with this process. No JAX.

Supervisor and keeper share a socket, the pipes that commands write to, and the lock of the run's folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from policysearch.cli import supervisor
from policysearch.cli.interruption import Held, Interrupted
from policysearch.core.plain import Plain

#: in a run's folder: held while a command of `policysearch run` may live, and what is known of its processes
LOCK = "trial.lock"
#: seconds between the request to end and the kill
GRACE_SECONDS = 5.0


class Conduct(NamedTuple):
    """How commands are run and ended.

    Args:
        timeout: seconds after which a command is ended; None for no timeout.
        grace: seconds between the request to end (TERM) and the kill.
        safety_exit: exit code that means a safety stop; None if there is no such code.
        on_abort: command that is run after every disorderly end; empty for no command.
        verbose: show what commands print on standard output too; it goes to standard error.
    """

    timeout: float | None = None
    grace: float = GRACE_SECONDS
    safety_exit: int | None = None
    on_abort: Sequence[str] = ()
    verbose: bool = False


class Ended(NamedTuple):
    """How a command ended.

    cause: "exit", or why it was ended: "timeout", "asked"; "not started"; "taken over" from a supervisor that died;
    "error" if it cannot be started. code: exit code, negative for a signal, None if it was ended; for an error the
    system's number. out, err: last non-blank lines. left: processes that had to be ended. alive: those that
    did not end even so. seconds: how long it took, its end included. on_abort: None if not run, "" if it went
    well, else what went wrong.
    """

    cause: str
    code: int | None
    out: str
    err: str
    left: int
    alive: list[int]
    seconds: float
    on_abort: str | None


class Keeper:
    """The right to run commands for a run's folder, and the one way to run them.

    Args:
        conduct: how they are run and ended.
        folder: of the run, which this process owns; None for commands outside any run.

    The lock in the folder is free when neither this process nor its supervisor is alive, so nothing is started beside
    a command that a killed process left behind.
    """

    def __init__(self, conduct: Conduct = Conduct(), folder: Path | None = None):  # noqa: B008 (immutable)
        self.conduct = conduct
        self._process: subprocess.Popen[bytes] | None = None
        self._serial = 0
        self._open_line = False
        self._record: Plain = {}
        _occupy_standard_descriptors()
        # both ends are kept here too: a supervisor that dies must not break the pipes of a command that is ending
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        self._pipes = [out, err, out_end, err_end]
        self._lock, self._path = -1, Path(os.devnull)
        if folder is not None:
            self._path = folder / LOCK
            self._lock = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the supervisor, and let others run commands; what is still to be ended stays on record."""
        self._dismiss()
        while self._pipes:
            os.close(self._pipes.pop())
        if self._lock >= 0:
            if not os.pread(self._lock, 1, 0):
                self._path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1

    def finish_previous(self, say: Callable[[str], None]) -> tuple[str, Ended] | None:
        """Wait for another process's command that is still ending, and end what was left.

        Args:
            say: called with a sentence that says what is being waited for or ended.

        Returns:
            What was ended, and how; None if nothing was left.
        """
        waits = False
        while not self._taken():
            if not waits:
                say(f"a trial of the previous run is being ended; the next one waits for it ({self._path})")
            waits = True
            time.sleep(0.05)
        try:
            record = json.loads(os.pread(self._lock, 1 << 16, 0) or b"{}")
        except ValueError:
            record = {}
        if not record:
            return None
        name = f"trial {record['trial']} of the previous run"
        pids = sorted(supervisor.living(record["mark"], record["group"], None) or {})
        say(f"{name} did not end cleanly" + f"; its processes {pids} are ended now" * bool(pids))
        self._record = record
        with Held():
            return name, self._take_over(record["trial"])

    def carry_out(
        self, command: Sequence[str], trial: int | None = None, timeout: float | None = None, held: Held | None = None
    ) -> Ended:
        """Run a command to its end.

        Args:
            command: program and arguments; no shell in between.
            trial: its number; None for a command that moves nothing, after which `on_abort` is not run.
            timeout: in seconds; None for no timeout.
            held: requests to end; the first one ends the command.

        Raises:
            Interrupted: a request to end came, and the command was ended.
            RuntimeError: the supervisor failed; the command was ended.
        """
        if held is None:
            with Held() as own:
                return self.carry_out(command, trial, timeout, own)
        self._record = {"mark": secrets.token_hex(16), "group": 0, "told": False}
        held.on_request = lambda number, count: self._stop(trial, number, count)
        try:
            ended = self._answered(command, trial, timeout, held)
        finally:
            held.on_request = None
        if ended is None:
            ended = self._take_over(trial)
        if held.number and ended.cause in ("asked", "not started"):
            raise Interrupted(held.number)
        return ended

    def _take_over(self, trial: int | None) -> Ended:
        """End what a killed supervisor left behind."""
        ended = self._answered([], trial, None, None)
        if ended is None:
            raise RuntimeError("The supervisors of trials are being killed; make sure that the machine has stopped.")
        return ended

    def _answered(
        self, command: Sequence[str], trial: int | None, timeout: float | None, held: Held | None
    ) -> Ended | None:
        """Send a request, show what comes back, and wait; None if the supervisor died first."""
        if self._process is None or self._process.poll() is not None:
            self._engage()
        conduct = self.conduct
        self._serial += 1
        request = {
            "serial": self._serial,
            "command": [os.fsencode(word).decode("latin-1") for word in command],
            "on_abort": [os.fsencode(word).decode("latin-1") for word in conduct.on_abort if trial is not None],
            "timeout": timeout,
            "grace": conduct.grace,
            "safety": conduct.safety_exit,
            "trial": trial,
            "shown": ["err", "abort", *(["out"] if conduct.verbose else [])],
            **self._record,
        }
        message: Plain = {}
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._send(request)
            if held is not None and held.number:
                self._send({"stop": self._serial})  # it came before anything could be done about it
            for line in self._lines:
                message = json.loads(line)
                if "output" in message:
                    self._show(message["output"].encode("latin-1"))
                elif "group" in message:
                    self._record |= message
                else:
                    break
        if self._open_line:
            self._show(b"\n")
        if "defect" in message:
            raise RuntimeError(f"The supervisor of the trial failed; the trial was ended.\n{message['defect']}")
        if "ended" in message:
            return Ended(**message["ended"])
        self._dismiss()
        return None

    def _engage(self) -> None:
        """Start a supervisor."""
        self._dismiss()
        self._control, theirs = socket.socketpair()
        self._lines = self._control.makefile("rb")
        descriptors = (theirs.fileno(), self._lock, *self._pipes)
        with theirs:
            self._process = subprocess.Popen(
                # with the standard library alone it starts in a moment, whatever is installed and set here
                [sys.executable, "-I", "-S", supervisor.__file__, *map(str, descriptors)],
                pass_fds=[descriptor for descriptor in descriptors if descriptor >= 0],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _dismiss(self) -> None:
        """End the supervisor; it ends what it runs first."""
        if self._process is not None:
            self._lines.close()
            self._control.close()
            self._process.wait()
            self._process = None

    def _send(self, message: Plain) -> None:
        self._control.sendall(json.dumps(message).encode() + b"\n")

    def _show(self, data: bytes) -> None:
        """Pass on what a command printed; output that cannot be shown must not delay its end."""
        self._open_line = not data.endswith(b"\n")
        with contextlib.suppress(OSError, ValueError):
            stream = getattr(sys.stderr, "buffer", None)
            if stream is None:
                sys.stderr.write(data.decode(errors="replace"))
            else:
                sys.stderr.flush()
                stream.write(data)
            sys.stderr.flush()

    def _stop(self, trial: int | None, number: int, count: int) -> None:
        """Ask the supervisor to end the command, and say so; called by a signal."""
        with contextlib.suppress(OSError):
            self._send({"stop": self._serial})
        what = "the veto" if trial is None else f"trial {trial}"
        words = f"{signal.Signals(number).name}: {what} is asked to end; after {self.conduct.grace:g} s it is killed"
        if count > 1:
            words = f"{what} is still being ended"
        with contextlib.suppress(OSError):
            os.write(2, f"policysearch: {words}\n".encode())

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _occupy_standard_descriptors() -> None:
    """Open the null device where the shell closed standard input, output or error; else a pipe would take its place."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
