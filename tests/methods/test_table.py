import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from policysearch.core.credit import CostToGo, Elites, TopPairs, TotalCost
from policysearch.core.direction import Euclidean, LeastSquares, Natural
from policysearch.core.explore import ActionNoise, Coordinates, ParameterNoise
from policysearch.core.policies import LinearGaussian
from policysearch.core.rollouts import Rollouts
from policysearch.core.specification import Continuous, Discrete, Specification
from policysearch.core.step import KLStep, LearningRate, Refit
from policysearch.methods import settings
from policysearch.methods.rule import Problem
from policysearch.methods.table import build
from policysearch.runners.host import compiled_tell
from policysearch.search.search import Search

RIG = Specification(name="rig", action=Continuous((-1.0,), (1.0,)), observation_size=4, horizon=10)


def problem(d=4, network=False, effect=0.05, **changes):
    return Problem(msgspec.structs.replace(RIG, **changes), d, network, effect)


@pytest.mark.parametrize("name", settings.METHODS)
def test_every_named_method_can_be_built_and_varies_what_its_settings_say(name):
    given = settings.method_settings(name, {})
    assert build(given, problem()).space == given.space


def test_ars_takes_the_step_of_the_paper():
    method = build(settings.ARS(directions=3, top=2, std=0.1, step_size=0.02), problem())
    assert float(method.step.rate) == pytest.approx(2 * 0.02 * 0.1)
    assert isinstance(method.credit, TopPairs)
    assert method.credit.top == 2
    assert method.layout(LinearGaussian([[0.0] * 4])).size == 6


def test_ars_scales_what_is_observed_in_its_second_version_and_nothing_else():
    second, first = (
        Search("pendulum", settings.ARS(version=v), policy="linear").policy.scaling for v in ("v2-t", "v1-t")
    )
    assert second.running
    assert not first.running
    np.testing.assert_array_equal(first.scale, np.ones(3))
    np.testing.assert_array_equal(first.shift, np.zeros(3))
    assert Search("bowl", settings.ARS(version="v2-t")).policy.scaling is None


def test_two_sided_rollouts_come_in_pairs():
    with pytest.raises(ValueError, match="rollouts is 7; two-sided perturbations come in pairs"):
        build(settings.WeightPerturbation(rollouts=7), problem())
    with pytest.raises(ValueError, match="top is 4 of 3 directions"):
        build(settings.ARS(directions=3, top=4), problem())


@pytest.mark.parametrize(
    ("changes", "references"),
    [({}, 3), ({"deterministic": True}, 1), ({"repeatable": False}, 1)],
    ids=["a seed each", "nothing is random", "no seed repeats"],
)
def test_references_are_as_many_as_can_help(changes, references):
    given = settings.WeightPerturbation(rollouts=3, two_sided=False, baseline="reference")
    layout = build(given, problem(**changes)).layout(LinearGaussian([[0.0] * 4]))
    assert int(layout.reference.sum()) == references


def test_common_random_numbers_follow_the_task_and_obey_the_user():
    assert build(settings.ARS(), problem()).explore.common
    assert not build(settings.ARS(), problem(repeatable=False)).explore.common
    assert not build(settings.ARS(common_random_numbers=False), problem()).explore.common


def test_a_learning_rate_is_taken_as_it_is_and_costs_are_not_normalised():
    for given in (settings.FiniteDifferences(learning_rate=0.3), settings.WeightPerturbation(learning_rate=0.3)):
        method = build(given, problem())
        assert isinstance(method.step, LearningRate)
        assert float(method.step.rate) == pytest.approx(0.3)
        assert not method.credit.normalise
    assert isinstance(build(settings.GPOMDP(), problem()).step, KLStep)
    assert isinstance(build(settings.GPOMDP(learning_rate=0.3), problem()).step, LearningRate)


