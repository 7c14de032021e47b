"""What a report is made of: a run as read from its folder, as far as it is intact, and what is missing. No JAX."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from policysearch.core.controller import Controller
from policysearch.core.plain import Plain
from policysearch.report.learning import Final
from policysearch.runs import renamed
from policysearch.runs.lock import owner
from policysearch.runs.reader import CONFIGURATION, DATABASE, METRICS, BeingMadeError, Run, find, load_policy, open_run
from policysearch.search.progress import duration, quantity
from policysearch.tasks import BUILT_IN


class Material(NamedTuple):
    """A run; its policy or None; what is missing or damaged, in sentences; whether a process is writing it.

    whole: the database could be read; else only the contents of config.json and metrics.csv are known.
    """

    run: Run
    controller: Controller | None
    missing: list[str]
    goes_on: bool
    whole: bool

    @property
    def task(self) -> str:
        """Its name, as far as known."""
        known = self.run.configuration
        name = known.get("task") or self.run.result.get("task")
        return str(name) if name else "a Python object" if known else "unknown task"

    @property
    def rig(self) -> bool:
        """Whether its trials are run by a caller, with ask and tell."""
        return "trials" in self.run.configuration

    @property
    def noun(self) -> str:
        """What its user reads: "return" or "cost"."""
        if self.run.result.get("return_mean") is not None:
            return "return"
        return "return" if any("return" in record for record in self.run.records[:1]) else "cost"

    @property
    def name(self) -> str:
        """Task, method and seed."""
        known = self.run.configuration
        return f"{self.task}, {known.get('method', 'unknown method')}, seed {known.get('seed', 'unknown')}"

    @property
    def final(self) -> Final | None:
        """The final policy's mean on fresh seeds with its standard error, in the unit of `noun`; None if not known."""
        result = self.run.result
        mean = number(result.get(f"{self.noun}_mean"))
        return Final(mean, number(result.get(f"{self.noun}_sem"))) if math.isfinite(mean) else None

    def final_words(self) -> str:
        """The same for people to read."""
        return "–" if self.final is None else quantity(*self.final)

    def seconds(self) -> str:
        """The duration, in words."""
        seconds = number(self.run.result.get("seconds"))
        if not math.isfinite(seconds) and self.run.records:
            seconds = number(self.run.records[-1].get("seconds"))
        return duration(seconds) if math.isfinite(seconds) else "–"

    def counts(self) -> str:
        """Rollouts by purpose, in words."""
        counts = self.run.result.get("counts") or self.run.counts.get("counts") or {}
        if not counts and self.run.records:
            records = self.run.records
            counts = {"in all": number(records[-1].get("rollouts"))}
            for name in ("failed", "lost"):
                counts[name] = sum(count for r in records if math.isfinite(count := number(r.get(name))))
        named = [f"{number(count):.0f} {name}" for name, count in counts.items() if count or name in ("failed", "lost")]
        return ", ".join(named) or "none"

    def solved(self) -> str:
        """Whether the task counts as solved, with its criterion, in words."""
        result, task = self.run.result, self.run.configuration.get("task")
        solved, share = result.get("solved"), result.get("success_share")
        if solved is None:
            return "the task has no criterion"
        built_in = BUILT_IN[task].solved if isinstance(task, str) and task in BUILT_IN else ""
        seen = "" if share is None else f"; here {100 * number(share):.0f} %"
        return f"{'yes' if solved else 'no'}: {result.get('criterion') or built_in or 'by its criterion'}{seen}"

    def state(self) -> str:
        """How the run ended, in words."""
        if self.run.result:
            return str(self.run.result.get("reason", "finished"))
        if self.run.halted:
            return f"waits: {self.run.halted}"
        if self.goes_on:
            return "still running"
        if self.rig:
            return "open: trials can be asked for"
        if not self.whole:
            return "unknown"
        return "without a result: killed, or interrupted twice"


def number(value: object) -> float:
    """A number as it is, NaN for anything else."""
    return float(value) if isinstance(value, (int, float)) else math.nan


def gather(folder: str | os.PathLike[str]) -> Material:
    """Read what there is of a run, even a damaged, unfinished or killed one; nothing is written.

    Args:
        folder: of the run.

    Returns:
        The run, with whatever could not be read named in `missing`.

    Raises:
        FileNotFoundError: no such folder, or nothing of a run in it, or not yet: see `BeingMadeError`.
    """
    folder = Path(folder)
    missing: list[str] = []
    whole = True
    try:
        run = open_run(folder)
    except BeingMadeError:
        raise
    except FileNotFoundError:
        if not folder.is_dir() or not (folder / CONFIGURATION).is_file():
            find(folder)
            raise
        missing.append(f"{DATABASE} is missing, so only {CONFIGURATION} and {METRICS} are known of this run.")
        run, whole = _from_files(folder, missing), False
    except (ValueError, OSError) as error:
        missing.append(f"{DATABASE} cannot be read, so what follows comes from {CONFIGURATION} and {METRICS}: {error}")
        run, whole = _from_files(folder, missing), False
    controller = None
    try:
        controller = load_policy(folder)
    except FileNotFoundError:
        missing.append("There is no policy file: it is written when a search ends or is interrupted.")
    except (ValueError, OSError) as error:
        missing.append(f"The policy cannot be read: {error}")
    return Material(run, controller, missing, owner(folder) is not None, whole)


def _from_files(folder: Path, missing: list[str]) -> Run:
    """A run from the files beside its database."""
    configuration: Plain = {}
    try:
        found = msgspec.json.decode((folder / CONFIGURATION).read_bytes())
        configuration = renamed.configuration(found) if isinstance(found, dict) else {}
    except (OSError, msgspec.DecodeError) as error:
        missing.append(f"{CONFIGURATION} cannot be read: {error}")
    records: list[Plain] = []
    try:
        with (folder / METRICS).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                records.append({name: _number(text) for name, text in row.items() if isinstance(name, str)})
    except (OSError, ValueError, csv.Error) as error:
        missing.append(f"{METRICS} cannot be read to its end: {error}")
    return Run(folder, configuration, records, {})


def _number(text: str | None) -> float:
    try:
        return math.nan if text is None else float(text)
    except ValueError:
        return math.nan
