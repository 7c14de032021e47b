"""`Plant`: a plant x' = f(x, u) in NumPy, of one state or of many at once, looked at before anything runs. No JAX.

n states, p observations, m actions, T stages.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from policysearch.core.diagnoses import said
from policysearch.core.references import required_arguments
from policysearch.core.signals import Continuous
from policysearch.core.specification import Specification
from policysearch.workers.equations import INTEGRATORS, SCIPY, Equations, agreeing

#: stages of the rollouts that are tried, and the seed of their actions
STAGES, SEED = 3, 20_011_999
#: what each function takes, and what it gives
_TAKES = {"f": "(x, u)", "cost": "(x, u)", "output": "(x)", "end": "(x)", "final_cost": "(x)", "reset": "(generator)"}


class Plant:
    """A plant whose motion, costs and observations are functions in NumPy.

    The functions are those of one state: f(x, u) of arrays (n,) and (m,). If they also take B states at once, all
    rollouts of an update run together in one loop: as columns, x (n, B) and u (m, B), as most code for one state does
    (x[0] is then the first number of all states), or as rows, (B, n) and (B, m). This is found out by trying each
    function; its results must be those of the single states. Otherwise the plant runs in worker processes, one rollout
    at a time, if they can import its functions, those of a module or of a named file; lambdas, closures and what a
    notebook or the main script defines run in this process.

    Costs are minimised: J = E[Σ_{k<L} discount^k cost(x_k, u_k) + discount^(L−1) final_cost(x_L)], L stages.

    Args:
        f: the derivative (n,) of the state x (n,) in 1/s, under the action u (m,), which is held for each stage.
        dt: seconds per stage.
        horizon: T, stages of a rollout.
        cost: of a stage, cost(x, u), one number, with u as it reached the plant. Multiply it by dt, so that the total
            does not depend on dt.
        limits: of the actions: `Continuous`, or (low, high), each a number or m of them, ±inf for none. Actions are
            clipped to them.
        reset: the initial state (n,), or a function of a `numpy.random.Generator` that draws one.
        output: the observation (p,) of a state; the state itself by default.
        end: whether a rollout ends in a state, such as a fall; never by default. Where stage costs are positive, an
            early end saves them: charge it in `final_cost`.
        final_cost: of the state in which a rollout ends, early or not; 0 by default.
        discrete: f gives the next state, instead of a derivative.
        integrator: "rk4" (Runge-Kutta, order 4), "euler", or a method of `scipy.integrate.solve_ivp`, such as "Radau"
            or "LSODA" for stiff plants, with tolerances of 1e-6 relative and 1e-9 absolute; these run one rollout at a
            time.
        substeps: steps of "rk4" or "euler" per stage.
        sensor_noise: standard deviation of white noise on each observation, a number or (p,).
        delay: stages from an action to its effect; before, the plant gets 0, or the limit nearest to it.
        hold: stages for which each action of the policy is kept.
        discount: of the objective, per stage, in (0, 1].
        observation_scale: typical magnitude of each observation, (p,); running statistics by default.
        observation_names, action_names: with units, such as "angle [rad]".
        name: for reports and files; that of f by default.
        solved_cost: mean cost at or below which the task counts as solved.
        policy: the default one, "linear", "network" or "either"; see `Specification`.
        batch: False never runs many states at once, True insists on it; None finds out.

    Attributes:
        specification: what a search must know about it.
        layouts: of each function, "columns" or "rows" if it takes many states at once, else "one".

    Raises:
        ValueError: numbers out of range; functions that raise, give arrays of another shape or numbers that are not
            finite, change their arguments, or give something else for the same arguments. The message says what came.

    Example:
        >>> def mass(x, u):
        ...     return np.array([x[1], u[0]])
        >>> plant = Plant(
        ...     mass, dt=0.1, horizon=50, cost=lambda x, u: x[0] ** 2 + u[0] ** 2, limits=(-1, 1), reset=[1.0, 0.0]
        ... )
        >>> plant.specification.observation_size, plant.layouts["f"]
        (2, 'columns')
    """

    summary: ClassVar[str] = "a plant in NumPy"

    def __init__(
        self,
        f: Callable[..., ArrayLike],
        *,
        dt: float,
        horizon: int,
        cost: Callable[..., Any],
        limits: Continuous | tuple[ArrayLike, ArrayLike],
        reset: ArrayLike | Callable[[np.random.Generator], ArrayLike],
        output: Callable[..., ArrayLike] | None = None,
        end: Callable[..., Any] | None = None,
        final_cost: Callable[..., Any] | None = None,
        discrete: bool = False,
        integrator: str = "rk4",
        substeps: int = 1,
        sensor_noise: ArrayLike = 0.0,
        delay: int = 0,
        hold: int = 1,
        discount: float = 1.0,
        observation_scale: Sequence[float] | None = None,
        observation_names: Sequence[str] = (),
        action_names: Sequence[str] = (),
        name: str | None = None,
        solved_cost: float | None = None,
        policy: str = "linear",
        batch: bool | None = None,
    ):
        self.name = str(name or getattr(f, "__name__", type(f).__name__))
        action = _limits(limits, self.name)
        if integrator not in INTEGRATORS:
            raise ValueError(f"integrator is {integrator!r}; choose one of {', '.join(INTEGRATORS)}.")
        _whole("substeps", substeps, 1)
        _whole("delay", delay, 0)
        if substeps > 1 and (discrete or integrator in SCIPY):
            what = "discrete plants have none" if discrete else f"{integrator} chooses its own"
            raise ValueError(f"substeps is {substeps}; {what}: leave it out.")
        if not 0 < discount <= 1:
            raise ValueError(f"discount is {discount}; it must lie in (0, 1].")
        given: dict[str, Any] = {
            "f": f,
            "cost": cost,
            "output": output,
            "end": end,
            "final_cost": final_cost,
            "reset": reset,
        }
        for what, function in given.items():
            _callable(self.name, what, function)
        equations = Equations(
            environment=self.name,
            **given,
            dt=float(dt) if isinstance(dt, numbers.Real) else math.nan,
            discrete=discrete,
            integrator=integrator,
            substeps=substeps,
            low=np.array(action.low),
            high=np.array(action.high),
            sensor_noise=None,
            delay=delay,
            hold=hold,
            layouts={what: "one" for what, function in given.items() if function is not None and what != "reset"},
        )
        #: the driver's folder when the plant was made; workers start there
        self.directory = os.getcwd()
        self.horizon, self._discount, self._solved = horizon, float(discount), solved_cost
        # what it says of sizes and names comes before anything is called
        self._known: dict[str, Any] = {
            "name": self.name,
            "action": action,
            "action_names": action_names,
            "dt": dt,
            "discount": self._discount,
            "hold": hold,
            "ends_early": end is not None,
            "policy": policy,
            "solved": "" if solved_cost is None else f"mean cost of at most {solved_cost:g}",
        }
        Specification(**self._known, horizon=horizon)
        with np.errstate(all="ignore"):
            tried = _Contact(equations)
        noise = np.broadcast_to(np.asarray(sensor_noise, np.float64), (tried.p,))
        if not np.all(np.isfinite(noise) & (noise >= 0)):
            raise ValueError(
                f"sensor_noise is {sensor_noise!r:.80}; give standard deviations, at least 0, of each observation."
            )
        self._known |= {
            "observation_size": tried.p,
            "observation_names": observation_names,
            "observation_scale": None if observation_scale is None else _scales(observation_scale, tried.p),
            "deterministic": not callable(reset) and not noise.any(),
        }
        with np.errstate(all="ignore"):
            self.equations = dataclasses.replace(
                equations,
                sensor_noise=noise if noise.any() else None,
                layouts=equations.layouts if batch is False else tried.layouts(),
                addresses=equations.found_at(),
            )
        self.layouts: dict[str, str] = self.equations.layouts
        if batch and not self.equations.batched:
            singly = [what for what, layout in self.layouts.items() if layout == "one"]
            what = f"{', '.join(singly)} took" if singly else f"{integrator} solves"
            raise ValueError(
                f"{self.name}: batch=True, but {what} one state at a time. Index states as x[0] or x[..., 0], use "
                "numpy.where instead of if, give numbers that do not depend on the state as 0 * x[0], and a fixed-step "
                "integrator."
            )
        self.specification  # noqa: B018 (checks what it was given)

    @property
    def specification(self) -> Specification:
        """Sizes, limits, names, horizon and time step."""
        return Specification(**self._known, horizon=self.horizon)

    @property
    def runner(self) -> str:
        """What runs its trials, see `policysearch.runners`."""
        return "batch" if self.equations.batched or not self.equations.importable else "singly"

    def solved_cost(self) -> float | None:
        """Mean cost at or below which the task counts as solved; None without such a criterion."""
        return self._solved

    def __repr__(self) -> str:
        found = self.specification
        size = len(self.equations.low)
        return f"Plant({self.name}: {found.observation_size} observations, {size} actions, {self.horizon} stages)"


class _Contact:
    """The first calls of a plant's functions, one state at a time: a few short rollouts with random actions.

    p: number of observations.
    """

    def __init__(self, equations: Equations):
        self.equations, self.name = equations, equations.environment
        self._checked: set[str] = set()
        start = self._state(equations.start(self._generator(0)) if callable(equations.reset) else equations.reset)
        n, m = len(start), len(equations.low)
        if callable(equations.reset):
            again = self._state(equations.start(self._generator(0)))
            if not np.array_equal(start, again):
                raise ValueError(
                    f"{self.name}: reset gave {start.tolist()} and {again.tolist()} for generators of the same seed. "
                    "Draw all random numbers from the generator that it is given."
                )
        self.p = len(self._observed(start))
        #: not n, m or p, so that no axis is mistaken for another
        size = next(size for size in range(5, 9) if size not in (n, m, self.p))
        self.x, self.u = np.empty((size, n)), np.empty((size, m))
        for row in range(size):
            self.x[row], self.u[row] = self._tried(row)

    def _generator(self, row: int) -> np.random.Generator:
        return np.random.default_rng(SEED + row)

    def _tried(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """A state that a short rollout led to, and an action."""
        equations, generator = self.equations, np.random.default_rng([SEED, row])
        x, n = self._state(equations.start(self._generator(row))), None
        low, high = np.maximum(equations.low, -1e3), np.minimum(equations.high, 1e3)
        unlimited = ~np.isfinite(equations.high - equations.low)
        for stage in range(STAGES):
            drawn = np.where(unlimited, generator.standard_normal(len(low)), generator.uniform(low, high))
            u = np.clip(drawn, equations.low, equations.high) if row else equations.resting
            first = row == stage == 0
            self._called("f", (len(x),), first, x, u)
            self._called("cost", (), first, x, u)
            self._observed(x, first)
            for what in ("end", "final_cost"):
                if getattr(equations, what) is not None:
                    found = self._called(what, (), first, x)
                    if what == "end" and first and found:
                        raise ValueError(
                            f"{self.name}: end is true in the initial state {x.tolist()}; nothing would run."
                        )
            n = equations.advanced(x[None], u[None])[0]
            if not np.isfinite(n).all():
                break
            x = n
        return x, u

    def _state(self, given: Any) -> np.ndarray:
        try:
            x = np.array(given, np.float64)
        except (TypeError, ValueError):
            x = np.empty(())
        if x.ndim != 1 or not x.size or not np.isfinite(x).all():
            raise ValueError(
                f"{self.name}: reset gave {given!r:.80}; it must be a state, finite numbers of shape (n,)."
            )
        return x

    def _observed(self, x: np.ndarray, first: bool = True) -> np.ndarray:
        if self.equations.output is None:
            return x
        return self._called("output", None if first else (self.p,), first, x)

    def _called(self, what: str, shape: tuple[int, ...] | None, first: bool, *given: np.ndarray) -> np.ndarray:
        """The result of a function for one state, once it is what it must be; (p,) for any p if the shape is None."""
        function = getattr(self.equations, what)
        words = ", ".join(f"{letter} = {part.tolist()}" for letter, part in zip("xu", given, strict=False))
        results = []
        for _ in range(2):
            passed = [part.copy() for part in given]
            try:
                came = function(*passed)
            except Exception as error:
                raise ValueError(f"{self.name}: {what} fails for {words}: {said(error)}") from error
            if any(not np.array_equal(a, b) for a, b in zip(passed, given, strict=True)):
                raise ValueError(f"{self.name}: {what} changes its arguments. Work on a copy, x = x.copy().")
            results.append(self._numbers(what, came, shape, words))
        if not np.array_equal(results[0], results[1], equal_nan=True):
            raise ValueError(
                f"{self.name}: {what} gave {results[0].tolist()} and then {results[1].tolist()} for the same {words}. "
                "It may neither remember anything nor draw random numbers: what changes is a part of the state, and "
                "what is random is drawn in reset, or is sensor_noise."
            )
        if first and not np.isfinite(results[0]).all():
            raise ValueError(f"{self.name}: {what} gave {results[0].tolist()} for {words}, where rollouts begin.")
        return results[0]

    def _numbers(self, what: str, came: Any, shape: tuple[int, ...] | None, words: str) -> np.ndarray:
        if type(came).__module__.split(".")[0] in ("jax", "jaxlib"):
            raise ValueError(
                f"{self.name}: {what} gave an array of JAX. Use NumPy in a Plant; a plant in jax.numpy, which is "
                "compiled as a whole, is a subclass of policysearch.Task."
            )
        try:
            found = np.asarray([None] if came is None else came).astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.name}: {what} gave {came!r:.80} for {words}; it must give numbers.") from error
        if found.shape == shape or (shape is None and found.ndim == 1 and found.size):
            return found
        wanted = {
            "f": f"{'the next state' if self.equations.discrete else 'the derivative of the state'}, shape {shape}",
            "output": f"the observation, shape {'(p,)' if shape is None else shape}",
            "end": "true or false",
        }.get(what, "one number: take u[0], or sum")
        raise ValueError(
            f"{self.name}: {what} gave an array of shape {found.shape} for {words}; it must give {wanted}."
        )

    def layouts(self) -> dict[str, str]:
        """How each function takes many states at once; "one" where it does not."""
        return {name: self._layout(name) for name in self.equations.layouts}

    def _layout(self, name: str) -> str:
        function = getattr(self.equations, name)
        given = (self.x, self.u) if name in ("f", "cost") else (self.x,)
        vector = name in ("f", "output")
        single = [np.asarray(function(*one), np.float64) for one in zip(*given, strict=True)]
        for layout in ("rows", "columns"):
            passed = [np.ascontiguousarray(part.T) if layout == "columns" else part.copy() for part in given]
            before = [part.copy() for part in passed]
            try:
                came = np.asarray(function(*passed), np.float64)
            except Exception:  # what the code for one state makes of many
                continue
            if not vector and came.shape == ():
                came = np.full(len(single), came)
            together = came.T if layout == "columns" else came
            same = all(np.array_equal(a, b) for a, b in zip(passed, before, strict=True))
            if same and agreeing(single, together):
                return layout
        return "one"


def _limits(given: Any, name: str) -> Continuous:
    if isinstance(given, Continuous):
        return given
    try:
        low, high = np.broadcast_arrays(*(np.atleast_1d(np.asarray(side, np.float64)) for side in given))
        if low.ndim != 1 or not low.size:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"{name}: limits is {given!r:.80}; give Continuous(low, high) or (low, high) of the actions, each a number "
            "or one for each action, -inf and inf for none."
        ) from None
    return Continuous(tuple(low.tolist()), tuple(high.tolist()))


def _callable(name: str, what: str, function: Any) -> None:
    """Raise ValueError unless a function can be called with what it will be given."""
    if function is None and what not in ("f", "cost", "reset"):
        return
    if not callable(function):
        if what == "reset" and function is not None:
            return
        raise ValueError(f"{name}: {what} is {function!r:.80}; it must be a function of {_TAKES[what]}.")
    required = required_arguments(function)
    if required != _TAKES[what].count(",") + 1:
        time = " Without time: what depends on it is a part of the state." if required == 3 else ""
        raise ValueError(f"{name}: {what} requires {required} arguments; it is called with {_TAKES[what]}.{time}")


def _whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number, at least {least}.")


def _scales(given: Sequence[float], p: int) -> tuple[float, ...]:
    scales = np.asarray(given, np.float64)
    if scales.shape != (p,) or not np.all(np.isfinite(scales) & (scales > 0)):
        raise ValueError(f"observation_scale is {given!r:.80}; give a positive number for each of {p} observations.")
    return tuple(scales.tolist())
