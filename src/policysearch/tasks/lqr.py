"""Linear plants, quadratic cost: x' = A x + B u + w, g = xᵀQx + uᵀRu; closed forms for u = K x + k + noise.

p states, m actions, T stages. Gains carry their sign: a textbook's u = −K x is printed negated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Bool, Float, PRNGKeyArray
from numpy.typing import ArrayLike

from policysearch.core.specification import Continuous, Specification
from policysearch.tasks.task import Equilibrium, Task

Matrix = Float[np.ndarray, "rows columns"]
Vector = Float[np.ndarray, " size"]


class Riccati(NamedTuple):
    """The optimal controller: gains (T, m, p) with u_t = gains[t] x_t, value (p, p) of x_0, expected cost."""

    gains: Float[np.ndarray, "T m p"]
    value: Matrix
    cost: float


class Visited(NamedTuple):
    """Moments of the visited states, averaged over stages: mean (p,), second (p, p) = E[x xᵀ]."""

    mean: Vector
    second: Matrix


class LQR(Task):
    """A linear plant with Gaussian disturbances and a quadratic cost; its closed forms are float64 NumPy.

    Args:
        A, B: dynamics (p, p) and (p, m), per stage.
        Q, R: cost weights (p, p) ≥ 0 and (m, m) > 0, symmetric, in cost units per stage.
        noise_covariance: of the disturbance w, (p, p) ≥ 0.
        initial_mean, initial_covariance: of the Gaussian x_0, (p,) and (p, p) ≥ 0.
        horizon: stages T.
        discount: per stage, in (0, 1].
        final: weight (p, p) ≥ 0 of the state after the last stage; none by default.
        action_limit, state_limit: actions and next states are held within ± these scalars; None for none.
        dt: seconds per stage.
        tolerance: (p,) a rollout succeeds if each state stays within ± it over the last tenth of the stages;
            None: the task is judged by its mean cost.
        threshold: the mean cost that counts as solved, for a plant with limits, which has no closed form.
        observation_scale: typical magnitude of each state, (p,); ones by default.
        observation_names, action_names: with units.
        name: of the task.

    Raises:
        ValueError: a matrix has the wrong shape, is not finite, not symmetric or not definite as stated.

    Example:
        >>> plant = LQR([[1.0]], [[1.0]], [[1.0]], [[1.0]], initial_mean=[1.0], horizon=2)
        >>> plant.expected_cost([[-0.5]], std=0.0)
        1.5625
    """

    A: Array | np.ndarray
    B: Array | np.ndarray
    Q: Array | np.ndarray
    R: Array | np.ndarray
    final: Array | np.ndarray
    initial_mean: Array | np.ndarray
    initial_root: Array | np.ndarray
    noise_root: Array | np.ndarray
    noisy: bool = eqx.field(static=True)
    scattered: bool = eqx.field(static=True)
    horizon: int = eqx.field(static=True)
    discount: float = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    action_limit: float | None = eqx.field(static=True)
    state_limit: float | None = eqx.field(static=True)
    tolerance: tuple[float, ...] | None = eqx.field(static=True)
    threshold: float | None = eqx.field(static=True)
    observation_scale: tuple[float, ...] = eqx.field(static=True)
    observation_names: tuple[str, ...] = eqx.field(static=True)
    action_names: tuple[str, ...] = eqx.field(static=True)
    name: str = eqx.field(static=True)

    def __init__(
        self,
        A: ArrayLike,
        B: ArrayLike,
        Q: ArrayLike,
        R: ArrayLike,
        *,
        noise_covariance: ArrayLike | None = None,
        initial_mean: ArrayLike | None = None,
        initial_covariance: ArrayLike | None = None,
        horizon: int,
        discount: float = 1.0,
        final: ArrayLike | None = None,
        action_limit: float | None = None,
        state_limit: float | None = None,
        dt: float = 1.0,
        tolerance: Sequence[float] | None = None,
        threshold: float | None = None,
        observation_scale: Sequence[float] | None = None,
        observation_names: Sequence[str] | None = None,
        action_names: Sequence[str] | None = None,
        name: str = "lqr",
    ):
        p = len(np.atleast_1d(np.asarray(A)))
        m = np.atleast_2d(np.asarray(B)).shape[-1]
        none = np.zeros((p, p))
        self.A, self.B = _array("A", A, (p, p)), _array("B", B, (p, m))
        self.Q, self.R = _weight("Q", Q, p), _weight("R", R, m, strict=True)
        self.final = _weight("final", none if final is None else final, p)
        self.initial_mean = _array("initial_mean", np.zeros(p) if initial_mean is None else initial_mean, (p,))
        noise = _weight("noise_covariance", none if noise_covariance is None else noise_covariance, p)
        start = _weight("initial_covariance", none if initial_covariance is None else initial_covariance, p)
        self.noise_root, self.initial_root = _root(noise), _root(start)
        self.noisy, self.scattered = bool(noise.any()), bool(start.any())
        rules = {"horizon": "a whole number, 1 or more", "discount": "in (0, 1]"}
        for label, value, allowed in (
            ("horizon", horizon, horizon >= 1 and int(horizon) == horizon),
            ("discount", discount, 0 < discount <= 1),
            ("dt", dt, dt > 0),
            ("action_limit", action_limit, action_limit is None or action_limit > 0),
            ("state_limit", state_limit, state_limit is None or state_limit > 0),
        ):
            if not allowed:
                raise ValueError(f"LQR.{label} is {value!r}; it must be {rules.get(label, 'positive')}")
        self.horizon, self.discount, self.dt = int(horizon), float(discount), float(dt)
        self.action_limit, self.state_limit = action_limit, state_limit
        self.tolerance = None if tolerance is None else tuple(_array("tolerance", tolerance, (p,)).tolist())
        self.threshold = threshold
        scale = np.ones(p) if observation_scale is None else observation_scale
        self.observation_scale = tuple(_array("observation_scale", scale, (p,)).tolist())
        self.observation_names = tuple(observation_names or (f"x{i}" for i in range(p)))
        self.action_names = tuple(action_names or (f"u{i}" for i in range(m)))
        if len(self.observation_names) != p or len(self.action_names) != m:
            raise ValueError(
                f"LQR has {p} states, {m} actions, but {len(self.observation_names)} observation_names and "
                f"{len(self.action_names)} action_names; give one name each"
            )
        self.name = name

    @property
    def specification(self) -> Specification:
        """Sizes, limits, horizon and time step."""
        m = len(self.action_names)
        limit = np.inf if self.action_limit is None else self.action_limit
        solved = "mean cost at most 1.05 times that of the best time-invariant gain"
        if self.tolerance is not None:
            within = zip(self.observation_names, self.tolerance, strict=True)
            solved = ", ".join(f"|{name}| ≤ {value:g}" for name, value in within)
            solved += " over the last tenth of the stages, in 95 of 100 rollouts"
        random = self.noisy or self.scattered
        return Specification(
            name=self.name,
            action=Continuous(low=(-limit,) * m, high=(limit,) * m),
            observation_size=len(self.observation_names),
            observation_scale=self.observation_scale,
            observation_names=self.observation_names,
            action_names=self.action_names,
            horizon=self.horizon,
            dt=self.dt,
            discount=self.discount,
            deterministic=not random,
            solved=solved,
            # a mean within 5 % of the best gain's takes more than a hundred rollouts to tell
            evaluation_rollouts=2000 if random and self.tolerance is None else None,
        )

    def reset(self, key: PRNGKeyArray) -> Float[Array, " p"]:
        """Draw x_0 from its Gaussian."""
        # the dtype is asked for: that of a float64 constant depends on what JAX has traced before
        mean = jnp.asarray(self.initial_mean, jnp.result_type(float))
        if not self.scattered:
            return mean
        return mean + jnp.asarray(self.initial_root, mean.dtype) @ jax.random.normal(key, mean.shape)

    def noise(self, key: PRNGKeyArray) -> Float[Array, "T p"] | None:
        """Draw the disturbances of a rollout; None for a noise-free plant."""
        if not self.noisy:
            return None
        standard = jax.random.normal(key, (self.horizon, self.A.shape[0]))
        return standard @ jnp.asarray(self.noise_root, standard.dtype).T

    def step(self, x: Float[Array, " p"], u: Float[Array, " m"], w: Array | None) -> Float[Array, " p"]:
        """A x + B u + w, held within the state limit if there is one."""
        x = jnp.asarray(self.A, x.dtype) @ x + jnp.asarray(self.B, x.dtype) @ u
        x = x if w is None else x + w
        return x if self.state_limit is None else jnp.clip(x, -self.state_limit, self.state_limit)

    def cost(self, x: Float[Array, " p"], u: Float[Array, " m"]) -> Float[Array, ""]:
        """Return xᵀQx + uᵀRu."""
        return x @ jnp.asarray(self.Q, x.dtype) @ x + u @ jnp.asarray(self.R, x.dtype) @ u

    def final_cost(self, x: Float[Array, " p"]) -> Float[Array, ""]:
        """xᵀ `final` x."""
        return x @ jnp.asarray(self.final, x.dtype) @ x

    def success(self, states: Float[Array, "T1 p"], actions: Array) -> Bool[Array, ""] | None:
        """Whether every state kept within `tolerance` over the last tenth of the stages; None without it."""
        if self.tolerance is None:
            return None
        last = states[-max(self.horizon // 10, 1) :]
        return jnp.all(jnp.abs(last) <= jnp.asarray(self.tolerance))

    def solved_cost(self) -> float | None:
        """1.05 times the best time-invariant gain's cost, or `threshold`; None where `tolerance` judges."""
        if self.threshold is not None or self.tolerance is not None:
            return self.threshold
        return None if self.limited else 1.05 * self.best_gain()[1]

    def equilibrium(self) -> Equilibrium:
        """The origin; states are their own coordinates."""
        return Equilibrium(
            (0.0,) * len(self.observation_names), (0.0,) * len(self.action_names), lambda z: z, lambda x: x
        )

    def expected_cost(self, K: ArrayLike, std: ArrayLike = 0.0, bias: ArrayLike | None = None) -> float:
        """Expected cost J of u = K x + bias + std·ξ, ξ ~ N(0, I), by propagating the moments of x (18.11).

        Args:
            K: gain (m, p).
            std: of the actions, scalar or (m,), in action units; 0 for the policy's mode.
            bias: (m,); zero by default.

        Returns:
            Cost, summed over the horizon and discounted.

        Raises:
            ValueError: the plant has limits, for which no closed form exists, or a shape is wrong.
        """
        return self._moments(K, std, bias)[0]

    def gradient(self, K: ArrayLike, std: ArrayLike = 0.0, bias: ArrayLike | None = None) -> dict[str, np.ndarray]:
        """Exact gradient of `expected_cost`: gain (m, p), bias (m,), log_std (m,); same arguments (18.16).

        By the adjoint of the moment recursion: with V_t the value of the next state and S_t the second moment
        of (x, 1), ∂J/∂K = Σ_t 2 discount^t [(R + BᵀV_tB) K + BᵀV_tA] S_t.
        """
        _, seconds, values, (A, B, gain, variance) = self._moments(K, std, bias)
        total, log_std = np.zeros_like(gain), np.zeros(len(gain))
        for t, (second, value) in enumerate(zip(seconds, values, strict=True)):
            weight = np.asarray(self.R) + B.T @ value @ B
            total += self.discount**t * 2 * (weight @ gain + B.T @ value @ A) @ second
            log_std += self.discount**t * 2 * np.diag(weight) * variance
        return {"gain": total[:, :-1], "bias": total[:, -1], "log_std": log_std}

    def visited(self, K: ArrayLike, std: ArrayLike = 0.0, bias: ArrayLike | None = None) -> Visited:
        """Mean over the T stages of E[x] and E[x xᵀ] under the policy; same arguments as `expected_cost`."""
        second = np.mean(self._moments(K, std, bias)[1], axis=0)
        return Visited(mean=second[:-1, -1], second=second[:-1, :-1])

    def fisher(self, K: ArrayLike, std: ArrayLike, bias: ArrayLike | None = None) -> Matrix:
        """Fisher matrix per stage of `gain.ravel()`, (m·p, m·p): Σ_u⁻¹ ⊗ mean_t E[x_t x_tᵀ] (18.39).

        Args:
            K: gain (m, p).
            std: of the actions, scalar or (m,), positive.
            bias: (m,); zero by default.

        Raises:
            ValueError: a std is zero: the policy is deterministic and has no Fisher matrix.
        """
        variance = np.broadcast_to(np.asarray(std, float), (self.B.shape[1],)) ** 2
        if not np.all(variance > 0):
            raise ValueError(f"std is {std!r}; a policy without action noise has no Fisher matrix: give std > 0")
        return np.kron(np.diag(1 / variance), self.visited(K, std, bias).second)

    def fisher_log_std(self) -> Matrix:
        """Fisher matrix per stage of log std, (m, m): 2 I; its cross terms with the gain are zero (18.39)."""
        return 2 * np.eye(self.B.shape[1])

    def riccati(self) -> Riccati:
        """Optimal time-varying gains, value matrix at t = 0 and expected cost, by dynamic programming.

        Example:
            >>> plant = LQR([[1.0]], [[1.0]], [[1.0]], [[1.0]], initial_mean=[1.0], horizon=2)
            >>> plant.riccati().gains.ravel().tolist()
            [-0.5, -0.0]
        """
        self._refuse_limits("riccati")
        A, B, Q, R = (np.asarray(matrix) for matrix in (self.A, self.B, self.Q, self.R))
        noise = np.asarray(self.noise_root) @ np.asarray(self.noise_root).T
        value, constant, gains = np.asarray(self.final), 0.0, []
        for t in reversed(range(self.horizon)):
            # weight of the next state in today's cost; the final cost joins g_{T−1}, so it is not discounted
            value = value if t == self.horizon - 1 else self.discount * value
            constant = (constant if t == self.horizon - 1 else self.discount * constant) + np.sum(value * noise)
            gain = -np.linalg.solve(R + B.T @ value @ B, B.T @ value @ A)
            value = Q + A.T @ value @ (A + B @ gain)
            value = (value + value.T) / 2
            gains.append(gain)
        start = np.asarray(self.initial_root) @ np.asarray(self.initial_root).T
        start = start + np.outer(self.initial_mean, self.initial_mean)
        return Riccati(np.stack(gains[::-1]), value, float(np.sum(value * start) + constant))

    def stationary_gain(self) -> Matrix:
        """The infinite-horizon optimal gain (m, p): algebraic Riccati equation with √discount folded in."""
        self._refuse_limits("stationary_gain")
        A, B = np.sqrt(self.discount) * np.asarray(self.A), np.sqrt(self.discount) * np.asarray(self.B)
        P = scipy.linalg.solve_discrete_are(A, B, self.Q, self.R)
        return -np.linalg.solve(np.asarray(self.R) + B.T @ P @ B, B.T @ P @ A)

    def best_gain(self, std: ArrayLike = 0.0) -> tuple[Matrix, float]:
        """The best time-invariant gain (m, p) for this horizon, start and noise, and its expected cost.

        Args:
            std: of the actions, scalar or (m,).
        """
        start = self.riccati().gains[0]
        found = scipy.optimize.minimize(
            lambda flat: self.expected_cost(flat.reshape(start.shape), std),
            start.ravel(),
            jac=lambda flat: self.gradient(flat.reshape(start.shape), std)["gain"].ravel(),
            method="BFGS",
            options={"gtol": 1e-8 * (1 + self.expected_cost(start, std))},
        )
        return found.x.reshape(start.shape), float(found.fun)

    @property
    def limited(self) -> bool:
        """Whether actions or states are clipped, so that closed forms do not hold."""
        return self.action_limit is not None or self.state_limit is not None

    def _refuse_limits(self, what: str) -> None:
        if self.limited:
            raise ValueError(
                f"LQR.{what}: this plant clips actions or states (action_limit={self.action_limit}, "
                f"state_limit={self.state_limit}), so no closed form exists; build it without limits, or "
                "measure by rollouts"
            )

    def _moments(
        self, K: ArrayLike, std: ArrayLike, bias: ArrayLike | None
    ) -> tuple[float, list[np.ndarray], list[np.ndarray], tuple[np.ndarray, ...]]:
        """J, E[z zᵀ] and values V of the next z (T each), z = (x, 1), and A, B, gain, variance for z."""
        self._refuse_limits("expected_cost")
        p, m = self.B.shape
        gain = np.hstack([_array("K", K, (m, p)), _array("bias", np.zeros(m) if bias is None else bias, (m,))[:, None]])
        variance = np.broadcast_to(_array("std", std, np.shape(std)), (m,)) ** 2
        A, B, Q, final, noise, second = (np.zeros((p + 1, columns)) for columns in (p + 1, m) + (p + 1,) * 4)
        A[:p, :p], A[p, p], B[:p] = self.A, 1.0, self.B
        Q[:p, :p], final[:p, :p] = self.Q, self.final
        noise[:p, :p] = np.asarray(self.noise_root) @ np.asarray(self.noise_root).T
        second[:p, :p] = np.asarray(self.initial_root) @ np.asarray(self.initial_root).T
        start = np.append(self.initial_mean, 1.0)
        second += np.outer(start, start)
        R, closed = np.asarray(self.R), A + B @ gain
        weight, spread = Q + gain.T @ R @ gain, noise + (B * variance) @ B.T
        cost, seconds = 0.0, []
        for t in range(self.horizon):
            seconds.append(second)
            cost += self.discount**t * (np.sum(weight * second) + np.diag(R) @ variance)
            second = closed @ second @ closed.T + spread
        cost += self.discount ** (self.horizon - 1) * np.sum(final * second)
        values = [final]
        for _ in range(self.horizon - 1):
            values.append(self.discount * (weight + closed.T @ values[-1] @ closed))
        return float(cost), seconds, values[::-1], (A, B, gain, variance)


