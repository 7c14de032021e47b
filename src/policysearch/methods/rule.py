"""The one rule for settings left open, from d searched parameters, the horizon and the action range. No JAX.

Stated in `docs/methods.md`; every number here can be overruled by a setting.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from policysearch.core.settings import Budget
from policysearch.core.specification import Discrete, Specification

#: stages from which a horizon is long; then an update takes about this many stages, and advantages look ahead over a
#: share of the horizon
LONG, UPDATE_STAGES, AHEAD = 100, 2000, 0.1


def within(least: int, wanted: int, most: int) -> int:
    """The number from `least` to `most` that is nearest to the one that is wanted."""
    return min(max(least, wanted), most)


class Problem(NamedTuple):
    """The inputs of the rule.

    d: searched parameters. network: the policy is a network. effect: standard deviation of a parameter that moves the
    action by `PARAMETER_EFFECT` of half its range. biased: the method trades bias for noise when a horizon is long.
    single: the search computes in float32.
    """

    specification: Specification
    d: int
    network: bool
    effect: float
    biased: bool = False
    single: bool = True

    @property
    def rollouts(self) -> int:
        """Rollouts of an update that samples actions: 2.5 d for a gain matrix, 10 to 64; 64 for a network.

        If later costs count less, about 2000 stages, 10 to 64 rollouts; see also `stages`.
        """
        if self.ahead:
            return within(10, math.ceil(UPDATE_STAGES / self.specification.draws), 64)
        return 64 if self.network else within(10, math.ceil(2.5 * self.d), 64)

    @property
    def stages(self) -> int | None:
        """Stages of an update on a simulator with a long horizon, 2000: its rollouts may end long before that.

        None with discrete actions: short rollouts of a cart-pole teach as much in small batches.
        """
        specification = self.specification
        follows = specification.ends_early and not isinstance(specification.action, Discrete)
        return UPDATE_STAGES if self.ahead and follows else None

    @property
    def directions(self) -> int:
        """Antithetic pairs of an update that perturbs parameters: a quarter of d, 4 to 64."""
        return within(4, math.ceil(self.d / 4), 64)

    @property
    def max_kl(self) -> float:
        """Largest step in nats per stage: 0.1 for a gain matrix, 0.03 for a network or a softmax.

        A confident softmax has little KL left to spend, and long steps make it confident too early.
        """
        return 0.03 if self.network or isinstance(self.specification.action, Discrete) else 0.1

    @property
    def shrink(self) -> bool:
        """A gain matrix's steps shrink by the gradient's share of noise, so that they settle at the optimum.

        Those of a network or a softmax do not: conjugate gradients know their Euclidean ratio only. Nor do those on
        long horizons, where a search ends with its budget long before it is at an optimum.
        """
        return not (self.network or self.ahead or isinstance(self.specification.action, Discrete))

    @property
    def damping(self) -> float:
        """Relative damping of the Fisher matrix: none for a gain matrix, 0.1 for a network."""
        return 0.1 if self.network else 0.0

    @property
    def fisher(self) -> str:
        """Fisher matrix of the natural gradient: the empirical one for a gain matrix, else the policy's own."""
        own = self.network or isinstance(self.specification.action, Discrete)
        return "analytic" if own else "empirical"

    @property
    def ahead(self) -> int:
        """Stages that advantages look ahead: a tenth of a long horizon, for simulators and biased methods; else 0.

        A cost that the task discounts itself looks ahead no further than intended.
        """
        specification = self.specification
        wanted = (specification.ends_early or self.biased) and specification.discount == 1
        return round(AHEAD * specification.draws) if wanted and specification.draws >= LONG else 0

    @property
    def baseline(self) -> str:
        """For a cost-to-go: a network if a simulator's advantages look ahead, else ridge regression."""
        return "network" if self.ahead and self.specification.ends_early else "value"

    @property
    def discount(self) -> float:
        """γ of advantages: 1 − 1/ahead; 1 if they look ahead to the end, unbiased."""
        return 1 - 1 / self.ahead if self.ahead else 1.0

    @property
    def gae_lambda(self) -> float:
        """λ of advantages: 0.95 if γ is below 1 (Schulman et al. 2016); else 1, unbiased."""
        return 0.95 if self.ahead else 1.0

    @property
    def rcond(self) -> float:
        """Smallest eigenvalue of a Fisher matrix that counts, as a share of the largest one: the limit of rounding."""
        return 1e-5 if self.single else 1e-12

    @property
    def common(self) -> bool:
        """Partners share a seed if a seed repeats a rollout."""
        return self.specification.repeatable


def default_method(specification: Specification, stochastic: bool = True) -> str:
    """Weight perturbation for g(θ); ARS for policies whose actions have no distribution, which are not `stochastic`;
    `trpo` for simulators and plants that need a network; else a natural gradient.
    """
    if specification.action is None:
        return "weight_perturbation"
    if not stochastic:
        return "ars"
    return "trpo" if specification.policy != "linear" else "natural_gradient"


def default_budget(specification: Specification, rollouts: int) -> Budget:
    """The default budget of a search.

    Gymnasium: 2 million stages with continuous actions, 1 million with discrete ones. A plant: 300 updates. A plain
    cost g(θ): 1000 updates.
    """
    if specification.ends_early:
        continuous = not isinstance(specification.action, Discrete)
        return Budget(2_000_000 if continuous else 1_000_000, "stages")
    return Budget(1000 if specification.action is None else 300, "updates")
