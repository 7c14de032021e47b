"""`policysearch report`: runs as one HTML page. Without JAX for Gymnasium tasks and rigs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from policysearch.cli import shared
from policysearch.comparison.cells import CONFIGURATION

REPORT = "report.html"

if TYPE_CHECKING:
    from policysearch.runs.reader import Run
    from policysearch.tasks import AnyTask


def main(given: list[str]) -> int:
    """Run the command with its arguments; the exit code."""
    parser = shared.Parser(
        "report",
        "Write a report on a run, or on several side by side: one self-contained HTML file. "
        "Damaged, killed and unfinished runs are shown as far as they got.",
    )
    parser.add_argument("folders", nargs="+", metavar="DIR", help="folders of runs, or the folder of one comparison")
    parser.add_argument("--out", metavar="FILE", help="where to write the page [report.html in the first folder]")
    parser.add_argument(
        "--rollouts", metavar="N", default="5", help="number of evaluation rollouts to run and show; 0 runs none [5]"
    )
    arguments = parser.parsed(given)
    rollouts = shared.number("--rollouts", arguments.rollouts, int)
    if rollouts < 0:
        raise ValueError(f"--rollouts is {rollouts}; it must be at least 0.")
    if (Path(arguments.folders[0]) / CONFIGURATION).exists():
        path = _compared(arguments.folders, arguments.out)
        print(f"saved: {path}, {path.stat().st_size / 1e6:.2f} MB")
        return 0
    from policysearch.report.document import write

    path = write(arguments.folders, arguments.out, load=_task, rollouts=rollouts, progress=_say)
    print(f"saved: {path}, {path.stat().st_size / 1e6:.2f} MB")
    return 0


def _compared(folders: list[str], out: str | None) -> Path:
    """The page of a comparison, finished or not."""
    if len(folders) > 1:
        raise ValueError(f"{folders[0]} holds a comparison, which has a page of its own; name it alone.")
    from policysearch.comparison.cells import configuration
    from policysearch.comparison.summary import open_comparison
    from policysearch.report import comparison

    folder = Path(folders[0])
    return comparison.write(open_comparison(folder), out or folder / REPORT, configuration(folder))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _task(run: Run) -> AnyTask:
    from policysearch.cli.evaluate import reference
    from policysearch.cli.render import drawable

    return drawable(reference(run), run.configuration.get("task_options", {}))
