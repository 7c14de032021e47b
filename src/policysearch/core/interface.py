"""`Interface`: what a controller is connected to: limits, names and units of its signals, and its time step. No JAX.

p observations, m actions (or k choices).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from policysearch.core.plain import Plain
from policysearch.core.signals import Continuous, names, seconds

#: names that are shown in one line
MOST_NAMES = 12


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """What a controller is connected to: everything its file says besides the law itself.

    A name ends in its unit, in brackets: "position [m]"; "sin angle" has no unit.

    Args:
        limits: of continuous actions; None if unknown, and for choices and named numbers.
        observation_names: (p,), or () if unknown.
        action_names: (m,), or (); for choices one name, or (k,).
        dt: seconds per stage, or None.
        hold: stages for which each action is kept, so that the controller acts every `hold` · `dt` seconds.

    Raises:
        ValueError: values of another kind.

    Example:
        >>> Interface(action_names=["force [N]", "choice"]).action_units
        ('N', '')
    """

    limits: Continuous | None = None
    observation_names: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()
    dt: float | None = None
    hold: int = 1

    def __post_init__(self) -> None:
        if self.limits is not None and not isinstance(self.limits, Continuous):
            raise ValueError(f"limits are a {type(self.limits).__name__}; give Continuous(low, high), or None.")
        for name in ("observation_names", "action_names"):
            msgspec.structs.force_setattr(self, name, names(name, getattr(self, name)))
        msgspec.structs.force_setattr(self, "dt", seconds(self.dt))
        if not isinstance(self.hold, int) or isinstance(self.hold, bool) or self.hold < 1:
            raise ValueError(f"hold is {self.hold!r:.40}; it must be a number of stages, at least 1.")

    @property
    def observation_units(self) -> tuple[str, ...]:
        """Unit of each observation, (p,); "" if it has none."""
        return tuple(map(_unit, self.observation_names))

    @property
    def action_units(self) -> tuple[str, ...]:
        """Unit of each action, (m,); "" if it has none."""
        return tuple(map(_unit, self.action_names))

    def observation(self, index: int) -> str:
        """An observation in words, as "observation 1 (velocity [m/s])"."""
        return _named("observation", index, self.observation_names)

    def action(self, index: int) -> str:
        """An action in words, as "action 0 (force [N])"."""
        return _named("action", index, self.action_names)

    def check(self, policy: str, outputs: str, observations: int, actions: int) -> None:
        """Raise ValueError unless names and limits match the signals in number.

        Args:
            policy: kind of the controller.
            outputs: what it gives: "actions", a "choice", or "numbers".
            observations, actions: that it takes and gives, or the number of choices.
        """
        if outputs == "numbers":
            if self.limits is not None or self.observation_names or self.action_names:
                raise ValueError("Named numbers have no observations or actions to name, but bounds of their own.")
            return
        choice = outputs == "choice"
        for what, given, sizes in (
            ("observation_names", self.observation_names, {observations}),
            ("action_names", self.action_names, {1, actions} if choice else {actions}),
        ):
            if given and len(given) not in sizes:
                needed = " or ".join(map(str, sorted(sizes)))
                raise ValueError(f"{len(given)} {what} were given; this {policy} controller has {needed}.")
        if self.limits is not None and choice:
            raise ValueError(f"Limits were given; a {policy} controller gives a choice, which has none.")
        if self.limits is not None and self.limits.size != actions:
            raise ValueError(f"Limits of {self.limits.size} actions were given; a {policy} controller has {actions}.")

    def words(self, outputs: str, observations: int, actions: int) -> str:
        """What goes in and what comes out, in a line; see `check` for the arguments.

        Example:
            >>> rig = Interface(limits=Continuous([-1, 0], [1, math.inf]), observation_names=["speed [m/s]"])
            >>> rig.words("actions", 1, 2)
            'speed [m/s] → action 0 in [-1, 1], action 1 in [0, inf]'
        """
        seen = listed(self.observation_names) or f"{observations} observation{'s' if observations > 1 else ''}"
        each: Sequence[str] = self.action_names
        if outputs == "choice":
            return f"{seen} → one of {listed(each) if len(each) == actions else f'{actions} choices'}"
        if self.limits is None:
            return f"{seen} → {listed(each) or f'{actions} action' + ('s' if actions > 1 else '')}, limits unknown"
        if not each:
            each = ["action"] if actions == 1 else [f"action {i}" for i in range(actions)]
        pairs = zip(self.limits.low, self.limits.high, strict=True)
        within = [
            f"{name} without limits" if low == -high == -math.inf else f"{name} in [{low:g}, {high:g}]"
            for name, (low, high) in zip(each, pairs, strict=True)
        ]
        return f"{seen} → {listed(within)}"

    def plain(self) -> Plain:
        """As JSON-able values; None means no limit."""
        plain: Plain = msgspec.structs.asdict(self)
        if self.limits is not None:
            limits = msgspec.structs.asdict(self.limits)
            plain["limits"] = {
                name: [limit if math.isfinite(limit) else None for limit in value] for name, value in limits.items()
            }
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @classmethod
    def from_plain(cls, plain: Any) -> Interface:
        """The interface that `plain` described.

        Raises:
            ValueError: values that an interface cannot have.
        """
        if not isinstance(plain, dict) or set(plain) != set(cls.__struct_fields__):
            raise ValueError(f"an interface has {', '.join(cls.__struct_fields__)}, and nothing else")
        limits = plain["limits"]
        if limits is not None:
            if not isinstance(limits, dict) or set(limits) != {"low", "high"}:
                raise ValueError("limits have low and high, and nothing else")
            sides = {}
            for name, without in (("low", -math.inf), ("high", math.inf)):
                if not isinstance(limits[name], list):
                    raise ValueError(f"{name} is not a list of limits")
                sides[name] = tuple(without if limit is None else limit for limit in limits[name])
                if any(isinstance(limit, float) and not math.isfinite(limit) for limit in limits[name]):
                    raise ValueError(f"{name} has a limit that is not finite; null means no limit")
            limits = Continuous(**sides)
        return cls(**{**plain, "limits": limits})


def listed(words: Sequence[str]) -> str:
    """The first words in a line, and how many there are if there are more."""
    more = f", … ({len(words)} in all)" if len(words) > MOST_NAMES else ""
    return ", ".join(words[:MOST_NAMES]) + more


def _unit(name: str) -> str:
    """The text in brackets at the end of a name."""
    return name[name.rfind("[") + 1 : -1].strip() if name.endswith("]") and "[" in name else ""


def _named(what: str, index: int, names: tuple[str, ...]) -> str:
    return f"{what} {index} ({names[index]})" if index < len(names) else f"{what} {index}"
