"""What a search reports: one record per update, and a `Result` at its end."""

from __future__ import annotations

from typing import Any

import msgspec

from policysearch.core.controller import Controller
from policysearch.core.specification import Specification
from policysearch.search.evaluation import Evaluation

#: numbers of one update, by name
Record = dict[str, float]


class Result(msgspec.Struct, kw_only=True, eq=False):
    """The outcome of a search: the last iterate, its evaluation on fresh seeds, and the record of every update.

    Args:
        task, method, seed, budget: of the search; "composed" for a method composed by hand.
        policy: the last iterate.
        evaluation: of its mode; None if nothing could be evaluated (a rig, or all trials lost).
        records: one flat dict of numbers per update.
        counts: rollouts by purpose: gradient, reference, evaluation, and how many of them failed or were lost.
        reason: why the search ended.
        seconds: of wall-clock time.
    """

    task: str
    method: str
    seed: int
    budget: str
    policy: Any
    evaluation: Evaluation | None
    records: list[Record]
    counts: dict[str, int]
    reason: str
    specification: Specification
    seconds: float

    @property
    def controller(self) -> Controller:
        """The policy as plain NumPy; `controller.save(path)` writes it."""
        return self.policy.controller()

    def summary(self) -> dict[str, Any]:
        """All numbers but those of single updates and rollouts, JSON-able."""
        return {
            "task": self.task,
            "method": self.method,
            "seed": self.seed,
            "reason": self.reason,
            "updates": len(self.records),
            "budget": self.budget,
            "seconds": self.seconds,
            **({} if self.evaluation is None else self.evaluation.summary()),
            "criterion": self.specification.solved,
            "counts": self.counts,
        }

    def __repr__(self) -> str:
        # records of thousands of updates would hide the rest
        found = "not evaluated" if self.evaluation is None else repr(self.evaluation)
        updates = len(self.records)
        return f"Result({self.task}, {self.method}, seed {self.seed}: {updates} updates, {self.reason}; {found})"
