"""A method as names and numbers, to tell whether a search continues with the one it was started with.

Arrays, settings and what functions close over all count: an Optax optimiser is nothing but functions.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from policysearch.core.plain import Plain

#: largest array kept entry by entry; of a larger one a SHA-256 is kept
MOST_ENTRIES = 64

#: packages whose functions are identified by name; for others the constants count too
LIBRARIES = ("policysearch", "optax", "jax", "equinox")
#: of an array, nested as it is
Numbers = Any
#: global variables that a function reads and that count
NUMBERS = (bool, int, float, str, np.ndarray, jax.Array)


def described(thing: object) -> Plain:
    """The parts of `thing`: place → name, number, or list of numbers; JSON-able.

    Two things with the same description compute the same, as far as functions with the same names and constants do.

    Args:
        thing: a `Method`, or any part of one.

    Example:
        >>> from policysearch import LearningRate
        >>> described(LearningRate(0.5))["rate"]
        0.5
    """
    found: Plain = {}
    _walk(thing, "", found, [])
    return found


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """The differences between two descriptions, in words, by place."""
    places = [place for place in {**before, **now} if before.get(place) != now.get(place)]
    return [f"{place or 'its kind'} was {_shown(before, place)} and is {_shown(now, place)}" for place in places]


def _shown(description: Mapping[str, object], place: str) -> str:
    return str(description[place]) if place in description else "not there"


def _walk(thing: object, place: str, found: Plain, above: list[object]) -> None:
    """Add the parts of `thing`; `above` are the things that it is part of."""
    inside = f"{place}." if place else ""
    if isinstance(thing, (jax.Array, np.ndarray, np.generic)):
        found[place] = _array(np.asarray(thing))
    elif isinstance(thing, float):
        found[place] = thing if math.isfinite(thing) else str(thing)
    elif thing is None or isinstance(thing, (bool, int, str)):
        found[place] = thing
    elif any(thing is other for other in above):
        found[place] = "itself"
    elif isinstance(thing, functools.partial):
        _parts(
            {"function": thing.func, "arguments": thing.args, "keywords": thing.keywords}, inside, found, above, thing
        )
    elif isinstance(thing, types.MethodType):
        _parts({"method": thing.__func__, "of": thing.__self__}, inside, found, above, thing)
    elif isinstance(thing, types.FunctionType):
        found[place] = f"{thing.__module__}.{thing.__qualname__}"
        cells = [_content(cell) for cell in thing.__closure__ or ()]
        parts = dict(zip(thing.__code__.co_freevars, cells, strict=True))
        parts |= {"defaults": thing.__defaults__ or (), "keywords": thing.__kwdefaults__ or {}}
        if thing.__module__.partition(".")[0] not in LIBRARIES:
            parts["constants"] = _constants(thing.__code__)
            read = {name: thing.__globals__.get(name) for name in thing.__code__.co_names}
            parts |= {name: value for name, value in read.items() if isinstance(value, NUMBERS)}
        _parts(parts, inside, found, above, thing)
    elif isinstance(thing, (type, types.BuiltinFunctionType, types.ModuleType)):
        found[place] = getattr(thing, "__qualname__", thing.__name__)
    elif isinstance(thing, Mapping):
        _parts({str(name): part for name, part in thing.items()}, inside, found, above, thing)
    else:
        if not isinstance(thing, (list, tuple)) or hasattr(thing, "_fields"):
            found[place] = type(thing).__name__
        _parts(_fields(thing), inside, found, above, thing)


def _parts(parts: Mapping[str, object], inside: str, found: Plain, above: list[object], whole: object) -> None:
    for name, part in parts.items():
        _walk(part, inside + name, found, [*above, whole])


def _fields(thing: object) -> Plain:
    """The parts of anything else, by name."""
    if hasattr(thing, "_fields"):
        return {name: getattr(thing, name) for name in thing._fields}
    if isinstance(thing, (list, tuple, set, frozenset)):
        items = sorted(thing, key=repr) if isinstance(thing, (set, frozenset)) else thing
        return {str(index): item for index, item in enumerate(items)}
    if dataclasses.is_dataclass(thing):
        return {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    return dict(getattr(thing, "__dict__", {}))


def _array(array: np.ndarray) -> Numbers:
    """A small array as numbers, a large one as its digest."""
    if array.size > MOST_ENTRIES or array.dtype.kind not in "biuf":
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        return f"{array.dtype} {array.shape} {digest}"
    return array.tolist() if array.dtype.kind in "biu" else _shortest(array)


def _shortest(numbers: np.ndarray) -> Numbers:
    """Each number as the shortest one equal to it in its own precision, 0.1 rather than 0.10000000149011612."""
    if numbers.ndim:
        return [_shortest(row) for row in numbers]
    return float(str(numbers)) if np.isfinite(numbers) else str(numbers)


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _constants(code: types.CodeType) -> list[object]:
    """Names and numbers of a function's code, including the functions within it, without its docstring."""
    plain = [value for value in code.co_consts if isinstance(value, (bool, int, float, complex, bytes, tuple))]
    inner = [_constants(value) for value in code.co_consts if isinstance(value, types.CodeType)]
    return [*code.co_names, *(repr(value) for value in plain), *inner]
