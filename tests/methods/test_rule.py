"""What the rule chose is said by the names under which users set it, for every method."""

from __future__ import annotations

import json

import msgspec
import pytest

from policysearch import Search
from policysearch.methods.settings import METHODS, by_rule, method_settings, plain

#: what no rule decides on a plant: left open they are off
OFF = {"learning_rate", "step_decay", "stages"}


def chosen(search):
    return by_rule(plain(search.given), search.settings)


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_that_was_left_open_has_a_value_which_given_makes_the_same_method(name):
    search = Search("lqr", name)
    found = chosen(search)
    open_ones = {field for field, value in msgspec.structs.asdict(search.given).items() if value is None}
    assert found.keys() == open_ones - OFF
    assert json.loads(json.dumps(found)) == found
    given = Search("lqr", method_settings(name, found))
    assert chosen(given) == {}
    assert given.settings == search.settings
    assert repr(given.method) == repr(search.method)


def test_where_the_stages_of_an_update_are_chosen_its_rollouts_follow():
    found = chosen(Search("Pendulum-v1", "natural_gradient"))
    assert found["stages"] == 2000
    assert "rollouts" not in found


def test_a_large_damped_analytic_matrix_is_not_decomposed_by_rule():
    found = chosen(Search("pendulum", "natural_gradient"))
    assert found["solver"] == "conjugate_gradient"
    assert "rcond" not in found
    decomposed = Search("pendulum", method_settings("natural_gradient", {"solver": "parameter"}))
    assert chosen(decomposed)["rcond"] == 1e-5


def test_what_is_set_or_not_used_is_not_said_to_be_chosen():
    search = Search("lqr", method_settings("gpomdp", {"rollouts": 10, "learning_rate": 0.1}))
    assert chosen(search).keys() == {"baseline", "discount", "gae_lambda", "bootstrap"}
    assert chosen(Search("lqr", search.method)) == {}
