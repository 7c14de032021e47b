"""`Inbox`: results that other processes leave for the owner of a run. No JAX.

A table in its own database beside the run's: leaving a result waits for the disk, and for nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from policysearch.core.plain import Plain
from policysearch.runs.databases import explained, reading

INBOX = "inbox.sqlite"
_TABLE = "CREATE TABLE IF NOT EXISTS inbox (number INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL, digest BLOB)"


class Message(msgspec.Struct, kw_only=True):
    """A result: trial and attempt, what `Search.tell` takes by name, and when it was left, seconds since 1970."""

    trial: int
    attempt: int
    given: Plain
    retry: bool = False
    notes: str = ""
    left: float = 0.0
    number: int = 0


_DECODER = msgspec.json.Decoder(Message)


class Inbox:
    """The results that wait in a run's folder. Any process may leave one; the owner of the run takes them.

    Example:
        >>> import tempfile
        >>> inbox = Inbox(Path(tempfile.mkdtemp()))
        >>> inbox.leave(Message(trial=3, attempt=1, given={"cost": 0.5}))
        >>> [message.trial for message in inbox.messages()]
        [3]
    """

    def __init__(self, folder: Path):
        self._path = folder / INBOX

    def leave(self, message: Message) -> None:
        """Add a result, and return when it is on disk; one that already waits is not added again.

        Raises:
            OSError: the disk does not accept it.
            ValueError: another result of the same attempt is already waiting, or the file is damaged.
        """
        body = msgspec.json.encode(message)
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")  # of two results left at once, one comes first
            try:
                for other in self._waiting(connection):
                    if (other.trial, other.attempt) != (message.trial, message.attempt):
                        continue
                    if (other.given, other.retry) != (message.given, message.retry):
                        words = ", ".join(f"{name} {value}" for name, value in other.given.items())
                        raise ValueError(
                            f"A result of trial {message.trial} is already waiting for the owner of the run: {words}; "
                            "another one is not accepted."
                        )
                    return
                values = (body, hashlib.sha256(body).digest())
                connection.execute("INSERT INTO inbox (body, digest) VALUES (?, ?)", values)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def messages(self) -> list[Message]:
        """The waiting results, in the order in which they were left.

        Raises:
            OSError: it cannot be read.
            ValueError: the file is damaged.
        """
        if not self._path.exists():
            return []
        with explained(self._path, self._damage), reading(self._path) as connection:
            (made,) = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'inbox'").fetchone()
            return self._waiting(connection) if made else []

    def _waiting(self, connection: sqlite3.Connection) -> list[Message]:
        found = []
        for number, body, digest in connection.execute("SELECT number, body, digest FROM inbox ORDER BY number"):
            if type(body) is not bytes or hashlib.sha256(body).digest() != digest:
                raise self._damage(self._path, f"result {number} is not what was written")
            try:
                message = _DECODER.decode(body)
            except msgspec.DecodeError as error:
                raise self._damage(self._path, error) from error
            message.number = number
            found.append(message)
        return found

    def forget(self, message: Message) -> None:
        """Remove a result that was taken."""
        with self._open() as connection:
            connection.execute("DELETE FROM inbox WHERE number = ?", (message.number,))

    @staticmethod
    def _damage(path: Path, error: object) -> ValueError:
        return ValueError(f"{path} is damaged: {error}. Move it away, and tell the last results again.")

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with (
            explained(self._path, self._damage),
            contextlib.closing(sqlite3.connect(self._path, timeout=30.0, isolation_level=None)) as connection,
        ):
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(_TABLE)
            yield connection
