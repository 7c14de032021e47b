"""What is on disk of a run: run.sqlite, run.head, config.json, metrics.csv, policy.safetensors, curve.png. No JAX.

The database holds all that happened as a `History`: configuration, trials asked and told, updates with snapshots of the
search's state, events, result. The rest is derived from it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from policysearch.history import History, Row, damaged, read
from policysearch.ownership import Ownership

if TYPE_CHECKING:
    from policysearch.controller import Controller

DATABASE, HEAD, POLICY, CONFIGURATION, METRICS, CURVE = (
    "run.sqlite",
    "run.head",
    "policy.safetensors",
    "config.json",
    "metrics.csv",
    "curve.png",
)
#: the policies before, the later one first
EARLIER = ("policy.1.safetensors", "policy.2.safetensors")
#: seconds between two writes of updates; each write waits for the disk
INTERVAL = 0.5
#: what an update leaves behind so that a later process can go on: counts, and the state as bytes
Continuation = tuple[dict[str, Any], bytes]


class TrialRecord(msgspec.Struct, kw_only=True):
    """What is known of a trial.

    status: "asked", "done", "failed", "safety stop", "vetoed", "lost", "abandoned" or "timed out".
    fault: whose a trial's failure is: "policy" or "rig"; None of one that did not fail.
    attempt: from 1; more where a lost trial was asked again.
    client: who asked it, or "".
    cost: total, in the task's unit; None where it is not known.
    stages: control steps that happened, as far as they were told.
    asked, told: seconds since 1970.
    purpose: "gradient", or "measurement" of the policy itself.
    """

    number: int
    update: int
    index: int
    attempt: int = 1
    client: str = ""
    status: str = "asked"
    fault: str | None = None
    reason: str = ""
    cost: float | None = None
    stages: int = 0
    asked: float = 0.0
    told: float | None = None
    retry: bool = False
    notes: str = ""
    purpose: str = "gradient"

    def add(self, later: Mapping[str, Any]) -> None:
        """Take over what was written later about the same trial."""
        for name, value in later.items():
            setattr(self, name, value)


_ASKED = msgspec.json.Decoder(TrialRecord)


class Journal:
    """Writes a run's folder, which must not hold a run yet, and owns it until `close`.

    Updates reach the disk in batches: at once if the last write is `INTERVAL` ago, else with a later one or
    with `flush`. A killed process loses at most what came since the last write. Trials are never batched.

    Args:
        folder: made if there is none.
        configuration: JSON-able values by name; see `provenance`.
        start: the first policy as the bytes of a policy file, and the state before the first update; without them the
            run can be read but not gone on with.
        keep: leave the folder on disk even if nothing happened.

    Raises:
        FileExistsError: the folder already holds a run, or a file that a run would overwrite.
        RuntimeError: another process owns the run.

    Example:
        >>> import tempfile
        >>> journal = Journal(tempfile.mkdtemp(), {"task": "bowl"})
        >>> journal.add({"update": 1, "cost": 2.5})
        >>> journal.close()
        >>> open_run(journal.folder).records
        [{'update': 1, 'cost': 2.5}]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        configuration: Mapping[str, Any],
        *,
        start: tuple[bytes, bytes] | None = None,
        keep: bool = False,
    ):
        self.folder = Path(folder)
        refuse_existing(self.folder)
        self._made = not self.folder.exists()
        new = [place for place in (self.folder, *self.folder.parents) if not place.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._owner = Ownership(self.folder)
        try:
            refuse_existing(self.folder)
            self._history = History(self.folder / DATABASE, self.folder / HEAD, create=True)
        except BaseException:
            self._owner.release()
            raise
        self._begin(keep, 0)
        rows = [Row("configuration", msgspec.json.encode(dict(configuration)))]
        if start is not None:
            rows += [Row("policy", b"{}", start[0]), Row("state", b"{}", start[1])]
        self._history.append(rows)
        # a file is not lost with the power once its folder is synced, nor is that one once its own is
        for place in (self.folder, *(place.parent for place in new)):
            sync_folder(place)
        self._write_configuration(configuration)

    def _begin(self, keep: bool, count: int) -> None:
        self._keep, self._count, self._events = keep, count, 0
        self._waiting: list[bytes] = []
        self._continuation: Callable[[], Continuation] | None = None
        self._closed = False
        self._written = -INTERVAL

    def _write_configuration(self, configuration: Mapping[str, Any]) -> None:
        text = msgspec.json.format(msgspec.json.encode(dict(configuration)), indent=2)
        (self.folder / CONFIGURATION).write_bytes(text + b"\n")

    @classmethod
    def reopen(cls, folder: str | os.PathLike[str]) -> tuple[Journal, Run]:
        """Own and go on with a run, after every row of it was checked.

        Returns:
            What writes, and what is on disk; of the trials only those of the update that is still open.

        Raises:
            FileNotFoundError: no such folder, or no run in it.
            RuntimeError: another process owns the run.
            ValueError: the database is damaged.
        """
        folder = Path(folder)
        _find(folder)
        journal = cls.__new__(cls)
        journal.folder, journal._made = folder, False
        journal._owner = Ownership(folder)
        try:
            run = _replayed(folder, every=False)
            journal._history = History(folder / DATABASE, folder / HEAD, create=False)
        except BaseException:
            journal._owner.release()
            raise
        journal._begin(True, len(run.records))
        return journal, run

    def add(self, record: Mapping[str, float], continuation: Callable[[], Continuation] | None = None) -> None:
        """Keep what an update reports.

        Args:
            record: numbers by name; those that are not finite come back as NaN.
            continuation: gives counts and state after this update; called when this or a later one is written.
        """
        self._count += 1
        self._waiting.append(msgspec.json.encode({"record": dict(record)}))
        self._continuation = continuation
        if time.monotonic() - self._written >= INTERVAL:
            self.flush()

    def add_events(self, update: int, events: Sequence[Any]) -> None:
        """Keep what went wrong with trials; those that are kept already are passed over.

        Args:
            update: number of the update that they belong to.
            events: all of this process so far, as named tuples such as `samplers.jobs.Event`.
        """
        new = [Row("event", msgspec.json.encode({"update": update, **e._asdict()})) for e in events[self._events :]]
        if new:
            self._history.append(new)
            self._events = len(events)

    def add_asked(self, trial: TrialRecord) -> None:
        """Keep that a trial was asked, and return when the disk has it."""
        self.flush()  # an update that the disk did not take comes before the trials of the next one
        names = ("number", "update", "index", "attempt", "client", "asked", "purpose")
        self._history.append([_about(trial, "asked", names)])

    def add_told(self, trial: TrialRecord, arrays: bytes | None, halt: str = "") -> None:
        """Keep what a trial brought, and return when the disk has it.

        Args:
            trial: with its outcome.
            arrays: a recorded rollout, see `told.Told`.
            halt: why the search waits from now on, if it does.
        """
        names = ("number", "attempt", "status", "fault", "reason", "cost", "stages", "told", "retry", "notes")
        rows = [_about(trial, "told", names, arrays)]
        self._history.append([*rows, _halt(halt)] if halt else rows)

    def add_halt(self, reason: str, by: str = "") -> None:
        """Keep why the search waits, or, with reason "", that it goes on and who said so."""
        self._history.append([_halt(reason, by)])

    def told(self, number: int) -> tuple[TrialRecord, bytes | None] | None:
        """What is on disk of a trial and its arrays, whichever update asked it; None of one never asked."""
        trials: dict[Any, TrialRecord] = {}
        arrays: dict[Any, bytes | None] = {}
        for row in self._history.of_trial(number):
            _take(row, trials, arrays)
        return (trials[number], arrays.get(number)) if trials else None

    def amend(self, configuration: Mapping[str, Any]) -> None:
        """Change some of the configuration, such as the budget, from now on."""
        self._history.append([Row("configuration", msgspec.json.encode(dict(configuration)))])

    def flush(self) -> None:
        """Write what waits, and return when the disk has it."""
        if self._waiting:
            rows = [Row("update", body) for body in self._waiting]
            if self._continuation is not None:
                counts, state = self._continuation()
                record = msgspec.json.decode(self._waiting[-1])["record"]
                # who interrupts an update leaves a state that belongs to no record
                if counts["updates"] == record["update"]:
                    rows[-1] = Row("update", msgspec.json.encode({"record": record, "counts": counts}), state)
            self._history.append(rows)
            self._waiting.clear()
        self._written = time.monotonic()

    def save(self, controller: Controller) -> None:
        """Write the policy; the two before are kept beside it, see `EARLIER`. The same one again changes nothing.

        Args:
            controller: the policy as NumPy.
        """
        from policysearch import controller_file

        newest, before, oldest = (self.folder / name for name in (POLICY, *EARLIER))
        try:
            controller_file.load(newest)
        except (FileNotFoundError, ValueError):  # what is damaged takes nobody's place
            pass
        else:
            if newest.read_bytes() == controller_file.content(controller):
                return
            # a policy.safetensors is there at every moment; the folder is synced after the last change
            if before.exists():
                before.replace(oldest)
            try:
                before.hardlink_to(newest)
            except OSError:  # a file system without links
                before.write_bytes(newest.read_bytes())
        controller.save(newest)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write what came out.

        Args:
            result: JSON-able values by name.
        """
        self.flush()
        self._history.append([Row("result", msgspec.json.encode(dict(result)))])

    def close(self) -> None:
        """End the run's writing and its ownership; a second call does nothing.

        What waits is written, then metrics.csv, and one database file is left without companions, which can
        be copied as it is. A run without any update leaves nothing behind, so that it can be started again.
        """
        if self._closed:
            return
        self._closed = True
        try:
            try:
                self.flush()
                if self._count:
                    records: list[dict[str, Any]] = []
                    for body in self._history.of_kind("update"):
                        _keep_record(records, msgspec.json.decode(body)["record"])
                    write_metrics(self.folder / METRICS, records)
            finally:
                self._history.close()
            if not self._count and not self._keep:
                for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", HEAD, CONFIGURATION):
                    (self.folder / name).unlink(missing_ok=True)
        finally:
            self._owner.release()
        if not self._count and not self._keep and self._made:
            with contextlib.suppress(OSError):  # somebody else has put something there
                self.folder.rmdir()


def sync_folder(folder: Path) -> None:
    """Return when the disk has the names of what is in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_existing(folder: Path) -> None:
    """Raise FileExistsError if `folder` holds a run, or a file that a run would overwrite."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; a run needs a folder. Choose another one.")
    for name in (DATABASE, HEAD, POLICY, *EARLIER, CONFIGURATION, METRICS, CURVE):
        if (folder / name).exists():
            what = "a run" if name == DATABASE else f"a file {name}, which a run would overwrite"
            raise FileExistsError(f"{folder} already holds {what}. Choose another folder.")


@dataclass(frozen=True)
class Run:
    """A run as read from its folder.

    configuration: what was asked, and with which versions. records: one an update. result: what came out,
    or {} of a run that has not finished. events: what went wrong with trials, with the number of their `update`.
    trials: those that a caller ran, by number. start: the first policy as the bytes of a policy file. state: the last
    snapshot of the search's state, which belongs to the update `updates`; counts: what was counted till then. halted:
    why no trial is handed out, or "".
    """

    folder: Path
    configuration: dict[str, Any]
    records: list[dict[str, Any]]
    result: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    arrays: dict[int, bytes | None] = field(default_factory=dict)
    start: bytes | None = None
    state: bytes | None = None
    counts: dict[str, Any] = field(default_factory=dict)
    halted: str = ""

    def controller(self) -> Controller:
        """The policy found, as NumPy.

        Raises:
            FileNotFoundError: the run has not finished, or its policy file was moved.
            ValueError: the policy file is damaged; the newest of those before that can be loaded is named.
        """
        if not (self.folder / POLICY).exists():
            why = "its policy file is missing" if self.result else "the run has not finished"
            raise FileNotFoundError(f"{self.folder} holds no {POLICY}: {why}.{_earlier(self.folder)}")
        return load_policy(self.folder)


def load_policy(folder: Path) -> Controller:
    """The newest policy of a run's folder.

    Raises:
        FileNotFoundError: it holds none.
        ValueError: the file is damaged; the newest of those before that can be loaded is named.
    """
    from policysearch.controller import Controller

    try:
        return Controller.load(folder / POLICY)
    except ValueError as error:
        raise ValueError(f"{error}{_earlier(folder)}") from error


def _earlier(folder: Path) -> str:
    """A sentence that names the newest policy before the last one that can be loaded, or ""."""
    from policysearch.controller import Controller

    for path in (folder / name for name in EARLIER):
        with contextlib.suppress(FileNotFoundError, ValueError):
            Controller.load(path)
            return f" The one before can be loaded: policysearch.load({str(path)!r})."
    return ""


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Read a run, even one that is still going on or was killed; nothing is written.

    Args:
        folder: of the run.

    Raises:
        FileNotFoundError: no such folder, or no run in it.
        ValueError: the database is damaged.
    """
    folder = Path(folder)
    _find(folder)
    return _replayed(folder, every=True)


def repair(folder: str | os.PathLike[str]) -> str:
    """Make a run whose database is damaged one that can be opened, of the rows that are what was written.

    The search goes on from its last snapshot that is whole. Of what came after that, the rows before the first damaged
    one are kept. The damaged files stay beside the new ones as run.sqlite.damaged-N.

    Args:
        folder: of the run.

    Returns:
        How many rows were kept, and what is gone.

    Raises:
        FileNotFoundError: no such folder, or no run in it.
        RuntimeError: another process owns the run.
        ValueError: nothing can be kept; nothing was changed.
    """
    from policysearch import repairing

    folder = Path(folder)
    _find(folder)
    return repairing.repair(folder)


def _find(folder: Path) -> None:
    """Raise FileNotFoundError if the folder holds no run."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Give the folder of a run, such as runs/lqr-ars-seed0.")
    if not (folder / DATABASE).is_file():
        inside = sorted(inner.parent.name for inner in folder.glob(f"*/{DATABASE}"))
        hint = f" It has runs inside: {', '.join(inside[:5])}." if inside else ""
        raise FileNotFoundError(f"{folder} is no run: it holds no {DATABASE}.{hint}")


def _replayed(folder: Path, every: bool) -> Run:
    """What the rows of a history come to; of the trials `every` one, or those of the open update with their arrays."""
    run: dict[str, Any] = {"folder": folder, "configuration": {}, "records": [], "result": {}, "events": []}
    trials: dict[Any, TrialRecord] = {}
    arrays: dict[Any, bytes | None] = {}
    path = folder / DATABASE
    try:
        for row in read(path, folder / HEAD, every=every):
            if row.kind in ("asked", "told"):
                _take(row, trials, arrays)
                if every:
                    arrays.clear()
                continue
            content = msgspec.json.decode(row.body)
            if row.kind == "configuration":
                run["configuration"].update(content)
            elif row.kind in ("policy", "state"):
                run["start" if row.kind == "policy" else "state"] = row.blob
            elif row.kind == "halt":
                run["halted"] = content["reason"]
            elif row.kind == "event":
                run["events"].append(content)
            elif row.kind == "result":
                run["result"] = content
            elif row.kind == "update":
                _keep_record(run["records"], content["record"])
                run["result"] = {}
                if "counts" in content:
                    run["counts"], run["state"] = content["counts"], row.blob
            else:
                raise ValueError(f"{path} has rows of kind {row.kind!r}; update policysearch to read it.")
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise damaged(path, error) from error
    return Run(**run, trials=trials, arrays=arrays)


def _take(row: Row, trials: dict[Any, TrialRecord], arrays: dict[Any, bytes | None]) -> None:
    """Bring what is known of a trial up to date with a row about it."""
    if row.kind == "asked":
        trials[row.trial] = _ASKED.decode(row.body)
    else:
        trials[row.trial].add(msgspec.json.decode(row.body))
        arrays[row.trial] = row.blob


def _keep_record(records: list[dict[str, Any]], record: dict[str, Any]) -> None:
    """Add what an update reported; it takes the place of those that a later process computed again."""
    if "update" in record:
        # what came after the last snapshot was computed again by the process that went on
        del records[int(record["update"]) - 1 :]
    records.append({name: float("nan") if value is None else value for name, value in record.items()})


def _about(trial: TrialRecord, kind: str, names: Sequence[str], arrays: bytes | None = None) -> Row:
    content = {name: getattr(trial, name) for name in names}
    return Row(kind, msgspec.json.encode(content), arrays, trial.number)


def _halt(reason: str, by: str = "") -> Row:
    return Row("halt", msgspec.json.encode({"reason": reason, "by": by, "when": time.time()}))


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
