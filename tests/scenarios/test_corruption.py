"""Damage of a run's files is named or changes nothing that is read; `repair` keeps what is whole for the search."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import sqlite3
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from test_trials import cost, digest, finish, servo

from policysearch import Rig, open_run
from policysearch.cli.main import main
from policysearch.runs.history import Row, salvage
from policysearch.runs.journal import Journal
from policysearch.runs.reader import DATABASE, HEAD, POLICY
from policysearch.runs.repair import repair

LOG = f"{DATABASE}-wal"


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run as `kill -9` leaves it: rows in the database and in its log, trials 20 and 21 told, 22 asked.

    The files are copied while the search holds them open, which is what another process finds when its owner ends.
    """
    folder = tmp_path_factory.mktemp("killed")
    with servo(folder / "living") as search:
        for _ in range(10):
            trial = search.ask()
            search.tell(trial, cost=cost(trial))
    with Rig.open(folder / "living") as search:
        for _ in range(12):
            trial = search.ask()
            search.tell(trial, cost=cost(trial))
        search.ask()
        shutil.copytree(folder / "living", folder / "run")
    assert (folder / "run" / LOG).stat().st_size > 4096
    return folder / "run"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The SHA-256 of the policy at the end of a search that nothing stopped."""
    return finish(servo(tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture
def run(killed, tmp_path):
    """A copy of the killed run to damage."""
    return shutil.copytree(killed, tmp_path / "run", ignore=shutil.ignore_patterns("run.lock", "*-shm"))


def read(folder):
    """Everything that reading gives, as text."""
    (folder / f"{DATABASE}-shm").unlink(missing_ok=True)
    found = open_run(folder)
    return repr(found), {name: value.tobytes() for name, value in found.controller().parameters.items()}


def attempt(function, folder):
    """What it gives, and what its ValueError says, or ""."""
    try:
        return function(folder), ""
    except ValueError as error:
        return None, str(error)


def damages(folder):
    """200 flipped bits and 50 cuts by a fixed seed: name of the file, and its bytes afterwards."""
    rng = random.Random(11)
    for kind, count in (("flip", 200), ("cut", 50)):
        for _ in range(count):
            name = rng.choices([DATABASE, LOG, HEAD, POLICY], [8, 8, 1, 2])[0]
            content = bytearray((folder / name).read_bytes())
            if kind == "flip":
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            else:
                del content[rng.randrange(len(content)) :]
            yield kind, name, bytes(content)


def test_a_flipped_bit_or_a_cut_is_named_in_one_line_or_changes_nothing_that_is_read(run):
    truth = read(run)
    named = dict.fromkeys(["flip", "cut"], 0)
    for kind, name, content in damages(run):
        whole = (run / name).read_bytes()
        (run / name).write_bytes(content)
        found, said = attempt(read, run)
        if said:
            named[kind] += 1
            assert f"{run / (POLICY if name == POLICY else DATABASE)} " in said, (kind, name, said)
            assert "\n" not in said
            assert name == POLICY or f"policysearch repair {run}" in said
        else:
            assert found == truth, (kind, name)
        (run / name).write_bytes(whole)
    assert read(run) == truth
    assert named["flip"] > 80
    assert named["cut"] > 35


# repair


def contents(folder):
    """Files and their bytes, apart from SQLite's map of the log and an empty log, which readers make."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith("-shm")}
    return {name: content for name, content in found.items() if content or name != LOG}


def change(folder, query, *values):
    """Change rows in the database, whose log becomes part of it."""
    with contextlib.closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as connection:
        assert connection.execute(query, values).rowcount == 1
    with pytest.raises(ValueError, match="policysearch repair"):
        open_run(folder)


def go_on(folder, least=22):
    """Open a repaired search and run it to its end: trials that ran again, and the SHA-256 of its policy.

    Of all 24 trials so many at least are done: where a digest is damaged, two rows are gone.
    """
    told = []
    with Rig.open(folder) as search:
        while not search.done:
            trial = search.ask()
            told.append(trial.number)
            search.tell(trial, cost=cost(trial))
    trials = open_run(folder).trials
    assert sum(trial.status == "done" for trial in trials.values()) >= least
    assert all(trial.status in ("done", "lost") for trial in trials.values())
    return told, digest(folder)


