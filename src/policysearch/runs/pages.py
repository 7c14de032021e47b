"""Rows of a SQLite table straight from the pages of its file and its log, when SQLite cannot open them. No JAX.

A row is stored whole in one leaf page (and its overflow pages), so that damage to the schema, to an inner page or
to the file's length hides no other. What is read is not trusted: rows of a `History` prove themselves. The layout is
https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: bytes of a page if the header does not say: SQLite's default
_PAGE = 4096
_LEAF = 13
_LOG_HEADER, _FRAME_HEADER = 32, 24
#: sizes of integers by their type
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


#: of a column: None, a number, text or bytes
Value = Any


class Pages:
    """The pages of a database: those of its log, the latest first, then those of its file.

    Args:
        path: of the database; its log is expected beside it.
    """

    def __init__(self, path: Path):
        self._file, log = _content(path), _content(path.with_name(f"{path.name}-wal"))
        size = int.from_bytes(self._file[16:18], "big")
        self._size = size if size in (512, 1024, 2048, 4096, 8192, 16384, 32768) else _PAGE
        step = _FRAME_HEADER + self._size
        frames = [log[at : at + step] for at in range(_LOG_HEADER, len(log) - step + 1, step)]
        # frames of an earlier use of the log may follow those of this one
        salts = Counter(frame[8:16] for frame in frames).most_common(1)
        frames = [frame for frame in frames if frame[8:16] == salts[0][0]]
        while frames and not any(frames[-1][4:8]):
            frames.pop()  # part of an uncommitted transaction
        self._log = [(int.from_bytes(frame[:4], "big"), frame[_FRAME_HEADER:]) for frame in frames]
        self._latest = dict(self._log)

    def rows(self, columns: int) -> Iterator[list[tuple[Value, ...]]]:
        """The rows with so many columns by their number, which is the first column: for each its possible contents.

        Of several, the later ones come first.
        """
        places: dict[int, list[tuple[int, int]]] = {}
        for source in range(len(self._log) - 1, -1, -1):
            self._index(source, self._log[source][1], places)
        for page in range(len(self._file) // self._size + 1):
            self._index(-1 - page, self._file[page * self._size : (page + 1) * self._size], places)
        most = 2 * len(places) + 1000  # a number far from the others is itself damaged
        for number in sorted(places):
            if 0 < number <= most:
                found = [self._record(number, *place, columns) for place in places[number]]
                yield [row for row in found if row is not None]

    def _page(self, source: int) -> bytes:
        if source >= 0:
            return self._log[source][1]
        return self._file[(-1 - source) * self._size : -source * self._size]

    def _index(self, source: int, page: bytes, places: dict[int, list[tuple[int, int]]]) -> None:
        if len(page) < 8 or page[0] != _LEAF:
            return
        for cell in range(min(int.from_bytes(page[3:5], "big"), (len(page) - 8) // 2)):
            offset = int.from_bytes(page[8 + 2 * cell : 10 + 2 * cell], "big")
            _, at = _varint(page, offset)
            number, _ = _varint(page, at)
            places.setdefault(number, []).append((source, offset))

    def _record(self, number: int, source: int, offset: int, columns: int) -> tuple[Value, ...] | None:
        page = self._page(source)
        length, at = _varint(page, offset)
        _, at = _varint(page, at)
        payload = self._payload(page, at, length)
        if payload is None:
            return None
        end, at = _varint(payload, 0)
        kinds = []
        while at < end <= len(payload):
            kind, at = _varint(payload, at)
            kinds.append(kind)
        if len(kinds) != columns:
            return None
        values = [_value(payload, kind, begins) for kind, begins in _laid(kinds, end)]
        return (number, *values[1:])

    def _payload(self, page: bytes, at: int, length: int) -> bytes | None:
        """The payload of a cell; None if pages of it are missing."""
        size = self._size
        if length > len(self._file) + len(self._log) * size:
            return None
        least = (size - 12) * 32 // 255 - 23
        inside = length
        if length > size - 35:
            inside = least + (length - least) % (size - 4)
            inside = inside if inside <= size - 35 else least
        parts, left = [page[at : at + inside]], length - inside
        follows = int.from_bytes(page[at + inside : at + inside + 4], "big")
        while left > 0:
            more = self._latest.get(follows) or self._file[(follows - 1) * size : follows * size] if follows else b""
            if len(more) < 4:
                return None
            follows = int.from_bytes(more[:4], "big")
            parts.append(more[4 : 4 + left])
            left -= size - 4
        payload = b"".join(parts)
        return payload if len(payload) == length else None


def _content(path: Path) -> bytes | mmap.mmap:
    """The bytes of a file, reading only those that are used."""
    if not path.exists() or not path.stat().st_size:
        return b""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of up to nine bytes, and where it ends."""
    value = 0
    for place in range(at, min(at + 8, len(data))):
        value = value << 7 | data[place] & 0x7F
        if data[place] < 0x80:
            return value, place + 1
    last = data[at + 8] if at + 8 < len(data) else 0
    return value << 8 | last, at + 9


def _laid(kinds: list[int], at: int) -> Iterator[tuple[int, int]]:
    """Kinds of values, and where each begins."""
    for kind in kinds:
        yield kind, at
        at += _INTEGERS.get(kind, 8 if kind == 7 else (kind - 12) // 2 if kind >= 12 else 0)


def _value(data: bytes, kind: int, at: int) -> Value:
    if kind in _INTEGERS:
        return int.from_bytes(data[at : at + _INTEGERS[kind]], "big", signed=True)
    if kind in (8, 9):
        return kind - 8
    if kind >= 12:
        content = data[at : at + (kind - 12) // 2]
        return content.decode("utf-8", "replace") if kind % 2 else content
    return None  # NULL and fractions, which do not occur
