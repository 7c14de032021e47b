"""Run folders: what is written is read back, nothing is overwritten, damage is named, a killed run stays readable."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import policysearch
from policysearch.cli.main import main
from policysearch.core.controller import Controller
from policysearch.core.interface import Interface
from policysearch.core.specification import Continuous
from policysearch.runs import history, journal, reader
from policysearch.runs import lock as locking
from policysearch.runs.journal import Journal
from policysearch.runs.metrics import Metrics
from policysearch.runs.reader import BeingMadeError, open_run

FORCE = Interface(limits=Continuous([-1.0], [1.0]))


def gain() -> Controller:
    return Controller({"policy": "linear_gaussian"}, {"gain": np.array([[-0.5, -0.8]])}, interface=FORCE)


def records(count: int) -> list[dict[str, float]]:
    return [{"update": float(i + 1), "cost": 1.0 / (i + 1), "snr": math.nan} for i in range(count)]


def finished(folder: Path, count: int = 3) -> Path:
    run = Journal(folder, {"task": "lqr", "seed": 7})
    for record in records(count):
        run.add(record)
    run.save(gain())
    run.finish({"cost_mean": 0.25, "solved": True})
    run.close()
    return folder


def test_a_finished_run_is_read_back_as_it_was_written(tmp_path):
    run = open_run(finished(tmp_path / "run"))
    assert run.configuration == {"task": "lqr", "seed": 7}
    assert run.result == {"cost_mean": 0.25, "solved": True}
    assert [record["cost"] for record in run.records] == [record["cost"] for record in records(3)]
    assert all(math.isnan(record["snr"]) for record in run.records)
    assert np.array_equal(run.controller().parameters["gain"], gain().parameters["gain"])
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == run.configuration


def test_a_closed_run_has_no_companion_files(tmp_path):
    folder = finished(tmp_path / "run")
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "metrics.csv",
        "metrics.jsonl",
        "policy.safetensors",
        "run.head",
        "run.sqlite",
    ]
    # neither does it need one to be read, as a database in WAL mode (2) would on a read-only medium
    assert (folder / "run.sqlite").read_bytes()[18:20] == b"\x01\x01"


def test_metrics_have_a_row_an_update_and_every_column_that_ever_appears(tmp_path):
    with Path(finished(tmp_path / "run"), "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["cost"]) for row in rows] == [record["cost"] for record in records(3)]
    Metrics(tmp_path).write([{"a": 1.0}, {"a": 2.0, "b": 3.0}])
    assert (tmp_path / "metrics.csv").read_text() == "a,b\n1.0,nan\n2.0,3.0\n"
    assert (tmp_path / "metrics.jsonl").read_text() == '{"a":1.0}\n{"a":2.0,"b":3.0}\n'


def test_fast_updates_are_written_in_batches_and_slow_ones_at_once(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(journal.time, "monotonic", lambda: now[0])
    run = Journal(tmp_path / "run", {})
    for record in records(10):
        run.add(record)
        now[0] += 0.01
    assert len(open_run(run.folder).records) == 1
    now[0] += journal.INTERVAL
    run.add({"update": 11.0})
    assert len(open_run(run.folder).records) == 11
    run.add({"update": 12.0})
    run.close()
    assert [record["update"] for record in open_run(run.folder).records] == [float(i) for i in range(1, 13)]


def shown(folder: Path) -> list[dict[str, str]]:
    """What a reader of metrics.csv sees, which is what metrics.jsonl says."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [float(row["update"]) for row in rows] == [line["update"] for line in lines]
    return rows


def test_metrics_are_there_while_the_run_goes_on_as_far_as_the_database_is(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(journal.time, "monotonic", lambda: now[0])
    run = Journal(tmp_path, {})
    for record in records(3):
        run.add(record)
    assert len(shown(tmp_path)) == len(open_run(tmp_path).records) == 1
    now[0] += journal.INTERVAL
    run.add({"update": 4.0, "kl": 0.01})
    rows = shown(tmp_path)
    assert list(rows[0]) == ["update", "cost", "snr", "kl"]
    assert [row["kl"] for row in rows] == ["nan", "nan", "nan", "0.01"]
    assert rows[3]["cost"] == "nan"
    assert np.genfromtxt(tmp_path / "metrics.csv", delimiter=",", names=True)["update"].tolist() == [1, 2, 3, 4]
    run.close()
    assert shown(tmp_path) == rows
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_numbers_in_metrics_are_exact(tmp_path):
    Metrics(tmp_path).append([{"update": 1, "cost": 0.1 + 0.2, "snr": -math.inf}])
    assert (tmp_path / "metrics.csv").read_text() == "update,cost,snr\n1,0.30000000000000004,nan\n"
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"update": 1, "cost": 0.1 + 0.2, "snr": None}


