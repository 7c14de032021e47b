"""A trial as a process: a command, its exit code, and the cost in its last line. No JAX.

How it is run and ended is the keeper's concern; this module decides what its end says about the parameters.
"""

from __future__ import annotations

import errno
import math
import os
import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from policysearch.cli import supervisor
from policysearch.cli.interruption import Held
from policysearch.cli.keeper import Ended, Keeper
from policysearch.core.plain import Plain

#: exit code of a trial that the rig lost: EX_TEMPFAIL of sysexits.h
RIG_EXIT = 75
#: seconds that a veto may take
VETO_SECONDS = 60.0
#: signals from outside, by a person or the system: they say nothing about the parameters
_FROM_OUTSIDE = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM, signal.SIGXCPU}
#: characters of a line that a sentence quotes
_QUOTED = 200


def run_trial(
    command: Sequence[str], keeper: Keeper | None = None, number: int = 0, held: Held | None = None
) -> tuple[Plain, Ended]:
    """Run a command to its end, and return the outcome.

    The command is what is waited for, not its output: processes that it leaves behind are ended, and what they print
    later is not read. It ends with this process, however that dies: it is asked to end (TERM), and killed after a
    grace.

    Args:
        command: program and arguments; no shell in between.
        keeper: of the run's folder, with timeout, grace, and what is run after a disorderly end; one of no
            run by default.
        number: of the trial.
        held: requests to end (Ctrl-C, TERM, HUP), the first one ends the command.

    Returns:
        What to give `Search.tell`: cost, failed, safety_stop, lost or timed_out with the reason; and how it ended.

    Raises:
        Interrupted: a request to end came and the command was ended; the trial stays open.
        OSError: the command cannot be started.
        ValueError: the command is wrong: exit code 126 or 127, or a last line that is not a number; trial stays open.
        RuntimeError: a process of it does not end, its supervisor was killed, or `on_abort` failed; the trial stays
            open.

    Example:
        >>> run_trial(["echo", "3.2"])[0]
        {'cost': 3.2}
    """
    if keeper is None:
        with Keeper() as own:
            return run_trial(command, own, number, held)
    conduct = keeper.conduct
    ended = keeper.carry_out(command, number, conduct.timeout, held)
    _refuse_unstarted(command, ended)
    _refuse_unfinished(f"trial {number}", keeper, ended)
    typed, code = shlex.join(command), ended.code
    if ended.cause == "timeout":
        return {"timed_out": f"no result within {conduct.timeout:g} s"}, ended
    if code is None:
        raise RuntimeError(
            f"The process that supervised trial {number} was ended from outside; it ended the trial, which is still "
            "open. Make sure that the machine has stopped; the same command continues."
        )
    if code in supervisor.WRONG:
        raise ValueError(f"{typed} ended with {_words(ended)}. {_what(code)} The trial is still open.")
    if code:
        return {_outcome(code, conduct.safety_exit): _words(ended)}, ended
    cost = supervisor.number(ended.out)
    if cost is None:
        shown = repr(_cut(ended.out)) if ended.out else "missing"
        point = " Decimals take a point." if supervisor.number(ended.out.replace(",", ".")) is not None else ""
        raise ValueError(
            f"The last line of {typed} is {shown}; it must be the cost, a number.{point} The trial is still open."
        )
    return {"cost": cost} if math.isfinite(cost) else {"failed": f"its cost is {cost}"}, ended


def forbids(command: Sequence[str], keeper: Keeper | None = None) -> str | None:
    """Why a command forbids a trial: its exit code and last line; None if that code is 0.

    Args:
        command: program and arguments.
        keeper: of the run's folder; one of no run by default.

    Raises:
        Interrupted: a request to end came.
        OSError: the command cannot be started.
        ValueError: it gave no answer: exit code 126 or 127, a signal, no answer within 60 s. The trial stays open.

    Example:
        >>> forbids(["true"])
        >>> forbids(["false"])
        'exit code 1'
    """
    if keeper is None:
        with Keeper() as own:
            return forbids(command, own)
    ended = keeper.carry_out(command, None, VETO_SECONDS)
    _refuse_unstarted(command, ended)
    _refuse_unfinished("the veto", keeper, ended)
    if ended.code == 0:
        return None
    if ended.code is not None and supervisor.orderly(ended.code, None):
        return _words(ended)
    how = f"did not end within {VETO_SECONDS:g} s" if ended.cause == "timeout" else f"ended with {_words(ended)}"
    advice = _what(ended.code) if ended.code in supervisor.WRONG else "Exit code 0 allows a trial, 1 to 125 forbid it."
    raise ValueError(f"--veto {shlex.join(command)} gave no answer: it {how}. {advice} The trial is still open.")


