"""`Measuring`: what the policy itself costs, measured every so many updates; the best one, and the noise of a trial.

The least of many noisy costs is mostly luck. So the best policy so far (the incumbent) is measured again beside each
new one, on the same conditions, and what it cost before is pooled with that; it gives way to one whose mean cost is
less by more than their difference in standard errors, noise/√trials.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from policysearch.controller import Controller


class Measured(NamedTuple):
    """A policy and what it cost, in trials of its own.

    update: after which it was the iterate. costs: of all its trials; infinite where it failed.
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
        #: squares about the means of batches, and their degrees of freedom
        self._squares, self._freedom = 0.0, 0

    @property
    def noise(self) -> float:
        """Standard deviation of the cost of one trial, pooled over all measurements; NaN before there are any."""
        return math.sqrt(self._squares / self._freedom) if self._freedom else math.nan

    def size(self, update: int) -> int:
        """Number of trials that measure in an update, counted from 0."""
        if update % self.every:
            return 0
        return self.trials * (1 if self.incumbent is None else 2)

    def due(self, update: int, current: Controller) -> list[Controller]:
        """A controller for each trial that measures in an update."""
        policies = [current] if self.incumbent is None else [current, self.incumbent.controller]
        return [policy for policy in policies for _ in range(self.trials)] if self.size(update) else []

    def take(
        self, measured: Sequence[Controller], costs: Sequence[float | None], update: int, folder: Path | None
    ) -> dict[str, float]:
        """Learn from what the trials of `due` cost; returns what is worth reporting, by name.

        Args:
            measured: what `due` gave.
            costs: of its trials; None where the rig lost one.
            update: number of the update, counted from 0.
            folder: where a new incumbent is kept, if anywhere.
        """
        if not measured:
            return {}
        batches = [[c for c in costs[i : i + self.trials] if c is not None] for i in range(0, len(costs), self.trials)]
        for batch in batches:
            finite = [cost for cost in batch if math.isfinite(cost)]
            if len(finite) > 1:
                self._squares += float(np.sum((np.asarray(finite) - np.mean(finite)) ** 2))
                self._freedom += len(finite) - 1
        current = Measured(measured[0], update, tuple(batches[0]))
        if self.incumbent is not None:
            known = self.incumbent._replace(costs=(*self.incumbent.costs, *batches[1]))
            self.incumbent = known if math.isfinite(known.cost) else None  # one that failed is none
        if self.incumbent is None or self._bound(current) < self._bound(self.incumbent):
            self.incumbent = current if math.isfinite(current.cost) else None
            if folder is not None and self.incumbent is not None:
                self.incumbent.controller.save(_path(folder, update))
        numbers = {"measured": current.cost, "measured_error": current.error, "noise": self.noise}
        if self.incumbent is not None:
            numbers |= {
                "incumbent": self.incumbent.cost,
                "incumbent_error": self.incumbent.error,
                "incumbent_update": float(self.incumbent.update),
            }
        return numbers

    def _bound(self, policy: Measured) -> float:
        noise = self.noise / math.sqrt(len(policy.costs)) if self._freedom and policy.costs else 0.0
        return policy.cost + noise

    def plain(self) -> dict[str, Any]:
        """What must persist, as JSON-able values; the incumbent's policy is a file of its own."""
        known = self.incumbent
        return {
            "squares": self._squares,
            "freedom": self._freedom,
            "incumbent": None if known is None else {"update": known.update, "costs": list(known.costs)},
        }

    def restore(self, plain: Mapping[str, Any], folder: Path) -> str:
        """Take over what `plain` gave; "" or why the incumbent is lost."""
        self._squares, self._freedom = plain["squares"], plain["freedom"]
        self.incumbent, known = None, plain["incumbent"]
        if known is None:
            return ""
        try:
            controller = Controller.load(_path(folder, known["update"]))
        except (OSError, ValueError) as error:
            return f"the incumbent is lost and will be measured anew: {error}"
        self.incumbent = Measured(controller, known["update"], tuple(known["costs"]))
        return ""

    def tidy(self, folder: Path) -> None:
        """Remove the files of policies that are the incumbent no more."""
        kept = None if self.incumbent is None else _path(folder, self.incumbent.update)
        for path in folder.glob("incumbent-*.safetensors"):
            if path != kept:
                with contextlib.suppress(OSError):
                    path.unlink()


def _path(folder: Path, update: int) -> Path:
    return folder / f"incumbent-{update}.safetensors"