def test_the_scale_free_step_is_at_most_as_long_as_said():
    """With normalised costs, |w| ≤ 1/ε a coordinate, so that step_size · ε² · w is at most step_size · ε · √d long."""
    method = build(settings.FiniteDifferences(epsilon=0.1, step_size=2.0, repeats=1), problem())
    policy = LinearGaussian([[0.0] * 4])
    layout = method.layout(policy)
    offsets = method.offsets(method.init(policy, 1), jnp.zeros((4, 4)), layout)
    costs = np.asarray(offsets) @ [1.0, -5.0, 2.0, 100.0]
    came = Rollouts(jnp.asarray(costs[:, None]), jnp.ones((8, 1), bool), jnp.zeros(8, int))
    after, info = compiled_tell(method, method.init(policy, 1), offsets, came)
    assert float(info["step_norm"]) == pytest.approx(2.0 * 0.1 * np.sqrt(4), rel=1e-4)
    assert float(after.policy.theta()[3]) < 0


def test_long_simulated_rollouts_are_compared_with_a_network_that_predicts_beyond_the_horizon():
    pendulum = Search("Pendulum-v1", "natural_gradient").method.credit
    assert (pendulum.baseline.name, pendulum.bootstrap) == ("network", True)
    ridge = Search("Pendulum-v1", settings.GPOMDP(baseline="value")).method.credit
    assert (ridge.baseline.name, ridge.bootstrap) == ("value", True)
    plain = Search("Pendulum-v1", settings.GPOMDP(discount=1.0)).method.credit
    assert (plain.baseline.name, plain.bootstrap) == ("network", False)
    plant = Search("cartpole-swingup", "natural_gradient").method.credit
    assert (plant.baseline.name, plant.bootstrap) == ("value", False)


@pytest.mark.parametrize(
    ("given", "solver"),
    [({}, "conjugate_gradient"), ({"damping": 0.0}, "auto"), ({"rcond": 1e-3}, "auto"),
     ({"fisher": "empirical"}, "auto"), ({"solver": "parameter"}, "parameter")],
)  # fmt: skip
def test_a_damped_matrix_of_a_networks_own_is_not_decomposed(given, solver):
    search = Search("pendulum", settings.NaturalGradient(**given))
    assert search.settings["parameters"] > 64
    assert search.method.direction.solver == solver
    assert Search("lqr", settings.NaturalGradient(fisher="analytic", damping=0.1)).method.direction.solver == "auto"


def test_a_charge_for_saturation_is_that_of_the_actions_limits_and_needs_some():
    method = build(settings.GPOMDP(action_limit_penalty=0.1), problem(action=Continuous((-1.0, 0.0), (3.0, 4.0))))
    charge = method.credit.action_limit_penalty
    assert float(charge.weight) == pytest.approx(0.1)
    assert (charge.centre.tolist(), charge.half_range.tolist()) == ([1.0, 2.0], [2.0, 2.0])
    assert float(charge.discount) == RIG.discount
    assert build(settings.GPOMDP(), problem()).credit.action_limit_penalty is None
    for action in (Continuous((-1.0,), (np.inf,)), Discrete(2)):
        with pytest.raises(ValueError, match=r"action_limit_penalty is 0\.1; .* leave it at 0"):
            build(settings.NaturalGradient(action_limit_penalty=0.1), problem(action=action))


def test_a_policy_that_asks_for_more_than_it_gets_is_pulled_back_by_the_charge_alone():
    """A gain of 5 where ±1 is applied: costs that depend on what is applied teach it nothing."""
    came = Rollouts(
        jnp.ones((64, 10)),
        jnp.ones((64, 10), bool),
        jnp.zeros(64, int),
        observations=jnp.ones((64, 10, 1)) * jnp.sign(jnp.asarray(np.random.default_rng(0).normal(size=(64, 1, 1)))),
        actions=None,
    )
    policy = LinearGaussian([[5.0]], std=0.3)
    actions = policy.mode(came.observations) + 0.3 * np.random.default_rng(1).normal(size=(64, 10, 1))
    came = came._replace(actions=actions, costs=1.0 - jnp.clip(actions, -1, 1)[..., 0] ** 2)
    moved = {}
    for weight in (0.0, 0.1):
        method = build(settings.NaturalGradient(rollouts=64, action_limit_penalty=weight, shrink=False), problem(d=1))
        state, _ = compiled_tell(method, method.init(policy, 10), None, came)
        moved[weight] = float(state.policy.gain[0, 0])
    assert moved[0.0] == 5.0
    assert moved[0.1] < 4.9


# each method, part by part


def kinds(method):
    return tuple(type(part) for part in (method.explore, method.credit, method.direction, method.step))


