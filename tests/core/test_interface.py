"""A controller away from its search: limits hold, names and time step are there; what is drawn, and what is applied."""

import math
import pickle
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import policysearch
from policysearch import (
    ARS,
    Action,
    Continuous,
    Controller,
    Discrete,
    Interface,
    LinearGaussian,
    NaturalGradient,
    Parameters,
    PolicySettings,
    Rig,
    Search,
    Softmax,
    Specification,
    Task,
    WeightPerturbation,
    evaluate,
    resolve,
    train,
)
from policysearch.core.initial import from_controller
from policysearch.tasks import BUILT_IN

DATA = Path(__file__).parents[1] / "data"
LIMITS = Continuous([-0.3, -math.inf], [0.2, 0.1])
NAMES = ("angle [rad]", "rate [rad/s]", "load")
OBSERVATIONS = 3 * np.random.default_rng(0).normal(size=(40, 3))


def connected(policy):
    """Any policy of three observations with names, a time step and, where its actions have some, limits."""
    if isinstance(policy, Softmax):
        return policy.with_interface(Interface(observation_names=NAMES, action_names=["gear"], dt=0.1))
    return policy.with_interface(
        Interface(limits=LIMITS, observation_names=NAMES, action_names=["torque [N m]", "brake"], dt=0.1, hold=2)
    )


def within(action):
    return np.all(action >= LIMITS.low) and np.all(action <= LIMITS.high)


