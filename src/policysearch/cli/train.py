"""`policysearch train`: flags, a run's folder, progress, requests to end, the result."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from policysearch.cli import interruption, shared
from policysearch.core.plain import Plain
from policysearch.core.settings import Budget, PolicySettings, checked
from policysearch.methods import flags
from policysearch.methods.presets import preset
from policysearch.methods.settings import METHODS, MethodSettings, method_settings, unknown_method
from policysearch.runs import journal, reader

if TYPE_CHECKING:
    from policysearch.report.tensorboard import TensorBoard
    from policysearch.search.progress import Progress
    from policysearch.search.search import Search

NUMBERS = {
    "seed": int,
    "workers": int,
    "horizon": int,
    "evaluation_rollouts": int,
    "survival_bonus": float,
    "failure_cost": float,
    "timeout": float,
}


def _parser(methods: Sequence[str], helpful: bool) -> shared.Parser:
    """The parser of `train` with the flags of the given methods."""
    parser = shared.Parser(
        "train",
        add_help=False,
        description="Search for a policy for a task. Defaults in brackets. Ctrl-C once ends with what was "
        "found so far, twice ends at once.",
        epilog=None if len(methods) == 1 else "A method's own flags: policysearch train TASK --method ars --help",
    )
    parser.add_argument("task", nargs="?", metavar="TASK", help=shared.TASK_HELP)
    general = parser.add_argument_group("general")
    general.add_argument("--method", metavar="M", help=f"one of {', '.join(METHODS)} [depends on the task]")
    general.add_argument("--preset", metavar="P", help="paper: the settings reported for the environment in a paper")
    general.add_argument("--budget", metavar="B", help="2000 (rollouts), 2e6stages or 50updates [depends on the task]")
    general.add_argument("--seed", default="0", metavar="S", help="random seed [0]")
    general.add_argument("--initial", metavar="FILE", help="start from a policy file, a run or gains in JSON")
    general.add_argument("--out", metavar="DIR", help="folder of the run [runs/TASK-METHOD-seedS]")
    general.add_argument("--workers", metavar="N", help="number of worker processes for Gymnasium tasks [one per core]")
    general.add_argument("--cluster", metavar="ADDRESS", help=shared.CLUSTER_HELP)
    general.add_argument("--horizon", metavar="N", help="largest number of stages in a rollout [the task's]")
    general.add_argument(
        "--survival-bonus",
        metavar="B",
        help="reward per stage for staying alive, left out of training [ars: what is declared; else 0]",
    )
    general.add_argument("--failure-cost", metavar="C", help="cost of a failed rollout [the worst of its update]")
    general.add_argument(
        "--timeout", metavar="S", help="seconds after which a Gymnasium trial times out [60, or 20 times the slowest]"
    )
    general.add_argument(
        "--evaluation-rollouts", metavar="N", help="number of rollouts at the end [20 for Gymnasium, else 100]"
    )
    general.add_argument("--tensorboard", nargs="?", const="", metavar="DIR", help=shared.TENSORBOARD_HELP)
    general.add_argument("--json", action="store_true", help="print the result as JSON")
    general.add_argument("--debug", action="store_true", help="show tracebacks")
    general.add_argument("--help", "-h", action="store_true", help="show this help, with the flags of --method")
    policy = parser.add_argument_group("policy")
    method = parser.add_argument_group(f"method {methods[0]}" if len(methods) == 1 else "method")
    # the method goes first: if it has a std of its own, --std means that one
    seen: set[str] = set()
    flags.add(method, [METHODS[name] for name in methods], seen, helpful)
    flags.add(policy, [PolicySettings], seen, helpful)
    return parser


def main(given: list[str]) -> int:
    """Run the command with its arguments; the exit code."""
    parser = _parser(list(METHODS), helpful=False)
    arguments, extras = parser.parse_known_args(given)
    if arguments.method is not None and arguments.method not in METHODS:
        raise ValueError(unknown_method(arguments.method))
    if arguments.help:
        print(_parser([arguments.method] if arguments.method else [], helpful=True).format_help(), end="")
        return 0
    flags.refuse_unknown(extras, parser)
    _check(arguments)
    search = _search(arguments)
    with search:
        out = f"{_sanitised(arguments.task)}-{search.method_name}-seed{search.seed}"
        folder = arguments.directory / (arguments.out or Path("runs", out))
        _refuse_existing(folder, arguments.directory)
        arguments.tensorboard = shared.scalars_place(arguments.tensorboard, folder)
        search.keep(folder, _configuration(arguments, search))
        return carry_out(search, folder, arguments)


def carry_out(search: Search, folder: Path, arguments: argparse.Namespace) -> int:
    """Run a search to its end, report and draw the result; the exit code.

    Args:
        search: new, or restored to where another process ended; it is closed.
        folder: where it is kept.
        arguments: with task, directory (where the command was), evaluation_rollouts, tensorboard (see
            `shared.scalars_place`) and json.
    """
    from policysearch.search.progress import wrapped

    scalars = (
        None if arguments.tensorboard is None else _scalars(Path(arguments.tensorboard or folder / shared.SCALARS))
    )
    try:
        requests: list[int] = []
        result = _run(search, folder, arguments, scalars, requests)
    except BaseException:
        if search.updates:
            print(f"policysearch: the policy so far is in {shared.shown(folder, arguments.directory)}", file=sys.stderr)
        raise
    finally:
        search.close()
        if scalars is not None:
            scalars.close()
    text = _block(result, arguments.directory) + (
        f"\nscalars: tensorboard --logdir {shared.shown(scalars.folder, arguments.directory)}"
        if scalars is not None
        else ""
    )
    shared.say(shared.as_json(result) if arguments.json else wrapped(text))
    _draw(folder)
    return 128 + requests[0] if result["reason"] == "interrupted" else 0


def _scalars(folder: Path) -> TensorBoard | None:
    """The log; a resumed run that lacks what it needs goes without one, with a warning."""
    from policysearch.report.tensorboard import TensorBoard

    try:
        return TensorBoard(folder)
    except ImportError as error:
        print(f"policysearch: warning: {error}", file=sys.stderr)
        return None


def _check(arguments: argparse.Namespace) -> None:
    """Raise ValueError for whatever is wrong regardless of the task, before JAX is imported."""
    if arguments.task is None:
        raise ValueError(f"train what? Give TASK: {shared.TASK_HELP}. See: policysearch list tasks")
    # user code that runs from here on may change the directory
    arguments.directory = Path.cwd()
    for name in ("initial", "tensorboard"):
        if getattr(arguments, name):
            setattr(arguments, name, str(arguments.directory / getattr(arguments, name)))
    for name, kind in NUMBERS.items():
        text = getattr(arguments, name)
        setattr(arguments, name, shared.number(f"--{name.replace('_', '-')}", text, kind))
    if arguments.method is not None:
        _method(arguments, arguments.method)
    checked(PolicySettings, flags.given(arguments, PolicySettings), "a policy setting")
    if arguments.budget is not None:
        Budget.parse(arguments.budget)
    if arguments.out is not None:
        _refuse_existing(arguments.directory / arguments.out, arguments.directory)
    shared.scalars_place(arguments.tensorboard, Path())


def _method(arguments: argparse.Namespace, name: str) -> MethodSettings:
    flags.refuse_foreign(arguments, name)
    return method_settings(name, flags.given(arguments, METHODS[name]))


def _task_options(arguments: argparse.Namespace) -> Plain:
    names = ("horizon", "survival_bonus")
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def _search(arguments: argparse.Namespace) -> Search:
    """The search that was asked for."""
    programs = shared.prepare_jax()
    from policysearch.methods.rule import default_method
    from policysearch.methods.start import stochastic
    from policysearch.search.search import Search

    task = shared.task(arguments.task, _task_options(arguments), arguments.timeout)
    policy = flags.given(arguments, PolicySettings)
    method = arguments.method or default_method(task.specification, stochastic(policy.get("kind")))
    settings = _method(arguments, method)
    if "std" in flags.names(METHODS[method]):
        policy.pop("std", None)
    if arguments.preset is not None:
        found = preset(arguments.preset, method, arguments.task, flags.given(arguments, METHODS[method]), policy)
        settings, policy = found.method, msgspec.structs.asdict(found.policy)
    if policy and task.specification.action is None:
        chosen = ", ".join("--" + flags.names(PolicySettings)[field] for field in policy)
        raise ValueError(f"{arguments.task} is a cost of parameters; it has no policy to set with {chosen}.")
    return Search(
        task,
        settings,
        policy=checked(PolicySettings, policy, "a policy setting"),
        budget=arguments.budget,
        seed=arguments.seed,
        initial=arguments.initial,
        workers=arguments.workers,
        cluster=arguments.cluster,
        failure_cost=arguments.failure_cost,
        timeout=arguments.timeout,
        programs=programs,
    )


def _configuration(arguments: argparse.Namespace, search: Search) -> Plain:
    """Everything needed to repeat the run or to resume it."""
    from policysearch.search.resume import of_simulation

    return of_simulation(search, search.resources, arguments.task) | {
        "task_options": _task_options(arguments),
        "preset": arguments.preset,
        "policy": flags.given(arguments, PolicySettings),
        **{name: getattr(arguments, name) for name in ("initial", "evaluation_rollouts", "tensorboard")},
        "directory": str(arguments.directory),
    }


def _run(
    search: Search,
    folder: Path,
    arguments: argparse.Namespace,
    scalars: TensorBoard | None,
    requests: list[int],
) -> Plain:
    """Run a search with progress and Ctrl-C; save everything; what to report."""
    from policysearch.search.progress import Progress

    title = f"{arguments.task}, {search.method_name}, seed {search.seed}"
    noun = search.specification.noun
    with (
        Progress(title, shared.shown(folder, arguments.directory), noun) as progress,
        _interruptible(search, progress, requests),
    ):

        def on_update(update: dict[str, float]) -> None:
            progress.update(update)
            if scalars is not None:
                scalars(update)

        if search.settings.get("survival_bonus"):
            bonus = search.settings["survival_bonus"]
            progress.note(f"training omits a survival bonus of {bonus:g} per stage; returns and evaluations include it")
        search.run(on_update)
        if not search.updates:
            if search.reason not in ("", "interrupted"):
                raise RuntimeError(search.reason)
            raise interruption.Interrupted(requests[0]) if requests else KeyboardInterrupt
        progress.note("evaluating on fresh seeds")
        found = search.result(arguments.evaluation_rollouts)
    if search.reason and found.evaluation is None:
        raise RuntimeError(search.reason)
    if found.evaluation is None:
        raise ValueError(f"{search.specification.name} cannot be evaluated here; it only describes trials.")
    return found.summary() | {"folder": str(folder)}


def _draw(folder: Path) -> None:
    """The picture of a run, from its folder."""
    from policysearch.report import learning

    run = reader.open_run(folder)
    result = run.result
    noun = "cost" if result["return_mean"] is None else "return"
    mean = result[f"{noun}_mean"]
    learning.save(
        folder / journal.CURVE,
        run.records,
        title=f"{result['task']}, {result['method']}, seed {result['seed']}",
        noun=noun,
        final=None if mean is None else learning.Final(mean, result[f"{noun}_sem"] or 0.0),
    )


@contextmanager
def _interruptible(search: Search, progress: Progress, requests: list[int]) -> Iterator[None]:
    """While it lasts, the first request to end (Ctrl-C, TERM, HUP) ends the search cleanly, a second one at once.

    Args:
        search: to end. progress: where to say so. requests: receives the number of each signal.
    """

    def handle(number: int) -> None:
        requests.append(number)
        if len(requests) > 1:
            raise interruption.Interrupted(number)
        search.stop("interrupted")
        progress.note("interrupted: finishing this update; Ctrl-C again ends at once")

    with interruption.handled(handle):
        yield


def _sanitised(name: str) -> str:
    """A task's name as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "task"


