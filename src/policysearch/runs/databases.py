"""SQLite databases: their errors as sentences that say what is wrong and what to do, and how they are read. No JAX.

An error that says nothing of a database's contents (a full disk, a read-only place) is never called damage.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path


def damaged(path: Path, what: object) -> ValueError:
    """The error that says what is wrong with a database, and what can be done."""
    words = " ".join(str(what).split())
    return ValueError(
        f"{path} is damaged: {words}. Restore it from a copy, or keep what is whole: policysearch repair {path.parent}"
    )


@contextlib.contextmanager
def explained(path: Path, damage: Callable[[Path, object], ValueError] = damaged) -> Iterator[None]:
    """Errors of SQLite as those of a file: what it is, and what to do.

    Args:
        path: of the database.
        damage: makes the error of one that is damaged.

    Raises:
        OSError: the disk, or the place on it, does not let the database be used.
        RuntimeError: it was closed.
        ValueError: it is damaged.
    """
    try:
        yield
    except sqlite3.ProgrammingError as error:
        raise RuntimeError(f"{path} was closed by this process; open the run again.") from error
    except sqlite3.Error as error:
        code = _code(error)
        if code not in _OUTSIDE:
            raise damage(path, error) from error
        raise OSError(f"{path} cannot be {_OUTSIDE[code]} (SQLite: {error}).") from error


#: codes of SQLite that say nothing of a database's contents: what does not work, and what to do
_OUTSIDE = {
    sqlite3.SQLITE_FULL: "written: its disk is full. Make room, and do the same again",
    sqlite3.SQLITE_IOERR: "read or written: its disk reports an error. Look at the disk, and do the same again",
    sqlite3.SQLITE_READONLY: "written: it or its folder is read-only. Copy the folder to a place that can be written",
    sqlite3.SQLITE_CANTOPEN: "opened: it or its folder cannot be read or written by this user, or there is no room",
    sqlite3.SQLITE_PERM: "opened: this user may not",
    sqlite3.SQLITE_AUTH: "opened: this user may not",
    sqlite3.SQLITE_BUSY: "used: another process keeps it busy. Try again in a moment",
    sqlite3.SQLITE_LOCKED: "used: another process keeps it busy. Try again in a moment",
    sqlite3.SQLITE_PROTOCOL: "used: its file system does not lock files reliably. Keep the run on a local disk",
    sqlite3.SQLITE_NOLFS: "written: its file system has no files so large. Keep the run on another disk",
    sqlite3.SQLITE_NOMEM: "used: there is no memory left",
    sqlite3.SQLITE_TOOBIG: "written: a row is too large",
}


def _code(error: sqlite3.Error) -> int:
    """The primary code of an error of SQLite, 0 where it has none."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that reads a database.

    A process that was killed leaves a log without its index, which SQLite makes anew beside it. Where that cannot be
    written, the database and its log are read from a copy.
    """
    with contextlib.ExitStack() as stack:
        connection = None
        try:
            connection = stack.enter_context(
                contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True))
            )
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.Error as error:
            if _code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="policysearch-")))
                connection = stack.enter_context(contextlib.closing(sqlite3.connect(_copied(path, place))))
            elif connection is None:
                raise
        yield connection


def _copied(path: Path, place: Path) -> Path:
    """A copy of a database with its log, of one moment."""
    names = [path.name, f"{path.name}-wal", f"{path.name}-journal"]

    def state() -> list[tuple[int, int] | None]:
        found = [path.with_name(name) for name in names]
        return [(file.stat().st_size, file.stat().st_mtime_ns) if file.exists() else None for file in found]

    for _ in range(5):
        before = state()
        for name in names:
            (place / name).unlink(missing_ok=True)
            if path.with_name(name).exists():
                shutil.copyfile(path.with_name(name), place / name)
        if state() == before:
            break
    return place / path.name
