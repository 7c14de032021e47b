"""What runs the trials of a task: compiled programs, worker processes, or this process. `sampler` chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from policysearch.core.specification import Specification


def sampler(task: Any, seed: int, workers: int | None, timeout: float | None, programs: Path | None) -> Any:
    """What runs the updates of a search on a task.

    Args:
        task: a plant, a Gymnasium task or a Python function.
        seed, workers, timeout, programs: of `Search`.

    Raises:
        RuntimeError: a bare specification, whose trials cannot be run here.
    """
    if isinstance(task, Specification):
        raise RuntimeError("A bare specification has no sampler: run the trials yourself with ask() and tell().")
    if task.specification.reward:
        from policysearch.runners.host import Host

        return Host(task, seed, workers, timeout)
    from policysearch.tasks.python_function import PythonFunction

    if isinstance(task, PythonFunction):
        from policysearch.runners.host import InProcess

        return InProcess(task, seed)
    from policysearch.runners.native import Native

    return Native(task, seed, programs)
