"""Errors of the system, of text and of databases as sentences: what, where, and what to do. No JAX.

An error that policysearch raised itself is one already. One of the standard library becomes one, if policysearch called
it; those of a user's own code keep their traceback.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import os
import sqlite3
import sys
from collections.abc import Iterator
from types import TracebackType

#: what policysearch calls with files and text of its own
_TRUSTED = {*sys.stdlib_module_names, "PIL", "jax", "matplotlib", "msgspec", "numpy", "safetensors", "tensorboardX"}
_ADVICE = {
    errno.ENOSPC: "the disk is full; make room on it, and do the same again",
    errno.EDQUOT: "the quota of this user is spent; make room, and do the same again",
    errno.EFBIG: "a file grew beyond what is allowed here (ulimit -f, or the file system); raise that, and do it again",
    errno.EROFS: "its file system is read-only; choose another place, or copy the folder to one that can be written",
    errno.EACCES: "this user may not; change its permissions, or choose another place",
    errno.EPERM: "this user may not; change its permissions, or choose another place",
    errno.ENOENT: "there is no such file or folder; check the name",
    errno.ENOTDIR: "a part of it is a file and no folder; check the name",
    errno.EISDIR: "it is a folder; give a file",
    errno.EEXIST: "it is there already; choose another name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EMFILE: "this process has too many files open (ulimit -n)",
    errno.ENFILE: "the system has too many files open",
    errno.EIO: "the disk reports an error; look at it, and do the same again",
    errno.ESTALE: "the file server has forgotten it; mount it again",
    errno.ENOMEM: "there is no memory left",
}


def sentence(error: BaseException) -> str | None:
    """What to say of an error; None of a defect, or of one of a user's own code, which need their traceback."""
    called = _called(error.__traceback__)
    if called is None or not called <= _TRUSTED:
        return None
    if isinstance(error, FileNotFoundError) and _adrift():
        return "the working directory was deleted; change to one that exists (cd), and do the same again."
    if isinstance(error, OSError) and error.errno is not None:
        return _of_system(error)
    if isinstance(error, UnicodeError):
        return f"some text is no {getattr(error, 'encoding', 'UTF-8').upper()} ({error}); write it in UTF-8."
    if isinstance(error, sqlite3.Error):
        return f"a database cannot be used: {error}."
    if isinstance(error, csv.Error):
        return f"a table cannot be read: {error}."
    if isinstance(error, OverflowError):
        return f"a number is too large: {error}."
    meant = not called and isinstance(error, (ValueError, TypeError, OSError, RuntimeError))
    return str(error) if meant else None


@contextlib.contextmanager
def at(path: os.PathLike[str]) -> Iterator[None]:
    """Give errors of the system that name no file this one, as those of calls on open files."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise


def _of_system(error: OSError) -> str:
    if error.errno not in _ADVICE and error.filename is None:
        return f"{error.strerror or error}."
    places = " and ".join(
        os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))
    )
    advice = _ADVICE.get(error.errno or 0, error.strerror)
    return f"{places or 'a file'} cannot be used: {advice}."


def _adrift() -> bool:
    try:
        os.getcwd()
    except OSError:
        return True
    return False


def _called(traceback: TracebackType | None) -> set[str] | None:
    """Top-level modules that policysearch called when the error came; none if it raised it; None if it had no part."""
    found: set[str] | None = None
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "").split(".")[0]
        if module == "policysearch":
            found = set()
        elif found is not None:
            found.add(module)
        traceback = traceback.tb_next
    return found
