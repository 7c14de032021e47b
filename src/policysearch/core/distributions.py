"""The distributions over actions that policies need: Gaussian with one std per action, and categorical.

Leading axes are batch axes. m actions, k choices. log_prob and KL in nats.
"""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

_LOG_2PI = float(np.log(2 * np.pi))


class Distribution(eqx.Module):
    """A distribution over actions; `transform` turns standard noise into a sample, so that noise is drawn in blocks."""

    @abc.abstractmethod
    def transform(self, noise: Array) -> Array:
        """The sample that standard noise of the event's shape stands for."""

    @abc.abstractmethod
    def noise(self, key: PRNGKeyArray, shape: tuple[int, ...] = ()) -> Array:
        """Standard noise with leading axes `shape`."""

    @abc.abstractmethod
    def log_prob(self, action: Array) -> Array:
        """Logarithm of the density or probability of `action`, in nats."""

    @abc.abstractmethod
    def kl(self, other: Distribution) -> Array:
        """KL(self ‖ other) in nats, closed form (18.37)."""

    @abc.abstractmethod
    def mode(self) -> Array:
        """The most likely action."""

    @abc.abstractmethod
    def entropy(self) -> Array:
        """Entropy in nats."""

    @abc.abstractmethod
    def embedding(self) -> Array:
        """(*batch, k) whose Jacobian J in the parameters has JᵀJ = the Fisher matrix, exactly (18.39).

        So products with the Fisher matrix are one forward and one backward pass, and no action is sampled.
        """

    def sample(self, key: PRNGKeyArray) -> Array:
        """One action."""
        return self.transform(self.noise(key))


class Gaussian(Distribution):
    """N(mean, diag(exp(log_std))²).

    Args:
        mean: (*batch, m), in the action's unit.
        log_std: logarithm of the standard deviation, (m,) or (*batch, m).
    """

    mean: Float[Array, "*b m"]
    log_std: Float[Array, "*c m"]

    def transform(self, noise: Float[Array, "*b m"]) -> Float[Array, "*b m"]:
        """mean + std · noise."""
        return self.mean + jnp.exp(self.log_std) * noise

    def noise(self, key: PRNGKeyArray, shape: tuple[int, ...] = ()) -> Array:
        """Standard normal numbers (*shape, *batch, m)."""
        return jax.random.normal(key, (*shape, *self.mean.shape), self.mean.dtype)

    def log_prob(self, action: Float[Array, "*b m"]) -> Float[Array, "*b"]:
        """Log density, summed over the m actions."""
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return -0.5 * jnp.sum(z * z + 2 * self.log_std + _LOG_2PI, axis=-1)

    def kl(self, other: Distribution) -> Float[Array, "*b"]:
        """Closed form, summed over the m actions."""
        if not isinstance(other, Gaussian):
            raise TypeError(f"KL of a Gaussian is to a Gaussian, not to a {type(other).__name__}.")
        change = 2 * (self.log_std - other.log_std)
        moved = ((self.mean - other.mean) * jnp.exp(-other.log_std)) ** 2
        # a small KL would drown in the rounding of exp(change) − 1
        return 0.5 * jnp.sum(jnp.expm1(change) - change + moved, axis=-1)

    def mode(self) -> Float[Array, "*b m"]:
        """The mean."""
        return self.mean

    def entropy(self) -> Float[Array, "*b"]:
        """½ log(2πe) + log std, summed over the m actions."""
        return jnp.broadcast_to(jnp.sum(self.log_std + 0.5 * (1 + _LOG_2PI), axis=-1), self.mean.shape[:-1])

    def embedding(self) -> Float[Array, "*b k"]:
        """(mean/std with this std held fixed, √2 log std): Fisher 1/std² of the mean and 2 of log std."""
        log_std = jnp.broadcast_to(self.log_std, self.mean.shape)
        return jnp.concatenate([self.mean * jnp.exp(-jax.lax.stop_gradient(log_std)), 2**0.5 * log_std], axis=-1)


class Categorical(Distribution):
    """Softmax over k choices.

    Args:
        logits: (*batch, k); a constant added to all of them changes nothing.
    """

    logits: Float[Array, "*b k"]

    def transform(self, noise: Float[Array, "*b k"]) -> Int[Array, "*b"]:
        """argmax of logits + Gumbel noise, an exact sample."""
        return jnp.argmax(self.logits + noise, axis=-1)

    def noise(self, key: PRNGKeyArray, shape: tuple[int, ...] = ()) -> Array:
        """Standard Gumbel numbers (*shape, *batch, k)."""
        return jax.random.gumbel(key, (*shape, *self.logits.shape), self.logits.dtype)

    def log_prob(self, action: Int[Array, "*b"]) -> Float[Array, "*b"]:
        """Log probability of the choice."""
        log_p = jax.nn.log_softmax(self.logits, axis=-1)
        chosen = jax.nn.one_hot(action, self.logits.shape[-1], dtype=log_p.dtype)
        return jnp.sum(log_p * chosen, axis=-1)

    def kl(self, other: Distribution) -> Float[Array, "*b"]:
        """Σ p log(p/q)."""
        if not isinstance(other, Categorical):
            raise TypeError(f"KL of a Categorical is to a Categorical, not to a {type(other).__name__}.")
        log_p = jax.nn.log_softmax(self.logits, axis=-1)
        log_q = jax.nn.log_softmax(other.logits, axis=-1)
        return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)

    def mode(self) -> Int[Array, "*b"]:
        """The most likely choice."""
        return jnp.argmax(self.logits, axis=-1)

    def entropy(self) -> Float[Array, "*b"]:
        """−Σ p log p."""
        log_p = jax.nn.log_softmax(self.logits, axis=-1)
        return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)

    def embedding(self) -> Float[Array, "*b k"]:
        """2√p, the sphere of Bhattacharyya: Σ dp²/p = ‖d(2√p)‖²; a constant added to the logits moves nothing."""
        return 2 * jnp.exp(0.5 * jax.nn.log_softmax(self.logits, axis=-1))
