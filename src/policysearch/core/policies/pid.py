"""`PID`: proportional, integral and derivative feedback of an error, with anti-windup. No JAX until it is searched.

p observations, m loops, one for each action; n = 3m numbers, d of them searched; h seconds between actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from policysearch.core import law
from policysearch.core.policies import named_numbers
from policysearch.core.policies.error_signals import each, errors, listed, named, place, words
from policysearch.core.policies.policy import Policy
from policysearch.core.signals import Continuous

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from policysearch.core.interface import Interface
    from policysearch.core.settings import PolicySettings
    from policysearch.core.specification import Specification

GAINS = ("kp", "ki", "kd")
#: perturbation of the gains, in their scales: about a tenth of each
STD = 0.1
#: gains that a user leaves open: integral time as a share of a rollout, and derivative time as a share of that, as in
#: the rules of Ziegler & Nichols (1942)
INTEGRAL_SHARE, DERIVATIVE_SHARE = 0.25, 0.25
#: time constant of the derivative's filter that a user leaves open, in time steps
FILTER_STEPS = 2.0


class PID(Policy):
    """u = kp e + ki ∫e dt + kd de/dt of an error e = setpoint − y, in discrete time, one loop for each action.

    Every h seconds (the task's `dt`, times `hold`), for each loop, with e the error now and e⁻ the last one:

        D ← (tf D + kd (e − e⁻))/(tf + h)          the derivative, filtered with the time constant tf
        v = kp e + I + D                           the law; what acts is u, v within the action's limits
        I ← I + ki h e + (h/tt) (u − v)            the integral, with back-calculation

    Back-calculation keeps the integral from winding up while the action is at a limit: it follows u with the tracking
    time tt, here the integral time kp/ki, at least h. I, D and the last error are the controller's memory. It starts
    with I = D = 0, and its first error is its own last one, so that the derivative starts without a kick.

    Gains that are not 0 are searched: by factors, exp(scale · z), if they are positive; else by amounts. A gain of 0
    stays 0 unless `scale` names it. There is no action noise: the policy is searched in parameter space.

    Args:
        kp, ki, kd: gains, in the action's unit per unit of the error, per second for `ki`, times seconds for `kd`. A
            number, or m of them. A loop whose action lowers y has negative gains.
        observation: y, by its place, its name ("position [m]", or "position"), or m of these.
        error: the observation that is itself the error, instead of `observation`; likewise.
        setpoint: in the unit of y; a number, or the name of the observation that holds it; or m of these.
        filter: tf in seconds, of the derivative, a number or m of them; two time steps by default.
        fixed: names of gains that are not searched.
        bounds: {name: (low, high)} of gains.
        scale: {name: how much one unit of z changes a gain}; a factor e^scale for positive gains, 1 by default; else
            the gain itself by default.

    The gains are named kp, ki and kd; of several loops kp_0, ki_0, kd_0, kp_1, …

    Raises:
        ValueError: gains that are not finite, or not equally many; unknown names; a negative filter; all gains fixed.

    References:
        Åström & Murray, Feedback Systems, 2nd edition, 2021, sections 11.4 (windup) and 11.5 (implementation).

    Example:
        >>> policy = PID(8.0, 2.0, 4.0, observation="position", setpoint=1.0)
        >>> policy.values()
        {'kp': 8.0, 'ki': 2.0, 'kd': 4.0}
    """

    kind = "pid"
    stochastic = False
    recurrent = True
    described = ("names",)
    flags = ("log", "free")
    words = ("pid",)
    settings = ("kp", "ki", "kd", "observation", "setpoint", "filter", "fixed")

    def __init__(
        self,
        kp: Any,
        ki: Any = 0.0,
        kd: Any = 0.0,
        *,
        observation: Any = None,
        error: Any = None,
        setpoint: Any = 0.0,
        filter: Any = None,
        fixed: Sequence[str] = (),
        bounds: Mapping[str, tuple[float, float]] | None = None,
        scale: Mapping[str, float] | None = None,
    ):
        loops = max(np.size(kp), np.size(ki), np.size(kd))
        gains = np.stack([each(name, gain, loops) for name, gain in zip(GAINS, (kp, ki, kd), strict=True)], 1)
        names = [f"{name}_{loop}" if loops > 1 else name for loop in range(loops) for name in GAINS]
        initial, given = gains.ravel(), dict(scale or {})
        for name in [*fixed, *given]:
            if name not in names:
                raise ValueError(f"No gain is named {name!r}; the names are {', '.join(names)}.")
        log = [name for name, gain in zip(names, initial, strict=True) if gain > 0]
        usual = [1.0 if gain >= 0 else -gain for gain in initial.tolist()]
        scales = [given.get(name, own) for name, own in zip(names, usual, strict=True)]
        free = [
            name not in fixed and bool(gain != 0 or name in given) for name, gain in zip(names, initial, strict=True)
        ]
        if not any(free):
            raise ValueError("No gain is left to search: all are 0 or fixed. Give one, or `scale` for one that is 0.")
        constants = named_numbers.constants(names, initial, bounds, scales, log)
        if filter is not None:
            constants["filter"] = each("filter", filter, loops)
            if np.any(constants["filter"] < 0):
                raise ValueError(f"filter is {filter}; it must be a number of seconds, at least 0.")
        if observation is not None and error is not None:
            raise ValueError("Give `observation`, of which the error is setpoint − observation, or `error`, not both.")
        chosen = (0 if observation is None else observation) if error is None else error
        signals = tuple(
            zip(
                listed("signal", chosen, loops),
                listed("setpoint", setpoint, loops),
                strict=True,
            )
        )
        super().__init__(
            parameters={"values": np.zeros(sum(free))},
            constants=constants,
            details={
                "names": tuple(names),
                "log": tuple(name in log for name in names),
                "free": tuple(free),
                # until a task says how many observations there are, and what they are called
                "signals": (-1.0 if error is None else 1.0, signals),
            },
        )

    # what it acts on

    def fitted(self, specification: Specification) -> Self:
        """See `Policy.fitted`.

        Raises:
            ValueError: the task has no time step, other actions, or no such observation.
        """
        name, action = specification.name, specification.action
        if not isinstance(action, Continuous):
            raise ValueError(f"{name} has actions {action}; a PID gives real ones.")
        if action.size != self._loops:
            raise ValueError(
                f"{name} has {action.size} actions and the PID has {self._loops} loops; give a gain for each action, "
                f"such as kp={[1.0] * action.size}."
            )
        _timed(specification)
        interface = specification.interface
        connected = self._connected(specification.observation_size, specification.observation_names, interface)
        return connected._with(interface=interface)

    def with_interface(self, interface: Interface) -> Self:
        """See `Policy.with_interface`."""
        names = interface.observation_names
        return self._connected(len(names) or None, names, interface)._with(interface=interface)

    def _connected(self, size: int | None, names: Sequence[str], interface: Interface) -> Self:
        """With the filter and the errors as arrays, as far as they are known now."""
        details, constants = dict(self.details), dict(self.constants)
        sign, signals = details.get("signals", (0.0, ()))
        if signals and (size is not None or not named(signals)):
            size = 1 + max(y for y, _ in signals) if size is None else size
            constants["error"], constants["setpoint"] = errors(sign, signals, size, names)
            del details["signals"]
        elif size is not None and "error" in constants and constants["error"].shape[1] != size:
            raise ValueError(f"The PID was made for {constants['error'].shape[1]} observations; here are {size}.")
        if "filter" not in constants and interface.dt is not None:
            constants["filter"] = np.full(self._loops, FILTER_STEPS * interface.dt * interface.hold)
        policy = self._with(details=details, constants=constants)
        policy.__post_init__()
        return policy

    @property
    def _loops(self) -> int:
        return len(self.details["names"]) // 3

    # the law

    def sizes(self) -> tuple[int, int]:
        """See `Policy.sizes`."""
        names, held = self.details.get("names", ()), self.constants
        free = int(np.sum(self.details.get("free", ())))
        law.fitting("values", law.needed("values", self.parameters, "parameter", self.kind), (free,), self.kind)
        flags = {name: np.asarray(self.details[name]) for name in self.flags if name in self.details}
        for name in (*named_numbers.CONSTANTS, *self.flags):
            law.fitting(name, law.needed(name, {**held, **flags}, "constant", self.kind), (len(names),), self.kind)
        error = law.needed("error", held, "constant", self.kind)
        m = len(names) // 3
        law.fitting("error", error, (m, error.shape[-1]) if error.ndim else (m, 1), self.kind)
        for name in ("setpoint", "filter"):
            law.fitting(name, law.needed(name, held, "constant", self.kind), (m,), self.kind)
        if len(names) != 3 * m or not m or not np.all(held["filter"] >= 0):
            raise ValueError("A pid controller has three gains for each loop, and filters of at least 0 s.")
        return error.shape[1], m

    def gains(self, xp: Any) -> Float[Array, "*b m 3"]:
        """kp, ki and kd of each loop."""
        free = np.asarray(self.details["free"])
        index = np.maximum(np.cumsum(free) - 1, 0)
        z = xp.where(free, self.parameters["values"][..., index], 0.0)
        return named_numbers.vector(xp, z, self.constants, self.details["log"]).reshape(*z.shape[:-1], -1, 3)

    def begin(self, xp: Any) -> tuple[Any, Callable[[Any, Any], tuple[Any, Any]]]:
        """See `Policy.begin`; the memory is I (m,), D (m,), the last error (m,), and whether there was one ().

        Raises:
            ValueError: no time step is known.
        """
        if self.interface.dt is None:
            raise ValueError("A PID needs its time step: with_interface(Interface(dt=…)), in seconds.")
        h = self.interface.dt * self.interface.hold
        limits = self.interface.limits
        kp, ki, kd = xp.moveaxis(self.gains(xp), -1, 0)
        held = self.constants
        lag, matrix, setpoint = held["filter"], held["error"], held["setpoint"]
        keep, rise = lag / (lag + h), kd / (lag + h)
        # h/tt with tt = kp/ki, at least h; without an integral there is nothing that winds up
        ratio = h * xp.abs(ki) / xp.where(kp == 0, 1.0, xp.abs(kp))
        track = xp.where(ki == 0, 0.0, xp.where(kp == 0, 1.0, xp.minimum(ratio, 1.0)))
        if limits is not None:
            low, high = (xp.asarray(np.asarray(side), dtype=kp.dtype) for side in (limits.low, limits.high))

        def act(memory: Any, observation: Any) -> tuple[Any, Any]:
            integral, derivative, last, started = memory
            error = setpoint + (matrix @ observation if observation.ndim == 1 else observation @ matrix.T)
            derivative = keep * derivative + rise * (error - xp.where(started > 0, last, error))
            wanted = kp * error + integral + derivative
            integral = integral + h * ki * error
            if limits is not None:
                integral = integral + track * (xp.minimum(xp.maximum(wanted, low), high) - wanted)
            return (integral, derivative, error, xp.ones_like(started)), wanted

        zero = xp.zeros_like(setpoint)
        return (zero, zero, zero, xp.zeros((), setpoint.dtype)), act

    def controller(self) -> Any:
        """See `Policy.controller`.

        Raises:
            ValueError: its observations are known by name only, or it has no time step.
        """
        if "signals" in self.details or "filter" not in self.constants:
            connected = self._connected(None, (), self.interface)
            if "signals" in connected.details or "filter" not in connected.constants:
                raise ValueError(
                    "This PID is not connected yet: with_interface(Interface(observation_names=…, dt=…)) says which "
                    "observations there are and how often it acts."
                )
            return connected.controller()
        return super().controller()

    # what others ask

    def values(self) -> dict[str, float]:
        """The gains by name, in their own units, within their bounds."""
        return dict(zip(self.details["names"], np.asarray(self._now()).ravel().tolist(), strict=True))

    def _now(self) -> Any:
        if isinstance(self.parameters["values"], np.ndarray):
            return self.gains(np)
        import jax.numpy as jnp

        return self.gains(jnp)

    def _free(self, entries: Any) -> list[Any]:
        return [entry for entry, free in zip(entries, self.details["free"], strict=True) if free]

    def step_units(self, largest: Any) -> np.ndarray:
        """See `Policy.step_units`; {name: amount} in the gains' own units, a factor above 1 for positive gains."""
        if not isinstance(largest, Mapping):
            return super().step_units(largest)
        searched = [
            self._free(entries) for entries in (self.details["names"], self.constants["scale"], self.details["log"])
        ]
        return named_numbers.step_units(largest, *searched)

    def parameter_names(self, space: str = "action") -> list[str]:
        """The names of the gains that are searched."""
        return self._free(self.details["names"])

    def perturbation(self, share: float, specification: Specification) -> float:
        """See `Policy.perturbation`; a share of the gains' own scales."""
        return STD

    def starting_at(self, values: dict[str, Any]) -> Policy:
        """See `Policy.starting_at`; {name: gain}.

        Raises:
            ValueError: an unknown name, a gain outside its bounds, or one that changes its sign.
        """
        numbers = named_numbers.replaced(self.values(), values)
        names, held = self.details["names"], self.constants
        bounds = {n: (float(lo), float(hi)) for n, lo, hi in zip(names, held["low"], held["high"], strict=True)}
        log = [name for name, flag in zip(names, self.details["log"], strict=True) if flag]
        checked = named_numbers.constants(names, numbers, bounds, np.asarray(held["scale"]), log)
        policy = self._with(parameters={"values": np.zeros(sum(self.details["free"]))}, constants=held | checked)
        policy.__post_init__()
        return policy

    @classmethod
    def default(
        cls, specification: Specification, settings: PolicySettings, word: str, running: bool | None, seed: int
    ) -> Policy:
        """See `Policy.default`.

        Without gains, kp moves the action by half its range at an error as large as the observation typically is, the
        integral time is a quarter of a rollout, and the derivative time a quarter of that.
        """
        _timed(specification)
        action: Any = specification.action
        m, p, names = action.size, specification.observation_size, specification.observation_names
        given = settings.observation or tuple(map(str, range(m)))
        signals = [int(word) if word.isdigit() else word for word in given]
        gains = {name: getattr(settings, name) for name in GAINS}
        if all(gain is None for gain in gains.values()):
            scales = specification.observation_scale or (1.0,) * p
            typical = np.array([scales[place(signal, p, names)] for signal in listed("observation", signals, m)])
            integral = INTEGRAL_SHARE * specification.horizon * (specification.dt or 0.0)
            kp = np.asarray(action.half_range) / typical
            gains = {"kp": kp, "ki": kp / integral, "kd": kp * integral * DERIVATIVE_SHARE}
        return cls(
            *(each(name, 0.0 if gain is None else gain, m) for name, gain in gains.items()),
            observation=signals,
            setpoint=settings.setpoint or 0.0,
            filter=settings.filter,
            fixed=settings.fixed or (),
        ).fitted(specification)

    def account(self) -> list[tuple[str, Any]]:
        """See `Policy.account`."""
        names, values = self.details["names"], list(self.values().values())
        begun, held = np.asarray(self.constants["initial"]).tolist(), self.constants
        interface = self.interface
        parts: list[tuple[str, Any]] = [
            (
                "text",
                "A PID controller: u = I + kp e + D within its limits, with "
                "D ← (tf D + kd (e − e⁻))/(tf + h) and I ← I + ki h e + (h/tt)(u − v), where v is u before it is "
                f"limited, e⁻ the last error, and tt = kp/ki. {sum(self.details['free'])} gains were searched.",
            )
        ]
        rows = [
            [name, f"{start:.6g}", f"{value:.6g}", "yes" if free else "no"]
            for name, start, value, free in zip(names, begun, values, self.details["free"], strict=True)
        ]
        parts.append(
            ("table", (["gain", "start", "end", "searched"], rows, "Gains: where the search began, and ended."))
        )
        rows = []
        for loop, (kp, ki, kd) in enumerate(np.reshape(values, (-1, 3)).tolist()):
            action = interface.action_names[loop] if interface.action_names else f"action {loop}"
            times = [f"{a / b:.4g}" if a and b else "–" for a, b in ((kp, ki), (kd, kp))]
            lag = f"{float(held['filter'][loop]):.4g}"
            rows.append([action, words(held["error"][loop], held["setpoint"][loop], interface), *times, lag])
        caption = (
            "Error e of each loop; integral time Ti = kp/ki, derivative time Td = kd/kp, and filter tf, in seconds."
        )
        parts.append(("table", (["action", "e", "Ti", "Td", "tf"], rows, caption)))
        return parts


def _timed(specification: Specification) -> None:
    """Raise ValueError unless the task has a time step."""
    if specification.dt is None:
        raise ValueError(
            f"{specification.name} does not say its time step, which a PID needs: give dt in seconds, as "
            "Specification(…, dt=0.01), or as an attribute dt of your plant or environment."
        )
