"""Observations of Gymnasium's spaces as p numbers: what is flattened where, and what is outside its space. No JAX.

What cannot be flattened is refused, with a wrapper that helps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from gymnasium.spaces import Box, Space

#: an element of a space: an array, a number, or a tuple or dictionary of elements
Value = Any
#: puts one observation into a row of zeros, (p,)
Writer = Callable[[np.ndarray, Value], None]
#: keys of Dict and places of Tuple
Path = tuple[str | int, ...]
_SHOWN = 4


class UnfitError(ValueError):
    """A space that no policy supports, or a value outside its space; the message follows the environment's name."""


class Part(NamedTuple):
    """A space that is not composed of others, and the place of its numbers among the p.

    path: keys of Dict and places of Tuple that lead to it; () if it is the whole.
    """

    path: Path
    space: Space
    start: int
    stop: int

    @property
    def name(self) -> str:
        """The path with dots, such as `camera.pose`."""
        return ".".join(map(str, self.path)) or "observation"

    def names(self) -> list[str]:
        """A name for each number: `pose[0]`, `gear=2`, `switches[1]=0`."""
        space, name = self.space, self.name
        if isinstance(space, spaces.Discrete):
            return [f"{name}={int(space.start) + i}" for i in range(int(space.n))]
        if isinstance(space, spaces.MultiDiscrete):
            counts, starts = space.nvec.ravel(), np.broadcast_to(getattr(space, "start", 0), space.nvec.shape).ravel()
            return [
                f"{name}[{i}]={int(first) + j}"
                for i, (n, first) in enumerate(zip(counts, starts, strict=True))
                for j in range(int(n))
            ]
        size = self.stop - self.start
        return [f"{name}[{i}]" for i in range(size)] if space.shape else [name]


def parts(space: Space) -> list[Part]:
    """What an observation space consists of, in the order of `gymnasium.spaces.utils.flatten`.

    Raises:
        UnfitError: a space that no policy supports.
    """
    found, start, refused = [], 0, []
    for path, leaf in leaves(space, ()):
        size = _size(leaf)
        if size is None:
            refused.append(Part(path, leaf, 0, 0))
        else:
            found.append(Part(path, leaf, start, start + size))
            start += size
    if refused:
        raise UnfitError(_refusal(space, refused))
    if start == 0:
        raise UnfitError(f"has observations {space} without any numbers; let it observe at least one.")
    return found


def leaves(space: Space, path: Path) -> Iterator[tuple[Path, Space]]:
    """Spaces that are not composed of others, each with the path that leads to it after `path`."""
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for index, inner in enumerate(space.spaces):
            yield from leaves(inner, (*path, index))
    else:
        yield path, space


