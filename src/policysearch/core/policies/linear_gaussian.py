"""`LinearGaussian`: a gain matrix, optionally structured, with Gaussian action noise. No JAX until it is searched.

p observations, m actions; x' the scaled observation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from policysearch.core import law
from policysearch.core.policies import network
from policysearch.core.policies.initial_values import finite
from policysearch.core.policies.policy import Policy
from policysearch.core.policies.registry import Output

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from policysearch.core.normalize import Scaling
    from policysearch.core.settings import PolicySettings
    from policysearch.core.specification import Specification

#: action noise as a share of half the action range, since a regulator pays for noise; and in the action's unit if
#: actions are unbounded
STD, UNBOUNDED_STD = 0.1, 1.0


class LinearGaussian(Policy):
    """u = K x' + k + std ξ, with x' the scaled observation: a gain matrix, optionally structured.

    Control texts write u = −K x; here the sign is inside K.

    Args:
        gain: K (m, p), acting on scaled observations.
        bias: k (m,), or None for no bias.
        std: standard deviation of the action noise, scalar or (m,), in the action's unit.
        learned_std: the logarithm of std is a parameter.
        mask: (m, p) of bool, True where the gain is free; elsewhere it is 0 and not a parameter.
        scaling: of the observations; None for no scaling.

    Raises:
        ValueError: shapes that do not fit, or a std that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> policy = LinearGaussian([[-0.5, -0.8]], std=0.3)
        >>> policy.mode(jnp.array([1.0, 0.0])).tolist()
        [-0.5]
    """

    kind = "linear_gaussian"
    flags = ("mask",)
    words = ("linear",)

    def __init__(
        self,
        gain: Any,
        *,
        bias: Any = None,
        std: Any = 0.3,
        learned_std: bool = False,
        mask: Any = None,
        scaling: Scaling | None = None,
    ):
        from policysearch.core.normalize import Scaling

        gain = np.asarray(gain, float)
        if gain.ndim != 2 or not np.all(np.isfinite(gain)):
            raise ValueError(f"gain must be a finite (m, p) matrix; got shape {gain.shape}.")
        m, p = gain.shape
        log_std = network.log_std(std, m)
        details: dict[str, Any] = {}
        if mask is not None:
            allowed = np.asarray(mask, bool)
            if allowed.shape != gain.shape:
                raise ValueError(f"mask has shape {allowed.shape}; the gain has {gain.shape}.")
            if np.any(gain[~allowed] != 0):
                raise ValueError("The initial gain is not zero where the mask is False; set those entries to 0.")
            details["mask"] = tuple(map(tuple, allowed.tolist()))
            gain = gain[allowed]
        parameters = {"gain": gain}
        if bias is not None:
            parameters["bias"] = np.broadcast_to(np.asarray(bias, float), (m,))
        constants: dict[str, Any] = {}
        (parameters if learned_std else constants)["log_std"] = log_std
        super().__init__(
            parameters=parameters,
            constants=constants,
            details=details,
            scaling=scaling if scaling is not None else Scaling.fixed((1.0,) * p),
        )

    @property
    def mask(self) -> tuple[tuple[bool, ...], ...] | None:
        """True where the gain is free, (m, p); None if it is everywhere."""
        return self.details.get("mask")

    @property
    def gain(self) -> Float[Array, "m p"]:
        """K (m, p), acting on scaled observations."""
        import jax.numpy as jnp

        return self._gain(jnp)

    def _gain(self, xp: Any) -> Any:
        free = self.parameters["gain"]
        if self.mask is None:
            return free
        mask = np.asarray(self.mask)
        index = np.cumsum(mask).reshape(mask.shape) - 1  # of each entry among the free ones, row by row
        return xp.where(mask, free[..., np.maximum(index, 0)], 0.0) if free.size else xp.zeros(mask.shape)

    def _layers(self, xp: Any) -> list[tuple[Any, Any]]:
        return [(self._gain(xp), self.parameters.get("bias"))]

    def sizes(self) -> tuple[int, int]:
        """See `Policy.sizes`."""
        gain = law.needed("gain", self.parameters, "parameter", self.kind)
        if self.mask is not None:
            law.fitting("gain", gain, (int(np.sum(self.mask)),), self.kind)
        p, m = network.sizes(self._layers(np), self.kind, "", weight="gain", bias="bias")
        return p, m

    def forward(self, xp: Any, observation: Float[Array, "*b p"]) -> Float[Array, "*b m"]:
        """The mean action; see `Policy.forward`."""
        return network.forward(xp, self._layers(xp), "", observation)

    def compiled(self, shift: np.ndarray | None, scale: np.ndarray | None) -> Output:
        """See `Policy.compiled`."""
        return law.compiled(law.fused(self._layers(np), scale), shift, "")

    def absorbing(self, ratio: Array, moved: Array) -> Self:
        """See `Policy.absorbing`."""
        new = dict(self.parameters)
        new["gain"] = new["gain"] * (ratio if self.mask is None else ratio[np.nonzero(np.asarray(self.mask))[1]])
        if "bias" in new:
            new["bias"] = new["bias"] + self.gain @ moved
        return self._with(parameters=new)

    def physical_gain(self) -> tuple[Float[np.ndarray, "m p"], Float[np.ndarray, " m"]]:
        """K (m, p) and k (m,) with u = K x + k for observations in their own units: the law that acts, up to limits."""
        scaling: Any = self.scaling
        gain = np.asarray(self.gain, float) / np.asarray(scaling.scale, float)
        bias = np.asarray(self.parameters.get("bias", np.zeros(gain.shape[0])), float)
        return gain, bias - gain @ np.asarray(scaling.shift, float)

    def perturbation(self, share: float, specification: Specification) -> float:
        """See `Policy.perturbation`; its outputs are in the action's unit."""
        action: Any = specification.action
        share *= float(np.mean(action.half_range))
        return super().perturbation(share, specification)

    def starting_at(self, values: dict[str, Any]) -> Policy:
        """See `Policy.starting_at`; {"gain": [[…]], "bias": […]}, for observations in their own units."""
        shape = np.shape(self.gain)
        gain = finite("gain", values.get("gain", np.zeros(shape)))
        if set(values) - {"gain", "bias"} or "gain" not in values or gain.shape != shape:
            raise ValueError(
                f"initial has {', '.join(list(values)[:10])} with a gain of shape {gain.shape}; "
                f'it must be {{"gain": {shape} numbers}} and may have "bias". If you mean u = -K x, negate K.'
            )
        scaling: Any = self.scaling
        scale, shift = np.asarray(scaling.scale, float), np.asarray(scaling.shift, float)
        bias = finite("bias", values.get("bias", np.zeros(shape[0])), shape[:1]) + gain @ shift
        free = gain * scale
        if self.mask is not None:
            if np.any(free[~np.asarray(self.mask)] != 0):
                raise ValueError("The initial gain is not zero where the mask is False.")
            free = free[np.asarray(self.mask)]
        parameters = self.parameters | {"gain": free}
        if "bias" in parameters:
            parameters["bias"] = bias
        elif np.any(bias != 0):
            raise ValueError("The initial values have a bias but the policy has no bias; turn it on.")
        return self.with_parameters(parameters)

    @classmethod
    def default(
        cls, specification: Specification, settings: PolicySettings, word: str, running: bool | None, seed: int
    ) -> Policy:
        """See `Policy.default`."""
        from policysearch.core.normalize import chosen

        action: Any = specification.action
        half, centre = np.asarray(action.half_range), np.asarray(action.centre)
        bounded = np.isfinite(np.asarray(action.high) - np.asarray(action.low))
        wanted = settings.bias if settings.bias is not None else bool(np.any(centre != 0))
        return cls(
            np.zeros((len(half), specification.observation_size)),
            bias=centre if wanted else None,
            std=settings.std if settings.std is not None else np.where(bounded, STD, UNBOUNDED_STD) * half,
            learned_std=bool(settings.learned_std),
            scaling=chosen(specification, settings.scaling, running, constant=wanted),
        )