def spoiled(kind, which):
    """A query that spoils the body of a row: the last of an update, or that of a trial."""
    found = "kind = 'update' AND number = (SELECT max(number) FROM history WHERE kind = 'update')"
    if kind != "update":
        found = f"kind = '{kind}' AND trial = {which}"
    return f"UPDATE history SET body = CAST(replace(CAST(body AS TEXT), '1', '2') AS BLOB) WHERE {found}"


@pytest.mark.parametrize(
    ("kind", "which", "again", "gone"),
    [
        # its trials are whole, and it is made of them again; those of the next one were told behind it
        ("update", 5, [20, 21, 22, 23], "trials 20 to 22 and update 5"),
        ("told", 20, [20, 21, 22, 23], "trials 20 to 22"),
        ("told", 21, [21, 22, 23], "trials 21 to 22"),
        ("asked", 22, [22, 23], "trial 22"),
        # of updates that are over: the search does not need them
        ("told", 3, [22, 23], "trial 3"),
        ("asked", 9, [22, 23], "trial 9"),
        ("told", 19, [22, 23], "trial 19"),
    ],
)
def test_a_repaired_search_ends_with_the_policy_of_an_undisturbed_one(run, undisturbed, kind, which, again, gone):
    before = open_run(run)
    change(run, spoiled(kind, which))
    said = repair(run)
    assert f"lost: what was known about {gone}." in said
    assert f"The damaged database is now {DATABASE}.damaged-1." in said
    kept = open_run(run)
    assert kept.configuration == before.configuration
    assert all(kept.trials[n].cost in (before.trials[n].cost, None) for n in kept.trials)
    assert (run / f"{DATABASE}.damaged-1").exists()
    assert go_on(run) == (again, undisturbed)


def test_a_lost_trial_of_an_update_that_is_over_is_nobodys_to_tell(run):
    change(run, spoiled("told", 3))
    repair(run)
    trial = open_run(run).trials[3]
    assert (trial.status, trial.fault, trial.reason) == ("lost", "rig", "its result was damaged on disk")


def test_any_damage_is_repaired_to_the_same_end_or_refused_with_nothing_changed(run, tmp_path, undisturbed):
    ends = []
    for number, (kind, name, content) in enumerate(damages(run)):
        if name not in (DATABASE, LOG) or len(ends) == 20:
            continue
        folder = shutil.copytree(run, tmp_path / str(number))
        (folder / name).write_bytes(content)
        if attempt(open_run, folder)[1]:
            before = contents(folder)
            words, said = attempt(repair, folder)
            if said:
                assert "cannot be repaired" in said
                assert contents(folder) == before
            elif "so it can be read but not continued" in words:
                assert len(open_run(folder).trials) > 20
            else:
                assert go_on(folder, least=0)[1] == undisturbed, (kind, name)  # a page holds many trials
                ends.append("repaired")
                continue
            ends.append("refused")
    assert ends.count("repaired") > 9


def test_an_update_of_long_ago_that_is_damaged_is_a_gap_in_the_records_and_nothing_else(run, undisturbed):
    before = open_run(run).records
    found = "number = (SELECT number FROM history WHERE kind = 'update' LIMIT 1 OFFSET 1)"
    change(run, f"UPDATE history SET body = x'00' WHERE {found}")
    assert "Kept 52 of 53 rows; lost: update 2." in repair(run)
    after = open_run(run).records
    assert [record["update"] for record in after] == [1, 2, 3, 4, 5]
    assert after[1].keys() == before[1].keys()
    assert np.isnan(after[1]["cost"])
    assert repr(after[2:]) == repr(before[2:])
    assert go_on(run) == ([22, 23], undisturbed)


def test_where_no_snapshot_is_left_the_search_begins_anew_with_its_first_update(run, undisturbed):
    with contextlib.closing(sqlite3.connect(run / DATABASE, isolation_level=None)) as connection:
        connection.execute("UPDATE history SET blob = x'00' WHERE kind = 'update' AND blob IS NOT NULL")
    assert "lost: what was known about trials 4 to 22 and updates 1 to 5." in repair(run)
    assert go_on(run) == (list(range(4, 24)), undisturbed)


