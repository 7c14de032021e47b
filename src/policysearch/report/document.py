"""`write`: the report of one run, or of several beside each other, as one HTML page.

It is made from what is there; what is missing or damaged is said. JAX is imported only where a task needs it.
"""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from policysearch.evaluation import QUANTILES
from policysearch.progress import duration, quantity
from policysearch.report import learning, motion, player, policy, provenance, traces, trials
from policysearch.report.learning import Final
from policysearch.report.material import Material, gather
from policysearch.report.page import Page
from policysearch.tasks import BUILT_IN

#: rollouts that are shown, and frames of all films together
ROLLOUTS, FRAMES = 5, 150
#: events that are listed
LAST = 20
Load = Callable[[Any], Any]


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
        folders: of one or more runs, even damaged ones or those that go on.
        out: the file; report.html in the first folder by default. An older file is replaced when the new one is
            complete.
        load: gives the task of a `Run`, or raises.
        rollouts: how many evaluation rollouts are run and shown; 0 for none, which runs no code of the task.
        progress: called with what is done now, in words.

    Returns:
        The file.

    Raises:
        FileNotFoundError: a folder is missing or holds nothing of a run.
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
        page = Page(f"{len(materials)} runs", "Results, curves over each other, then each run by itself")
        _together(page, dict(zip(labels, materials, strict=True)))
    for label, material in zip(labels, materials, strict=True):
        if len(materials) > 1:
            page.section(f"{label}: {material.name}")
        progress(f"{label}: {material.name}")
        _Chapter(page, material, 2 if len(materials) == 1 else 3, load, rollouts, frames, progress).add()
    return page.write(path)


def _labels(folders: Sequence[Path]) -> list[str]:
    """Short names that differ."""
    names = [folder.resolve().name for folder in folders]
    return [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]


def _together(page: Page, materials: Mapping[str, Material]) -> None:
    """A table of results, and the curves of the runs of each task over each other."""
    page.section("Results")
    head = ["run", "task", "method", "seed", "cost or return", "solved", "updates", "rollouts", "time", "ended"]
    rows = []
    for label, material in materials.items():
        known, result, records = material.run.configuration, material.run.result, material.run.records
        solved = {True: "yes", False: "no", None: "–"}[result.get("solved")]
        rows.append(
            [
                label,
                material.task,
                str(known.get("method", "–")),
                str(known.get("seed", "–")),
                _final_words(material),
                solved,
                str(result.get("updates", len(records))),
                f"{learning.column(records, 'rollouts')[-1]:.0f}" if records else "0",
                _seconds(material),
                material.state(),
            ]
        )
    page.table(
        head, rows, "Final policies on fresh seeds: mean ± standard error; costs are better small, returns large."
    )
    tasks = dict.fromkeys((str(m.run.configuration.get("task")), m.noun) for m in materials.values())
    page.section("Curves over each other")
    drawn = []
    for task, noun in tasks:
        chosen = {n: m for n, m in materials.items() if (str(m.run.configuration.get("task")), m.noun) == (task, noun)}
        finals = {name: final for name, m in chosen.items() if (final := _final(m)) is not None}
        if len(tasks) > 1:
            page.section(task, 3)
        drawn = learning.figures({n: m.run.records for n, m in chosen.items()}, noun, finals)
        for each in drawn:
            page.figure(*each)
        if not drawn:
            page.note("None of these runs has made an update.")


