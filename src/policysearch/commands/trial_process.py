"""A trial as a process: a command, its deadline, and the cost in its last line. No JAX."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

#: exit code of a trial that the rig lost: EX_TEMPFAIL of sysexits.h
RIG_EXIT = 75
#: seconds that a veto may think
VETO_SECONDS = 60.0


def run_trial(command: Sequence[str], deadline: float | None, safety_exit: int | None = None) -> dict[str, Any]:
    """Run a command to its end, and say what it brought.

    Args:
        command: program and arguments; no shell is between.
        deadline: seconds after which it is killed, with all processes that it started; None for none.
        safety_exit: exit code that means a safety stop; None for none.

    Returns:
        What to give `Search.tell`: cost, or failed, safety_stop, lost (exit code 75) or timed_out with the reason.

    Raises:
        OSError: the command cannot be started.
        ValueError: it ended well but its last line is no number; the trial stays open.

    Example:
        >>> run_trial(["echo", "3.2"], None)
        {'cost': 3.2}
    """
    code, last = _ended(command, deadline)
    if code is None:
        return {"timed_out": f"no end within {deadline:g} s"}
    if code:
        name = "safety_stop" if code == safety_exit else "lost" if code == RIG_EXIT else "failed"
        return {name: _how(code, last)}
    try:
        return {"cost": float(last)}
    except ValueError:
        raise ValueError(
            f"The last line of {shlex.join(command)} is {repr(last) if last else 'missing'}; it must be the cost, a "
            "number. The trial is still open."
        ) from None


def forbids(command: Sequence[str]) -> str | None:
    """Why a command forbids a trial: its last line and exit code; None where that code is 0.

    Example:
        >>> forbids(["true"])
        >>> forbids(["false"])
        'exit code 1'
    """
    code, last = _ended(command, VETO_SECONDS)
    if code is None:
        return f"{shlex.join(command)} gave no answer within {VETO_SECONDS:g} s"
    return _how(code, last) if code else None


def _ended(command: Sequence[str], deadline: float | None) -> tuple[int | None, str]:
    """Exit code, None where the deadline came first, and the last line of what it printed."""
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
        return None, ""
    except BaseException:
        _end(process)
        raise
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return process.returncode, lines[-1] if lines else ""


def _how(code: int, last: str) -> str:
    how = f"exit code {code}" if code > 0 else f"ended by signal {-code}"
    return f"{how}: {last}" if last else how


def _end(process: subprocess.Popen[str]) -> None:
    """Kill the process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()  # nothing that could still write is alive
