"""Settings that check themselves: the base struct, those of a policy, and a search's budget. No JAX.

Those of each method are in `policysearch.methods.settings`.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from policysearch.core.plain import Options

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0, lt=1e300)]
NonNegative = Annotated[float, Meta(ge=0, lt=1e300)]
Finite = Annotated[float, Meta(gt=-1e300, lt=1e300)]
Share = Annotated[float, Meta(gt=0, le=1)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that check themselves: every field against its type and limits.

    Raises:
        ValueError: naming the setting, what was given and what is allowed.
    """

    def __post_init__(self) -> None:
        """Check every field."""
        hints = typing.get_type_hints(type(self), include_extras=True)
        for field in msgspec.structs.fields(type(self)):
            value, hint = getattr(self, field.name), hints[field.name]
            try:
                msgspec.convert(value, hint, strict=True)
            except msgspec.ValidationError:
                raise ValueError(f"{field.name} is {value!r}; it must be {allowed(hint)}.") from None


#: policies that users ask for by a word, and what each is; a kind's class lists its words too
POLICIES = {
    "linear": "a gain matrix on the observations; softmax of one layer where actions are discrete",
    "rbf": "a gain matrix on random Fourier features of the observations (--features 100)",
    "network": "a multilayer perceptron (--hidden 32 32); softmax of its outputs where actions are discrete",
    "pid": "feedback of one error: --kp, --ki, --kd, --observation, --setpoint; methods that perturb parameters",
}


class PolicySettings(Settings, frozen=True):
    """What kind of policy is searched."""

    kind: Literal["auto", "linear", "rbf", "network", "pid"] = "auto"
    """a gain matrix, one on random Fourier features, a network, or a PID; auto: what the task recommends"""
    hidden: tuple[Count, ...] = (32, 32)
    """units of the network's hidden layers"""
    features: Count = 100
    """number of random Fourier features"""
    bandwidth: Positive | None = None
    """of the features, in scaled observations; √(2p) by default"""
    bias: bool | None = None
    """a constant term in a linear policy; off for gain matrices unless the action range is lopsided"""
    std: Positive | None = None
    """action noise, in the action's unit; 0.1 of half the action range for a gain matrix, 0.5 for a network"""
    learned_std: bool | None = None
    """search the action noise too; on for networks"""
    scaling: Literal["auto", "fixed", "running", "rms", "none"] = "auto"
    """of observations: by the task's typical magnitudes where known, else running: mean and deviation, or for a law
    without a constant the root mean square (rms)"""
    kp: tuple[Finite, ...] | None = None
    """proportional gain of a PID, one for each action; by the task's typical magnitudes if no gain is given"""
    ki: tuple[Finite, ...] | None = None
    """its integral gain, per second; 0 if another gain is given"""
    kd: tuple[Finite, ...] | None = None
    """its derivative gain, times seconds; 0 if another gain is given"""
    observation: tuple[str, ...] | None = None
    """what a PID controls: an observation's place or name, one for each action; the first by default"""
    setpoint: tuple[Finite, ...] | None = None
    """where a PID wants it; 0 by default"""
    filter: NonNegative | None = None
    """time constant of the derivative's filter in seconds; two time steps by default"""
    fixed: tuple[str, ...] | None = None
    """gains of a PID that are not searched, such as kd"""


def choices(hint: object) -> tuple[str, ...]:
    """The words that a setting of this type may be; () where it is not one of a few words.

    Example:
        >>> choices(Literal["one", "two"] | None)
        ('one', 'two')
    """
    if type(None) in typing.get_args(hint):
        hint = next(argument for argument in typing.get_args(hint) if argument is not type(None))
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        return tuple((typing.get_args(hint)[1].extra or {}).get("one of", ()))
    return ()


def allowed(hint: Any) -> str:
    """The allowed values of a setting of this type, in words.

    Example:
        >>> allowed(Share | None)
        'a number above 0, at most 1'
    """
    arguments = typing.get_args(hint)
    if type(None) in arguments:
        return allowed(next(argument for argument in arguments if argument is not type(None)))
    origin = typing.get_origin(hint)
    if words := choices(hint):
        return f"one of {', '.join(words)}"
    if origin is tuple:
        return f"a sequence, each entry {allowed(arguments[0])}"
    if origin is not Annotated:
        return {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}[hint]
    kind, limits = arguments
    bounds = [
        f"{word} {limit:g}"
        for word, limit in (
            ("above", limits.gt),
            ("at least", limits.ge),
            ("below", limits.lt),
            ("at most", limits.le),
        )
        # limits at the largest numbers only keep infinity out
        if limit is not None and abs(limit) < 1e300
    ]
    return f"{'a whole number' if kind is int else 'a number'} {', '.join(bounds)}"


def checked(struct: type[Settings], options: Options, noun: str) -> Any:
    """An instance of `struct` from options by name; unknown names raise ValueError with the nearest known."""
    check_names(struct, options, noun)
    return struct(**options)


def check_names(struct: type[Settings], options: Iterable[str], noun: str) -> None:
    """Raise ValueError with the nearest known names unless all of these are settings of `struct`."""
    names = [field.name for field in msgspec.structs.fields(struct)]
    for option in options:
        if option not in names:
            raise ValueError(unknown(noun, option, names))


def unknown(noun: str, name: str, known: list[str]) -> str:
    """The message for an unknown name: nearest names first, then all."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    what = noun if noun.startswith("a ") else f"a known {noun}"
    return f"{name!r} is not {what}.{hint} Known: {', '.join(known)}."


_BUDGET = re.compile(r"^\s*([0-9]+(?:\.[0-9]*)?(?:e[0-9]+)?)\s*(rollouts?|stages?|updates?)?\s*$", re.IGNORECASE)


class Budget(msgspec.Struct, frozen=True):
    """How long a search goes on: a number of rollouts, stages or updates, reference rollouts included."""

    amount: int
    unit: Literal["rollouts", "stages", "updates"] = "rollouts"

    @classmethod
    def parse(cls, text: str | int | float | Budget) -> Budget:
        """From 2000, "2e6stages" or "50updates".

        Raises:
            ValueError: not of that form, or not at least 1.
        """
        if isinstance(text, Budget):
            text = str(text)
        match = _BUDGET.match(str(text))
        amount = float(match.group(1)) if match else 0.0
        if not match or not 1 <= amount < 1e15 or amount % 1:
            raise ValueError(
                f"budget is {text!r}; it must be a whole number, at least 1, and look like 2000 (rollouts), "
                "2e6stages or 50updates."
            )
        unit = (match.group(2) or "rollouts").lower()
        return cls(round(amount), typing.cast(Any, unit if unit.endswith("s") else unit + "s"))

    @property
    def words(self) -> str:
        """For people to read: 2 000 000 stages."""
        amount = str(self.amount) if self.amount < 10_000 else f"{self.amount:,}".replace(",", " ")
        return f"{amount} {self.unit}"

    def __str__(self) -> str:
        """As a user would type it."""
        return str(self.amount) + ("" if self.unit == "rollouts" else self.unit)
