"""Records of updates as TensorBoard scalars, written by a thread that never holds up a search. No JAX."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import math
import os
import socket
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorboardX.record_writer import RecordWriter

INSTALL_TENSORBOARD = "pip install 'policysearch[tensorboard]'"
#: seconds between two writes, and seconds that `close` waits for a slow disk
INTERVAL, PATIENCE = 0.5, 5.0
#: updates that may wait for the disk
WAITING = 10_000
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
            from tensorboardX import record_writer
            from tensorboardX.proto import event_pb2
        except ImportError:
            raise ImportError(f"A TensorBoard log needs tensorboardX: {INSTALL_TENSORBOARD}.") from None
        self.folder = Path(folder)
        #: records that were given, and those on disk
        self.given = self.written = 0
        self._messages, self._records = event_pb2, record_writer
        self._waiting: deque[tuple[float, Mapping[str, float]]] = deque()
        self._file: RecordWriter | None = None
        self._file_has_updates = False
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
            if not batch:
                continue
            try:
                self._write(batch)
                self.written += len(batch)
            except Exception as error:  # whatever it is, it ends here: the search is not affected
                self._failure = str(error) or type(error).__name__
                self._abandon_file()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()

    def _write(self, batch: list[tuple[float, Mapping[str, float]]]) -> None:
        file = self._file or self._open(*batch[0])
        for when, record in batch:
            values = [
                {"tag": f"search/{name}", "simple_value": math.nan if number is None else number}
                for name, number in record.items()
            ]
            self._add(file, wall_time=when, step=_update(record), summary={"value": values})
        file.flush()
        self._file_has_updates = True

    def _open(self, when: float, first: Mapping[str, float]) -> RecordWriter:
        """A new event file; TensorBoard reads a folder's files in the order of their names."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}.{next(_FILES):06d}"
        file = self._records.RecordWriter(str(self.folder / name))
        self._file, self._file_has_updates = file, False
        self._add(file, wall_time=when, file_version="brain.Event:2")
        # TensorBoard then hides this update and later ones of the folder's earlier files
        start = {"status": self._messages.SessionLog.START}
        self._add(file, wall_time=when, step=_update(first), session_log=start)
        return file

    def _add(self, file: RecordWriter, **event: object) -> None:
        file.write(self._messages.Event(**event).SerializeToString())

    def _abandon_file(self) -> None:
        """Close the file: it may end in a torn record, behind which nothing is read. What follows gets a new one."""
        file, self._file = self._file, None
        if file is None:
            return
        with contextlib.suppress(OSError, ValueError):
            file.close()
        if not self._file_has_updates:
            with contextlib.suppress(OSError):
                os.unlink(file.path)


def _update(record: Mapping[str, float]) -> int:
    return int(record.get("update", 0))


def _warn(sentence: str) -> None:
    try:
        warnings.warn(sentence, stacklevel=3)
    except UserWarning:  # even if warnings are errors, the log is not worth a search
        print(f"policysearch: warning: {sentence}", file=sys.stderr)
