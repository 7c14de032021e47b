"""`Equations`: a plant's functions in NumPy, of one state or of B at once, and one stage of its motion. No JAX.

n states, p observations, m actions. A batch is (B, n) outside; each function gets it in its own `LAYOUTS`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from policysearch.core.references import address, attributes
from policysearch.workers.jobs import Episode

if TYPE_CHECKING:
    from policysearch.core.controller import Controller

#: how a function takes B states: one call for each; (B, n) in a call; (n, B) in a call, as SciPy's `vectorized`
LAYOUTS = ("one", "rows", "columns")
#: solved stage by stage by `scipy.integrate.solve_ivp`, one rollout at a time
SCIPY = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")
INTEGRATORS = ("rk4", "euler", *SCIPY)
#: of `solve_ivp`: relative to each state, and absolute
RTOL, ATOL = 1e-6, 1e-9
#: fields that are functions; those of states and actions, and those of states alone
_OF_BOTH, _OF_STATES = ("f", "cost"), ("output", "end", "final_cost")
FUNCTIONS = (*_OF_BOTH, *_OF_STATES, "reset")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Equations:
    """What `Plant` is given, checked; and the recipe by which a worker makes it.

    Args:
        environment: name of the plant.
        f, cost, reset, output, end, final_cost: its functions, or None; `reset` may be a state (n,).
        dt: seconds per stage.
        discrete: f gives the next state.
        integrator: one of `INTEGRATORS`. substeps: of rk4 and euler.
        low, high: limits of the actions, (m,).
        sensor_noise: standard deviations (p,), or None.
        delay: stages until an action is applied. hold: stages for which each action is kept.
        layouts: of each function that is there, one of `LAYOUTS`.
        addresses: where a worker finds each function; None for what it cannot import.
    """

    environment: str
    f: Callable[..., Any]
    cost: Callable[..., Any]
    reset: Any
    output: Callable[..., Any] | None
    end: Callable[..., Any] | None
    final_cost: Callable[..., Any] | None
    dt: float
    discrete: bool
    integrator: str
    substeps: int
    low: np.ndarray
    high: np.ndarray
    sensor_noise: np.ndarray | None
    delay: int
    hold: int
    layouts: dict[str, str] = dataclasses.field(default_factory=dict)
    addresses: dict[str, str | None] = dataclasses.field(default_factory=dict)

    @property
    def importable(self) -> bool:
        """Whether a worker can import all functions."""
        return None not in self.addresses.values()

    @property
    def batched(self) -> bool:
        """Whether all functions take many states at once, so that nothing is called state by state."""
        return self.integrator not in SCIPY and "one" not in self.layouts.values()

    @property
    def resting(self) -> np.ndarray:
        """What is applied until the first delayed action arrives, (m,): 0, or the limit that is nearest to it."""
        return np.clip(0.0, self.low, self.high)

    def found_at(self) -> dict[str, str | None]:
        """`addresses` of its functions as they are now."""
        return {name: address(value) for name in FUNCTIONS if callable(value := getattr(self, name))}

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return _imported, ({**fields, **dict.fromkeys(self.addresses)},)

    @functools.cached_property
    def alone(self) -> Equations:
        """The same, with each function called for one state at a time."""
        return dataclasses.replace(self, layouts=dict.fromkeys(self.layouts, "one"))

    # the recipe of a worker, see `jobs.Recipe`

    def make(self) -> Equations:
        """Itself: it has nothing to be made."""
        return self

    def close(self) -> None:
        """Nothing to end."""

    def rollout(
        self,
        made: Equations,
        controller: Controller,
        seed: int,
        noise: np.ndarray | None,
        horizon: int,
        record: bool,
        survival_bonus: float,
        discount: float,
    ) -> Episode:
        """One rollout; see `lockstep.rollouts`."""
        from policysearch.workers.lockstep import rollouts, together

        deviations = None if noise is None else (controller.std * noise)[:, None]
        (found,) = rollouts(made, together(controller), [seed], [0], deviations, horizon, discount)
        return found.episode(record, self.hold)

    # what the functions give, for B states

    def start(self, generator: np.random.Generator) -> np.ndarray:
        """An initial state (n,)."""
        return np.array(self.reset(generator) if callable(self.reset) else self.reset, dtype=np.float64)

    def observed(self, x: np.ndarray) -> np.ndarray:
        """Observations (B, p) of states (B, n), without noise."""
        return x if self.output is None else self._vectors("output", x)

    def ended(self, x: np.ndarray) -> np.ndarray:
        """Whether rollouts end in states (B, n); (B,)."""
        return np.asarray(self._numbers("end", x), bool)

    def costs(self, x: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Costs (B,) of stages from states (B, n) with actions (B, m)."""
        return self._numbers("cost", x, u)

    def final_costs(self, x: np.ndarray) -> np.ndarray:
        """Costs (B,) of the states in which rollouts end, (B, n)."""
        return np.zeros(len(x)) if self.final_cost is None else self._numbers("final_cost", x)

    def advanced(self, x: np.ndarray, u: np.ndarray) -> np.ndarray:
        """The states (B, n) one stage after x (B, n), with actions u (B, m) held for that long."""
        if self.integrator in SCIPY and not self.discrete:
            return np.stack([self._solved(one, held) for one, held in zip(x, u, strict=True)])
        layout = self.layouts["f"]
        if layout == "one":
            f = lambda x, u: np.stack([self.f(one, held) for one, held in zip(x, u, strict=True)])  # noqa: E731
            return self._moved(f, x, u)
        if layout == "rows":
            return self._moved(self.f, np.ascontiguousarray(x), u)
        # columns stay columns: from one stage to the next nothing is copied
        return self._moved(self.f, np.ascontiguousarray(x.T), np.ascontiguousarray(u.T)).T

    def _moved(self, f: Callable[..., Any], x: np.ndarray, u: np.ndarray) -> np.ndarray:
        """The states after a stage, in the layout of f."""
        if self.discrete:
            return _fitting("f", f(x, u), x.shape)
        return INTEGRATED[self.integrator](f, x, u, self.dt / self.substeps, self.substeps)

    def _solved(self, x: np.ndarray, u: np.ndarray) -> np.ndarray:
        """The state (n,) after a stage; NaN where the solver gives up."""
        from scipy.integrate import solve_ivp

        finite = True

        def slope(t: float, y: np.ndarray) -> Any:
            nonlocal finite
            found = self.f(y, u)
            finite = finite and bool(np.isfinite(found).all())
            return found

        try:
            found = solve_ivp(slope, (0.0, self.dt), x, method=self.integrator, rtol=RTOL, atol=ATOL)
        except ValueError:  # what the linear algebra of an implicit method says of numbers that are not finite
            if finite:
                raise
            return np.full(x.shape, np.nan)
        return found.y[:, -1] if found.success else np.full(x.shape, np.nan)

    def _vectors(self, name: str, *given: np.ndarray) -> np.ndarray:
        """A function that gives a vector for each of B states."""
        function, layout = getattr(self, name), self.layouts[name]
        if layout == "one":
            return np.stack([np.asarray(function(*one), np.float64) for one in zip(*given, strict=True)])
        if layout == "rows":
            return np.asarray(function(*map(np.ascontiguousarray, given)), np.float64)
        return np.asarray(function(*(np.ascontiguousarray(part.T) for part in given)), np.float64).T

    def _numbers(self, name: str, *given: np.ndarray) -> np.ndarray:
        """A function that gives a number for each of B states."""
        function, layout = getattr(self, name), self.layouts[name]
        if layout == "one":
            return np.array([float(function(*one)) for one in zip(*given, strict=True)])
        given = tuple(np.ascontiguousarray(part.T if layout == "columns" else part) for part in given)
        found = np.asarray(function(*given), np.float64)
        size = given[0].shape[1 if layout == "columns" else 0]
        return np.full(size, found) if found.shape == () else _fitting(name, found, (size,))


