"""The mean of the other pairs, stage by stage where outcomes are: it adds no bias."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Array, PyTree

from policysearch.core.baselines._base import Mean, Sample, leave_pair_out


class LeaveOneOut(Mean):
    """The mean over the other pairs, because a partner is no independent sample."""

    absorbs: ClassVar[bool] = True

    def __call__(self, sample: Sample, state: PyTree) -> tuple[Array, Array, PyTree]:
        """Means shaped like the outcome; a total without any other counts for nothing."""
        baseline, others = leave_pair_out(sample.outcome, sample.weight, sample.pair, sample.layout.pairs)
        return baseline, sample.weight * (others > 0) if sample.total else sample.weight, state
