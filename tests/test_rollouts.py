import jax.numpy as jnp
import numpy as np
import pytest

from policysearch.core.rollouts import Rollouts, saturated, settle
from policysearch.core.specification import FAILED, LOST, OK, Continuous, Discrete

NAN = np.nan


def rollouts(costs, outcome=None, mask=None, observations=None):
    costs = np.asarray(costs, float)
    mask = np.ones(costs.shape, bool) if mask is None else np.asarray(mask)
    outcome = np.full(len(costs), OK) if outcome is None else np.asarray(outcome)
    actions = None if observations is None else jnp.ones((*costs.shape, 1))
    seen = None if observations is None else jnp.asarray(observations)
    return Rollouts(jnp.asarray(costs), jnp.asarray(mask), jnp.asarray(outcome), seen, actions)


def totals(settled):
    return np.asarray(settled.costs.sum(1)).tolist()


def test_a_failure_costs_as_much_as_the_worst_that_succeeded_at_the_stage_where_it_happened():
    came = settle(rollouts([[1.0, 2.0, 3.0], [1.0, NAN, 5.0], [0.0, 0.0, 1.0]]))
    assert totals(came) == [6.0, 6.0, 1.0]
    assert np.asarray(came.outcome).tolist() == [OK, FAILED, OK]
    assert np.asarray(came.costs[1]).tolist() == [6.0, 0.0, 0.0]
    assert np.asarray(came.mask[1]).tolist() == [True, False, False]


def test_a_given_failure_cost_replaces_the_worst():
    assert totals(settle(rollouts([[1.0, 2.0], [1.0, NAN]]), 50.0)) == [3.0, 50.0]


def test_a_failure_never_gets_cheaper_than_what_it_had_cost():
    assert totals(settle(rollouts([[1.0, 2.0], [10.0, NAN]]))) == [3.0, 10.0]
    assert totals(settle(rollouts([[1.0, 2.0], [10.0, NAN]]), 5.0)) == [3.0, 10.0]


@pytest.mark.parametrize("bad", [NAN, np.inf, -np.inf])
def test_a_cost_that_is_not_finite_at_the_first_stage_fails_the_rollout_there(bad):
    came = settle(rollouts([[bad, 0.0], [4.0, 1.0]]))
    assert totals(came) == [5.0, 5.0]
    assert np.asarray(came.mask[0]).tolist() == [True, False]


def test_a_failure_that_was_reported_costs_the_worst_though_its_own_costs_are_finite():
    came = settle(rollouts([[1.0, 1.0], [4.0, 1.0]], [FAILED, OK]))
    assert totals(came) == [5.0, 5.0]
    assert np.asarray(came.costs[0]).tolist() == [1.0, 4.0]


def test_where_all_failed_none_counts_unless_a_failure_has_a_price():
    both = rollouts([[NAN, 0.0], [1.0, NAN]])
    assert not np.any(settle(both).used)
    assert totals(settle(both, 9.0)) == [9.0, 9.0]
    assert np.all(settle(both, 9.0).used)


def test_lost_rollouts_stay_lost_whatever_their_costs_and_set_no_price():
    came = settle(rollouts([[100.0, 0.0], [NAN, NAN], [1.0, NAN], [2.0, 0.0]], [LOST, LOST, OK, OK]))
    assert np.asarray(came.used).tolist() == [False, False, True, True]
    assert totals(came)[2:] == [2.0, 2.0]


def test_costs_and_observations_outside_the_mask_are_zero():
    mask = [[True, True, False], [True, False, False]]
    observations = np.full((2, 3, 2), NAN)
    observations[np.asarray(mask)] = 1.0
    came = settle(rollouts([[1.0, 2.0, NAN], [3.0, NAN, NAN]], mask=mask, observations=observations))
    assert totals(came) == [3.0, 3.0]
    assert np.asarray(came.outcome).tolist() == [OK, OK]
    assert np.all(np.isfinite(came.observations))
    assert np.all(np.asarray(came.observations)[~np.asarray(mask)] == 0)
    assert np.all(np.asarray(came.actions)[~np.asarray(mask)] == 0)


def test_an_observation_that_is_not_finite_from_the_start_reaches_no_derivative():
    observations = np.ones((2, 2, 1))
    observations[0] = NAN
    came = settle(rollouts([[NAN, NAN], [1.0, 1.0]], observations=observations))
    assert np.all(np.isfinite(came.observations))
    assert totals(came) == [2.0, 2.0]


def test_an_early_end_is_no_failure():
    mask = [[True, False], [True, True]]
    came = settle(rollouts([[1.0, NAN], [3.0, 1.0]], mask=mask))
    assert totals(came) == [1.0, 4.0]
    assert np.all(np.asarray(came.outcome) == OK)


def test_saturated_is_the_share_of_actions_beyond_limits_among_those_that_were_taken():
    actions = jnp.array([[[0.5, 9.0], [1.5, 0.0], [7.0, 0.0]], [[-2.0, -9.0], [1.0, 0.0], [-1.0, 0.0]]])
    mask = jnp.array([[True, True, False], [True, True, True]])
    came = rollouts(np.zeros((2, 3)), mask=mask)._replace(actions=actions)
    # the limits themselves are within; what the mask leaves out does not count; the second action has no limit
    for high in (np.inf, 10.0):
        share = saturated(came, Continuous((-1.0, -high), (1.0, high)))["saturated"]
        assert float(share) == pytest.approx(2 / (5 if high == np.inf else 10))
    assert float(saturated(came, Continuous((-1.0, -np.inf), (1.0, 8.0)))["saturated"]) == pytest.approx(3 / 10)


def test_saturated_is_left_out_where_nothing_can_saturate():
    came = rollouts(np.zeros((1, 2)), observations=np.zeros((1, 2, 3)))
    assert saturated(came, Continuous((-np.inf,), (np.inf,))) == {}
    assert saturated(came, Discrete(3)) == {}
    assert saturated(came, None) == {}
    assert saturated(came._replace(actions=None), Continuous((-1.0,), (1.0,))) == {}
