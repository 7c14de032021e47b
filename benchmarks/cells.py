"""Finished searches of a comparison by (task, who, seed): each is a line of a file and is not run again.

An interrupted comparison goes on where it was. A line that an interruption tore counts as not run.
"""

import json
import os
import statistics


def lines(path):
    """The searches that are finished, by task, who and seed."""
    found = {}
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                result = json.loads(line)
            except json.JSONDecodeError:  # the line that an interruption tore
                continue
            found[result["task"], result["who"], result["seed"]] = result
    return found


def mended(path):
    """End a torn last line, so that the next one stands alone."""
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        with path.open("a") as file:
            file.write("\n")


def filled(path, tasks, seeds, asked, run):
    """What the file holds once every missing search is run, side after side for each seed.

    Args:
        path: of the file; made if it is not there.
        tasks, seeds, asked: names, a count (from 0), and who takes part.
        run: a function of task, who and seed that gives the content of a line, with these three in it.

    Returns:
        The searches, as `lines` gives them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mended(path)
    found = lines(path)
    for name in tasks:
        for seed in range(seeds):
            for who in asked:  # one after the other, so that what else the machine does falls on all of them
                if (name, who, seed) in found:
                    continue
                found[name, who, seed] = result = run(name, who, seed)
                with path.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
    return found


def spread(values, digits):
    """Median and range."""
    if not values:
        return "–"
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"