def test_a_run_that_goes_on_has_metrics_without_the_updates_that_are_computed_again(tmp_path):
    run = Journal(tmp_path, {})
    for record in records(3):
        run.add(record)
        run.flush()
    run._history.close()  # as if killed
    run._owner.release()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4.0,0.1")
    again, _ = Journal.reopen(tmp_path)
    again.add({"update": 3.0, "cost": 7.0})
    assert [row["cost"] for row in shown(tmp_path)] == ["1.0", "0.5", "7.0"]
    again.add({"update": 4.0, "cost": 8.0})
    again.close()
    assert [row["cost"] for row in shown(tmp_path)] == ["1.0", "0.5", "7.0", "8.0"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("name", ["metrics.csv", "metrics.jsonl"])
def test_metrics_that_the_disk_does_not_take_neither_stop_a_run_nor_stay_away(name, tmp_path):
    run = Journal(tmp_path, {})
    (tmp_path / name).symlink_to("/dev/full")
    for record in records(3):
        run.add(record)
        run.flush()
    assert len(open_run(tmp_path).records) == 3
    run.close()
    assert not (tmp_path / name).is_symlink()
    assert len(shown(tmp_path)) == 3


def test_a_folder_that_holds_a_run_is_never_overwritten(tmp_path):
    folder = finished(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match="already holds a run"):
        Journal(folder, {"task": "other"})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_file_of_the_user_is_never_overwritten(tmp_path):
    (tmp_path / "metrics.csv").write_text("mine")
    with pytest.raises(FileExistsError, match=r"metrics\.csv"):
        Journal(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_run_without_an_update_leaves_nothing_behind(tmp_path):
    run = Journal(tmp_path / "run", {"task": "lqr"})
    run.close()
    run.close()
    assert not (tmp_path / "run").exists()


def test_a_killed_run_keeps_what_it_had_written(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from policysearch.runs.journal import Journal\n"
        "run = Journal(sys.argv[1], {'task': 'lqr'})\n"
        "for i in range(5):\n"
        "    run.add({'update': i + 1.0})\n"
        "run.flush()\n"
        "run.add({'update': 6.0})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert done.returncode == -signal.SIGKILL
    run = open_run(tmp_path / "run")
    assert [record["update"] for record in run.records] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert run.result == {}
    with pytest.raises(FileNotFoundError, match="has not finished"):
        run.controller()


def test_reading_says_what_is_wrong_with_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        open_run(tmp_path / "nothing")
    finished(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match=r"is not a run.*contains runs: a"):
        open_run(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "empty"])
def test_a_damaged_database_is_named(tmp_path, damage):
    path = finished(tmp_path / "run", count=200) / "run.sqlite"
    whole = path.read_bytes()
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "overwritten": os.urandom(4096) + whole[4096:],
            "empty": b"",
        }[damage]
    )
    with pytest.raises(ValueError, match="is damaged"):
        open_run(tmp_path / "run")


def test_load_takes_a_folder_or_a_file_and_names_damage(tmp_path):
    folder = finished(tmp_path / "run")
    file = folder / "policy.safetensors"
    for place in (folder, file, str(folder)):
        assert policysearch.load(place).parameters["gain"][0, 1] == -0.8
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="damaged"):
        policysearch.load(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="policy file is missing"):
        policysearch.load(folder)
    with pytest.raises(FileNotFoundError):
        policysearch.load(tmp_path / "nothing")


def policy(value: float) -> Controller:
    return Controller({"policy": "linear_gaussian"}, {"gain": np.array([[value]])}, interface=FORCE)


def kept(folder: Path) -> dict[str, float]:
    files = sorted(folder.glob("policy*.safetensors"))
    return {path.name: float(Controller.load(path).parameters["gain"][0, 0]) for path in files}


