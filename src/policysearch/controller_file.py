"""Policy files: safetensors with a JSON description and a SHA-256 over both. Reading one runs no code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as decode
from safetensors.numpy import save as encode

if TYPE_CHECKING:
    from policysearch.controller import Controller

FORMAT = 1


def content(controller: Controller) -> bytes:
    """The bytes of a controller's file, the same for the same policy; its description must be JSON-able."""
    description = json.dumps(
        {
            "format": FORMAT,
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
    return len(text).to_bytes(8, "little") + text + tensors


def save(controller: Controller, path: str | os.PathLike[str]) -> None:
    """Write a controller: aside, synced to disk, then renamed over an older file.

    Args:
        controller: what to write; its description must be JSON-able.
        path: of the file, in an existing folder.
    """
    path, data = Path(path), content(controller)
    descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, 0o644)  # a policy is there to be shared; mkstemp makes files private
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Read and check a policy file.

    Args:
        path: of the file.

    Returns:
        Description, parameters and constants, as `Controller` takes them.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if it is damaged, of another kind, or of a newer format; the message says which.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no policy file {path}.")
    return parse(path.read_bytes(), path)


def parse(
    data: bytes, path: str | os.PathLike[str]
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Check and decode the bytes of a policy file; `path` says in errors where they come from. See `load`."""
    try:
        arrays = decode(data)  # checks the header against the number of bytes
        metadata = _split(data)[0].get("__metadata__", {})
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}. Restore it from a copy.") from error
    if "policysearch" not in metadata:
        raise ValueError(f"{path} holds tensors but no policy. Pass a file that `Controller.save` wrote.")
    if metadata.get("sha256") != _digest(arrays, metadata["policysearch"]):
        raise ValueError(f"{path} is damaged: contents and SHA-256 disagree. Restore it from a copy.")
    header = json.loads(metadata["policysearch"])
    if header["format"] > FORMAT:
        raise ValueError(
            f"{path} has format {header['format']}; this version reads up to {FORMAT}. Update policysearch."
        )
    return (
        header["description"],
        {name: arrays[f"parameters.{name}"] for name in header["parameters"]},
        {name: arrays[f"constants.{name}"] for name in header["constants"]},
    )


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
