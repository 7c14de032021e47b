"""`policysearch diagnose`: the gradient estimators of a task at one policy, as a table, a picture and advice."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from policysearch.cli import shared

if TYPE_CHECKING:
    from policysearch.core.specification import Specification
    from policysearch.verify.diagnosis import Row


def main(given: list[str]) -> int:
    """Run the command with its arguments; the exit code."""
    parser = shared.Parser(
        "diagnose",
        "Compare how noisy each gradient estimator is at one policy, all with the same number of rollouts.",
    )
    parser.add_argument(
        "task", metavar="TASK|DIR", help="a task, at the policy a search starts from; or a run, at the policy it found"
    )
    parser.add_argument("--initial", metavar="P", help="start from known parameters: JSON, a policy file or a run")
    parser.add_argument("--rollouts", metavar="N", default="64", help="number of rollouts per estimate [64]")
    parser.add_argument(
        "--batches", metavar="B", help="number of estimates per estimator [100; 16 for Gymnasium tasks]"
    )
    parser.add_argument("--seed", metavar="S", default="0", help="random seed [0]")
    parser.add_argument("--workers", metavar="W", help="processes for Gymnasium tasks [one per core]")
    parser.add_argument(
        "--picture", metavar="FILE", default="diagnose.png", help="where to save the plot [diagnose.png]"
    )
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    arguments = parser.parsed(given)
    rollouts, seed = (shared.number(f"--{name}", getattr(arguments, name), int) for name in ("rollouts", "seed"))
    batches, workers = (shared.number(f"--{name}", getattr(arguments, name), int) for name in ("batches", "workers"))
    picture = Path(arguments.picture)
    if not picture.resolve().parent.is_dir():
        raise ValueError(f"--picture is {picture}; there is no folder {picture.resolve().parent}.")
    name, controller, options, searched = arguments.task, None, {}, None
    if Path(name).is_dir():
        from policysearch.cli.evaluate import reference
        from policysearch.runs.reader import open_run

        run = open_run(name)
        name, controller, options = reference(run), run.controller(), run.configuration.get("task_options", {})
        searched = run.configuration.get("method")
        if arguments.initial is not None:
            raise ValueError(f"{arguments.task} is a run, whose policy is measured; leave --initial out.")
    shared.prepare_jax()
    from policysearch.verify.diagnosis import advice, diagnose

    task = shared.task(name, options)
    policy: Any = controller
    if arguments.initial is not None:
        from policysearch.search.search import Search

        with Search(task, seed=seed, initial=arguments.initial) as search:
            policy = search.policy
    rows = diagnose(
        task,
        policy,
        rollouts=rollouts,
        batches=batches,
        seed=seed,
        workers=workers,
        on_row=None if arguments.json else lambda row: print(f"measured {row.label}", file=sys.stderr, flush=True),
    )
    from policysearch.report import gradients

    where = f"at the policy of {arguments.task}" if controller is not None else "where a search starts"
    gradients.draw(picture, rows, title=f"{name}, {where}")
    method, why = (
        default(task.specification) if searched is None else (searched, f"with which {arguments.task} was made")
    )
    said = [f"Method: {method}, {why}.", followed(method, rows), *advice(rows)]
    if arguments.json:
        found = [{"label": row.label, **msgspec.structs.asdict(row)} for row in rows]
        shared.say(shared.as_json({"rows": found, "method": method, "advice": said}))
    else:
        print("\n".join([*table(rows), "", *said, f"picture: {picture}"]))
    return 0


def default(specification: Specification) -> tuple[str, str]:
    """The method that `train` would choose for a task, and why."""
    from policysearch.methods.rule import default_method

    if specification.action is None:
        kind = "a cost of parameters"
    elif specification.policy == "either":
        kind = "a simulator"
    else:
        kind = f"a plant that needs {'a network' if specification.policy == 'network' else 'a gain matrix'}"
    return default_method(specification), f"the default for {kind}"


def followed(method: str, rows: list[Row]) -> str:
    """One sentence on how clear the gradient is that the method follows."""
    from policysearch.verify.diagnosis import nearest

    row = nearest(rows, method)
    if row is None:
        return "It follows none of these gradients."
    ratio = "without noise" if math.isinf(row.snr) else f"SNR {row.snr:.2g} from {row.rollouts} rollouts"
    return f"Closest to its gradient: {row.label}, {ratio}."


def table(rows: list[Row]) -> list[str]:
    """A table at most 100 characters wide; n is the number of rollouts."""
    width = max(len(row.label) for row in rows)
    lines = [f"{'estimator':{width}}     n      SNR  ± s.e.  cosine  n for SNR 1"]
    for row in rows:
        needed = row.needed()
        wanted = f"{needed:.0f}" if 1 <= needed < math.inf else "-" if math.isinf(needed) else "1"
        ratio = f"{row.snr:7.3g}  {row.snr_error:6.2g}" if math.isfinite(row.snr) else "    inf       -"
        lines.append(f"{row.label:{width}}  {row.rollouts:4}  {ratio}  {row.cosine:6.2f}  {wanted:>11}")
    return lines
