"""The one rule that gives policies and methods their defaults, from d, p, the horizon and the action range.

d searched parameters, p observations. Stated in `docs/methods.md`; every number here can be overruled by a setting.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from policysearch.initial import fourier_layers, random_layers
from policysearch.normalize import Scaling
from policysearch.policies import LinearGaussian, NeuralGaussian, Parameters, Policy, Softmax
from policysearch.settings import ARS, Budget, PolicySettings, SampledActions, checked
from policysearch.specification import Continuous, Discrete, Specification

#: action noise as a share of half the action range: a regulator pays for noise, a network must find its way; and where
#: actions are unbounded, in the action's unit
LINEAR_STD, NETWORK_STD, UNBOUNDED_STD = 0.1, 0.5, 1.0
#: perturbation of the action, as a share of half its range, that parameter noise should cause
PARAMETER_EFFECT = 0.1
#: stages from which a horizon is long; on those an update takes about so many stages, and advantages look ahead over a
#: share of the horizon
LONG, UPDATE_STAGES, AHEAD = 100, 2000, 0.1
#: perturbation of the arguments of a plain cost g(θ), in their scales
FUNCTION_STD = 0.1


class Problem(NamedTuple):
    """What the rule looks at.

    d: searched parameters. network: the policy is a network. effect: standard deviation of a parameter that moves the
    action by `PARAMETER_EFFECT` of half its range. biased: the method trades bias for noise wherever a horizon is long.
    """

    specification: Specification
    d: int
    network: bool
    effect: float
    biased: bool = False

    @property
    def rollouts(self) -> int:
        """Rollouts of an update that samples actions: 2.5 d of a gain matrix, 10 to 64; 64 of a network.

        Where later costs count less, about 2000 stages, 10 to 64 rollouts; see also `stages`.
        """
        if self.ahead:
            return int(np.clip(math.ceil(UPDATE_STAGES / self.specification.draws), 10, 64))
        return 64 if self.network else int(np.clip(math.ceil(2.5 * self.d), 10, 64))

    @property
    def stages(self) -> int | None:
        """Stages of an update on a simulator with a long horizon, 2000: its rollouts may end long before that.

        None with discrete actions: short rollouts of a cart-pole teach as much in small batches.
        """
        specification = self.specification
        follows = specification.reward and not isinstance(specification.action, Discrete)
        return UPDATE_STAGES if self.ahead and follows else None

    @property
    def directions(self) -> int:
        """Antithetic pairs of an update that perturbs parameters: a quarter of d, 4 to 64."""
        return int(np.clip(math.ceil(self.d / 4), 4, 64))

    @property
    def kl(self) -> float:
        """Largest step in nats per stage: 0.1 of a gain matrix, 0.03 of a network or a softmax.

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
        """Fisher matrix of the natural gradient: the empirical one of a gain matrix, else the policy's own."""
        own = self.network or isinstance(self.specification.action, Discrete)
        return "analytic" if own else "empirical"

    @property
    def ahead(self) -> int:
        """Stages that advantages look ahead: a tenth of a long horizon, of simulators and of biased methods; else 0.

        A cost that the task discounts itself looks ahead no farther than it is meant to.
        """
        specification = self.specification
        wanted = (specification.reward or self.biased) and specification.discount == 1
        return round(AHEAD * specification.draws) if wanted and specification.draws >= LONG else 0

    @property
    def baseline(self) -> str:
        """Of a cost-to-go: a network where a simulator's advantages look ahead, else ridge regression."""
        return "network" if self.ahead and self.specification.reward else "value"

    @property
    def discount(self) -> float:
        """γ of advantages: 1 − 1/ahead; 1 where they look ahead to the end, unbiased."""
        return 1 - 1 / self.ahead if self.ahead else 1.0

    @property
    def gae_lambda(self) -> float:
        """λ of advantages: 0.95 where γ is below 1 (Schulman et al. 2016); else 1, unbiased."""
        return 0.95 if self.ahead else 1.0

    @property
    def common(self) -> bool:
        """Partners share a seed wherever a seed repeats a rollout."""
        return self.specification.repeatable


def problem(specification: Specification, policy: Policy, space: str) -> Problem:
    """What the rule looks at, for a policy searched in `space`."""
    network = getattr(policy, "depth", 1) - len(getattr(policy, "constants", ())) // 2 > 1
    effect = PARAMETER_EFFECT if specification.action is not None else FUNCTION_STD
    if isinstance(specification.action, Continuous):
        # a row of p parameters acts on observations of about unit size
        effect *= float(np.mean(specification.action.half_range)) if isinstance(policy, LinearGaussian) else 1.0
        effect /= math.sqrt(specification.observation_size)
    elif isinstance(specification.action, Discrete):
        effect /= math.sqrt(specification.observation_size)
    return Problem(specification, policy.theta(space).size, network, effect)


def default_method(specification: Specification) -> str:
    """Weight perturbation for g(θ), `trpo` for simulators and plants that want a network, else a natural gradient."""
    if specification.action is None:
        return "weight_perturbation"
    return "trpo" if specification.reward or specification.policy == "network" else "natural_gradient"


