"""`Chapter`: what a report says about one run, section by section. JAX is imported only where a task needs it.

A section that cannot be made says so and does not affect the others.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from policysearch.core.interface import Interface
from policysearch.core.settings import Budget
from policysearch.core.specification import Specification
from policysearch.report import learning, motion, player, policy, provenance, traces, trials
from policysearch.report.material import Material, number
from policysearch.report.page import Page
from policysearch.search.evaluation import QUANTILES
from policysearch.search.progress import quantity

if TYPE_CHECKING:
    import numpy as np

    from policysearch.core.controller import Controller
    from policysearch.runs.reader import Run
    from policysearch.tasks import AnyTask


#: events that are listed
LAST = 20
#: gives the task of a `Run`, or raises
Load: TypeAlias = "Callable[[Run], AnyTask]"


class Chapter:
    """What a report says about one run.

    Args:
        page: to add to.
        material: the run.
        level: of its sections, 2 or 3.
        load: gives its task, or raises an error.
        rollouts: how many to run and show.
        frames: of the film, at most.
        progress: called with what is being done, in words.
    """

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
            except Exception as error:  # a folder written elsewhere may hold anything
                self.page.note(f"The rest of this section cannot be shown: {_words(error)}")
                self.progress(f"{heading}: {_words(error)}")

    def _result(self) -> None:
        material, result = self.material, self.run.result
        for sentence in material.missing:
            self.page.note(sentence)
        if material.goes_on:
            self.page.note("The run was still in progress; this report shows what was on disk at the time.")
        elif not result and not material.rig and material.whole:
            self.page.note("The run has no result, because it did not reach its evaluation.")
        known = self.run.configuration
        facts: dict[str, object] = {}
        if result:
            count = result.get("rollouts")
            where = "on 1 fresh seed" if count == 1 else f"on {count} fresh seeds, ± standard error"
            facts[f"Final {material.noun} {where}"] = material.final_words()
            facts["Solved"] = material.solved()
        elif self.run.records:
            last = self.run.records[-1]
            facts[f"Last {material.noun} while exploring, ± standard error"] = quantity(
                number(last.get(material.noun)), number(last.get(f"{material.noun}_sem"))
            )
        measured = [record for record in self.run.records if math.isfinite(number(record.get("incumbent")))]
        if measured:
            best, error = (number(measured[-1].get(name)) for name in ("incumbent", "incumbent_error"))
            facts[f"Best measured cost, after update {number(measured[-1].get('incumbent_update')):.0f}"] = quantity(
                best, error
            )
        facts |= {
            "Ended" if result else "State": material.state(),
            "Rollouts": material.counts(),
            "Updates": result.get("updates", len(self.run.records)),
            "Budget": _budget(known.get("budget")),
            "Time": material.seconds(),
            "Task": material.task,
            "Method": known.get("method", "unknown"),
            "Seed": known.get("seed", "unknown"),
        }
        self.page.facts(facts)
        quantiles, length = result.get("quantiles"), result.get("length")
        if isinstance(quantiles, dict) and number(result.get("rollouts")) > 1:
            head = [f"{100 * share:g} %" if name[0] == "q" else name for name, share in QUANTILES.items()]
            cells = [f"{number(quantiles.get(name)):.4g}" for name in QUANTILES]
            caption = f"Spread of the rollouts on fresh seeds: quantiles of the {material.noun}."
            if length and length.get("min") != length.get("max"):
                caption += f" They last {length['min']} to {length['max']} stages, {length['mean']:.4g} on average."
            self.page.table(["", *head], [[material.noun, *cells]], caption)

    def _learning(self) -> None:
        final = self.material.final
        label = self.run.folder.resolve().name
        drawn = learning.figures({label: self.run.records}, self.material.noun, {label: final} if final else {})
        for each in drawn:
            self.page.figure(*each)
        if not drawn:
            self.page.text("No update was made, so there is nothing to draw.")
            return
        troubles = {
            "skipped": "updates changed nothing, because there were no usable results",
            "limited": "updates were shortened to the largest step allowed",
            "fallback": "updates followed the plain gradient, because their own direction could not be found",
        }
        for name, words in troubles.items():
            count = sum(1 for record in self.run.records if number(record.get(name)) > 0)
            if count:
                self.page.text(f"{count} {words}.")

    def _load(self) -> None:
        if not self.run.configuration:
            self.why_no_task = "The task of this run is unknown, so no rollouts are shown."
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
        if controller.interface == Interface():  # its file is of an older version, which recorded none
            plain = self.run.configuration.get("specification") if self.material.rig else None
            task = Specification.from_plain(plain) if plain else getattr(self.task, "specification", None)
            if task is not None and task.action is not None:
                controller = controller.with_interface(task.interface)
        policy.describe(self.page, controller, _regulator(self.task, controller))

    def _motion(self) -> None:
        controller = self.material.controller
        if self.why_no_task:
            self.page.note(self.why_no_task)
            return
        if controller is None or not self.rollouts:
            self.page.text("No rollouts were run for this report." if controller else "There is no policy to run.")
            return
        if self.task.specification.action is None or self.task.specification.horizon < 2:
            self.page.text("Nothing moves in this task: a policy is a choice, or a set of numbers with a cost.")
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
            self.page.text(f"{recorded.more} further quantities or actions are not shown.")
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
            speed = ", in real time" if abs(factor - 1) < 0.1 else f", {factor:.3g} times real time"
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
        caption = f"{len(events)} events concerning trials" + (f"; the last {LAST}." if len(events) > LAST else ".")
        self.page.table(["update", "trial", "what", "reason"], rows, caption)


def _regulator(task: Any, controller: Controller) -> tuple[str, np.ndarray] | None:
    """The LQR gain to compare a gain matrix with, if the task has one: what it is, and the matrix."""
    if controller.policy != "linear_gaussian" or not hasattr(task, "equilibrium"):
        return None
    from policysearch.tasks.regulator import lqr

    policy = lqr(task)
    if policy is None:
        return None
    gain = policy.physical_gain()[0]
    if not hasattr(task, "best_gain") or task.limited:
        return "The LQR gain at the equilibrium, from the plant's equations linearised there", gain
    own, cost = (task.expected_cost(*_gain_and_bias(c)) for c in (controller, policy.controller()))
    words = f"The best time-invariant LQR gain for this horizon, start and noise. Its expected cost is {cost:.5g}"
    return f"{words}; that of the gain found is {own:.5g} (both in closed form).", gain


def _gain_and_bias(controller: Controller) -> tuple[np.ndarray, float, np.ndarray]:
    gain, offset = policy.physical_gain(controller)
    return gain, 0.0, offset


def _words(error: BaseException) -> str:
    """An error in one line."""
    return " ".join("".join(traceback.format_exception_only(error)).split())


def _budget(given: Any) -> str:
    """The budget in words, or what the file says in its place."""
    try:
        return Budget.parse(given).words
    except (ValueError, TypeError):
        return str(given or "unknown")