def test_the_mode_holds_the_limits_and_the_law_beyond_them_is_asked_for(policy, tmp_path):
    connected(policy).controller().save(tmp_path / "policy.safetensors")
    for controller in (connected(policy).controller(), Controller.load(tmp_path / "policy.safetensors")):
        law = np.asarray(policy.mode(jnp.asarray(OBSERVATIONS)))
        modes = controller.mode(OBSERVATIONS)
        if controller.discrete:
            assert np.array_equal(modes, law)
            assert [controller.mode(x, clip=False) for x in OBSERVATIONS] == law.tolist()
            continue
        assert not within(law)  # else nothing is tested
        np.testing.assert_allclose(controller.mode(OBSERVATIONS, clip=False), law, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(modes, np.clip(law, LIMITS.low, LIMITS.high), rtol=1e-5, atol=1e-5)
        for x, mode, free in zip(OBSERVATIONS, modes, law, strict=True):
            assert within(controller.mode(x))
            np.testing.assert_allclose(controller.mode(x), mode, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(controller.mode(x, clip=False), free, rtol=1e-5, atol=1e-5)


def test_act_gives_what_was_drawn_beside_what_is_applied(policy):
    controller = connected(policy).controller()
    noise = 3 * controller.noise(np.random.default_rng(1), len(OBSERVATIONS))
    batch = controller.act(OBSERVATIONS, noise)
    free = connected(policy).with_interface(Interface()).controller().act(OBSERVATIONS, noise)
    assert np.array_equal(batch.sampled, free.sampled)
    assert np.array_equal(free.applied, free.sampled)
    for x, z, drawn in zip(OBSERVATIONS, noise, batch.sampled, strict=True):
        action = controller.act(x, z)
        assert isinstance(action, Action)
        sampled, applied = action
        assert np.array_equal(sampled, action.sampled)
        assert np.array_equal(applied, action.applied)
        np.testing.assert_allclose(sampled, drawn, rtol=1e-12, atol=1e-12)
        if controller.discrete:
            assert applied == sampled
        else:
            assert np.array_equal(applied, np.clip(sampled, LIMITS.low, LIMITS.high))
            applied += 1.0  # what is applied may be changed by its owner
            assert np.array_equal(sampled, action.sampled)
    with pytest.raises(TypeError):
        action[0]
    if not controller.discrete:
        free.applied[:] = 0.0  # also where nothing is clipped
        assert np.array_equal(batch.sampled, free.sampled)
    if not controller.discrete:
        assert not within(batch.sampled)
        assert within(batch.applied)
        still = controller.act(OBSERVATIONS)
        assert np.array_equal(still.sampled, controller.mode(OBSERVATIONS, clip=False))
        assert np.array_equal(still.applied, controller.mode(OBSERVATIONS))


def test_a_file_keeps_limits_names_units_time_step_and_version(policy, tmp_path):
    controller = connected(policy).controller()
    controller.save(tmp_path / "policy.safetensors")
    found = policysearch.load(tmp_path / "policy.safetensors")
    assert found.interface == controller.interface
    assert found.interface.observation_units == ("rad", "rad/s", "")
    assert found.interface.dt == 0.1
    assert (found.version, controller.version) == (policysearch.__version__, "")
    for kept in (
        found.with_theta(found.theta()),
        pickle.loads(pickle.dumps(found)),
        from_controller(found).controller(),
    ):
        assert kept.interface == controller.interface
    shown = repr(found)
    for word in (found.policy, *NAMES, "dt=0.1 s", policysearch.__version__):
        assert word in shown
    if not found.discrete:
        assert "torque [N m] in [-0.3, 0.2], brake in [-inf, 0.1]" in shown
        assert "hold=2" in shown


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_observation_that_is_not_finite_is_refused_by_index_and_name(policy, bad):
    controller = connected(policy).controller()
    noise = controller.noise(np.random.default_rng(0), 4)
    for index, name in enumerate(NAMES):
        broken = OBSERVATIONS[:4].copy()
        broken[2, index] = bad
        words = rf"observation {index} \({name.replace('[', chr(92) + '[')}\)"
        for call in (
            lambda x: controller.mode(x),
            lambda x: controller.mode(x, clip=False),
            lambda x: controller.act(x),
            lambda x: controller.act(x, noise if x.ndim > 1 else noise[0]),
        ):
            with pytest.raises(ValueError, match=f"{words} is {bad}, which is not finite"):
                call(broken[2])
            with pytest.raises(ValueError, match=f"{words} of row 2 is {bad}"):
                call(broken)
        with pytest.raises(ValueError, match=words):
            controller.mode([None if i == index else 0.0 for i in range(3)])
    assert np.isfinite(controller.mode(1e150 * np.ones(3))).all()  # large is not infinite


def test_what_is_no_observation_is_refused_by_index_and_name(policy):
    controller = connected(policy).controller()
    for act in (controller.mode, controller.act):
        with pytest.raises(ValueError, match=r"shape \(2,\); it must be \(3,\).* observation 2 \(load\) is missing"):
            act([1.0, 2.0])
        with pytest.raises(ValueError, match=r"shape \(4,\); it must be \(3,\).* there is no observation 3"):
            act([1.0, 2.0, 3.0, 4.0])
        for wrong in (["a", 1, 2], [1j, 0, 0], [[1], [2, 3]], {"angle": 1.0}):
            with pytest.raises(ValueError, match="observation is not an array of real numbers"):
                act(wrong)
        for wrong in (0.0, np.zeros((2, 4)), np.zeros((1, 2, 3))):
            with pytest.raises(ValueError, match=r"it must be \(3,\)"):
                act(wrong)


def test_noise_that_does_not_fit_is_refused(policy):
    controller = connected(policy).controller()
    count = controller.action_size
    for wrong in (np.zeros(count + 1), 0.5, np.zeros((1, count))):
        with pytest.raises(ValueError, match=r"noise has shape"):
            controller.act(np.zeros(3), wrong)
    with pytest.raises(ValueError, match="is nan, which is not finite"):
        controller.act(np.zeros(3), np.full(count, math.nan))


def test_an_action_that_overflows_is_refused_and_never_reaches_a_machine():
    controller = Controller({"policy": "linear_gaussian"}, {"gain": [[1e200, -1e200]]})
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"action 0 is (nan|inf|-inf), which is not finite"):
        controller.mode([1e200, 1e200])


# files of the version before


@pytest.mark.parametrize("name", ["linear", "network", "rbf"])
def test_an_old_file_loads_with_one_warning_that_it_knows_no_limits(name):
    with pytest.warns(UserWarning, match="records no limits for its actions") as warned:
        controller = policysearch.load(DATA / f"format1-{name}.safetensors")
    assert len(warned) == 1
    assert (controller.interface, controller.version) == (Interface(), "")
    x = np.linspace(-50.0, 50.0, controller.observation_size)
    assert np.array_equal(controller.mode(x), controller.mode(x, clip=False))
    limits = Continuous([-1e-3] * controller.action_size, [1e-3] * controller.action_size)
    mended = controller.with_interface(Interface(limits=limits))
    assert np.all(np.abs(mended.mode(x)) <= 1e-3)
    assert from_controller(controller).scaling.centred


@pytest.mark.parametrize("name", ["softmax", "parameters"])
def test_an_old_file_of_what_has_no_limits_loads_without_a_word(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        controller = policysearch.load(DATA / f"format1-{name}.safetensors")
    if name == "parameters":
        assert controller.values() == pytest.approx({"kp": 4.0, "kd": 0.1})
    else:
        assert controller.mode([0.0, 0.0]) in (0, 1, 2)


def test_an_old_file_acts_as_it_did():
    with pytest.warns(UserWarning, match="records no limits"):
        controller = policysearch.load(DATA / "format1-linear.safetensors")
    assert controller.mode([0.1, 0.0, 0.0, -1.0, 0.0]) == pytest.approx([0.62], abs=1e-6)


# where controllers come from


def test_a_cart_pole_is_pushed_by_ten_newtons_at_most(tmp_path):
    policy = LinearGaussian([[5.0, 0.0, 40.0, 20.0, 8.0]], std=1.0)
    with Search("cartpole-balance", "natural_gradient", policy=policy, budget="1updates") as search:
        search.policy.controller().save(tmp_path / "policy.safetensors")
    controller = policysearch.load(tmp_path / "policy.safetensors")
    observation = [0.1, 0.0, 0.0, -1.0, 0.0]
    assert controller.mode(observation) == pytest.approx([-10.0], abs=1e-12)
    assert controller.mode(observation, clip=False) == pytest.approx([-19.5], abs=1e-6)
    assert controller.interface.observation_names[1] == "velocity [m/s]"
    assert controller.interface.action_units == ("N",)
    assert controller.interface.dt == 0.02
    with pytest.raises(ValueError, match=r"observation 4 \(rate \[rad/s\]\) is nan"):
        controller.mode([0.1, 0.0, 0.0, -1.0, math.nan])


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_task_gives_its_controllers_what_it_knows(name, tmp_path):
    with Search(name, budget="1updates") as search:
        controller, specification = search.policy.controller(), search.specification
        controller.save(tmp_path / "policy.safetensors")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert policysearch.load(tmp_path / "policy.safetensors").interface == controller.interface
    assert controller.interface == specification.interface
    if isinstance(specification.action, Continuous):
        assert controller.interface.limits == specification.action
        assert len(controller.interface.action_names) == controller.action_size
        assert controller.interface.dt == specification.dt


def test_an_environment_gives_its_limits_and_its_time_step():
    for name, low, dt in (("Pendulum-v1", -2.0, 0.05), ("MountainCarContinuous-v0", -1.0, None)):
        with Search(name, "ars", policy="linear", budget=1000, workers=1) as search:
            interface = search.policy.controller().interface
            assert interface.limits == Continuous([low], [-low])
            assert interface.dt == dt


SERVO = Specification(
    name="servo",
    action=Continuous([-12.0], [12.0]),
    observation_size=2,
    observation_scale=(1.0, 10.0),
    observation_names=["angle [rad]", "speed [rad/s]"],
    action_names=["voltage [V]"],
    horizon=6,
    hold=2,
    dt=0.01,
    repeatable=False,
)
STEEP = LinearGaussian([[-40.0, -1.0]], std=6.0)


def recorded(trial, which="sampled"):
    """A rollout of a servo that is told as drawn, or as applied."""
    x, observations, actions, costs = np.array([1.0, 0.0]), [], [], []
    for k in range(SERVO.horizon):
        if k % trial.hold == 0:
            action = trial.controller.act(x, None if trial.noise is None else trial.noise[k])
        observations.append(x)
        actions.append(getattr(action, which))
        costs.append(float(x @ x))
        x = x + 0.01 * np.array([x[1], 8.0 * action.applied[0] - 3.0 * x[1]])
    return np.array(observations), np.array(actions), np.array(costs)


def test_every_controller_of_a_search_has_the_limits_of_its_task(tmp_path):
    folder, made = tmp_path / "run", []
    with Rig(
        SERVO, WeightPerturbation(rollouts=4, std=0.1), policy=STEEP, budget=60, folder=folder, measure=(1, 2)
    ) as search:
        while search.updates < 2:
            trial = search.ask()
            made.append(trial.controller)
            search.tell(trial, rollout=recorded(trial))
        made += [search.policy.controller(), search.incumbent.controller, search.result().controller]
        search.go_back(LinearGaussian([[-30.0, -1.0]]).controller())
        made.append(search.ask().controller)
    with Rig.open(folder) as again:
        made += [again.policy.controller(), again.incumbent.controller, again.ask().controller]
    made += [Controller.load(path) for path in sorted(folder.glob("*.safetensors"))]
    assert len(made) > 12
    for controller in made:
        assert controller.interface == SERVO.interface
        assert controller.mode([1.0, 0.0]) == [-12.0]


def test_a_policy_in_compiled_code_keeps_its_limits():
    policy = STEEP.with_interface(SERVO.interface)
    moved = jax.jit(lambda p: p.with_theta(p.theta() * 2))(policy)
    assert moved.controller().interface == SERVO.interface
    assert moved.controller().mode([1.0, 0.0], clip=False) == pytest.approx([-80.0])


def test_starting_from_a_file_of_another_task_takes_the_limits_of_this_one(tmp_path):
    other = Interface(limits=Continuous([-1.0], [1.0]), dt=1.0)
    STEEP.with_interface(other).controller().save(tmp_path / "policy.safetensors")
    search = Rig(SERVO, NaturalGradient(rollouts=2), budget=4, initial=tmp_path / "policy.safetensors", policy=STEEP)
    assert search.policy.controller().interface == SERVO.interface


def test_an_evaluation_within_other_limits_says_so():
    interface = resolve("lqr-check").specification.interface
    policy = LinearGaussian([[-0.5, -0.8]])
    evaluate(resolve("lqr-check"), policy.with_interface(interface).controller(), 5)
    tight = policy.with_interface(Interface(limits=Continuous([-0.1], [0.1]))).controller()
    with pytest.warns(UserWarning, match=r"made for actions from \(-0.1,\) to \(0.1,\); here it acts within"):
        evaluate(resolve("lqr-check"), tight, 5)


# what is told


def told(which):
    with Rig(SERVO, NaturalGradient(rollouts=2), policy=STEEP, budget=4) as search:
        for _ in range(2):
            trial = search.ask()
            record = search.tell(trial, rollout=recorded(trial, which))
        return search, record


def test_actions_as_they_were_drawn_are_what_a_search_learns_from():
    search, record = told("sampled")
    assert record["saturated"] > 0.5  # it is seen that they lie beyond the limits
    assert search.updates == 1


def test_actions_as_they_were_applied_are_refused_by_stage():
    with pytest.raises(
        ValueError, match=r"action of stage 0 is at its limit, -12, and was drawn beyond it, -4.*\.sampled"
    ):
        told("applied")


@pytest.mark.parametrize("action", [Continuous([-12.0], [12.0]), Discrete(3)])
def test_what_act_gave_is_refused_as_a_whole(action):
    specification = Specification(name="rig", action=action, observation_size=2, horizon=4, repeatable=False)
    with Rig(specification, NaturalGradient(rollouts=2), budget=4) as search:
        trial = search.ask()
        drawn = [trial.controller.act([0.0, 0.0], z) for z in trial.noise]
        with pytest.raises(ValueError, match=r"tell them as sampled: each action\.sampled"):
            search.tell(trial, rollout=(np.zeros((4, 2)), drawn, np.ones(4)))
        search.tell(trial, rollout=(np.zeros((4, 2)), [action.sampled for action in drawn], np.ones(4)))


# laws and their constants


class Motor(Task):
    """A motor at ±12 V turns a load back to its angle 0, from about 1 rad."""

    @property
    def specification(self):
        return Specification(name="motor", action=Continuous([-12.0], [12.0]), observation_size=2, horizon=50, dt=0.02)

    def reset(self, key):
        return jnp.array([1.0, 0.0]) + 0.1 * jax.random.normal(key, (2,))

    def step(self, x, u, w):
        speed = x[1] + 0.02 * (8.0 * u[0] - 3.0 * x[1])
        return jnp.stack([x[0] + 0.02 * speed, speed])

    def cost(self, x, u):
        return 0.02 * (x[0] ** 2 + 1e-3 * u[0] ** 2)


@pytest.mark.parametrize("method", [ARS(directions=4), NaturalGradient(rollouts=8)])
def test_a_law_within_symmetric_limits_has_no_constant_unless_one_is_asked(method):
    result = train(Motor(), method, policy="linear", budget="4updates", evaluation_rollouts=2)
    gain, constant = result.policy.physical_gain()
    assert float(result.policy.scaling.count) > 0  # its scaling follows what was seen
    assert np.any(gain != 0)
    assert np.array_equal(constant, [0.0])
    assert np.array_equal(result.controller.mode([0.0, 0.0]), [0.0])
    asked = PolicySettings(kind="linear", scaling="running")
    asked = train(Motor(), method, policy=asked, budget="4updates", evaluation_rollouts=2).policy
    assert asked.physical_gain()[1] != 0


@pytest.mark.parametrize("scaling", ["rms", "running"])
def test_the_printed_law_is_what_acts(scaling):
    policy = PolicySettings(kind="linear", scaling=scaling)
    result = train(Motor(), ARS(directions=4), policy=policy, budget="4updates", evaluation_rollouts=2)
    gain, constant = result.policy.physical_gain()
    for x in np.random.default_rng(0).normal(size=(20, 2)) * [10.0, 100.0]:
        law = gain @ x + constant
        np.testing.assert_allclose(result.controller.mode(x, clip=False), law, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(result.controller.mode(x), np.clip(law, -12.0, 12.0), rtol=1e-5, atol=1e-5)


def test_a_rescaled_law_with_a_mask_keeps_its_constant():
    from policysearch.core.normalize import Scaling

    mask = [[True, False, True], [False, True, False]]
    first, second = (
        Scaling(jnp.asarray(4.0), jnp.asarray(mean), jnp.asarray(m2))
        for mean, m2 in (([1.0, 2.0, -1.0], [4.0, 16.0, 1.0]), ([0.0, 5.0, 3.0], [1.0, 4.0, 64.0]))
    )
    gain = [[-0.5, 0.0, 0.1], [0.0, -0.7, 0.0]]
    policy = LinearGaussian(gain, bias=[0.1, -0.2], mask=mask, scaling=first)
    x = jnp.asarray(OBSERVATIONS)
    np.testing.assert_allclose(policy.rescaled(second).mode(x), policy.mode(x), rtol=1e-4, atol=1e-4)


# what is no specification


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        ([-1.0, -1.0], [1.0], "2 lower and 1 upper limits"),
        ([1.0], [-1.0], "limits of action 0 are 1 and -1"),
        ([math.nan], [1.0], "low is "),
        ([math.inf], [math.inf], "limits of action 0 are inf and inf"),
        (["-1"], ["1"], "low is .* give a sequence of numbers"),
        (-1.0, 1.0, "low is -1.0; give a sequence"),
        ([-1.0], [True], "high is .* give a sequence"),
    ],
)
def test_limits_that_are_none_are_refused(low, high, words):
    with pytest.raises(ValueError, match=words):
        Continuous(low, high)


def test_limits_of_any_sequence_are_the_same():
    assert Continuous(np.array([-1, -2]), np.array([1.0, 2.0])) == Continuous((-1.0, -2.0), (1.0, 2.0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"observation_names": ["angle"]}, "servo has 1 observation_names, angle; it needs 2, or none"),
        ({"observation_names": ["angle", "angle"]}, "has 'angle' twice"),
        ({"observation_names": "ab"}, "observation_names is 'ab'"),
        ({"observation_names": ["angle", ""]}, "up to 200 printable characters"),
        ({"action_names": ["u", "v"]}, "servo has 2 action_names, u, v; it needs 1, or none"),
        ({"action_names": [1]}, r"action_names is \[1\]"),
        ({"action": Discrete(3), "action_names": ["left", "right"]}, "it needs 1 or 3, or none"),
        ({"dt": 0.0}, "dt is 0.0"),
        ({"dt": -0.1}, "dt is -0.1"),
        ({"dt": math.nan}, "dt is nan"),
        ({"dt": math.inf}, "dt is inf"),
        ({"dt": "0.1"}, "dt is '0.1'"),
    ],
)
def test_names_and_time_steps_that_do_not_fit_are_refused(changes, words):
    given = {"name": "servo", "action": Continuous([-1.0], [1.0]), "observation_size": 2, "horizon": 5} | changes
    with pytest.raises(ValueError, match=words):
        Specification(**given)


