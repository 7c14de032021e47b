"""What a search reports: a record per update, and a `Result` at its end."""

from __future__ import annotations

from typing import Any

import msgspec

from policysearch.core.controller import Controller
from policysearch.core.specification import Specification
from policysearch.search.evaluation import Evaluation

#: numbers of one update, by name
Record = dict[str, float]


class Result(msgspec.Struct, kw_only=True, eq=False):
    """What a search ends with: the last iterate, its evaluation on fresh seeds, and the record of every update.

    Args:
        policy: the last iterate.
        evaluation: of its mode; None if nothing could be evaluated (a rig, or one whose trials are all lost).
        records: a flat dict of numbers per update.
        counts: rollouts by purpose: gradient, reference, evaluation, and how many of them failed or were lost.
        reason: why the search ended.
        seconds: of wall-clock time.
    """

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
