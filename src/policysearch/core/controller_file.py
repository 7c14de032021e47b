"""Policy files: safetensors with a JSON description and a SHA-256 over both.

The description: format, version of the package, law, names of its arrays, interface (see `Interface.plain`). Files are
shared, so one may come from anywhere: reading runs no code, and every size that it claims is checked against
the bytes that are there before memory is taken for it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as decode
from safetensors.numpy import save as encode

from policysearch.core import files
from policysearch.core.interface import Interface

#: 1 had neither interface nor version
FORMAT = 2
#: largest header and largest file that are read, in bytes
LARGEST_HEADER, LARGEST = 2**20, 2**30
#: types that a controller holds: safetensors' name → bytes per entry
_TYPES = {"F64": 8, "BOOL": 1}
#: largest axis beside one of length 0, where no byte of the file backs it
_LONGEST = 2**16


class Content(NamedTuple):
    """The contents of a file, as `Controller` takes them."""

    description: dict[str, Any]
    parameters: dict[str, np.ndarray]
    constants: dict[str, np.ndarray]
    interface: Interface
    version: str


class Writable(Protocol):
    """What a file holds of a controller."""

    description: dict[str, Any]
    parameters: dict[str, np.ndarray]
    constants: dict[str, np.ndarray]
    interface: Interface


def content(controller: Writable) -> bytes:
    """The bytes of a controller's file, the same for the same policy; its description must be JSON-able."""
    description = json.dumps(
        {
            "format": FORMAT,
            "version": _version(),
            "interface": controller.interface.plain(),
            "description": controller.description,
            "parameters": sorted(controller.parameters),
            "constants": sorted(controller.constants),
        },
        sort_keys=True,
        allow_nan=False,
    )
    arrays = {f"parameters.{name}": value for name, value in controller.parameters.items()}
    arrays |= {f"constants.{name}": value for name, value in controller.constants.items()}
    arrays = {name: np.asarray(value, order="C") for name, value in arrays.items()}  # keeps () as ()
    # safetensors itself writes metadata in random order
    header, tensors = _split(encode(arrays))
    metadata = {"policysearch": description, "sha256": _digest(arrays, description)}
    text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LARGEST_HEADER or len(text) + len(tensors) + 8 > LARGEST:
        raise ValueError(
            f"This policy takes {len(text)} bytes for description and {len(tensors)} for arrays; policy files hold "
            f"up to {LARGEST_HEADER} and {LARGEST}."
        )
    return len(text).to_bytes(8, "little") + text + tensors


def save(controller: Writable, path: str | os.PathLike[str]) -> None:
    """Write a controller: aside, synced to disk, then renamed over an older file.

    Args:
        controller: what to write; its description must be JSON-able.
        path: of the file, in an existing folder.
    """
    files.write(path, content(controller), sync=True)


@functools.cache
def _version() -> str:
    from importlib import metadata  # slow, and reading does not need it

    try:
        return metadata.version("policysearch")
    except metadata.PackageNotFoundError:  # its folder was copied somewhere
        return "unknown"


