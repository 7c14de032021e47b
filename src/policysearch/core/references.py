"""Objects that users name: `module:attr` or `file.py:attr`, and what a function of theirs needs to be called with."""

from __future__ import annotations

import difflib
import importlib
import importlib.machinery
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

ALLOWED = (
    "a built-in name, a Gymnasium id, module:attr or file.py:attr (a task, something that makes one without "
    "arguments, or a Python cost function)"
)

#: how the modules of files named by their path begin
_FILE = "policysearch_task_"


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
    return _member(_module(place, reference), place, name, reference)


def attributes(references: Mapping[str, str]) -> dict[str, Any]:
    """The objects that several references name, by the same keys; each module or file is imported once.

    Raises:
        Exception: as `attribute`.
    """
    modules: dict[str, ModuleType] = {}
    found = {}
    for key, reference in references.items():
        place, _, name = reference.rpartition(":")
        if place not in modules:
            modules[place] = _module(place, reference)
        found[key] = _member(modules[place], place, name, reference)
    return found


def address(function: Any) -> str | None:
    """`module:attr` or `/folder/file.py:attr` of a function or class, by which another process can import it.

    Returns:
        The name; None for what no name leads to: lambdas, closures, bound methods, objects, what replaced or was
        replaced by another of the same name, and everything that the main script defines.
    """
    place, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not callable(function) or place is None or name is None or "<" in name or place == "__main__":
        return None
    found: Any = sys.modules.get(place)
    file = getattr(found, "__file__", None)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not function:
        return None
    return f"{file}:{name}" if place.startswith(_FILE) and file else f"{place}:{name}"


def _module(place: str, reference: str) -> ModuleType:
    if place.endswith(".py"):
        return _file(Path(place))
    if not re.fullmatch(r"\w+(\.\w+)*", place):
        raise ValueError(f"task {reference!r}: {place!r} is neither a module nor a .py file. Allowed: {ALLOWED}")
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name != place and not place.startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"task {reference!r}: there is no module {place!r} on the path ({error}). Allowed: {ALLOWED}"
        ) from error


def _member(module: ModuleType, place: str, name: str, reference: str) -> Any:
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
    name = f"{_FILE}{path.stem}"
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