def finish_previous(keeper: Keeper, say: Callable[[str], None]) -> None:
    """Wait for another process's trial that is still ending, and end what was left, before another one is started.

    Raises:
        RuntimeError: a process does not end, or `on_abort` failed.
    """
    found = keeper.finish_previous(say)
    if found is not None:
        _refuse_unfinished(found[0], keeper, found[1])


def _words(ended: Ended) -> str:
    """The exit code and what was printed last."""
    how = "an end from outside"
    if ended.code is not None:
        how = f"exit code {ended.code}" if ended.code >= 0 else _signal(-ended.code)
    said = "; ".join(dict.fromkeys(_cut(line) for line in (ended.out, ended.err) if line))
    return f"{how}: {said}" if said else how


def _signal(number: int) -> str:
    try:
        return f"signal {signal.Signals(number).name}"
    except ValueError:
        return f"signal {number}"


def _refuse_unstarted(command: Sequence[str], ended: Ended) -> None:
    """Raise OSError if a command could not be started."""
    if ended.cause == "error":
        raise OSError(_cannot_start(command, ended.code or 0))


def _refuse_unfinished(name: str, keeper: Keeper, ended: Ended) -> None:
    """Raise RuntimeError if a process of a command is still there, or what was to be run after it failed."""
    if ended.alive:
        pids = ", ".join(map(str, ended.alive))
        raise RuntimeError(
            f"{name}: processes {pids} do not end, even by KILL. No other trial is started. End them, make sure that "
            "the machine has stopped, and run the same command again."
        )
    if ended.on_abort:
        command = shlex.join(keeper.conduct.on_abort)
        raise RuntimeError(
            f"--on-abort {command} after {name} failed: {ended.on_abort}. It must succeed before another trial is "
            "started. Make sure that the machine is safe, and run the same command again."
        )


def _outcome(code: int, safety: int | None) -> str:
    """What an exit code other than 0 says about a trial, as a word for `Search.tell`.

    Example:
        >>> [_outcome(code, 4) for code in (1, 4, 75, -9, 137, -11, 139)]
        ['failed', 'safety_stop', 'lost', 'lost', 'lost', 'failed', 'failed']
    """
    if code == safety:
        return "safety_stop"
    outside = (-code if code < 0 else code - 128) in _FROM_OUTSIDE
    return "lost" if code == RIG_EXIT or outside else "failed"


def _what(code: int | None) -> str:
    """What exit codes 126 and 127 mean."""
    if code == supervisor.WRONG[0]:
        return "126 means that a command was found but cannot be executed: the script is wrong, not the parameters."
    return "127 means that a command was not found: the script is wrong, not the parameters."


def _cannot_start(command: Sequence[str], code: int) -> str:
    """Why a command cannot be started, and what to do."""
    program = command[0]
    known = Path(program).exists()
    advice = "Give a program, such as ./trial.sh."
    if code == errno.ENOENT and known:
        advice = "The program that its first line names does not exist; does that line end in a carriage return?"
    elif code == errno.ENOENT and Path(program).name == program and Path("./" + program).exists():
        advice = f"It is not on the PATH; for the file in this folder type ./{program}."
    elif code == errno.EACCES and known:
        advice = f"Make it executable: chmod +x {shlex.quote(program)}."
    elif code == errno.ENOEXEC:
        advice = "Its first line must name the program that reads it, such as #!/bin/sh."
    return f"{program} cannot be started: {os.strerror(code)}. {advice}"


def _cut(line: str) -> str:
    return line if len(line) <= _QUOTED else line[: _QUOTED - 1] + "…"
