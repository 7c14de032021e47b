"""`History`: what happened in a run, as rows of one SQLite table that are only ever added. No JAX.

Row i has dᵢ = SHA-256(dᵢ₋₁, kind, body, SHA-256(blob)), so that a changed, missing or swapped row shows. The last dᵢ
also stands in a small file beside the database: SQLite drops committed rows in silence when its log is damaged.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from policysearch.core.diagnoses import at
from policysearch.runs.databases import damaged, explained, reading
from policysearch.runs.pages import Pages

#: kind of row whose blob may be dropped once it is not among the last few of its kind
PRUNED = "update"
#: such blobs that are kept
KEPT = 3
#: bytes of one of the two slots of the head file
_SLOT = 160
_TABLE = """
CREATE TABLE history (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, trial INTEGER, body BLOB NOT NULL, blob BLOB, blob_digest BLOB,
    digest BLOB NOT NULL
);
CREATE INDEX of_trial ON history (trial) WHERE trial IS NOT NULL;
"""
_LAST = "ORDER BY number DESC LIMIT 1"
_COLUMNS = "number, kind, trial, body, blob, blob_digest, digest"


class Row(NamedTuple):
    """One thing that happened.

    kind: such as "asked", "told", "update". body: JSON. blob: arrays as bytes, or None (none, or dropped since).
    trial: number of the trial that it is about, if any.
    """

    kind: str
    body: bytes
    blob: bytes | None = None
    trial: int | None = None


class History:
    """Adds rows; those of one call are on disk together, or none of them is. Any thread may call, one at a time.

    Args:
        path: of the database.
        head: of the small file.
        create: start an empty one, which must not exist; otherwise go on with one that `read` has checked.

    Raises:
        FileExistsError: `create` and there is one.
    """

    def __init__(self, path: Path, head: Path, *, create: bool):
        self.path = path
        self._lock = threading.RLock()
        with contextlib.ExitStack() as undo:
            if create:
                path.touch(exist_ok=False)  # of two that start at once, the second one fails here
                for made in (
                    path,
                    *(path.with_name(f"{path.name}-{tail}") for tail in ("wal", "shm", "journal")),
                    head,
                ):
                    undo.callback(made.unlink, missing_ok=True)
            with explained(path):
                self._connection = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
                undo.callback(self._connection.close)
                for pragma in ("journal_mode=WAL", "synchronous=FULL", "locking_mode=NORMAL"):
                    self._connection.execute(f"PRAGMA {pragma}")
                if create:
                    self._connection.executescript(f"BEGIN; {_TABLE} COMMIT;")
                last = self._connection.execute(f"SELECT number, digest FROM history {_LAST}").fetchone()
                self._number: int = 0 if last is None else last[0]
                self._digest: bytes = b"" if last is None else last[1]
                rows = self._connection.execute(
                    "SELECT number FROM history WHERE kind = ? AND blob IS NOT NULL ORDER BY number", (PRUNED,)
                )
                self._with_blob = [number for (number,) in rows]
            self._head = os.open(head, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            undo.callback(os.close, self._head)
            self._slot = 0
            with at(head):
                self._write_head()
                self._write_head()  # both slots have their place on the disk from now on
            undo.pop_all()

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows, and return when the disk has them.

        Raises:
            OSError: the disk does not take them (it is full, say); then nothing was added.
        """
        with self._lock:
            number, previous, added = self._number, self._digest, []
            for row in rows:
                number += 1
                blob_digest = None if row.blob is None else hashlib.sha256(row.blob).digest()
                previous = _digest(previous, row.kind, row.trial, row.body, blob_digest)
                added.append((number, row.kind, row.trial, row.body, row.blob, blob_digest, previous))
            heavy = self._with_blob + [entry[0] for entry in added if entry[1] == PRUNED and entry[4] is not None]
            with self._transaction():
                self._connection.executemany(f"INSERT INTO history ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", added)
                old = [(number,) for number in heavy[:-KEPT]]
                self._connection.executemany("UPDATE history SET blob = NULL WHERE number = ?", old)
            self._with_blob = heavy[-KEPT:]
            self._number, self._digest = number, previous
            # the rows are there: a head that is behind them only checks fewer
            with contextlib.suppress(OSError):
                self._write_head()

    def of_kind(self, kind: str) -> Iterator[bytes]:
        """The bodies of all rows of a kind, in order, as they are."""
        for (body,) in self._connection.execute("SELECT body FROM history WHERE kind = ? ORDER BY number", (kind,)):
            yield body

    def of_trial(self, trial: int) -> list[Row]:
        """What was written about a trial, in order."""
        query = "SELECT kind, body, blob, trial FROM history WHERE trial = ? ORDER BY number"
        with self._lock, explained(self.path):
            return [Row(*row) for row in self._connection.execute(query, (trial,))]

    def close(self) -> None:
        """End the writing; one database file is left without companions, which can be copied as it is."""
        with self._lock, contextlib.ExitStack() as last:
            last.callback(os.close, self._head)
            last.callback(self._connection.close)
            # where somebody is reading, the companions stay
            with contextlib.suppress(sqlite3.OperationalError):
                self._connection.execute("PRAGMA journal_mode=DELETE")
            os.fsync(self._head)

    def _write_head(self) -> None:
        # two slots in turn, so that a torn write leaves the other one; not synced, because a head that is behind the
        # database after a power cut only checks fewer rows
        text = f"{self._number:020d} {bytes(self._digest).hex():64}"
        check = hashlib.sha256(text.encode()).hexdigest()[:32]
        os.pwrite(self._head, f"{text} {check}".ljust(_SLOT - 1).encode() + b"\n", self._slot * _SLOT)
        self._slot ^= 1

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def read(path: Path, head: Path, *, every: bool = True) -> Iterator[Row]:
    """The rows of a history, each checked before it is given; a writer may go on.

    Nothing is written, except that SQLite undoes what a process left half done that ended while it opened or closed the
    database.

    Args:
        path: of the database.
        head: of the small file.
        every: give all rows, in order; otherwise of those about trials only the ones after the last update, at the end.

    Raises:
        OSError: it cannot be read.
        ValueError: something is damaged; the row and the file are named.
    """
    known = _read_head(head)  # before the database, which may only have more rows than this
    if path.with_name(f"{path.name}-journal").exists():
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)) as connection,
        ):
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    try:
        with explained(path), reading(path) as connection:
            yield from _checked(connection, known, every)
    except (OverflowError, UnicodeDecodeError) as error:
        raise damaged(path, error) from error
    except _DamageError as error:
        raise damaged(path, error) from None


