"""What is on disk of a run: run.sqlite, config.json, metrics.csv, policy.safetensors, curve.png. No JAX.

The database holds configuration, updates (a row each, the record as JSON) and result; the rest is derived.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from policysearch.controller import Controller

DATABASE, POLICY, CONFIGURATION, METRICS, CURVE = (
    "run.sqlite",
    "policy.safetensors",
    "config.json",
    "metrics.csv",
    "curve.png",
)
#: seconds between two writes of updates; each write waits for the disk
INTERVAL = 0.5
_TABLES = """
CREATE TABLE configuration (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE updates (number INTEGER PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE events (number INTEGER PRIMARY KEY, update_number INTEGER NOT NULL, event TEXT NOT NULL);
CREATE TABLE result (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Journal:
    """Writes a run's folder, which must not hold a run yet.

    Updates reach the disk in batches: at once if the last write is `INTERVAL` ago, else with a later one or
    with `flush`. A killed process loses at most what came since the last write.

    Args:
        folder: made if there is none.
        configuration: JSON-able values by name; see `provenance`.

    Raises:
        FileExistsError: the folder already holds a run, or a file that a run would overwrite.

    Example:
        >>> import tempfile
        >>> journal = Journal(tempfile.mkdtemp(), {"task": "bowl"})
        >>> journal.add({"update": 1, "cost": 2.5})
        >>> journal.close()
        >>> open_run(journal.folder).records
        [{'update': 1, 'cost': 2.5}]
    """

    def __init__(self, folder: str | os.PathLike[str], configuration: Mapping[str, Any]):
        self.folder = Path(folder)
        refuse_existing(self.folder)
        self._made = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / DATABASE
        path.touch(exist_ok=False)  # of two searches that start at once, the second one fails here
        self._connection = sqlite3.connect(path, timeout=30.0, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "locking_mode=NORMAL"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.executescript(f"BEGIN; {_TABLES} COMMIT;")
        self._insert("configuration", configuration)
        text = msgspec.json.format(msgspec.json.encode(dict(configuration)), indent=2)
        (self.folder / CONFIGURATION).write_bytes(text + b"\n")
        self._waiting: list[tuple[int, bytes]] = []
        self._count = self._events = 0
        self._closed = False
        self._written = -INTERVAL

    def add(self, record: Mapping[str, float]) -> None:
        """Keep what an update reports.

        Args:
            record: numbers by name; those that are not finite come back as NaN.
        """
        self._count += 1
        self._waiting.append((self._count, msgspec.json.encode(dict(record))))
        if time.monotonic() - self._written >= INTERVAL:
            self.flush()

    def add_events(self, update: int, events: Sequence[Any]) -> None:
        """Keep what went wrong with trials; those that are kept already are passed over.

        Args:
            update: number of the update that they belong to.
            events: all of the search so far, as named tuples such as `samplers.jobs.Event`.
        """
        new = [(i, update, msgspec.json.encode(events[i]._asdict()).decode()) for i in range(self._events, len(events))]
        if new:
            with self._transaction():
                self._connection.executemany("INSERT INTO events VALUES (?, ?, ?)", new)
            self._events = len(events)

    def flush(self) -> None:
        """Write what waits, and return when the disk has it."""
        if self._waiting:
            with self._transaction():
                rows = [(number, record.decode()) for number, record in self._waiting]
                self._connection.executemany("INSERT OR REPLACE INTO updates VALUES (?, ?)", rows)
            self._waiting.clear()
        self._written = time.monotonic()

    def save(self, controller: Controller) -> None:
        """Write the policy; an earlier one is replaced.

        Args:
            controller: the policy as NumPy.
        """
        controller.save(self.folder / POLICY)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write what came out.

        Args:
            result: JSON-able values by name.
        """
        self.flush()
        self._insert("result", result)

    def close(self) -> None:
        """End the run's writing; a second call does nothing.

        What waits is written, then metrics.csv, and one database file is left without companions, which can
        be copied as it is. A run without any update leaves nothing behind, so that it can be started again.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
            if self._count:
                write_metrics(self.folder / METRICS, _records(self._connection))
                # where somebody is reading, the companions stay
                with contextlib.suppress(sqlite3.OperationalError):
                    self._connection.execute("PRAGMA journal_mode=DELETE")
        finally:
            self._connection.close()
        if not self._count:
            for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", CONFIGURATION):
                (self.folder / name).unlink(missing_ok=True)
            if self._made:
                with contextlib.suppress(OSError):  # somebody else has put something there
                    self.folder.rmdir()

    @contextlib.contextmanager
    def _transaction(self) -> Any:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.folder / DATABASE} cannot be written: {error}.") from error

    def _insert(self, table: str, values: Mapping[str, Any]) -> None:
        rows = [(name, msgspec.json.encode(value).decode()) for name, value in values.items()]
        with self._transaction():
            self._connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)


def refuse_existing(folder: Path) -> None:
    """Raise FileExistsError if `folder` holds a run, or a file that a run would overwrite."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; a run needs a folder. Choose another one.")
    for name in (DATABASE, POLICY, CONFIGURATION, METRICS, CURVE):
        if (folder / name).exists():
            what = "a run" if name == DATABASE else f"a file {name}, which a run would overwrite"
            raise FileExistsError(f"{folder} already holds {what}. Choose another folder.")


@dataclass(frozen=True)
class Run:
    """A run as read from its folder.

    configuration: what was asked, and with which versions. records: one an update. result: what came out,
    or {} of a run that has not finished. events: what went wrong with trials, with the number of their `update`.
    """

    folder: Path
    configuration: dict[str, Any]
    records: list[dict[str, Any]]
    result: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)

    def controller(self) -> Controller:
        """The policy found, as NumPy.

        Raises:
            FileNotFoundError: the run has not finished, or its policy file was moved.
            ValueError: the policy file is damaged.
        """
        from policysearch.controller import Controller

        path = self.folder / POLICY
        if not path.exists():
            why = "its policy file is missing" if self.result else "the run has not finished"
            raise FileNotFoundError(f"{self.folder} holds no {POLICY}: {why}.")
        return Controller.load(path)


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Read a run, even one that is still going on or was killed; nothing is written.

    Args:
        folder: of the run.

    Raises:
        FileNotFoundError: no such folder, or no run in it.
        ValueError: the database is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Give the folder of a run, such as runs/lqr-ars-seed0.")
    path = folder / DATABASE
    if not path.is_file():
        inside = sorted(inner.parent.name for inner in folder.glob(f"*/{DATABASE}"))
        hint = f" It has runs inside: {', '.join(inside[:5])}." if inside else ""
        raise FileNotFoundError(f"{folder} is no run: it holds no {DATABASE}.{hint}")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            return Run(
                folder,
                _values(connection, "configuration"),
                _records(connection),
                _values(connection, "result"),
                _events(connection),
            )
    except (sqlite3.DatabaseError, msgspec.DecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}. Restore it from a copy.") from error


def write_metrics(path: Path, records: list[dict[str, Any]]) -> None:
    """Write records as CSV, a row an update; columns in the order in which their names first appear."""
    import csv

    names = list(dict.fromkeys(name for record in records for name in record))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="nan", lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def provenance() -> dict[str, Any]:
    """Where and with what this process runs: command line, versions of what is installed, platform, start."""
    from importlib import metadata

    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("policysearch", "jax", "numpy", "gymnasium", "mujoco"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    system = os.uname()
    return {
        "command": sys.argv,
        "directory": os.getcwd(),
        "versions": versions,
        "platform": f"{system.sysname} {system.release} {system.machine}",
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _records(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    rows = connection.execute("SELECT record FROM updates ORDER BY number")
    decoded = (msgspec.json.decode(record) for (record,) in rows)
    return [{name: float("nan") if value is None else value for name, value in row.items()} for row in decoded]


def _events(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    rows = connection.execute("SELECT update_number, event FROM events ORDER BY number")
    return [{"update": update, **msgspec.json.decode(event)} for update, event in rows]


def _values(connection: sqlite3.Connection, table: str) -> dict[str, Any]:
    return {name: msgspec.json.decode(value) for name, value in connection.execute(f"SELECT * FROM {table}")}