def test_the_last_three_policies_are_kept_and_the_same_one_again_takes_no_place(tmp_path):
    run = Journal(tmp_path / "run", {}, keep=True)
    for value in (1.0, 2.0, 2.0, 2.0, 3.0):
        run.save(policy(value))
    assert kept(run.folder) == {"policy.safetensors": 3, "policy.1.safetensors": 2, "policy.2.safetensors": 1}
    run.save(policy(4.0))
    assert kept(run.folder) == {"policy.safetensors": 4, "policy.1.safetensors": 3, "policy.2.safetensors": 2}
    run.close()


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("stop", range(8))
def test_a_policy_file_is_there_and_whole_wherever_saving_is_cut(tmp_path, monkeypatch, stop, links):
    run = Journal(tmp_path / "run", {}, keep=True)
    for value in (1.0, 2.0, 3.0):
        run.save(policy(value))
    calls = 0

    def cut(whole):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls > stop:
                raise InterruptedError
            return whole(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        if not links:
            patched.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError()))
        for name in ("replace", "fsync", "open"):
            patched.setattr(os, name, cut(getattr(os, name)))
        with contextlib.suppress(InterruptedError):
            run.save(policy(4.0))
    found = kept(run.folder)
    assert found["policy.safetensors"] in (3.0, 4.0)
    assert 2.0 in found.values()
    run.save(policy(5.0))
    assert kept(run.folder)["policy.safetensors"] == 5.0
    run.close()