class _Chapter:
    """What a report says of one run."""

    def __init__(
        self,
        page: Page,
        material: Material,
        level: int,
        load: Load,
        rollouts: int,
        frames: int,
        progress: Callable[[str], None],
    ):
        self.page, self.material, self.run, self.level = page, material, material.run, level
        self.load, self.rollouts, self.frames, self.progress = load, rollouts, frames, progress
        self.task: Any = None
        self.why_no_task = ""

    def add(self) -> None:
        """Add all sections."""
        if self.material.rig:
            middle = {"Trials": lambda: trials.describe(self.page, self.run)}
            end: dict[str, Callable[[], None]] = {}
        else:
            self._load()
            middle, end = {}, {"Rollouts": self._motion}
        if self.run.events:
            end["What went wrong"] = self._events
        parts: dict[str, Callable[[], None]] = {
            "Result": self._result,
            "Learning": self._learning,
            **middle,
            "Final policy" if self.run.result else "Policy so far": self._policy,
            **end,
            "Settings": lambda: provenance.settings(self.page, self.run.configuration),
            "Where it comes from": lambda: provenance.origin(self.page, self.run.configuration),
        }
        for heading, part in parts.items():
            self.page.section(heading, self.level)
            try:
                part()
            except Exception as error:  # a folder that others wrote may hold anything
                self.page.note(f"The rest of this section cannot be shown: {_words(error)}")
                self.progress(f"{heading}: {_words(error)}")

    def _result(self) -> None:
        material, result = self.material, self.run.result
        for sentence in material.missing:
            self.page.note(sentence)
        if material.goes_on:
            self.page.note("The run went on while this report was made; it shows what was on disk then.")
        elif not result and not material.rig and material.whole:
            self.page.note("The run has no result: it did not come to its evaluation.")
        known = self.run.configuration
        facts: dict[str, object] = {}
        if result:
            count = result.get("rollouts")
            where = "on 1 fresh seed" if count == 1 else f"on {count} fresh seeds, ± standard error"
            facts[f"Final {material.noun} {where}"] = _final_words(material)
            facts["Solved"] = _solved(material)
        elif self.run.records:
            last = self.run.records[-1]
            facts[f"Last {material.noun} while exploring, ± standard error"] = quantity(
                _number(last.get(material.noun)), _number(last.get(f"{material.noun}_sem"))
            )
        measured = [record for record in self.run.records if math.isfinite(_number(record.get("incumbent")))]
        if measured:
            best, error = (_number(measured[-1].get(name)) for name in ("incumbent", "incumbent_error"))
            facts[f"Best measured cost, after update {_number(measured[-1].get('incumbent_update')):.0f}"] = quantity(
                best, error
            )
        facts |= {
            "Ended" if result else "State": material.state(),
            "Rollouts": _counts(material),
            "Updates": result.get("updates", len(self.run.records)),
            "Budget": known.get("budget") or "unknown",
            "Time": _seconds(material),
            "Task": material.task,
            "Method": known.get("method", "unknown"),
            "Seed": known.get("seed", "unknown"),
        }
        self.page.facts(facts)
        quantiles, length = result.get("quantiles"), result.get("length")
        if isinstance(quantiles, dict) and _number(result.get("rollouts")) > 1:
            head = [f"{100 * share:g} %" if name[0] == "q" else name for name, share in QUANTILES.items()]
            cells = [f"{_number(quantiles.get(name)):.4g}" for name in QUANTILES]
            caption = f"How the rollouts on fresh seeds differ: quantiles of the {material.noun}."
            if length and length.get("min") != length.get("max"):
                caption += f" They last {length['min']} to {length['max']} stages, {length['mean']:.4g} on average."
            self.page.table(["", *head], [[material.noun, *cells]], caption)

    def _learning(self) -> None:
        final = _final(self.material)
        label = self.run.folder.resolve().name
        drawn = learning.figures({label: self.run.records}, self.material.noun, {label: final} if final else {})
        for each in drawn:
            self.page.figure(*each)
        if not drawn:
            self.page.text("No update was made, so there is nothing to draw.")
            return
        troubles = {
            "skipped": "updates changed nothing, because nothing usable came back",
            "limited": "updates were shortened to the largest step allowed",
            "fallback": "updates followed the plain gradient, because their own direction could not be found",
        }
        for name, words in troubles.items():
            count = sum(1 for record in self.run.records if _number(record.get(name)) > 0)
            if count:
                self.page.text(f"{count} {words}.")

    def _load(self) -> None:
        if not self.run.configuration:
            self.why_no_task = "It is not known which task this was, so no rollouts are shown."
            return
        try:
            self.task = self.load(self.run)
        except (Exception, SystemExit) as error:  # the task's own code may do anything
            self.why_no_task = f"The task cannot be built here ({_words(error)}), so no rollouts are shown."

    def _policy(self) -> None:
        controller = self.material.controller
        if controller is None:
            self.page.text("No policy can be shown; see above.")
            return
        specification = getattr(self.task, "specification", None)
        observations = getattr(specification, "observation_names", ())
        actions = getattr(specification, "action_names", ())
        if self.material.rig:
            plain = self.run.configuration.get("specification") or {}
            observations, actions = plain.get("observation_names", ()), plain.get("action_names", ())
        policy.describe(self.page, controller, observations, actions, _best_gain(self.task, controller))

    def _motion(self) -> None:
        controller = self.material.controller
        if self.why_no_task:
            self.page.note(self.why_no_task)
            return
        if controller is None or not self.rollouts:
            self.page.text("No rollouts were run for this report." if controller else "There is no policy to run.")
            return
        if self.task.specification.action is None or self.task.specification.horizon < 2:
            self.page.text("Nothing moves in this task: a policy is a choice, or a set of numbers that has a cost.")
            return
        self.progress(f"running {self.rollouts} rollouts")
        seed = self.run.configuration.get("seed", 0)
        try:
            recorded = motion.record(self.task, controller, self.rollouts, seed, self.frames)
        except (Exception, SystemExit) as error:
            self.page.note(f"The rollouts could not be run: {_words(error)}")
            return
        count = len(recorded.rollouts)
        how = f"The first {count} rollouts" if count > 1 else "The first rollout"
        self.page.text(f"{how} of an evaluation with seed {seed}: fresh starts, the policy's mode, no exploration.")
        for index, rollout in enumerate(recorded.rollouts, 1):
            if rollout.reason:
                self.page.note(f"Rollout {index} failed: {rollout.reason}.")
        self.progress("drawing")
        if recorded.film is not None:
            self._film(recorded)
        elif recorded.missing:
            self.page.note(f"There are no pictures of the motion: {recorded.missing}")
        if recorded.more:
            self.page.text(f"{recorded.more} more quantities or actions are not drawn.")
        for each in traces.figures(recorded):
            self.page.figure(*each)

    def _film(self, recorded: motion.Recorded) -> None:
        film, dt = recorded.film, recorded.specification.dt
        assert film is not None
        stages = len(recorded.rollouts[0].costs)
        long = f"{stages} stages" if dt is None else f"{stages * dt:.4g} s"
        speed = ""
        if dt is not None:
            factor = stages * dt * film.rate / max(len(film.frames) - 1, 1)
            speed = ", in real time" if abs(factor - 1) < 0.1 else f", {factor:.3g} times as fast as in reality"
        first = traces.figures(recorded)[0].alt
        alt = f"{recorded.specification.name} in motion for {long}. {first}"
        caption = f"Rollout 1 in motion, {long}{speed}. Space plays and pauses; arrow keys move frame by frame."
        player.add(self.page, film, alt, caption)

    def _events(self) -> None:
        events = self.run.events
        rows = [
            [
                str(event.get("update", "")),
                str(event.get("trial", "")),
                str(event.get("kind", "")),
                str(event.get("reason", "")),
            ]
            for event in events[-LAST:]
        ]
        caption = f"{len(events)} events with trials" + (f"; the last {LAST}." if len(events) > LAST else ".")
        self.page.table(["update", "trial", "what", "reason"], rows, caption)


