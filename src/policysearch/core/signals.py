"""What signals are: limits of actions, numbers of choices, names, time steps. No JAX.

m actions, in physical units; seconds for time steps.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import msgspec


class Continuous(msgspec.Struct, frozen=True):
    """Real actions with one lower and one upper limit each (±inf for no limit), in physical units.

    Args:
        low, high: a sequence each, (m,).

    Raises:
        ValueError: limits that are not numbers, not equally many, or with low above high.

    Example:
        >>> Continuous([-12], [12])
        Continuous(low=(-12.0,), high=(12.0,))
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            msgspec.structs.force_setattr(self, name, _limits(name, getattr(self, name)))
        if len(self.low) != len(self.high):
            raise ValueError(
                f"{len(self.low)} lower and {len(self.high)} upper limits were given; give each action one of each."
            )
        for i, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if not low <= high or low == math.inf or high == -math.inf:
                raise ValueError(
                    f"The limits of action {i} are {low:g} and {high:g}; the lower one is at most the upper one, and "
                    "-inf and inf mean no limit."
                )

    @property
    def size(self) -> int:
        """Number of actions, m."""
        return len(self.low)

    @property
    def half_range(self) -> tuple[float, ...]:
        """Half the distance between the limits, (m,); 1 if an action is unbounded."""
        return tuple((h - lo) / 2 if math.isfinite(h - lo) else 1.0 for lo, h in zip(self.low, self.high, strict=True))

    @property
    def centre(self) -> tuple[float, ...]:
        """Midpoint between the limits, (m,); 0 if an action is unbounded."""
        return tuple((h + lo) / 2 if math.isfinite(h - lo) else 0.0 for lo, h in zip(self.low, self.high, strict=True))


class Discrete(msgspec.Struct, frozen=True):
    """One of `n` actions, numbered from 0."""

    n: int


def _limits(name: str, given: Any) -> tuple[float, ...]:
    """A sequence of numbers as floats, which may be infinite but not NaN."""
    try:
        limits = tuple(given)
        good = all(isinstance(limit, numbers.Real) and not isinstance(limit, bool) for limit in limits)
        limits = tuple(map(float, limits)) if good else ()
    except (TypeError, OverflowError):
        good = False
    if not good or any(map(math.isnan, limits)):
        raise ValueError(f"{name} is {given!r:.80}; give a sequence of numbers, one for each action.")
    return limits


def names(what: str, given: Any) -> tuple[str, ...]:
    """Distinct names in a tuple, each short and of one line."""
    found = tuple(given) if isinstance(given, (tuple, list)) else (None,)
    if not all(isinstance(name, str) and name.isprintable() and 0 < len(name) <= 200 for name in found):
        raise ValueError(f"{what} is {given!r:.80}; give a sequence of names of up to 200 printable characters.")
    if len({*found}) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise ValueError(f"{what} has {twice!r} twice; give distinct names.")
    return found


def seconds(given: Any) -> float | None:
    """A time step, or None."""
    if given is None:
        return None
    real = isinstance(given, numbers.Real) and not isinstance(given, bool)
    step = float(given) if real and abs(given) < 1e300 else math.nan
    if not step > 0:
        raise ValueError(f"dt is {given!r:.40}; it must be a number of seconds above 0, or None if unknown.")
    return step
