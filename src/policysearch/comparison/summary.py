"""`Comparison`: the cells of a grid, and what follows from them: one row per method, curves, pairs, words. No JAX."""

from __future__ import annotations

import os
import statistics as plain
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from policysearch.comparison import cells as kept
from policysearch.comparison import statistics
from policysearch.comparison.cells import Cell
from policysearch.comparison.statistics import CURVE_RESAMPLES, Estimate
from policysearch.core.settings import Budget
from policysearch.core.specification import Specification

#: reasons for which a search ends normally
ORDERLY = ("budget spent", "ended by itself", "")


class Row(NamedTuple):
    """A method over its S seeds.

    Args:
        seeds: S. solved: how many met the criterion at the end; None without one. success: their share.
        median, iqm: of the final policy's cost (or return).
        reached: seeds that met the criterion at some point of their curve.
        rollouts, stages, seconds: median up to the first such point, over the seeds that reached it; None if none did.
        spent: median rollouts of a whole search. took: median seconds of it. failed: share of the trials
            of all seeds that failed.
    """

    method: str
    seeds: int
    solved: int | None
    success: Estimate | None
    median: float
    iqm: Estimate
    reached: int
    rollouts: float | None
    stages: float | None
    seconds: float | None
    spent: float
    took: float
    failed: float


