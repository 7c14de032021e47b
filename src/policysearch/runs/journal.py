"""A run's files on disk: run.sqlite, run.head, config.json, metrics, policies, curve.png. No JAX.

The database holds everything that happened, as a `History`. The rest is derived from it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from policysearch.core import files
from policysearch.core.plain import Plain
from policysearch.runs.history import History, Row
from policysearch.runs.lock import Ownership
from policysearch.runs.metrics import Metrics
from policysearch.runs.reader import (
    CONFIGURATION,
    CURVE,
    DATABASE,
    EARLIER,
    HEAD,
    LINES,
    METRICS,
    POLICY,
    START,
    Run,
    TrialRecord,
    check,
    find,
    keep_record,
    replayed,
    take,
)

if TYPE_CHECKING:
    from policysearch.core.controller import Controller

#: seconds between two writes of updates; each write waits for the disk
INTERVAL = 0.5
#: what an update leaves so that a later process can continue: counts, and the state as bytes
Continuation = tuple[Plain, bytes]


class Journal:
    """Writes a run's folder, which must not hold a run yet, and owns it until `close`.

    Updates reach the disk in batches: at once if the last write is `INTERVAL` ago, else with a later one or
    with `flush`. A killed process loses at most what came after the last write. Trials are never batched.

    Args:
        folder: made if it does not exist.
        configuration: JSON-able values by name; see `provenance`.
        start: the first policy as the bytes of a policy file, and the state before the first update; without them the
            run can be read but not resumed.
        keep: leave the folder on disk even if nothing happened.

    Raises:
        FileExistsError: the folder already holds a run, or a file that a run would overwrite.
        RuntimeError: another process owns the run.

    Example:
        >>> import tempfile
        >>> journal = Journal(tempfile.mkdtemp(), {"task": "bowl"})
        >>> journal.add({"update": 1, "cost": 2.5})
        >>> journal.close()
        >>> from policysearch import open_run
        >>> open_run(journal.folder).records
        [{'update': 1, 'cost': 2.5}]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        configuration: Mapping[str, object],
        *,
        start: tuple[bytes, bytes] | None = None,
        keep: bool = False,
    ):
        self.folder = Path(folder).absolute()  # code that runs in between may change the directory
        refuse_existing(self.folder)
        self._made = not self.folder.exists()
        new = [place for place in (self.folder, *self.folder.parents) if not place.exists()]
        with contextlib.ExitStack() as undo:  # a run that cannot be started leaves nothing behind
            for place in reversed(new):
                undo.callback(_remove_empty, place)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._owner = Ownership(self.folder)
            undo.callback(self._owner.release)
            refuse_existing(self.folder)
            self._history = History(self.folder / DATABASE, self.folder / HEAD, create=True)
            undo.callback(self._remove)
            undo.callback(self._history.close)
            self._begin(keep, 0)
            rows = [_row("configuration", dict(configuration))]
            if start is not None:
                rows += [Row("policy", b"{}", start[0]), Row("state", b"{}", start[1])]
            self._history.append(rows)
            # a file survives a power cut once its folder is synced, and that folder once its own is
            for place in (self.folder, *(place.parent for place in new)):
                files.sync_folder(place)
            self._write_configuration(configuration)
            if start is not None:
                (self.folder / START).write_bytes(start[0])
            undo.pop_all()

    def _remove(self) -> None:
        """Remove the files of a run that could not be started."""
        for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal", HEAD, CONFIGURATION, START):
            (self.folder / name).unlink(missing_ok=True)

    def _begin(self, keep: bool, count: int) -> None:
        self._keep, self._count, self._events = keep, count, 0
        self._waiting: list[Plain] = []
        self._incumbents: list[Row] = []
        self._metrics = Metrics(self.folder)
        # whether these files hold what the database holds; None for a resumed run: they may
        self._complete: bool | None = True
        self._continuation: Callable[[], Continuation] | None = None
        self._closed = False
        self._written = -INTERVAL

    def _write_configuration(self, configuration: Mapping[str, object]) -> None:
        text = msgspec.json.format(_ENCODER.encode(dict(configuration)), indent=2)
        files.write(self.folder / CONFIGURATION, text + b"\n")

    @classmethod
    def reopen(cls, folder: str | os.PathLike[str], wait: float | None = None) -> tuple[Journal, Run]:
        """Own and continue a run, after a check of every row of it.

        Args:
            folder: of the run.
            wait: see `Ownership`.

        Returns:
            The journal, and what is on disk; of the trials only those of the update that is still open.

        Raises:
            FileNotFoundError: no such folder, or no run in it.
            RuntimeError: another process owns the run.
            ValueError: the database is damaged.
        """
        folder = Path(folder)
        find(folder)
        journal = cls.__new__(cls)
        journal.folder, journal._made = folder.absolute(), False
        with contextlib.ExitStack() as undo:
            journal._owner = Ownership(journal.folder, wait)
            undo.callback(journal._owner.release)
            run = replayed(folder, every=False)
            journal._history = History(journal.folder / DATABASE, journal.folder / HEAD, create=False)
            undo.callback(journal._history.close)
            journal._begin(True, len(run.records))
            journal._complete = None
            undo.pop_all()
        return journal, run

    def add(self, record: Mapping[str, float], continuation: Callable[[], Continuation] | None = None) -> None:
        """Record what an update reports.

        Args:
            record: numbers by name; non-finite ones come back as NaN.
            continuation: gives counts and state after this update; called when this or a later one is written.
        """
        self._count += 1
        self._waiting.append(dict(record))
        self._continuation = continuation
        if time.monotonic() - self._written >= INTERVAL:
            self.flush()

    def add_events(self, update: int, events: Sequence[Any]) -> None:
        """Record what went wrong with trials; events recorded already are skipped.

        Args:
            update: number of the update that they belong to.
            events: all of this process so far, as named tuples such as `workers.jobs.Event`.
        """
        new = [_row("event", {"update": update, **e._asdict()}) for e in events[self._events :]]
        if new:
            self._history.append(new)
            self._events = len(events)

    def add_asked(self, trial: TrialRecord) -> None:
        """Record that a trial was asked, and return when it is on disk."""
        self.flush()  # an update that is not yet on disk comes before the trials of the next one
        names = ("number", "update", "index", "attempt", "client", "asked", "purpose", "values")
        self._history.append([_about(trial, "asked", names)])

    def add_told(self, trial: TrialRecord, arrays: bytes | None, halt: str = "") -> None:
        """Record the outcome of a trial, and return when it is on disk.

        Args:
            trial: with its outcome.
            arrays: a recorded rollout, see `told.Told`.
            halt: why the search waits from now on, if it does.
        """
        names = ("number", "attempt", "status", "fault", "reason", "cost", "stages", "told", "retry", "notes")
        rows = [_about(trial, "told", names, arrays)]
        self._history.append([*rows, _halt(halt)] if halt else rows)

    def add_halt(self, reason: str, by: str = "") -> None:
        """Record why the search waits or, with reason "", that it goes on and by whose release."""
        self._history.append([_halt(reason, by)])

    def add_incumbent(self, update: int, policy: bytes) -> None:
        """Record a policy that is the incumbent from now on, with the update that is added next.

        Args:
            update: after which it was the iterate.
            policy: as the bytes of a policy file.
        """
        self._incumbents.append(_row("incumbent", {"update": update}, policy))

    def told(self, number: int) -> tuple[TrialRecord, bytes | None] | None:
        """What is on disk about a trial and its arrays, whichever update asked it; None for one never asked."""
        trials: dict[int, TrialRecord] = {}
        arrays: dict[int, bytes | None] = {}
        for row in self._history.of_trial(number):
            take(row, trials, arrays)
        return (trials[number], arrays.get(number)) if trials else None

    def amend(self, configuration: Mapping[str, object]) -> None:
        """Change some of the configuration, such as the budget, from now on."""
        self._history.append([_row("configuration", dict(configuration))])

    def flush(self) -> None:
        """Write what waits, and return when it is on disk."""
        if self._waiting:
            rows = [_row("update", {"record": record}) for record in self._waiting]
            if self._continuation is not None:
                counts, state = self._continuation()
                record = self._waiting[-1]
                # an interrupted update leaves a state that belongs to no record
                if counts["updates"] == record["update"]:
                    rows[-1] = _row("update", {"record": record, "counts": counts}, state)
            self._history.append([*self._incumbents, *rows])
            self._incumbents.clear()
            written, self._waiting = self._waiting, []
            self._add_metrics(written)
        self._written = time.monotonic()

    def _add_metrics(self, records: list[Plain]) -> None:
        """Add the database's records to the files for other programs."""
        try:
            if self._complete is None:
                self._write_metrics()
            elif self._complete:
                self._metrics.append(records)
        except OSError:
            self._complete = False

    def _write_metrics(self) -> None:
        records: list[Plain] = []
        for body in self._history.of_kind("update"):
            keep_record(records, msgspec.json.decode(body)["record"])
        self._metrics.write(records)
        self._complete = True

    def save(self, controller: Controller) -> None:
        """Write the policy; the previous two are kept beside it, see `EARLIER`. The same one again changes nothing.

        Args:
            controller: the policy as NumPy.
        """
        from policysearch.core import controller_file

        newest, before, oldest = (self.folder / name for name in (POLICY, *EARLIER))
        try:
            controller_file.load(newest)
        except (FileNotFoundError, ValueError):  # a damaged policy replaces none
            pass
        else:
            if newest.read_bytes() == controller_file.content(controller):
                return
            # there is a policy.safetensors at every moment; the folder is synced after the last change
            if before.exists():
                before.replace(oldest)
            try:
                before.hardlink_to(newest)
            except OSError:  # a file system without links
                before.write_bytes(newest.read_bytes())
        controller.save(newest)

    def finish(self, result: Mapping[str, object]) -> None:
        """Write the result.

        Args:
            result: JSON-able values by name.
        """
        self.flush()
        self._history.append([_row("result", dict(result))])

    def close(self) -> None:
        """Stop writing the run and release it; a second call does nothing.

        What waits is written, and one database file is left without companions, which can be copied as it is.
        A run without any update leaves nothing behind, so that it can be started again.
        """
        if self._closed:
            return
        self._closed = True
        try:
            try:
                self.flush()
                if self._count and not self._complete:
                    self._write_metrics()
            finally:
                self._history.close()
            if not self._count and not self._keep:
                self._remove()
        finally:
            self._owner.release()
        if not self._count and not self._keep and self._made:
            _remove_empty(self.folder)