def test_a_safety_stop_behind_the_damage_still_stops_the_search(run):
    with Rig.open(run) as search:
        search.tell(search.pending[0], safety_stop="smoke")
    change(run, spoiled("told", 21))
    assert "The search waits: trial 22 ended by a safety stop: smoke." in repair(run)
    with Rig.open(run) as search, pytest.raises(RuntimeError, match="smoke"):
        search.ask()


def test_a_halt_of_long_ago_that_was_released_stops_nobody(run):
    with Rig.open(run) as search:
        search.halt("smoke")
        search.release("me")
    change(run, "UPDATE history SET body = x'00' WHERE kind = 'halt' AND number = 54")
    assert "waits" not in repair(run)
    with servo(run.parent / "other") as search:
        search.halt("smoke")
        search.release("me")
        for _ in range(4):
            search.tell(search.ask(), cost=1.0)
    change(run.parent / "other", "UPDATE history SET body = x'00' WHERE kind = 'halt' AND number = 4")
    assert "waits" not in repair(run.parent / "other")
    with Rig.open(run.parent / "other") as search:
        assert (search.updates, search.halted) == (1, "")


def test_what_was_told_of_a_trial_whose_request_is_lost_is_not_kept(run):
    """Both asked before one was told, so that what was told is whole, and what it belongs to is not there."""
    with servo(run.parent / "other") as search:
        trials = [search.ask() for _ in range(4)]
        for trial in trials:
            search.tell(trial, cost=1.0)
        search.ask()
    change(run.parent / "other", "DELETE FROM history WHERE kind = 'asked' AND trial = 0")
    assert "lost: what was known about trials 0 to 1 and 1 row that cannot be read." in repair(run.parent / "other")
    assert list(open_run(run.parent / "other").trials) == [2, 3, 4]
    with Rig.open(run.parent / "other") as search:
        assert (search.updates, search.ask().number) == (1, 4)