def _imported(fields: dict[str, Any]) -> Equations:
    """The equations in another process, with their functions found again."""
    return Equations(**{**fields, **attributes(fields["addresses"])})


def _fitting(name: str, found: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(found, np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} returned shape {array.shape} for a batch, and {shape} when it was tried.")
    return array


def _euler(f: Callable[..., Any], x: np.ndarray, u: np.ndarray, h: float, steps: int) -> np.ndarray:
    """Explicit Euler steps."""
    for _ in range(steps):
        x = x + h * _fitting("f", f(x, u), x.shape)
    return x


def _rk4(f: Callable[..., Any], x: np.ndarray, u: np.ndarray, h: float, steps: int) -> np.ndarray:
    """Steps of the classical Runge-Kutta method of order 4 (Hairer, Nørsett & Wanner 1993, section II.1)."""
    half = h / 2
    for _ in range(steps):
        a = _fitting("f", f(x, u), x.shape)
        b = np.asarray(f(x + half * a, u))
        c = np.asarray(f(x + half * b, u))
        d = np.asarray(f(x + h * c, u))
        x = x + (h / 6) * (a + 2 * (b + c) + d)
    return x


#: integrators of fixed steps, of B states at once: (f, x, u, seconds of a step, steps) → the states after them
INTEGRATED: dict[str, Callable[..., np.ndarray]] = {"rk4": _rk4, "euler": _euler}


def agreeing(single: Any, together: Any) -> bool:
    """Whether results of a batch are those of its states, up to rounding."""
    wanted = np.asarray(single, np.float64)
    return np.shape(together) == wanted.shape and np.allclose(together, wanted, 1e-6, 1e-9, equal_nan=True)
