"""The score operator S, a row per stage or per rollout; Sᵀa/n is the likelihood-ratio gradient (18.10, 18.16).

n rollouts, T stages, d parameters, m groups. `PolicyScore` differentiates log π; `PerturbationScore` holds β/σ².
"""

from __future__ import annotations

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from policysearch.core.policies import Policy
from policysearch.core.rollouts import Rollouts
from policysearch.core.seeded_perturbations import Regenerated


class Score(eqx.Module):
    """A linear operator with rows s_i; nothing is formed before it is asked for.

    Advantages `a` of shape (n, T) mean a row per stage, of shape (n,) a row per rollout.
    """

    counted: eqx.AbstractVar[Bool[Array, " n"]]

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of independent samples that the rows come from: rollouts, pairs, or whole sets of differences."""

    @property
    def count(self) -> Float[Array, ""]:
        """Number of rollouts in the mean, at least 1."""
        return jnp.maximum(jnp.sum(self.counted), 1).astype(float)

    @abc.abstractmethod
    def rmv(self, a: Array) -> Float[Array, " d"]:
        """Sᵀa, the sum over rows."""

    @abc.abstractmethod
    def mv(self, w: Float[Array, " d"], per_stage: bool) -> Array:
        """S w: (n, T) for rows per stage, (n,) for rows per rollout."""

    def products(self, per_stage: bool) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        """w → S w and a → Sᵀa for many products with the same rows."""
        return lambda w: self.mv(w, per_stage), self.rmv

    def fisher_root(self, most: int) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        """w → R w and its transpose, with RᵀR/n the policy's own Fisher matrix; from at most `most` stages."""
        raise TypeError(f"{type(self).__name__} has no policy whose actions vary.")

    def fisher_gram(self, most: int) -> Float[Array, "d d"]:
        """RᵀR of `fisher_root`, formed."""
        raise TypeError(f"{type(self).__name__} has no policy whose actions vary.")

    @abc.abstractmethod
    def dense(self, per_stage: bool) -> Float[Array, "rows d"]:
        """The rows themselves: (n·T, d) or (n, d)."""

    @abc.abstractmethod
    def group_gradients(self, a: Array, groups: int) -> Float[Array, "m d"]:
        """Gradient estimates of `groups` groups of rollouts; their mean is Sᵀa/n."""

    def squares(self) -> Float[Array, "n T"]:
        """Squared length of the score of each stage."""
        raise TypeError(f"{type(self).__name__} has rows of whole rollouts, not of stages.")

    def gradient(self, a: Array, groups: int) -> Float[Array, " d"]:
        """Sᵀa/n: the gradient estimate."""
        return self.group_gradients(a, groups).mean(0)


