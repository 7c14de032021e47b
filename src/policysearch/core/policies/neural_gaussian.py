"""`NeuralGaussian`: a network, or fixed random features, with Gaussian action noise. No JAX until it is searched.

p observations, m actions; x' the scaled observation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from policysearch.core import law
from policysearch.core.policies import network
from policysearch.core.policies.policy import Policy
from policysearch.core.policies.registry import Output

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from policysearch.core.normalize import Scaling
    from policysearch.core.settings import PolicySettings
    from policysearch.core.specification import Specification

#: action noise as a share of half the action range, of a network, which must explore, and of a gain matrix on features;
#: and in the action's unit if actions are unbounded
NETWORK_STD, FEATURES_STD, UNBOUNDED_STD = 0.5, 0.1, 1.0


class NeuralGaussian(Policy):
    """u = centre + scale · network(x') + std ξ: a multilayer perceptron gives the mean.

    Args:
        layers: weights and biases [(W (h, p), b (h,)), …, (W (m, h), b (m,))].
        std: standard deviation of the action noise, scalar or (m,), in the action's unit.
        learned_std: the logarithm of std is a parameter.
        activation: "tanh", "relu" or "sin".
        action_centre, action_scale: (m,), what 0 and ±1 of the network mean in the action's unit.
        frozen: how many of the first layers are not searched: fixed features.
        scaling: of the observations; None for no scaling.

    Raises:
        ValueError: layers that do not fit, or a std that is not positive.
    """

    kind = "neural_gaussian"
    described = ("activation",)
    words = ("rbf", "network")

    def __init__(
        self,
        layers: network.Layers,
        *,
        std: Any = 0.3,
        learned_std: bool = True,
        activation: str = "tanh",
        action_centre: Any = 0.0,
        action_scale: Any = 1.0,
        frozen: int = 0,
        scaling: Scaling | None = None,
    ):
        from policysearch.core.normalize import Scaling

        arrays = network.arrays(layers, activation)
        if not 0 <= frozen < len(layers):
            raise ValueError(f"frozen is {frozen}; of {len(layers)} layers, 0 to {len(layers) - 1} can be fixed.")
        held = {f"{name}_{index}" for name in ("weight", "bias") for index in range(frozen)}
        constants = {name: value for name, value in arrays.items() if name in held}
        parameters = {name: value for name, value in arrays.items() if name not in held}
        m, p = layers[-1][0].shape[0], layers[0][0].shape[1]
        (parameters if learned_std else constants)["log_std"] = network.log_std(std, m)
        for name, value in (("action_centre", action_centre), ("action_scale", action_scale)):
            constants[name] = np.broadcast_to(np.asarray(value, float), (m,))
        super().__init__(
            parameters=parameters,
            constants=constants,
            details={"activation": activation},
            scaling=scaling if scaling is not None else Scaling.fixed((1.0,) * p),
        )

    @property
    def depth(self) -> int:
        """Number of layers."""
        return network.depth(self.constants) + network.depth(self.parameters)

    @property
    def nonlinear(self) -> bool:
        """See `Policy.nonlinear`: whether more than the last layer is searched."""
        return network.depth(self.parameters) > 1

    def _layers(self) -> list[tuple[Any, Any]]:
        return network.layers(self.constants | self.parameters, self.kind)

    def sizes(self) -> tuple[int, int]:
        """See `Policy.sizes`."""
        p, m = network.sizes(self._layers(), self.kind, self.details.get("activation", ""))
        for name in ("action_scale", "action_centre"):
            law.fitting(name, law.needed(name, self.constants, "constant", self.kind), (m,), self.kind)
        return p, m

    def forward(self, xp: Any, observation: Float[Array, "*b p"]) -> Float[Array, "*b m"]:
        """The mean action; see `Policy.forward`."""
        output = network.forward(xp, self._layers(), self.details.get("activation", ""), observation)
        return self.constants["action_centre"] + self.constants["action_scale"] * output

    def compiled(self, shift: np.ndarray | None, scale: np.ndarray | None) -> Output:
        """See `Policy.compiled`."""
        placed = self.constants["action_scale"], self.constants["action_centre"]
        return law.compiled(law.fused(self._layers(), scale, *placed), shift, self.details.get("activation", ""))

    def absorbing(self, ratio: Array, moved: Array) -> Self:
        """See `Policy.absorbing`."""
        holder = "parameters" if "weight_0" in self.parameters else "constants"
        return self._with(**{holder: network.absorbed(getattr(self, holder), ratio, moved)})

    @classmethod
    def default(
        cls, specification: Specification, settings: PolicySettings, word: str, running: bool | None, seed: int
    ) -> Policy:
        """See `Policy.default`."""
        from policysearch.core.normalize import chosen

        action: Any = specification.action
        p, features = specification.observation_size, word == "rbf"
        half, centre = np.asarray(action.half_range), np.asarray(action.centre)
        bounded = np.isfinite(np.asarray(action.high) - np.asarray(action.low))
        share = np.where(bounded, FEATURES_STD if features else NETWORK_STD, UNBOUNDED_STD)
        return cls(
            network.fourier_layers(p, settings.features, len(half), seed, settings.bandwidth)
            if features
            else network.random_layers([p, *settings.hidden, len(half)], seed),
            std=settings.std if settings.std is not None else share * half,
            learned_std=settings.learned_std if settings.learned_std is not None else not features,
            activation="sin" if features else "tanh",
            action_centre=centre,
            action_scale=half,
            frozen=1 if features else 0,
            scaling=chosen(specification, settings.scaling, running, constant=True),
        )
