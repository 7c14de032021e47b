"""Rows that are only added: what is read of them, and what reading costs."""

from __future__ import annotations

import sqlite3
import tracemalloc

import msgspec
import pytest

from policysearch.runs.history import Row, read
from policysearch.runs.journal import Journal
from policysearch.runs.reader import DATABASE, HEAD, open_run

ARRAYS = bytes(20_000)


def grown(folder, updates, trials):
    """A run of so many updates of so many trials, and one trial more, each with arrays."""
    run = Journal(folder, {"trials": "rig"}, keep=True)
    for number in range(updates * trials + 1):
        asked = {"number": number, "update": number // trials, "index": number % trials}
        told = {"status": "done", "cost": float(number)}
        rows = [Row("asked", msgspec.json.encode(asked), None, number)]
        rows.append(Row("told", msgspec.json.encode(told), ARRAYS, number))
        if number % trials == trials - 1:
            update = number // trials + 1
            body = {"record": {"update": float(update)}, "counts": {"updates": update}}
            rows.append(Row("update", msgspec.json.encode(body), b"state"))
        run._history.append(rows)
    run.close()
    return folder


def test_opening_gives_the_trials_of_the_open_update_only_and_holds_no_others(tmp_path):
    folder = grown(tmp_path / "run", updates=40, trials=10)
    tracemalloc.start()
    try:
        writer, run = Journal.reopen(folder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    writer.close()
    assert list(run.trials) == [400]
    assert run.arrays == {400: ARRAYS}
    assert len(run.records) == 40
    # all arrays are 8 MB, those of one update 0.2 MB
    assert peak < 1e6
    assert list(open_run(folder).trials) == list(range(401))


@pytest.mark.parametrize("every", [True, False])
def test_rows_of_updates_that_are_over_are_checked_also_where_they_are_not_given(tmp_path, every):
    folder = grown(tmp_path / "run", updates=3, trials=2)
    with sqlite3.connect(folder / DATABASE) as connection:
        connection.execute("UPDATE history SET blob = zeroblob(19999) WHERE trial = 1 AND kind = 'told'")
    connection.close()
    with pytest.raises(ValueError, match=r"the arrays of row \d+ \(told\) are not what was written"):
        list(read(folder / DATABASE, folder / HEAD, every=every))
