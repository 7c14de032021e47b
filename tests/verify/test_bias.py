"""What a row says of made-up estimates whose mean, noise and bias are known; which methods are checked, how often."""

import numpy as np
import pytest
import scipy.stats

from policysearch.core.credit import TotalCost
from policysearch.core.direction import Euclidean, Natural
from policysearch.core.explore import ActionNoise, Coordinates, ParameterNoise
from policysearch.core.method import Method
from policysearch.core.step import LearningRate
from policysearch.verify import bias, closed_forms

PROBLEM = closed_forms.PROBLEMS["lqr-check"]()
EXACT = np.array([3.0, -4.0, 1.0, 0.5])
LABEL = ("reinforce", "", "none")
MIX = np.array([[2.0, 0, 0, 0], [1.5, 1, 0, 0], [0, 0, 3, 0], [-1, 0, 2, 0.5]])
METHOD = Method(ActionNoise(10), TotalCost("none"), Euclidean(), LearningRate(1.0))


def row(estimates):
    return bias._row(PROBLEM, LABEL, METHOD, ("gradient", EXACT), np.asarray(estimates))


def noise(count, seed=0):
    """Correlated noise (count, 4) of mean 0 and covariance MIX MIXᵀ."""
    return np.random.default_rng(seed).normal(size=(count, 4)) @ MIX.T


def test_without_a_bias_z_is_standard_normal_and_the_probability_uniform():
    rows = [row(EXACT + noise(200, seed)) for seed in range(400)]
    assert scipy.stats.kstest([found.probability for found in rows], "uniform").pvalue > 1e-3
    for values in np.transpose([found.z for found in rows]):
        # t of 199 degrees of freedom is nearly normal
        assert scipy.stats.kstest(values, "norm").pvalue > 1e-3


def test_a_bias_is_said_in_standard_errors_and_as_a_share_of_the_gradient():
    made = noise(10_000)
    made -= made.mean(0)
    shift = np.array([0.0, 0.3, 0.0, -0.1])
    found = row(EXACT + shift + made)
    norm, std = np.linalg.norm(EXACT), made.std(0, ddof=1)
    np.testing.assert_allclose(found.z, shift / (std / 100), rtol=1e-4, atol=1e-9)
    assert found.worst == pytest.approx(0.3 / (std[1] / 100), rel=1e-4)
    assert found.bias == pytest.approx(0.3 / norm)
    assert found.error == pytest.approx(np.sqrt((std**2).sum()) / 100 / norm)
    assert found.snr == pytest.approx(norm**2 / (std**2).sum())
    assert found.batches == 10_000
    # all coordinates together, whatever their correlation: as though they were independent
    apart = np.linalg.solve(np.linalg.cholesky(np.cov(made.T)), shift) * 100
    assert found.probability == pytest.approx(scipy.stats.chi2.sf(apart @ apart, 4), rel=1e-2)
    assert found.names == PROBLEM.policy.parameter_names("action")


def test_the_cosine_is_the_mean_over_batches_and_an_estimate_of_nothing_has_none():
    aside = np.array([4.0, 3.0, 0.0, 0.0])
    assert row([2 * EXACT, -EXACT, EXACT, EXACT]).cosine == pytest.approx(0.5)
    assert row([EXACT, aside, aside, aside]).cosine == pytest.approx(0.25)
    assert row([EXACT, 0 * EXACT, EXACT, 0 * EXACT]).cosine == pytest.approx(0.5)


def test_estimates_without_noise_are_right_up_to_rounding_and_no_farther():
    exact = row([EXACT] * 10)
    assert (exact.snr, exact.error) == (np.inf, 0.0)
    assert exact.worst < 1e-6
    norm = np.linalg.norm(EXACT)
    little = row(EXACT + 1e-3 * noise(100))
    assert little.snr == pytest.approx(norm**2 / (1e-6 * noise(100).var(0, ddof=1).sum()))
    off = row([EXACT + 2e-5 * norm * np.eye(4)[0]] * 10)
    assert off.worst == pytest.approx(2.0, rel=1e-6)


def known(**changes):
    values = {"problem": "p", "method": "m", "variant": "", "baseline": "b", "estimand": "gradient", "batches": 9}
    values |= {"names": ["x", "y"], "z": [1.0, -2.0], "bias": 0.1, "error": 0.01, "probability": 0.5}
    return bias.Row(**(values | {"snr": 1.0, "cosine": 0.5} | changes))


def test_a_row_complains_of_a_bias_beyond_four_standard_errors_and_of_too_much_noise():
    assert known().complaint == known(z=[4.0, -4.0], error=0.02).complaint == ""
    biased = known(z=[1.0, -4.1]).complaint
    assert biased == "m b on p: y is biased by 4.1 standard errors against the gradient, 10 % of the gradient's norm."
    assert "x is biased by 5.0" in known(z=[5.0, -4.1]).complaint
    noisy = known(error=0.021, variant="v").complaint
    assert noisy.startswith("m v b on p: the standard error is 2.1 % of the gradient after 9 batches, more than 2 %")
    assert ", 90 % of the gradient's norm" in known(z=[0.0, 5.0], bias=0.9).complaint
    assert "the standard error is 90 % of the gradient" in known(error=0.9).complaint
    for nothing in (known(z=[np.nan, 0.0]), known(error=np.nan)):
        assert nothing.complaint


