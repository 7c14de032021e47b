"""Every setting of methods, policies and runs, checked, without JAX: a struct a method, its fields the flags.

None means: by the rule in `policysearch.defaults`, from d parameters, the horizon and the actions.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0, lt=1e300)]
NonNegative = Annotated[float, Meta(ge=0, lt=1e300)]
Share = Annotated[float, Meta(gt=0, le=1)]
Shape = Literal["gaussian", "sphere", "rademacher", "orthogonal"]
TotalBaseline = Literal["none", "running", "mean", "leave_one_out", "least_variance"]
StageBaseline = Literal[
    "none", "running", "mean", "per_stage_mean", "leave_one_out", "least_variance", "value", "network"
]
PerturbationBaseline = Literal["none", "reference", "running", "mean", "leave_one_out"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that check themselves: every field against its type and limits.

    Raises:
        ValueError: naming the setting, what came and what is allowed.
    """

    def __post_init__(self) -> None:
        """Check every field."""
        hints = typing.get_type_hints(type(self), include_extras=True)
        for field in msgspec.structs.fields(type(self)):
            value, hint = getattr(self, field.name), hints[field.name]
            try:
                msgspec.convert(value, hint, strict=True)
            except msgspec.ValidationError:
                raise ValueError(f"{field.name} is {value!r}; it must be {allowed(hint)}.") from None

    @classmethod
    def label(cls) -> str:
        """The method's name as users type it, such as natural_gradient."""
        return next(name for name, struct in METHODS.items() if struct is cls)


class FiniteDifferences(Settings, frozen=True):
    """One parameter at a time, forward or central differences (18.18)."""

    step: Positive | None = None
    """ε, in parameter units"""
    central: bool = True
    """2d rollouts with error O(ε²), instead of d + 1 with O(ε)"""
    repeats: Count | None = None
    """times that the whole set is tried, each on new seeds; 2 on noisy tasks, so that the noise is measured"""
    common_random_numbers: bool | None = None
    """compared rollouts share their seed; on where the task can repeat one"""
    trust: Positive = 1.0
    """longest step of an update, in units of ε times the square root of d"""
    learning_rate: Positive | None = None
    """η of plain gradient descent, instead of the scale-free step"""


class WeightPerturbation(Settings, frozen=True):
    """Random perturbations of all parameters at once, with a baseline (18.20, 18.24)."""

    rollouts: Count | None = None
    """per update, reference rollouts not included"""
    std: Positive | None = None
    """σ of the perturbation, in parameter units"""
    shape: Shape = "gaussian"
    """distribution of the perturbation; each has covariance σ²I"""
    two_sided: bool = True
    """try θ − β as well as θ + β"""
    baseline: PerturbationBaseline | None = None
    """none for two-sided perturbations, leave_one_out for one-sided"""
    common_random_numbers: bool | None = None
    """partners share their seed; on where the task can repeat one"""
    step: Positive = 1.0
    """longest step of an update, in standard deviations of the perturbation"""
    learning_rate: Positive | None = None
    """η of plain gradient descent, instead of the scale-free step"""


class ARS(Settings, frozen=True):
    """Augmented random search: the best antithetic pairs over their spread (Mania, Guy & Recht 2018)."""

    version: Literal["v1", "v2", "v1-t", "v2-t"] = "v2-t"
    """v2 scales observations by running statistics, v1 does not; -t: only the best pairs count"""
    directions: Count | None = None
    """pairs of rollouts per update"""
    top: Count | None = None
    """pairs that count, the best ones; half of them for -t, else all"""
    std: Positive | None = None
    """σ of the perturbation, in parameter units (ν in the paper)"""
    step: Positive | None = None
    """step size (α in the paper)"""
    shape: Shape = "gaussian"
    """distribution of the perturbation; each has covariance σ²I"""
    common_random_numbers: bool | None = None
    """partners share their seed; on where the task can repeat one"""


class PGPE(Settings, frozen=True):
    """Parameter-exploring policy gradients: the perturbation's spread is learned too (Sehnke et al. 2010)."""

    directions: Count | None = None
    """pairs of rollouts per update"""
    std: Positive | None = None
    """first σ of the perturbation, in parameter units"""
    step: Positive = 1.0
    """longest step of the mean in an update, in standard deviations"""
    std_step: NonNegative = 0.1
    """step size of log σ; 0 keeps σ as it is"""
    common_random_numbers: bool | None = None
    """partners share their seed; on where the task can repeat one"""


