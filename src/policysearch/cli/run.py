"""`policysearch run`: a command for every trial of a search on a machine, until the budget is spent.

One command runs at a time, and it ends with this process; `keeper` ensures that.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from policysearch.cli import shared
from policysearch.cli.interruption import Held
from policysearch.cli.keeper import GRACE_SECONDS, Conduct, Ended, Keeper
from policysearch.cli.status import described, summary
from policysearch.cli.trial_process import RIG_EXIT, finish_previous, forbids, run_trial
from policysearch.core.grammar import filled
from policysearch.core.plain import Plain
from policysearch.core.settings import Budget
from policysearch.runs.reader import Run, open_run

if TYPE_CHECKING:
    from policysearch.search.open_update import Trial
    from policysearch.search.result import Record
    from policysearch.search.rig import Rig

#: the client's name
CLIENT = "run"


def main(given: list[str]) -> int:
    """Run the command with its arguments; the exit code."""
    own, command = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    arguments = _parser().parsed(own)
    place = shared.scalars_place(arguments.tensorboard, Path(arguments.folder))
    attempts = shared.number("--attempts", arguments.attempts, int)
    if attempts < 1:
        raise ValueError(f"--attempts is {attempts}; it must be at least 1.")
    if arguments.budget is not None:
        Budget.parse(arguments.budget)
    if not command:
        raise ValueError(f"run what? Type: policysearch run {arguments.folder} -- ./trial.sh {{kp}} {{kd}}")
    veto, on_abort = _command("--veto", arguments.veto), _command("--on-abort", arguments.on_abort)
    conduct = _conduct(arguments)
    conduct = conduct._replace(on_abort=_filled_at_start(open_run(arguments.folder), on_abort))
    shared.prepare_jax()
    from policysearch.search.rig import Rig

    say = _printer(sys.stderr if arguments.json else sys.stdout)
    with (
        Rig.open(arguments.folder, budget=arguments.budget) as search,
        Keeper(conduct, Path(arguments.folder)) as keeper,
        shared.scalars(arguments.folder, place) as log,
    ):
        finish_previous(keeper, _warn)
        if veto:
            search.veto = lambda trial: _vetoed(trial, forbids(filled(veto, trial.values), keeper), say)
        try:
            while not search.done:
                _one(search, command, keeper, attempts, say, log)
        except KeyboardInterrupt:
            _warn("nothing is lost; the same command continues")
            raise
    found = summary(open_run(arguments.folder))
    print(shared.as_json(found) if arguments.json else described(found))
    if log is not None and not arguments.json:
        print(f"scalars: tensorboard --logdir {log.folder}")
    return 0


def _one(
    search: Rig,
    command: Sequence[str],
    keeper: Keeper,
    attempts: int,
    say: Callable[[str], None],
    log: Callable[[Record], None] | None,
) -> None:
    """Ask for a trial, run it and tell the outcome."""
    trial = search.ask(CLIENT)
    words = filled(command, trial.values)
    with Held() as held:  # a finished trial is told before a request to end is obeyed
        told, ended = run_trial(words, keeper, trial.number, held)
        again = trial.attempt < attempts and not told.keys().isdisjoint(("lost", "timed_out"))
        record = search.tell(trial, **told, retry=again)
        say(f"{_described(trial)}: {_outcome(told, ended)}{', asked again' if again else ''}")
        if record is not None:
            if log is not None:
                log(record)
            say(f"update {int(record['update'])}: mean cost of its trials {record['cost']:.6g}")


def _described(trial: Trial) -> str:
    """A trial and its values in one line."""
    attempt = f", attempt {trial.attempt}" if trial.attempt > 1 else ""
    purpose = ", a measurement" if trial.purpose == "measurement" else ""
    values = ", ".join(f"{name} {value:.6g}" for name, value in trial.values.items())
    return f"trial {trial.number}{attempt}{purpose}: {values}"


def _outcome(told: Plain, ended: Ended) -> str:
    """The outcome of a trial in one line."""
    ((name, value),) = told.items()
    words = f"cost {value:.6g}" if name == "cost" else f"{name.replace('_', ' ')}, {value}"
    words += f", {ended.seconds:.1f} s"
    if ended.cause == "exit" and ended.left:
        words += f", ended {ended.left} process{'es' * (ended.left > 1)} that it left behind"
    return words + ("" if ended.on_abort is None else ", --on-abort was run")


def _vetoed(trial: Trial, reason: str | None, say: Callable[[str], None]) -> str | None:
    if reason is not None:
        say(f"{_described(trial)}: vetoed, {reason}")
    return reason


def _conduct(arguments: argparse.Namespace) -> Conduct:
    """How trials are run and ended, without `on_abort`."""
    timeout = shared.number("--timeout", arguments.timeout, float)
    if timeout is not None and not 0 < timeout < math.inf:
        raise ValueError(f"--timeout is {timeout}; it must be a number of seconds above 0.")
    grace = shared.number("--grace", arguments.grace, float)
    if not 0 <= grace < math.inf:
        raise ValueError(f"--grace is {grace}; it must be a number of seconds, 0 or more.")
    safety = shared.number("--safety-exit", arguments.safety_exit, int)
    if safety is not None and (not 1 <= safety <= 125 or safety == RIG_EXIT):
        raise ValueError(
            f"--safety-exit is {safety}; it must be an exit code from 1 to 125, not {RIG_EXIT}, which means that the "
            "rig lost a trial."
        )
    return Conduct(timeout, grace, safety, verbose=arguments.verbose)


def _command(flag: str, text: str | None) -> list[str]:
    """A command given as one word of the shell; [] if there is none.

    Raises:
        ValueError: it cannot be parsed, or there is no such program.
    """
    if text is None:
        return []
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{flag} {text!r} cannot be parsed: {error}.") from error
    if not words:
        raise ValueError(f"{flag} is empty; give a command, such as './safe.sh {{kp}} {{kd}}'.")
    if shutil.which(words[0]) is None:
        why = "is not executable" if Path(words[0]).exists() else "does not exist"
        raise ValueError(f"{flag} {text}: {words[0]} {why}. Give a program, such as './safe.sh {{kp}} {{kd}}'.")
    return words


def _filled_at_start(run: Run, command: Sequence[str]) -> list[str]:
    """A command with the values that the search started from."""
    if not command:
        return []
    from policysearch.core import controller_file
    from policysearch.core.controller import Controller

    if run.start is None:
        raise ValueError(f"{run.folder} does not record the values that it started from; leave --on-abort out.")
    return filled(command, Controller(*controller_file.parse(run.start, run.folder)).values())


def _printer(stream: TextIO) -> Callable[[str], None]:
    return lambda line: print(line, file=stream, flush=True)


def _warn(words: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that is gone
        print(f"policysearch: {words}", file=sys.stderr, flush=True)


def _parser() -> shared.Parser:
    parser = shared.Parser(
        "run",
        "Run a command for every trial: {kp} in it stands for the value of kp. Its last line on standard "
        "output is the cost. An exit code other than 0 means that the parameters made the trial fail; 75, that the rig "
        "did; 126 and 127, that the command is wrong, which stops the search. Ctrl-C, TERM and HUP end the trial and "
        "the search; the same command continues it.",
        usage="policysearch run DIR [--budget N] [--timeout S] [--on-abort CMD] -- COMMAND ...",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of the search, from policysearch new")
    parser.add_argument("--budget", metavar="B", help="a new budget from now on: 40, or 5updates")
    parser.add_argument(
        "--timeout", metavar="S", help="seconds after which a trial times out; it is ended and left out [no limit]"
    )
    parser.add_argument(
        "--grace",
        default=str(GRACE_SECONDS),
        metavar="S",
        help="seconds between asking a trial to end (TERM) and killing it [5]",
    )
    parser.add_argument(
        "--on-abort",
        metavar="CMD",
        help="run after each trial that did not end cleanly, with the values that the search started from, such as "
        "'./safe.sh {kp} {kd}'; also if policysearch was killed",
    )
    parser.add_argument(
        "--attempts", default="1", metavar="N", help="at most, for a trial that the rig lost or that timed out [1]"
    )
    parser.add_argument(
        "--veto",
        metavar="CMD",
        help="run before each trial, such as './check.sh {kp} {kd}': an exit code from 1 to 125 forbids it; the trial "
        "counts as failed",
    )
    parser.add_argument(
        "--safety-exit",
        metavar="CODE",
        help="exit code of COMMAND that means a safety stop: the search waits for policysearch resume [none]",
    )
    parser.add_argument(
        "--tensorboard", nargs="?", const="", metavar="LOGS", help=shared.TENSORBOARD_HELP.replace("DIR", "LOGS")
    )
    parser.add_argument("--verbose", action="store_true", help="show what COMMAND prints, on standard error")
    parser.add_argument("--json", action="store_true", help="print the status at the end as JSON, trials on stderr")
    return parser
