"""The PID policy: its law against the textbook, the same in NumPy and JAX, its memory, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from policysearch import PID, Controller, Interface, PolicySettings, Specification
from policysearch.core.initial import from_controller, start
from policysearch.core.specification import Continuous, Discrete
from policysearch.methods.settings import method_settings
from policysearch.methods.start import default_policy, policy_of, problem

NAMES = ("position [m]", "velocity [m/s]")


def rig(**changes):
    given = {
        "name": "rig",
        "action": Continuous((-1.0,), (2.0,)),
        "observation_size": 2,
        "observation_names": NAMES,
        "horizon": 100,
        "dt": 0.1,
    }
    return Specification(**(given | changes))


LIMITS = Continuous((-1.0,), (2.0,))


def controller(*gains, limits=LIMITS, dt=0.1, hold=1, **options):
    interface = Interface(limits=limits, observation_names=NAMES, action_names=("force [N]",), dt=dt, hold=hold)
    return PID(*gains, **options).with_interface(interface).controller()


def textbook(kp, ki, kd, lag, h, errors, low, high):
    """Unlimited outputs of a PID, written as a loop of scalars: Åström & Murray, section 11.5."""
    integral = derivative = 0.0
    last, found = errors[0], []
    for e in errors:
        derivative = lag / (lag + h) * derivative + kd / (lag + h) * (e - last)
        v = kp * e + integral + derivative
        u = min(max(v, low), high)
        integral += ki * h * e + (h / max(kp / ki, h) * (u - v) if ki else 0.0)
        last = e
        found.append(v)
    return np.array(found)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("gains", [(1.5, 0.4, 0.2), (0.1, 5.0, 0.2)], ids=["usual", "integral time below a step"])
def test_the_law_is_that_of_the_textbook_with_its_limits(gains):
    errors = np.cumsum(np.random.default_rng(0).normal(size=200))
    pid = controller(*gains, error="position", filter=0.3)
    given = np.stack([errors, np.zeros(200)], 1)
    expected = textbook(*gains, 0.3, 0.1, errors, -1.0, 2.0)
    assert np.sum((expected < -1) | (expected > 2)) > 50
    np.testing.assert_allclose([pid.mode(o, clip=False)[0] for o in given], expected, rtol=1e-12, atol=1e-12)
    pid.reset()
    np.testing.assert_allclose([pid.mode(o)[0] for o in given], np.clip(expected, -1, 2), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("loops", [1, 2])
@pytest.mark.parametrize("limited", [True, False])
def test_numpy_and_jax_agree_over_a_thousand_steps_at_the_limits(loops, limited):
    bound = 0.8 if limited else np.inf
    policy = PID(
        [1.3, -0.7][:loops],
        [0.5, -0.3][:loops],
        [0.1, 0.0][:loops],
        observation=["position", 1][:loops],
        setpoint=[0.3, "position"][:loops],
    ).fitted(rig(action=Continuous((-bound,) * loops, (bound,) * loops)))
    policy = policy.with_theta(policy.theta("parameter") + 0.2, "parameter")
    observations = np.cumsum(np.random.default_rng(1).normal(size=(1000, 2)), 0) / 10

    @jax.jit
    def run(policy, observations):
        memory, act = policy.begin(jnp)
        return jax.lax.scan(act, memory, observations)[1]

    theirs = np.asarray(run(policy, jnp.asarray(observations)))
    numpy = policy.controller()
    ours = np.array([numpy.output(o) for o in observations])
    assert np.any(np.abs(ours) > 0.8)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_the_integral_does_not_wind_up_at_a_limit():
    pid = controller(1.0, 1.0, observation=0, setpoint=10.0, limits=Continuous((-1.0,), (1.0,)))
    for _ in range(1000):
        assert pid.mode([0.0, 0.0]) == 1.0  # the error is 10 all the time
    # an integral of 1000 · 0.1 · 10 would hold the action at its limit for as long again
    later = [pid.mode([11.0, 0.0])[0] for _ in range(60)]
    assert later.index(-1.0) < 30


def test_a_derivative_starts_without_a_kick_and_follows_a_ramp():
    pid = controller(0.0, 0.0, 2.0, error=0, filter=0.5, limits=None)
    ramp = [pid.mode([3.0 + 0.1 * k, 0.0])[0] for k in range(100)]
    assert ramp[0] == 0.0
    assert ramp[-1] == pytest.approx(2.0, rel=1e-6)  # 2 · 1 per second


def test_reset_forgets_and_a_fresh_controller_shares_nothing():
    pid = controller(1.0, 2.0, 0.5)
    first = [pid.mode([0.3, 0.0]).item() for _ in range(5)]
    assert len({*first}) == 5  # the integral moves it
    other = pid.fresh()
    pid.reset()
    assert [pid.mode([0.3, 0.0]).item() for _ in range(5)] == first
    assert [other.mode([0.3, 0.0]).item() for _ in range(5)] == first


def test_a_batch_is_refused_because_it_has_no_order():
    with pytest.raises(ValueError, match=r"one observation \(p,\) after the other"):
        controller(1.0).mode(np.zeros((3, 2)))


def test_a_held_action_lasts_as_long_as_several_time_steps():
    held, slow = controller(1.0, 1.0, hold=5, filter=0.2), controller(1.0, 1.0, dt=0.5, filter=0.2)
    outputs = [held.mode([-0.3, 0.0]).item() for _ in range(4)]
    assert outputs == [slow.mode([-0.3, 0.0]).item() for _ in range(4)]
    assert outputs == pytest.approx([0.3, 0.45, 0.6, 0.75])


def test_errors_are_of_the_observation_that_is_named():
    def output(seen, **options):
        return controller(2.0, limits=None, **options).mode(seen)[0]

    assert output([1.0, 5.0], observation="position [m]", setpoint=3.0) == 2 * (3 - 1)
    assert output([1.0, 5.0], observation=1) == -10
    assert output([1.0, 5.0], error="velocity") == 10
    assert output([1.0, 5.0], observation="position", setpoint="velocity") == 2 * (5 - 1)


def test_a_file_holds_all_that_a_robot_needs(tmp_path):
    pid = controller(1.0, 2.0, 0.5, observation="velocity", setpoint=0.2, filter=0.4, fixed=["kd"])
    pid.save(tmp_path / "pid.safetensors")
    loaded = Controller.load(tmp_path / "pid.safetensors")
    seen = np.random.default_rng(0).normal(size=(50, 2))
    assert [loaded.mode(o) for o in seen] == [pid.mode(o) for o in seen]
    assert loaded.values() == pytest.approx({"kp": 1.0, "ki": 2.0, "kd": 0.5})
    back = from_controller(loaded)
    assert jax.tree.structure(back) == jax.tree.structure(from_controller(pid))
    assert back.parameter_names() == ["kp", "ki"]


def test_positive_gains_move_by_factors_others_by_amounts_and_zeros_stay():
    policy = PID(2.0, 0.0, -0.5)
    assert policy.parameter_names() == ["kp", "kd"]
    moved = policy.with_theta(jnp.asarray([np.log(3.0), 1.0]), "parameter")
    assert moved.values() == pytest.approx({"kp": 6.0, "ki": 0.0, "kd": 0.0}, abs=1e-6)
    searched = PID(2.0, 0.0, scale={"ki": 0.1}, bounds={"kp": (1.0, 4.0)})
    moved = searched.with_theta(jnp.asarray([5.0, -2.0]), "parameter")
    assert moved.values() == pytest.approx({"kp": 4.0, "ki": -0.2, "kd": 0.0})
    np.testing.assert_allclose(policy.step_units({"kp": 2.0}), [np.log(2.0), np.inf])


def test_a_search_starts_from_known_gains():
    policy = PID(2.0, 1.0, observation="velocity").fitted(rig())
    moved = start(policy.with_theta(jnp.ones(2), "parameter"), {"kp": 7.0})
    assert moved.values() == pytest.approx({"kp": 7.0, "ki": np.e, "kd": 0.0}, rel=1e-6)
    assert moved.controller().mode([0.0, 1.0])[0] == pytest.approx(-1.0)  # the velocity, at the limit
    again = start(policy, moved.controller())
    assert again.values() == pytest.approx(moved.values())
    with pytest.raises(ValueError, match="Initial values for kq"):
        start(policy, {"kq": 1.0})


def test_gains_that_are_left_open_follow_from_the_task():
    policy = policy_of(rig(observation_scale=(0.5, 2.0)), "pid", method_settings("ars", {}), 0)
    # half the range at an error of 0.5 m; a quarter of 10 s; a quarter of that
    assert policy.values() == pytest.approx({"kp": 3.0, "ki": 3.0 / 2.5, "kd": 3.0 * 0.625}, rel=1e-6)
    settings = PolicySettings(kind="pid", kp=(4.0,), observation=("velocity",), setpoint=(1.0,), filter=0.0)
    policy = default_policy(rig(), settings)
    assert policy.values() == {"kp": 4.0, "ki": 0.0, "kd": 0.0}
    assert policy.controller().mode([0.0, 0.9])[0] == pytest.approx(0.4)
    assert problem(rig(), policy, "parameter").effect == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PID(1.0).fitted(rig(dt=None)), r"rig does not say its time step.*dt=0\.01"),
        (lambda: PID(1.0).fitted(rig(action=Discrete(2))), "a PID gives real ones"),
        (lambda: PID(1.0).fitted(rig(action=Continuous((-1.0,) * 2, (1.0,) * 2))), "2 actions and the PID has 1 loops"),
        (lambda: PID(1.0, observation="speed").fitted(rig()), "No observation is named 'speed'.*velocity"),
        (lambda: PID(1.0, observation=2).fitted(rig()), "no observation 2; there are 2"),
        (lambda: PID(1.0, observation="position").controller(), "not connected yet"),
        (lambda: PID(1.0, filter=-1.0), "filter is -1.0"),
        (lambda: PID(1.0, fixed=["kp"]), "No gain is left to search"),
        (lambda: PID(0.0), "No gain is left to search"),
        (lambda: PID(1.0, fixed=["kq"]), "No gain is named 'kq'; the names are kp, ki, kd"),
        (lambda: PID([1.0, 2.0], [1.0, 2.0, 3.0]), "one for each of 3 loops"),
        (lambda: PID(np.nan), "finite number"),
        (lambda: PID(1.0, observation=0, error=1), "not both"),
        (lambda: default_policy(rig(), PolicySettings(kp=(1.0,))), "kp belongs to policy pid; here it is linear"),
        (lambda: default_policy(rig(action=Discrete(2)), PolicySettings(kind="pid")), "discrete actions; use a linear"),
    ],
)
def test_what_makes_no_sense_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_controller_whose_arrays_do_not_fit_is_refused():
    pid = controller(1.0, 2.0)
    for constants, words in (
        ({"error": np.zeros((2, 2))}, r"error has shape \(2, 2\)"),
        ({"filter": np.array([-1.0])}, "filters of at least 0 s"),
        ({"setpoint": np.zeros(2)}, "setpoint has shape"),
        ({"free": np.ones(3, bool)}, "values has shape"),
    ):
        with pytest.raises(ValueError, match=words):
            Controller(pid.description, pid.parameters, pid.constants | constants, pid.interface)
    with pytest.raises(ValueError, match="needs its time step"):
        Controller(pid.description, pid.parameters, pid.constants)


def test_methods_that_sample_actions_refuse_it():
    from policysearch import Search

    with pytest.raises(ValueError, match=r"action distribution; PID has none.*weight_perturbation"):
        Search("double-integrator", "trpo", policy=PID(1.0, observation="position"))
