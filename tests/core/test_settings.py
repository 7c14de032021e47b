import subprocess
import sys

import msgspec
import pytest

from policysearch.core.settings import Budget, PolicySettings
from policysearch.methods.settings import ARS, GPOMDP, METHODS, NaturalGradient, WeightPerturbation, method_settings


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_defaults_and_knows_its_name(name):
    assert method_settings(name, {}).label() == name


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GPOMDP(rollouts=0), "rollouts is 0; it must be a whole number at least 1"),
        (lambda: GPOMDP(rollouts=2.5), "rollouts is 2.5; it must be a whole number"),
        (lambda: GPOMDP(baseline="median"), "baseline is 'median'; it must be one of least_variance, leave_one_out"),
        (lambda: GPOMDP(max_kl=-0.1), "max_kl is -0.1; it must be a number above 0"),
        (lambda: GPOMDP(max_kl=float("nan")), "max_kl is nan"),
        (lambda: ARS(std=float("inf")), "std is inf; it must be a number above 0"),
        (lambda: NaturalGradient(rcond=1.0), "rcond is 1.0; it must be a number above 0, below 1"),
        (lambda: WeightPerturbation(shape="cube"), "shape is 'cube'; it must be one of gaussian"),
        (lambda: PolicySettings(hidden=(32, 0)), "hidden is"),
        (lambda: PolicySettings(learned_std="yes"), "learned_std is 'yes'; it must be true or false"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("name", ["cma", "CMA-ES", "nelder_mead", "Nelder-Mead"])
def test_a_rival_is_said_to_take_part_in_comparisons_only(name):
    rival = "cma" if name.lower().startswith("cma") else "nelder_mead"
    words = rf"^{rival} \(.*\) takes part in comparisons only.*--methods ars,{rival}\. .*trpo"
    with pytest.raises(ValueError, match=words):
        method_settings(name, {})


def test_unknown_names_come_with_the_nearest_known():
    with pytest.raises(ValueError, match=r"'natural' is not a known method. Did you mean natural_gradient"):
        method_settings("natural", {})
    with pytest.raises(ValueError, match="Did you mean rollouts"):
        method_settings("gpomdp", {"rolouts": 3})


@pytest.mark.parametrize(
    ("text", "budget", "shown"),
    [
        (2000, Budget(2000), "2000"),
        ("2e6stages", Budget(2_000_000, "stages"), "2000000stages"),
        (" 50 Updates ", Budget(50, "updates"), "50updates"),
        ("1 update", Budget(1, "updates"), "1updates"),
        (300.0, Budget(300), "300"),
    ],
)
def test_budgets_are_read_in_every_unit_and_printed_as_they_are_typed(text, budget, shown):
    assert Budget.parse(text) == budget
    assert str(budget) == shown
    assert Budget.parse(shown) == budget


@pytest.mark.parametrize("text", [0, -5, "many", "1.5", "10hours", "", "1e20", True, float("nan")])
def test_budgets_that_are_no_whole_number_of_something_are_refused(text):
    with pytest.raises(ValueError, match=r"budget is .*whole number"):
        Budget.parse(text)


def test_budgets_are_told_in_words():
    assert [Budget(n).words for n in (1000, 10_000)] == ["1000 rollouts", "10 000 rollouts"]
    assert Budget(2_000_000, "stages").words == "2 000 000 stages"


def test_settings_survive_json():
    given = WeightPerturbation(rollouts=8, std=0.1, baseline="mean", two_sided=False)
    assert msgspec.json.decode(msgspec.json.encode(given), type=WeightPerturbation) == given


def test_settings_need_no_jax():
    code = "import sys, policysearch.core.settings; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
