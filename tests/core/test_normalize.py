import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch.core.normalize import Scaling, statistics

DATA = np.random.default_rng(0).normal([3.0, -1.0], [2.0, 0.1], size=(40, 5, 2))


def everything(x):
    return statistics(jnp.asarray(x), jnp.ones(x.shape[:2], bool))


@pytest.mark.usefixtures("float64")
def test_merging_parts_equals_the_statistics_of_the_whole():
    scaling = Scaling.follow(2)
    for part in (DATA[:1], DATA[1:15], DATA[15:]):
        scaling = scaling.merge(*everything(part))
    flat = DATA.reshape(-1, 2)
    assert float(scaling.count) == len(flat)
    np.testing.assert_allclose(scaling.shift, flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(scaling.scale, flat.std(0), rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_statistics_leave_out_masked_stages_even_if_they_are_not_finite():
    broken = DATA.copy()
    broken[3:, 2:] = np.nan
    mask = np.ones(DATA.shape[:2], bool)
    mask[3:, 2:] = False
    count, mean, m2 = statistics(jnp.asarray(broken), jnp.asarray(mask))
    assert float(count) == mask.sum()
    np.testing.assert_allclose(mean, DATA[mask].mean(0), rtol=1e-12)
    np.testing.assert_allclose(m2 / count, DATA[mask].var(0), rtol=1e-12)


def test_a_large_offset_does_not_cost_the_spread_in_float32():
    count, _, m2 = everything((DATA + 1e3).astype(np.float32))
    np.testing.assert_allclose(np.sqrt(m2 / count), DATA.reshape(-1, 2).std(0), rtol=2e-3)


def test_running_scaling_is_the_identity_before_data_and_where_nothing_varies():
    x = jnp.asarray([[2.0, -3.0]])
    assert np.array_equal(Scaling.follow(2)(x), x)
    constant = Scaling.follow(2).merge(*everything(np.full((3, 2, 2), 5.0)))
    assert np.array_equal(constant.scale, [1.0, 1.0])


@pytest.mark.usefixtures("float64")
def test_a_scaling_about_zero_divides_by_the_root_mean_square_and_maps_zero_to_zero():
    scaling = Scaling.follow(2, centred=False)
    for part in (DATA[:15], DATA[15:]):
        scaling = scaling.merge(*everything(part))
    np.testing.assert_allclose(scaling.scale, np.sqrt((DATA.reshape(-1, 2) ** 2).mean(0)), rtol=1e-12)
    assert np.array_equal(scaling(jnp.zeros(2)), [0.0, 0.0])
    never = Scaling.follow(2, centred=False).merge(*everything(np.zeros((3, 2, 2))))
    assert np.array_equal(never.scale, [1.0, 1.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_statistics_that_are_empty_or_not_finite_are_not_merged(bad):
    scaling = Scaling.follow(2).merge(*everything(DATA))
    count, mean, m2 = everything(DATA)
    for other in ((jnp.zeros(()), mean, m2), (count, mean.at[0].set(bad), m2), (count, mean, m2.at[1].set(bad))):
        after = scaling.merge(*other)
        assert np.array_equal(after.mean, scaling.mean)
        assert float(after.count) == float(scaling.count)
        assert np.array_equal(after.m2, scaling.m2)


def test_a_fixed_scaling_never_moves_and_divides_by_what_was_given():
    scaling = Scaling.fixed((0.5, 4.0))
    assert scaling.merge(*everything(DATA)) is scaling
    np.testing.assert_allclose(scaling(jnp.asarray([1.0, 1.0])), [2.0, 0.25], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1e-7, 1e12])
def test_a_fixed_scale_is_kept_however_small_or_large(scale):
    np.testing.assert_allclose(Scaling.fixed((scale,)).scale, [scale], rtol=1e-5)


@pytest.mark.parametrize("scale", [(0.0,), (-1.0,), (np.nan,), (np.inf,), (1e19,)])
def test_scales_that_cannot_divide_are_refused(scale):
    with pytest.raises(ValueError, match="must lie between"):
        Scaling.fixed(scale)


def test_a_running_scaling_is_centred_unless_told_otherwise():
    scaling = Scaling.follow(2).merge(*everything(DATA))
    np.testing.assert_allclose(scaling.shift, DATA.reshape(-1, 2).mean(0), rtol=1e-5)
    assert Scaling.follow(2, centred=False).merge(*everything(DATA)).shift.tolist() == [0, 0]
    assert Scaling.fixed((2.0,)).shift.tolist() == [0]
    assert not Scaling.fixed((2.0,)).running


@pytest.mark.parametrize(("spread", "divisor"), [(0.5, 0.5), (1e-5, 1e-5), (1e-7, 1.0)])
def test_what_varies_by_less_than_a_millionth_is_not_divided_by(spread, divisor):
    scaling = Scaling.follow(1).merge(jnp.asarray(4.0), jnp.zeros(1), jnp.asarray([4 * spread**2]))
    np.testing.assert_allclose(scaling.scale, [divisor], rtol=1e-5)


def test_a_single_observation_is_a_mean_without_a_spread():
    one = DATA[:1, :1]
    scaling = Scaling.follow(2).merge(*everything(one))
    assert float(scaling.count) == 1
    np.testing.assert_allclose(scaling.shift, one[0, 0], rtol=1e-6)
    assert scaling.scale.tolist() == [1, 1]


@pytest.mark.parametrize("scale", [1.1e-18, 0.9e18])
def test_the_least_and_the_largest_scales_are_taken(scale):
    np.testing.assert_allclose(Scaling.fixed((scale, 1.0)).scale, [scale, 1.0], rtol=1e-4)


def test_a_scaling_that_no_longer_runs_divides_by_one_where_nothing_varied():
    frozen = Scaling(jnp.asarray(4.0), jnp.asarray([3.0, 3.0]), jnp.asarray([0.0, 16.0]))
    assert frozen.scale.tolist() == [1.0, 2.0]


def test_only_the_statistics_are_leaves():
    """Whether it runs and whether it is centred are part of the program."""
    leaves = jax.tree.leaves(Scaling.follow(2))
    assert [leaf.shape for leaf in leaves] == [(), (2,), (2,)]