class Found(NamedTuple):
    """A row of a damaged history. whole: it is what was written, if the row before is."""

    number: int
    row: Row
    whole: bool


def salvage(path: Path) -> Iterator[Found]:
    """All rows of a damaged history that can be found, in order; nothing is written."""
    last, before = 0, b""
    for entries in Pages(path).rows(len(_COLUMNS.split(","))):
        entries = [entry for entry in entries if type(entry[1]) is str]
        found = [_found(entry, before if entry[0] == last + 1 else None) for entry in entries]
        if not found:
            continue
        chosen = next((each for each in found if each.whole), found[0])
        yield chosen
        last, before = chosen.number, entries[found.index(chosen)][-1]


def sound(path: Path) -> bool:
    """Whether the database's own structure is, its index among it; `read` checks the rows."""
    with reading(path) as connection:
        try:
            return connection.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",)
        except sqlite3.DatabaseError:
            return False


def _found(entry: tuple[Any, ...], before: Any) -> Found:
    number, kind, trial, body, blob, blob_digest, digest = entry
    whole = type(body) is bytes and type(before) is bytes and (trial is None or type(trial) is int)
    whole = whole and (blob_digest is None or type(blob_digest) is bytes)
    whole = whole and _digest(before, kind, trial, body, blob_digest) == digest
    if blob is not None:
        whole = whole and type(blob) is bytes and hashlib.sha256(blob).digest() == blob_digest
    elif kind != PRUNED:
        whole = whole and blob_digest is None
    return Found(number, Row(kind, body, blob, trial), whole)


