"""Rows straight from the pages of a database and its log are those that SQLite reads."""

from __future__ import annotations

import sqlite3

import pytest

from policysearch.runs.history import History, Row
from policysearch.runs.pages import Pages

#: bytes of a row around the most that a page holds, what is left in one that overflows, and much more
SIZES = [0, 1, 50, 127, 128, 400, 3900, *range(3930, 4000, 7), 4096, 8150, 8200, 16_383, 16_384, 100_000]


@pytest.mark.parametrize("live", [True, False], ids=["with a log", "without"])
def test_rows_of_every_size_are_those_that_sqlite_reads(tmp_path, live):
    path = tmp_path / "run.sqlite"
    history = History(path, tmp_path / "run.head", create=True)
    history.append([Row("told", b"{}" + b"x" * size, bytes(size) or None, size) for size in SIZES])
    history.append([Row("asked", b"ab" * size, None, 2**62 + size) for size in SIZES])
    if not live:
        history.close()
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT * FROM history ORDER BY number").fetchall()
    connection.close()
    assert [found[0] for found in Pages(path).rows(7)] == rows
    if live:
        assert path.with_name("run.sqlite-wal").stat().st_size > sum(SIZES)
        history.close()


def test_what_was_not_committed_is_no_row(tmp_path):
    """Rows that SQLite wrote to its log before it was told to take them back."""
    path = tmp_path / "run.sqlite"
    history = History(path, tmp_path / "run.head", create=True)
    history.append([Row("asked", b"{}", None, 0)])
    history._connection.execute("PRAGMA cache_size = 1")
    history._connection.execute("PRAGMA cache_spill = 1")
    history._connection.execute("BEGIN IMMEDIATE")
    for number in range(2, 60):
        values = (number, "told", 0, b"x" * 3000, None, None, b"")
        history._connection.execute("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    assert path.with_name("run.sqlite-wal").stat().st_size > 100_000
    assert [found[0][:3] for found in Pages(path).rows(7)] == [(1, "asked", 0)]
    history._connection.execute("ROLLBACK")
    history.close()
