"""`Run`: a run as read from its folder, even while it is running. No JAX, and nothing is written. See `journal`."""

from __future__ import annotations

import contextlib
import importlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from policysearch.core.grammar import LARGEST
from policysearch.core.plain import Plain
from policysearch.runs import renamed
from policysearch.runs.databases import damaged
from policysearch.runs.history import Row, acknowledged, empty, read
from policysearch.runs.lock import owner

if TYPE_CHECKING:
    from policysearch.core.controller import Controller

DATABASE, HEAD, POLICY, CONFIGURATION, METRICS, LINES, CURVE = (
    "run.sqlite",
    "run.head",
    "policy.safetensors",
    "config.json",
    "metrics.csv",
    "metrics.jsonl",
    "curve.png",
)
#: the policy that a run starts from, also in the database
START = "start.safetensors"
#: the previous policies, the latest first
EARLIER = ("policy.1.safetensors", "policy.2.safetensors")


class BeingMadeError(FileNotFoundError):
    """A process is creating the run right now, and nothing can be read yet."""


class TrialRecord(msgspec.Struct, kw_only=True):
    """What is known about a trial.

    status: "asked", "done", "failed", "safety stop", "vetoed", "lost", "abandoned" or "timed out".
    fault: what caused the failure: "policy" or "rig"; None for a trial that did not fail.
    attempt: from 1; more if a lost trial was asked again.
    client: which client asked for it, or "".
    cost: total, in the task's unit; None if unknown.
    stages: control steps that were run, as far as told.
    asked, told: seconds since 1970.
    purpose: "gradient", or "measurement" of the policy itself.
    values: what ran, by name: named numbers in their own units, or the entries of θ; None if the actions were sampled,
        or if an older version wrote it.
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
    values: dict[str, float] | None = None

    def add(self, later: Plain) -> None:
        """Apply what was written later about the same trial."""
        for name, value in later.items():
            setattr(self, name, value)


class _Told(msgspec.Struct, kw_only=True):
    """What is written about a trial once it is told; fields that a row leaves out do not change."""

    status: str | msgspec.UnsetType = msgspec.UNSET
    fault: str | msgspec.UnsetType | None = msgspec.UNSET
    reason: str | msgspec.UnsetType = msgspec.UNSET
    cost: float | msgspec.UnsetType | None = msgspec.UNSET
    stages: int | msgspec.UnsetType = msgspec.UNSET
    told: float | msgspec.UnsetType | None = msgspec.UNSET
    attempt: int | msgspec.UnsetType = msgspec.UNSET
    retry: bool | msgspec.UnsetType = msgspec.UNSET
    notes: str | msgspec.UnsetType = msgspec.UNSET

    def plain(self) -> Plain:
        """The row's fields, by name."""
        values = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: value for name, value in values if value is not msgspec.UNSET}


class _Halt(msgspec.Struct):
    reason: str
    by: str = ""
    when: float = 0.0


class _Update(msgspec.Struct):
    record: Plain
    counts: Plain | None = None


#: decoders of a row's body, by its kind; `check` lets nothing be written that these cannot read
_READERS: dict[str, msgspec.json.Decoder[Any]] = {
    "asked": msgspec.json.Decoder(TrialRecord),
    "told": msgspec.json.Decoder(_Told),
    "halt": msgspec.json.Decoder(_Halt),
    "update": msgspec.json.Decoder(_Update),
    **{
        kind: msgspec.json.Decoder(Plain)
        for kind in ("configuration", "policy", "state", "incumbent", "event", "result")
    },
}


def check(row: Row) -> Row:
    """The row itself.

    Raises:
        ValueError: it could not be read back; nothing was written.
    """
    _READERS[row.kind].decode(row.body)
    if row.trial is not None and not 0 <= row.trial <= LARGEST:
        raise ValueError(f"a trial has number {row.trial}")
    return row


def row(trial: TrialRecord) -> Plain:
    """What is known about a trial as one row of a table."""
    return {
        "trial": trial.number,
        "update": trial.update,
        "purpose": trial.purpose,
        "attempt": trial.attempt,
        **(trial.values or {}),
        "cost": trial.cost,
        "status": trial.status,
        "reason": trial.reason,
        "stages": trial.stages,
        "client": trial.client,
        "notes": trial.notes,
        "asked": trial.asked or None,
        "told": trial.told,
    }