def test_a_damaged_newest_policy_is_named_with_the_one_before_and_takes_no_place_of_it(tmp_path):
    run = Journal(tmp_path / "run", {}, keep=True)
    for value in (1.0, 2.0, 3.0):
        run.save(policy(value))
    folder = run.folder
    flip(folder / "policy.safetensors")
    for load in (open_run(folder).controller, lambda: policysearch.load(folder)):
        with pytest.raises(ValueError, match=r"policy\.safetensors is damaged.*load\('.*/policy\.1\.safetensors'\)"):
            load()
    flip(folder / "policy.1.safetensors")
    with pytest.raises(ValueError, match=r"load\('.*/policy\.2\.safetensors'\)"):
        policysearch.load(folder)
    flip(folder / "policy.1.safetensors")
    run.save(policy(4.0))
    assert kept(folder) == {"policy.safetensors": 4, "policy.1.safetensors": 2, "policy.2.safetensors": 1}
    (folder / "policy.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"load\('.*/policy\.1\.safetensors'\)"):
        policysearch.load(folder)
    run.close()


def flip(path: Path) -> None:
    """Change the last bit, in place; a file that is linked to is not changed with it."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(bytes(content))


def test_earlier_policies_are_never_overwritten_by_another_run(tmp_path):
    policy(1.0).save(tmp_path / "policy.2.safetensors")
    with pytest.raises(FileExistsError, match=r"policy\.2\.safetensors"):
        Journal(tmp_path, {})


def test_provenance_names_versions_and_command():
    known = journal.provenance()
    assert known["versions"]["numpy"] == np.__version__
    assert {"policysearch", "jax", "python"} <= set(known["versions"])
    assert known["command"] == sys.argv


@pytest.fixture
def looked(tmp_path, monkeypatch):
    """Make a run, and open it as a reader at every step of that; what came of each look."""
    found: list[tuple[str, Exception | None]] = []
    connect, executed = history.sqlite3.connect, []

    def look(moment: str) -> None:
        if not executed:
            executed.append(moment)  # what reading itself connects to is no moment
            try:
                open_run(tmp_path / "run")
            except Exception as error:
                found.append((moment, error))
            else:
                found.append((moment, None))
            executed.clear()

    class Watched(history.History):
        def __init__(self, *arguments, **more):
            look("owned")
            super().__init__(*arguments, **more)
            look("empty")

        def append(self, rows):
            super().append(rows)
            look("begun")

    def connected(*arguments, **more):
        look("touched")
        return connect(*arguments, **more)

    monkeypatch.setattr(journal, "History", Watched)
    monkeypatch.setattr(history.sqlite3, "connect", connected)
    run = Journal(tmp_path / "run", {"task": "lqr"}, keep=True)
    yield found
    run.close()


def test_a_run_that_is_being_made_is_not_called_damaged_and_its_maker_is_named(looked, tmp_path):
    assert [moment for moment, _ in looked] == ["owned", "touched", "empty", "begun"]
    for _, error in looked[:3]:
        assert isinstance(error, BeingMadeError)
        assert f"being created by process {os.getpid()} on " in str(error)
        assert "Try again in a moment." in str(error)
    assert looked[3][1] is None
    assert open_run(tmp_path / "run").configuration == {"task": "lqr"}


def test_a_run_that_was_made_and_left_while_it_was_read_is_read_again(tmp_path, monkeypatch):
    (tmp_path / "run.sqlite").touch()

    def left(folder):
        (folder / "run.sqlite").unlink()
        finished(folder)
        return locking.owner(folder)

    monkeypatch.setattr(reader, "owner", left)
    assert len(open_run(tmp_path).records) == 3


@pytest.mark.parametrize("command", ["report", "evaluate", "status"])
def test_commands_say_that_a_run_is_being_made(command, tmp_path, capsys):
    (tmp_path / "run.sqlite").touch()
    owner = locking.Ownership(tmp_path)
    assert main([command, str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"policysearch: The run in {tmp_path} is being created by {locking.owner(tmp_path)}. Try again in a moment.\n"
    )
    owner.release()
    assert main([command, str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"policysearch: The run in {tmp_path} was never started: the process that created it ended before it wrote "
        "anything. Delete the folder and start the run again.\n"
    )


@pytest.mark.parametrize("moment", ["connect", "_write_head"])
def test_a_run_whose_maker_was_killed_before_it_wrote_anything_is_called_so(moment, tmp_path):
    target = "history.sqlite3" if moment == "connect" else "history.History"
    script = (
        "import os, signal; from policysearch.runs import history; from policysearch.runs.journal import Journal\n"
        f"{target}.{moment} = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"Journal({str(tmp_path / 'run')!r}, {{}})"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "run" / "run.sqlite").exists()
    for reads in (open_run, Journal.reopen):
        with pytest.raises(FileNotFoundError, match="never started"):
            reads(tmp_path / "run")


@pytest.mark.parametrize("left", ["config.json", "run.head"])
def test_a_damaged_run_is_called_damaged_also_while_somebody_owns_it(left, tmp_path):
    folder = finished(tmp_path / "run")
    for name in {"config.json", "run.head"} - {left}:
        (folder / name).unlink()
    (folder / "run.sqlite").write_bytes(b"")
    owner = locking.Ownership(folder)
    with pytest.raises(ValueError, match="is damaged"):
        open_run(folder)
    (folder / "run.sqlite").unlink()
    with pytest.raises(FileNotFoundError, match=r"is not a run: it holds no run.sqlite"):
        open_run(folder)
    owner.release()


def test_a_reader_knows_owners_that_are_alive_and_takes_no_lock(tmp_path):
    assert locking.owner(tmp_path) is None
    mine = locking.Ownership(tmp_path)
    assert locking.owner(tmp_path).startswith(f"process {os.getpid()} on ")
    mine.release()
    lock = tmp_path / locking.LOCK
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    who = {"pid": ended.pid, "host": locking.socket.gethostname(), "since": "2026-01-01"}
    lock.write_text(json.dumps(who))
    assert locking.owner(tmp_path) is None
    lock.write_text(json.dumps(who | {"host": "elsewhere"}))
    assert locking.owner(tmp_path) == f"process {ended.pid} on elsewhere since 2026-01-01"
    lock.write_text("")
    assert locking.owner(tmp_path) == "another process that has not yet written its name"
    os.utime(lock, (1e9, 1e9))
    assert locking.owner(tmp_path) is None
    lock.write_text("{not JSON")
    assert locking.owner(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"client": 5},
        {"update": "0"},
        {"asked": None},
        {"number": 2**70},
        {"number": -1},
        {"client": "\ud800"},
        {"purpose": object()},
    ],
)
def test_no_row_is_written_that_could_not_be_read_back(tmp_path, change):
    run = Journal(tmp_path / "run", {"task": "lqr"}, keep=True)
    run.add_asked(reader.TrialRecord(number=0, update=0, index=0))
    with pytest.raises(ValueError, match=r"This cannot be recorded \(asked\)"):
        run.add_asked(reader.TrialRecord(**({"number": 1, "update": 0, "index": 1} | change)))
    with pytest.raises(ValueError, match=r"This cannot be recorded \(told\)"):
        run.add_told(reader.TrialRecord(number=0, update=0, index=0, status=5), None)
    run.close()
    assert list(open_run(run.folder).trials) == [0]


def test_numbers_and_names_of_numpy_are_written_as_plain_ones(tmp_path):
    run = Journal(tmp_path / "run", {"seed": np.int64(7), "scale": np.array([1.0, 2.0]), "place": tmp_path}, keep=True)
    run.add_asked(reader.TrialRecord(number=np.int64(0), update=0, index=0, client=np.str_("b"), asked=np.float64(1.5)))
    run.close()
    found = open_run(run.folder)
    assert found.configuration == {"seed": 7, "scale": [1.0, 2.0], "place": str(tmp_path)}
    assert (found.trials[0].client, found.trials[0].asked) == ("b", 1.5)
