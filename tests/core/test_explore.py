import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch.core.explore import ActionNoise, Coordinates, ParameterNoise, choice, positive, positive_number
from policysearch.core.policies import LinearGaussian
from policysearch.core.rollouts import Rollouts


def test_action_noise_asks_for_independent_trials():
    layout = ActionNoise(5).layout(3)
    assert layout.size == layout.pairs == len(set(layout.environment)) == 5
    assert layout.perturbations == 0
    assert not layout.sign.any()


@pytest.mark.parametrize(
    ("length", "least", "rollouts"),
    [(1, 4, 64), (60, 4, 64), (65, 4, 16), (100, 4, 16), (249, 4, 16), (251, 4, 4), (1000, 4, 4), (1, 10, 40),
     (99, 10, 40), (101, 10, 10), (1, 17, 17), (1000, 100, 100)],
)  # fmt: skip
def test_an_update_of_so_many_stages_takes_few_numbers_of_whole_rollouts(length, least, rollouts):
    sized = ActionNoise(10, stages=2000, least=least).sized(length)
    assert (sized.rollouts, sized.stages, sized.least) == (rollouts, 2000, least)


def test_rollouts_that_end_at_once_are_as_many_as_there_can_be():
    assert ActionNoise(10, stages=3).sized(0.0).rollouts == 4
    assert ActionNoise(10, stages=2000).sized(0.0).rollouts == 64
    assert ActionNoise(10, stages=2000).least == 4


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
    assert one.sign.tolist() == [1, 1, 1, 0]
    # its loss drops no direction
    assert one.pair.tolist() == [0, 1, 2, 3]
    assert one.environment.tolist() == [0, 1, 2, 0]
    apart = ParameterNoise(3, 0.1, two_sided=False, common=False, reference="one").layout(7)
    assert apart.environment.tolist() == [0, 1, 2, 3]
    assert ParameterNoise(2, 0.1, reference="each").layout(7).sign.tolist() == [1, -1, 0, 1, -1, 0]


@pytest.mark.parametrize(("central", "trials"), [(True, 2 * 4), (False, 4 + 1)])
def test_finite_differences_take_2d_or_d_plus_1_trials(central, trials):
    assert Coordinates(0.1, central=central).layout(4).size == trials
    repeated = Coordinates(0.1, central=central, repeats=3).layout(4)
    assert repeated.size == 3 * trials
    assert len(set(repeated.environment)) == 3


def test_a_lost_central_trial_takes_its_partner_along_and_a_forward_one_its_whole_repeat():
    central = Coordinates(0.1, repeats=2).layout(3)
    assert central.pair.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert central.sign.tolist() == [1, -1] * 6
    assert central.perturbation.tolist() == [0, 0, 1, 1, 2, 2] * 2
    assert central.environment.tolist() == [0] * 6 + [1] * 6
    forward = Coordinates(0.1, central=False, repeats=2).layout(3)
    assert forward.pair.tolist() == forward.environment.tolist() == [0] * 4 + [1] * 4
    assert forward.perturbation.tolist() == [0, 1, 2, -1] * 2
    assert forward.sign.tolist() == [1, 1, 1, 0] * 2
    assert (central.pairs, forward.pairs, central.perturbations, forward.perturbations) == (6, 2, 3, 3)


def test_by_default_differences_are_central_of_one_repeat_with_a_seed_for_all():
    layout = Coordinates(0.1).layout(3)
    assert layout.size == 6
    assert set(layout.environment) == {0}
    perturbed = ParameterNoise(2, 0.1)
    assert perturbed.layout(3).environment.tolist() == [0, 0, 1, 1]
    assert not perturbed.layout(3).reference.any()
    assert perturbed.init(3) == ()


def test_whole_orthogonal_blocks_are_drawn():
    assert [ParameterNoise(n, 0.1, "orthogonal").draws(4) for n in (1, 4, 5, 8)] == [4, 4, 8, 8]
    assert ParameterNoise(5, 0.1, "sphere").draws(4) == 5
    assert Coordinates(0.1).draws(4) == 4


