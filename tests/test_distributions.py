import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from policysearch.core.distributions import Categorical, Gaussian

pytestmark = pytest.mark.usefixtures("float64")

LOGITS = np.array([0.3, -1.2, 2.0, 0.0])
OTHER_LOGITS = np.array([-0.5, 0.4, 1.0, 1.5])


def gaussian(mean=(0.4, -1.0), std=(0.5, 2.0)):
    return Gaussian(jnp.asarray(mean), jnp.log(jnp.asarray(std)))


def test_gaussian_density_is_that_of_scipy():
    u = np.random.default_rng(0).normal(size=(20, 2))
    expected = stats.norm.logpdf(u, [0.4, -1.0], [0.5, 2.0]).sum(-1)
    broadcast = Gaussian(jnp.broadcast_to(gaussian().mean, (20, 2)), gaussian().log_std)
    np.testing.assert_allclose(broadcast.log_prob(jnp.asarray(u)), expected, rtol=0, atol=1e-12)


def test_gaussian_kl_is_the_integral_of_p_log_p_over_q():
    p, q = gaussian((0.4,), (0.5,)), gaussian((-0.3,), (0.9,))

    def integrand(x):
        here = jnp.asarray([x])
        return float(jnp.exp(p.log_prob(here)) * (p.log_prob(here) - q.log_prob(here)))

    assert float(p.kl(q)) == pytest.approx(integrate.quad(integrand, -4, 5, epsabs=1e-9)[0], abs=1e-7)


def test_gaussian_entropy_and_several_actions_add_up():
    expected = stats.norm.entropy(scale=[0.5, 2.0]).sum()
    assert float(gaussian().entropy()) == pytest.approx(expected, abs=1e-12)
    parts = [gaussian((a,), (s,)).kl(gaussian((b,), (1.0,))) for a, s, b in ((0.4, 0.5, 0.0), (-1.0, 2.0, 0.5))]
    together = gaussian().kl(gaussian((0.0, 0.5), (1.0, 1.0)))
    assert float(together) == pytest.approx(float(sum(parts)), abs=1e-12)


def test_categorical_is_that_of_scipy():
    p, q = Categorical(jnp.asarray(LOGITS)), Categorical(jnp.asarray(OTHER_LOGITS))
    share, other = special.softmax(LOGITS), special.softmax(OTHER_LOGITS)
    for choice in range(4):
        assert float(p.log_prob(jnp.asarray(choice))) == pytest.approx(np.log(share[choice]), abs=1e-12)
    assert float(p.kl(q)) == pytest.approx(special.rel_entr(share, other).sum(), abs=1e-12)
    assert float(p.entropy()) == pytest.approx(special.entr(share).sum(), abs=1e-12)
    assert int(p.mode()) == share.argmax()


@pytest.mark.parametrize(
    "make", [lambda z: gaussian((0.4 + z, -1.0)), lambda z: Categorical(jnp.asarray(LOGITS + np.array([z, 0, 0, 0])))]
)
def test_kl_is_zero_only_between_equal_distributions(make):
    assert float(make(0.0).kl(make(0.0))) == 0.0
    assert float(make(0.0).kl(make(1e-3))) > 1e-9


def test_a_constant_added_to_all_logits_changes_nothing():
    p, shifted = Categorical(jnp.asarray(LOGITS)), Categorical(jnp.asarray(LOGITS + 7.0))
    assert float(p.kl(shifted)) == pytest.approx(0.0, abs=1e-14)
    assert float(p.log_prob(jnp.asarray(1))) == pytest.approx(float(shifted.log_prob(jnp.asarray(1))), abs=1e-13)


def test_gaussian_samples_have_its_law():
    keys = jax.random.split(jax.random.key(3), 4000)
    u = np.asarray(jax.vmap(gaussian().sample)(keys))
    for column, mean, std in zip(u.T, (0.4, -1.0), (0.5, 2.0), strict=True):
        assert stats.kstest(column, "norm", (mean, std)).pvalue > 1e-3


def test_categorical_samples_have_its_shares():
    n = 8000
    keys = jax.random.split(jax.random.key(4), n)
    counts = np.bincount(np.asarray(jax.vmap(Categorical(jnp.asarray(LOGITS)).sample)(keys)), minlength=4)
    share = special.softmax(LOGITS)
    # four standard errors
    assert np.all(np.abs(counts / n - share) < 4 * np.sqrt(share * (1 - share) / n))


def test_block_noise_has_one_row_per_sample_and_transform_is_the_sample():
    for distribution in (gaussian(), Categorical(jnp.asarray(LOGITS))):
        key = jax.random.key(5)
        noise = distribution.noise(key, (7, 3))
        assert noise.shape[:2] == (7, 3)
        assert np.all(distribution.transform(distribution.noise(key)) == distribution.sample(key))


@pytest.mark.parametrize(
    ("p", "q"), [(gaussian, lambda: Categorical(jnp.zeros(2))), (lambda: Categorical(jnp.zeros(2)), gaussian)]
)
def test_kl_between_kinds_is_refused(p, q):
    with pytest.raises(TypeError, match="KL of a"):
        p().kl(q())


@pytest.mark.parametrize(
    "make", [lambda t: Gaussian(t[:2], t[2:]), lambda t: Categorical(t)], ids=["gaussian", "softmax"]
)
def test_the_embeddings_jacobian_squares_to_the_fisher_matrix(make):
    theta = jnp.asarray(LOGITS)
    jacobian = jax.jacobian(lambda t: make(t).embedding())(theta)
    fisher = jax.hessian(lambda t: make(theta).kl(make(t)))(theta)
    np.testing.assert_allclose(jacobian.T @ jacobian, fisher, rtol=1e-10, atol=1e-12)
