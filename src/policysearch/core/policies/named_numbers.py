"""Named numbers searched in units of their own: initial + scale · z, or initial · exp(scale · z), within bounds.

d numbers. Shared by the kinds of policies that consist of them. No JAX.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from policysearch.core import law
from policysearch.core.grammar import Parameter
from policysearch.core.policies.initial_values import finite

if TYPE_CHECKING:
    from jaxtyping import Array, Float

#: constants of such a policy, (d,) each
CONSTANTS = ("initial", "scale", "low", "high")


def constants(
    names: Sequence[str],
    initial: Any,
    bounds: Mapping[str, tuple[float, float]] | None,
    scale: Any,
    log: Sequence[str],
) -> dict[str, np.ndarray]:
    """Initial values, scales and bounds as arrays (d,).

    Raises:
        ValueError: initial outside bounds, non-positive scale, unknown names, a log of a non-positive number, or a
            invalid name (see `grammar.name`).
    """
    import jax.numpy as jnp

    bounds = dict(bounds or {})
    for unknown in [*bounds, *log]:
        if unknown not in names:
            raise ValueError(f"No parameter is named {unknown!r}; the names are {', '.join(names)}.")
    values = np.broadcast_to(np.asarray(initial, float), (len(names),))
    scales = np.broadcast_to(np.asarray(scale, float), (len(names),))
    low = np.array([bounds.get(name, (-np.inf, np.inf))[0] for name in names], float)
    high = np.array([bounds.get(name, (-np.inf, np.inf))[1] for name in names], float)
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"Parameter names must be distinct and at least one; got {list(names)}.")
    if not np.all(np.isfinite(values)) or not np.all(np.isfinite(scales) & (scales > 0)):
        raise ValueError(f"initial must be finite and scale positive; got {values} and {scales}.")
    for name, value, lo, hi in zip(names, values, low, high, strict=True):
        Parameter(name, value, lo, hi, name in log).checked()
    held = np.finfo(jnp.zeros(()).dtype)
    for name, given in zip(names, np.stack([values, scales, low, high], 1).tolist(), strict=True):
        for number in given:
            if math.isfinite(number) and number and not float(held.tiny) <= abs(number) <= float(held.max):
                raise ValueError(f"{name}: {number:g} is out of range for {held.dtype}; choose another unit.")
    return dict(zip(CONSTANTS, (values, scales, low, high), strict=True))


def check(names: Sequence[str], parameters: Mapping[str, Any], given: Mapping[str, Any], log: Any, policy: str) -> None:
    """Raise ValueError unless a controller's arrays have one entry for each name."""
    values = law.needed("values", parameters, "parameter", policy)
    law.fitting("values", values, (len(names),), policy)
    flags = {} if log is None else {"log": np.asarray(log)}
    for name in (*CONSTANTS, "log"):
        law.fitting(name, law.needed(name, {**given, **flags}, "constant", policy), values.shape, policy)


def vector(xp: Any, z: Float[Array, " d"], given: Mapping[str, Any], log: Any) -> Float[Array, " d"]:
    """The numbers in their own units, (d,), within their bounds."""
    logarithmic = np.asarray(log, bool)
    moved = given["scale"] * z
    grown = given["initial"] * xp.exp(xp.where(logarithmic, moved, 0.0))
    return xp.clip(xp.where(logarithmic, grown, given["initial"] + moved), given["low"], given["high"])


def step_units(largest: Mapping[str, float], names: Sequence[str], scale: Any, log: Sequence[bool]) -> np.ndarray:
    """Largest steps by name, in the numbers' own units or as factors, in units of z, (d,); inf where none is given.

    Raises:
        ValueError: an unknown name, or a step that cannot be.
    """
    units = np.full(len(names), np.inf)
    for name, amount in largest.items():
        if name not in names:
            raise ValueError(f"largest_step: no parameter is named {name!r}; the names are {', '.join(names)}.")
        index = names.index(name)
        least, what = (1.0, "a factor above 1") if log[index] else (0.0, "an amount above 0")
        if not (isinstance(amount, (int, float)) and math.isfinite(amount) and amount > least):
            raise ValueError(f"largest_step of {name} is {amount}; it must be {what}.")
        units[index] = (math.log(amount) if log[index] else amount) / float(scale[index])
    return units


def replaced(values: Mapping[str, float], initial: Mapping[str, Any]) -> list[float]:
    """The values, with those of them replaced that `initial` gives.

    Raises:
        ValueError: an unknown name, or what is no number.
    """
    unknown = [name for name in initial if name not in values]
    if unknown:
        raise ValueError(f"Initial values for {', '.join(unknown[:10])}; the parameters are {', '.join(values)}.")
    return [float(finite(name, initial.get(name, value), ())) for name, value in values.items()]
