"""The records of a run as files for other programs, metrics.csv and metrics.jsonl, one line per update. No JAX."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import msgspec

from policysearch.core import files
from policysearch.core.plain import Plain
from policysearch.runs.reader import LINES, METRICS


class Metrics:
    """Writes both files of a folder, line by line or as a whole.

    A batch of lines is one write, so that readers always see whole lines. Columns are in the order in which
    their names first appear, and keep their place: a new name is a new last column, with "nan" in the rows before.
    Nothing waits for the disk: what a power cut loses is in the database, from which `write` rebuilds both files.

    Args:
        folder: of the run.

    Example:
        >>> import tempfile
        >>> metrics = Metrics(Path(tempfile.mkdtemp()))
        >>> metrics.append([{"update": 1.0, "cost": 2.5}])
        >>> metrics.append([{"update": 2.0, "cost": float("inf"), "kl": 0.01}])
        >>> print(metrics.table.read_text(), end="")
        update,cost,kl
        1.0,2.5,nan
        2.0,nan,0.01
        >>> print(metrics.lines.read_text(), end="")
        {"update":1.0,"cost":2.5}
        {"update":2.0,"cost":null,"kl":0.01}
    """

    def __init__(self, folder: Path):
        self.table, self.lines = folder / METRICS, folder / LINES
        self._names: dict[str, None] = {}

    def append(self, records: list[Plain]) -> None:
        """Add one line per record.

        Raises:
            OSError: the disk does not accept them; the files may then lack lines, or end within one, until `write`.
        """
        before = len(self._names)
        self._names.update(dict.fromkeys(name for record in records for name in record))
        added = len(self._names) - before
        if added and before:
            rows = self.table.read_text().splitlines()[1:]
            _replace(self.table, [",".join(self._names), *(row + ",nan" * added for row in rows)])
        heading = [] if before else [",".join(self._names)]
        _add(self.table, [*heading, *map(self._row, records)])
        _add(self.lines, map(_line, records))

    def write(self, records: Iterable[Plain]) -> None:
        """Rewrite both files; the old ones are replaced once the new ones are complete."""
        records = list(records)
        self._names = dict.fromkeys(name for record in records for name in record)
        _replace(self.table, [",".join(self._names), *map(self._row, records)])
        _replace(self.lines, map(_line, records))

    def _row(self, record: Plain) -> str:
        return ",".join([_text(record.get(name)) for name in self._names])


def _text(value: float | None) -> str:
    # JSON, and so the database, has no infinity; both files say what the database says
    return "nan" if value is None or not math.isfinite(value) else repr(value)


def _line(record: Plain) -> str:
    return msgspec.json.encode(record).decode()


def _add(path: Path, lines: Iterable[str]) -> None:
    with path.open("ab", buffering=0) as file:
        content = "".join(f"{line}\n" for line in lines).encode()
        if file.write(content) != len(content):
            raise OSError(f"{path} accepted only some of the lines; the disk may be full.")


def _replace(path: Path, lines: Iterable[str]) -> None:
    files.write(path, "".join(f"{line}\n" for line in lines).encode())