class Curve(NamedTuple):
    """A method along its search, over seeds: P points; what each seed has spent, IQM of the value, its interval."""

    rollouts: np.ndarray
    seconds: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Methods on one task.

    Args:
        specification: of the task. budget: of each search. threshold: the one requested, or None.
        evaluation_rollouts: per point of a curve.
        methods: labels in the order given. cells: one per method and seed, in that order.
        baseline: name, mean and standard error of a controller without search, on the final evaluation seeds; None
            if the task has none.
    """

    specification: Specification
    budget: str
    threshold: float | None
    evaluation_rollouts: int
    methods: list[str]
    cells: list[Cell]
    baseline: tuple[str, float, float] | None = None

    @property
    def noun(self) -> str:
        """What users read: "cost" or "return"."""
        return self.specification.noun

    @property
    def criterion(self) -> str:
        """When a seed counts as solved, in words; "" without a criterion."""
        if self.threshold is not None:
            return f"mean {self.noun} {'at least' if self.specification.returns else 'at most'} {self.threshold:g}"
        return self.specification.solved

    @property
    def spent(self) -> str:
        """The budget in words."""
        return Budget.parse(self.budget).words

    def of(self, method: str) -> list[Cell]:
        """The cells of a method.

        Raises:
            KeyError: it did not take part.
        """
        if method not in self.methods:
            raise KeyError(f"{method!r} did not take part; {', '.join(self.methods)} did.")
        return [cell for cell in self.cells if cell.method == method]

    def values(self, method: str) -> np.ndarray:
        """Cost (or return) of each seed's last policy (S,), on seeds that no search and no curve has used.

        Infinitely bad if every rollout failed.
        """
        return np.array([self._value(cell.final.value) for cell in self.of(method)])

    def _value(self, value: float | None) -> float:
        worst = -np.inf if self.specification.returns else np.inf
        return worst if value is None else value

    def table(self) -> list[Row]:
        """One row per method, the best IQM first."""
        rows = [self._row(method) for method in self.methods]
        return sorted(rows, key=lambda row: -row.iqm.value if self.specification.returns else row.iqm.value)

    def _row(self, method: str) -> Row:
        cells = self.of(method)
        judged = [cell.final.solved for cell in cells if cell.final.solved is not None]
        reached = [point for cell in cells if (point := cell.reached) is not None]
        first = {
            name: plain.median(getattr(point, name) for point in reached) if reached else None
            for name in ("rollouts", "stages", "seconds")
        }
        values = self.values(method)
        return Row(
            method=method,
            seeds=len(cells),
            solved=sum(judged) if judged else None,
            success=statistics.success(sum(judged), len(judged)) if judged else None,
            median=float(np.median(values)),
            iqm=statistics.iqm_estimate(values),
            reached=len(reached),
            **first,
            spent=plain.median(cell.final.rollouts for cell in cells),
            took=plain.median(cell.final.seconds for cell in cells),
            failed=sum(cell.counts.get("failed", 0) for cell in cells) / max(1, sum(c.final.rollouts for c in cells)),
        )

    def improvement(self, first: str, second: str) -> Estimate:
        """P(a seed of the first ends better than one of the second), ties half, with its interval."""
        sign = -1 if self.specification.returns else 1
        return statistics.improvement(sign * self.values(first), sign * self.values(second))

    def curve(self, method: str) -> Curve:
        """IQM over seeds at each point; a seed whose search ended early stays where it ended."""
        cells = self.of(method)
        count = max(len(cell.curve) for cell in cells)
        padded = [[cell.curve[min(k, len(cell.curve) - 1)] for cell in cells] for k in range(count)]
        estimates = [
            statistics.iqm_estimate([self._value(point.value) for point in column], CURVE_RESAMPLES)
            for column in padded
        ]
        return Curve(
            rollouts=np.array([plain.median(point.rollouts for point in column) for column in padded]),
            seconds=np.array([plain.median(point.seconds for point in column) for column in padded]),
            value=np.array([estimate.value for estimate in estimates]),
            low=np.array([estimate.low for estimate in estimates]),
            high=np.array([estimate.high for estimate in estimates]),
        )

    def words(self) -> list[str]:
        """Which method is best, how certain that is, and what went wrong, in sentences."""
        rows = self.table()
        best = rows[0]
        if not np.isfinite(best.iqm.value):
            return ["No method ended with a policy that could be measured.", *self._early()]
        solved = "" if best.solved is None else f", solved by {best.solved} of {best.seeds} seeds"
        verb = "ends best" if len(rows) > 1 else "ends"
        sentences = [f"{best.method} {verb}: {self.noun} {interval(best.iqm)} (IQM){solved}."]
        for row in rows[1:]:
            chance = self.improvement(best.method, row.method)
            if chance.low > 0.5:
                sentences.append(f"It is better than {row.method} with P = {interval(chance, 2)}.")
            else:
                few = f"; {statistics.FEWEST} or more seeds would tell" if not np.isfinite(chance.low) else ""
                sentences.append(
                    f"These seeds do not distinguish it from {row.method}: P(better) = {interval(chance, 2)}{few}."
                )
        sure = [row for row in rows if row.reached == row.seeds]
        quick = min(sure, key=lambda row: row.rollouts or 0, default=None)
        if quick is not None and quick is not best:
            sentences.append(f"{quick.method} meets the criterion first: after {quick.rollouts:.0f} rollouts.")
        return sentences + self._early()

    def _early(self) -> list[str]:
        """Sentences about searches that ended before their budget, and about final policies that fail."""
        sentences = []
        for method in self.methods:
            cells = self.of(method)
            early = [cell for cell in cells if cell.reason not in ORDERLY]
            if early:
                spent = plain.median(cell.final.rollouts for cell in early)
                sentences.append(
                    f"{method}: {len(early)} of {len(cells)} searches ended early, after {spent:.0f} rollouts: "
                    f"{early[0].reason}."
                )
            failing = sum(cell.final.failed > 0 for cell in cells)
            if failing:
                most = max(cell.final.failed for cell in cells)
                sentences.append(
                    f"{method}: rollouts of the last policy fail with {failing} of {len(cells)} seeds, up to {most} in "
                    "an evaluation; each counts as the worst of the others."
                )
        return sentences


def interval(estimate: Estimate, places: int | None = None) -> str:
    """A number with its interval, as text, rounded to the interval's width.

    Example:
        >>> interval(Estimate(0.5, 0.25, 0.75), 2), interval(Estimate(70.22, 70.1, 70.4))
        ('0.50 (0.25 to 0.75)', '70.22 (70.10 to 70.40)')
    """
    if not np.isfinite(estimate.value):
        return "no policy to measure"
    known = bool(np.isfinite([estimate.low, estimate.high]).all())
    if places is None and known and estimate.high > estimate.low:
        places = int(np.clip(1 - np.floor(np.log10(estimate.high - estimate.low)), 0, 6))
    show = (lambda x: f"{x:.4g}") if places is None else (lambda x: f"{x:.{places}f}")
    return f"{show(estimate.value)} ({show(estimate.low)} to {show(estimate.high)})" if known else show(estimate.value)


def open_comparison(folder: str | os.PathLike[str]) -> Comparison:
    """Read a comparison from its folder, even an unfinished one.

    Args:
        folder: the one that `compare` was given.

    Raises:
        FileNotFoundError: no comparison, or one without a finished cell.
        ValueError: its description is damaged.
    """
    folder = Path(folder)
    content, cells = kept.configuration(folder), kept.read(folder)
    if not cells:
        raise FileNotFoundError(f"{folder} holds no finished search yet.")
    methods = [label for label in content["methods"] if any(method == label for method, _ in cells)]
    about = content["about"]
    baseline = about.get("baseline")
    return Comparison(
        specification=Specification.from_plain(about["specification"]),
        budget=about["budget"],
        threshold=content["conditions"]["threshold"],
        evaluation_rollouts=about["evaluation_rollouts"],
        methods=methods,
        cells=[cell for label in methods for (method, _), cell in sorted(cells.items()) if method == label],
        baseline=None if baseline is None else tuple(baseline),
    )
