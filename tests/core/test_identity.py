"""What tells two methods apart, and what does not: a search goes on only with the one that it was started with."""

import json

import jax.numpy as jnp
import optax
import pytest

from policysearch import Euclidean, LearningRate, Method, Parameters, Rig, Specification, TotalCost
from policysearch.core.baselines.running import Running
from policysearch.core.explore import ParameterNoise
from policysearch.core.identity import described, differences
from policysearch.core.step import Optimizer


def composed(std=(0.1, 0.2), step=None, rate=0.1):
    step = Optimizer(optax.sgd(0.1), preconditions=False) if step is None else step
    return Method(ParameterNoise(2, jnp.asarray(std)), TotalCost(Running(rate)), Euclidean(), step)


def scheduled(first):
    return Optimizer(optax.sgd(lambda count: first / (1 + count)), preconditions=False)


OTHERS = {
    "explore.std was": composed(std=(5.0, 5.0)),
    "credit.baseline.rate was 0.1 and is 0.9": composed(rate=0.9),
    "step_size was -0.1 and is -10.0": composed(step=Optimizer(optax.sgd(10.0), preconditions=False)),
    "trace": composed(step=Optimizer(optax.sgd(0.1, momentum=0.9), preconditions=False)),
    "step was Optimizer and is LearningRate": composed(step=LearningRate(0.1)),
}


@pytest.mark.parametrize("words", OTHERS)
def test_another_array_setting_or_optimiser_is_named(words):
    found = differences(described(composed()), as_read(described(OTHERS[words])))
    assert any(words in difference for difference in found), found


def as_read(description):
    """What a folder makes of it."""
    return json.loads(json.dumps(description))


def test_the_same_method_made_again_is_the_same():
    assert differences(described(composed()), as_read(described(composed()))) == []
    assert differences(described(scheduled(0.1)), as_read(described(scheduled(0.1)))) == []


def test_numbers_that_a_function_holds_reads_or_closes_over_count():
    assert differences(described(scheduled(0.1)), described(scheduled(0.2)))
    assert differences(described(lambda x: 2 * x), described(lambda x: 3 * x))
    assert differences(described(lambda x, y=1: x), described(lambda x, y=2: x))
    before = described(reads)
    globals()["FACTOR"] = 5.0
    assert any("FACTOR was 4.0 and is 5.0" in difference for difference in differences(before, described(reads)))


FACTOR = 4.0


def reads(x):
    return FACTOR * x


def test_large_arrays_are_told_apart_and_infinity_is_no_obstacle():
    large = jnp.arange(1000.0)
    assert differences(described(large), described(large.at[7].add(1.0)))
    assert differences(described(large), described(large + 0.0)) == []
    assert as_read(described({"limit": jnp.inf, "cost": jnp.asarray(jnp.nan)})) == {"limit": "inf", "cost": "nan"}


def test_a_folder_is_opened_with_the_method_that_it_was_started_with(tmp_path):
    rig, gains = Specification(name="bench", repeatable=False), Parameters(["a", "b"], [0.0, 0.0])
    with Rig(rig, composed(), policy=gains, budget=12, folder=tmp_path / "run") as search:
        first = search.ask()
    for words, other in OTHERS.items():
        with pytest.raises(ValueError, match="was started with another method") as refusal:
            Rig.open(tmp_path / "run", method=other)
        if "was" in words:
            assert words in str(refusal.value)
    with Rig.open(tmp_path / "run", method=composed()) as search:
        assert search.ask().values == first.values
