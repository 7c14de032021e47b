"""`policysearch repair`: make a run with a damaged database readable again."""

from __future__ import annotations

from policysearch.cli import shared
from policysearch.runs.repair import repair


def main(given: list[str]) -> int:
    """Run the command with its arguments; the exit code."""
    parser = shared.Parser(
        "repair",
        "Make a run with a damaged database readable again, from the rows that are intact. "
        "The damaged files stay beside the new ones. Whatever is lost is listed, and the search asks for it again.",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of the run")
    arguments = parser.parsed(given)
    print(repair(arguments.folder))
    return 0