def test_an_interface_that_does_not_fit_a_controller_is_refused():
    linear, choice = LinearGaussian([[1.0, 2.0]]).controller(), Softmax([(np.zeros((3, 2)), None)]).controller()
    numbers = Parameters(["kp"], [1.0]).controller()
    limits = Continuous([-1.0], [1.0])
    for controller, interface, words in (
        (linear, Interface(limits=Continuous([-1.0] * 2, [1.0] * 2)), "Limits of 2 actions were given"),
        (linear, Interface(observation_names=["a", "b", "c"]), "3 observation_names were given"),
        (linear, Interface(action_names=["a", "b"]), "2 action_names were given"),
        (choice, Interface(limits=limits), "a choice, which has none"),
        (choice, Interface(action_names=["a", "b"]), "has 1 or 3"),
        (numbers, Interface(limits=limits), "bounds of their own"),
    ):
        with pytest.raises(ValueError, match=words):
            controller.with_interface(interface)
    assert choice.with_interface(Interface(action_names=["a", "b", "c"])).interface.action_names[2] == "c"
    assert numbers.with_interface(Interface(dt=0.5)).interface.dt == 0.5


def test_a_controller_shows_what_it_is():
    many = LinearGaussian(np.zeros((20, 30))).controller()
    assert repr(many) == "Controller(linear_gaussian: 30 observations → 20 actions, limits unknown)"
    free = many.with_interface(Interface(limits=Continuous([-math.inf] * 20, [math.inf] * 20)))
    assert "action 11 without limits, … (20 in all)" in repr(free)
    assert (
        repr(Softmax([(np.zeros((3, 1)), None)]).controller())
        == "Controller(softmax: 1 observation → one of 3 choices)"
    )
    assert repr(Parameters(["kp", "kd"], [1.0, 0.1]).controller()) == "Controller(parameters: kp=1, kd=0.1)"
