"""Objects that users name: `module:attr` or `file.py:attr`, and what a function of theirs needs to be called with."""

from __future__ import annotations

import difflib
import importlib
import importlib.machinery
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

ALLOWED = (
    "a built-in name, a Gymnasium id, module:attr or file.py:attr (a task, something that makes one without "
    "arguments, or a Python cost function)"
)


def nearest(name: str, names: Iterable[str]) -> str:
    """A sentence with the known names that are nearest to an unknown one; "" if none is near."""
    near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.6)
    return f" Nearest: {', '.join(near)}." if near else ""


def attribute(reference: str) -> Any:
    """The object that `module:attr` or `file.py:attr` names; its module is imported.

    Raises:
        ValueError: there is no such object; the message lists the nearest names.
        Exception: anything the module raises on import.
    """
    place, _, name = reference.rpartition(":")
    if place.endswith(".py"):
        module = _file(Path(place))
    elif not re.fullmatch(r"\w+(\.\w+)*", place):
        raise ValueError(f"task {reference!r}: {place!r} is neither a module nor a .py file. Allowed: {ALLOWED}")
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name != place and not place.startswith(f"{error.name}."):
                raise
            raise ValueError(
                f"task {reference!r}: there is no module {place!r} on the path ({error}). Allowed: {ALLOWED}"
            ) from error
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = [n for n in vars(found) if not n.startswith("_")]
            raise ValueError(f"task {reference!r}: {place} has no {part!r}.{nearest(part, names)}")
        found = getattr(found, part)
    return found


def _file(path: Path) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise ValueError(f"there is no file {path}; the part before ':' must be a Python file or a module")
    name = f"policysearch_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and Equinox look their own module up
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        del sys.modules[name]
        code = (error.text or "").strip()
        raise ValueError(f"{path} is not valid Python: {error.msg}, line {error.lineno}: {code}") from error
    except BaseException:
        del sys.modules[name]
        raise
    return module


def required_arguments(function: Callable[..., object]) -> int:
    """The number of positional arguments that `function` requires."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError as error:
        raise TypeError(f"{function!r} has no readable signature; wrap it in a Python function") from error
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)
