"""The entrants of a comparison: methods of this package by name, settings or composition, and rivals. No JAX.

On the command line an entrant is a name, or a name with settings: `trpo`, `trpo(max_kl=0.05)`, `cma`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from policysearch.core.settings import check_names, unknown
from policysearch.methods.settings import METHODS, RIVALS, MethodSettings

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    from policysearch.core.method import Method

#: who takes part: settings, a method composed by hand, or text such as `trpo(max_kl=0.05)` or the name of a rival
Entrant: TypeAlias = "MethodSettings | Method | str"


def split(text: str) -> list[str]:
    """Entrants from one text: commas inside parentheses belong to settings.

    Example:
        >>> split("trpo(max_kl=0.1,damping=0), ars")
        ['trpo(max_kl=0.1,damping=0)', 'ars']
    """
    return [part.strip() for part in re.split(r",(?![^(]*\))", text) if part.strip()]


def parse(text: str) -> MethodSettings | str:
    """Settings of a method, or the name of a rival.

    Raises:
        ValueError: not of that form, an unknown name, or a setting that is not allowed.

    Example:
        >>> parse("ars(version=v1)").version
        'v1'
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a method: write a name, or name(setting=value,…), such as trpo(max_kl=0.05)."
        )
    name, inside = match.groups()
    if name in RIVALS:
        if inside:
            raise ValueError(f"{text!r}: {name} takes no settings here.")
        return name
    if name not in METHODS:
        raise ValueError(unknown("method", name, [*METHODS, *RIVALS]))
    options = {}
    for part in filter(None, (piece.strip() for piece in (inside or "").split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{text!r}: {part!r} is not a setting; write name=value.")
        options[key.strip()] = value.strip()
    struct = METHODS[name]
    check_names(struct, options, f"a setting of {name}")
    try:
        return msgspec.convert(options, struct, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"{text!r}: {error}.") from None


def named(methods: str | Sequence[Entrant] | Mapping[str, Entrant]) -> dict[str, Entrant]:
    """Entrants by the label that tables and pictures show.

    Args:
        methods: "trpo,ars", a sequence of names, settings and rivals, or a mapping from labels to any of these or to a
            `Method` composed by hand.

    Raises:
        ValueError: no entrant, or two under one label.
        TypeError: an entrant without a label.
    """
    if isinstance(methods, str):
        methods = split(methods)
    if isinstance(methods, Mapping):
        found = {label: parse(entrant) if isinstance(entrant, str) else entrant for label, entrant in methods.items()}
    else:
        found = {}
        for entrant in methods:
            label = _label(entrant)
            if label in found:
                raise ValueError(f"{label} takes part twice; give a mapping from labels to distinguish them.")
            found[label] = parse(entrant) if isinstance(entrant, str) else entrant
    if not found:
        raise ValueError("There are no methods to compare: name at least one.")
    return found


def _label(entrant: Entrant) -> str:
    if isinstance(entrant, str):
        return re.sub(r"\s+", "", entrant)
    if isinstance(entrant, MethodSettings):
        default = type(entrant)()
        differing = {
            field.name: getattr(entrant, field.name)
            for field in msgspec.structs.fields(type(entrant))
            if getattr(entrant, field.name) != getattr(default, field.name)
        }
        inside = ",".join(f"{name}={value}" for name, value in differing.items())
        return entrant.label() + (f"({inside})" if inside else "")
    raise TypeError(
        f"A {type(entrant).__name__} has no label: give a mapping from a label of your choice to it, such as "
        '{"mine": method}.'
    )