def test_a_learned_spread_starts_where_it_was_set_and_its_state_is_what_is_drawn_with():
    explore = ParameterNoise(2, 0.5, learned=True)
    state = explore.init(3)
    np.testing.assert_allclose(state, np.log([0.5] * 3), rtol=1e-6)
    np.testing.assert_allclose(explore.rows(jnp.ones((2, 3)), state + jnp.log(2.0)), np.ones((2, 3)), rtol=1e-6)
    np.testing.assert_allclose(ParameterNoise(2, 0.5).rows(jnp.ones((2, 3))), np.full((2, 3), 0.5))


def test_rows_of_a_learned_spread_are_gaussian():
    for shape in ("sphere", "rademacher", "orthogonal"):
        with pytest.raises(ValueError, match=f"not '{shape}'"):
            ParameterNoise(2, 0.5, shape, learned=True)


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
        (lambda: Coordinates(-0.1), "epsilon is -0.1"),
        (lambda: Coordinates(0.1, repeats=0), "repeats is 0"),
        (lambda: ActionNoise(True), "rollouts is True"),
        (lambda: positive("rollouts", 2.0), "rollouts is 2.0; it must be a whole number of at least 1"),
        (lambda: ActionNoise(4, least=0), "least is 0"),
        (lambda: ParameterNoise(1, [0.1, -1.0]), "std is .*positive and finite"),
        (lambda: ParameterNoise(1, np.inf), "std is inf; it must be positive and finite"),
        (lambda: positive_number("x", 0.0), "x is 0.0; it must be positive and finite"),
        (lambda: positive_number("x", -1e-9, zero=True), "x is -1e-09; it must be at least 0 and finite"),
        (lambda: positive_number("x", np.inf, zero=True), "x is inf; it must be at least 0 and finite"),
        (lambda: positive_number("x", np.nan, infinite=True, zero=True), "x is nan; it must be at least 0[.]"),
        (lambda: positive_number("x", -np.inf, infinite=True), "x is -inf; it must be positive[.]"),
        (lambda: positive_number("x", np.array([1.0, 0.0]), infinite=True), "it must be positive[.]"),
        (lambda: choice("x", "c", ("a", "b")), "x is 'c'; use one of a, b[.]"),
    ],
)
def test_sizes_and_spreads_that_mean_nothing_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_numbers_at_the_ends_of_what_is_allowed_pass():
    positive("x", 1)
    positive("x", np.int64(7))
    positive_number("x", 1e-300)
    positive_number("x", np.array([0.0, 1.0]), zero=True)
    positive_number("x", np.array([1.0, np.inf]), infinite=True)
    positive_number("x", np.array([0.0, np.inf]), infinite=True, zero=True)
    choice("x", "b", ("a", "b"))
    # what is traced was checked before
    jax.jit(lambda x: positive_number("x", x))(-1.0)


def test_sizes_and_names_are_no_leaves_so_that_other_numbers_are_the_same_program():
    parts = ActionNoise(3, 5), ParameterNoise(2, 0.1, reference="one"), Coordinates(0.1)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(parts))


@pytest.mark.parametrize("learned", [False, True])
def test_rows_of_perturbed_parameters_are_offsets_over_their_variance(learned):
    std = np.array([0.1, 0.3])
    explore = ParameterNoise(3, std, learned=learned)
    layout, policy = explore.layout(2), LinearGaussian([[0.0, 0.0]])
    beta = np.random.default_rng(0).normal(size=(6, 2)) * std
    came = Rollouts(jnp.zeros((6, 1)), jnp.ones((6, 1), bool), jnp.zeros(6, int))
    rows = explore.score(policy, jnp.asarray(beta), came, layout, explore.init(2)).dense()
    expected = np.hstack([beta / std**2, (beta / std) ** 2 - 1]) if learned else beta / std**2
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)
    assert explore.score(policy, jnp.asarray(beta), came, layout, explore.init(2)).size == 3
