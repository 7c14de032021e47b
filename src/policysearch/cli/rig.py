"""`policysearch new`, `ask`, `tell` and `status`: trials on your own machine, from the shell; see `run` too.

The folder holds the whole search between two commands. `status` reads it without JAX and without owning it.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from policysearch.cli import shared, stage_costs
from policysearch.core import grammar
from policysearch.core.plain import Plain
from policysearch.core.settings import Budget, unknown
from policysearch.methods import flags
from policysearch.methods.settings import METHODS, method_settings, unknown_method
from policysearch.runs.inbox import Inbox, Message
from policysearch.runs.lock import InUseError
from policysearch.runs.reader import Run, open_run

if TYPE_CHECKING:
    from policysearch.core.controller import Controller
    from policysearch.search.rig import Rig
    from policysearch.search.trials import Trial

_MEASURED = (
    *("measured", "measured_error", "incumbent", "incumbent_error", "incumbent_update", "noise"),
    *("difference", "difference_error", "drift", "drift_error"),
)
#: seconds that a short command waits for a program that owns the run
WAIT = 10.0
#: methods for the numbers of a rig: those that perturb parameters
#: what is said where `--tensorboard` is given
NO_LOG = "It logs the updates of: policysearch run DIR --tensorboard -- COMMAND."
RIG_METHODS = ("finite_differences", "weight_perturbation", "ars", "pgpe", "cem")


def new(given: list[str]) -> int:
    """`policysearch new`: start a search; the exit code."""
    parser = _new_parser(list(RIG_METHODS), helpful=False)
    arguments, extras = parser.parse_known_args(given)
    if arguments.method not in METHODS:
        raise ValueError(unknown_method(arguments.method))
    if arguments.method not in RIG_METHODS:
        raise ValueError(
            f"{arguments.method} needs every stage of a feedback law; named numbers are searched by one of "
            f"{', '.join(RIG_METHODS)}. In Python, Rig and a Specification serve feedback laws on a rig."
        )
    if arguments.help:
        print(_new_parser([arguments.method], helpful=True).format_help(), end="")
        return 0
    shared.refuse_scalars(extras, NO_LOG)
    flags.refuse_unknown(extras, parser)
    if arguments.folder is None or not arguments.parameters:
        raise ValueError(f"new what? Give DIR and --parameters {grammar.PARAMETER}. See: policysearch new --help")
    flags.refuse_foreign(arguments, arguments.method)
    settings = method_settings(arguments.method, flags.given(arguments, METHODS[arguments.method]))
    seed = shared.number("--seed", arguments.seed, int)
    failure_cost = shared.number("--failure-cost", arguments.failure_cost, float)
    if arguments.budget is not None:
        Budget.parse(arguments.budget)
    numbers = [grammar.parameter(text) for text in arguments.parameters]
    names = [number.name for number in numbers]
    scales = _scales(_named(arguments.scales, names, "--scales"), numbers)
    largest = _named(arguments.largest_step, names, "--largest-step")
    shared.prepare_jax()
    from policysearch.core.policies import Parameters
    from policysearch.core.specification import Specification
    from policysearch.search.rig import Rig

    policy = Parameters(
        names,
        [number.initial for number in numbers],
        bounds={number.name: (number.low, number.high) for number in numbers},
        scale=scales,
        log=[number.name for number in numbers if number.log],
    )
    rig = Specification(name=Path(arguments.folder).resolve().name, repeatable=False)
    options = {"budget": arguments.budget, "seed": seed, "failure_cost": failure_cost, "folder": arguments.folder}
    options |= {"largest_step": largest or None, "measure": _measure(arguments.measure)}
    with Rig(rig, settings, policy=policy, **options) as search:
        print(f"{arguments.folder}: {search.method_name} of {', '.join(names)}, {search.layout.size} trials per update")
    print(f"next: policysearch ask {arguments.folder}")
    return 0


def ask(given: list[str]) -> int:
    """`policysearch ask`: the next trial as JSON; the exit code."""
    parser = _parser("ask", "Ask for the next trial, as JSON. A trial that has no result yet is handed out again.")
    parser.add_argument(
        "--client", default="", metavar="NAME", help="name of the client that runs it, if there are several"
    )
    arguments = parser.parsed(given, NO_LOG)
    with _opened(arguments.folder, wait=WAIT) as search:
        trial = _next(search, arguments.client)
    print(shared.as_json(_described(trial)))
    return 0


def tell(given: list[str]) -> int:
    """`policysearch tell`: the outcome of a trial; the exit code."""
    parser = _parser("tell", "Tell the outcome of a trial. The same outcome told twice counts once.")
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
    arguments = parser.parsed(given, NO_LOG)
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


def status(given: list[str]) -> int:
    """`policysearch status`: trials, outcomes, parameters and costs so far; the exit code."""
    parser = _parser("status", "Show where a search stands, even while it runs.")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    arguments = parser.parsed(given, NO_LOG)
    found = summary(open_run(arguments.folder))
    print(shared.as_json(found) if arguments.json else described(found))
    return 0


def summary(run: Run) -> Plain:
    """Where a search stands, as values for JSON.

    Raises:
        ValueError: a run of a simulated task.
    """
    if "trials" not in run.configuration:
        raise ValueError(f"{run.folder} holds the run of a simulated task; its numbers are in metrics.csv.")
    from policysearch.core import controller_file
    from policysearch.core.controller import Controller

    known = run.configuration
    values, damage = None, ""
    try:
        if run.records:
            file = run.controller()
        else:
            file = Controller.of_content(controller_file.parse(run.start or b"", run.folder), run.folder)
        values = _numbers(file)
    except FileNotFoundError:
        damage = "the policy is written when the search goes on"  # killed between an update and its file
    except ValueError as error:
        damage = str(error)
    trials = run.trials.values()
    last = run.records[-1] if run.records else {}
    measured: Plain = {}
    for record in run.records:
        measured |= {name: value for name, value in record.items() if name in _MEASURED}
    return {
        "folder": str(run.folder),
        "method": known["method"],
        "budget": known["budget"],
        "updates": len(run.records),
        "trials": dict(Counter(trial.status for trial in trials)),
        "pending": [
            {"number": t.number, "attempt": t.attempt, "client": t.client} for t in trials if t.status == "asked"
        ],
        "parameters": values,
        "damage": damage,
        "cost": last.get("cost"),
        "cost_error": last.get("cost_sem"),
        "snr": last.get("snr"),
        "halted": run.halted,
        **{name: measured.get(name) for name in _MEASURED},
        "incumbent_parameters": _values(run, measured.get("incumbent_update")),
        "failures": [
            {"number": t.number, "status": t.status, "fault": t.fault, "reason": t.reason}
            for t in trials
            if t.fault is not None
        ][-10:],
        "left": [{"number": m.trial, "given": m.given} for m in Inbox(run.folder).messages()],
        "refused": [
            {"number": event["trial"], "reason": event["reason"]} for event in run.events if event["kind"] == "inbox"
        ][-10:],
    }


def _values(run: Run, update: float | None) -> dict[str, float] | None:
    """The parameters of the incumbent, which was the iterate after that update; None if there are none."""
    from policysearch.core import controller_file
    from policysearch.core.controller import Controller

    if run.incumbent is None or run.incumbent[0] != update:
        return None
    policy = Controller(*controller_file.parse(run.incumbent[1], "the incumbent"))
    return _numbers(policy)


def _numbers(policy: Controller) -> dict[str, float] | None:
    """Its named numbers, if it has any."""
    try:
        numbers: dict[str, float] = policy.values()
    except TypeError:
        return None
    return numbers


def described(found: Plain) -> str:
    """A summary for people to read."""
    trials = ", ".join(f"{count} {status}" for status, count in found["trials"].items()) or "none"
    lines = [f"{found['folder']}: {found['method']}, {found['updates']} updates, budget {found['budget']}"]
    lines.append(f"trials: {trials}")
    if found["parameters"]:
        lines.append(
            "parameters now: " + ", ".join(f"{name} {value:.6g}" for name, value in found["parameters"].items())
        )
    if found["damage"]:
        lines.append(f"parameters now: unknown, {found['damage']}")
    if found["cost"] is not None:
        error = found["cost_error"]
        spread = f" ± {error:.2g}" if error is not None and math.isfinite(error) else ""
        snr = found["snr"]
        ratio = f", gradient SNR {snr:.2g}" if snr is not None and math.isfinite(snr) else ""
        lines.append(f"cost of the last update's trials: {found['cost']:.6g}{spread} (mean ± standard error){ratio}")
    if found["measured"] is not None:
        lines.append(f"measured: {_cost(found, 'measured')}, noise of a trial {found['noise']:.2g}")
    if found["incumbent"] is not None:
        values = ", ".join(f"{name} {value:.6g}" for name, value in (found["incumbent_parameters"] or {}).items())
        after = f"incumbent, after update {found['incumbent_update']:.0f}"
        lines.append(f"{after}: {_cost(found, 'incumbent')}" + (f"; {values}" if values else ""))
    if found["drift"] is not None and abs(found["drift"]) > 3 * found["drift_error"]:
        lines.append(
            f"drift: the same parameters cost {found['drift']:+.2g} ± {found['drift_error']:.2g} more at each "
            "measurement, so costs from different hours are not comparable"
        )
    if found["halted"]:
        lines.append(f"WAITS: {found['halted']}; when the rig is safe: policysearch resume {found['folder']}")
    for trial in found["pending"]:
        who = f" by {trial['client']}" if trial["client"] else ""
        lines.append(f"no result yet: trial {trial['number']}{who}")
    for trial in found["failures"]:
        lines.append(f"trial {trial['number']} {trial['status']}, by the {trial['fault']}: {trial['reason']}")
    for left in found["left"]:
        words = ", ".join(f"{name} {value}" for name, value in left["given"].items())
        lines.append(f"left for the owner of the run, which takes it at the next ask: trial {left['number']}, {words}")
    for refused in found["refused"]:
        lines.append(f"refused by the owner of the run: a result of trial {refused['number']}. {refused['reason']}")
    return "\n".join(lines)


def _cost(found: Plain, name: str) -> str:
    error = found[f"{name}_error"]
    return f"{found[name]:.6g}" + (f" ± {error:.2g}" if error is not None and math.isfinite(error) else "")


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


def _new_parser(methods: Sequence[str], helpful: bool) -> shared.Parser:
    parser = shared.Parser(
        "new",
        add_help=False,
        description="Start a search for named numbers on a rig; continue it with ask, tell, run and status.",
    )
    parser.add_argument("folder", nargs="?", metavar="DIR", help="a new folder")
    parser.add_argument("--parameters", nargs="+", action="extend", metavar="P", help=grammar.PARAMETER)
    parser.add_argument(
        "--scales",
        nargs="+",
        action="extend",
        metavar="NAME=S",
        help="size of one unit of the search, in the parameter's unit, or as an exponent of e where log "
        "[half the range; without a range, the initial value]",
    )
    parser.add_argument("--method", default="weight_perturbation", help="[%(default)s]", metavar="M")
    parser.add_argument("--budget", metavar="B", help="40 (trials) or 5updates [1000updates]")
    parser.add_argument("--seed", default="0", metavar="S", help="random seed [0]")
    parser.add_argument("--failure-cost", metavar="C", help="cost of a failed trial [the worst of its update]")
    parser.add_argument(
        "--largest-step",
        nargs="+",
        action="extend",
        metavar="NAME=S",
        help="largest change per update, in the parameter's unit, or as a factor where log [no limit]",
    )
    parser.add_argument(
        "--measure",
        metavar="EVERY:TRIALS",
        help="measure the parameters themselves, and the best so "
        "far, with TRIALS trials each after every EVERY updates [never]",
    )
    parser.add_debug()
    parser.add_argument("--help", "-h", action="store_true", help="show this help, with the flags of --method")
    flags.add(parser.add_argument_group("method"), [METHODS[name] for name in methods], set(), helpful)
    return parser


def _parser(name: str, description: str, usage: str | None = None) -> shared.Parser:
    parser = shared.Parser(name, description, usage=usage)
    parser.add_argument("folder", metavar="DIR", help="folder of the search, from policysearch new")
    return parser


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
    from policysearch.search.trial_result import Told
    from policysearch.search.trials import GRADIENT, as_kept, judged

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


def _measure(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    words = text.split(":")
    if len(words) != 2:
        raise ValueError(f"--measure is {text!r}; it must look like 5:4, for 4 trials after every 5 updates.")
    return grammar.whole("--measure EVERY", words[0]), grammar.whole("--measure TRIALS", words[1])


def _scales(chosen: dict[str, float], numbers: list[grammar.Parameter]) -> list[float]:
    """The size of one unit of the search for each number: as given, else half its range."""
    scales = []
    for number in numbers:
        low, high = number.low, number.high
        if number.log:
            rule = math.log(high / low) / 2 if 0 < low < high < math.inf else 1.0
        else:
            rule = (high - low) / 2 if math.isfinite(high - low) else abs(number.initial) or 1.0
        scales.append(chosen.get(number.name, rule))
    return scales


def _named(given: Sequence[str] | None, names: Sequence[str], flag: str) -> dict[str, float]:
    """NAME=NUMBER for known names."""
    return grammar.named(flag, given or [], names, lambda name: unknown("parameter", name, list(names)))
