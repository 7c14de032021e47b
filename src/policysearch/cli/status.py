"""`policysearch status`: where a search on a rig stands, read without JAX and without owning its folder."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from policysearch.cli import shared
from policysearch.core.plain import Plain
from policysearch.runs.inbox import Inbox
from policysearch.runs.reader import Run, open_run

if TYPE_CHECKING:
    from policysearch.core.controller import Controller

_MEASURED = (
    *("measured", "measured_error", "incumbent", "incumbent_error", "incumbent_update", "noise"),
    *("difference", "difference_error", "drift", "drift_error"),
)


def main(given: list[str]) -> int:
    """`policysearch status`: trials, outcomes, parameters and costs so far; the exit code."""
    parser = shared.rig_parser("status", "Show where a search stands, even while it runs.")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    arguments = parser.parsed(given, shared.NO_LOG)
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