def test_every_sampling_method_makes_ten_rollouts_of_a_batch_so_that_a_bias_of_a_tenth_shows():
    for name in closed_forms.PROBLEMS:
        for (method, variant, baseline), made in bias.catalogue(closed_forms.PROBLEMS[name]()).items():
            layout, explore = made.explore.layout(4), made.explore
            if method == "finite_differences":
                assert isinstance(explore, Coordinates)
                assert (variant, baseline) == (("central", "none") if explore.central else ("forward", "reference"))
            else:
                assert (layout.size if method in ("reinforce", "gpomdp") else (layout.sign != 0).sum()) == 10
                if method == "weight_perturbation":
                    assert variant == f"{explore.shape}, {'two' if explore.two_sided else 'one'}-sided"
                    # each β on a seed of its own
                    assert layout.reference.sum() == (10 if baseline == "reference" else 0)
            assert made.credit.baseline.name == baseline


def test_a_problem_is_checked_by_the_methods_that_it_has_a_truth_for():
    methods = {name: {label[0] for label in bias.catalogue(make())} for name, make in closed_forms.PROBLEMS.items()}
    sampling = {"reinforce", "gpomdp", "weight_perturbation"}
    variants = {label[1] for label in bias.catalogue(closed_forms.PROBLEMS["bowl"]())}
    # of other laws a lopsided one would show one-sided alone
    assert variants == {"central", "forward", "gaussian, two-sided"} | {
        f"{shape}, one-sided" for shape in ("gaussian", "sphere", "rademacher", "orthogonal")
    }
    assert methods["bowl"] == {"weight_perturbation", "finite_differences"}
    assert methods["bandit"] == sampling
    assert methods["lqr"] == methods["lqr-check"] == sampling | {"finite_differences"}


def test_methods_that_explore_alike_learn_from_the_same_rollouts_and_others_do_not():
    one = ParameterNoise(5, 0.1)
    assert bias._alike(one) == bias._alike(ParameterNoise(5, 0.1))
    for other in (ParameterNoise(5, 0.2), ParameterNoise(4, 0.1), ParameterNoise(5, 0.1, "sphere"), ActionNoise(5)):
        assert bias._alike(one) != bias._alike(other)


@pytest.mark.parametrize("batches", [1999, 2000, 2001, 4000])
def test_as_many_batches_are_averaged_as_were_asked(batches):
    problem = closed_forms.PROBLEMS["bowl"]()
    method = Method(ParameterNoise(5, problem.std), TotalCost("none"), Euclidean(), LearningRate(7.0))
    (found,) = bias.measure(problem, {LABEL: method}, batches=batches)
    assert found.batches == batches
    assert found.worst < 4


def test_a_pilot_asks_for_the_batches_that_the_error_needs_and_never_for_few():
    problem = closed_forms.PROBLEMS["bowl"]()

    def measured(explore):
        return next(bias.measure(problem, {LABEL: Method(explore, TotalCost("none"), Euclidean(), LearningRate(1.0))}))

    noisy = measured(ParameterNoise(10, problem.std, two_sided=False))
    assert bias.LEAST < noisy.batches < bias.MOST
    # the spread of 2000 batches is known to 2 % or so
    assert noisy.error == pytest.approx(bias.WANTED, rel=0.06)
    assert noisy.complaint == ""
    clear = measured(ParameterNoise(200, problem.std))
    assert clear.batches == bias.LEAST == 10_000
    assert clear.error < bias.WANTED


def test_the_gradient_is_checked_whatever_the_step_and_no_other_direction():
    problem = closed_forms.PROBLEMS["bandit"]()
    rows = [
        next(
            bias.measure(problem, {LABEL: Method(ActionNoise(10), TotalCost(), Euclidean(), LearningRate(rate))}, 2000)
        )
        for rate in (1.0, 0.01)
    ]
    assert rows[0].z == rows[1].z
    natural = Method(ActionNoise(10), TotalCost(), Natural(), LearningRate(1.0))
    with pytest.raises(ValueError, match="A Natural direction is not a gradient"):
        next(bias.measure(problem, {LABEL: natural}, 2000))


def test_a_running_baseline_starts_from_a_batch_that_is_used_for_nothing_else():
    problem = closed_forms.PROBLEMS["bandit"]()
    method = Method(ActionNoise(10), TotalCost("running"), Euclidean(), LearningRate(1.0))
    (found,) = bias.measure(problem, {LABEL: method}, batches=4000)
    # without that the first of ten samples counts for nothing: a bias of a tenth, six standard errors
    assert found.worst < 4
    assert found.error < 0.1 / 6
