"""Records of updates as TensorBoard scalars, written by a thread that never holds up a search. No JAX."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import math
import os
import socket
import struct
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

INSTALL_TENSORBOARD = "pip install 'policysearch[tensorboard]'"
#: seconds between two writes, and seconds that `close` waits for a slow disk
INTERVAL, PATIENCE = 0.5, 5.0
#: updates that may wait for the disk
WAITING = 10_000
#: from this many on, checksums are computed together; fewer are faster one by one
TOGETHER = 32
_FILES = itertools.count()


class TensorBoard:
    """Writes what updates report as scalars `search/NAME` over the update's number; give it as `on_update`.

    Calling it only queues the record. A full, slow or broken disk costs records, never the search: those that
    cannot be written, or that come while `WAITING` others wait, are dropped; a warning says so once, and `close` says
    how many. A folder may already hold a log: its part from this log's first update on is no longer shown.

    Args:
        folder: of the log, created with the first record.

    Raises:
        ImportError: tensorboardX is not installed.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with TensorBoard(folder) as log:
        ...     log({"update": 1.0, "cost": 2.5})
        >>> log.written, len(list(Path(folder).iterdir()))
        (1, 1)
    """

    def __init__(self, folder: str | os.PathLike[str]):
        try:
            from tensorboardX import crc32c, record_writer
            from tensorboardX.proto import event_pb2
        except ImportError:
            raise ImportError(f"A TensorBoard log needs tensorboardX: {INSTALL_TENSORBOARD}.") from None
        self.folder = Path(folder)
        #: records that were given, and those on disk
        self.given = self.written = 0
        self._messages: Any = event_pb2
        self._checksum, self._table = record_writer.masked_crc32c, np.array(crc32c.CRC_TABLE, np.uint32)
        self._waiting: deque[tuple[float, Mapping[str, float]]] = deque()
        self._forms: dict[tuple[str, ...], tuple[Any, list[Any]]] = {}
        self._file: BinaryIO | None = None
        self._good = 0
        self._broken = False
        self._failure, self._warned, self._closed = "", False, False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tensorboard", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def __call__(self, record: Mapping[str, float]) -> None:
        """Queue a record for the writer."""
        self.given += 1
        if len(self._waiting) < WAITING:
            self._waiting.append((time.time(), dict(record)))
        else:
            self._failure = self._failure or f"more than {WAITING} updates wait for the disk"
        if self._failure and not self._warned:
            self._warned = True
            _warn(f"The TensorBoard log in {self.folder} is incomplete: {self._failure}. The search continues.")

    @property
    def dropped(self) -> int:
        """Records that are not in the log; while it is open, waiting ones count too."""
        return self.given - self.written

    def close(self) -> None:
        """Write what waits, for `PATIENCE` seconds at most, and warn if records are missing; once only."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self._end.set()
        self._thread.join(PATIENCE)
        if self.dropped:
            why = self._failure or "the disk is too slow"
            _warn(f"The TensorBoard log in {self.folder} lacks {self.dropped} of {self.given} updates: {why}.")

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # the writer

    def _run(self) -> None:
        ended = False
        while not ended:
            ended = self._end.wait(INTERVAL)
            batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if not batch or self._broken:
                continue
            try:
                self._write(batch)
                self.written += len(batch)
            except Exception as error:  # whatever it is, it ends here: the search is not affected
                self._failure = str(error) or type(error).__name__
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()

    def _write(self, batch: list[tuple[float, Mapping[str, float]]]) -> None:
        content = b""
        if self._file is None:
            self._file, self._good = open_log(self.folder), 0
        if not self._good:
            begin = self._messages.SessionLog(status=self._messages.SessionLog.START)
            when, first = batch[0]
            step = int(first.get("update", 0))
            head = [
                self._messages.Event(wall_time=when, file_version="brain.Event:2"),
                self._messages.Event(wall_time=when, step=step, session_log=begin),
            ]
            content = self._framed([event.SerializeToString() for event in head])
        content += self._framed([self._event(when, record) for when, record in batch])
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except BaseException:
            # readers stop at a torn record for good; without it the file is whole, and later ones may find room
            self._broken = True
            with contextlib.suppress(OSError, ValueError):
                os.ftruncate(self._file.fileno(), self._good)
                self._file.seek(self._good)
                self._broken = False
            raise
        self._good += len(content)

    def _event(self, when: float, record: Mapping[str, float]) -> bytes:
        names = tuple(record)
        if names not in self._forms:
            event = self._messages.Event()
            self._forms[names] = event, [event.summary.value.add(tag=f"search/{name}") for name in names]
        event, values = self._forms[names]
        event.wall_time, event.step = when, int(record.get("update", 0))
        for value, number in zip(values, record.values(), strict=True):
            value.simple_value = math.nan if number is None else number
        return event.SerializeToString()

    def _framed(self, events: list[bytes]) -> bytes:
        """Each event between its length with a checksum, and its checksum."""
        parts = []
        heads = [struct.pack("<Q", len(event)) for event in events]
        for head, mark, event, end in zip(heads, self._checksums(heads), events, self._checksums(events), strict=True):
            parts += [head, struct.pack("<I", mark), event, struct.pack("<I", end)]
        return b"".join(parts)

    def _checksums(self, texts: list[bytes]) -> list[int]:
        """Masked CRC-32C of each; many texts of one length are processed together, byte by byte."""
        if len(texts) < TOGETHER:
            return [self._checksum(text) for text in texts]
        found = np.zeros(len(texts), np.uint32)
        lengths = np.array([len(text) for text in texts])
        for length in np.unique(lengths):
            chosen = np.flatnonzero(lengths == length)
            block = np.frombuffer(b"".join(texts[i] for i in chosen), np.uint8).reshape(len(chosen), length)
            state = np.full(len(chosen), 0xFFFFFFFF, np.uint32)
            for column in np.ascontiguousarray(block.T):
                state = self._table[(state ^ column) & 0xFF] ^ (state >> 8)
            state ^= 0xFFFFFFFF
            found[chosen] = ((state >> 15) | (state << 17)) + np.uint32(0xA282EAD8)
        return [int(number) for number in found]


def open_log(folder: Path) -> BinaryIO:
    """A new event file, unbuffered; TensorBoard reads a folder's files in the order of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{next(_FILES):06d}"
    return (folder / name).open("xb", buffering=0)


def _warn(sentence: str) -> None:
    try:
        warnings.warn(sentence, stacklevel=3)
    except UserWarning:  # even if warnings are errors, the log is not worth a search
        print(f"policysearch: warning: {sentence}", file=sys.stderr)
