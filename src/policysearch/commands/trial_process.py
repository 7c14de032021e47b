"""A trial as a process: a command, its deadline, and the cost in its last line. No JAX."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from typing import Any


def run_trial(command: Sequence[str], deadline: float | None) -> dict[str, Any]:
    """Run a command to its end, and say what it brought.

    Args:
        command: program and arguments; no shell is between.
        deadline: seconds after which it is killed, with all processes that it started; None for none.

    Returns:
        What to give `Search.tell`: cost, or failed or timed_out with the reason.

    Raises:
        OSError: the command cannot be started.
        ValueError: it ended well but its last line is no number; the trial stays open.

    Example:
        >>> run_trial(["echo", "3.2"], None)
        {'cost': 3.2}
    """
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    except OSError as error:
        raise OSError(
            f"{command[0]} cannot be started: {error.strerror}. Give a program, such as ./trial.sh."
        ) from error
    try:
        output, _ = process.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        _end(process)
        return {"timed_out": f"no end within {deadline:g} s"}
    except BaseException:
        _end(process)
        raise
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if process.returncode:
        said = f": {lines[-1]}" if lines else ""
        code = process.returncode
        how = f"exit code {code}" if code > 0 else f"ended by signal {-code}"
        return {"failed": how + said}
    try:
        return {"cost": float(lines[-1])}
    except (IndexError, ValueError):
        last = repr(lines[-1]) if lines else "missing"
        raise ValueError(
            f"The last line of {shlex.join(command)} is {last}; it must be the cost, a number. The trial is still open."
        ) from None


def _end(process: subprocess.Popen[str]) -> None:
    """Kill the process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()  # nothing that could still write is alive