class CEM(Settings, frozen=True):
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


class SampledActions(Settings, frozen=True):
    """What all methods share that sample actions."""

    rollouts: Count | None = None
    """per update"""
    stages: Count | None = None
    """of an update, in as many whole rollouts (4 to 64) as should take them; 2000 on continuous simulators"""
    kl: Positive | None = None
    """largest step, nats per stage"""
    shrink: bool | None = None
    """shorten steps by the share of noise in the gradient; on for gain matrices on plants"""
    settle: Count | None = None
    """updates after which steps are half as long as at first, to settle at an optimum; never by default"""
    learning_rate: Positive | None = None
    """η of a plain step along the direction, instead of the step capped by kl"""


class Advantages(SampledActions, frozen=True):
    """What methods share that weigh each action by the cost that follows it."""

    baseline: StageBaseline | None = None
    """subtracted from the cost-to-go: value, or network on simulators with a long horizon"""
    discount: Share | None = None
    """γ of the advantage: below 1 later costs count less, for less noise and some bias"""
    gae_lambda: Share | None = None
    """λ of generalised advantage estimation; needs the baseline value or network"""
    bootstrap: bool | None = None
    """where the horizon cuts a rollout, predict what would follow; on for trpo and simulators where γ is below 1"""
    saturation: NonNegative = 0.0
    """charge for action beyond its limits, which else costs nothing: of the square that is clipped, in half-ranges"""


class Reinforce(SampledActions, frozen=True):
    """Likelihood-ratio gradient with total costs (18.16 with the full inner sum; Williams 1992)."""

    baseline: TotalBaseline = "leave_one_out"
    """subtracted from the total cost"""


class GPOMDP(Advantages, frozen=True):
    """Likelihood-ratio gradient with costs-to-go, the causal form (18.16; Baxter & Bartlett 2001)."""


class NaturalGradient(Advantages, frozen=True):
    """Natural policy gradient: pseudo-inverse of the Fisher matrix, KL steps (18.35–18.40; Kakade 2001)."""

    cutoff: Annotated[float, Meta(gt=0, lt=1)] | None = None
    """eigenvalues below this share of the largest count as zero"""
    damping: NonNegative | None = None
    """added to the Fisher matrix, in units of its mean eigenvalue"""
    solver: Literal["auto", "parameter", "sample", "conjugate_gradient"] = "auto"
    """which matrix is decomposed, if any"""
    fisher: Literal["empirical", "analytic"] | None = None
    """the Fisher matrix: of the sampled actions, or averaged over actions exactly; the latter for networks"""


class TRPO(NaturalGradient, frozen=True):
    """Natural gradient whose step is shortened until the surrogate cost falls (Schulman et al. 2015).

    On long horizons it trades some bias for much less noise: see discount, gae_lambda and bootstrap.
    """

    baseline: StageBaseline = "network"
    """subtracted from the cost-to-go"""


class ENAC(SampledActions, frozen=True):
    """Episodic natural actor-critic: a row a rollout and a fitted constant (Peters & Schaal 2008)."""

    cutoff: Annotated[float, Meta(gt=0, lt=1)] | None = None
    """eigenvalues below this share of the largest count as zero"""
    damping: NonNegative | None = None
    """added to the Fisher matrix, in units of its mean eigenvalue"""


