"""What a Ray cluster runs on each node for `cluster`: a supervisor of worker processes, and whether it may. No JAX."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import queue
import sys
import threading
from collections import deque
from importlib import metadata
from pathlib import Path
from typing import Any

from policysearch.runners.pool import Workers
from policysearch.tasks.gymnasium_task import GymnasiumTask

#: what must be the same on all nodes, for the same bits
PACKAGES = ("policysearch", "numpy", "gymnasium", "mujoco")


class Supervisor:
    """An actor, one on each node: `count` worker processes, each of which runs one call of `run` at a time.

    Args:
        task: a pickled `GymnasiumTask`.
        path: the driver's `sys.path`; what this process lacks of it is searched last.
        count: worker processes.
        timeout: see `Workers`.
    """

    def __init__(self, task: bytes, path: list[str], count: int, timeout: float | None):
        sys.path.extend(place for place in path if place not in sys.path)
        self._task = pickle.loads(task)
        self._pools = [Workers(self._task, 1, timeout, sys.maxsize) for _ in range(count)]
        self._free: queue.SimpleQueue[Workers] = queue.SimpleQueue()
        for pool in self._pools:
            self._free.put(pool)
        self._lock = threading.Lock()
        self._number, self._message = 0, (0, b"")

    def start(self, versions: dict[str, str], digest: str) -> str:
        """Make all environments: "", or why trials cannot run here.

        Args:
            versions: the driver's. digest: of the task's file, "" if it has none.
        """
        other = {name: found for name, found in installed().items() if versions.get(name, found) != found}
        if other:
            differ = ", ".join(f"{name} {found}, not {versions[name]}" for name, found in other.items())
            return f"it has {differ}, so that its trials would be others. Install the same versions."
        file, directory = source(self._task), self._task.directory
        if not Path(directory).is_dir():
            return f"the folder {directory} is not there. Start the search in one that all nodes share."
        if digest and not file.is_file():
            return f"{file} is not there. Put it on a file system that all nodes share, or into a package."
        if digest and file_digest(self._task) != digest:
            return f"{file} is another file there. Put it on a file system that all nodes share."
        try:
            for pool in self._pools:
                pool.start(wait=False)
            for pool in self._pools:
                pool.start()
        except (RuntimeError, ValueError) as error:
            self.close()
            return str(error)
        return ""

    def begin(self, number: int) -> None:
        """A batch begins; calls for earlier ones that wait are answered at once, without results."""
        self._number = number

    def run(self, number: int, message: list[Any], trials: list[int]) -> Any:
        """Trials of batch `number`, `message` its jobs as [a reference]: (episodes, events), None if it is over.

        Text if no trial can run here any more.
        """
        if number < self._number:
            return None
        with self._lock:
            if self._message[0] != number:
                import ray

                self._message = (number, ray.get(message[0]))
            jobs = self._message[1]
        pool = self._free.get()
        try:
            return pool.some(jobs, deque([trials]))
        except Exception as error:  # a pool that is closed meanwhile fails in its own ways
            return None if number < self._number else str(error)
        finally:
            self._free.put(pool)

    def close(self) -> None:
        """End the worker processes."""
        self._number = sys.maxsize
        for pool in self._pools:
            pool.close()


def installed() -> dict[str, str]:
    """Python and `PACKAGES`, as installed here."""
    found = {"Python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def source(task: GymnasiumTask) -> Path:
    """Where the environment's file is, if it was named by one."""
    return Path(task.recipe.source.rpartition(":")[0])


def file_digest(task: GymnasiumTask) -> str:
    """SHA-256 of the environment's file; "" if it was not named by one."""
    file = source(task)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.suffix == ".py" else ""
