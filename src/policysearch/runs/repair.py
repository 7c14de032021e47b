"""A run with a damaged database made readable again, from the rows that are intact. No JAX.

Row i is intact if its digest follows from its content and the digest in row i − 1. Kept are the rows up to the last one
that holds a snapshot of the state, without damaged ones, and those after it up to the first damaged one:
a search continues from its last snapshot, and nothing that follows depends on earlier trials and records. What the run
started with is also in files beside the database.
"""

from __future__ import annotations

import contextlib
import filecmp
import itertools
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from policysearch.core import controller_file, files
from policysearch.core.plain import Plain
from policysearch.runs.history import PRUNED, History, Row, acknowledged, read, salvage, sound
from policysearch.runs.lock import Ownership
from policysearch.runs.reader import CONFIGURATION, DATABASE, EARLIER, HEAD, POLICY, START, find

#: rows written at once
_BATCH = 500
_GONE = {"status": "lost", "fault": "rig", "reason": "its result was damaged on disk", "retry": False}


def repair(folder: str | os.PathLike[str]) -> str:
    """Make a run with a damaged database readable again, from the rows that are intact.

    The search continues from its last intact snapshot. Of what came after that, the rows before the first damaged
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
    folder = Path(folder)
    find(folder)
    owner = Ownership(folder)
    try:
        path, head = folder / DATABASE, folder / HEAD
        begun = _begun(path)
        with contextlib.suppress(ValueError):  # damage is found row by row
            for _ in read(path, head, every=False):
                pass
            if begun is None and sound(path):
                return f"{folder} has nothing to repair: every row is intact."
        source = path if begun is None else begun
        plan = _plan(source, acknowledged(head))
        if plan is None:
            raise ValueError(
                f"{path} cannot be repaired: no intact row lets a search continue. Restore it from a copy, "
                f"or start a new search from the last policy: --initial {folder}"
            )
        new, new_head = folder / f".{DATABASE}.repaired", folder / f".{HEAD}.repaired"
        for left in (new, new_head, *folder.glob(f"{new.name}-*")):
            left.unlink(missing_ok=True)
        _write(History(new, new_head, create=True), _kept(source, plan))
        name = _put_aside(path, head) if begun is None else begun.name
        files.sync_folder(folder)
        for companion in ("wal", "shm"):
            path.with_name(f"{path.name}-{companion}").unlink(missing_ok=True)
        new.replace(path)
        new_head.replace(head)
        files.sync_folder(folder)
        return plan.sentence(name)
    finally:
        owner.release()


@dataclass
class _Plan:
    """What is kept of a damaged history.

    end: number of the first row after which nothing is kept. snapshot: number of the last row with a snapshot, or 0.
    total: rows that existed, as far as is known; kept, unread: rows that are kept, or cannot be read.
    start: whether a search can continue. spare: damaged rows of the start, restored from files, by file name.
    trials, updates: those that lost something. halted: why the search waits, if a row that is not kept says so.
    """

    end: int
    snapshot: int
    total: int
    kept: int = 0
    unread: int = 0
    start: bool = True
    spare: dict[str, Row] = field(default_factory=dict)
    halted: str = ""
    trials: set[int] = field(default_factory=set)
    updates: set[int] = field(default_factory=set)

    def sentence(self, name: str) -> str:
        """How many rows were kept, and what is gone."""
        gone = []
        if self.trials:
            gone.append(f"what was known about trial{_numbers(self.trials)}")
        if self.updates:
            gone.append(f"update{_numbers(self.updates)}")
        if self.unread:
            gone.append(f"{self.unread} row{'s' * (self.unread > 1)} that cannot be read")
        if not self.start:
            gone.append("the start of the search, so it can be read but not continued")
        words = " and ".join(gone) or "nothing about a trial or an update"
        taken = f" Taken from files beside it: {', '.join(self.spare)}." if self.spare else ""
        waits = f" The search waits: {self.halted}." if self.halted else ""
        return (
            f"Kept {self.kept} of {self.total} rows; lost: {words}. The damaged database is now {name}.{taken}{waits}"
        )


def _plan(path: Path, known: int) -> _Plan | None:
    """Decide what is kept; None if nothing can be."""
    last = first = snapshot = first_whole = 0
    begun = dropped = False
    essential: set[str] = set()
    bad: list[int] = []
    with contextlib.suppress(sqlite3.DatabaseError):
        for number, row, whole in salvage(path):
            bad += range(last + 1, number + (not whole))
            last = number
            if not whole:
                continue
            first_whole = first_whole or number
            begun = begun or row.kind in ("asked", PRUNED)
            if number <= 3 and not begun:
                essential.add(row.kind)
            if row.kind == PRUNED:
                first = first or number
                if row.blob is not None:
                    snapshot = number
                dropped = dropped or (not bad and row.blob is None and "counts" in _decoded(row))
    spare = _spare(path.parent, essential, snapshot > 0)
    taken = {row.kind for row in spare.values()}
    if "configuration" not in essential | taken:
        return None
    # the start is rows 1 to 3; the state in the last of them follows from the other two
    replaced = {number for number, kind in ((1, "configuration"), (2, "policy")) if kind in taken}
    if START in spare or not essential.isdisjoint(("policy", "state")):
        replaced.add(3)
    essential |= taken
    end = next((number for number in bad if number > snapshot and number not in replaced), last + 1)
    if not snapshot and dropped:
        # updates, but no state to continue from: back to the start, with what was told in the first one
        end = first
    if not 0 < first_whole < end:
        return None
    total = max(last, known)
    plan = _Plan(end, snapshot, total, start="policy" in essential, spare=spare)
    _tell_gone(path, plan)
    return plan


def _spare(folder: Path, whole: set[str], moved: bool) -> dict[str, Row]:
    """Damaged rows of the start, restored from files, by file name.

    Args:
        folder: of the run.
        whole: kinds of the intact rows.
        moved: the values come from a snapshot, so every policy of the search has what is needed of the first one:
            its kind, sizes and constants.
    """
    found = {}
    if "configuration" not in whole:
        with contextlib.suppress(OSError, ValueError, RecursionError):
            content = msgspec.json.decode((folder / CONFIGURATION).read_bytes(), type=Plain)
            found[CONFIGURATION] = Row("configuration", msgspec.json.encode(content))
    if "policy" not in whole:
        for name in (START, *((POLICY, *EARLIER) if moved else ())):
            with contextlib.suppress(OSError, ValueError):
                content = (folder / name).read_bytes()
                controller_file.parse(content, name)
                found[name] = Row("policy", b"{}", content)
                break
    return found


def _kept(path: Path, plan: _Plan) -> Iterator[Row]:
    """The rows of the new history; losses found on the way are added to the plan."""
    asked: set[int] = set()
    waiting: dict[int, None] = {}  # in order
    updates = 0
    spare = sorted(plan.spare.values(), key=lambda row: row.kind)  # the configuration is the first row
    if spare and spare[0].kind == "configuration":
        yield spare.pop(0)
    for number, row, whole in salvage(path):
        if number >= plan.end:
            break
        if number > 1 and spare:
            yield spare.pop()
        if not whole:
            continue
        if row.kind == "asked" and row.trial is not None:
            asked.add(row.trial)
            waiting[row.trial] = None
        elif row.kind == "told" and row.trial is not None:
            if row.trial not in asked:
                plan.trials.add(row.trial)
                continue
            waiting.pop(row.trial, None)
        if row.kind == PRUNED:
            record, position = _decoded(row)["record"], _update(row) or updates + 1
            for update in range(updates + 1, position):  # damaged ones, known only by number
                plan.updates.add(update)
                blank = dict.fromkeys(record) | {"update": float(update)}
                yield Row(PRUNED, msgspec.json.encode({"record": blank}))
            updates = position
        if number == plan.snapshot:
            for trial in waiting:  # its update is over, so it will never be told
                plan.trials.add(trial)
                yield Row("told", msgspec.json.encode({**_GONE, "told": time.time()}), None, trial)
            waiting.clear()
        plan.kept += 1
        yield row
    yield from spare
    if plan.halted:
        yield Row("halt", msgspec.json.encode({"reason": plan.halted, "by": "", "when": time.time()}))


def _tell_gone(path: Path, plan: _Plan) -> None:
    """Find out what the rows that are not kept were about, as far as they can be read."""
    plan.unread = plan.total
    for number, row, whole in salvage(path):
        plan.unread -= 1
        if whole and number < plan.end:
            if row.kind == "halt":
                plan.halted = ""  # its content is kept
            continue
        if isinstance(row.trial, int):
            plan.trials.add(row.trial)
        content = _decoded(row)
        position = _update(row)
        if position is not None:
            plan.updates.add(position)
        if row.kind == "halt":
            reason = content.get("reason")
            plan.halted = reason if isinstance(reason, str) else "a row that said so is damaged"


def _update(row: Row) -> int | None:
    """Number of the update that a row is about."""
    try:
        return int(_decoded(row)["record"]["update"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _decoded(row: Row) -> Plain:
    try:
        content = msgspec.json.decode(row.body)
    except (msgspec.DecodeError, TypeError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(history: History, rows: Iterator[Row]) -> None:
    """Add rows to an empty history and close it."""
    try:
        while batch := list(itertools.islice(rows, _BATCH)):
            history.append(batch)
    finally:
        history.close()


def _begun(path: Path) -> Path | None:
    """The damaged database as put aside, with its log, by a repair that was killed."""
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:  # readers create an empty one
        return None
    for aside in path.parent.glob(f"{path.name}.damaged-*[0-9]"):
        if aside.with_name(f"{aside.name}-wal").exists() and filecmp.cmp(path, aside, shallow=False):
            return aside
    return None


def _put_aside(path: Path, head: Path) -> str:
    """Keep the damaged files under other names; returns that of the database.

    The database stays in its place too, without its log, until the new one takes it: a process killed here leaves a
    damaged run that can be repaired, see `_begun`.
    """
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    try:
        os.link(path, aside)
    except OSError:  # a file system without links
        shutil.copyfile(path, aside)
    log = path.with_name(f"{path.name}-wal")
    if log.exists():
        log.replace(aside.with_name(f"{aside.name}-wal"))
    if head.exists():
        shutil.copyfile(head, head.with_name(f"{head.name}.damaged-{number}"))
    return aside.name


def _numbers(found: set[int]) -> str:
    """Such as "s 3, 5 to 9"."""
    runs: list[list[int]] = []
    for number in sorted(found):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    text = ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs)
    return f"s {text}" if len(found) > 1 else f" {text}"
