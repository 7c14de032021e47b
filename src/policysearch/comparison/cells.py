"""Cells of a comparison, one search each, and the file that keeps them: one line of JSON per finished cell. No JAX.

A torn last line, from a process killed while writing, counts as not run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from policysearch.core import files
from policysearch.core.plain import Plain
from policysearch.core.settings import PolicySettings
from policysearch.runs import renamed

#: a field in the text of a struct
_SETTING = re.compile(r"\w+=(?:\([^)]*\)|[^,)]+)")
FILE, CONFIGURATION = "cells.jsonl", "comparison.json"


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """The policy itself, without exploration, at one moment of a search.

    Args:
        rollouts, stages: spent on the search so far; evaluations are not counted.
        seconds: of sampling and updating so far, without evaluations and without compilation of programs that several
            seeds share; if S seeds run together, 1/S of their total.
        value, error: mean cost on the comparison's evaluation seeds, or return for tasks with rewards, and its
            standard error. A failed rollout counts as the worst of the others; None if every one failed.
        failed: rollouts of the evaluation that failed.
        solved: by the task's own criterion, or by the requested threshold; None if there is neither.
    """

    rollouts: int
    stages: int
    seconds: float
    value: float | None
    error: float | None = None
    solved: bool | None = None
    failed: int = 0


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One search of a comparison.

    Args:
        method: label of the method. seed: of the search.
        curve: the policy during the search, with the first point before its first update.
        final: the policy at its end, on other fresh seeds.
        counts: rollouts by purpose. reason: why it ended.
        compilation: seconds of compilation for all seeds that ran together; 0 if it is part of the curve.
        together: how many seeds ran in one program.
    """

    method: str
    seed: int
    curve: list[Point]
    final: Point
    counts: dict[str, int]
    reason: str
    compilation: float = 0.0
    together: int = 1

    @property
    def reached(self) -> Point | None:
        """The first point at which the criterion is met, or None."""
        return next((point for point in self.curve if point.solved), None)


def read(folder: Path) -> dict[tuple[str, int], Cell]:
    """The finished cells of a folder by method and seed; a torn line is skipped."""
    path = folder / FILE
    found = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            cell = msgspec.json.decode(line, type=Cell)
        except msgspec.DecodeError:
            continue
        found[cell.method, cell.seed] = cell
    return found


def append(folder: Path, cells: Iterable[Cell]) -> None:
    """Add finished cells, and return when they are on disk."""
    path = folder / FILE
    torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("ab") as file:
        if torn:
            file.write(b"\n")
        for cell in cells:
            file.write(msgspec.json.encode(cell) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def configuration(folder: Path) -> Plain:
    """What `begin` kept of a comparison.

    Raises:
        FileNotFoundError: the folder holds no comparison.
        ValueError: it is damaged.
    """
    path = folder / CONFIGURATION
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no comparison ({CONFIGURATION} is missing).")
    try:
        content = msgspec.json.decode(path.read_bytes(), type=Plain)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is damaged: {error}.") from None
    for name in ("conditions", "methods", "about"):
        if not isinstance(content.get(name), dict):
            raise ValueError(f"{path} is damaged: it lacks {name}.")
    content["methods"] = {label: renamed.text(str(method)) for label, method in content["methods"].items()}
    about = content["about"]
    for name in ("settings", "chosen"):
        about[name] = {
            label: renamed.settings(values, "FiniteDifferences" in content["methods"].get(label, ""))
            if isinstance(values, dict)
            else values
            for label, values in about.get(name, {}).items()
        }
    return content


def _words(value: object) -> str:
    """A condition for people to read: only those settings of a policy that differ from the default."""
    if value in (None, "None"):
        return "by default"
    settings = _SETTING.findall(str(value)) if str(value).startswith("PolicySettings(") else []
    plain = _SETTING.findall(repr(PolicySettings()))
    return ", ".join(text.replace("=", " ").replace("'", "") for text in settings if text not in plain) or str(value)


def begin(folder: Path, conditions: Plain, methods: Mapping[str, str], about: Plain) -> dict[tuple[str, int], Cell]:
    """Make a folder for a comparison, or continue the one that it holds; its finished cells.

    Args:
        folder: made if it does not exist.
        conditions: what all cells have in common, JSON-able.
        methods: what each is, by label; they may differ from last time.
        about: what readers need besides the cells.

    Raises:
        ValueError: it holds a run, a comparison under other conditions, or another method under one of these labels.
    """
    from policysearch.runs.journal import provenance
    from policysearch.runs.reader import DATABASE

    path, known = folder / CONFIGURATION, dict(methods)
    if (folder / DATABASE).exists():
        raise ValueError(
            f"{folder} holds a run, whose report a comparison would overwrite: give another folder (--out)."
        )
    if path.exists():
        before = configuration(folder)
        then, known_before = before["conditions"], before["methods"]
        # what an older version did not record is not known to differ
        differing = [name for name, value in conditions.items() if name in then and then[name] != value]
        if differing:
            pairs = (
                f"{name.replace('_', ' ')} {_words(then[name])} there, {_words(conditions[name])} now"
                for name in differing
            )
            raise ValueError(
                f"{folder} holds a comparison under other conditions: {'; '.join(pairs)}. The searches of a folder are "
                "compared with each other, so they must share them: give another folder (--out) or the same conditions."
            )
        for label, method in methods.items():
            if known_before.get(label, method) != method:
                raise ValueError(
                    f"{folder} holds a different method {label!r} ({known_before[label]}); give this one another label."
                )
        known = {**known_before, **methods}
        # records of methods that do not take part this time are kept
        about = {n: {**before["about"].get(n, {}), **v} if isinstance(v, dict) else v for n, v in about.items()}
    folder.mkdir(parents=True, exist_ok=True)
    content = {"conditions": dict(conditions), "methods": known, "about": dict(about), **provenance()}
    # synced like the cells, which are worth nothing without it
    files.write(path, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n", sync=True)
    return read(folder)
