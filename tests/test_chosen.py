"""What rules chose is said by the names under which users set it, for every method."""

from __future__ import annotations

import json

import msgspec
import pytest

from policysearch import Search
from policysearch.chosen import chosen
from policysearch.settings import METHODS, method_settings

#: what no rule decides on a plant: left open they are off
OFF = {"learning_rate", "settle", "stages"}


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_that_was_left_open_has_a_value_which_given_makes_the_same_method(name):
    by_rule = Search("lqr", name)
    found = chosen(by_rule.given, by_rule.method)
    open_ones = {field for field, value in msgspec.structs.asdict(by_rule.given).items() if value is None}
    assert found.keys() == open_ones - OFF
    assert json.loads(json.dumps(found)) == found
    given = Search("lqr", method_settings(name, found))
    assert chosen(given.given, given.method) == {}
    again = given.settings
    for setting, value in by_rule.settings.items():
        if setting not in open_ones:
            assert again[setting] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value)


def test_where_the_stages_of_an_update_are_chosen_its_rollouts_follow():
    search = Search("Pendulum-v1", "natural_gradient")
    found = chosen(search.given, search.method)
    assert found["stages"] == 2000
    assert "rollouts" not in found


def test_what_is_set_or_not_used_is_not_said_to_be_chosen():
    search = Search("lqr", method_settings("gpomdp", {"rollouts": 10, "learning_rate": 0.1}))
    assert chosen(search.given, search.method).keys() == {"baseline", "discount", "gae_lambda", "bootstrap"}
    assert chosen(search.method, search.method) == {}
