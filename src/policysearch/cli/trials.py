"""`policysearch trials`: every trial of a search on a rig, with what ran and what it cost, as a table, CSV or JSON."""

from __future__ import annotations

import csv
import sys
from datetime import datetime

from policysearch.cli import shared
from policysearch.core.plain import Plain
from policysearch.runs.reader import open_run

#: columns that a terminal has no room for; CSV and JSON have them
WIDE = ("attempt", "stages", "client", "notes", "told")


def main(given: list[str]) -> int:
    """Run the command with its arguments; the exit code."""
    parser = shared.rig_parser("trials", "Show every trial: what ran, what it cost, how it ended.")
    parser.add_argument("--csv", action="store_true", help="print as CSV, times in seconds since 1970")
    parser.add_argument("--json", action="store_true", help="print as JSON, one object per trial")
    arguments = parser.parsed(given, shared.NO_LOG)
    run = open_run(arguments.folder)
    if "trials" not in run.configuration:
        raise ValueError(
            f"{arguments.folder} is the run of a simulated task, which keeps no single trials; its updates are in "
            "metrics.csv."
        )
    rows = run.table()
    if arguments.json:
        print(shared.as_json(rows))
    elif arguments.csv:
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        print(aligned(rows) if rows else f"no trial was asked yet: policysearch ask {arguments.folder}")
    return 0


def aligned(rows: list[Plain]) -> str:
    """The rows as a table for a terminal, without columns that hold nothing."""
    names = [name for name in dict.fromkeys(n for row in rows for n in row) if name not in WIDE]
    table = [[_shown(name, row.get(name)) for name in names] for row in rows]
    kept = [i for i in range(len(names)) if any(line[i] for line in table)]
    lines = [[names[i] for i in kept], *([line[i] for i in kept] for line in table)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(kept))]
    text = {i for i, k in enumerate(kept) if names[k] in ("purpose", "status", "reason", "asked")}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in text else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _shown(name: str, value: object) -> str:
    if value is None or value == "":
        return ""
    if name == "asked" and isinstance(value, float):
        return datetime.fromtimestamp(value).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return f"{value:.6g}" if isinstance(value, float) else str(value)
