"""What a controller reads and gives, checked: shapes, and numbers that are finite. No JAX.

p observations, m actions, B a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NoReturn

import msgspec
import numpy as np

from policysearch.core.interface import Interface


class Action(msgspec.Struct, frozen=True, eq=False):
    """An action as drawn, which is what a search must be told, and as the machine receives it, within its limits.

    A gradient's scores belong to what was drawn: told what was applied, a search goes the wrong way. So neither can be
    mistaken for the other by index; unpacking gives both, `sampled, applied = controller.act(…)`.

    Args:
        sampled: (m,) or (B, m), in action units; an int or (B,) of choices.
        applied: likewise; the same if no limit is known.
    """

    sampled: Any
    applied: Any

    def __iter__(self) -> Iterator[Any]:
        return iter((self.sampled, self.applied))


def numbers(observation: Any, shape: tuple[int, ...], interface: Interface) -> np.ndarray:
    """An observation (p,), which is the shape, or a batch of them (B, p), as an array.

    Raises:
        ValueError: another shape, or not numbers.
    """
    if type(observation) is not np.ndarray or observation.dtype != np.float64:
        try:
            if np.asarray(observation).dtype.kind == "c":
                raise TypeError("complex")
            observation = np.asarray(observation, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"observation is not an array of real numbers: {error}") from None
    if observation.shape == shape:
        return observation
    if observation.ndim != 2 or observation.shape[1:] != shape:
        p, words = shape[0], interface.observation
        hint = ""
        if observation.ndim == 1:
            count = len(observation)
            hint = f"; {words(count)} is missing" if count < p else f"; there is no {words(p)}"
        raise ValueError(
            f"observation has shape {observation.shape}; it must be {shape}, or (B, {p}) for a batch{hint}."
        )
    return observation


def finite(values: np.ndarray) -> bool:
    """Whether all of (p,) or (B, p) are finite; a finite sum shows that at once, and Python's sum never warns."""
    return (values.ndim == 1 and math.isfinite(sum(values.tolist()))) or bool(np.isfinite(values).all())


def refuse(what: str, values: np.ndarray, interface: Interface, advice: str) -> NoReturn:
    """Raise ValueError for the first number of (p,) or (B, p) that is not finite.

    Args:
        what: they are: "observation" or "action", which have names, or another word.
        values: numbers, of which one is not finite.
        interface: with the names.
        advice: what to do.
    """
    *row, index = np.argwhere(~np.isfinite(values))[0].tolist()
    words = {"observation": interface.observation, "action": interface.action}
    name = words[what](index) if what in words else f"{what} {index}"
    where = f" of row {row[0]}" if row else ""
    raise ValueError(f"{name}{where} is {values[(*row, index)]}, which is not finite. {advice}")


def constant(value: np.ndarray) -> np.ndarray:
    """An array of a policy's constants: true and false as they are, numbers as float64."""
    value = np.array(value)
    return value if value.dtype == bool else value.astype(np.float64)
