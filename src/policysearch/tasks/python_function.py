"""A plain Python cost g(θ) of a NumPy vector, run on the host: a simulator, a bench test. No JAX."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from policysearch.core.references import required_arguments
from policysearch.core.specification import Specification


class PythonFunction:
    """A cost `cost(values)` or `cost(values, seed)`: values a float64 vector (d,), seed an int (18.17).

    Args:
        cost: returns one number, in the user's unit; NaN or infinity for a trial that failed.
        initial: where a search starts, (d,); None if the policy gives it.
        name: for reports.
        deterministic: the same values always have the same cost.

    Raises:
        TypeError: `cost` cannot be called with one or two positional arguments.
        ValueError: `initial` is not a vector of finite numbers.

    Example:
        >>> PythonFunction(lambda values: values @ values, initial=(1.0, 2.0)).evaluate([3.0, 4.0])
        25.0
    """

    #: what runs its trials, see `policysearch.runners`
    runner: ClassVar[str] = "here"

    def __init__(
        self,
        cost: Callable[..., float],
        initial: Sequence[float] | None = None,
        name: str = "function",
        deterministic: bool = True,
    ):
        required = required_arguments(cost)
        if required not in (1, 2):
            raise TypeError(f"{name}: a cost takes (values) or (values, seed); this one requires {required} arguments")
        self.cost = cost
        self._by_position = required == 2
        self.seeded = self._by_position or "seed" in inspect.signature(cost).parameters
        self.initial = None if initial is None else tuple(float(v) for v in np.ravel(initial))
        if self.initial is not None and not (self.initial and np.all(np.isfinite(self.initial))):
            raise ValueError(f"{name}: initial is {initial!r}; give one or more finite numbers")
        self.name = name
        self.deterministic = deterministic and not self.seeded

    @property
    def specification(self) -> Specification:
        """Sizes; the horizon is one stage. Repeatable if the cost takes a seed or is deterministic."""
        return Specification(
            name=self.name,
            repeatable=self.seeded or self.deterministic,
            deterministic=self.deterministic,
        )

    def evaluate(self, values: ArrayLike, seed: int = 0) -> float:
        """Run the cost once.

        Args:
            values: parameters, (d,).
            seed: passed on if the cost takes one.

        Returns:
            The cost; NaN or infinity as the callable gave it.

        Raises:
            ValueError: `values` is not (d,), like `initial`.
            TypeError: the callable did not return one real number.
        """
        vector = np.array(values, np.float64)
        if vector.ndim != 1 or (self.initial is not None and vector.size != len(self.initial)):
            size = "d" if self.initial is None else len(self.initial)
            raise ValueError(f"{self.name}: values have shape {vector.shape}; it must be ({size},)")
        if not self.seeded:
            result = self.cost(vector)
        elif self._by_position:
            result = self.cost(vector, int(seed))
        else:
            result = self.cost(vector, seed=int(seed))
        try:
            # a forgotten `return` must not count as a failed trial, as NumPy's NaN for None would
            number = np.asarray([] if result is None else result, np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{self.name}: the cost must be one real number, not {result!r}") from error
        if number.size != 1:
            raise TypeError(f"{self.name}: the cost must be one real number, not {result!r}")
        return float(number.reshape(()))

    def solved_cost(self) -> float | None:
        """None: there is no criterion."""
        return None
