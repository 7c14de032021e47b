"""What a recorded trial cost: the column `cost` of a CSV file, added up. No JAX.

Read is what has one reading: any of three separators, a byte order mark, quotes, spaces around cells, `Cost`. The rest
is refused with file, line and column, because a wrong sum would be learned from in silence.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

from policysearch.core import grammar

COLUMN = "cost"
#: bytes of a file, and characters of a cell (the limit of Python's csv module)
LARGEST, LONGEST = 2**28, 131072
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16 does
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def total(path: Path) -> float:
    """Sum of the column `cost` of a CSV file with a header line and a line a stage.

    Returns:
        The sum, rounded once; not finite if a cost is not.

    Raises:
        OSError: no such file, a folder, or one that cannot be read.
        ValueError: what the file holds has no reading, or more than one; file, line and column are named.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{path} has more than {LARGEST} bytes; that is no record of a trial.")
    text = _decoded(path, content)
    separator = _separator(path, text)
    costs = list(_costs(path, text, separator))
    if not costs:
        raise ValueError(f"{path} has no line below its header; write a line a stage.")
    if not all(map(math.isfinite, costs)):
        return sum(costs)
    try:
        return math.fsum(costs)
    except OverflowError:
        raise ValueError(f"{path}: its costs add up to more than the largest number, 1.8e308.") from None


def _decoded(path: Path, content: bytes) -> str:
    mark, encoding = next(((m, e) for m, e in _MARKS if content.startswith(m)), (b"", "utf-8"))
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start + len(mark)) + 1
        raise ValueError(f"{path}, line {line}: this is no text in {encoding.upper()}; save it as UTF-8.") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(
            f"{path}, line {line}: it holds bytes of value 0, so that it is no text, or UTF-16 without its mark; save "
            "it as UTF-8."
        )
    return text


def _rows(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of each row, blank lines among them as no cells; spaces around cells are gone."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    line = 1
    while True:
        try:
            row = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            words = f"a cell has more than {LONGEST} characters" if "limit" in str(error) else str(error)
            raise ValueError(f"{path}, line {reader.line_num}: {words}.") from None
        yield line, row if any(row) or len(row) > 1 else []
        line = reader.line_num + 1


def _separator(path: Path, text: str) -> str:
    """What stands between cells, by the header."""
    found = []
    first = next((line for line in io.StringIO(text, newline="") if line.strip()), "")
    for separator in _SEPARATORS:
        # not strict: of the separators that are not meant nothing is said
        header = next(csv.reader([first[:LONGEST]], delimiter=separator, skipinitialspace=True), [])
        count = sum(cell.strip().lower() == COLUMN for cell in header)
        if count > 1:
            raise ValueError(
                f"{path}, line 1: {count} columns are named cost, of which one must be meant; rename the rest."
            )
        if count:
            found.append((separator, header))
    if not found:
        what = f"its first line is {grammar.shown(first.strip())}" if first else "it is empty"
        raise ValueError(
            f"{path} has no column `{COLUMN}`: {what}. Write a header line such as t,cost, then a line a stage."
        )
    # of a lone column every separator gives the same header, and none may follow
    chosen = [separator for separator, header in found if len(header) > 1] or [found[0][0]]
    if len(chosen) > 1:
        words = " or ".join(_SEPARATORS[separator] for separator in chosen)
        raise ValueError(f"{path}, line 1: its cells may be separated by {words}; rename the columns.")
    return chosen[0]


def _costs(path: Path, text: str, separator: str) -> Iterator[float]:
    header: list[str] = []
    blank = 0
    for line, row in _rows(path, text, separator):
        if not row:
            blank = blank or line
            continue
        if not header:
            header, blank = row, 0
            column = [cell.lower() for cell in header].index(COLUMN)
            continue
        if blank and len(header) == 1:
            raise ValueError(f"{path}, line {blank}, column 1 ({header[0]}): it is blank; a cost is missing there.")
        blank = 0
        if len(row) != len(header):
            decimals = " Decimals take a point, not a comma." if separator == "," and len(row) > len(header) else ""
            raise ValueError(
                f"{path}, line {line}: {_cells(len(row))} under {len(header)} column{'s' * (len(header) > 1)} "
                f"({grammar.shown(separator.join(header))[1:-1]}).{decimals}"
            )
        yield grammar.number(f"{path}, line {line}, column {column + 1} ({header[column]})", row[column])


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"