@dataclass(frozen=True)
class Run:
    """A run as read from its folder.

    configuration: the request, and the versions. records: one per update. result: the outcome,
    or {} for an unfinished run. events: what went wrong with trials, with the number of their `update`.
    trials: those that a caller ran, by number. start: the first policy as the bytes of a policy file. state: the last
    snapshot of the search's state, which belongs to the update `updates`; counts: totals up to then. halted:
    why no trial is handed out, or "". incumbent: after which update the last policy that became the incumbent was the
    iterate, and its policy file as bytes; None before there is one.
    """

    folder: Path
    configuration: Plain
    records: list[Plain]
    result: Plain
    events: list[Plain] = field(default_factory=list)
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    arrays: dict[int, bytes | None] = field(default_factory=dict)
    start: bytes | None = None
    state: bytes | None = None
    counts: Plain = field(default_factory=dict)
    halted: str = ""
    incumbent: tuple[int, bytes] | None = None

    def table(self) -> list[Plain]:
        """The trials that a caller ran, one dict per trial: number, update, what ran, cost, outcome, times.

        The numbers that ran have columns of their own, under their names; see `TrialRecord` for the others.
        """
        return [row(trial) for trial in self.trials.values()]

    def frame(self) -> Any:
        """`table` as a pandas DataFrame.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError:
            raise ImportError("frame() needs pandas: pip install pandas. table() gives the same as dicts.") from None
        return pandas.DataFrame(self.table())

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
    from policysearch.core.controller import Controller

    try:
        return Controller.load(folder / POLICY)
    except ValueError as error:
        raise ValueError(f"{error}{_earlier(folder)}") from error


def _earlier(folder: Path) -> str:
    """A sentence that names the newest earlier policy that can be loaded, or ""."""
    from policysearch.core import controller_file
    from policysearch.core.controller import Controller

    for path in (folder / name for name in EARLIER):
        with contextlib.suppress(FileNotFoundError, ValueError):
            Controller.of_content(controller_file.load(path), path)
            return f" An earlier one can be loaded: policysearch.load({str(path)!r})."
    return ""


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Read a run, even one that is still running or was killed; nothing is written.

    Args:
        folder: of the run.

    Raises:
        FileNotFoundError: no such folder, or no run in it.
        BeingMadeError: a process is creating the run right now; also a FileNotFoundError.
        ValueError: the database is damaged.
    """
    folder = Path(folder)
    find(folder)
    new = _is_new(folder)
    try:
        return replayed(folder, every=True)
    except ValueError as error:
        if not new:
            raise
        if maker := owner(folder):
            raise _being_made(folder, maker) from error
    return replayed(folder, every=True)  # it may be complete by now


def _is_new(folder: Path) -> bool:
    """Whether a run was never completely created: no configuration, which is written last, and no acknowledged row."""
    return not (folder / CONFIGURATION).exists() and not acknowledged(folder / HEAD)


def _being_made(folder: Path, maker: str) -> BeingMadeError:
    return BeingMadeError(f"The run in {folder} is being created by {maker}. Try again in a moment.")


def find(folder: Path) -> None:
    """Raise FileNotFoundError if the folder holds no run, `BeingMadeError` if a process is creating one there."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Give the folder of a run, such as runs/lqr-ars-seed0.")
    if not (folder / DATABASE).is_file():
        if _is_new(folder) and (maker := owner(folder)):
            raise _being_made(folder, maker)
        inside = sorted(inner.parent.name for inner in folder.glob(f"*/{DATABASE}"))
        hint = f" It contains runs: {', '.join(inside[:5])}." if inside else ""
        raise FileNotFoundError(f"{folder} is not a run: it holds no {DATABASE}.{hint}")
    if _is_new(folder) and empty(folder / DATABASE):
        if maker := owner(folder):
            raise _being_made(folder, maker)
        if empty(folder / DATABASE):  # else its maker has finished
            raise FileNotFoundError(
                f"The run in {folder} was never started: the process that created it ended before it wrote anything. "
                "Delete the folder and start the run again."
            )


def replayed(folder: Path, every: bool) -> Run:
    """The run that the rows of a history describe; `every` trial, or those of the open update with their arrays."""
    run: Plain = {"folder": folder, "configuration": {}, "records": [], "result": {}, "events": []}
    trials: dict[int, TrialRecord] = {}
    arrays: dict[int, bytes | None] = {}
    path = folder / DATABASE
    try:
        for row in read(path, folder / HEAD, every=every):
            if row.kind in ("asked", "told"):
                take(row, trials, arrays)
                if every:
                    arrays.clear()
                continue
            if row.kind not in _READERS:
                raise ValueError(f"{path} has rows of kind {row.kind!r}; update policysearch to read it.")
            content = _READERS[row.kind].decode(row.body)
            if row.kind == "configuration":
                run["configuration"].update(renamed.configuration(content))
            elif row.kind in ("policy", "state"):
                run["start" if row.kind == "policy" else "state"] = row.blob
            elif row.kind == "incumbent":
                run["incumbent"] = (content["update"], row.blob)
            elif row.kind == "halt":
                run["halted"] = content.reason
            elif row.kind == "event":
                run["events"].append(content)
            elif row.kind == "result":
                run["result"] = content
            else:
                keep_record(run["records"], content.record)
                run["result"] = {}
                if content.counts is not None:
                    run["counts"], run["state"] = content.counts, row.blob
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise damaged(path, error) from error
    return Run(**run, trials=trials, arrays=arrays)


def take(row: Row, trials: dict[int, TrialRecord], arrays: dict[int, bytes | None]) -> None:
    """Update what is known about a trial from a row about it."""
    content = _READERS[row.kind].decode(row.body)
    if row.trial is None:
        raise KeyError("trial")
    if row.kind == "asked":
        trials[row.trial] = content
    else:
        trials[row.trial].add(content.plain())
        arrays[row.trial] = row.blob


def keep_record(records: list[Plain], record: Plain) -> None:
    """Add an update's record; it replaces those that a later process recomputes."""
    if "update" in record:
        # what came after the last snapshot was recomputed by the process that continued
        del records[int(record["update"]) - 1 :]
    records.append({name: float("nan") if value is None else value for name, value in record.items()})