def baselines(method):
    return method.credit.baseline.name


@pytest.mark.parametrize("central", [True, False])
def test_finite_differences_part_by_part(central):
    method = build(settings.FiniteDifferences(epsilon=0.2, central=central, repeats=3, step_size=0.5), problem())
    assert kinds(method) == (Coordinates, TotalCost, LeastSquares, LearningRate)
    assert method.layout(LinearGaussian([[0.0] * 4])).size == 3 * (8 if central else 5)
    assert float(method.explore.epsilon) == pytest.approx(0.2)
    assert method.explore.common
    assert (baselines(method), method.credit.normalise) == ("none" if central else "reference", True)
    assert float(method.step.rate) == pytest.approx(0.5 * 0.2**2)


@pytest.mark.parametrize("two_sided", [True, False])
def test_weight_perturbation_part_by_part(two_sided):
    given = settings.WeightPerturbation(rollouts=6, std=0.2, shape="sphere", two_sided=two_sided, step_size=0.5)
    method = build(given, problem())
    assert kinds(method) == (ParameterNoise, TotalCost, Euclidean, LearningRate)
    layout = method.layout(LinearGaussian([[0.0] * 4]))
    assert (layout.size, layout.perturbations, layout.reference.any()) == (6, 3 if two_sided else 6, False)
    explore = method.explore
    assert (float(explore.std), explore.shape, explore.common) == (pytest.approx(0.2), "sphere", True)
    assert (baselines(method), method.credit.normalise) == ("none" if two_sided else "leave_one_out", True)
    assert float(method.step.rate) == pytest.approx(0.5 * 0.2**2)
    apart = build(settings.WeightPerturbation(common_random_numbers=False), problem())
    assert not apart.explore.common


def test_a_reference_for_each_perturbation_takes_a_seed_that_repeats():
    given = settings.WeightPerturbation(rollouts=3, two_sided=False, baseline="reference")
    assert build(given, problem()).explore.reference == "each"
    for changes in ({"deterministic": True}, {"repeatable": False}):
        assert build(given, problem(**changes)).explore.reference == "one"
    assert build(settings.WeightPerturbation(), problem()).explore.reference == "none"


def test_ars_part_by_part():
    method = build(settings.ARS(directions=5, top=5, std=0.1, shape="rademacher"), problem())
    assert kinds(method) == (ParameterNoise, TopPairs, Euclidean, LearningRate)
    explore = method.explore
    assert (explore.directions, explore.two_sided, explore.shape, explore.learned) == (5, True, "rademacher", False)
    assert explore.reference == "none"


def test_pgpe_part_by_part():
    method = build(settings.PGPE(directions=5, std=0.1, step_size=0.7, std_step_size=0.2), problem())
    assert kinds(method) == (ParameterNoise, TotalCost, Natural, LearningRate)
    explore = method.explore
    assert (explore.directions, explore.two_sided, explore.learned, explore.common) == (5, True, True, True)
    assert (explore.shape, method.direction.fisher) == ("gaussian", "analytic")
    assert (baselines(method), method.credit.normalise) == ("leave_one_out", True)
    np.testing.assert_allclose(method.step.rate, [0.7] * 4 + [0.2] * 4, rtol=1e-6)
    still = build(settings.PGPE(std_step_size=0.0), problem())
    np.testing.assert_allclose(still.step.rate, [1.0] * 4 + [0.0] * 4, atol=1e-20)


