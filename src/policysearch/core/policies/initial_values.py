"""Values that a policy starts from, as people give them: checked to be finite numbers. No JAX."""

from __future__ import annotations

from typing import Any

import numpy as np


def finite(name: str, given: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Finite numbers, of a shape if one is given.

    Raises:
        ValueError: they are not; the message says how.
    """
    try:
        if np.asarray(given).dtype.kind in "USb":
            raise TypeError("text, or true and false, are not numbers")
        numbers = np.asarray(given, float)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"The initial {name} is not an array of numbers: {error}.") from None
    if not np.isfinite(numbers).all():
        raise ValueError(f"The initial {name} is not finite.")
    if shape is not None and numbers.shape != shape:
        raise ValueError(f"The initial {name} has shape {numbers.shape}; it must be {shape}.")
    return numbers