def _array(name: str, value: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """`value` as a finite float64 array of this shape, or a ValueError that says what came."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"LQR.{name} must be numbers of shape {shape}; {value!r} came") from error
    if array.shape != shape:
        raise ValueError(f"LQR.{name} has shape {array.shape}; {shape} is needed here")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"LQR.{name} must be finite; it holds NaN or infinity: {array.tolist()}")
    return array


def _weight(name: str, value: ArrayLike, size: int, strict: bool = False) -> np.ndarray:
    """A symmetric positive semi-definite (or, `strict`, definite) matrix."""
    matrix = _array(name, value, (size, size))
    if not np.allclose(matrix, matrix.T, rtol=1e-9, atol=1e-12 * np.abs(matrix).max(initial=0)):
        raise ValueError(f"LQR.{name} must be symmetric; pass (M + Mᵀ)/2 of {matrix.tolist()}")
    matrix = (matrix + matrix.T) / 2
    lowest, scale = np.linalg.eigvalsh(matrix)[0], np.abs(matrix).max()
    if lowest < -1e-12 * scale or (strict and lowest <= 1e-12 * scale):
        kind = "positive definite" if strict else "positive semi-definite"
        raise ValueError(f"LQR.{name} must be {kind}; its lowest eigenvalue is {lowest:.3g}")
    return matrix


def _root(covariance: np.ndarray) -> np.ndarray:
    """A symmetric square root of a positive semi-definite matrix, exact for singular ones too."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