def default_budget(specification: Specification, rollouts: int) -> Budget:
    """How long a search goes on unless told.

    Gymnasium: 2 million stages with continuous actions, 1 million with discrete ones. A plant: 300 updates. A plain
    cost g(θ): 1000 updates.
    """
    if specification.reward:
        continuous = not isinstance(specification.action, Discrete)
        return Budget(2_000_000 if continuous else 1_000_000, "stages")
    return Budget(1000 if specification.action is None else 300, "updates")


def policy_of(task: Any, policy: Policy | PolicySettings | str | None, method: Any, seed: int) -> Policy:
    """The policy that a search starts from, for a task object or a bare specification; see `Search`.

    Raises:
        ValueError: settings that the task cannot be served with, or named numbers without initial values.
    """
    if isinstance(policy, Policy):
        return policy
    specification = getattr(task, "specification", task)
    if specification.action is None:
        initial = getattr(task, "initial", None)
        if initial is None:
            raise ValueError(
                f"{specification.name} needs a policy of named numbers with initial values: "
                "policy=Parameters(names, initial)."
            )
        return Parameters([f"x{i}" for i in range(len(initial))], initial, scale=getattr(task, "scale", 1.0))
    settings = policy
    if not isinstance(settings, PolicySettings):
        settings = checked(PolicySettings, {} if policy is None else {"kind": policy}, "a policy setting")
    running = method.version.startswith("v2") if isinstance(method, ARS) else None
    sampled = isinstance(method, SampledActions)
    return default_policy(specification, settings, sampled=sampled, running=running, seed=seed)


def default_policy(
    specification: Specification,
    settings: PolicySettings,
    *,
    sampled: bool = False,
    running: bool | None = None,
    seed: int = 0,
) -> Policy:
    """A policy for a task: linear or network, softmax where actions are discrete.

    Args:
        specification: of the task; `action` None gives named numbers x0, x1, …, which need initial values: see `start`.
        settings: what the user asked for.
        sampled: the method samples actions; then simulators get a network.
        running: what the method asks of the observation scaling (ARS V2: True, V1: False); None for no wish.
        seed: of a network's random weights.

    Raises:
        ValueError: settings that the task's actions cannot be served with.
    """
    action, p = specification.action, specification.observation_size
    if action is None:
        raise ValueError(
            f"{specification.name} evaluates parameters; it needs initial values, not a {settings.kind} policy."
        )
    kind: str = settings.kind
    if kind == "auto":
        kind = "network" if sampled and specification.reward else specification.policy
    if kind == "rbf" and isinstance(action, Discrete):
        raise ValueError(f"{specification.name} has discrete actions; use a linear or network policy.")
    hidden = list(settings.hidden) if kind == "network" else []
    if isinstance(action, Discrete):
        if settings.std is not None or settings.learned_std is not None:
            raise ValueError(f"{specification.name} has discrete actions: a softmax policy has no std to set.")
        bias = settings.bias if settings.bias is not None else not specification.one_hot
        return Softmax(
            random_layers([p, *hidden, action.n], seed, last=0.0 if not hidden else 0.01, bias=bias),
            scaling=_scaling(specification, settings.scaling, running, constant=bias),
        )
    half, centre = np.asarray(action.half_range), np.asarray(action.centre)
    bounded = np.isfinite(np.asarray(action.high) - np.asarray(action.low))
    share = np.where(bounded, NETWORK_STD if kind == "network" else LINEAR_STD, UNBOUNDED_STD)
    std = settings.std if settings.std is not None else share * half
    learned = settings.learned_std if settings.learned_std is not None else kind == "network"
    if kind != "linear":
        rbf = kind == "rbf"
        return NeuralGaussian(
            fourier_layers(p, settings.features, len(half), seed, settings.bandwidth)
            if rbf
            else random_layers([p, *hidden, len(half)], seed),
            std=std,
            learned_std=learned,
            activation="sin" if rbf else "tanh",
            action_centre=centre,
            action_scale=half,
            frozen=1 if rbf else 0,
            scaling=_scaling(specification, settings.scaling, running, constant=True),
        )
    wanted = settings.bias if settings.bias is not None else bool(np.any(centre != 0))
    return LinearGaussian(
        np.zeros((len(half), p)),
        bias=centre if wanted else None,
        std=std,
        learned_std=learned,
        scaling=_scaling(specification, settings.scaling, running, constant=wanted),
    )


def _scaling(specification: Specification, wish: str, running: bool | None, *, constant: bool) -> Scaling:
    """The observation scaling of a policy with or without a constant: one without gets none from a running mean."""
    p = specification.observation_size
    if wish == "auto":
        follows = "running" if constant else "rms"
        known = bool(specification.observation_scale) or specification.one_hot
        wish = ("fixed" if known else follows) if running is None else follows if running else "none"
    if wish in ("running", "rms"):
        return Scaling.follow(p, centred=wish == "running")
    if wish == "fixed" and not specification.one_hot:
        if not specification.observation_scale:
            raise ValueError(
                f"{specification.name} does not say how large its observations are; use scaling running or none."
            )
        return Scaling.fixed(specification.observation_scale)
    return Scaling.fixed((1.0,) * p)
