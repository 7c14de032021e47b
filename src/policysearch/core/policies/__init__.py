"""Policies, a file for each kind: its arrays and their checks, its forward pass, what else is special about it. No JAX.

How to add one is in docs/architecture.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policysearch.core.policies.linear_gaussian import LinearGaussian
    from policysearch.core.policies.neural_gaussian import NeuralGaussian
    from policysearch.core.policies.parameters import Parameters
    from policysearch.core.policies.pid import PID
    from policysearch.core.policies.policy import Policy
    from policysearch.core.policies.softmax import Softmax

__all__ = ["PID", "LinearGaussian", "NeuralGaussian", "Parameters", "Policy", "Softmax"]


def __getattr__(name: str) -> Any:
    # at first use, so that a controller imports its own kind only, and kinds may import controllers
    if name == "Policy":
        from policysearch.core.policies.policy import Policy

        return Policy
    from policysearch.core.policies.registry import KINDS, kind

    for known, called in KINDS.items():
        if called == name:
            return kind(known)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