class PolicyScore(Score):
    """Rows ∂log π(u_k | x_k)/∂θ of sampled actions; masked stages and rollouts that do not count are zero rows."""

    policy: Policy
    observations: Float[Array, "n T p"]
    actions: Array
    mask: Bool[Array, "n T"]
    counted: Bool[Array, " n"]

    @classmethod
    def of(cls, policy: Policy, rollouts: Rollouts) -> PolicyScore:
        """The score of recorded rollouts under the policy that produced them.

        Raises:
            ValueError: the rollouts carry no observations or actions.
        """
        if rollouts.observations is None or rollouts.actions is None:
            raise ValueError(
                "These rollouts have costs only; a likelihood-ratio method needs the observations and the sampled "
                "actions of each stage. Tell them, or use a method that perturbs parameters."
            )
        return cls(
            policy=policy,
            observations=rollouts.observations,
            actions=rollouts.actions,
            mask=rollouts.mask & rollouts.used[:, None],
            counted=rollouts.used,
        )

    @property
    def size(self) -> int:
        """Number of rollouts."""
        return self.mask.shape[0]

    def _log_prob(self, theta: Array) -> Float[Array, "n T"]:
        log_prob = self.policy.with_theta(theta).log_prob(self.observations, self.actions)
        return jnp.where(self.mask, log_prob, 0.0)

    def rmv(self, a: Array) -> Float[Array, " d"]:
        """Sᵀa by one backward pass."""
        _, pullback = jax.vjp(self._log_prob, self.policy.theta())
        return pullback(self._stages(a))[0]

    def mv(self, w: Float[Array, " d"], per_stage: bool = True) -> Array:
        """S w by one forward-mode pass."""
        _, rows = jax.jvp(self._log_prob, (self.policy.theta(),), (w,))
        return rows if per_stage else rows.sum(1)

    def products(self, per_stage: bool) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        """w → S w and a → Sᵀa that share one linearisation: neither evaluates the policy again."""
        theta = self.policy.theta()
        _, forward = jax.linearize(self._log_prob, theta)
        transposed = jax.linear_transpose(forward, theta)
        return (
            lambda w: forward(w) if per_stage else forward(w).sum(1),
            lambda a: transposed(self._stages(a))[0],
        )

    def fisher_root(self, most: int) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        """w → R w and its transpose, with RᵀR/n the policy's own Fisher matrix on the visited states (18.39).

        The mean over actions is exact, so that fewer states do: of more than `most` stages every so-manyth is taken.
        """
        observations, weight = self._visited(most)

        def root(theta: Array) -> Float[Array, "rows k"]:
            return weight[:, None] * self.policy.with_theta(theta)(observations).embedding()

        theta = self.policy.theta()
        _, forward = jax.linearize(root, theta)
        transposed = jax.linear_transpose(forward, theta)
        return forward, lambda rows: transposed(rows)[0]

    def fisher_gram(self, most: int) -> Float[Array, "d d"]:
        """RᵀR of `fisher_root`, from a backward pass an action of each state; d forward passes take twice as long."""

        def root(theta: Array, observation: Array, weight: Array) -> Float[Array, " k"]:
            return weight * self.policy.with_theta(theta)(observation).embedding()

        theta = self.policy.theta()
        rows = jax.vmap(jax.jacrev(root), (None, 0, 0))(theta, *self._visited(most)).reshape(-1, theta.size)
        return rows.T @ rows

    def _visited(self, most: int) -> tuple[Float[Array, "rows p"], Float[Array, " rows"]]:
        """What was seen at no more than `most` stages, and the root of what each stands for."""
        mask = self.mask.ravel()
        size = min(most, mask.size)
        live, place = mask.sum(), jnp.arange(size)
        # in float32 place · live would lose digits, in int32 it could overflow
        spread = place * (live // size) + place * (live % size) // size
        place = jnp.where(live > size, spread, place)
        chosen = jnp.nonzero(mask, size=mask.size, fill_value=0)[0][place]
        observations = self.observations.reshape(-1, self.observations.shape[-1])[chosen]
        return observations, jnp.sqrt((place < live) * jnp.maximum(live / size, 1.0)).astype(observations.dtype)

    def dense(self, per_stage: bool = True) -> Float[Array, "rows d"]:
        """Rows by vmap(grad)."""
        if per_stage:
            flat = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
            return self._rows(flat(self.observations), flat(self.actions), flat(self.mask))
        return self._rows(self.observations, self.actions, self.mask)

    def squares(self) -> Float[Array, "n T"]:
        """Squared length of each row, a rollout at a time, so that not all rows are formed at once."""

        def of_rollout(stages: tuple[Array, Array, Array]) -> Float[Array, " T"]:
            return jnp.sum(self._rows(*stages) ** 2, axis=1)

        return jax.lax.map(of_rollout, (self.observations, self.actions, self.mask))

    def _rows(self, observations: Array, actions: Array, mask: Array) -> Float[Array, "rows d"]:
        def log_prob(theta: Array, observation: Array, action: Array, alive: Array) -> Array:
            value = self.policy.with_theta(theta).log_prob(observation, action)
            return jnp.sum(jnp.where(alive, value, 0.0))

        gradient = jax.vmap(jax.grad(log_prob), (None, 0, 0, 0))
        return gradient(self.policy.theta(), observations, actions, mask)

    def group_gradients(self, a: Array, groups: int) -> Float[Array, "m d"]:
        """One backward pass vectorised over interleaved groups of rollouts."""
        n = self.mask.shape[0]
        padding = -n % groups

        # groups lie along a leading axis; a rollout that pads the last group has weight 0
        def split(x: Array) -> Array:
            padded = jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1))
            return padded.reshape(groups, (n + padding) // groups, *x.shape[1:])

        weight = jnp.where(self.mask, self._stages(a), 0.0)

        def weighted(theta: Array, observations: Array, actions: Array, weights: Array) -> Array:
            log_prob = self.policy.with_theta(theta).log_prob(observations, actions)
            return jnp.sum(jnp.where(weights != 0, weights * log_prob, 0.0))

        rows = jax.vmap(jax.grad(weighted), (None, 0, 0, 0))(
            self.policy.theta(), split(self.observations), split(self.actions), split(weight)
        )
        return rows * (groups / self.count)

    def _stages(self, a: Array) -> Float[Array, "n T"]:
        return a if a.ndim == 2 else jnp.broadcast_to(a[:, None], self.mask.shape)

    def log_prob(self) -> Float[Array, "n T"]:
        """log π of the sampled actions under the asked policy, zero outside the mask."""
        return self._log_prob(self.policy.theta())


class PerturbationScore(Score):
    """Rows β_i/σ² of perturbed parameters θ + β_i; partners (θ ± β) belong to one sample (18.24).

    Where the spread is learned the rows are those of (θ, log σ), 2d long: β/σ² and β²/σ² − 1.

    Args:
        offsets: β (n, d), or what makes them; zero for a reference trial.
        variance: σ² per parameter, () or (d,); 1 for plain rows β.
        counted: (n,), False for reference trials and where a partner was lost.
        sample: (n,) number of the independent sample that a trial belongs to.
        samples: how many there are.
        learned: rows for log σ too.
    """

    offsets: Float[Array, "n d"] | Regenerated
    variance: Array
    counted: Bool[Array, " n"]
    sample: Array
    samples: int = eqx.field(static=True)
    learned: bool = eqx.field(static=True, default=False)

    @property
    def size(self) -> int:
        """Number of independent samples."""
        return self.samples

    def fisher(self, d: int) -> Float[Array, " D"]:
        """Diagonal of the Gaussian's Fisher matrix, which has nothing beside it: 1/σ² for θ, 2 for log σ."""
        theta = jnp.broadcast_to(1 / self.variance, (d,))
        return jnp.concatenate([theta, jnp.full(d, 2.0, theta.dtype)]) if self.learned else theta

    def _sums(self, weights: Float[Array, "k n"]) -> Float[Array, "k D"]:
        """Σ_i weight_i s_i for each row of weights."""
        if isinstance(self.offsets, Regenerated):
            sums = self.offsets.sums(weights, squares=self.learned)
            first, second = sums[0], sums[-1]
        else:
            first = weights @ self.offsets
            second = weights @ self.offsets**2 if self.learned else first
        if not self.learned:
            return first / self.variance
        return jnp.concatenate([first / self.variance, second / self.variance - weights.sum(1, keepdims=True)], axis=1)

    def rmv(self, a: Float[Array, " n"]) -> Float[Array, " D"]:
        """Σ a_i s_i."""
        return self._sums(jnp.where(self.counted, a, 0.0)[None])[0]

    def mv(self, w: Float[Array, " D"], per_stage: bool = False) -> Float[Array, " n"]:
        """s_iᵀ w."""
        if isinstance(self.offsets, Regenerated) and not self.learned:
            return jnp.where(self.counted, self.offsets.dot(w / self.variance), 0.0)
        return self.dense() @ w

    def dense(self, per_stage: bool = False) -> Float[Array, "n D"]:
        """The rows, zero for trials that do not count."""
        if isinstance(self.offsets, Regenerated):
            rows = self._sums(jnp.eye(self.counted.shape[0]))
        else:
            rows = self.offsets / self.variance
            if self.learned:
                rows = jnp.concatenate([rows, self.offsets**2 / self.variance - 1], axis=1)
        return jnp.where(self.counted[:, None], rows, 0.0)

    def group_gradients(self, a: Float[Array, " n"], groups: int) -> Float[Array, "m D"]:
        """Sums over the samples of a group; samples are dealt to groups in turn."""
        member = (self.sample % groups)[None, :] == jnp.arange(groups)[:, None]
        return self._sums(jnp.where(member & self.counted, a, 0.0)) * (groups / self.count)
