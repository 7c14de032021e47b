"""Random streams of the host side: one Philox generator per (seed, purpose, update, index), everywhere alike.

n indices, d parameters. A perturbation β has zero mean and covariance I (18.23): scale it by std before use.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int

SHAPES = ("gaussian", "sphere", "rademacher", "orthogonal")
#: an orthogonal block is a d×d factorisation; beyond this it costs more than most rollouts
LARGEST_ORTHOGONAL = 2048


class Purpose(enum.IntEnum):
    """What random numbers are for; different purposes never share a stream."""

    PERTURBATION = 1
    ACTION = 2
    ENVIRONMENT = 3
    EVALUATION = 4
    REFERENCE = 5
    NORMALISER = 6
    INITIAL = 7
    MEASUREMENT = 8


def _sequence(seed: int, purpose: int, update: int, index: int) -> np.random.SeedSequence:
    for name, value, bits in (
        ("seed", seed, 64),
        ("purpose", purpose, 32),
        ("update", update, 32),
        ("index", index, 32),
    ):
        if not 0 <= value < 1 << bits:
            raise ValueError(f"{name} is {value}; it must lie in 0 … 2**{bits} − 1. Pass a non-negative integer.")
    return np.random.SeedSequence((int(seed), int(purpose), int(update), int(index)))


def stream(seed: int, purpose: int, update: int, index: int) -> np.random.Generator:
    """The generator that belongs to these four numbers.

    Args:
        seed: of the run, below 2**64.
        purpose: a `Purpose`.
        update: number of the update, from 0.
        index: of the trial, pair or block within the update, from 0.

    Returns:
        A fresh generator at the start of its stream; asking again gives the same numbers.

    Raises:
        ValueError: if a number is negative or too large.

    Example:
        >>> float(stream(3, Purpose.ACTION, 0, 5).random()) == float(stream(3, Purpose.ACTION, 0, 5).random())
        True
    """
    return np.random.Generator(np.random.Philox(_sequence(seed, purpose, update, index)))


def action_stream(seed: int, purpose: int, update: int, index: int) -> np.random.Generator:
    """The generator of a trial's action noise.

    Args:
        seed: of the run.
        purpose: of the trial's environment seed; only `Purpose.ENVIRONMENT` uses the stream `Purpose.ACTION`,
            so that evaluations of an update do not repeat the noise that the update was made from.
        update: number of the update.
        index: of the trial within the update.

    Returns:
        A fresh generator.
    """
    own = Purpose.ACTION if purpose == Purpose.ENVIRONMENT else 16 * purpose + Purpose.ACTION
    return stream(seed, own, update, index)


def environment_seed(seed: int, purpose: int, update: int, index: int) -> int:
    """A seed for one reset of an environment, hashed so that neighbours are independent.

    Args:
        seed: of the run.
        purpose: `Purpose.ENVIRONMENT` for gradients, `Purpose.EVALUATION` for fresh measurements, …
        update: number of the update.
        index: of the seed within the update; partners of a pair share it.

    Returns:
        An integer in 0 … 2**31 − 1.

    Example:
        >>> a, b = (environment_seed(s, Purpose.ENVIRONMENT, 0, 1 - s) for s in (0, 1))
        >>> a == b
        False
    """
    return int(_sequence(seed, purpose, update, index).generate_state(1)[0]) & 0x7FFFFFFF


def shape_rows(z: Any, shape: str, xp: ModuleType) -> Any:
    """Turn rows of independent standard normals into rows of another law with zero mean and covariance I.

    Args:
        z: standard normals, (n, d); for "orthogonal" n is a multiple of d.
        shape: "gaussian"; "sphere": uniform at radius √d; "rademacher": signs; "orthogonal": each d
            consecutive rows are √d times a Haar-distributed orthogonal matrix.
        xp: `numpy` or `jax.numpy`.

    Returns:
        Array like z, (n, d).

    Raises:
        ValueError: for another shape, or if orthogonal rows do not come in whole blocks.

    Example:
        >>> shape_rows(np.array([[3.0, -4.0]]), "rademacher", np)
        array([[ 1., -1.]])
    """
    if shape not in SHAPES:
        raise ValueError(f"Perturbation shape {shape!r} came; choose one of {', '.join(SHAPES)}.")
    rows, size = z.shape
    if shape == "gaussian":
        return z
    if shape == "sphere":
        return z * (size**0.5 / xp.sqrt((z * z).sum(axis=1, keepdims=True)))
    if shape == "rademacher":
        return xp.where(z >= 0, 1.0, -1.0).astype(z.dtype)
    if rows % size:
        raise ValueError(
            f"{rows} rows of size {size} came; orthogonal rows are made in blocks of {size}. Draw whole blocks and cut."
        )
    q, r = xp.linalg.qr(z.reshape(rows // size, size, size))
    # the signs make the factorisation unique, and with it the law of Q uniform (Haar)
    signs = xp.where(xp.diagonal(r, axis1=1, axis2=2) >= 0, 1.0, -1.0).astype(z.dtype)
    return (q * signs[:, None, :]).reshape(rows, size) * size**0.5


def perturbations(
    seed: int, update: int, indices: Sequence[int] | Int[np.ndarray, " n"], size: int, shape: str = "gaussian"
) -> Float[np.ndarray, "n d"]:
    """Perturbations β of an update by their indices, each row the same wherever it is asked.

    Args:
        seed: of the run.
        update: number of the update.
        indices: which rows, (n,), in any order.
        size: d, the number of parameters.
        shape: one of `SHAPES`; orthogonal rows depend on their block of d consecutive indices.

    Returns:
        Rows of zero mean and covariance I, (n, d), float64.

    Raises:
        ValueError: for an unknown shape, a negative index, or an orthogonal size above `LARGEST_ORTHOGONAL`.

    Example:
        >>> rows = perturbations(0, 7, [4, 2], 3, "sphere")
        >>> bool(np.all(rows[1] == perturbations(0, 7, [2], 3, "sphere")[0]))
        True
    """
    if shape == "orthogonal":
        return _orthogonal(seed, update, np.asarray(indices, dtype=np.int64), size)
    z = np.empty((len(indices), size))
    for row, index in zip(z, indices, strict=True):
        stream(seed, Purpose.PERTURBATION, update, int(index)).standard_normal(out=row)
    return shape_rows(z, shape, np)


def _orthogonal(seed: int, update: int, indices: np.ndarray, size: int) -> np.ndarray:
    if size > LARGEST_ORTHOGONAL:
        raise ValueError(
            f"Orthogonal perturbations of {size} parameters were asked; at most {LARGEST_ORTHOGONAL} are "
            'factorised. Choose shape="sphere", which is nearly orthogonal at this size.'
        )
    rows = np.empty((len(indices), size))
    blocks = indices // size
    for block in np.unique(blocks):
        chosen = blocks == block
        rows[chosen] = _orthogonal_block(seed, update, int(block), size)[indices[chosen] - block * size]
    return rows


@functools.lru_cache(maxsize=1)  # rows are asked one at a time
def _orthogonal_block(seed: int, update: int, block: int, size: int) -> np.ndarray:
    z = stream(seed, Purpose.PERTURBATION, update, block).standard_normal((size, size))
    return shape_rows(z, "orthogonal", np)
