"""`policysearch repair`: make a run whose database is damaged one that can be opened."""

from __future__ import annotations

from policysearch.cli import shared
from policysearch.methods import flags
from policysearch.runs.repair import repair


def main(given: list[str]) -> int:
    """Run the command with its arguments; the exit code."""
    parser = shared.Parser(
        prog="policysearch repair",
        allow_abbrev=False,
        description="Make a run whose database is damaged one that can be opened, of the rows that are what was "
        "written. The damaged files stay beside the new ones. What is gone is said; a search asks for it again.",
    )
    parser.add_argument("folder", metavar="DIR", help="of the run")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments, extras = parser.parse_known_args(given)
    flags.refuse_unknown(extras, parser)
    print(repair(arguments.folder))
    return 0
