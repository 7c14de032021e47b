"""`policysearch check`: every estimator and baseline against closed forms, on this machine. See `verify.check`.

A row is a method on a problem: the mean of thousands of batches of ten rollouts must equal its theoretical value.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from policysearch.cli import shared
from policysearch.verify.check import METHODS, PROBLEMS, QUICK, check

if TYPE_CHECKING:
    from policysearch.core.method import Method
    from policysearch.verify.bias import Row


def main(given: list[str]) -> int:
    """Run the command with its arguments; 0 if nothing is wrong, 1 if something is."""
    parser = shared.Parser(
        "check",
        "Compare the gradient estimators with closed forms, on this machine.",
    )
    parser.add_argument("--problems", nargs="+", metavar="NAME", help=f"which of {', '.join(PROBLEMS)} [all]")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help=f"which of {', '.join(METHODS)} [all]")
    parser.add_argument("--method", metavar="REF", help="a Method that you composed, as module:attr")
    parser.add_argument("--batches", metavar="N", help="batches of ten rollouts per row [enough for 2 %% accuracy]")
    parser.add_argument("--seed", metavar="S", help="random seed [0]")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    arguments = parser.parsed(given)
    if arguments.method and arguments.methods:
        raise ValueError("--method takes a method of your own, --methods takes names; give one of the two.")
    batches = shared.number("--batches", arguments.batches, int)
    seed = shared.number("--seed", arguments.seed, int) or 0
    shared.prepare_jax()
    methods = {arguments.method: _own(arguments.method)} if arguments.method else arguments.methods
    problems = arguments.problems or (QUICK if arguments.quick else None)
    with _Progress() as progress:
        rows = check(methods, problems, batches=batches, seed=seed, on_row=progress.show)
    complaints = [row.complaint for row in rows if row.complaint]
    if arguments.json:
        print(shared.as_json([msgspec.structs.asdict(row) | {"complaint": row.complaint} for row in rows]))
    else:
        _print(rows, complaints)
    return 1 if complaints else 0


def _own(reference: str) -> Method:
    """The method that module:attr names or, if it is a function, returns."""
    from policysearch.core.method import Method

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # an installed script does not look here
    place, _, name = reference.partition(":")
    try:
        found: Any = importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name != place:
            raise
        raise ValueError(f"--method {reference}: there is no module {place!r}; write module:attr.") from None
    if not hasattr(found, name):
        raise ValueError(f"--method {reference}: {place} has no {name!r}; write module:attr.")
    found = getattr(found, name)
    if callable(found) and not isinstance(found, Method):
        found = found()
    if not isinstance(found, Method):
        raise ValueError(f"{reference} is a {type(found).__name__}; --method needs a policysearch.Method.")
    return found


class _Progress:
    """On a terminal, a status line with the latest check."""

    def __enter__(self) -> _Progress:
        from rich.console import Console

        self._count = 0
        self._status = Console(file=sys.stderr).status("compiling the first batch")
        if sys.stderr.isatty():
            self._status.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._status.stop()

    def show(self, row: Row) -> None:
        self._count += 1
        label = " ".join(filter(None, (row.method, row.variant, row.baseline)))
        self._status.update(f"{self._count} rows; {row.problem}: {label}, |z| {row.worst:.1f}")


def _print(rows: Sequence[Row], complaints: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    from policysearch.verify.bias import FARTHEST

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("problem", "method", "baseline", "the mean must be"):
        table.add_column(heading, no_wrap=True)
    for heading in ("batches", "|z|", "error %", "SNR", "cosine", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        method = f"{row.method} ({row.variant})" if row.variant else row.method
        quality = (f"{100 * row.error:.2f}", f"{row.snr:.2g}", f"{row.cosine:.2f}")
        verdict = "[red]FAILED[/red]" if row.complaint else "ok"
        table.add_row(
            row.problem, method, row.baseline, row.estimand, str(row.batches), f"{row.worst:.2f}", *quality, verdict
        )
    # without a terminal, the table is not cut to fit
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    coordinates = sum(len(row.z) for row in rows)
    least = min(row.probability for row in rows)
    print(
        "\n|z|: largest bias of a coordinate in standard errors. error: standard error of the mean as a share of the"
        "\ngradient. SNR and cosine: of one batch. Chance alone lifts one of "
        f"{coordinates} coordinates above {FARTHEST:g} with probability"
        f"\n{_chance(coordinates):.2g} at most. Smallest probability of a row's χ²: {least:.2g}, "
        f"times {len(rows)} rows {min(1.0, least * len(rows)):.2g}."
    )
    for complaint in complaints:
        print(complaint)
    print(f"{len(complaints)} of {len(rows)} rows failed." if complaints else f"All {len(rows)} rows agree.")


def _chance(coordinates: int) -> float:
    """Bonferroni's bound on a false alarm."""
    from scipy.stats import norm

    from policysearch.verify.bias import FARTHEST

    return min(1.0, 2 * coordinates * float(norm.sf(FARTHEST)))
