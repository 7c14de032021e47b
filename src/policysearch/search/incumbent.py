"""`Measuring`: what the policy itself costs, measured every so many updates; the best one, the noise of a trial, drift.

The least of many noisy costs is mostly luck, and a rig of the afternoon is not that of the morning. So the best policy
so far (the incumbent) is measured again beside each new one, in the same minutes and on the same conditions, and these
trials alone decide: it gives way to one that costs less by more than the standard error of their difference.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from policysearch.core import controller_file
from policysearch.core.controller import Controller


class Measured(NamedTuple):
    """A policy and what it cost in its last measurement.

    update: after which it was the iterate. costs: of its trials then; infinite where it failed.
    """

    controller: Controller
    update: int
    costs: tuple[float, ...]

    @property
    def cost(self) -> float:
        """Mean cost of a trial."""
        return float(np.mean(self.costs)) if self.costs else math.inf

    @property
    def error(self) -> float:
        """Standard error of that mean; NaN of a single trial."""
        finite = len(self.costs) > 1 and math.isfinite(self.cost)
        return float(np.std(self.costs, ddof=1) / math.sqrt(len(self.costs))) if finite else math.nan


class Spread:
    """A variance pooled over batches, each about its own mean.

    Example:
        >>> spread = Spread()
        >>> for batch in ([1.0, 3.0], [11.0, 13.0], [5.0]):
        ...     spread.add(batch)
        >>> spread.std == math.sqrt(2)
        True
    """

    def __init__(self, squares: float = 0.0, freedom: int = 0):
        self.squares, self.freedom = squares, freedom

    def add(self, batch: Sequence[float]) -> None:
        """Take in a batch; one value alone says nothing."""
        if len(batch) > 1:
            self.squares += float(np.sum((np.asarray(batch) - np.mean(batch)) ** 2))
            self.freedom += len(batch) - 1

    @property
    def std(self) -> float:
        """Standard deviation; NaN before there is any."""
        return math.sqrt(self.squares / self.freedom) if self.freedom else math.nan


class Drift:
    """How much more a policy costs from one measurement to the next, where nothing but the rig has changed.

    The slope of lines through the mean costs of each incumbent, all with the same slope and each with its own height
    (least squares). Only measurements that it came through as the incumbent count: the luck that made it one, and the
    bad luck that ended it, would look like drift.
    """

    def __init__(self, product: float = 0.0, square: float = 0.0, points: Sequence[Sequence[float]] = ()):
        # of incumbents of before: Σ (k − k̄) cost and Σ (k − k̄)²; of the present one its points (k, mean cost)
        self.product, self.square = product, square
        self.points = [(float(k), float(cost)) for k, cost in points]

    def add(self, measurement: int, cost: float) -> None:
        """Take in a mean cost of the incumbent."""
        self.points.append((float(measurement), cost))

    def end(self) -> None:
        """Another policy is the incumbent from now on."""
        self.product, self.square = self._sums()
        self.points = []

    def _sums(self) -> tuple[float, float]:
        if len(self.points) < 2:
            return self.product, self.square
        k, cost = np.array(self.points).T
        apart = k - k.mean()
        return self.product + float(apart @ cost), self.square + float(apart @ apart)

    def slope(self, noise: float) -> tuple[float, float]:
        """Cost a measurement and its standard error, where a mean cost has this one; NaN before two measurements."""
        product, square = self._sums()
        return (product / square, noise / math.sqrt(square)) if square else (math.nan, math.nan)


class Measuring:
    """Measures the iterate every `every` updates by `trials` trials, and the incumbent by as many.

    Args:
        every: updates from one measurement to the next; the first is of the policy that the search starts from.
        trials: of each policy, at least 2.

    Raises:
        ValueError: numbers that mean nothing.
    """

    def __init__(self, every: int, trials: int):
        for name, value, least in (("every", every, 1), ("trials", trials, 2)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"measure: {name} is {value!r}; it must be a whole number, at least {least}.")
        self.every, self.trials = every, trials
        self.incumbent: Measured | None = None
        self._costs, self._differences, self._drift = Spread(), Spread(), Drift()
        self._count = 0

    @property
    def noise(self) -> float:
        """Standard deviation of the cost of one trial, pooled over all measurements; NaN before there are any."""
        return self._costs.std

    @property
    def drift(self) -> tuple[float, float]:
        """How much the cost of one policy rises from a measurement to the next, and its standard error."""
        return self._drift.slope(self.noise / math.sqrt(self.trials))

    def size(self, update: int) -> int:
        """Number of trials that measure in an update, counted from 0."""
        if update % self.every:
            return 0
        return self.trials * (1 if self.incumbent is None else 2)

    def due(self, update: int, current: Controller) -> list[Controller]:
        """A controller for each trial that measures in an update."""
        policies = [current] if self.incumbent is None else [current, self.incumbent.controller]
        return [policy for policy in policies for _ in range(self.trials)] if self.size(update) else []

    def take(self, measured: Sequence[Controller], costs: Sequence[float | None], update: int) -> dict[str, float]:
        """Learn from what the trials of `due` cost; returns what is worth reporting, by name.

        Args:
            measured: what `due` gave.
            costs: of its trials; None where the rig lost one.
            update: number of the update, counted from 0.
        """
        if not measured:
            return {}
        ours, theirs = costs[: self.trials], costs[self.trials :]
        for batch in (ours, theirs):
            self._costs.add([cost for cost in batch if cost is not None and math.isfinite(cost)])
        current = Measured(measured[0], update, tuple(cost for cost in ours if cost is not None))
        numbers = {"measured": current.cost, "measured_error": current.error, "noise": self.noise}
        known = None if self.incumbent is None else self._again(self.incumbent, theirs)
        if known is None:
            self._drift.end()
            self.incumbent = current if math.isfinite(current.cost) else None
        else:
            self.incumbent = known
            difference, error = self._difference(ours, theirs)
            numbers |= {"difference": difference, "difference_error": error}
            # where the current policy failed its cost is infinite
            if math.isfinite(current.cost) and difference < -error:
                self.incumbent = current
                self._drift.end()
            elif any(cost is not None for cost in theirs):
                self._drift.add(self._count, known.cost)
        self._count += 1
        drift, drift_error = self.drift
        numbers |= {"drift": drift, "drift_error": drift_error}
        if self.incumbent is not None:
            numbers |= {
                "incumbent": self.incumbent.cost,
                "incumbent_error": self.incumbent.error,
                "incumbent_update": float(self.incumbent.update),
            }
        return numbers

    def _again(self, known: Measured, costs: Sequence[float | None]) -> Measured | None:
        """The incumbent as it was measured again; None if it failed."""
        came = tuple(cost for cost in costs if cost is not None)
        if not came:
            return known  # the rig lost them all
        if not all(map(math.isfinite, came)):
            return None
        return known._replace(costs=came)

    def _difference(self, ours: Sequence[float | None], theirs: Sequence[float | None]) -> tuple[float, float]:
        """Mean cost of the current policy less that of the incumbent, over pairs of trials, and its standard error."""
        pairs = [a - b for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
        finite = [difference for difference in pairs if math.isfinite(difference)]
        self._differences.add(finite)
        if not pairs or not self._differences.freedom:
            return math.nan, math.nan
        return float(np.mean(pairs)), self._differences.std / math.sqrt(len(pairs))

    def plain(self) -> dict[str, Any]:
        """What must persist, as JSON-able values; the incumbent's policy is a row of its own."""
        known = self.incumbent
        return {
            "costs": [self._costs.squares, self._costs.freedom],
            "differences": [self._differences.squares, self._differences.freedom],
            "drift": [self._drift.product, self._drift.square, self._drift.points],
            "count": self._count,
            "incumbent": None if known is None else {"update": known.update, "costs": list(known.costs)},
        }

    def restore(self, plain: Mapping[str, Any], policy: tuple[int, bytes] | None, folder: Path) -> str:
        """Take over what `plain` gave.

        Args:
            plain: that.
            policy: the last incumbent's update and policy file, as the journal has them.
            folder: where its file is, in case the journal has none.

        Returns:
            "", or why the incumbent is lost.
        """
        self._costs, self._differences = Spread(*plain["costs"]), Spread(*plain["differences"])
        self._drift, self._count = Drift(*plain["drift"]), plain["count"]
        self.incumbent, known = None, plain["incumbent"]
        if known is None:
            return ""
        path = _path(folder, known["update"])
        try:
            if policy is not None and policy[0] == known["update"]:
                controller = Controller(*controller_file.parse(policy[1], "the incumbent in the journal"))
            else:
                controller = Controller.load(path)
        except (OSError, ValueError) as error:
            return f"the incumbent is lost and will be measured anew: {error}"
        self.incumbent = Measured(controller, known["update"], tuple(known["costs"]))
        return ""

    def save(self, folder: Path) -> None:
        """Write the incumbent's policy to a file, for readers, and remove those of earlier ones."""
        kept = None
        if self.incumbent is not None:
            kept = _path(folder, self.incumbent.update)
            if not kept.exists() or kept.read_bytes() != controller_file.content(self.incumbent.controller):
                self.incumbent.controller.save(kept)
        for path in folder.glob("incumbent-*.safetensors"):
            if path != kept:
                with contextlib.suppress(OSError):
                    path.unlink()


def _path(folder: Path, update: int) -> Path:
    return folder / f"incumbent-{update}.safetensors"