def acknowledged(head: Path) -> int:
    """Number of rows that the small file says were written; 0 if it cannot be read."""
    known = _read_head(head)
    return 0 if known is None else known[0]


def empty(path: Path) -> bool:
    """Whether a database surely holds no row: it was just made, or its maker ended then."""
    try:
        with reading(path) as connection:
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            return not tables or connection.execute("SELECT 1 FROM history LIMIT 1").fetchone() is None
    except sqlite3.Error:
        return False


class _DamageError(Exception):
    """What disagrees."""


def _checked(connection: sqlite3.Connection, known: tuple[int, str] | None, every: bool) -> Iterator[Row]:
    # a long run has hundreds of thousands of rows: what is done for each is written out, and done once
    found = connection.execute(f"SELECT {_COLUMNS} FROM history ORDER BY number")
    acknowledged = -1 if known is None else known[0]
    sha256, expected, previous = hashlib.sha256, 0, b""
    pruned = False
    kept = 0
    held: list[tuple[str, bytes, bytes | None, int]] = []
    for number, kind, trial, body, blob, blob_digest, digest in found:
        expected += 1
        if number != expected:
            raise _DamageError(f"row {expected} is missing")
        if type(body) is not bytes or (type(trial) is not int and trial is not None):
            raise _DamageError(f"row {number} is not what was written")
        if blob_digest is None:
            # what `_digest` does
            previous = sha256(previous + f"{kind}\n{trial}\n{len(body)}\n0\n".encode() + body).digest()
            if previous != digest:
                raise _DamageError(f"row {number} ({kind}) is not what was written")
            if blob is not None:
                raise _DamageError(f"the arrays of row {number} ({kind}) are not what was written")
        else:
            if type(blob_digest) is not bytes:
                raise _DamageError(f"row {number} is not what was written")
            previous = _digest(previous, kind, trial, body, blob_digest)
            if previous != digest:
                raise _DamageError(f"row {number} ({kind}) is not what was written")
            if blob is not None and (type(blob) is not bytes or sha256(blob).digest() != blob_digest):
                raise _DamageError(f"the arrays of row {number} ({kind}) are not what was written")
            if kind == PRUNED:
                kept = kept + 1 if blob is not None else 0
                pruned = pruned or blob is None
            elif blob is None:
                raise _DamageError(f"the arrays of row {number} ({kind}) are missing")
        if number == acknowledged and known is not None and digest.hex() != known[1]:
            raise _DamageError(f"row {number} ({kind}) is not what was acknowledged")
        if trial is None or every:
            if kind == PRUNED:
                held.clear()
            yield Row(kind, body, blob, trial)
        else:
            held.append((kind, body, blob, trial))
    if expected == 0:
        raise _DamageError("it holds no rows")
    if pruned and kept < KEPT:
        raise _DamageError("the last snapshots are missing")
    if known is not None and known[0] > expected:
        raise _DamageError(f"the last {known[0] - expected} of {known[0]} acknowledged rows are missing")
    for row in held:
        yield Row(*row)


def _digest(previous: bytes, kind: str, trial: int | None, body: bytes, blob_digest: bytes | None) -> bytes:
    # lengths go in, so that no two different rows give the same bytes
    head = f"{kind}\n{trial}\n{len(body)}\n{int(blob_digest is not None)}\n".encode()
    return hashlib.sha256(previous + head + body + (blob_digest or b"")).digest()


def _read_head(path: Path) -> tuple[int, str] | None:
    """Number and digest of the last row that was acknowledged; None where no slot can be read."""
    try:
        content = path.read_bytes()[: 2 * _SLOT]
    except FileNotFoundError:
        return None
    slots = []
    for start in (0, _SLOT):
        words = content[start : start + _SLOT].decode("ascii", "replace").split()
        if len(words) == 3 and hashlib.sha256(f"{words[0]} {words[1]}".encode()).hexdigest()[:32] == words[2]:
            slots.append((int(words[0]), words[1]))
    return max(slots, default=None)