def _refuse_existing(folder: Path, directory: Path) -> None:
    try:
        journal.refuse_existing(folder)
    except FileExistsError as error:
        remedy = "Give another folder with --out"
        if (folder / reader.DATABASE).exists():
            remedy += f", or remove the run: rm -r {shared.shown(folder, directory)}"
        raise FileExistsError(f"{error}\n{remedy}.") from None


def _advice(result: Plain, folder: str) -> list[str]:
    """What to try if the criterion was not met."""
    if result["solved"] is not False or result["reason"] == "interrupted":
        return []
    budget = Budget.parse(result["budget"])
    twice = Budget(2 * budget.amount, budget.unit)
    return [f"to get there: policysearch resume {folder} --budget {twice}, or another --seed"]


def _block(result: Plain, directory: Path) -> str:
    """The result for people to read."""
    from policysearch.search.progress import duration

    counts = ", ".join(f"{count} {purpose}" for purpose, count in result["counts"].items() if count)
    folder, plural = shared.shown(result["folder"], directory), "s" * (result["updates"] != 1)
    return "\n".join(
        [
            *shared.outcome(result),
            f"{result['updates']} update{plural} in {duration(result['seconds'])}, {result['reason']}",
            f"rollouts: {counts}",
            f"saved: {folder}/policy.safetensors, with curve.png, metrics.csv, config.json, run.sqlite",
            f"next: policysearch {'resume' if result['reason'] == 'interrupted' else 'evaluate'} {folder}",
            *_advice(result, folder),
            f"all of it on one page: policysearch report {folder}",
        ]
    )
