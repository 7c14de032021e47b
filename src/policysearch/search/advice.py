"""What a search warns of or notes: effects smaller than the noise of a rollout, directions that were replaced."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from policysearch.core.direction import FALLBACKS
from policysearch.core.explore import Coordinates
from policysearch.workers.jobs import Event

if TYPE_CHECKING:
    from policysearch.search.search import Search

#: after so many updates a search looks once whether its gradient is this small a share of the noise
LOOK, FAINT = 5, 0.1
_DIFFERENCES = "Finite differences on a noisy task"


def about_differences(search: Search) -> None:
    """Warn at the start of finite differences whose compared rollouts have noise of their own, each the whole of it."""
    explore = search.method.explore
    if not isinstance(explore, Coordinates) or search.specification.deterministic or explore.common:
        return
    if search.specification.repeatable:
        remedy = "Common random numbers let them share one, which removes what noise they have in common"
    else:
        remedy = "No seed repeats a rollout here; a larger step or more repeats help"
    warnings.warn(
        f"{_DIFFERENCES}: each of the {search.layout.size} rollouts moves one parameter by "
        f"{float(np.mean(np.asarray(explore.step))):.3g} and carries the whole noise of a rollout, for those that are "
        f"compared share no seed. {remedy}; weight_perturbation averages the noise over all parameters.",
        stacklevel=4,
    )


@contextlib.contextmanager
def already_given() -> Iterator[None]:
    """While it lasts, a search is built again that began before: what is said at the start was said then."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _DIFFERENCES)
        yield


def about_noise(search: Search) -> None:
    """Warn once, after the first updates, if the gradient drowns in noise."""
    explore: Any = search.method.explore
    learned = getattr(explore, "learned", False)
    if search.updates != LOOK or search.method.space != "parameter" or search.specification.deterministic or learned:
        return
    ratios = [record["snr"] for record in search.records if math.isfinite(record["snr"]) and not record["skipped"]]
    coordinates = isinstance(explore, Coordinates)
    # m random directions of d parameters give m/(d + 1) even without noise, so that few of them tell nothing of it
    telling = coordinates or search.layout.pairs > search.settings["parameters"]
    if not telling or not ratios or np.mean(ratios) >= FAINT:
        return
    size = float(np.mean(np.asarray(explore.step if coordinates else explore.std)))
    remedies = f"a larger {'step' if coordinates else 'std'}, more {'repeats' if coordinates else 'rollouts'}"
    if search.specification.repeatable and not explore.common:
        remedies += ", common random numbers"
    warnings.warn(
        f"The gradient drowns in noise: over the first {LOOK} updates its signal-to-noise ratio is "
        f"{np.mean(ratios):.2g} on average, with perturbations of {size:.3g} and {search.layout.size} rollouts an "
        f"update. What raises it: {remedies}.",
        stacklevel=5,
    )


def about_direction(search: Search, numbers: dict[str, float]) -> None:
    """Note among the events of a search that an update did not follow the direction of its method, and why."""
    reason = FALLBACKS.get(int(numbers.get("fallback", 0)))
    if reason:
        search.note(Event(-1, "direction", reason, "", 1))
