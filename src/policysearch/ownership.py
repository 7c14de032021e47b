"""Who owns a run: a lock file that names process and host, freed by the kernel when its holder ends. No JAX."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path

import msgspec

LOCK = "run.lock"
#: seconds after which a lock file without a name in it is one that a killed process left
NAMELESS = 10.0


class InUseError(RuntimeError):
    """Another process, or another search of this one, owns the run."""


class Ownership:
    """The only right to write into a run's folder, held until `release` or the end of the process.

    Args:
        folder: of the run; it exists.

    Raises:
        InUseError: another process, or another search of this one, owns the run; its pid and host are named.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> owner = Ownership(folder)
        >>> owner.release()
    """

    def __init__(self, folder: Path):
        self._path = folder / LOCK
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _holder(descriptor)
                os.close(descriptor)
                raise InUseError(
                    f"{folder} is in use by {holder}. Wait until that ends, or end it; reading (policysearch status) "
                    "needs no ownership."
                ) from error
            if self._is_current(descriptor):
                break
            os.close(descriptor)  # its holder removed the file between our open and our lock
        self._descriptor = descriptor
        os.ftruncate(descriptor, 0)
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        os.pwrite(descriptor, msgspec.json.encode(mine), 0)

    def release(self) -> None:
        """Let others own the run, and remove the file."""
        with contextlib.suppress(FileNotFoundError):
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


def _holder(descriptor: int) -> str:
    """Process and host, as the holder wrote them."""
    return _named(os.pread(descriptor, 4096, 0))


def _named(content: bytes) -> str:
    try:
        holder = msgspec.json.decode(content)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (msgspec.DecodeError, KeyError, TypeError):
        return "another process that has not written its name yet"
