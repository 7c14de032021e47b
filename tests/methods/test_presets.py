import pytest

from policysearch.methods.presets import preset
from policysearch.methods.settings import ARS
from policysearch.search.search import Search


def test_a_preset_gives_the_papers_settings_whatever_the_version_of_the_environment():
    expected = ARS(directions=32, top=4, step_size=0.02, std=0.03, common_random_numbers=False)
    assert preset("paper", "ars", "HalfCheetah-v5").method == expected
    assert preset("paper", "ars", "Swimmer-v4").method.version == "v1"
    # the paper's second version subtracts a running mean, which the first has not
    assert preset("paper", "ars", "HalfCheetah-v5").policy.scaling == "running"
    assert preset("paper", "ars", "HalfCheetah-v5", policy={"scaling": "rms"}).policy.scaling == "rms"
    assert preset("paper", "ars", "Swimmer-v4").policy.scaling == "auto"
    found = preset("paper", "natural_gradient", "Hopper-v5", {"max_kl": 0.05}, {"kind": "linear"})
    assert (found.method.max_kl, found.method.gae_lambda, found.policy.kind) == (0.05, 0.97, "linear")
    assert found.method.stages == 4000
    fewer = preset("paper", "natural_gradient", "Hopper-v5", {"rollouts": 5}).method
    assert (fewer.rollouts, fewer.stages) == (5, None)
    assert "Rajeswaran" in found.source


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("papers", "ars", "Hopper-v5"), "Did you mean paper"),
        (("paper", "arts", "Hopper-v5"), "Did you mean ars"),
        (("paper", "ars", "Pendulum-v1"), "no settings of ars for Pendulum-v1. It has ars: Swimmer, Hopper"),
        (("paper", "gpomdp", "Hopper-v5"), "no settings of gpomdp"),
    ],
)
def test_what_no_paper_reports_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        preset(*given)


def test_where_a_fall_ends_the_rollout_the_natural_gradient_explores_more_and_predicts_by_a_network():
    found = {name: preset("paper", "natural_gradient", name) for name in ("Hopper-v5", "HalfCheetah-v5", "Swimmer-v5")}
    assert [one.method.baseline for one in found.values()] == [None, "value", "value"]
    assert [one.policy.std for one in found.values()] == [1.0, 0.6, 0.6]
    assert [one.method.action_limit_penalty for one in found.values()] == [0.001, 0.1, 0.01]
    assert [one.method.discount for one in found.values()] == [0.995, 0.995, 1.0]
    assert [(one.method.max_kl, one.method.gae_lambda) for one in found.values()] == [(0.05, 0.97)] * 2 + [(0.01, 0.99)]
    assert [one.policy.kind for one in found.values()] == ["rbf", "linear", "linear"]
    with Search("Hopper-v5", found["Hopper-v5"].method, policy=found["Hopper-v5"].policy) as hopper:
        assert (hopper.method.credit.baseline.name, hopper.method.credit.bootstrap) == ("network", True)
    assert preset("paper", "natural_gradient", "Hopper-v5", policy={"std": 0.3}).policy.std == 0.3
