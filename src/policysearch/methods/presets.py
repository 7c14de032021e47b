"""Settings that a paper reports for an environment, by name: `--preset paper`. No JAX.

They were chosen for older versions of these environments; the general defaults are in `methods.rule`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from policysearch.core.plain import Options
from policysearch.core.settings import PolicySettings, checked, unknown
from policysearch.methods.settings import METHODS, MethodSettings, method_settings, unknown_method

#: presets by name
PRESETS = ("paper",)


class Preset(NamedTuple):
    """Settings of a method, of its policy, and where they come from."""

    method: MethodSettings
    policy: PolicySettings
    source: str


_ARS = "Mania, Guy & Recht (2018), Simple random search of static linear policies"
_NATURAL = "Rajeswaran, Lowrey, Todorov & Kakade (2017), Towards generalization and simplicity in continuous control"


def _ars(version: str, directions: int, top: int, step_size: float, std: float) -> Options:
    # the paper's partners have different starts; with one direction per update, a shared one can keep it on a plateau
    common = {"common_random_numbers": False}
    return {"version": version, "directions": directions, "top": top, "step_size": step_size, "std": std, **common}


_PAPER: dict[str, dict[str, Options]] = {
    "ars": {
        "Swimmer": _ars("v1", 1, 1, 0.02, 0.01),
        "Hopper": _ars("v2-t", 8, 4, 0.01, 0.025),
        "HalfCheetah": _ars("v2-t", 32, 4, 0.02, 0.03),
        "Walker2d": _ars("v2-t", 40, 30, 0.03, 0.025),
        "Ant": _ars("v2-t", 60, 20, 0.015, 0.025),
        "Humanoid": _ars("v2-t", 230, 230, 0.02, 0.0075),
    },
    # a normalised step of 0.1 is a KL of 0.05. Always ten rollouts per update are far too many for a cheetah that never
    # falls. An empirical Fisher matrix of so many parameters is too small along its own solution. The paper's
    # environments charged control cost for the requested action, these see only the clipped one: `action_limit_penalty`
    # charges the rest
    "natural_gradient": {
        family: {
            "stages": 4000,
            "max_kl": 0.05,
            "discount": 0.995,
            "gae_lambda": 0.97,
            "fisher": "analytic",
            "damping": 0.1,
            "action_limit_penalty": control,
        }
        # measured: ridge regression suits robots that never fall, a network those that do
        | ({"baseline": "value", "bootstrap": False} if family in ("Swimmer", "HalfCheetah") else {})
        | own
        for family, control, own in (
            # measured: a swimmer's actions pay off late, its control is almost free, and long steps end beyond the
            # limits
            ("Swimmer", 0.01, {"max_kl": 0.01, "discount": 1.0, "gae_lambda": 0.99}),
            ("Hopper", 1e-3, {}),
            ("HalfCheetah", 0.1, {}),
            ("Walker2d", 1e-3, {}),
            ("Ant", 0.5, {}),
        )
    },
}
_POLICY: dict[str, Options] = {
    "ars": {"kind": "linear"},
    "natural_gradient": {"kind": "rbf", "learned_std": True, "std": 0.6, "scaling": "running"},
}
#: in addition: a policy that explores little stays still if a fall ends the rollout; the paper also has a gain matrix
_FAMILY: dict[str, Options] = {
    "Hopper": {"std": 1.0},
    "Walker2d": {"std": 1.0},
    "Swimmer": {"kind": "linear"},
    "HalfCheetah": {"kind": "linear"},
}
_SOURCE = {"ars": _ARS, "natural_gradient": _NATURAL}


def preset(
    name: str,
    method: str,
    environment: str,
    options: Options | None = None,
    policy: Options | None = None,
) -> Preset:
    """Settings of a method for an environment by the name of the preset.

    Args:
        name: "paper".
        method: such as "ars".
        environment: a Gymnasium id; its version does not matter.
        options, policy: settings that override those of the preset.

    Raises:
        ValueError: there is no such preset, or none for this method and environment; the message lists what there is.

    Example:
        >>> preset("paper", "ars", "Hopper-v5").method.std
        0.025
    """
    if name not in PRESETS:
        raise ValueError(unknown("preset", name, list(PRESETS)))
    if method not in METHODS:
        raise ValueError(unknown_method(method))
    family = re.sub(r"-v\d+$", "", environment)
    known = _PAPER.get(method, {})
    if family not in known:
        there = "; ".join(f"{key}: {', '.join(value)}" for key, value in _PAPER.items())
        raise ValueError(f"The preset {name!r} has no settings of {method} for {environment}. It has {there}.")
    options = options or {}
    start = _POLICY[method] | (_FAMILY.get(family, {}) if method == "natural_gradient" else {})
    # a number of rollouts replaces a number of stages
    settings = {name: value for name, value in known[family].items() if name != "stages" or "rollouts" not in options}
    settings |= options
    if settings.get("version", "").startswith("v2"):  # which subtracts a running mean, although its law has no constant
        start = start | {"scaling": "running"}
    return Preset(
        method_settings(method, settings),
        checked(PolicySettings, start | (policy or {}), "a policy setting"),
        _SOURCE[method],
    )
