"""`Inbox`: results that somebody else leaves for the process that owns a run. No JAX.

A table in a database of its own beside the run's: who leaves a result waits for the disk, and for nobody else.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

INBOX = "inbox.sqlite"
_TABLE = "CREATE TABLE IF NOT EXISTS inbox (number INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL, digest BLOB)"


class Message(msgspec.Struct, kw_only=True):
    """A result: trial and attempt, what `Search.tell` takes by name, and when it was left, seconds since 1970."""

    trial: int
    attempt: int
    given: dict[str, Any]
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
        """Add a result, and return when the disk has it.

        Raises:
            OSError: the disk does not take it.
            ValueError: the file is damaged.
        """
        body = msgspec.json.encode(message)
        try:
            with self._open() as connection:
                values = (body, hashlib.sha256(body).digest())
                connection.execute("INSERT INTO inbox (body, digest) VALUES (?, ?)", values)
        except sqlite3.DatabaseError as error:
            raise self._damage(error) from error

    def messages(self) -> Iterator[Message]:
        """What waits, in the order in which it was left.

        Raises:
            ValueError: the file is damaged.
        """
        if not self._path.exists():
            return
        try:
            with self._open() as connection:
                found = connection.execute("SELECT number, body, digest FROM inbox ORDER BY number").fetchall()
            for number, body, digest in found:
                if type(body) is not bytes or hashlib.sha256(body).digest() != digest:
                    raise ValueError(f"result {number} is not what was written")
                message = _DECODER.decode(body)
                message.number = number
                yield message
        except (sqlite3.DatabaseError, msgspec.DecodeError, ValueError) as error:
            raise self._damage(error) from error

    def forget(self, message: Message) -> None:
        """Remove a result that was taken."""
        with self._open() as connection:
            connection.execute("DELETE FROM inbox WHERE number = ?", (message.number,))

    def _damage(self, error: Exception) -> ValueError:
        return ValueError(f"{self._path} is damaged: {error}. Move it away, and tell the last results again.")

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._path, timeout=30.0, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(_TABLE)
            yield connection
        except sqlite3.OperationalError as error:
            raise OSError(f"{self._path} cannot be written: {error}.") from error
        finally:
            connection.close()
