"""Names in what earlier versions wrote, as settings are called now; the one place that knows the old ones. No JAX."""

from __future__ import annotations

import re

from policysearch.core.plain import Plain

#: settings of methods that had another name
SETTINGS = {
    "kl": "max_kl",
    "settle": "step_decay",
    "cutoff": "rcond",
    "saturation": "action_limit_penalty",
    "trust": "step_size",
    "std_step": "std_step_size",
}
#: parts of composed methods that had another name: kind of the part, its place, old and new name
PARTS = (
    ("KLStep", "step", "kl", "max_kl"),
    ("KLStep", "step", "settle", "step_decay"),
    ("Natural", "direction", "cutoff", "rcond"),
    ("CostToGo", "credit", "saturation", "action_limit_penalty"),
    ("Coordinates", "explore", "step", "epsilon"),
)
KINDS = {"Saturation": "ActionLimitPenalty"}
#: arrays of a policy that were fields of their own in snapshots, and are among its constants now
CONSTANTS = ("action_centre", "action_scale", "initial", "scale", "low", "high")


def array(place: str) -> str:
    """The place of a snapshot's array.

    Example:
        >>> array(".policy.fixed_log_std")
        ".policy.constants['log_std']"
    """
    field = place.removeprefix(".policy.")
    if field == "fixed_log_std":
        return ".policy.constants['log_std']"
    return f".policy.constants[{field!r}]" if place != field and field in CONSTANTS else place


def configuration(found: Plain) -> Plain:
    """The configuration of a run.

    Example:
        >>> configuration({"method": "trpo", "given": {"kl": 0.1}, "deadline": 5.0})
        {'method': 'trpo', 'given': {'max_kl': 0.1}, 'timeout': 5.0}
    """
    renamed = {"timeout" if name == "deadline" else name: value for name, value in found.items()}
    differences = renamed.get("method") == "finite_differences"
    for name in ("given", "settings", "chosen"):
        if isinstance(renamed.get(name), dict):
            renamed[name] = settings(renamed[name], differences)
    if isinstance(renamed.get("parts"), dict):
        renamed["parts"] = parts(renamed["parts"])
    return renamed


def settings(found: Plain, differences: bool) -> Plain:
    """Settings of a method by name; `differences` for those of finite_differences, whose `step` was ε."""
    names = SETTINGS | {"step": "epsilon" if differences else "step_size"}
    return {names.get(name, name): value for name, value in found.items()}


def parts(found: Plain) -> Plain:
    """The description of a method composed by hand, see `core.identity`.

    Example:
        >>> parts({"step": "KLStep", "step.kl": 0.1, "direction": "Mine", "direction.cutoff": 2})
        {'step': 'KLStep', 'step.max_kl': 0.1, 'direction': 'Mine', 'direction.cutoff': 2}
    """
    renamed = dict(found)
    for kind, place, old, new in PARTS:
        if found.get(place) == kind:
            start = re.compile(rf"{place}\.{old}(?=\.|$)")
            renamed = {start.sub(f"{place}.{new}", name): value for name, value in renamed.items()}
    return {name: KINDS.get(value, value) if isinstance(value, str) else value for name, value in renamed.items()}


def text(found: str) -> str:
    """A method as a comparison keeps it: the `repr` of its settings, or its parts.

    Example:
        >>> text("FiniteDifferences(step=0.1, trust=1.0)"), text("ARS(step=0.1)")
        ('FiniteDifferences(epsilon=0.1, step_size=1.0)', 'ARS(step_size=0.1)')
    """
    for old, new in SETTINGS.items():
        found = re.sub(rf"\b{old}=", f"{new}=", found)
    found = re.sub(r"\bSaturation\(", "ActionLimitPenalty(", found)
    found = re.sub(r"\b(Coordinates|FiniteDifferences)\((\s*)step=", r"\1(\2epsilon=", found)
    # of a composed method, `step` is a part
    return found if found.startswith("Method(") else re.sub(r"\bstep=", "step_size=", found)
