"""What a search must know of a task before it runs one trial: sizes, bounds, horizon, time step. No JAX.

p observations, m actions. Units: SI, seconds for `dt`, stages (control steps) for `horizon`.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import msgspec

#: outcome of a rollout: usable; failed because of the policy; lost because of the rig or the worker
OK, FAILED, LOST = 0, 1, 2


class Continuous(msgspec.Struct, frozen=True):
    """Real actions with one lower and one upper limit each (±inf where there is none), in physical units."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def size(self) -> int:
        """Number of actions, m."""
        return len(self.low)

    @property
    def half_range(self) -> tuple[float, ...]:
        """Half the distance between the limits, (m,); 1 where an action is unbounded."""
        return tuple((h - lo) / 2 if math.isfinite(h - lo) else 1.0 for lo, h in zip(self.low, self.high, strict=True))

    @property
    def centre(self) -> tuple[float, ...]:
        """Midpoint between the limits, (m,); 0 where an action is unbounded."""
        return tuple((h + lo) / 2 if math.isfinite(h - lo) else 0.0 for lo, h in zip(self.low, self.high, strict=True))


class Discrete(msgspec.Struct, frozen=True):
    """One of `n` actions, numbered from 0."""

    n: int


class Specification(msgspec.Struct, frozen=True, kw_only=True):
    """A task seen from outside.

    Args:
        name: as the user typed it.
        action: `Continuous`, `Discrete`, or None where the policy itself is what is evaluated, g(θ).
        observation_size: p; 0 for g(θ). A discrete observation of k values counts as k (one-hot).
        observation_scale: typical magnitude of each observation, (p,), or None if unknown (then the
            policies scale observations by running statistics).
        one_hot: the observation is an index to be one-hot encoded.
        horizon: largest number of stages in a rollout.
        dt: seconds per stage, or None.
        discount: of the objective, per stage.
        repeatable: the same seed gives the same rollout, so partners can share it.
        deterministic: the seed changes nothing.
        reward: users think of this task in returns; cost = −reward.
        solved: the criterion in words, or "".
        evaluation_rollouts: of an evaluation, enough for the criterion; None for 1 where nothing is random, 20 of a
            task thought of in returns, else 100.
        policy: what serves this task unless asked otherwise: "linear" (a gain matrix) or "network".
        hold: stages for which a rig keeps each action that was drawn; noise at every stage wears actuators out.
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
            raise ValueError(f"hold is {self.hold!r}; it is a number of stages, 1 to the horizon of {self.horizon}.")

    @property
    def draws(self) -> int:
        """Most actions that are drawn in a rollout."""
        return -(-self.horizon // self.hold)

    def plain(self) -> dict[str, Any]:
        """As JSON-able values; `from_plain` is the way back.

        Example:
            >>> rig = Specification(name="arm", action=Continuous((-1.0,), (math.inf,)), observation_size=2)
            >>> Specification.from_plain(msgspec.json.decode(msgspec.json.encode(rig.plain()))) == rig
            True
        """
        plain: dict[str, Any] = msgspec.structs.asdict(self)
        if isinstance(self.action, Discrete):
            plain["action"] = {"n": self.action.n}
        elif self.action is not None:
            # JSON has no infinity
            limits = {"low": self.action.low, "high": self.action.high}
            plain["action"] = {name: [str(limit) for limit in value] for name, value in limits.items()}
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Specification:
        """The specification that `plain` described.

        Raises:
            ValueError: values that no specification has.
        """
        content, action = {name: _tuple(value) for name, value in plain.items()}, plain.get("action")
        try:
            if action is not None:
                limits = {name: tuple(float(limit) for limit in value) for name, value in action.items() if name != "n"}
                content["action"] = Discrete(int(action["n"])) if "n" in action else Continuous(**limits)
            specification = cls(**content)
        except (TypeError, ValueError) as error:
            raise ValueError(f"This describes no task: {error}.") from error
        return specification


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