def load(path: str | os.PathLike[str]) -> Content:
    """Read and check a policy file.

    Args:
        path: of the file.

    Returns:
        Its contents.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is damaged, of another kind, or of a newer format; the message says which.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no policy file {path}.")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        start += file.read(min(int.from_bytes(start, "little"), LARGEST_HEADER))
        _checked_header(start, size, path)
        return parse(start + file.read(), path)


def parse(data: bytes, path: str | os.PathLike[str]) -> Content:
    """Check and decode the bytes of a policy file; `path` is their origin, for error messages. See `load`."""
    metadata = _checked_header(data, len(data), path)
    try:
        arrays = decode(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damage(path, error) from error
    if metadata["sha256"] != _digest(arrays, metadata["policysearch"]):
        raise ValueError(f"{path} is damaged: contents and SHA-256 disagree. Restore it from a copy.")
    try:
        header = json.loads(metadata["policysearch"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a policy: its description is not valid JSON ({error}).") from None
    if not isinstance(header, dict) or type(header.get("format")) is not int:
        raise ValueError(f"{path} is not a policy: its description names no format.")
    if header["format"] > FORMAT:
        raise ValueError(
            f"{path} has format {header['format']}; this version reads up to {FORMAT}. Update policysearch."
        )
    _check_description(header.get("description"), path)
    parameters, constants = (_named(header.get(kind), f"{kind}.", arrays, path) for kind in ("parameters", "constants"))
    for name, value in parameters.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{path} is not a policy: parameter {name!r} is not finite.")
    for name, value in {**parameters, **constants}.items():
        if value.dtype == bool and value.view(np.uint8).max(initial=0) > 1:
            raise ValueError(f"{path} is not a policy: {name!r} holds bytes that are neither true nor false.")
    for name, value in constants.items():
        if np.isnan(value).any():
            raise ValueError(f"{path} is not a policy: constant {name!r} has NaN in it.")
    if header["format"] < 1:
        raise ValueError(f"{path} is not a policy: its description names format {header['format']}.")
    if header["format"] == 1:
        return Content(header["description"], parameters, constants, Interface(), "")
    try:
        interface = Interface.from_plain(header.get("interface"))
    except ValueError as error:
        raise ValueError(f"{path} is not a policy: {error}") from None
    version = header.get("version")
    if not isinstance(version, str) or not version.isprintable() or not 0 < len(version) <= 100:
        raise ValueError(f"{path} is not a policy: its version is not a name.")
    return Content(header["description"], parameters, constants, interface, version)


def _damage(path: str | os.PathLike[str], what: object) -> ValueError:
    return ValueError(f"{path} is damaged or not a safetensors file: {what}. Restore it from a copy.")


def _checked_header(data: bytes, size: int, path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata of a file that starts with these bytes, after a check that all it claims fits its size."""
    length = int.from_bytes(data[:8], "little")
    if size < 8 or length > size - 8:
        raise _damage(path, f"its header claims {length} bytes and the file has {size}")
    if length > LARGEST_HEADER or size > LARGEST:
        raise ValueError(
            f"{path} has a header of {length} bytes and {size} in all; policy files have up to {LARGEST_HEADER} and "
            f"{LARGEST}."
        )
    try:
        header = _split(data)[0]
    except (ValueError, RecursionError) as error:
        raise _damage(path, f"its header is not valid JSON ({error})") from None
    metadata = header.pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise _damage(path, "its header is not a table of arrays")
    spans = sorted(_span(name, entry, path) for name, entry in header.items())
    end = 0
    for start, stop, name in spans:
        if start != end:
            raise _damage(path, f"array {name!r} starts at byte {start}, where {end} is expected")
        end = stop
    if end != size - 8 - length:
        raise _damage(path, f"its header claims arrays of {end} bytes, and {size - 8 - length} follow")
    if not isinstance(metadata.get("policysearch"), str) or not isinstance(metadata.get("sha256"), str):
        raise ValueError(f"{path} holds tensors but no policy. Pass a file that `Controller.save` wrote.")
    return metadata


def _span(name: str, entry: Any, path: str | os.PathLike[str]) -> tuple[int, int, str]:
    """First byte and last byte + 1 of an array that a header claims, which fit its shape."""
    shown = name if len(name) < 80 else f"{name[:80]}…"
    if not name.isprintable() or len(name) > 200 or any(part in name for part in ("/", "\\", "..")):
        raise ValueError(f"{path} is not a policy: {shown!r} is not the name of an array.")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _damage(path, f"array {shown!r} is not described")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in _TYPES:
        raise ValueError(
            f"{path} is not a policy: array {shown!r} is of type {kind!r:.40}; {' and '.join(_TYPES)} are supported."
        )
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or any(type(number) is not int or number < 0 for number in numbers):
            raise _damage(path, f"array {shown!r} has an invalid shape or place")
    if len(shape) > 8 or len(offsets) != 2 or (0 in shape and max(shape) > _LONGEST):
        raise _damage(path, f"array {shown!r} has an invalid shape or place")
    if offsets[1] - offsets[0] != math.prod(shape) * _TYPES[kind]:
        raise _damage(path, f"array {shown!r} of shape {tuple(shape)} claims {offsets[1] - offsets[0]} bytes")
    return offsets[0], offsets[1], name


def _check_description(description: Any, path: str | os.PathLike[str]) -> None:
    if not isinstance(description, dict):
        raise ValueError(f"{path} is not a policy: its description is not a table.")
    for name in ("policy", "activation"):
        if not isinstance(description.get(name, ""), str):
            raise ValueError(f"{path} is not a policy: its {name} is not a name.")
    for name in ("names", "searched"):
        _names(description.get(name, []), name, path)


def _names(given: Any, what: str, path: str | os.PathLike[str]) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given) or len({*given}) < len(given):
        raise ValueError(f"{path} is not a policy: its {what} are not a list of names.")
    return given


def _named(given: Any, kind: str, arrays: dict[str, np.ndarray], path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a kind, which must be those that the description names."""
    names = _names(given, kind[:-1], path)
    found = {name.removeprefix(kind) for name in arrays if name.startswith(kind)}
    if found != {*names}:
        raise ValueError(f"{path} is not a policy: its {kind[:-1]} differ from those its description names.")
    return {name: arrays[kind + name] for name in names}


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and tensors of a safetensors file."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def _digest(arrays: Mapping[str, np.ndarray], description: str) -> str:
    """SHA-256 of the description and of every array's name, type, shape and little-endian bytes, by name."""
    digest = hashlib.sha256(description.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\n{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
