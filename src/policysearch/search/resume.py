"""Searches that continue in another process: what they write first, and how they are rebuilt from it.

The folder holds names, numbers and arrays only; a method composed by hand is code, so it must be given again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import msgspec

from policysearch.core import controller_file
from policysearch.core.controller import Controller
from policysearch.core.identity import described, differences
from policysearch.core.initial import from_controller
from policysearch.core.method import Method
from policysearch.core.plain import Plain
from policysearch.core.policies import Policy
from policysearch.core.specification import Specification
from policysearch.methods.settings import METHODS, MethodSettings, method_settings, plain
from policysearch.runners import Resources
from policysearch.runs import journal, snapshots
from policysearch.runs.journal import Journal
from policysearch.runs.reader import Run
from policysearch.search import advice
from policysearch.search.loop import Loop
from policysearch.tasks import resolve
from policysearch.workers.jobs import Event

L = TypeVar("L", bound=Loop)

#: configuration of a run whose trials a caller runs; other runs are of simulated tasks
RIG = "rig"
#: number of differences between two methods that are named
MOST_NAMED = 4
COMPOSED = "composed"


def begin(search: Loop, folder: Path, configuration: dict[str, Any]) -> Journal:
    """Start the folder of a search.

    Args:
        search: before its first update.
        folder: new.
        configuration: all it takes to repeat the search: `of_rig`, `of_simulation`.

    Raises:
        FileExistsError: the folder already holds a run.
        ValueError: a policy that no file can hold.
    """
    return Journal(folder, configuration, start=start_of(search), keep=configuration.get("trials") == RIG)


def of_rig(search: Loop) -> dict[str, Any]:
    """The configuration of a search whose trials a caller runs."""
    measuring = search.measuring
    return {
        "trials": RIG,
        "task": search.specification.name,
        "specification": search.specification.plain(),
        "largest_step": search.largest_step,
        "measure": None if measuring is None else [measuring.every, measuring.trials],
        **_common(search),
    }


def of_simulation(search: Loop, resources: Resources, task: Any) -> dict[str, Any]:
    """The configuration of a search on a simulated task; `task` is its name, or what only Python code can give."""
    named = isinstance(task, str)
    return {
        "task": task if named else search.specification.name,
        # another process can make the task from its name
        "named": named,
        "task_options": {},
        **{name: getattr(resources, name) for name in ("workers", "timeout", "cluster")},
        # name → (start, stop) of what an environment's observations were flattened from
        "observation_layout": getattr(search.task, "observation_layout", {}),
        "fixed_actions": getattr(search.task, "fixed_actions", {}),
        "directory": os.getcwd(),
        **_common(search),
    }


def _common(search: Loop) -> dict[str, Any]:
    return {
        "method": search.method_name,
        "given": plain(search.given),
        "settings": search.settings,
        "parts": described(search.method),
        "budget": str(search.budget),
        "seed": search.seed,
        "failure_cost": search.failure_cost,
        **journal.provenance(),
    }


def start_of(search: Loop) -> tuple[bytes, bytes]:
    """The policy of a search before its first update as the bytes of a file, and its state.

    Raises:
        ValueError: a policy that is read back differently, such as a class of the user's own.
    """
    policy = search.policy
    data = controller_file.content(policy.controller())
    back, here = (str(jax.tree.structure(tree)) for tree in (_policy(data), policy))
    if back != here:
        raise ValueError(
            f"A {type(policy).__name__} policy cannot be read back from a file unchanged; leave folder= out, or "
            "use a policy of this package."
        )
    return data, snapshots.encode(search.state)


def reopened(
    kind: type[L], folder: Path, method: Method | None, budget: str | int | None, wait: float | None = None
) -> tuple[L, Journal, Run]:
    """The search of a rig in a folder with its parameters and counts; its open update is still to be restored.

    Raises:
        ValueError: see `Rig.open`.
    """
    writer, run = Journal.reopen(folder, wait)
    with _closed_on_error(writer):
        known = run.configuration
        if known.get("trials") != RIG:
            raise ValueError(
                f"{folder} holds the run of a simulated task. Continue it with: policysearch resume {folder}"
            )
        measure = known.get("measure")
        search = _rebuilt(
            kind,
            Specification.from_plain(known["specification"]),
            run,
            method,
            budget,
            largest_step=known.get("largest_step"),
            measure=measure,
        )
        if run.counts:
            # for a process killed between an update's row and its policy file, perhaps after the last update
            writer.save(search.policy.controller())
        if budget is not None:
            writer.amend({"budget": str(search.budget)})
    return search, writer, run


def continued(
    kind: type[L],
    folder: Path,
    task: Any,
    method: Method | None,
    budget: str | int | None,
    workers: int | None,
    cluster: str | None,
    programs: Path | None,
    make: Callable[[Plain], Any] | None = None,
) -> tuple[L, Journal]:
    """The search on a simulated task in a folder, where it ended; for the arguments see `Search.open`.

    Args:
        make: makes the task from the configuration, if `task` is None.

    Raises:
        ValueError: see `Search.open`.
    """
    writer, run = Journal.reopen(folder.absolute())  # code of the task may change the directory
    with _closed_on_error(writer):
        known = run.configuration
        if known.get("trials") == RIG:
            raise ValueError(f"{folder} holds the search of a rig: continue it with Rig.open({str(folder)!r}).")
        if "given" not in known:
            raise ValueError(f"{folder} has nothing to continue from; start a new search with --initial {folder}.")
        if task is None:
            if not known.get("named", True):
                raise ValueError(
                    f"{folder} was started from Python, with a task that only code can make. Give the same one: "
                    f"Search.open({str(folder)!r}, task)."
                )
            task = resolve(placed(known), **known["task_options"]) if make is None else make(known)
        search = _rebuilt(
            kind,
            task,
            run,
            method,
            budget,
            workers=known["workers"] if workers is None else workers,
            timeout=known["timeout"],
            programs=programs,
            cluster=cluster,
        )
        if budget is not None and not search.done:
            writer.amend({"budget": str(search.budget)})
    return search, writer


def placed(known: Plain) -> str:
    """The name of a configuration's task; the path of a file is relative to where the run was started."""
    file, colon, attribute = known["task"].rpartition(":")
    return str(Path(known["directory"], file)) + colon + attribute if file.endswith(".py") else known["task"]


