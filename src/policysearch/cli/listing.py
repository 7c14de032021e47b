"""`policysearch list`: tasks, methods and policies by name."""

from __future__ import annotations

import textwrap

from policysearch.cli import shared
from policysearch.core.settings import POLICIES, unknown
from policysearch.methods.settings import METHODS
from policysearch.tasks import BUILT_IN


def main(given: list[str]) -> int:
    """Run the command with its arguments; the exit code."""
    parser = shared.Parser("list", "Show tasks, methods and policies.")
    parser.add_argument("kind", nargs="?", metavar="tasks|methods|policies", help="what to show [everything]")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    arguments = parser.parsed(given)
    listing = {
        "tasks": {name: f"{task.summary}; solved: {task.solved}" for name, task in BUILT_IN.items()},
        "methods": {name: (struct.__doc__ or "").strip().splitlines()[0] for name, struct in METHODS.items()},
        "policies": POLICIES,
    }
    if arguments.kind is not None and arguments.kind not in listing:
        raise ValueError(unknown("kind", arguments.kind, list(listing)))
    chosen = {arguments.kind: listing[arguments.kind]} if arguments.kind else listing
    if arguments.json:
        print(shared.as_json(chosen))
        return 0
    blocks = []
    for kind, entries in chosen.items():
        lines = [kind, *(_entry(name, text) for name, text in entries.items())]
        if kind == "tasks":
            lines.append(
                "  and any Gymnasium id, module:attr or file.py:attr (a Plant, a Task, an environment, a cost)"
            )
        blocks.append("\n".join(lines))
    print("\n\n".join(blocks))
    return 0


def _entry(name: str, text: str) -> str:
    return textwrap.fill(f"{name:<20}{text}", 100, initial_indent="  ", subsequent_indent=" " * 22)
