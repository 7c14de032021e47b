"""The settings of each method: a struct per method, whose fields are its flags, with the rule's choice for open ones.

None means: by the rule, see `MethodSettings.resolved`. No JAX.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import msgspec
from msgspec import Meta

from policysearch.core import baselines
from policysearch.core.plain import Options
from policysearch.core.settings import Count, NonNegative, Positive, Settings, Share, checked, unknown
from policysearch.methods.rule import Problem

Shape = Literal["gaussian", "sphere", "rademacher", "orthogonal"]
#: a name of `baselines`; one that does not serve the costs of a method is refused when the method is built
Baseline = Annotated[str, Meta(pattern=f"^({'|'.join(baselines.NAMES)})$", extra={"one of": baselines.NAMES})]

#: baselines that predict costs from observations
PREDICTING = ("value", "network")
#: number of parameters from which a damped analytic Fisher matrix is not decomposed: conjugate gradients are faster
DECOMPOSED = 64


class MethodSettings(Settings, frozen=True):
    """Settings of a method; `resolved` gives them with nothing left open."""

    space: ClassVar[str] = "parameter"

    @classmethod
    def label(cls) -> str:
        """The method's name as users type it, such as natural_gradient."""
        return next(name for name, struct in METHODS.items() if struct is cls)

    def rule(self, problem: Problem) -> Options:
        """The rule's choice for each setting that may be left open, by name."""
        return {}

    def resolved(self, problem: Problem) -> Self:
        """The settings that a search uses: the same struct, with the rule's choice for each one left open.

        What stays None is displaced by another setting (`max_kl` by `learning_rate`, `rollouts` by `stages`), or means
        never (`step_decay`) or the scale-free step (`learning_rate` of perturbations).
        """
        chosen = self.rule(problem)
        return msgspec.structs.replace(self, **{name: chosen[name] for name in left_open(self) if name in chosen})


def left_open(settings: Settings) -> list[str]:
    """Names of the settings that the rule decides: None, or "auto"."""
    return [name for name, value in msgspec.structs.asdict(settings).items() if value in (None, "auto")]


def plain(given: object) -> Options:
    """Settings as they are, by name; a method composed by hand has none."""
    return msgspec.structs.asdict(given) if isinstance(given, MethodSettings) else {}


def by_rule(given: Options, used: Options) -> Options:
    """The settings of a search that its user left open, by name."""
    return {name: used[name] for name, value in given.items() if value in (None, "auto") and used.get(name) != value}


class FiniteDifferences(MethodSettings, frozen=True):
    """One parameter at a time, forward or central differences (18.18)."""

    epsilon: Positive | None = None
    """ε, in parameter units"""
    central: bool = True
    """2d rollouts with error O(ε²), instead of d + 1 with O(ε)"""
    repeats: Count | None = None
    """how often the whole set is tried, each time on new seeds; 2 on noisy tasks, to measure the noise"""
    common_random_numbers: bool | None = None
    """compared rollouts share their seed; on if the task can repeat one"""
    step_size: Positive = 1.0
    """longest step of an update, in units of ε times the square root of d"""
    learning_rate: Positive | None = None
    """η of plain gradient descent, instead of the scale-free step"""

    def rule(self, problem: Problem) -> Options:
        """A step that moves the action as `problem.effect` says; twice if the noise must be measured."""
        return {
            "epsilon": problem.effect,
            "repeats": 1 if problem.specification.deterministic else 2,
            "common_random_numbers": problem.common,
        }


class WeightPerturbation(MethodSettings, frozen=True):
    """Random perturbations of all parameters at once, with a baseline (18.20, 18.24)."""

    rollouts: Count | None = None
    """per update, reference rollouts not included"""
    std: Positive | None = None
    """σ of the perturbation, in parameter units"""
    shape: Shape = "gaussian"
    """distribution of the perturbation; each has covariance σ²I"""
    two_sided: bool = True
    """try θ − β as well as θ + β"""
    baseline: Baseline | None = None
    """none for two-sided perturbations, leave_one_out for one-sided"""
    common_random_numbers: bool | None = None
    """partners share their seed; on if the task can repeat one"""
    step_size: Positive = 1.0
    """longest step of an update, in standard deviations of the perturbation"""
    learning_rate: Positive | None = None
    """η of plain gradient descent, instead of the scale-free step"""

    def rule(self, problem: Problem) -> Options:
        """Two rollouts per direction; the baseline that suits the number of sides."""
        return {
            "rollouts": 2 * problem.directions,
            "std": problem.effect,
            "baseline": "none" if self.two_sided else "leave_one_out",
            "common_random_numbers": problem.common,
        }