def _size(space: Space) -> int | None:
    """How many numbers a leaf gives; None if it is not supported."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, spaces.MultiBinary):
        return math.prod(space.shape)
    if isinstance(space, Box) and not _image(space):
        return math.prod(space.shape)
    return None


def _image(space: Box) -> bool:
    return len(space.shape) > 1 and space.dtype is not None and space.dtype.kind in "iu"


def _refusal(space: Space, refused: list[Part]) -> str:
    """Why some parts are not supported, and a wrapper that helps."""
    what = "; ".join(f"{part.name} ({_kind(part.space)})" if part.path else _kind(part.space) for part in refused)
    said = f"has observations that policies do not support: {what}."
    if all(isinstance(part.space, Box) for part in refused):
        return f"{said} {factory('gymnasium.wrappers.FlattenObservation(env)')}, if that many numbers are intended."
    unfit = {part.path[0] for part in refused if part.path and not isinstance(part.space, Box)}
    inner = space.spaces if isinstance(space, spaces.Dict) else {}
    keys = [key for key in inner if key not in unfit]
    if not keys:
        transformed = factory("gymnasium.wrappers.TransformObservation(env, to_numbers, box)")
        return f"{said} {transformed}, where to_numbers turns an observation into an array of the Box box."
    wrapped = f"gymnasium.wrappers.FilterObservation(env, {keys!r})"
    if any(_holds_image(inner[key]) for key in keys):
        wrapped = f"gymnasium.wrappers.FlattenObservation({wrapped})"
    return f"{said} {factory(wrapped)}."


def _holds_image(space: Space) -> bool:
    return any(isinstance(leaf, Box) and _image(leaf) for _, leaf in leaves(space, ()))


def _kind(space: Space) -> str:
    if isinstance(space, Box):
        return f"an image of shape {space.shape}, {math.prod(space.shape)} numbers"
    if space is None:
        return "None"
    name = type(space).__name__
    return f"text, {name}" if isinstance(space, spaces.Text) or "Mission" in name else f"a space {name}"


def factory(wrapped: str) -> str:
    """How to train a wrapped environment, in words; the text continues after a comma or ends."""
    return (
        "Write a function that makes env and wraps it into a module of your own, "
        f'"return {wrapped}", and train module:function'
    )


def checked_space(space: Space, noun: str) -> Space:
    """A space of Gymnasium's own; `noun` is "observation" or "action".

    Raises:
        UnfitError: it is not.
    """
    if isinstance(space, Space):
        return space
    name = f"{noun}_space"
    if space is None:
        raise UnfitError(f"has no {name}: set self.{name} in __init__, such as gymnasium.spaces.Box(-1.0, 1.0, (2,)).")
    module = type(space).__module__.partition(".")[0]
    old = " Spaces of the old gym package do not work: import gymnasium as gym." if module == "gym" else ""
    raise UnfitError(f"has a {type(space).__name__} as {name}; it must be a space of gymnasium.spaces.{old}")


def writer(space: Space) -> Writer:
    """A function that puts one observation into a row of zeros, (p,).

    It raises UnfitError for a Box of another shape, which NumPy would broadcast over the row silently.
    """
    found = parts(space)
    if len(found) == 1 and not found[0].path:
        return _leaf_writer(space, "")
    inner = [(part.path, part.start, part.stop, _leaf_writer(part.space, f"{part.name} of ")) for part in found]

    def write_parts(row: np.ndarray, observation: Value) -> None:
        for path, start, stop, write in inner:
            value = observation
            for key in path:
                value = value[key]
            write(row[start:stop], value)

    return write_parts


def _leaf_writer(space: Space, of: str) -> Writer:
    if isinstance(space, spaces.Discrete):
        start, count = int(space.start), int(space.n)

        def write_one_hot(row: np.ndarray, observation: Value) -> None:
            index = int(observation) - start
            if not 0 <= index < count:
                raise UnfitError(f"{of}the observation is {observation}, not one of {start} to {start + count - 1}")
            row[index] = 1.0

        return write_one_hot
    shape = space.shape or ()
    if isinstance(space, spaces.MultiDiscrete):
        ends = np.concatenate([[0], np.cumsum(space.nvec.ravel())[:-1]])
        counts = space.nvec
        starts = np.broadcast_to(getattr(space, "start", 0), counts.shape)

        def write_one_hots(row: np.ndarray, observation: Value) -> None:
            value = np.asarray(observation)
            if value.shape != shape or np.any(value < starts) or np.any(value - starts >= counts):
                raise UnfitError(f"{of}the observation is {observation}, which is not in {space}")
            row[ends + (value - starts).ravel()] = 1.0

        return write_one_hots

    def unfit(observation: Value) -> np.ndarray:
        value = np.asarray(observation)
        if value.shape != shape:
            raise UnfitError(f"{of}the observation has shape {value.shape}; its space has {shape}")
        return value

    def write(row: np.ndarray, observation: Value) -> None:
        try:
            if observation.shape != shape:
                unfit(observation)
        except AttributeError:  # a list
            observation = unfit(observation)
        row[:] = observation

    def write_flat(row: np.ndarray, observation: Value) -> None:
        row[:] = unfit(observation).ravel()

    return write if len(shape) == 1 else write_flat


def check_observation(space: Space, observation: Value, source: str) -> np.ndarray:
    """An observation as p numbers, (p,), after a close check.

    Args:
        space: the observation space.
        observation: the value received.
        source: where from, such as "reset()".

    Raises:
        UnfitError: it does not have its space's structure, or holds something not finite. Limits are not checked.
    """
    found = parts(space)
    row = np.zeros(found[-1].stop)
    for part in found:
        value = _value(space, observation, part, source)
        of = f"{part.name}, part of its observation, from {source}" if part.path else f"an observation from {source}"
        if isinstance(part.space, spaces.Discrete):
            _check_index(part.space, value, of)
        else:
            value = _check_array(part.space, value, of)
        try:
            _leaf_writer(part.space, "")(row[part.start : part.stop], value)
        except UnfitError:
            raise UnfitError(f"gave as {of} {value}, which is not in its space {part.space}.") from None
    return row


def _value(space: Space, observation: Value, part: Part, source: str) -> Value:
    """The value of a part, after a check of the containers that lead to it."""
    value: Value = observation
    inner: Any = space  # a Dict or a Tuple on the way, as the path says
    path: list[str | int] = []
    for key in part.path:
        of = f"{'.'.join(map(str, path))} of an observation" if path else "an observation"
        if isinstance(inner, spaces.Dict):
            keys = ", ".join(map(str, inner.spaces))
            if not isinstance(value, Mapping):
                raise UnfitError(f"gave as {of} from {source} {_short(value)}; its space is a Dict of {keys}.")
            missing, more = [k for k in inner.spaces if k not in value], [k for k in value if k not in inner.spaces]
            if missing or more:
                said = [f"lacks {', '.join(map(str, missing))}"] if missing else []
                said += [f"has {', '.join(map(str, more))} in addition"] if more else []
                raise UnfitError(f"gave as {of} from {source} a dict that {' and '.join(said)}; its space has {keys}.")
        elif not isinstance(value, (tuple, list)) or len(value) != len(inner.spaces):
            size = len(inner.spaces)
            raise UnfitError(f"gave as {of} from {source} {_short(value)}; its space is a Tuple of {size}.")
        value, inner = value[key], inner[key]
        path.append(key)
    return value


def _check_index(space: spaces.Discrete, value: object, of: str) -> None:
    array = np.asarray(value)
    if array.shape != () or array.dtype.kind not in "iu":
        raise UnfitError(f"gave as {of} {_short(value)}; its space {space} has one whole number.")


def _check_array(space: Space, value: object, of: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        raise UnfitError(f"gave as {of} {_short(value)} that is not an array of numbers.") from None
    if array.dtype.kind not in "biuf":
        dtype = "" if value is None else f" of dtype {array.dtype}"
        raise UnfitError(f"gave as {of} {_short(value)}{dtype}; its space has numbers of shape {space.shape}.")
    if array.shape != space.shape:
        raise UnfitError(f"gave {of} of shape {array.shape}; its space has shape {space.shape}.")
    if not np.isfinite(array).all():
        index = int(np.argmin(np.isfinite(array.ravel())))
        raise UnfitError(f"gave {of} that is not finite: number {index} is {array.ravel()[index]}.")
    return array


def _short(value: object) -> str:
    if value is None or isinstance(value, (bool, int, float, complex)):
        return repr(value)
    if isinstance(value, np.generic):
        return f"{value} ({type(value).__name__})"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value) if isinstance(value, str) else ""
    return text if text and len(text) <= 40 else f"a {type(value).__name__}"


def outside(space: Space, row: np.ndarray) -> str:
    """The numbers of an observation (p,) beyond the limits of their Box, with those limits; "" without any."""
    said: list[str] = []
    for part in parts(space):
        if not isinstance(part.space, Box):
            continue
        low, high = (np.asarray(limit, np.float64).ravel() for limit in (part.space.low, part.space.high))
        value = row[part.start : part.stop]
        # rounding to float32 and back is not a fault
        slack = 1e-5 * np.maximum(1.0, np.abs(value))
        for index in np.flatnonzero((value < low - slack) | (value > high + slack)):
            name = part.name if value.size == 1 else f"{part.name}[{index}]"
            said.append(f"{name} is {value[index]:.6g}, its limits are {low[index]:.6g} and {high[index]:.6g}")
    more = f", and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    return "; ".join(said[:_SHOWN]) + more


def magnitudes(space: Space, trusted: bool, largest: float) -> tuple[float, ...] | None:
    """Typical magnitudes of the p observations; None if they are to be measured.

    Args:
        space: the observation space.
        trusted: the limits of a Box are realistic rather than declared generously.
        largest: limits from here on are ignored all the same.
    """
    found = parts(space)
    if not any(isinstance(part.space, Box) for part in found):
        return (1.0,) * found[-1].stop
    if not trusted or not isinstance(space, Box):
        return None
    limit = np.maximum(np.abs(space.low), np.abs(space.high)).astype(np.float64).ravel()
    if np.any(limit >= largest):
        return None
    return tuple(np.where(limit > 0, limit, 1.0).tolist())