METHODS: dict[str, type[Settings]] = {
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


#: searches of other libraries over θ, which take part in comparisons only
RIVALS = {"cma": "CMA-ES of pycma, its own defaults", "nelder_mead": "the simplex method of SciPy, adaptive"}


class PolicySettings(Settings, frozen=True):
    """What kind of policy is searched."""

    kind: Literal["auto", "linear", "rbf", "network"] = "auto"
    """a gain matrix, one on random Fourier features, or a multilayer perceptron; auto: what the task recommends"""
    hidden: tuple[Count, ...] = (32, 32)
    """units of the network's hidden layers"""
    features: Count = 100
    """number of random Fourier features"""
    bandwidth: Positive | None = None
    """of the features, in scaled observations; √(2p) by default"""
    bias: bool | None = None
    """a constant term in a linear policy; off for gain matrices unless the action range is lopsided"""
    std: Positive | None = None
    """action noise, in the action's unit; 0.1 of half the action range for a gain matrix, 0.5 for a network"""
    learned_std: bool | None = None
    """search the action noise too; on for networks"""
    scaling: Literal["auto", "fixed", "running", "rms", "none"] = "auto"
    """of observations: by the task's typical magnitudes where known, else running: mean and deviation, or for a law
    without a constant the root mean square (rms)"""


def allowed(hint: Any) -> str:
    """What a setting of this type may be, in words.

    Example:
        >>> allowed(Share | None)
        'a number above 0, at most 1'
    """
    arguments = typing.get_args(hint)
    if type(None) in arguments:
        return allowed(next(argument for argument in arguments if argument is not type(None)))
    origin = typing.get_origin(hint)
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    if origin is tuple:
        return f"a sequence, each entry {allowed(arguments[0])}"
    if origin is not Annotated:
        return {bool: "true or false", int: "a whole number", float: "a finite number"}[hint]
    kind, limits = arguments
    words = [
        f"{word} {limit:g}"
        for word, limit in (
            ("above", limits.gt),
            ("at least", limits.ge),
            ("below", limits.lt),
            ("at most", limits.le),
        )
        # the largest numbers are there to keep infinity out
        if limit is not None and limit < 1e300
    ]
    return f"{'a whole number' if kind is int else 'a number'} {', '.join(words)}"


def method_settings(name: str, options: dict[str, Any]) -> Settings:
    """Checked settings of a named method.

    Args:
        name: such as "gpomdp".
        options: settings by name.

    Raises:
        ValueError: unknown method or setting (nearest names are offered), or a value that is not allowed.
    """
    if name not in METHODS:
        raise ValueError(unknown_method(name))
    return checked(METHODS[name], options, f"a setting of {name}")


def checked(struct: type[Settings], options: dict[str, Any], noun: str) -> Any:
    """An instance of `struct` from options by name; unknown names raise ValueError with the nearest known."""
    check_names(struct, options, noun)
    return struct(**options)


def check_names(struct: type[Settings], options: Iterable[str], noun: str) -> None:
    """Raise ValueError with the nearest known names unless all of these are settings of `struct`."""
    names = [field.name for field in msgspec.structs.fields(struct)]
    for option in options:
        if option not in names:
            raise ValueError(unknown(noun, option, names))


def unknown(noun: str, name: str, known: list[str]) -> str:
    """The sentence for a name that is not known: nearest names first, then all."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    what = noun if noun.startswith("a ") else f"a known {noun}"
    return f"{name!r} is not {what}.{hint} Known: {', '.join(known)}."


def unknown_method(name: str) -> str:
    """The sentence for a method that cannot be searched with: a rival's says where it takes part."""
    plain = name.lower().replace("-", "_")
    rival = next((rival for rival in RIVALS if plain.startswith(rival)), None)
    if rival is None:
        return unknown("method", name, list(METHODS))
    return (
        f"{rival} ({RIVALS[rival]}) takes part in comparisons only, as a rival of the methods here: policysearch "
        f"compare TASK --methods ars,{rival}. Methods to search with: {', '.join(METHODS)}."
    )


_BUDGET = re.compile(r"^\s*([0-9]+(?:\.[0-9]*)?(?:e[0-9]+)?)\s*(rollouts?|stages?|updates?)?\s*$", re.IGNORECASE)


class Budget(msgspec.Struct, frozen=True):
    """How long a search goes on: a number of rollouts, stages or updates, reference rollouts included."""

    amount: int
    unit: Literal["rollouts", "stages", "updates"] = "rollouts"

    @classmethod
    def parse(cls, text: str | int | float | Budget) -> Budget:
        """From 2000, "2e6stages" or "50updates".

        Raises:
            ValueError: not of that form, or not at least 1.
        """
        if isinstance(text, Budget):
            text = str(text)
        match = _BUDGET.match(str(text))
        amount = float(match.group(1)) if match else 0.0
        if not match or not 1 <= amount < 1e15 or amount % 1:
            raise ValueError(
                f"budget is {text!r}; it must be a whole number, at least 1, and look like 2000 (rollouts), "
                "2e6stages or 50updates."
            )
        unit = (match.group(2) or "rollouts").lower()
        return cls(round(amount), typing.cast(Any, unit if unit.endswith("s") else unit + "s"))

    @property
    def words(self) -> str:
        """As a person reads it: 2 000 000 stages."""
        amount = str(self.amount) if self.amount < 10_000 else f"{self.amount:,}".replace(",", " ")
        return f"{amount} {self.unit}"

    def __str__(self) -> str:
        """As a user would type it."""
        return str(self.amount) + ("" if self.unit == "rollouts" else self.unit)
