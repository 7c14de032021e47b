"""The process between a driver and the program of a trial: it ends the program, whatever happens to the driver.

It runs as this one file, on the standard library alone, in a session of its own; driver and supervisor hold the two
ends of a socket, so that each learns of the other's death at once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import select
import signal
import socket
import sys
import time
import traceback
from typing import Any, NamedTuple

#: set for the program of a trial and everything it starts, so that they can be found if their supervisor is killed
MARK = "POLICYSEARCH_TRIAL"
#: a JSON object
Plain = dict[str, Any]
#: seconds that --on-abort has, and that a killed process has to disappear
ON_ABORT_SECONDS, GONE_SECONDS = 60.0, 10.0
#: share of the grace after which processes that began after the request are asked too
LAST_CALL = 0.8
#: bytes that are kept of a line, and that wait for a driver that is slow to show them
LINE, WAITING = 4096, 1 << 16
#: seconds in which output may still arrive through another process (`exec > >(tee log)`)
_LATE = 0.2
#: exit codes of shells and env for a command that cannot be run
WRONG = (126, 127)
_BLANK = b" \t\v\f\0\n"
_CHILD_SUBREAPER = 36
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|nan|inf(?:inity)?)", re.IGNORECASE)
_ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")


def orderly(code: int, safety: int | None) -> bool:
    """Whether a program that ended with this exit code, negative for a signal, ended of its own accord and cleanly.

    Shells report the signal that ended a command as 128 and its number.

    Example:
        >>> [orderly(code, 4) for code in (0, 1, 75, 4, 127, -9, 137)]
        [True, True, True, False, False, False, False]
    """
    return 0 <= code < 128 and code not in WRONG and code != safety


def number(text: str) -> float | None:
    """The number that a program printed, decimals after a point; None if it is not a number.

    Example:
        >>> [number(text) for text in ("1.5", "-2e3", "inf", "1,5", "1_5", "cost: 3", "")]
        [1.5, -2000.0, inf, None, None, None, None]
    """
    return float(text) if _NUMBER.fullmatch(text) else None


class Tail:
    r"""The last non-blank line of a stream, in bounded memory. A carriage return ends a line too.

    Example:
        >>> tail = Tail()
        >>> tail.feed(b"10 %\r100 %\r\n\x1b[32m1.")
        >>> tail.feed(b"5\x1b[0m\n\n")
        >>> tail.text
        '1.5'
    """

    def __init__(self) -> None:
        self._last = self._line = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        ended, _, rest = (self._line + data.replace(b"\r", b"\n")).rpartition(b"\n")
        # the beginning of a line that is too long is kept, one byte more than fits
        self._line = rest[: LINE + 1]
        ended = ended.rstrip(_BLANK)
        # the last line is usually near the end, and the input may be long
        for place in (ended.rfind(b"\n", 0, -LINE), -1):
            for piece in reversed(ended[place + 1 :].split(b"\n")):
                if line := _bare(piece):
                    self._last = line
                    return

    @property
    def text(self) -> str:
        """The line; undecodable bytes are replaced, and one that is too long ends with an ellipsis."""
        line = _bare(self._line) or self._last
        text = line[:LINE].decode(errors="replace").removeprefix("\ufeff").strip()
        return text + "…" if len(line) > LINE else text


def _bare(line: bytes) -> bytes:
    """A line without colours, and without blanks and NULs around it."""
    return _ESCAPES.sub(b"", line).strip(_BLANK)[: LINE + 1]


class Process(NamedTuple):
    """Whether a process is in the group of the trial, and the name of the program that it executes."""

    grouped: bool
    program: bytes = b""


def living(mark: str, group: int, root: int | None) -> dict[int, Process] | None:
    """Processes of a trial that have not ended.

    Args:
        mark: that the trial's environment carries.
        group: process group and session of the trial, 0 if unknown.
        root: process of which all are descendants because orphans go to it; None if nothing ensures that.

    Returns:
        None if the system does not list processes; then only the group is known.
    """
    if not os.path.exists("/proc/self/stat"):
        return None
    found: dict[int, tuple[int, int, int, bytes]] = {}
    marked = set()
    wanted = f"{MARK}={mark}".encode()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                program, _, rest = file.read().rpartition(b")")
            state, parent, own_group, session = rest.split()[:4]
            if state not in (b"Z", b"X"):
                found[int(name)] = (int(parent), int(own_group), int(session), program.partition(b"(")[2])
            if root is None:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if wanted in file.read().split(b"\0"):
                        marked.add(int(name))
        except (OSError, ValueError):
            continue  # it has ended, or is another user's
    if root is None:
        chosen = {pid for pid, (_, _, session, _) in found.items() if pid in marked or (group and session == group)}
    else:
        chosen, more = set(), {root}
        while more:
            more = {pid for pid, (parent, *_) in found.items() if parent in more and pid not in chosen}
            chosen |= more
    chosen &= found.keys() - {os.getpid()}
    return {pid: Process(found[pid][1] == group, found[pid][3]) for pid in chosen}


class Supervisor:
    """Runs programs to their ends, one at a time; see `main`."""

    def __init__(self, control: socket.socket, lock: int, pipes: dict[str, int], ends: list[int]):
        self._control: socket.socket | None = control
        self._lock, self._pipes, self._ends = lock, pipes, ends
        self._incoming, self._outgoing = b"", bytearray()
        self._requests: list[Plain] = []
        self._wake, waker = os.pipe()
        for descriptor in (self._wake, waker):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for request in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(request, lambda number, frame: self._ask())
        self._adopts, self._leashes = _adopts(), _leashes()
        self._leash: socket.socket | None = None
        self._begin({"serial": -1, "shown": []})

    def serve(self) -> None:
        """Serve the driver's requests until it is gone and nothing is left to end."""
        while True:
            while not self._requests:
                if self._control is None:
                    return
                self._turn(None)
            self._carry_out(self._requests.pop(0))

    def defect(self, words: str) -> None:
        """End the program if this one fails, and say so."""
        if self._group:
            self._end(self._request["grace"])
        self._send({"defect": words})

    def _begin(self, request: Plain) -> None:
        """Forget the previous program."""
        self._request = request
        if self._leash is not None:
            self._leash.close()  # nothing is left to hear it
            self._leash = None
        self._tails = {"out": Tail(), "err": Tail()}
        self._codes: dict[int, int] = {}
        self._asked = self._told = False
        self._group = 0
        self._root = os.getpid() if self._adopts else None

    def _carry_out(self, request: Plain) -> None:
        """Run a program to its end, or end what another supervisor left; then tell the driver."""
        command, on_abort = ([word.encode("latin-1") for word in request[name]] for name in ("command", "on_abort"))
        started = time.monotonic()
        self._drain(0.0)  # what came after the previous program's end
        self._begin(request)
        if command:
            report = self._run(command, started)
        else:
            # only the mark identifies the processes of a killed supervisor
            self._root, self._group, self._told = None, request["group"], request["told"]
            report = {"cause": "taken over", "code": None}
        said = {name: tail.text for name, tail in self._tails.items()}
        left, alive = self._end(request["grace"])
        if report["cause"] != "exit":
            self._drain(0.0)  # its last words
            said = {name: tail.text for name, tail in self._tails.items()}
        report |= said
        report |= {"left": left, "alive": alive, "seconds": time.monotonic() - started, "on_abort": None}
        moved = report["cause"] not in ("error", "not started")
        if moved and on_abort and not (report["cause"] == "exit" and orderly(report["code"], request["safety"])):
            report["on_abort"] = self._abort(on_abort)
        if not alive and not report["on_abort"]:
            self._write_down({})
        self._send({"ended": report})
        while self._outgoing and self._control is not None:  # a stopped driver is waited for
            self._turn(None)

    def _run(self, command: list[bytes], started: float) -> Plain:
        """Start a program and wait until it ends or must be ended; why, and its exit code if it has one yet."""
        if self._control is None:
            return {"cause": "not started", "code": None}
        known = {"trial": self._request["trial"], "mark": self._request["mark"], "told": self._leashes}
        self._write_down(known | {"group": 0})
        try:
            child = self._group = self._start(command, self._ends, leashed=True)
        except OSError as error:
            return {"cause": "error", "code": error.errno}
        self._write_down(known | {"group": child})
        self._send({"told": known["told"], "group": child})
        timeout = self._request["timeout"]
        while child not in self._codes:
            left = None if timeout is None else started + timeout - time.monotonic()
            if self._asked or self._control is None:
                return {"cause": "asked", "code": None}
            if left is not None and left <= 0:
                return {"cause": "timeout", "code": None}
            self._turn(left)
        # what it wrote is there by now; a process that it left behind holds the pipe open, and is not waited for
        self._drain(0.0)
        if self._codes[child] == 0 and number(self._tails["out"].text) is None and self._reap():
            self._drain(_LATE)
        return {"cause": "exit", "code": self._codes[child]}

    def _drain(self, seconds: float) -> None:
        """Read what the pipes hold and, for so many seconds, what still arrives, until it ends with a number."""
        until = time.monotonic() + seconds
        while self._pipes:
            ready = select.poll()
            for descriptor in self._pipes.values():
                ready.register(descriptor, select.POLLIN)
            if not ready.poll(max(0.0, until - time.monotonic()) * 1000):
                return
            for name in list(self._pipes):
                self._read(name)
            if seconds and number(self._tails["out"].text) is not None:
                seconds, until = 0.0, 0.0

    def _start(self, command: list[bytes], ends: list[int], leashed: bool = False) -> int:
        """Start a program in a session of its own; return its process.

        Args:
            command: program and arguments. ends: descriptors of its output and its errors.
            leashed: if the system can, it is asked to end when this process dies.

        Raises:
            OSError: it cannot be executed.
        """
        environment = dict(os.environb) | {MARK.encode(): self._request["mark"].encode()}
        reading, writing = os.pipe()
        self._leash, theirs = socket.socketpair() if leashed and self._leashes else (None, None)
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                if theirs is not None and self._leash is not None:
                    self._leash.close()
                    _leash(theirs, -os.getpid(), signal.SIGTERM)
                for descriptor, end in enumerate(ends, 1):
                    os.set_blocking(end, True)  # the previous one may have changed it
                    os.dup2(end, descriptor)
                for descriptor in self._pipes.values():
                    os.set_inheritable(descriptor, True)  # if all readers die, its last words must not kill it
                signal.set_wakeup_fd(-1)
                for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD", "SIGPIPE", "SIGXFSZ"):
                    signal.signal(getattr(signal, name), signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_SETMASK, [])
                os.execvpe(command[0], command, environment)
            except OSError as error:
                os.write(writing, str(error.errno).encode())
            except BaseException:
                os.write(writing, str(errno.EINVAL).encode())
            os._exit(WRONG[1])
        os.close(writing)
        if theirs is not None:
            theirs.close()
        with os.fdopen(reading, "rb") as file:
            failure = file.read()
        if failure:
            os.waitpid(child, 0)
            raise OSError(int(failure), os.strerror(int(failure)))
        return child

    def _end(self, grace: float) -> tuple[int, list[int]]:
        """Ask whatever is left of the program to end, and kill it after some seconds.

        Returns:
            How many processes had to be ended, and those that are still there.
        """
        self._asked = True
        left = self._processes()
        if not left:
            return 0, []
        asked = {pid: process for pid, process in left.items() if not (self._told and process.grouped)}
        self._signal(signal.SIGTERM, asked)
        self._signal(signal.SIGCONT, left)
        remaining = self._wait(LAST_CALL * grace)
        # a shell that was asked while it started a command runs its trap after that command, which may not have been
        # asked, or have lost the request as it was executed
        missed = {pid for pid, process in remaining.items() if asked.get(pid) != process} - {self._group}
        self._signal(signal.SIGTERM, {pid: Process(False) for pid in missed})
        remaining = remaining and self._wait((1 - LAST_CALL) * grace)
        until = time.monotonic() + GONE_SECONDS
        while remaining and time.monotonic() < until:
            self._signal(signal.SIGKILL, remaining)
            remaining = self._wait(0.02)
        return len(left), sorted(remaining)

    def _wait(self, seconds: float) -> dict[int, Process]:
        """Wait until no process is left; return those that are left at the end."""
        until, pause = time.monotonic() + seconds, 0.002
        while True:
            remaining = self._processes()
            left = until - time.monotonic()
            if not remaining or left <= 0:
                return remaining
            self._turn(min(pause, left))
            pause = min(2 * pause, 0.05)

    def _processes(self) -> dict[int, Process]:
        """See `living`."""
        if not self._reap() and self._root is not None:
            return {}
        for _ in range(3):  # a child may have been looked for at the very moment its parent ended
            found = living(self._request["mark"], self._group, self._root)
            if found is None:
                break
            if found or self._root is None:
                return found
        try:
            os.killpg(self._group, 0)
        except (ProcessLookupError, PermissionError):
            return {}
        return {self._group: Process(True)} if self._group else {}

    def _signal(self, number: int, processes: dict[int, Process]) -> None:
        """Send a signal to processes; all at once to those of the program's own group."""
        alone = [pid for pid, process in processes.items() if not process.grouped]
        whole = [self._group] if len(alone) < len(processes) else []
        for send, targets in ((os.killpg, whole), (os.kill, alone)):
            for target in targets:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    send(target, number)

    def _abort(self, command: list[bytes]) -> str:
        """Run --on-abort to its end, even if the driver is gone; "" if that went well, else what went wrong."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        self._pipes["abort"], self._tails["abort"] = reading, Tail()
        try:
            child = self._start(command, [writing, writing])
        except OSError as error:
            return f"it cannot be started: {error.strerror}"
        finally:
            os.close(writing)
        self._group, self._told = child, False
        until = time.monotonic() + ON_ABORT_SECONDS
        while child not in self._codes and time.monotonic() < until:
            self._turn(until - time.monotonic())
        code = self._codes.get(child)
        if code is not None:
            self._drain(0.0)
        last = self._tails["abort"].text
        self._end(1.0)
        if code == 0:
            return ""
        how = f"timed out after {ON_ABORT_SECONDS:g} s" if code is None else f"exit code {code}"
        if code is not None and code < 0:
            how = f"ended by signal {-code}"
        return f"{how}: {last}" if last else how

    def _ask(self) -> None:
        self._asked = True

    def _turn(self, seconds: float | None) -> None:
        """Wait for what comes next, for so many seconds at most: the driver's message, output, the end of a process."""
        ready = select.poll()
        ready.register(self._wake, select.POLLIN)
        if self._control is not None:
            ready.register(self._control, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
        # a driver that does not show what it gets blocks a program, but not one that is to end
        full = len(self._outgoing) > WAITING and not self._asked and self._control is not None
        names = {} if full else {descriptor: name for name, descriptor in self._pipes.items()}
        for descriptor in names:
            ready.register(descriptor, select.POLLIN)
        for descriptor, event in ready.poll(None if seconds is None else max(0.0, seconds) * 1000):
            if descriptor == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
            elif descriptor in names:
                self._read(names[descriptor])
            elif self._control is not None and event & select.POLLOUT:
                self._push()
            elif self._control is not None:
                self._listen()
        self._reap()

    def _listen(self) -> None:
        """Hear the driver: a request, {"stop": its serial number}, or the driver's end."""
        try:
            data = b"" if self._control is None else self._control.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop()
        *lines, self._incoming = (self._incoming + data).split(b"\n")
        for message in map(json.loads, lines):
            if "stop" not in message:
                self._requests.append(message)
            elif message["stop"] == self._request["serial"]:
                self._ask()

    def _drop(self) -> None:
        """Continue without the driver."""
        if self._control is not None:
            self._control.close()
        self._control = None
        self._outgoing.clear()

    def _read(self, name: str) -> None:
        try:
            data = os.read(self._pipes[name], 1 << 16)
        except BlockingIOError:
            return
        if not data:
            os.close(self._pipes.pop(name))
            return
        self._tails[name].feed(data)
        if name in self._request["shown"] and len(self._outgoing) <= WAITING:
            self._send({"output": data.decode("latin-1")})

    def _send(self, message: Plain) -> None:
        if self._control is not None:
            self._outgoing += json.dumps(message).encode() + b"\n"
            self._push()

    def _push(self) -> None:
        """Send as much as the driver takes."""
        try:
            if self._control is not None:
                del self._outgoing[: self._control.send(self._outgoing)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop()

    def _reap(self) -> bool:
        """Collect the exit codes of children that ended; whether there are others."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._codes[pid] = os.waitstatus_to_exitcode(status)

    def _write_down(self, known: Plain) -> None:
        """Record what is known of a trial's processes, for a driver that finds neither this process nor their end."""
        if self._lock >= 0 and self._request["trial"] is not None:
            data = json.dumps(known).encode() if known else b""
            os.pwrite(self._lock, data, 0)
            os.ftruncate(self._lock, len(data))


def _adopts() -> bool:
    """Have orphaned descendants of this process become its children, so that none is lost; whether that works."""
    if sys.platform != "linux":
        return False
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def _leash(end: socket.socket, owner: int, number: int) -> None:
    """Have the system send a signal when the other end of a socket is closed, as it is when its process dies.

    A parent-death signal would reach one process; this one reaches a group, as long as one process holds the socket.

    Args:
        end: of the socket, held by the owner.
        owner: process, or the negative of a process group.
        number: of the signal.
    """
    end.set_inheritable(True)
    fcntl.fcntl(end, fcntl.F_SETOWN, owner)
    fcntl.fcntl(end, fcntl.F_SETSIG, number)
    fcntl.fcntl(end, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
    with contextlib.suppress(BlockingIOError):
        end.recv(1)  # nothing is ever sent: the other end was already closed
        os._exit(1)


def _leashes() -> bool:
    """Whether this system supports that."""
    if not hasattr(fcntl, "F_SETSIG"):
        return False
    probe = {signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, probe)
    try:
        ours, theirs = socket.socketpair()
        with theirs:
            _leash(theirs, os.getpid(), signal.SIGUSR1)
            ours.close()
            return signal.sigtimedwait(probe, 0) is not None
    except OSError:
        return False
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, probe)


def main(arguments: list[str]) -> None:
    """Serve requests, lines of JSON on a socket, and answer with lines of JSON; see `keeper.Keeper`.

    Args:
        arguments: descriptors of the socket, of the lock, of the reading ends of the programs' output and errors, and
            of their writing ends; −1 means no lock.
    """
    control, lock, out, err, *ends = map(int, arguments)
    for descriptor in (control, lock, out, err, *ends):
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)
    for descriptor in (out, err):
        os.set_blocking(descriptor, False)
    connection = socket.socket(fileno=control)
    connection.setblocking(False)
    supervisor = Supervisor(connection, lock, {"out": out, "err": err}, ends)
    try:
        supervisor.serve()
    except BaseException:
        supervisor.defect(traceback.format_exc())
        raise


if __name__ == "__main__":
    main(sys.argv[1:])
