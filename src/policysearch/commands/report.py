"""`policysearch report`: runs as one HTML page. Without JAX for Gymnasium tasks and rigs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from policysearch import flags
from policysearch.commands import shared

if TYPE_CHECKING:
    from policysearch.runs import Run


def main(given: list[str]) -> int:
    """Run the command with its arguments; the exit code."""
    parser = shared.Parser(
        prog="policysearch report",
        allow_abbrev=False,
        description="Write a report of a run, or of several beside each other: one HTML file that needs nothing else. "
        "Runs that are damaged, killed or still going on are shown as far as they go.",
    )
    parser.add_argument("folders", nargs="+", metavar="DIR", help="folders of runs")
    parser.add_argument("--out", metavar="FILE", help="the page [report.html in the first folder]")
    parser.add_argument(
        "--rollouts", metavar="N", default="5", help="evaluation rollouts to run and show; 0 runs nothing [5]"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments, extras = parser.parse_known_args(given)
    flags.refuse_unknown(extras, parser)
    rollouts = shared.number("--rollouts", arguments.rollouts, int)
    if rollouts < 0:
        raise ValueError(f"--rollouts is {rollouts}; it must be at least 0.")
    from policysearch.report.document import write

    path = write(arguments.folders, arguments.out, load=_task, rollouts=rollouts, progress=_say)
    print(f"saved: {path}, {path.stat().st_size / 1e6:.2f} MB")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _task(run: Run) -> Any:
    from policysearch.commands.evaluate import reference
    from policysearch.commands.render import drawable

    return drawable(reference(run), run.configuration.get("task_options", {}))
