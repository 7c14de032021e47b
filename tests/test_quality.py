import jax.numpy as jnp
import numpy as np
import pytest

from policysearch.quality import measure


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


def test_a_single_group_knows_no_noise_and_equal_groups_have_none():
    assert np.isnan(measure(jnp.ones((1, 2))).noise)
    assert np.isnan(measure(jnp.ones((1, 2))).snr)
    assert float(measure(jnp.ones((4, 2))).noise) == 0
    assert float(measure(jnp.ones((4, 2))).snr) == np.inf
    assert float(measure(jnp.zeros((4, 2))).snr) == 0