def _best_gain(task: Any, controller: Any) -> tuple[str, Any] | None:
    """The best gain matrix, where the task is a linear plant with a closed form; what it is, and what it costs."""
    if controller.policy != "linear_gaussian" or not hasattr(task, "best_gain"):
        return None
    try:
        gain, cost = task.best_gain()
        own = task.expected_cost(*_gain_and_bias(controller))
    except ValueError:  # a plant with limits has none
        return None
    words = f"The best time-invariant LQR gain for this horizon, start and noise. Its expected cost is {cost:.5g}"
    return f"{words}; that of the found gain is {own:.5g} (both in closed form).", gain


def _gain_and_bias(controller: Any) -> tuple[Any, float, Any]:
    gain, offset = policy.physical_gain(controller)
    return gain, 0.0, offset


def _final(material: Material) -> Final | None:
    noun, result = material.noun, material.run.result
    mean = _number(result.get(f"{noun}_mean"))
    return Final(mean, _number(result.get(f"{noun}_sem"))) if math.isfinite(mean) else None


def _final_words(material: Material) -> str:
    final = _final(material)
    return "–" if final is None else quantity(*final)


def _solved(material: Material) -> str:
    result, task = material.run.result, material.run.configuration.get("task")
    solved = result.get("solved")
    criterion = result.get("criterion") or (BUILT_IN[task].solved if task in BUILT_IN else "by the task's criterion")
    if solved is None:
        return "the task has no criterion"
    share = result.get("success_share")
    seen = "" if share is None else f"; here {100 * _number(share):.0f} %"
    return f"{'yes' if solved else 'no'}: {criterion}{seen}"


def _counts(material: Material) -> str:
    counts = material.run.result.get("counts") or material.run.counts.get("counts") or {}
    if not counts and material.run.records:
        records = material.run.records
        counts = {"in all": _number(records[-1].get("rollouts"))}
        counts |= {name: float(sum(_number(r.get(name)) or 0 for r in records)) for name in ("failed", "lost")}
    troubles = ("failed", "lost")
    named = [f"{_number(count):.0f} {purpose}" for purpose, count in counts.items() if count or purpose in troubles]
    return ", ".join(named) or "none"


def _seconds(material: Material) -> str:
    seconds = _number(material.run.result.get("seconds"))
    if not math.isfinite(seconds) and material.run.records:
        seconds = _number(material.run.records[-1].get("seconds"))
    return duration(seconds) if math.isfinite(seconds) else "–"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _words(error: BaseException) -> str:
    """An error in one line."""
    return " ".join("".join(traceback.format_exception_only(error)).split())
