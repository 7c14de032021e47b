"""Traced programs that outlive their process: the update of a search in a file, so that a warm start traces nothing.

A file holds StableHLO after its SHA-256; JAX compiles it, and keeps the compiled code in its own cache. No pickle.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import FunctionType
from typing import Any

import equinox as eqx
import jax
import msgspec
import numpy as np
from jax import export

from policysearch.core import files

_OURS = "policysearch."
_DIGEST = hashlib.sha256().digest_size


def kept(folder: Path, function: Callable[..., tuple[Any, Any]], fixed: Any, state: Any, *rest: Any) -> Callable | None:
    """A function of a state from the file that an earlier process wrote, or traced and written now.

    Args:
        folder: of the files; an unreadable or unwritable one costs only time.
        function: (fixed, state, *rest) → (state, a dict of arrays), of this package.
        fixed, rest: constant arguments: this package's own classes, arrays.
        state: the first state; later ones are returned by the program.

    Returns:
        state → (state, dict) with the numbers that `jax.jit` of `function` gives; None if `fixed` or `state` hold code
        of others, which may have changed since it was traced.
    """
    try:
        path = folder / f"{function.__name__}-{_name(function, fixed, state, rest)}.stablehlo"
    except _ForeignError:
        return None
    arrays, fixed_static = eqx.partition(fixed, _is_array)
    constants, fixed_structure = jax.tree.flatten(arrays)
    arrays, static = eqx.partition(state, _is_array)
    structure: Any = jax.tree.structure(arrays)

    def flat(constants: list[Any], leaves: list[Any], *rest: Any) -> tuple[list[Any], Any]:
        whole = eqx.combine(jax.tree.unflatten(fixed_structure, constants), fixed_static)
        after, info = function(whole, eqx.combine(jax.tree.unflatten(structure, leaves), static), *rest)
        arrays = eqx.filter(after, _is_array)
        if structure != jax.tree.structure(arrays):
            raise TypeError(f"{function.__name__} must return a state with the structure of its input.")
        return jax.tree.leaves(arrays), info

    # results of a loaded program are bound to a device; unbound arguments would compile it a second time
    bound = functools.partial(jax.device_put, device=jax.devices()[0])
    constants, rest = bound((constants, rest))
    program = _read(path)
    if program is None:
        program = export.export(jax.jit(flat))(constants, jax.tree.leaves(arrays), *rest)
        _write(path, program)
    run = jax.jit(program.call)

    def call(state: Any) -> tuple[Any, Any]:
        leaves = jax.tree.leaves(eqx.filter(state, _is_array))
        leaves, info = run(constants, leaves if leaves[0].committed else bound(leaves), *rest)
        return eqx.combine(jax.tree.unflatten(structure, leaves), static), info

    return call


class _ForeignError(Exception):
    """Code or a value without a name by which another process could recognise it."""


def _is_array(x: Any) -> bool:
    return isinstance(x, (jax.Array, np.ndarray))


def _name(*values: Any) -> str:
    """A hash of everything that decides what is traced: code, versions, JAX's settings, and values not in arrays."""
    root = Path(__file__).resolve().parents[1]
    code = [(str(path.relative_to(root)), hashlib.sha256(path.read_bytes()).digest()) for path in root.rglob("*.py")]
    versions = [version(name) for name in ("jax", "jaxlib", "equinox", "numpy")]
    settings = {name: value for name, value in jax.config.values.items() if not name.endswith("_dir")}
    described = (sorted(code), versions, jax.default_backend(), settings, [_described(value) for value in values])
    return hashlib.sha256(repr(described).encode()).hexdigest()[:32]


def _described(x: Any) -> Any:
    """What is static about a value, as nested tuples of text."""
    kind = f"{type(x).__module__}.{type(x).__qualname__}"
    if _is_array(x):
        return str(x.dtype), x.shape, bool(getattr(x, "weak_type", False))
    if x is None or isinstance(x, (bool, int, float, str, np.generic)):
        return kind, repr(x)
    if isinstance(x, dict):
        return kind, [(repr(name), _described(value)) for name, value in x.items()]
    if type(x) in (tuple, list) or (isinstance(x, tuple) and kind.startswith(_OURS)):
        return kind, [_described(value) for value in x]
    if isinstance(x, FunctionType) and x.__module__.startswith(_OURS) and "<" not in x.__qualname__:
        return x.__module__, x.__qualname__
    if dataclasses.is_dataclass(x) and kind.startswith(_OURS):
        return kind, [(field.name, _described(getattr(x, field.name, None))) for field in dataclasses.fields(x)]
    if isinstance(x, msgspec.Struct) and kind.startswith(_OURS):
        return kind, [(name, _described(getattr(x, name))) for name in x.__struct_fields__]
    raise _ForeignError(kind)


def _read(path: Path) -> export.Exported | None:
    with contextlib.suppress(OSError):
        content = path.read_bytes()
        if hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST]:
            return export.deserialize(bytearray(content[_DIGEST:]))
    return None


def _write(path: Path, program: export.Exported) -> None:
    content = program.serialize()
    with contextlib.suppress(OSError):
        files.write(path, hashlib.sha256(content).digest() + content)
