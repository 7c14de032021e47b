"""What rules chose for the settings of a method that its user left open, by the names under which users set them.

The parts of a method call some of them otherwise: `common` is common_random_numbers, a memory is what makes shrink.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import msgspec
import numpy as np

from policysearch.method import Method
from policysearch.settings import ARS, Settings


def chosen(given: Settings | Method, method: Method) -> dict[str, Any]:
    """Value by name of every setting that was left open and that the method uses.

    Args:
        given: settings with None where a rule decides; a method composed by hand leaves nothing open.
        method: what was built from them.

    Example:
        >>> from policysearch import Search
        >>> search = Search("lqr", "natural_gradient")
        >>> chosen(search.given, search.method)["rollouts"]
        20
    """
    if isinstance(given, Method):
        return {}
    used = _used(given, method)
    names = (field.name for field in msgspec.structs.fields(type(given)) if getattr(given, field.name) is None)
    return {name: _plain(used[name]) for name in names if used.get(name) is not None}


def _used(given: Settings, method: Method) -> dict[str, Any]:
    used: dict[str, Any] = {}
    for part in (method.explore, method.credit, method.direction, method.step):
        used |= vars(part)
    if used.get("stages"):
        del used["rollouts"]  # those of the first update; the others follow from the stages
    used["common_random_numbers"] = used.get("common")
    if "directions" in used:
        used.setdefault("rollouts", used["directions"] * (2 if used["two_sided"] else 1))
    if isinstance(given, ARS):
        used["step"] = used["rate"] / (2 * used["std"])
    if "memory" in used:
        used["shrink"] = used["memory"] is not None
    if "discounting" in used:
        used["discount"], used["gae_lambda"] = used["discounting"] or (1.0, 1.0)
    if "cutoff" in used and used["cutoff"] is None:
        used["cutoff"] = 1e-5 if jnp.result_type(float) == jnp.float32 else 1e-12  # see `Natural`
    # what no rule chooses: without a number of updates steps never settle, without a rate they are scale-free
    return {name: value for name, value in used.items() if name not in ("settle", "learning_rate")}


def _plain(value: Any) -> Any:
    """A JSON-able value; numbers of float32 without digits that nobody chose."""
    if isinstance(value, (bool, int, str)):
        return value
    if np.ndim(value):
        return [_plain(entry) for entry in np.asarray(value)]
    return float(f"{float(value):.7g}")