def _remove_empty(folder: Path) -> None:
    """Remove a folder, unless something else has been put there."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def refuse_existing(folder: Path) -> None:
    """Raise FileExistsError if `folder` holds a run, or a file that a run would overwrite."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; a run needs a folder. Choose another one.")
    for name in (DATABASE, HEAD, POLICY, *EARLIER, START, CONFIGURATION, METRICS, LINES, CURVE):
        if (folder / name).exists():
            what = "a run" if name == DATABASE else f"a file {name}, which a run would overwrite"
            raise FileExistsError(f"{folder} already holds {what}. Choose another folder.")


def _row(kind: str, content: Plain, blob: bytes | None = None, trial: int | None = None) -> Row:
    """A row that can be read back as written.

    Raises:
        ValueError: it cannot be; the message says what is wrong with it.
    """
    try:
        number = None if trial is None else int(trial)  # SQLite keeps numbers of NumPy as bytes
        return check(Row(kind, _ENCODER.encode(content), blob, number))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"This cannot be recorded ({kind}): {error}. Nothing was written.") from error


def _plain(value: object) -> object:
    """The JSON form of a value that JSON does not support."""
    if hasattr(value, "tolist"):
        return value.tolist()  # numbers and arrays of NumPy and JAX
    if isinstance(value, (str, os.PathLike)):
        return str(value)
    raise TypeError(f"{value!r} is a {type(value).__name__}")


_ENCODER = msgspec.json.Encoder(enc_hook=_plain)


def _about(trial: TrialRecord, kind: str, names: Sequence[str], arrays: bytes | None = None) -> Row:
    content = {name: getattr(trial, name) for name in names}
    return _row(kind, content, arrays, trial.number)


def _halt(reason: str, by: str = "") -> Row:
    return _row("halt", {"reason": reason, "by": by, "when": time.time()})


def provenance() -> Plain:
    """Where and with what this process runs: command line, installed versions, platform, start."""
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
