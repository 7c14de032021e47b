"""Errors of the system, of text and of databases as sentences: what, where, and what to do. No JAX.

An error that policysearch itself raised is one already. One of the standard library becomes one, if policysearch called
it; those of a user's own code keep their traceback.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import linecache
import os
import sqlite3
import sys
import traceback
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

#: modules that policysearch calls with its own files and text
_TRUSTED = {*sys.stdlib_module_names, "PIL", "jax", "matplotlib", "msgspec", "numpy", "safetensors", "tensorboardX"}
_ADVICE = {
    errno.ENOSPC: "the disk is full; make room on it, and try again",
    errno.EDQUOT: "this user's disk quota is used up; make room, and try again",
    errno.EFBIG: "a file grew beyond the limit here (ulimit -f, or the file system); raise it, and try again",
    errno.EROFS: "its file system is read-only; choose another place, or copy the folder to a writable one",
    errno.EACCES: "permission denied; change its permissions, or choose another place",
    errno.EPERM: "permission denied; change its permissions, or choose another place",
    errno.ENOENT: "there is no such file or folder; check the name",
    errno.ENOTDIR: "a part of it is a file, not a folder; check the name",
    errno.EISDIR: "it is a folder; give a file",
    errno.EEXIST: "it already exists; choose another name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EMFILE: "this process has too many files open (ulimit -n)",
    errno.ENFILE: "the system has too many files open",
    errno.EIO: "the disk reports an error; check it, and try again",
    errno.ESTALE: "the file server no longer knows it; mount it again",
    errno.ENOMEM: "out of memory",
}


def sentence(error: BaseException) -> str | None:
    """What to say about an error; None for a defect or an error in a user's own code, which need their traceback."""
    called = _called(error.__traceback__)
    if called is None or not called <= _TRUSTED:
        return None
    if isinstance(error, FileNotFoundError) and _adrift():
        return "the working directory was deleted; change to one that exists (cd), and try again."
    if isinstance(error, OSError) and error.errno is not None:
        return _of_system(error)
    if isinstance(error, UnicodeError):
        return f"some text is not valid {getattr(error, 'encoding', 'UTF-8').upper()} ({error}); write it in UTF-8."
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
    """Give system errors that name no file, such as those of calls on open files, this one."""
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


def _called(frames: TracebackType | None) -> set[str] | None:
    """Top-level modules that policysearch called at the error; empty if it raised it; None if not involved."""
    found: set[str] | None = None
    while frames is not None:
        module = frames.tb_frame.f_globals.get("__name__", "").split(".")[0]
        if module == "policysearch":
            found = set()
        elif found is not None:
            found.add(module)
        frames = frames.tb_next
    return found


#: packages whose code is not the user's
_OTHERS = ("policysearch", "jax", "equinox", "numpy", "scipy")


def place(error: BaseException) -> str:
    """The last line of the user's own code in an error's traceback, as "file:line: code"; "" without one.

    Example:
        >>> place(ValueError("never raised"))
        ''
    """
    found = ""
    others = {str(Path(spec.origin).parent) for name in _OTHERS if (spec := find_spec(name)) and spec.origin}
    for frame in traceback.extract_tb(error.__traceback__):
        if not frame.filename.startswith((*others, "<")) and "importlib" not in frame.filename:
            line = linecache.getline(frame.filename, frame.lineno or 0).strip()
            found = f"{frame.filename}:{frame.lineno}: {line}"
    return found


def said(error: BaseException) -> str:
    """An error's type and first line, with its location in the user's code."""
    lines = str(error).strip().splitlines() or [""]
    where = place(error)
    return f"{type(error).__name__}: {lines[0]}" + (f"\n  {where}" if where else "")
