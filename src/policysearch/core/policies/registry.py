"""The kinds of policies by name, and what a controller asks of a kind. No JAX.

p observations, m actions or k choices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from policysearch.core.interface import Interface

#: kind, which is also the name of its file here → its class. A policy file and a controller name the kind.
KINDS = {
    "linear_gaussian": "LinearGaussian",
    "neural_gaussian": "NeuralGaussian",
    "softmax": "Softmax",
    "parameters": "Parameters",
    "pid": "PID",
}
#: what a policy gives: real actions, one of k choices, or named numbers, which take no observations
ACTIONS, CHOICE, NUMBERS = "actions", "choice", "numbers"

Output = Callable[[np.ndarray, "np.ndarray | None"], np.ndarray]


class Record(Protocol):
    """A policy of NumPy arrays as a controller needs it; see `policy.Policy`, which every kind is."""

    outputs: str
    recurrent: bool

    def sizes(self) -> tuple[int, int]:
        """Observations p, and actions m or choices k, after a check of all arrays."""

    def forward(self, xp: Any, observation: Any) -> Any:
        """The law for scaled observations (*batch, p)."""

    def begin(self, xp: Any) -> tuple[Any, Callable[[Any, Any], tuple[Any, Any]]]:
        """The memory at the start of a rollout, and (memory, observation) → (memory, action)."""

    def compiled(self, shift: np.ndarray | None, scale: np.ndarray | None) -> Output:
        """The law for one observation (p,) in its own units, fast; it writes into a second argument if given."""

    def values(self) -> dict[str, float]:
        """Its named numbers, in their own units."""

    def parameter_names(self, space: str = "action") -> list[str]:
        """A readable name for each entry of θ."""

    def account(self) -> list[tuple[str, Any]]:
        """What a report says of it."""


@functools.cache
def kind(name: str) -> Any:
    """The class of a kind of policy.

    Raises:
        ValueError: there is no such kind.
    """
    if name not in KINDS:
        raise ValueError(f'description["policy"] is {name!r}; choose one of {", ".join(KINDS)}.')
    return getattr(import_module(f"policysearch.core.policies.{name}"), KINDS[name])


def record(
    name: str,
    description: Mapping[str, Any],
    parameters: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray],
    interface: Interface,
) -> Record:
    """The policy of NumPy arrays that a controller consists of; see `Policy.of`."""
    found: Record = kind(name).of(description, parameters, constants, interface)
    return found


def kinds() -> list[Any]:
    """The classes of all kinds, in order."""
    return [kind(name) for name in KINDS]


def chosen(word: str, outputs: str) -> Any:
    """The class of the kind that a user asks for by a word, such as "network", where a task needs such outputs.

    Raises:
        ValueError: no kind answers to it; the message names the words that do.
    """
    fitting = [found for found in kinds() if found.outputs == outputs and found.words]
    for found in fitting:
        if word in found.words:
            return found
    known = [word for found in fitting for word in found.words]
    raise ValueError(f"use a {' or '.join(known)} policy")
