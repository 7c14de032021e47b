"""The command line. JAX is imported only by commands that need it.

Exit codes: 0 done, 1 a failed check, no way to draw, or a defect, 2 wrong input; interrupted by Ctrl-C 130, by
TERM 143, by HUP 129 (what was found is saved).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from policysearch.cli import interruption
from policysearch.core.diagnoses import sentence
from policysearch.core.settings import unknown

#: command → its module below policysearch, and in it a function(arguments) → exit code, main if unnamed; what it does
COMMANDS = {
    "train": ("cli.train", "search for a policy for a task"),
    "resume": ("cli.resume", "continue a run that was killed or interrupted"),
    "repair": ("cli.repair", "make a run with a damaged database readable again"),
    "new": ("cli.new:main", "start a search on your own machine"),
    "ask": ("cli.rig:ask", "the next trial of such a search, as JSON"),
    "tell": ("cli.rig:tell", "report the outcome of a trial"),
    "status": ("cli.status:main", "where such a search stands"),
    "trials": ("cli.trials", "every trial of such a search, as a table, CSV or JSON"),
    "run": ("cli.run", "run a command for every trial of such a search"),
    "evaluate": ("cli.evaluate", "measure a trained policy on fresh seeds"),
    "compare": ("cli.compare", "methods on one task, with the same seeds and budget"),
    "diagnose": ("cli.diagnose", "how noisy each gradient estimator is, and what helps"),
    "report": ("cli.report", "write a page about one run or several"),
    "render": ("cli.render", "write a video of a trained policy"),
    "list": ("cli.listing", "show tasks, methods and policies"),
    "check": ("cli.check", "test the estimators against closed forms on this machine"),
}
#: commands that run a user's code, whose `--json` must still print nothing but JSON
RESULTS_ONLY = {"train", "resume", "evaluate", "compare", "diagnose"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: without the program's name; those of the process by default.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    shown, warnings.showwarning = warnings.showwarning, _show_warning
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of any script, on terminals of any encoding
    try:
        with interruption.raising():
            return _dispatch(given)
    except KeyboardInterrupt as error:
        with contextlib.suppress(OSError):
            print("policysearch: interrupted", file=sys.stderr, flush=True)
        return interruption.exit_code(error)
    except BrokenPipeError:
        # the reader of a pipe (head) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        said = sentence(error)
        if said is None and not isinstance(error, (ValueError, TypeError, OSError, RuntimeError)):
            raise
        if "--debug" in given or said is None:
            traceback.print_exc()
            return 1 if said is None else 2
        print(f"policysearch: {said}", file=sys.stderr)
        return 2
    finally:
        warnings.showwarning = shown


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if given[0] == "--version":
        from importlib.metadata import version

        print(f"policysearch {version('policysearch')}")
        return 0
    if given[0] not in COMMANDS:
        raise ValueError(unknown("command", given[0], list(COMMANDS)))
    module, _, function = COMMANDS[given[0]][0].partition(":")
    command: Callable[[list[str]], int] = getattr(importlib.import_module(f"policysearch.{module}"), function or "main")
    if "--json" in given and given[0] in RESULTS_ONLY:
        from policysearch.cli.shared import results_only

        with results_only():
            return command(given[1:])
    return command(given[1:])


def _overview() -> str:
    lines = [f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "Search for good controllers for systems that cannot be differentiated.\n",
            "usage: policysearch COMMAND ...\n",
            *lines,
            "\npolicysearch COMMAND --help shows a command's flags. To begin:",
            "  policysearch train double-integrator",
        ]
    )


def _show_warning(message: Warning | str, *details: object, **more: object) -> None:
    print(f"policysearch: warning: {message}", file=sys.stderr)