def _rebuilt(kind: type[L], task: Any, run: Run, method: Method | None, budget: str | int | None, **more: Any) -> L:
    """A search built like a run's, and brought to where that one was."""
    known = run.configuration
    with advice.already_given():
        search = kind(
            task,
            given_method(known, method, run.folder),
            policy=start_policy(run),
            budget=known["budget"] if budget is None else budget,
            seed=known["seed"],
            failure_cost=known["failure_cost"],
            **more,
        )
    restore(search, run)
    return search


@contextlib.contextmanager
def _closed_on_error(writer: Journal) -> Iterator[None]:
    try:
        yield
    except BaseException:
        writer.close()
        raise


def restore(search: Loop, run: Run) -> None:
    """Bring a search that was built like a run's to where that one was.

    Raises:
        ValueError: they were not built alike.
    """
    if "parts" not in run.configuration:
        raise ValueError(f"{run.folder} is of an older version; start a new search with --initial {run.folder}.")
    changes = _changes(search, run.configuration)
    if changes:
        more = f", and {len(changes) - MOST_NAMED} more" if len(changes) > MOST_NAMED else ""
        raise ValueError(
            f"{run.folder} was started with another method: {', '.join(changes[:MOST_NAMED])}{more}. Continue with the "
            "same one."
        )
    if run.state is None and run.records:
        raise ValueError(f"{run.folder} has no snapshot to continue from; start again with --initial {run.folder}.")
    # before the first update the state is that of the newly built search
    state = search.state if run.state is None else snapshots.decode(run.state, search.state)
    if run.counts:
        search.restore(state, run.counts, run.records[: run.counts["updates"]])
        if search.measuring is not None:
            lost = search.measuring.restore(run.counts["measuring"], run.incumbent, run.folder)
            if lost:
                search.note(Event(-1, "incumbent", lost, "", 1))
    else:
        search.state = state


def _changes(search: Loop, known: dict[str, Any]) -> list[str]:
    """How the method of a search differs from the one in a configuration, in words: by its settings, or its parts."""
    if isinstance(search.given, Method):
        return differences(known["parts"], _as_read(described(search.method)))
    # an older version kept the given settings and the rule's choices for the rest, to seven digits
    before = known["given"] | known.get("chosen", known["settings"])
    names = plain(search.given)
    now = _as_read({name: _shortened(search.settings[name]) for name in names})
    return differences({name: _shortened(before.get(name)) for name in names}, now)


def _shortened(value: Any) -> Any:
    """A number with the digits that matter."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def start_policy(run: Run) -> Policy:
    """The policy that a run started from, with its kind and sizes; the values are in the snapshots.

    Raises:
        ValueError: the run has none, because an older version wrote it.
    """
    if run.start is None:
        raise ValueError(f"{run.folder} has nothing to continue from; start a new search with --initial {run.folder}.")
    return _policy(run.start)


def _policy(data: bytes) -> Policy:
    where = "the policy at the start of the run"
    return from_controller(Controller.of_content(controller_file.parse(data, where), where))


def given_method(known: dict[str, Any], method: Method | None, folder: Path) -> MethodSettings | Method:
    """The method that a configuration names, with the settings that were given; or the one composed by hand.

    Raises:
        ValueError: `method` is missing, or given though the configuration names one; or the name is unknown.
    """
    if (known["method"] == COMPOSED) != (method is not None):
        raise ValueError(
            f"{folder} was started with a method composed by hand; give the same one: open(folder, method=…)."
            if method is None
            else f"{folder} was started with {known['method']}; its settings are in the folder, leave method= out."
        )
    if method is not None:
        return method
    if known["method"] not in METHODS:
        raise ValueError(f"{folder} was started with {known['method']!r}, which this version does not know.")
    return method_settings(known["method"], known["given"])


def _as_read(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings after a round trip through JSON."""
    content: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(settings))
    return content
