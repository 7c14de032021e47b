import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch.core.quality import measure


@pytest.mark.usefixtures("float64")
def test_noise_is_the_expected_square_of_the_error_and_snr_is_free_of_its_bias():
    rng = np.random.default_rng(0)
    truth, m, std = np.array([1.0, -0.5, 0.2]), 8, 2.0
    measured = [measure(jnp.asarray(truth + std * rng.normal(size=(m, 3)))) for _ in range(1500)]
    noise = np.array([float(q.noise) for q in measured])
    signal = np.array([float(q.power) for q in measured]) - noise
    # four standard errors
    assert abs(noise.mean() - 3 * std**2 / m) < 4 * noise.std() / np.sqrt(1500)
    assert abs(signal.mean() - truth @ truth) < 4 * signal.std() / np.sqrt(1500)
    assert float(measured[0].snr) == pytest.approx(signal[0] / noise[0])
    assert float(measured[0].error) == pytest.approx(np.sqrt(noise[0]))


@pytest.mark.usefixtures("float64")
def test_one_gaussian_perturbation_of_a_linear_cost_has_an_snr_of_one_over_d_plus_one():
    d, m = 5, 400_000
    beta = np.random.default_rng(0).normal(size=(m, d))
    terms = beta[:, :1] * beta
    # the ratio of m of them is m times as large; its standard error is that of the jackknife, of 4000 groups of 100
    groups = measure(jnp.asarray(terms.reshape(4000, 100, d).mean(1)))
    assert abs(float(groups.snr) / m - 1 / (d + 1)) < 4 * float(groups.uncertainty) / m
    assert float(groups.uncertainty) / m < 0.02 / (d + 1)
    # of the update of Roberts & Tedrake (2009): power along the gradient over power across it
    assert (terms[:, 0] ** 2).mean() / (terms[:, 1:] ** 2).sum(1).mean() == pytest.approx(3 / (d - 1), rel=0.02)


def test_a_single_group_knows_no_noise_and_equal_groups_have_none():
    assert np.isnan(measure(jnp.ones((1, 2))).noise)
    assert np.isnan(measure(jnp.ones((1, 2))).snr)
    assert float(measure(jnp.ones((4, 2))).noise) == 0
    assert float(measure(jnp.ones((4, 2))).snr) == np.inf
    assert float(measure(jnp.zeros((4, 2))).snr) == 0


@pytest.mark.usefixtures("float64")
def test_the_uncertainty_is_the_jackknife_over_groups():
    groups = np.random.default_rng(1).normal(size=(7, 4)) + 0.4
    m = len(groups)
    # without a group there are m − 1, whose ratio is (m − 1)/m times as large
    ratios = m / (m - 1) * np.array([float(measure(jnp.asarray(np.delete(groups, i, 0))).snr) for i in range(m)])
    expected = np.sqrt((m - 1) / m * np.sum((ratios - ratios.mean()) ** 2))
    assert float(measure(jnp.asarray(groups)).uncertainty) == pytest.approx(expected)
    assert np.isnan(measure(jnp.asarray(groups[:2])).uncertainty)
    assert float(measure(jnp.ones((4, 2))).uncertainty) == 0


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("m", "d", "signal"), [(32, 20, 0.25), (16, 20, 0.25), (32, 300, 0.0)])
def test_the_uncertainty_is_the_spread_of_the_ratio_or_somewhat_more(m, d, signal):
    """A jackknife is too large by up to √2 where there is no signal; the spread of 600 batches is known to 3 %."""
    rng = np.random.default_rng(2)
    measured = [jax.jit(measure)(jnp.asarray(signal + rng.normal(size=(m, d)))) for _ in range(600)]
    spread = np.std([float(q.snr) for q in measured])
    ratio = np.mean([float(q.uncertainty) for q in measured]) / spread
    assert 1 - 4 * 0.03 < ratio < 2**0.5 * (1 + 4 * 0.03)


def test_the_cosine_is_that_of_two_halves():
    assert float(measure(jnp.asarray([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 5.0]])).cosine) == 0
    assert float(measure(jnp.asarray([[1.0, 0.0], [-2.0, 0.0]])).cosine) == pytest.approx(-1)
    assert float(measure(jnp.asarray([[1.0, 1.0], [2.0, 2.0], [0.0, 1.0]])).cosine) == pytest.approx(5 / np.sqrt(26))
    assert float(measure(jnp.zeros((4, 2))).cosine) == 0


def test_groups_count_as_far_as_they_carry_the_estimate():
    assert float(measure(jnp.ones((5, 3))).effective) == pytest.approx(1)
    assert float(measure(jnp.asarray([[8.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])).effective) == 0.25
    assert float(measure(jnp.zeros((4, 2))).effective) == 1
