"""`Parameters`: named numbers (kp, kd, …), the policy of a rig or the argument of a cost. No JAX until it is searched.

d numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from policysearch.core.policies import named_numbers
from policysearch.core.policies.policy import Policy
from policysearch.core.policies.registry import NUMBERS

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from policysearch.core.specification import Specification

#: perturbation of the arguments of a plain cost g(θ), in their scales
STD = 0.1


class Parameters(Policy):
    """Named numbers (kp, kd, …): the policy of a rig, or the argument of a plain cost g(θ).

    θ holds z with value = initial + scale · z, or initial · exp(scale · z) where `log`, so that one std of the search
    means something for each. Bounds clip the value inside the plant, g(clip(z + β)): the search estimates the gradient
    of that smoothed cost without bias, which clipping z itself would not.

    Args:
        names: one per number.
        initial: starting values, (d,), in their own units.
        bounds: {name: (low, high)}; ±inf where not given.
        scale: (d,) or scalar: how much one unit of z changes a value (a factor e^scale where `log`).
        log: names that are searched on a logarithmic scale; their initial values must be positive.

    Raises:
        ValueError: initial outside bounds, non-positive scale, unknown names, a log of a non-positive number, or an
            invalid name (see `grammar.name`).

    Example:
        >>> policy = Parameters(["kp", "kd"], [1.0, 0.1], bounds={"kp": (0, 5)}, scale=[0.5, 0.05])
        >>> policy.values()["kp"]
        1.0
    """

    kind = "parameters"
    outputs = NUMBERS
    stochastic = False
    described = ("names",)
    flags = ("log",)

    def __init__(
        self,
        names: Sequence[str],
        initial: Any,
        *,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        scale: Any = 1.0,
        log: Sequence[str] = (),
    ):
        super().__init__(
            constants=named_numbers.constants(names, initial, bounds, scale, log),
            parameters={"values": np.zeros(len(names))},
            details={"names": tuple(names), "log": tuple(name in log for name in names)},
        )

    @property
    def names(self) -> tuple[str, ...]:
        """One per number, (d,)."""
        return self.details.get("names", ())

    @property
    def log(self) -> tuple[bool, ...]:
        """Which are searched on a logarithmic scale, (d,)."""
        return self.details["log"]

    def sizes(self) -> tuple[int, int]:
        """See `Policy.sizes`; they take no observations."""
        named_numbers.check(self.names, self.parameters, self.constants, self.details.get("log"), self.kind)
        return 0, len(self.names)

    def vector(self) -> Float[Array, " d"]:
        """The numbers in their own units, (d,), within their bounds."""
        import jax.numpy as jnp

        return self._vector(jnp)

    def _vector(self, xp: Any) -> Any:
        return named_numbers.vector(xp, self.parameters["values"], self.constants, self.log)

    def values(self) -> dict[str, float]:
        """The numbers by name, in their own units, within their bounds."""
        numbers = self._vector(np) if isinstance(self.parameters["values"], np.ndarray) else self.vector()
        return {name: float(value) for name, value in zip(self.names, np.asarray(numbers), strict=True)}

    def step_units(self, largest: Any) -> np.ndarray:
        """See `Policy.step_units`; {name: amount} in the numbers' own units, a factor above 1 where `log`."""
        if not isinstance(largest, Mapping):
            return super().step_units(largest)
        return named_numbers.step_units(largest, self.names, self.constants["scale"], self.log)

    def perturbation(self, share: float, specification: Specification) -> float:
        """See `Policy.perturbation`; a share of the numbers' own scales."""
        return STD

    def starting_at(self, values: dict[str, Any]) -> Policy:
        """See `Policy.starting_at`; {name: value}."""
        held = self.constants
        bounds = {n: (float(lo), float(hi)) for n, lo, hi in zip(self.names, held["low"], held["high"], strict=True)}
        log = [name for name, flag in zip(self.names, self.log, strict=True) if flag]
        numbers = named_numbers.replaced(self.values(), values)
        return Parameters(self.names, numbers, bounds=bounds, scale=np.asarray(held["scale"]), log=log)
