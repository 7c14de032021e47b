"""What is subtracted from costs, one file per baseline, named as users name it. No JAX is imported for the names.

A file with a `Baseline` in it is all that a new one takes: settings, help, checks and `policysearch check` follow.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policysearch.core.baselines._base import Baseline

#: names of all baselines
NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")))


def named(name: str) -> type[Baseline]:
    """The class of a baseline.

    Raises:
        ValueError: no baseline has this name.
    """
    from policysearch.core.baselines._base import Baseline

    if name not in NAMES:
        raise ValueError(f"baseline is {name!r}; use one of {', '.join(NAMES)}.")
    module = importlib.import_module(f"{__name__}.{name}")
    found: list[type[Baseline]] = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Baseline) and kind.__module__ == module.__name__
    ]
    return found[0]


def serving(kind: str) -> tuple[str, ...]:
    """Names of those that serve a kind of cost: "total" of a rollout, or "to_go" from each of its stages."""
    return tuple(name for name in NAMES if kind in named(name).serves)
