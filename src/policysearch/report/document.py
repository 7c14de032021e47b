"""`write`: the report of one run, or of several side by side, as one HTML page.

It is made from what is there and names what is missing or damaged. JAX is imported only where a task needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from policysearch.report import learning, style
from policysearch.report.chapter import Chapter, Load
from policysearch.report.material import Material, gather
from policysearch.report.page import Page

#: rollouts shown, and frames of all films together
ROLLOUTS, FRAMES = 5, 150


def write(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    *,
    load: Load,
    rollouts: int = ROLLOUTS,
    progress: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write a report.

    Args:
        folders: of one or more runs, even damaged or unfinished ones.
        out: the file; report.html in the first folder by default. An older file is replaced when the new one is
            complete.
        load: gives the task of a `Run`, or raises an error.
        rollouts: how many evaluation rollouts to run and show; 0 runs none of the task's code.
        progress: called with what is being done, in words.

    Returns:
        The file.

    Raises:
        FileNotFoundError: a folder is missing or holds no part of a run.
        ValueError: no folder, or fewer than 0 rollouts.
    """
    if not folders:
        raise ValueError("report what? Give the folder of a run.")
    if rollouts < 0:
        raise ValueError(f"rollouts is {rollouts}; show at least 0.")
    materials = [gather(folder) for folder in folders]
    labels = _labels([material.run.folder for material in materials])
    path = Path(folders[0], "report.html") if out is None else Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = max(20, FRAMES // len(materials))
    if len(materials) == 1:
        page = Page(materials[0].name, f"Report of {materials[0].run.folder}")
    else:
        page = Page(f"{len(materials)} runs", "Results, overlaid curves, then each run by itself")
        _together(page, dict(zip(labels, materials, strict=True)))
    for label, material in zip(labels, materials, strict=True):
        if len(materials) > 1:
            page.section(f"{label}: {material.name}")
        progress(f"{label}: {material.name}")
        Chapter(page, material, 2 if len(materials) == 1 else 3, load, rollouts, frames, progress).add()
    return page.write(path)


def _labels(folders: Sequence[Path]) -> list[str]:
    """Short names that differ, even in figures."""
    names = [folder.resolve().name for folder in folders]
    full = [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]
    return style.distinct(full)


def _together(page: Page, materials: Mapping[str, Material]) -> None:
    """A table of results, and for each task the curves of its runs, overlaid."""
    page.section("Results")
    head = ["run", "task", "method", "seed", "cost or return", "solved", "updates", "rollouts", "time", "ended"]
    rows = []
    for label, material in materials.items():
        known, result, records = material.run.configuration, material.run.result, material.run.records
        solved = result.get("solved")
        rows.append(
            [
                label,
                material.task,
                str(known.get("method", "–")),
                str(known.get("seed", "–")),
                material.final_words(),
                "yes" if solved is True else "no" if solved is False else "–",
                str(result.get("updates", len(records))),
                f"{learning.column(records, 'rollouts')[-1]:.0f}" if records else "0",
                material.seconds(),
                material.state(),
            ]
        )
    page.table(
        head, rows, "Final policies on fresh seeds: mean ± standard error; lower costs and higher returns are better."
    )
    tasks = dict.fromkeys((str(m.run.configuration.get("task")), m.noun) for m in materials.values())
    page.section("Overlaid curves")
    drawn = []
    for task, noun in tasks:
        chosen = {n: m for n, m in materials.items() if (str(m.run.configuration.get("task")), m.noun) == (task, noun)}
        finals = {name: final for name, m in chosen.items() if (final := m.final) is not None}
        if len(tasks) > 1:
            page.section(task, 3)
        drawn = learning.figures({n: m.run.records for n, m in chosen.items()}, noun, finals)
        for each in drawn:
            page.figure(*each)
        if not drawn:
            page.note("None of these runs has made an update yet.")
