"""States as bytes: the arrays of a pytree as safetensors, named by their place. Reading one runs no code.

Whatever is not an array (sizes, names) is not in a snapshot; it comes from the method and policy that continue it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from policysearch.runs import renamed

if TYPE_CHECKING:
    from policysearch.core.method import State


def encode(state: State) -> bytes:
    """The arrays of a state, exact to the bit."""
    return save({name: np.asarray(leaf, order="C") for name, leaf in _named(jax.device_get(state))})


def decode(data: bytes, like: State) -> State:
    """The state that was encoded.

    Args:
        data: the result of `encode`.
        like: a state of the same method and policy; its arrays are replaced.

    Raises:
        ValueError: arrays are missing, or differ in shape or type from those of this method and policy.
    """
    try:
        arrays = {renamed.array(name): value for name, value in load(data).items()}
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"A snapshot is damaged: {error}.") from error
    named = _named(like)
    theirs, ours = set(arrays), {name for name, _ in named}
    if theirs != ours:
        raise ValueError(
            f"A snapshot's arrays differ from this search's: {', '.join(sorted(theirs ^ ours))} belong to only one of "
            "them. Continue with the method and the policy that it was started with."
        )
    leaves = []
    for name, leaf in named:
        array = arrays[name]
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise ValueError(
                f"{name} of a snapshot is {array.dtype} {array.shape}; this search has {leaf.dtype} {leaf.shape}. "
                "Continue with the same method and policy, and the same JAX_ENABLE_X64."
            )
        leaves.append(jnp.asarray(array))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _named(state: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]]
