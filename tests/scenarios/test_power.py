"""The power fails: what is left on disk at any moment holds all that was acknowledged before."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_trials import cost, servo

from policysearch.core.controller import Controller
from policysearch.runs.reader import DATABASE, HEAD, open_run

#: keeps trials, updates and policies in three lives, and says after each call that it came back
WRITER = """
import os, sys
from pathlib import Path
from policysearch import Continuous, Interface
from policysearch.core.controller import Controller
from policysearch.runs.journal import Journal
from policysearch.runs.reader import TrialRecord
LIMITED = Interface(limits=Continuous([-1.0], [1.0]))
folder = Path(sys.argv[1], "runs", "rig")
def acknowledge(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
number = 0
for life in range(3):
    run = Journal(folder, {}, start=(b"policy", b"state"), keep=True) if life == 0 else Journal.reopen(folder)[0]
    run._history._connection.execute("PRAGMA wal_autocheckpoint=40")  # pages, so that a short log is enough
    for update in range(5 * life + 1, 5 * life + 6):
        for index in range(3):
            trial = TrialRecord(number=number, update=update, index=index)
            run.add_asked(trial)
            acknowledge("asked", number)
            trial.status, trial.cost = "done", float(number)
            run.add_told(trial, bytes(5000) if index else None)
            acknowledge("told", number)
            number += 1
        run.add({"update": float(update)}, lambda: ({"updates": update}, b"state %d" % update))
        run.flush()
        acknowledge("update", update)
        run.save(Controller({"policy": "linear_gaussian"}, {"gain": [[float(update)]]}, interface=LIMITED))
        acknowledge("saved", update)
    if life < 2:
        run.close()
        acknowledge("closed", life)
"""
CALLS = "openat,pwrite64,write,fsync,fdatasync,rename,renameat,renameat2,link,linkat,ftruncate,unlink,unlinkat,mkdir"
CALL = re.compile(rb"^(\w+)\((.*)\) += (\d+)")
TEXT = re.compile(rb'"((?:\\x[0-9a-f]{2})*)"')


class File:
    """A file's bytes that survive a loss of power, and the changes since, each of which may or may not."""

    def __init__(self):
        self.durable = bytearray()
        self.pending = []

    def change(self, offset, data):
        """Write, or with data None cut."""
        self.pending.append((offset, data))

    def sync(self):
        self.durable, self.pending = self.left([True] * len(self.pending)), []

    def left(self, kept):
        content = bytearray(self.durable)
        for (offset, data), keep in zip(self.pending, kept, strict=True):
            if keep and data is None:
                del content[offset:]
                content.extend(bytes(offset - len(content)))
            elif keep:
                content.extend(bytes(max(0, offset - len(content))))
                content[offset : offset + len(data)] = data
        return content


class Disk:
    """What POSIX promises of a disk: a file's bytes after fsync of it, a name after fsync of the folder it is in.

    Everything else may be there or not after a loss of power: any of a file's later writes, whichever were first, and
    the later changes of names up to some moment.
    """

    def __init__(self, root):
        self.root = root
        self.names, self.durable, self.pending = {}, {}, []
        self.open, self.places = {}, {}

    def name(self, path, file):
        """Give a name to a file, or take it away with None."""
        self._set(self.names, path, file)
        self.pending.append((path, file))

    @staticmethod
    def _set(names, path, file):
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file

    def call(self, name, text, result):
        """Follow a system call; what it wrote if that went to the standard output."""
        words = [bytes.fromhex(t.replace(b"\\x", b"").decode()) for t in TEXT.findall(text)]
        number = int(re.match(rb"\d+", text)[0]) if text[:1].isdigit() else None
        if name == b"openat":
            path = os.path.join(self.root, words[0].decode())
            self.open[result], self.places[result] = None, path
            if path.startswith(str(self.root)) and not os.path.isdir(path) and not path.endswith("-shm"):
                if path not in self.names:
                    if b"O_CREAT" not in text:
                        return None
                    self.name(path, File())
                self.open[result] = self.names[path]
                if b"O_TRUNC" in text:
                    self.open[result].change(0, None)
                self.at = {**getattr(self, "at", {}), result: 0}
        elif name == b"mkdir":
            self.name(words[0].decode(), "folder")
        elif name in (b"pwrite64", b"write"):
            if number == 1:
                return words[0].decode()
            if self.open.get(number) is not None:
                offset = int(text.rpartition(b", ")[2]) if name == b"pwrite64" else self.at[number]
                self.open[number].change(offset, words[0][:result])
                self.at[number] += result if name == b"write" else 0
        elif name == b"ftruncate" and self.open.get(number) is not None:
            self.open[number].change(int(text.rpartition(b", ")[2]), None)
        elif name in (b"fsync", b"fdatasync"):
            if self.open.get(number) is not None:
                self.open[number].sync()
            else:
                folder, later = self.places[number], []
                for path, file in self.pending:
                    if os.path.dirname(path) == folder:
                        self._set(self.durable, path, file)
                    else:
                        later.append((path, file))
                self.pending = later
        elif name.startswith((b"rename", b"link")):
            old, new = (word.decode() for word in words)
            if old in self.names:
                self.name(new, self.names[old])
                if name.startswith(b"rename"):
                    self.name(old, None)
        elif name.startswith(b"unlink") and words[0].decode() in self.names:
            self.name(words[0].decode(), None)
        return None

    def lose_power(self, folder, rng=None):
        """Write what is left into a folder: only what is promised, or with `rng` some of the rest as well."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        names = dict(self.durable)
        for path, file in self.pending[: 0 if rng is None else rng.randint(0, len(self.pending))]:
            self._set(names, path, file)
        for path, file in names.items():
            if file != "folder" and all(str(place) in names for place in self._above(path)):
                kept = [rng is not None and rng.random() < 0.5 for _ in file.pending]
                place = folder / Path(path).relative_to(self.root)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(file.left(kept))

    def _above(self, path):
        return [place for place in Path(path).parents if len(place.parts) > len(Path(self.root).parts)]


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """The system calls of the writer, in order."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    folder = tmp_path_factory.mktemp("traced")
    log = folder / "trace"
    command = ["strace", "-xx", "-s", "1000000", "-e", f"trace={CALLS}", "-o", str(log)]
    (folder / "disk").mkdir()
    command += [sys.executable, "-c", WRITER, str(folder / "disk")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "ptrace" in done.stderr:
        pytest.skip("system calls cannot be traced here")
    assert done.returncode == 0, done.stderr
    calls = [found.groups() for found in map(CALL.match, log.read_bytes().splitlines()) if found]
    return folder / "disk", [(name, text, int(result)) for name, text, result in calls]


def check(folder, acknowledged, moment):
    """What is read of the folder holds all that was acknowledged."""
    if not acknowledged:
        return
    run = open_run(folder)
    updates = max((int(n) for kind, n in acknowledged if kind == "update"), default=0)
    assert len(run.records) >= updates, moment
    for kind, number in acknowledged:
        if kind == "asked":
            assert int(number) in run.trials, moment
        elif kind == "told":
            assert run.trials[int(number)].cost == float(number), moment
    saved = max((int(n) for kind, n in acknowledged if kind == "saved"), default=0)
    if saved:
        assert run.controller().parameters["gain"][0, 0] in (saved, saved + 1), moment


def test_whatever_was_not_synced_is_lost_and_nothing_acknowledged_is_among_it(trace, tmp_path):
    """The disk's state is followed call by call, by the rules of `Disk`, from a trace of a real process.

    At each acknowledgement all that was not synced is dropped, which shows that a sync stands between each write and
    its acknowledgement. There and at every fifth call a random part of it is kept, in which no order is kept. What
    this leaves out: disks that acknowledge a sync and have not written, and pages that are written in part.
    """
    root, calls = trace
    disk, rng, acknowledged, kinds = Disk(str(root)), random.Random(3), [], set()
    for moment, (name, text, result) in enumerate(calls):
        said = disk.call(name, text, result)
        if said:
            acknowledged.append(tuple(said.split()))
            kinds.add(acknowledged[-1][0])
            disk.lose_power(tmp_path / "left")
            check(tmp_path / "left" / "runs" / "rig", acknowledged, (moment, said))
        if (said or moment % 5 == 0) and acknowledged:
            disk.lose_power(tmp_path / "left", rng)
            check(tmp_path / "left" / "runs" / "rig", acknowledged, (moment, name))
    assert kinds == {"asked", "told", "update", "saved", "closed"}
    assert len(acknowledged) == 3 * 5 * (3 * 2 + 2) + 2


def test_a_copy_of_the_files_at_each_acknowledgement_holds_what_was_acknowledged(tmp_path):
    """Runs everywhere, and shows less: that results are in the files, not that they are on the disk."""
    with servo(tmp_path / "run") as search:
        assert search._journal._history._connection.execute("PRAGMA synchronous").fetchone() == (2,)
        while not search.done:
            trial = search.ask()
            for status in ("asked", "done"):
                if status == "done":
                    search.tell(trial, cost=cost(trial))
                (tmp_path / "copy").mkdir()
                for name in (DATABASE, f"{DATABASE}-wal", HEAD):
                    shutil.copy(tmp_path / "run" / name, tmp_path / "copy" / name)
                copy = open_run(tmp_path / "copy")
                assert copy.trials[trial.number].status == status
                assert len(copy.trials) == trial.number + 1
                assert len(copy.records) == search.updates
                shutil.rmtree(tmp_path / "copy")
    assert isinstance(open_run(tmp_path / "run").controller(), Controller)
