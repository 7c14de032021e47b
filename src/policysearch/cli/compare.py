"""`policysearch compare`: methods on one task with the same seeds and budget, as a table and an HTML page."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from policysearch.cli import shared
from policysearch.comparison.entrants import named
from policysearch.core import grammar
from policysearch.core.settings import Budget, PolicySettings, checked
from policysearch.methods import flags
from policysearch.methods.settings import METHODS, RIVALS

NUMBERS = {"workers": int, "points": int, "evaluation_rollouts": int, "horizon": int, "threshold": float}
REPORT, PICTURE = "report.html", "curves.png"


def main(given: list[str]) -> int:
    """Run the command with its arguments; the exit code."""
    arguments = _parser().parsed(
        given,
        f"The curves of all searches are in DIR/{REPORT} and DIR/{PICTURE}, their numbers in DIR/cells.jsonl; "
        "policysearch train TASK --method M --tensorboard logs one search.",
    )
    for name, kind in NUMBERS.items():
        flag = f"--{name.replace('_', '-')}"
        setattr(arguments, name, shared.number(flag, getattr(arguments, name), kind))
    entrants, seeds = named(arguments.methods), _seeds(arguments.seeds)
    policy = checked(PolicySettings, flags.given(arguments, PolicySettings), "a policy setting")
    budget = None if arguments.budget is None else Budget.parse(arguments.budget)
    folder = Path(arguments.out or Path("comparisons", re.sub(r"[^A-Za-z0-9._-]+", "-", arguments.task).strip("-.")))
    shared.prepare_jax()
    from policysearch.comparison import cells
    from policysearch.comparison.grid import Progress, compare
    from policysearch.search.progress import Progress as Shown

    task = shared.task(arguments.task, {} if arguments.horizon is None else {"horizon": arguments.horizon})
    noun = task.specification.noun
    title = f"{arguments.task}: {', '.join(entrants)}; {len(seeds)} seed{'s' * (len(seeds) > 1)}"
    with Shown(title, str(folder), noun) as shown:

        def on_progress(progress: Progress) -> None:
            shown.step(progress.method, progress.record, progress.share)

        try:
            found = compare(
                task,
                entrants,
                seeds=seeds,
                budget=budget,
                policy=None if policy == PolicySettings() else policy,
                threshold=arguments.threshold,
                folder=folder,
                workers=arguments.workers,
                cluster=arguments.cluster,
                evaluation_rollouts=arguments.evaluation_rollouts,
                on_progress=on_progress,
                **({} if arguments.points is None else {"points": arguments.points}),
            )
        except KeyboardInterrupt:
            kept = len(cells.read(folder))
            said = f"{kept} finished searches are kept in {folder}; the same command continues"
            print(f"policysearch: {said}", file=sys.stderr)
            raise
    from policysearch.report import comparison as report

    if arguments.json:
        rows = [row._asdict() for row in found.table()]
        shared.say(
            shared.as_json({"task": arguments.task, "budget": found.budget, "rows": rows, "words": found.words()})
        )
    else:
        print("\n".join([*text(*report.table(found)), "", *found.words()]), flush=True)
    report.save_picture(found, folder / PICTURE)
    report.write(found, folder / REPORT, cells.configuration(folder))
    if not arguments.json:
        print(f"saved: {folder}/{REPORT}, with {PICTURE}")
    return 0


def _parser() -> shared.Parser:
    parser = shared.Parser(
        "compare",
        "Run methods on one task with the same seeds, budget and evaluation seeds. Finished searches are "
        "kept: the same command continues after an interruption, and seeds or methods may be added.",
    )
    parser.add_argument("task", metavar="TASK", help=shared.TASK_HELP)
    parser.add_argument(
        "--methods",
        metavar="A,B",
        required=True,
        help="names, with settings in parentheses if needed, such as trpo,trpo(max_kl=0.1),cma: "
        + ", ".join([*METHODS, *RIVALS]),
    )
    parser.add_argument(
        "--seeds", metavar="N", default="10", help="number of seeds, counting from 0, or a list such as 3,5,8 [10]"
    )
    parser.add_argument(
        "--budget", metavar="B", help="budget of each search: 2000 (rollouts), 2e6stages [as for train]"
    )
    parser.add_argument("--threshold", metavar="X", help="largest cost, or smallest return, that counts as solved")
    parser.add_argument("--out", metavar="DIR", help="folder of the comparison [comparisons/TASK]")
    parser.add_argument("--points", metavar="N", help="number of measurements during a search [24]")
    parser.add_argument(
        "--evaluation-rollouts", metavar="N", help="rollouts per measurement [5 for Gymnasium, else the task's]"
    )
    parser.add_argument("--workers", metavar="N", help="number of worker processes for Gymnasium tasks [one per core]")
    parser.add_argument("--cluster", metavar="ADDRESS", help=shared.CLUSTER_HELP)
    parser.add_argument("--horizon", metavar="N", help="largest number of stages in a rollout [the task's]")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    flags.add(parser.add_argument_group("policy of all methods"), [PolicySettings], set(), True)
    return parser


def _seeds(text: str) -> list[int]:
    """Seeds from a count or a list."""
    try:
        numbers = [grammar.whole("--seeds", part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds is {text!r}; it must be a whole number, or several, as in 3,5,8.") from None
    if "," not in text:
        numbers = list(range(numbers[0]))
    if not numbers or min(numbers) < 0:
        raise ValueError(f"--seeds is {text!r}; give at least one, none of them negative.")
    return numbers


def text(head: list[str], rows: list[list[str]]) -> list[str]:
    """A table in columns, numbers right-aligned."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, *rows]
    ]
