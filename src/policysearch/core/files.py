"""Files that appear whole: written aside and renamed, so that a reader finds the old file or the new one. No JAX."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from policysearch.core.diagnoses import at


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, with the same suffix.

    The file written there takes the place of `path` at the end, and is removed after an error. It is not synced: after
    a power cut it may be empty.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "notes.txt")
        >>> with replacing(path) as aside:
        ...     _ = aside.write_text("done")
        ...     path.exists()
        False
        >>> path.read_text()
        'done'
    """
    # not by tempfile, which makes files readable by their owner only
    aside = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield aside
        aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


def write(path: str | os.PathLike[str], content: bytes, *, sync: bool = False) -> None:
    """Write a file, or replace it once the new one is complete.

    Args:
        path: of the file, in an existing folder.
        content: of the file.
        sync: return when it is on disk, name and content. For what cannot be made again after a power cut.

    Raises:
        OSError: it cannot be written there; an older file is as it was.
    """
    path = Path(path)
    with replacing(path) as aside, aside.open("xb") as file:
        file.write(content)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on disk.

    Raises:
        OSError: they are not; the message names the folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with at(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
