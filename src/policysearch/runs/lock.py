"""Who owns a run: a lock file that names process and host, freed by the kernel when its holder ends. No JAX."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import time
from pathlib import Path

import msgspec

from policysearch.core.diagnoses import at

LOCK = "run.lock"
#: seconds after which a lock file without a name in it is one that a killed process left
NAMELESS = 10.0
#: seconds that a short command waits for other short ones, which come one after the other
PATIENCE = 60.0
_POLL = 0.05
#: what `flock` answers where somebody else has the lock
_TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


class InUseError(RuntimeError):
    """Another process, or another search of this one, owns the run."""


class Ownership:
    """The only right to write into a run's folder, held until `release` or the end of the process.

    Args:
        folder: of the run; it exists.
        wait: seconds to wait for an owner that goes on, for a short command, which itself ends soon. Others of its kind
            are waited for up to `PATIENCE` seconds. None for an owner that goes on, and does not wait.

    Raises:
        InUseError: another process, or another search of this one, owns the run; its pid and host are named.
        OSError: nothing can be written there, or its file system, which is named, gives no locks.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> owner = Ownership(folder)
        >>> owner.release()
    """

    def __init__(self, folder: Path, wait: float | None = None):
        self._path = folder / LOCK
        began = time.monotonic()
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                locked = self._locked(descriptor, folder, wait, time.monotonic() - began)
            except BaseException:
                os.close(descriptor)
                raise
            if locked:
                break
            os.close(descriptor)
        self._descriptor = descriptor
        try:
            self._write_name(descriptor, brief=wait is not None)
        except BaseException:
            self.release()
            raise

    def _locked(self, descriptor: int, folder: Path, wait: float | None, waited: float) -> bool:
        """Whether the lock is ours; False to try again."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _TAKEN:
                if not os.fstat(descriptor).st_size:
                    self._path.unlink(missing_ok=True)  # just made; where there are no locks nobody has it
                raise OSError(
                    f"{folder} is on {file_system(folder)}, which gives no lock on a file ({error.strerror}), so that "
                    "two programs could write into one run. Keep the run on a local disk, or have the share mounted "
                    "with locks (NFS: version 4, or a running lockd)."
                ) from error
            content = os.pread(descriptor, 4096, 0)
            longest = 0.0 if wait is None else PATIENCE if _is_brief(content) else wait
            if waited >= longest:
                raise InUseError(
                    f"{folder} is in use by {_named(content)}. Wait until that ends, or end it; reading (policysearch "
                    "status) needs no ownership."
                ) from error
            time.sleep(_POLL)
            return False
        return self._is_current(descriptor)  # else its holder removed the file between our open and our lock

    def _write_name(self, descriptor: int, brief: bool) -> None:
        since = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "brief": brief}
        with at(self._path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, msgspec.json.encode(mine), 0)

    def release(self) -> None:
        """Let others own the run, and remove the file."""
        with contextlib.suppress(OSError):  # the folder is gone, or has become read-only
            self._path.unlink()
        os.close(self._descriptor)

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False


def owner(folder: Path) -> str | None:
    """Process and host that own a run, as far as a reader can tell; None if nobody does.

    No lock is taken, which might refuse a writer: the file says who, and the process table whether it is alive. Those
    of other hosts count as alive.
    """
    path = folder / LOCK
    try:
        content, written = path.read_bytes(), path.stat().st_mtime
    except OSError:
        return None
    if not content:
        return _named(content) if abs(time.time() - written) < NAMELESS else None
    try:
        holder = msgspec.json.decode(content)
        if holder["host"] == socket.gethostname():
            os.kill(int(holder["pid"]), 0)
    except PermissionError:
        pass  # alive, and somebody else's
    except (OSError, OverflowError, ValueError, KeyError, TypeError):
        return None
    return _named(content)


def file_system(folder: Path) -> str:
    """Kind, source and place of the file system that holds a folder, where the system tells (Linux)."""
    found, longest = "a file system", -1
    place = os.path.realpath(folder)
    with contextlib.suppress(OSError), open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            source, point, kind, *_ = (re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), w) for w in line.split(" "))
            if os.path.commonpath([place, point]) == point and len(point) >= longest:
                found, longest = f"a file system of type {kind} ({source} at {point})", len(point)
    return found


def _is_brief(content: bytes) -> bool:
    """Whether a holder is a short command; one that has not written its name yet may be."""
    try:
        return not content or bool(msgspec.json.decode(content).get("brief"))
    except (msgspec.DecodeError, AttributeError):
        return False


def _named(content: bytes) -> str:
    try:
        holder = msgspec.json.decode(content)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (msgspec.DecodeError, KeyError, TypeError):
        return "another process that has not written its name yet"
