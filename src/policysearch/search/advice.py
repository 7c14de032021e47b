"""What a search warns about or records: effects smaller than a rollout's noise, directions that were replaced."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from policysearch.core.direction import FALLBACKS
from policysearch.core.explore import Coordinates, Layout
from policysearch.core.method import Method
from policysearch.core.specification import Specification
from policysearch.workers.jobs import Event

#: after so many updates a search checks once whether its gradient is this small a share of the noise
LOOK, FAINT = 5, 0.1
_DIFFERENCES = "Finite differences on a noisy task"


class Watched(Protocol):
    """What is looked at of a search."""

    method: Method
    specification: Specification
    layout: Layout
    settings: dict[str, Any]
    records: list[dict[str, float]]
    updates: int

    def note(self, event: Event) -> None:
        """Add to the events."""


def about_differences(search: Watched) -> None:
    """Warn at the start of finite differences whose compared rollouts share no noise."""
    explore = search.method.explore
    if not isinstance(explore, Coordinates) or search.specification.deterministic or explore.common:
        return
    if search.specification.repeatable:
        remedy = "Common random numbers let them share one, which cancels the noise they have in common"
    else:
        remedy = "No seed repeats a rollout here; a larger epsilon or more repeats help"
    warnings.warn(
        f"{_DIFFERENCES}: each of the {search.layout.size} rollouts moves one parameter by "
        f"{float(np.mean(np.asarray(explore.epsilon))):.3g} and carries the full noise of a rollout, for those that "
        f"are compared share no seed. {remedy}; weight_perturbation averages the noise over all parameters.",
        stacklevel=5,
    )


@contextlib.contextmanager
def already_given() -> Iterator[None]:
    """While it lasts, an existing search is rebuilt: its initial warnings were given when it began."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _DIFFERENCES)
        yield


def about_noise(search: Watched) -> None:
    """Warn once, after the first updates, if the gradient is lost in noise."""
    explore: Any = search.method.explore
    learned = getattr(explore, "learned", False)
    if search.updates != LOOK or search.method.space != "parameter" or search.specification.deterministic or learned:
        return
    ratios = [record["snr"] for record in search.records if math.isfinite(record["snr"]) and not record["skipped"]]
    coordinates = isinstance(explore, Coordinates)
    # m random directions of d parameters give m/(d + 1) even without noise, so few of them say nothing about it
    telling = coordinates or search.layout.pairs > search.settings["parameters"]
    if not telling or not ratios or np.mean(ratios) >= FAINT:
        return
    size = float(np.mean(np.asarray(explore.epsilon if coordinates else explore.std)))
    remedies = f"a larger {'epsilon' if coordinates else 'std'}, more {'repeats' if coordinates else 'rollouts'}"
    if search.specification.repeatable and not explore.common:
        remedies += ", common random numbers"
    warnings.warn(
        f"The gradient is lost in noise: over the first {LOOK} updates its signal-to-noise ratio is "
        f"{np.mean(ratios):.2g} on average, with perturbations of {size:.3g} and {search.layout.size} rollouts per "
        f"update. To raise it: {remedies}.",
        stacklevel=5,
    )


def about_direction(search: Watched, numbers: dict[str, float]) -> None:
    """Record among a search's events that an update did not follow its method's direction, and why."""
    reason = FALLBACKS.get(int(numbers.get("fallback", 0)))
    if reason:
        search.note(Event(-1, "direction", reason, "", 1))