class ARS(MethodSettings, frozen=True):
    """Augmented random search: the best antithetic pairs over their spread (Mania, Guy & Recht 2018)."""

    version: Literal["v1", "v2", "v1-t", "v2-t"] = "v2-t"
    """v2 scales observations by running statistics, v1 does not; -t: only the best pairs count"""
    directions: Count | None = None
    """pairs of rollouts per update"""
    top: Count | None = None
    """pairs that count, the best ones; half of them for -t, else all"""
    std: Positive | None = None
    """σ of the perturbation, in parameter units (ν in the paper)"""
    step_size: Positive | None = None
    """step size (α in the paper)"""
    shape: Shape = "gaussian"
    """distribution of the perturbation; each has covariance σ²I"""
    common_random_numbers: bool | None = None
    """partners share their seed; on if the task can repeat one"""

    def rule(self, problem: Problem) -> Options:
        """Half of the directions are the best ones; a step of 0.7 σ."""
        directions, std = self.directions or problem.directions, self.std or problem.effect
        return {
            "directions": directions,
            "top": -(-directions // 2) if self.version.endswith("-t") else directions,
            "std": std,
            "step_size": 0.7 * std,
            "common_random_numbers": problem.common,
        }


class PGPE(MethodSettings, frozen=True):
    """Parameter-exploring policy gradients: the perturbation's spread is learned too (Sehnke et al. 2010)."""

    directions: Count | None = None
    """pairs of rollouts per update"""
    std: Positive | None = None
    """first σ of the perturbation, in parameter units"""
    step_size: Positive = 1.0
    """longest step of the mean in an update, in standard deviations"""
    std_step_size: NonNegative = 0.1
    """step size of log σ; 0 keeps σ as it is"""
    common_random_numbers: bool | None = None
    """partners share their seed; on if the task can repeat one"""

    def rule(self, problem: Problem) -> Options:
        """As many directions as d requires."""
        return {"directions": problem.directions, "std": problem.effect, "common_random_numbers": problem.common}


class CEM(MethodSettings, frozen=True):
    """Cross-entropy method: fit a normal distribution to the best rollouts (Rubinstein 1999)."""

    rollouts: Count | None = None
    """per update"""
    elites: Share = 0.2
    """share of the rollouts that are best"""
    std: Positive | None = None
    """first σ of the parameters, in parameter units"""
    smoothing: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """share of the old mean and std that is kept"""
    extra: NonNegative = 0.5
    """std added at first, as a share of the first σ (Szita & Lőrincz 2006)"""
    extra_updates: Count = 50
    """updates over which the extra std falls to zero"""

    def rule(self, problem: Problem) -> Options:
        """Twice the rollouts of antithetic pairs, spread three times as far."""
        return {"rollouts": 4 * problem.directions, "std": 3 * problem.effect}


class SampledActions(MethodSettings, frozen=True):
    """Settings shared by all methods that sample actions."""

    space: ClassVar[str] = "action"

    rollouts: Count | None = None
    """per update"""
    stages: Count | None = None
    """per update, in as many whole rollouts (4 to 64) as should take them; 2000 on continuous simulators"""
    max_kl: Positive | None = None
    """largest step, nats per stage"""
    shrink: bool | None = None
    """shorten steps by the share of noise in the gradient; on for gain matrices on plants"""
    step_decay: Count | None = None
    """updates after which steps are half as long as at first, to settle at an optimum; never by default"""
    learning_rate: Positive | None = None
    """η of a plain step along the direction, instead of the step capped by max_kl"""

    def rule(self, problem: Problem) -> Options:
        """Rollouts, or the stages that they take; a KL step unless there is a learning rate."""
        rule: Options = {}
        if self.learning_rate is None:
            rule |= {"max_kl": problem.max_kl, "shrink": problem.shrink}
        if self.rollouts is None and self.stages is None:
            by_stages = problem.stages is not None
            rule |= {"stages": problem.stages} if by_stages else {"rollouts": problem.rollouts}
        return rule


class Advantages(SampledActions, frozen=True):
    """Settings shared by methods that weigh each action by the cost that follows it."""

    baseline: Baseline | None = None
    """subtracted from the cost-to-go: value, or network on simulators with a long horizon"""
    discount: Share | None = None
    """γ of the advantage: below 1 later costs count less, for less noise and some bias"""
    gae_lambda: Share | None = None
    """λ of generalised advantage estimation; needs the baseline value or network"""
    bootstrap: bool | None = None
    """if the horizon cuts a rollout, predict what would follow; on for trpo and simulators if γ is below 1"""
    action_limit_penalty: NonNegative = 0.0
    """charge for action beyond its limits, which otherwise costs nothing: of the clipped square, in half-ranges"""

    def rule(self, problem: Problem) -> Options:
        """A baseline that suits the horizon; bias for less noise if the problem allows it."""
        baseline, discount = self.baseline or problem.baseline, self.discount or problem.discount
        predicting = baseline in PREDICTING
        biased = problem.biased or problem.specification.ends_early
        return super().rule(problem) | {
            "baseline": baseline,
            "discount": discount,
            "gae_lambda": problem.gae_lambda if predicting else 1.0,
            "bootstrap": biased and discount < 1 and predicting,
        }


class Reinforce(SampledActions, frozen=True):
    """Likelihood-ratio gradient with total costs (18.16 with the full inner sum; Williams 1992)."""

    baseline: Baseline = "leave_one_out"
    """subtracted from the total cost"""


class GPOMDP(Advantages, frozen=True):
    """Likelihood-ratio gradient with costs-to-go, the causal form (18.16; Baxter & Bartlett 2001)."""


class NaturalGradient(Advantages, frozen=True):
    """Natural policy gradient: pseudo-inverse of the Fisher matrix, KL steps (18.35–18.40; Kakade 2001)."""

    rcond: Annotated[float, Meta(gt=0, lt=1)] | None = None
    """eigenvalues below this share of the largest count as zero"""
    damping: NonNegative | None = None
    """added to the Fisher matrix, in units of its mean eigenvalue"""
    solver: Literal["auto", "parameter", "sample", "conjugate_gradient"] = "auto"
    """which matrix is decomposed, if any"""
    fisher: Literal["empirical", "analytic"] | None = None
    """the Fisher matrix: of the sampled actions, or averaged over actions exactly; the latter for networks"""

    def rule(self, problem: Problem) -> Options:
        """Conjugate gradients if the damped matrix is large; else a decomposition with a cut-off."""
        damping = problem.damping if self.damping is None else self.damping
        fisher = self.fisher or problem.fisher
        solver = "auto"
        if fisher == "analytic" and damping and self.rcond is None and problem.d > DECOMPOSED:
            solver = "conjugate_gradient"
        rule = super().rule(problem) | {"damping": damping, "fisher": fisher, "solver": solver}
        solved = solver if self.solver == "auto" else self.solver
        return rule if solved == "conjugate_gradient" else rule | {"rcond": problem.rcond}


class TRPO(NaturalGradient, frozen=True):
    """Natural gradient whose step is shortened until the surrogate cost falls (Schulman et al. 2015).

    On long horizons it trades some bias for much less noise: see discount, gae_lambda and bootstrap.
    """

    baseline: Baseline = "network"
    """subtracted from the cost-to-go"""

    def rule(self, problem: Problem) -> Options:
        """Like the natural gradient, but bias is accepted for less noise."""
        return super().rule(problem._replace(biased=True))


class ENAC(SampledActions, frozen=True):
    """Episodic natural actor-critic: one row per rollout and a fitted constant (Peters & Schaal 2008)."""

    rcond: Annotated[float, Meta(gt=0, lt=1)] | None = None
    """eigenvalues below this share of the largest count as zero"""
    damping: NonNegative | None = None
    """added to the Fisher matrix, in units of its mean eigenvalue"""

    def rule(self, problem: Problem) -> Options:
        """No damping: the plain pseudo-inverse."""
        return super().rule(problem) | {"rcond": problem.rcond, "damping": 0.0}


METHODS: dict[str, type[MethodSettings]] = {
    "finite_differences": FiniteDifferences,
    "weight_perturbation": WeightPerturbation,
    "ars": ARS,
    "pgpe": PGPE,
    "cem": CEM,
    "reinforce": Reinforce,
    "gpomdp": GPOMDP,
    "natural_gradient": NaturalGradient,
    "trpo": TRPO,
    "enac": ENAC,
}


#: searches of other libraries over θ, for comparisons only
RIVALS = {"cma": "CMA-ES of pycma, its own defaults", "nelder_mead": "the simplex method of SciPy, adaptive"}


def method_settings(name: str, options: Options) -> MethodSettings:
    """Checked settings of a named method.

    Args:
        name: such as "gpomdp".
        options: settings by name.

    Raises:
        ValueError: unknown method or setting (nearest names are offered), or a value that is not allowed.
    """
    if name not in METHODS:
        raise ValueError(unknown_method(name))
    found: MethodSettings = checked(METHODS[name], options, f"a setting of {name}")
    return found


def unknown_method(name: str) -> str:
    """The message for a method that cannot be searched with: a rival's says where it takes part."""
    plain = name.lower().replace("-", "_")
    rival = next((rival for rival in RIVALS if plain.startswith(rival)), None)
    if rival is None:
        return unknown("method", name, list(METHODS))
    return (
        f"{rival} ({RIVALS[rival]}) takes part in comparisons only, as a rival of the methods here: policysearch "
        f"compare TASK --methods ars,{rival}. Methods to search with: {', '.join(METHODS)}."
    )
