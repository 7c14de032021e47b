"""`Softmax`: one of k choices, by a linear map or a network. No JAX until it is searched.

p observations, k choices; x' the scaled observation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from policysearch.core import law
from policysearch.core.policies import network
from policysearch.core.policies.policy import Policy
from policysearch.core.policies.registry import CHOICE, Output

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from policysearch.core.normalize import Scaling
    from policysearch.core.settings import PolicySettings
    from policysearch.core.specification import Specification


class Softmax(Policy):
    """Softmax over k choices of a linear map or a network of the scaled observation.

    A table of logits per state is the linear map of a one-hot observation without bias.

    Args:
        layers: [(W (k, p), b (k,) or None)] for a linear map, more pairs for a network.
        activation: "tanh" or "relu".
        scaling: of the observations; None for no scaling.

    Raises:
        ValueError: layers that do not fit.
    """

    kind = "softmax"
    outputs = CHOICE
    described = ("activation",)
    words = ("linear", "network")

    def __init__(self, layers: network.Layers, *, activation: str = "tanh", scaling: Scaling | None = None):
        from policysearch.core.normalize import Scaling

        super().__init__(
            parameters=network.arrays(layers, activation),
            details={"activation": activation},
            scaling=scaling if scaling is not None else Scaling.fixed((1.0,) * layers[0][0].shape[1]),
        )

    @property
    def depth(self) -> int:
        """Number of layers."""
        return network.depth(self.parameters)

    @property
    def nonlinear(self) -> bool:
        """See `Policy.nonlinear`."""
        return self.depth > 1

    def _layers(self) -> list[tuple[Any, Any]]:
        return network.layers(self.constants | self.parameters, self.kind)

    def sizes(self) -> tuple[int, int]:
        """See `Policy.sizes`."""
        p, k = network.sizes(self._layers(), self.kind, self.details.get("activation", ""))
        return p, k

    def forward(self, xp: Any, observation: Float[Array, "*b p"]) -> Float[Array, "*b k"]:
        """The logits; see `Policy.forward`."""
        return network.forward(xp, self._layers(), self.details.get("activation", ""), observation)

    def compiled(self, shift: np.ndarray | None, scale: np.ndarray | None) -> Output:
        """See `Policy.compiled`."""
        return law.compiled(law.fused(self._layers(), scale), shift, self.details.get("activation", ""))

    def absorbing(self, ratio: Array, moved: Array) -> Self:
        """See `Policy.absorbing`."""
        return self._with(parameters=network.absorbed(self.parameters, ratio, moved))

    @classmethod
    def default(
        cls, specification: Specification, settings: PolicySettings, word: str, running: bool | None, seed: int
    ) -> Policy:
        """See `Policy.default`."""
        from policysearch.core.normalize import chosen

        if settings.std is not None or settings.learned_std is not None:
            raise ValueError(f"{specification.name} has discrete actions: a softmax policy has no std to set.")
        action: Any = specification.action
        hidden = list(settings.hidden) if word == "network" else []
        bias = settings.bias if settings.bias is not None else not specification.one_hot
        sizes = [specification.observation_size, *hidden, action.n]
        return cls(
            network.random_layers(sizes, seed, last=0.0 if not hidden else 0.01, bias=bias),
            scaling=chosen(specification, settings.scaling, running, constant=bias),
        )