def test_cem_part_by_part():
    method = build(
        settings.CEM(rollouts=20, elites=0.25, std=0.1, smoothing=0.3, extra=0.4, extra_updates=7), problem()
    )
    assert kinds(method) == (ParameterNoise, Elites, Natural, Refit)
    explore = method.explore
    assert (explore.directions, explore.two_sided, explore.learned, explore.shape) == (20, False, True, "gaussian")
    assert (method.credit.count, method.direction.fisher) == (5, "analytic")
    numbers = [float(x) for x in (method.step.smoothing, method.step.extra, method.step.updates)]
    assert numbers == pytest.approx([0.3, 0.4, 7])
    # of one alone there is no spread
    for elites, count in ((0.01, 2), (0.2, 4), (0.13, 3)):
        assert build(settings.CEM(rollouts=20, elites=elites), problem()).credit.count == count


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("reinforce", (ActionNoise, TotalCost, Euclidean, KLStep)),
        ("gpomdp", (ActionNoise, CostToGo, Euclidean, KLStep)),
        ("natural_gradient", (ActionNoise, CostToGo, Natural, KLStep)),
        ("trpo", (ActionNoise, CostToGo, Natural, KLStep)),
        ("enac", (ActionNoise, TotalCost, Natural, KLStep)),
    ],
)
def test_methods_of_sampled_actions_part_by_part(name, parts):
    method = build(settings.method_settings(name, {"rollouts": 7, "max_kl": 0.02, "step_decay": 30}), problem())
    assert kinds(method) == parts
    assert method.layout(LinearGaussian([[0.0] * 4])).size == 7
    step = method.step
    assert (float(step.max_kl), float(step.step_decay)) == (pytest.approx(0.02), 30)
    assert (step.memory, step.line_search) == (0.8, name == "trpo")
    assert getattr(method.direction, "intercept", False) == (name == "enac")
    # without them the steps neither settle nor shrink
    plain = build(settings.method_settings(name, {"shrink": False}), problem()).step
    assert (plain.memory, float(plain.step_decay), float(plain.rate)) == (None, np.inf, np.inf)


def test_settings_of_a_natural_direction_reach_it():
    given = {"rcond": 1e-3, "damping": 0.2}
    natural = build(settings.NaturalGradient(**given, solver="sample", fisher="empirical"), problem()).direction
    assert (natural.rcond, float(natural.damping)) == (1e-3, pytest.approx(0.2))
    assert (natural.solver, natural.fisher, natural.intercept) == ("sample", "empirical", False)
    episodic = build(settings.ENAC(**given), problem())
    assert (episodic.direction.rcond, float(episodic.direction.damping)) == (1e-3, pytest.approx(0.2))
    assert baselines(episodic) == "leave_one_out"
    assert baselines(build(settings.Reinforce(baseline="mean"), problem())) == "mean"


def test_an_update_by_stages_has_the_rollouts_that_take_them():
    """Rollouts of a plant last to the horizon: 400 stages are 40 of 10; fewest 4, most 64."""
    explore = build(settings.GPOMDP(stages=400), problem()).explore
    assert (explore.stages, explore.least, explore.rollouts) == (400, 40, 40)
    assert explore.sized(2.0).rollouts == 40
    assert build(settings.GPOMDP(stages=10), problem()).explore.rollouts == 4
    assert build(settings.GPOMDP(stages=401), problem()).explore.rollouts == 41
    assert build(settings.GPOMDP(stages=10_000), problem()).explore.rollouts == 64
    with pytest.raises(ValueError, match="rollouts is 5 and stages is 400; set one of them"):
        build(settings.GPOMDP(rollouts=5, stages=400), problem())


def test_advantages_look_as_far_ahead_as_they_are_told():
    def credit(**given):
        return build(settings.GPOMDP(**given), problem()).credit

    assert credit(baseline="value").discounting is None
    assert credit(baseline="mean").discounting is None
    for given, pair in (
        ({"discount": 0.9, "gae_lambda": 1.0}, (0.9, 1.0)),
        ({"discount": 1.0, "gae_lambda": 0.8}, (1.0, 0.8)),
        ({"discount": 1.0, "gae_lambda": 1.0, "bootstrap": True}, (1.0, 1.0)),
    ):
        found = credit(baseline="value", **given)
        assert [float(x) for x in found.discounting] == pytest.approx(pair)
        assert found.bootstrap == given.get("bootstrap", False)
    assert [float(x) for x in credit(baseline="mean", discount=0.9).discounting] == pytest.approx([0.9, 1.0])
    with pytest.raises(
        ValueError, match=r"gae_lambda is 0\.8 with baseline mean; it needs the baseline value or network"
    ):
        credit(baseline="mean", gae_lambda=0.8)


def test_a_line_search_has_no_step_to_shorten_beside_a_learning_rate():
    with pytest.raises(ValueError, match="learning_rate leaves nothing to shorten"):
        build(settings.TRPO(learning_rate=0.1), problem())
    assert build(settings.NaturalGradient(learning_rate=0.1), problem()).step.rate == pytest.approx(0.1)