def test_a_page_that_cannot_be_read_hides_no_row_before_or_behind_it(run, undisturbed):
    with contextlib.closing(sqlite3.connect(run / DATABASE, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    content = bytearray((run / DATABASE).read_bytes())
    page = content.index(b'"number":9,') // size
    content[page * size : (page + 1) * size] = bytes(size)
    (run / DATABASE).write_bytes(bytes(content))
    rows = {number: (row, whole) for number, row, whole in salvage(run / DATABASE)}
    found = list(rows)
    gap = next(number for number in range(1, 54) if number not in found)
    behind = [number for number in found if number > gap]
    assert behind == list(range(behind[0], 54))
    assert found[: gap - 1] == list(range(1, gap))
    # the first one behind follows from none; the last one before may have reached into the page
    assert behind[0] in (torn := [number for number, (_, whole) in rows.items() if not whole])
    assert set(torn) <= {gap - 1, behind[0]}
    asked = {row.trial for row, whole in rows.values() if whole and row.kind == "asked"}
    unasked = [row for row, whole in rows.values() if whole and row.kind == "told" and row.trial not in asked]
    assert len(unasked) <= 1  # of the trial whose asking stood in the page
    said = repair(run)
    assert f"Kept {len(found) - len(torn) - len(unasked)} of 53 rows" in said
    assert f"{behind[0] - gap} rows that cannot be read" in said
    told = []
    with Rig.open(run) as search:
        while not search.done:
            told.append(search.ask())
            search.tell(told[-1], cost=cost(told[-1]))
    assert [trial.number for trial in told] == [22, 23]
    assert digest(run) == undisturbed


def test_a_damaged_index_is_made_anew(run):
    """Opening does not look at it; what does says so, and repair keeps every row."""
    with contextlib.closing(sqlite3.connect(run / DATABASE, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page, size = (
            connection.execute(q).fetchone()[0]
            for q in ("SELECT rootpage FROM sqlite_schema WHERE name = 'of_trial'", "PRAGMA page_size")
        )
    content = bytearray((run / DATABASE).read_bytes())
    content[(page - 1) * size : page * size] = bytes(size)
    (run / DATABASE).write_bytes(bytes(content))
    before = read(run)
    with Rig.open(run) as search:
        with pytest.raises(ValueError, match=rf"{DATABASE} is damaged"):
            search.tell(0, cost=1.0)
        with pytest.raises(ValueError, match=rf"{DATABASE} is damaged"):
            search.tell(22, cost=1.0)
    assert "lost: nothing" in repair(run)
    assert read(run) == before
    with Rig.open(run) as search:
        search.tell(22, cost=1.0)


def test_what_cannot_be_repaired_is_left_as_it_is(run, capsys):
    with Rig.open(run):
        assert main(["repair", str(run)]) == 2
        assert "in use by process" in capsys.readouterr().err
    assert main(["repair", str(run)]) == 0
    assert "nothing to repair" in capsys.readouterr().out
    change(run, "UPDATE history SET body = x'00' WHERE number = 1")
    (run / "config.json").write_text("torn")
    before = contents(run)
    assert main(["repair", str(run)]) == 2
    assert "cannot be repaired" in capsys.readouterr().err
    assert contents(run) == before
    assert main(["repair", str(run / "nowhere")]) == 2
    assert "no folder" in capsys.readouterr().err


def test_the_command_repairs_and_a_second_damage_keeps_the_first_files(run, capsys):
    for count in (1, 2):
        change(run, spoiled("told", 21 - count))
        assert main(["repair", str(run)]) == 0
        assert f"{DATABASE}.damaged-{count}" in capsys.readouterr().out
    assert open_run(run).records
    with contextlib.closing(sqlite3.connect(run / f"{DATABASE}.damaged-1")) as connection:
        assert connection.execute("SELECT count(*) FROM history WHERE trial = 22").fetchone() == (1,)


def test_a_run_of_simulated_updates_goes_on_from_the_last_whole_snapshot(tmp_path):
    """Written in batches, of which only the last update holds a snapshot."""
    run = Journal(tmp_path / "run", {"task": "bowl"}, start=(b"policy", b"state"), keep=True)
    for first in range(0, 40, 10):
        rows = [Row("update", msgspec.json.encode({"record": {"update": first + i + 1.0}})) for i in range(9)]
        body = msgspec.json.encode({"record": {"update": first + 10.0}, "counts": {"updates": first + 10}})
        run._history.append([*rows, Row("update", body, b"snapshot %d" % first)])
    run.close()
    change(tmp_path / "run", "UPDATE history SET body = x'00' WHERE number = 3 + 35")
    assert "Kept 42 of 43 rows; lost: update 35." in repair(tmp_path / "run")
    found = open_run(tmp_path / "run")
    assert (len(found.records), found.state, found.counts) == (40, b"snapshot 30", {"updates": 40})
    change(tmp_path / "run", "UPDATE history SET blob = x'00' WHERE number = 3 + 40")
    assert "lost: update 40." in repair(tmp_path / "run")
    found = open_run(tmp_path / "run")
    assert (len(found.records), found.state, found.counts) == (39, b"snapshot 20", {"updates": 30})


#: repairs, and ends without a word at a change of names
CUT = """
import os, sys
from policysearch.runs.repair import repair
left = int(sys.argv[2])
def cut(whole):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return whole(*arguments, **options)
    return call
for name in ("link", "replace", "unlink", "fsync"):
    setattr(os, name, cut(getattr(os, name)))
repair(sys.argv[1])
"""


def test_a_repair_that_is_cut_can_be_repeated(run, tmp_path, undisturbed):
    """SQLite drops the last page of the log, in which a bit beside the rows is damaged."""
    log = bytearray((run / LOG).read_bytes())
    log[-1000] ^= 4
    (run / LOG).write_bytes(bytes(log))
    for stop in itertools.count():
        folder = shutil.copytree(run, tmp_path / str(stop))
        ended = subprocess.run([sys.executable, "-c", CUT, str(folder), str(stop)], check=False).returncode
        if ended == 0:
            break
        assert ended == 9
        repair(folder)
        assert len(open_run(folder).trials) == 23, stop
        if stop % 3 == 0:
            assert go_on(folder) == ([22, 23], undisturbed)
    assert stop > 6


# damage of what SQLite itself needs, and of the start


@pytest.fixture
def closed(run):
    """The run as its process closes it: one database file, without a log."""
    with contextlib.closing(sqlite3.connect(run / DATABASE, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for name in (LOG, f"{DATABASE}-shm"):
        (run / name).unlink(missing_ok=True)
    return run


def pages(folder):
    """The database, and the size of its pages."""
    content = bytearray((folder / DATABASE).read_bytes())
    return content, int.from_bytes(content[16:18], "big")


@pytest.mark.parametrize("page", ["schema", "root", "index"])
@pytest.mark.parametrize("how", ["zeros", "noise", "flip"])
def test_a_damaged_page_that_holds_no_row_costs_no_row(closed, undisturbed, page, how):
    with contextlib.closing(sqlite3.connect(closed / DATABASE)) as connection:
        roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_schema"))
    number = {"schema": 1, "root": roots["history"], "index": roots["of_trial"]}[page]
    content, size = pages(closed)
    start = (number - 1) * size
    if how == "flip":
        content[start + (100 if page == "schema" else 0)] ^= 1  # the kind of the page
    else:
        noise = np.random.default_rng(0).bytes(size)
        content[start : start + size] = bytes(size) if how == "zeros" else noise
    (closed / DATABASE).write_bytes(bytes(content))
    before = open_run(closed) if attempt(open_run, closed)[0] else None
    assert (before is None) == (page != "index")
    assert "Kept 53 of 53 rows; lost: nothing" in repair(closed)
    assert go_on(closed) == ([22, 23], undisturbed)


def test_of_a_file_that_was_cut_what_is_left_is_kept_or_nothing_is_changed(closed, tmp_path, undisturbed):
    content, size = pages(closed)
    kept = []
    for length in range(len(content) - 1, 0, -size // 2):
        folder = shutil.copytree(closed, tmp_path / str(length))
        (folder / DATABASE).write_bytes(bytes(content[:length]))
        before = contents(folder)
        said, refusal = attempt(repair, folder)
        if refusal:
            assert "no intact row lets a search continue" in refusal
            assert f"--initial {folder}" in refusal
            assert contents(folder) == before
            continue
        kept.append(int(said.split()[1]))
        told, end = go_on(folder, least=0)
        assert end == undisturbed
        assert told[-1] == 23
    assert kept == sorted(kept, reverse=True)
    assert len(kept) > 5
    assert kept[-1] < 30


@pytest.mark.parametrize("kind", ["configuration", "policy", "state"])
@pytest.mark.parametrize("begun", [True, False])
def test_a_damaged_row_of_the_start_is_taken_from_the_files_beside(run, undisturbed, tmp_path, kind, begun):
    if not begun:  # before the first update, of which a trial is told
        run = tmp_path / "young"
        with servo(run) as search:
            search.tell(trial := search.ask(), cost=cost(trial))
    column = "body" if kind == "configuration" else "blob"
    change(run, f"UPDATE history SET {column} = x'00' WHERE kind = '{kind}'")
    said = repair(run)
    taken = {"configuration": "config.json", "policy": "start.safetensors"}.get(kind)
    assert ("Taken from files beside it: " + str(taken) in said) == (taken is not None)
    assert "lost: nothing about a trial or an update" in said
    told, end = go_on(run, least=0)
    assert end == undisturbed
    assert told[0] == (22 if begun else 1)


def test_without_the_file_of_the_start_a_later_policy_takes_its_place_once_there_is_a_snapshot(run, undisturbed):
    change(run, "UPDATE history SET blob = x'00' WHERE kind = 'policy'")
    (run / "start.safetensors").write_bytes(b"torn")
    assert "Taken from files beside it: policy.safetensors" in repair(run)
    assert go_on(run) == ([22, 23], undisturbed)


def test_a_run_that_was_repaired_can_be_repaired_again(run, undisturbed):
    for query in ("SET body = x'00' WHERE number = 1", "SET blob = x'00' WHERE kind = 'policy'"):
        change(run, f"UPDATE history {query}")
        repair(run)
    assert go_on(run) == ([22, 23], undisturbed)
