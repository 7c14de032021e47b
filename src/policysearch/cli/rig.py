"""`policysearch ask` and `tell`: trials on your own machine, from the shell; see `run` too, and `resume`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from policysearch.cli import shared, stage_costs
from policysearch.core import grammar
from policysearch.core.plain import Plain
from policysearch.methods.settings import METHODS
from policysearch.runs.inbox import Inbox, Message
from policysearch.runs.lock import InUseError
from policysearch.runs.reader import open_run

if TYPE_CHECKING:
    from policysearch.search.open_update import Trial
    from policysearch.search.rig import Rig

#: seconds that a short command waits for a program that owns the run
WAIT = 10.0


def ask(given: list[str]) -> int:
    """`policysearch ask`: the next trial as JSON; the exit code."""
    parser = shared.rig_parser(
        "ask", "Ask for the next trial, as JSON. A trial that has no result yet is handed out again."
    )
    parser.add_argument(
        "--client", default="", metavar="NAME", help="name of the client that runs it, if there are several"
    )
    arguments = parser.parsed(given, shared.NO_LOG)
    with _opened(arguments.folder, wait=WAIT) as search:
        trial = _next(search, arguments.client)
    print(shared.as_json(_described(trial)))
    return 0


def tell(given: list[str]) -> int:
    """`policysearch tell`: the outcome of a trial; the exit code."""
    parser = shared.rig_parser("tell", "Tell the outcome of a trial. The same outcome told twice counts once.")
    parser.add_argument("trial", metavar="TRIAL", help="number of the trial, from ask")
    outcome = parser.add_mutually_exclusive_group(required=True)
    outcome.add_argument("--cost", metavar="X", help="total cost of the trial")
    outcome.add_argument("--rollout", metavar="FILE", help="a CSV file with a column `cost`, one row per stage")
    outcome.add_argument(
        "--failed", metavar="WHY", help="the trial failed because of its parameters: counts as the worst cost"
    )
    outcome.add_argument("--safety-stop", metavar="WHY", help="like --failed, and the search waits until `resume DIR`")
    outcome.add_argument(
        "--lost", metavar="WHY", help="the rig failed: the trial is left out, together with its partner"
    )
    outcome.add_argument(
        "--abandoned", metavar="WHY", help="the trial was given up: it is left out, together with its partner"
    )
    parser.add_argument("--retry", action="store_true", help="hand out a lost or abandoned trial again")
    parser.add_argument("--notes", default="", metavar="TEXT", help="a note that is kept with the trial")
    parser.add_argument("--json", action="store_true", help="print the record of a finished update as JSON")
    arguments = parser.parsed(given, shared.NO_LOG)
    number = shared.number("TRIAL", arguments.trial, int)
    told: Plain = {name: getattr(arguments, name) for name in ("failed", "safety_stop", "lost", "abandoned")}
    told["cost"] = shared.number("--cost", arguments.cost, float)
    if arguments.rollout is not None:
        told["cost"] = stage_costs.total(Path(arguments.rollout))
    try:
        with _opened(arguments.folder, wait=0.0) as search:
            record = search.tell(number, **told, retry=arguments.retry, notes=arguments.notes)
            done, halted = search.done, search.halted
    except InUseError as error:
        left = _leave(Path(arguments.folder), number, told, arguments.retry, arguments.notes)
        if arguments.json:
            print(shared.as_json({"update": None, "left": left}))
        else:
            print(f"left for its owner: {error}" if left else f"trial {number} already has this outcome")
        return 0
    if arguments.json:
        print(shared.as_json({"update": record, "halted": halted}))
        return 0
    if halted:
        print(f"the search waits: {halted}\nnext, when the rig is safe: policysearch resume {arguments.folder}")
    if record is not None:
        print(f"update {int(record['update'])}: mean cost of its trials {record['cost']:.6g}")
        if done:
            print(f"the budget is spent: policysearch status {arguments.folder}")
    return 0


def resume(folder: str, by: str, back_to: str | None, budget: str | None) -> int:
    """`policysearch resume` of a rig's search: hand out trials again; the exit code."""
    with _opened(folder, budget, WAIT) as search:
        halted = search.halted
        if back_to is not None:
            from policysearch.core import controller_file
            from policysearch.core.controller import Controller

            given = None if back_to == "incumbent" else Controller.of_content(controller_file.load(back_to), back_to)
            search.go_back(given)
        if halted:
            search.release(by)
    if halted:
        print(f"continues after: {halted}")
    print(f"next: policysearch ask {folder}")
    return 0


def _opened(folder: str, budget: str | None = None, wait: float | None = None) -> Rig:
    shared.prepare_jax()
    from policysearch.search.rig import Rig

    return Rig.open(folder, budget=budget, wait=wait)


def _next(search: Rig, client: str) -> Trial:
    if search.done and not search.pending:
        raise RuntimeError(
            f"The budget of {search.budget} is spent. A larger one: policysearch run DIR --budget B -- COMMAND, or "
            "Rig.open(folder, budget=…)."
        )
    return search.ask(client)


def _described(trial: Trial) -> Plain:
    return {
        "trial": trial.number,
        "update": trial.update,
        "index": trial.index,
        "attempt": trial.attempt,
        "purpose": trial.purpose,
        "values": trial.values,
        "environment_seed": trial.environment_seed,
    }


def _leave(folder: Path, number: int, told: Plain, retry: bool, notes: str) -> bool:
    """Leave a result for the process that owns the run; False if it has been told already.

    Raises:
        ValueError: its owner would refuse it.
    """
    from policysearch.core.specification import Specification
    from policysearch.search.open_update import GRADIENT
    from policysearch.search.trial_result import Told
    from policysearch.search.trials import as_kept, judged

    run = open_run(folder)
    record = run.trials.get(number)
    if record is None:
        raise ValueError(f"Trial {number} was never asked; those that wait are listed by: policysearch status {folder}")
    given = as_kept({name: value for name, value in told.items() if value is not None})
    method = run.configuration["method"]
    if "cost" in given and record.purpose == GRADIENT and method in METHODS and METHODS[method].space == "action":
        raise ValueError(
            f"{method} learns from every stage, so that a cost is not enough; Rig.tell takes rollout= in Python."
        )
    outcome = Told.of(Specification.from_plain(run.configuration["specification"]), None, given)
    if judged(record, None, outcome, record.attempt, retry):
        return False
    if "cost" in given and outcome.cost is None:
        given = {"failed": outcome.reason}  # JSON has no number for it
    message = Message(trial=number, attempt=record.attempt, given=given, retry=retry, notes=grammar.words(notes))
    message.left = time.time()
    Inbox(folder).leave(message)
    later = open_run(folder).trials[number]
    if later.attempt == record.attempt:  # its owner may have told it meanwhile, and then drops what was left here
        judged(later, None, outcome, record.attempt, retry)
    return True
