"""Where a search starts from, if that is known: values, or a saved controller.

Gains and named numbers are given in physical units.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from policysearch.core import controller_file, grammar
from policysearch.core.controller import Controller
from policysearch.core.plain import Plain
from policysearch.core.policies.network import fourier_layers as fourier_layers
from policysearch.core.policies.network import random_layers as random_layers
from policysearch.core.policies.policy import Policy
from policysearch.core.policies.policy import from_controller as from_controller

#: bytes of a JSON file with initial values
LARGEST = 2**20


def start(policy: Policy, initial: Any) -> Policy:
    """The policy moved to known parameters, in physical units.

    Args:
        policy: what is searched.
        initial: a path to a JSON file, a policy file or a run's folder; a `Controller`; or a dict such as
            {"gain": [[…]], "bias": […]} or {"kp": 1.0}. A gain acts on observations in their own units.

    Raises:
        ValueError: what is given does not fit the policy; the message says how.
    """
    if isinstance(initial, (str, Path)):
        initial = _read(Path(initial))
    if isinstance(initial, Controller):
        try:
            other = from_controller(initial)
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"The initial policy cannot be searched from: {error} is missing or invalid.") from error
        names, own = (found.details.get("names", ()) for found in (other, policy))
        if type(other) is type(policy) and names != own:
            raise ValueError(f"The initial policy has parameters {', '.join(names)}; this search has {', '.join(own)}.")
        if type(other) is not type(policy) or _shapes(other) != _shapes(policy):
            raise ValueError(
                f"The initial policy is {type(other).__name__} with {_shapes(other)}; "
                f"this search needs {type(policy).__name__} with {_shapes(policy)}."
            )
        return other
    if not isinstance(initial, dict):
        raise ValueError(
            f"initial is a {type(initial).__name__}; give a path, a controller, or a dict of values by name."
        )
    return policy.starting_at(initial)


def _read(path: Path) -> Any:
    if path.is_dir():
        path = path / "policy.safetensors"
    if not path.exists():
        raise ValueError(f"There is no file {path} to start from.")
    if path.suffix != ".json":
        # its limits are not used: the search has those of its task
        return Controller.of_content(controller_file.load(path), path)
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"{path} has {size} bytes; initial values may take up to {LARGEST}.")
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; give an object.")
    return content


def _once(pairs: list[tuple[str, object]]) -> Plain:
    """An object in which each name is given once."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in content if names.count(name) > 1)
        raise ValueError(f"{grammar.shown(twice)} is given twice")
    return content


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not a number")


def _shapes(policy: Policy) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in sorted(policy.parameters.items())}
