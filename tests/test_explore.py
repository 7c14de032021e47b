import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch.explore import ActionNoise, Coordinates, ParameterNoise
from policysearch.policies import LinearGaussian
from policysearch.rollouts import Rollouts


def test_action_noise_asks_for_independent_trials():
    layout = ActionNoise(5).layout(3)
    assert layout.size == layout.pairs == len(set(layout.environment)) == 5


@pytest.mark.parametrize(
    ("length", "least", "rollouts"),
    [(1, 4, 64), (60, 4, 64), (65, 4, 16), (100, 4, 16), (249, 4, 16), (251, 4, 4), (1000, 4, 4), (1, 10, 40),
     (99, 10, 40), (101, 10, 10), (1, 17, 17), (1000, 100, 100)],
)  # fmt: skip
def test_an_update_of_so_many_stages_takes_few_numbers_of_whole_rollouts(length, least, rollouts):
    sized = ActionNoise(10, stages=2000, least=least).sized(length)
    assert (sized.rollouts, sized.stages, sized.least) == (rollouts, 2000, least)


def test_a_number_of_rollouts_stays_what_it_is():
    fixed = ActionNoise(10)
    assert fixed.sized(1.0) is fixed
    noise = ParameterNoise(4, 0.1)
    assert noise.sized(1.0) is noise


def test_two_sided_partners_share_environment_and_pair_with_opposite_signs():
    layout = ParameterNoise(3, 0.1).layout(7)
    assert layout.sign.tolist() == [1, -1] * 3
    assert layout.environment.tolist() == layout.pair.tolist() == layout.perturbation.tolist() == [0, 0, 1, 1, 2, 2]


def test_without_common_random_numbers_no_two_trials_share_an_environment():
    for explore in (ParameterNoise(3, 0.1, common=False, reference="one"), Coordinates(0.1, common=False, repeats=2)):
        layout = explore.layout(4)
        assert len(set(layout.environment)) == layout.size


def test_references_run_theta_itself_on_the_environments_they_are_compared_on():
    each = ParameterNoise(3, 0.1, two_sided=False, reference="each").layout(7)
    assert np.flatnonzero(each.reference).tolist() == [1, 3, 5]
    assert each.environment.tolist() == each.pair.tolist() == [0, 0, 1, 1, 2, 2]
    one = ParameterNoise(3, 0.1, two_sided=False, reference="one").layout(7)
    assert np.flatnonzero(one.reference).tolist() == [3]
    # its loss drops no direction
    assert one.pair.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("central", "trials"), [(True, 2 * 4), (False, 4 + 1)])
def test_finite_differences_take_2d_or_d_plus_1_trials(central, trials):
    assert Coordinates(0.1, central=central).layout(4).size == trials
    repeated = Coordinates(0.1, central=central, repeats=3).layout(4)
    assert repeated.size == 3 * trials
    assert len(set(repeated.environment)) == 3


def test_coordinates_move_one_parameter_each_by_its_own_step():
    explore = Coordinates([0.1, 0.2, 0.4])
    np.testing.assert_allclose(explore.rows(jnp.ones((3, 3))), np.diag([0.1, 0.2, 0.4]))


@pytest.mark.parametrize("shape", ["gaussian", "sphere", "rademacher", "orthogonal"])
def test_every_shape_has_mean_zero_and_the_covariance_that_std_says(shape):
    std, n = np.array([0.5, 1.0, 2.0]), 6000
    rows = np.asarray(ParameterNoise(n, std, shape).rows(jax.random.normal(jax.random.key(0), (n, 3)))) / std
    # entries have unit variance and at most the fourth moment of a Gaussian: four standard errors
    assert np.all(np.abs(rows.mean(0)) < 4 / np.sqrt(n))
    assert np.all(np.abs(rows.T @ rows / n - np.eye(3)) < 4 * np.sqrt(2 / n))


def test_perturbations_without_their_offsets_are_refused():
    explore = ParameterNoise(1, 0.1)
    came = Rollouts(jnp.ones((2, 1)), jnp.ones((2, 1), bool), jnp.zeros(2, int))
    with pytest.raises(ValueError, match="need their offsets"):
        explore.score(LinearGaussian([[1.0]]), None, came, explore.layout(1))


def test_sampled_actions_have_no_perturbations():
    with pytest.raises(TypeError, match="ActionNoise perturbs no parameters"):
        ActionNoise(2).rows(jnp.ones((1, 1)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ActionNoise(0), "rollouts is 0"),
        (lambda: ActionNoise(4, stages=0), "stages is 0"),
        (lambda: ParameterNoise(-1, 0.1), "directions is -1"),
        (lambda: ParameterNoise(1, 0.0), "std is 0.0"),
        (lambda: ParameterNoise(1, [0.1, np.nan]), "std is .*positive and finite"),
        (lambda: ParameterNoise(1, 0.1, shape="cube"), "use one of gaussian, sphere"),
        (lambda: ParameterNoise(1, 0.1, reference="two"), "use one of none, one, each"),
        (lambda: Coordinates(-0.1), "step is -0.1"),
        (lambda: Coordinates(0.1, repeats=0), "repeats is 0"),
    ],
)
def test_sizes_and_spreads_that_mean_nothing_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
