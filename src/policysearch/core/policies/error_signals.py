"""Errors e = constant + matrix · observation of m loops, from observations given by place or name. No JAX.

p observations, m loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from policysearch.core.interface import Interface


def words(row: Any, setpoint: Any, interface: Interface) -> str:
    """An error in words, as "1 − position [m]"."""
    text = f"{float(setpoint):.6g}" if float(setpoint) else ""
    for index in np.flatnonzero(row):
        name = interface.observation_names[index] if interface.observation_names else f"observation {index}"
        sign = "−" if row[index] < 0 else "+" if text else ""
        text += f" {sign} {name}" if text else f"{sign}{name}"
    return text


def each(name: str, given: Any, loops: int) -> np.ndarray:
    """A finite number for each loop."""
    numbers = np.asarray(given, float)
    if numbers.shape not in ((), (1,), (loops,)) or not np.all(np.isfinite(numbers)):
        raise ValueError(f"{name} is {given}; it must be a finite number, or one for each of {loops} loops.")
    return np.array(np.broadcast_to(numbers, (loops,)))


def listed(name: str, given: Any, loops: int) -> list[Any]:
    """A signal or a number for each loop."""
    each = list(given) if isinstance(given, (list, tuple, np.ndarray)) else [given]
    if len(each) not in (1, loops):
        raise ValueError(f"{len(each)} values of {name} were given; give one, or one for each of {loops} loops.")
    plain = [entry.item() if isinstance(entry, np.generic) else entry for entry in each]
    return plain * loops if len(plain) == 1 else plain


def errors(
    sign: float, signals: Sequence[tuple[Any, Any]], size: int, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The matrix (m, p) and the constants (m,) with e = constant + matrix · observation."""
    matrix, constant = np.zeros((len(signals), size)), np.zeros(len(signals))
    for loop, (y, setpoint) in enumerate(signals):
        matrix[loop, place(y, size, names)] += sign
        if isinstance(setpoint, str):
            matrix[loop, place(setpoint, size, names)] += 1.0
        else:
            constant[loop] = each("setpoint", setpoint, 1)[0]
    return matrix, constant


def named(signals: Sequence[tuple[Any, Any]]) -> bool:
    """Whether an observation is given by its name."""
    return any(isinstance(entry, str) for pair in signals for entry in pair)


def place(signal: Any, size: int, names: Sequence[str]) -> int:
    """The place of an observation that is given by its place or its name, with or without its unit."""
    if isinstance(signal, int) and not isinstance(signal, bool):
        if 0 <= signal < size:
            return signal
        raise ValueError(f"There is no observation {signal}; there are {size}, from 0.")
    found = [index for index, name in enumerate(names) if signal in (name, name.partition(" [")[0])]
    if len(found) != 1:
        known = ", ".join(names) or f"not known here; give its place, 0 to {size - 1}"
        raise ValueError(f"No observation is named {signal!r}; the names are {known}.")
    return found[0]
