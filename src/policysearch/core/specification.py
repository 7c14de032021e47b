"""What a search must know about a task before it runs a trial: sizes, bounds, horizon, time step. No JAX.

p observations, m actions. Units: SI, seconds for `dt`, stages (control steps) for `horizon`.
"""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any

import msgspec

from policysearch.core.plain import Plain

if TYPE_CHECKING:
    from policysearch.core.interface import Interface

#: outcome of a rollout: usable; failed because of the policy; lost because of the rig or the worker
OK, FAILED, LOST = 0, 1, 2


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


class Specification(msgspec.Struct, frozen=True, kw_only=True):
    """A task seen from outside.

    Args:
        name: as the user typed it.
        action: `Continuous`, `Discrete`, or None if the policy itself is evaluated, g(θ).
        observation_size: p; 0 for g(θ). A discrete observation of k values counts as k (one-hot).
        observation_scale: typical magnitude of each observation, (p,), or None if unknown (then the
            policies scale observations by running statistics).
        observation_names: with units, such as "position [m]", (p,), or () if they have none.
        action_names: likewise, (m,), or (); for `Discrete` one name for the choice, or one for each.
        one_hot: the observation is an index to be one-hot encoded.
        horizon: largest number of stages in a rollout.
        dt: seconds per stage, or None.
        discount: of the objective, per stage.
        repeatable: the same seed gives the same rollout, so partners can share it.
        deterministic: the seed changes nothing.
        reward: the task's own measure is the return; cost = −reward.
        solved: the criterion in words, or "".
        evaluation_rollouts: of an evaluation, enough for the criterion; None for 1 if nothing is random, 20 for a
            task with rewards, else 100.
        policy: the default for this task: "linear" (a gain matrix) or "network".
        hold: stages for which a rig keeps each action that was drawn; noise at every stage wears out actuators.

    Raises:
        ValueError: values that do not fit together; the message says which.
    """

    name: str
    action: Continuous | Discrete | None = None
    observation_size: int = 0
    observation_scale: tuple[float, ...] | None = None
    observation_names: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()
    one_hot: bool = False
    horizon: int = 1
    dt: float | None = None
    discount: float = 1.0
    repeatable: bool = True
    deterministic: bool = False
    reward: bool = False
    solved: str = ""
    evaluation_rollouts: int | None = None
    policy: str = "linear"
    hold: int = 1

    def __post_init__(self) -> None:
        for name, least in (("horizon", 1), ("observation_size", 0)):
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or value < least:
                raise ValueError(f"{name} is {value!r}; it must be a whole number, at least {least}.")
        if not isinstance(self.hold, int) or not 1 <= self.hold <= self.horizon:
            raise ValueError(f"hold is {self.hold!r}; it must be a number of stages, 1 to the horizon, {self.horizon}.")
        action, named = self.action, ("observation_names", "action_names")
        for name in named:
            msgspec.structs.force_setattr(self, name, names(name, getattr(self, name)))
        msgspec.structs.force_setattr(self, "dt", seconds(self.dt))
        actions = {1, action.n} if isinstance(action, Discrete) else {action.size if action is not None else 0}
        for name, sizes in zip(named, ({self.observation_size}, actions), strict=True):
            given = getattr(self, name)
            if given and len(given) not in sizes:
                raise ValueError(
                    f"{self.name} has {len(given)} {name}, {', '.join(given[:10])}; "
                    f"it needs {' or '.join(map(str, sorted(sizes)))}, or none."
                )

    @property
    def interface(self) -> Interface:
        """What a controller of this task is connected to."""
        from policysearch.core.interface import Interface

        return Interface(
            limits=self.action if isinstance(self.action, Continuous) else None,
            observation_names=self.observation_names,
            action_names=self.action_names,
            dt=self.dt,
            hold=self.hold,
        )

    @property
    def draws(self) -> int:
        """The largest number of actions drawn in a rollout."""
        return -(-self.horizon // self.hold)

    def plain(self) -> Plain:
        """As JSON-able values; `from_plain` is the inverse.

        Example:
            >>> rig = Specification(name="arm", action=Continuous((-1.0,), (math.inf,)), observation_size=2)
            >>> Specification.from_plain(msgspec.json.decode(msgspec.json.encode(rig.plain()))) == rig
            True
        """
        plain: Plain = msgspec.structs.asdict(self)
        if isinstance(self.action, Discrete):
            plain["action"] = {"n": self.action.n}
        elif self.action is not None:
            # JSON has no infinity
            limits = {"low": self.action.low, "high": self.action.high}
            plain["action"] = {name: [str(limit) for limit in value] for name, value in limits.items()}
        return plain

    @classmethod
    def from_plain(cls, plain: Plain) -> Specification:
        """The specification that `plain` described.

        Raises:
            ValueError: values that a specification cannot have.
        """
        content, action = {name: _tuple(value) for name, value in plain.items()}, plain.get("action")
        try:
            if action is not None:
                limits = {name: tuple(float(limit) for limit in value) for name, value in action.items() if name != "n"}
                content["action"] = Discrete(int(action["n"])) if "n" in action else Continuous(**limits)
            specification = cls(**content)
        except (TypeError, ValueError) as error:
            raise ValueError(f"This does not describe a task: {error}.") from error
        return specification


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


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
