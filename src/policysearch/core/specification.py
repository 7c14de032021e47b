"""What a search must know about a task before it runs a trial: sizes, bounds, horizon, time step. No JAX.

p observations, m actions. Units: SI, seconds for `dt`, stages (control steps) for `horizon`.
"""

from __future__ import annotations

import numbers
from typing import Any

import msgspec

from policysearch.core.interface import Interface
from policysearch.core.plain import Plain
from policysearch.core.signals import Continuous, Discrete, names, seconds

#: outcome of a rollout: usable; failed because of the policy; lost because of the rig or the worker
OK, FAILED, LOST = 0, 1, 2


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
        returns: people read its returns, the sums of rewards; cost = −reward.
        ends_early: rollouts may end before the horizon, by a fall or a goal.
        solved: the criterion in words, or "".
        evaluation_rollouts: of an evaluation, enough for the criterion; None for 1 if nothing is random, 20 if
            rollouts may end early, else 100.
        policy: the default for this task: "linear" (a gain matrix), "network", or "either": a network where actions are
            sampled, else a gain matrix.
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
    returns: bool = False
    ends_early: bool = False
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
        return Interface(
            limits=self.action if isinstance(self.action, Continuous) else None,
            observation_names=self.observation_names,
            action_names=self.action_names,
            dt=self.dt,
            hold=self.hold,
        )

    @property
    def noun(self) -> str:
        """What people read of a rollout: "return" or "cost"."""
        return "return" if self.returns else "cost"

    @property
    def draws(self) -> int:
        """The largest number of actions drawn in a rollout."""
        return -(-self.horizon // self.hold)

    def plain(self) -> Plain:
        """As JSON-able values; `from_plain` is the inverse.

        Example:
            >>> rig = Specification(name="arm", action=Continuous((-1.0,), (float("inf"),)), observation_size=2)
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
        if "reward" in content:  # of an older version, which had one word for both
            content["returns"] = content["ends_early"] = content.pop("reward")
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
