"""First contact with an environment: what is refused, in which words, what is taken, and what is said of it."""

import fractions
import re

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.spaces import utils as flattening

import odd_environments as odd
from policysearch.core.controller import Controller
from policysearch.core.specification import Continuous
from policysearch.core.specification import Discrete as Choice
from policysearch.workers.contact import ContactError, meet
from policysearch.workers.episode import run_rollout
from policysearch.workers.jobs import Recipe
from policysearch.workers.observations import parts, writer

NAN = np.full(2, np.nan)


def met(env, horizon=20, **options):
    """What first contact says of an environment."""
    calls = []
    found = meet(env, Recipe("arm", "arms:Arm", None, options, horizon, 1.0), calls.append)
    assert calls[0] == "reset()"
    return found


def refused(env, *words, horizon=20):
    """Assert that an environment is refused in one sentence that has these words, and give it."""
    with pytest.raises(ContactError) as caught:
        met(env, horizon)
    said = str(caught.value)
    assert said.startswith(("arm ", "reset() of arm", "step() of arm", "reading "))
    for word in words:
        assert word in said
    return said


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros(14), ("shape (14,)", "shape (2,)")),
        (np.zeros(1), ("shape (1,)", "shape (2,)")),
        (0.3, ("shape ()", "shape (2,)")),
        (np.zeros((2, 1)), ("shape (2, 1)", "shape (2,)")),
        ([0.1] * 3, ("shape (3,)", "shape (2,)")),
        (None, ("None", "shape (2,)")),
        ([[1.0], [1.0, 2.0]], ("a list of 2", "no array of numbers")),
        (np.array(["a", "b"]), ("dtype <U1",)),
        (np.array([None, 1.0], object), ("dtype object",)),
        (np.zeros(2, complex), ("dtype complex128",)),
        ({"x": 1.0}, ("a dict",)),
        (NAN, ("not finite", "number 0 is nan")),
        (np.array([0.0, np.inf]), ("not finite", "number 1 is inf")),
    ],
)
def test_an_observation_that_is_not_of_its_space_is_refused_with_both(value, words):
    refused(odd.Seen(value), "reset()", *words)


@pytest.mark.parametrize(
    ("space", "value", "words"),
    [
        (Discrete(3, start=2), 5, ("5", "not in its space")),
        (Discrete(3), 1.0, ("one whole number",)),
        (Discrete(3), np.array([1]), ("shape (1,)", "one whole number")),
        (MultiDiscrete([2, 3]), np.array([1, 3]), ("not in its space",)),
        (MultiDiscrete([2, 3]), np.array([1]), ("shape (1,)", "shape (2,)")),
        (Box(-1, 1, (1,)), 0.5, ("shape ()", "shape (1,)")),
        (Dict(a=Box(-1, 1, (2,)), b=Discrete(2)), {"a": np.zeros(2)}, ("lacks b",)),
        (Dict(a=Discrete(2)), {"a": 0, "c": 1}, ("has c besides",)),
        (Dict(a=Discrete(2)), [0], ("a list of 1", "a Dict of a")),
        (Dict(a=Dict(b=Box(-1, 1, (2,)))), {"a": {"b": np.zeros(3)}}, ("a.b", "shape (3,)", "shape (2,)")),
        (Dict(a=Dict(b=Discrete(2))), {"a": 3}, ("a of an observation", "a Dict of b")),
        (Dict(a=Box(-1, 1, (2,))), {"a": NAN}, ("a, part", "not finite")),
        (Tuple((Discrete(2), Discrete(2))), (0,), ("a tuple of 1", "a Tuple of 2")),
        (Tuple((Discrete(2), Box(-1, 1, (2,)))), (0, "x"), ("1, part", "'x'")),
    ],
)
def test_a_part_of_an_observation_that_is_not_of_its_space_is_refused_by_name(space, value, words):
    refused(odd.Seen(value, space), *words)


@pytest.mark.parametrize(
    "value", [[0.1, 0.2], (0.1, 0.2), np.float16([1, 2]), np.int8([1, 2]), np.array([True, False])]
)
def test_an_observation_of_the_right_shape_is_taken_whatever_holds_its_numbers(value):
    assert met(odd.Seen(value)).warnings == []


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, ("None",)),
        (np.zeros(2), ("shape (2,)",)),
        (np.zeros(1), ("shape (1,)",)),
        ([1.0], ("a list of 1",)),
        ({"total": 1.0}, ("a dict of 1",)),
        ("1.0", ("'1.0' (str)",)),
        (1j, ("1j (complex)",)),
        (np.nan, ("is nan at once",)),
        (np.float32(-np.inf), ("is -inf at once",)),
    ],
)
def test_a_reward_that_is_not_one_finite_number_is_refused(value, words):
    refused(odd.Paid(value), "reward", *words)


@pytest.mark.parametrize(
    "value", [1, True, np.bool_(True), np.float16(1), np.array(1.0), np.int64(1), fractions.Fraction(1)]
)
def test_a_reward_that_is_one_number_is_taken_and_paid(value):
    env = odd.Paid(value)
    assert met(env).warnings == []
    controller = Controller({"policy": "linear_gaussian"}, {"gain": np.zeros((1, 2))})
    assert run_rollout(env, controller, 0, horizon=5).returns == 5.0


@pytest.mark.parametrize("place", [2, 3])
@pytest.mark.parametrize("value", [None, "no", 2, 0.5, np.array([True]), {}])
def test_an_end_that_is_not_true_or_false_is_refused_by_name(place, value):
    told = [..., 1.0, False, False, {}]
    told[place] = value
    refused(odd.Answers(tuple(told)), ("terminated", "truncated")[place - 2], "must be True or False")


@pytest.mark.parametrize("value", [np.bool_(False), 0, np.array(False), np.int64(0)])
def test_an_end_that_means_true_or_false_is_taken(value):
    assert met(odd.Answers((..., 1.0, value, value, {}))).specification.repeatable


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"step": (..., 1.0, False, {})}, ("4 values", "before Gymnasium", "terminated, truncated")),
        ({"step": (..., 1.0, False)}, ("3 values",)),
        ({"step": (..., 1.0, False, False, {}, 0)}, ("6 values",)),
        ({"step": None}, ("returned None: a return is missing",)),
        ({"step": np.zeros(2)}, ("returned a ndarray",)),
        ({"step": (..., 1.0, False, False, None)}, ("None for info", "dict")),
        ({"step": (..., 1.0, False, False, [1])}, ("a list of 1 for info", "dict")),
        ({"reset": np.zeros(2)}, ("ndarray alone, without info", "before Gymnasium", "return (observation, {})")),
        ({"reset": [0.0, 0.0]}, ("list alone, without info",)),
        ({"reset": None}, ("returned None",)),
        ({"reset": (0.0, 0.0)}, ("second value is a float", "must be a dict")),
        ({"reset": (..., None)}, ("second value is a NoneType", "must be a dict")),
        ({"reset": (..., {}, 0)}, ("returned 3 values",)),
    ],
)
def test_an_answer_of_another_form_is_refused_with_the_form_that_is_right(answers, words):
    refused(odd.Answers(**answers), *words)


def test_a_reset_of_an_older_interface_is_refused_with_what_it_lacks():
    refused(odd.NoSeed(), "no seed", "before Gymnasium", "def reset(self, *, seed=None, options=None)")
    assert met(odd.NoOptions()).specification.repeatable  # nothing passes options to it
    refused(gymnasium.make("Odd/NoOptions-v0", disable_env_checker=True), "takes no options")


@pytest.mark.parametrize(
    ("spaces", "words"),
    [
        ({"action_space": odd.Sound.action_space}, ("no observation_space", "in __init__")),
        ({"observation_space": odd.Sound.observation_space}, ("no action_space", "in __init__")),
        ({"observation_space": None}, ("no observation_space",)),
        ({"observation_space": odd.OldBox(), "action_space": None}, ("a OldBox as observation_space",)),
        ({"observation_space": odd.Sound.observation_space, "action_space": (0, 1)}, ("a tuple as action_space",)),
        ({"observation_space": Box(-1, 1, (0,)), "action_space": None}, ("no numbers at all",)),
    ],
)
def test_a_space_that_is_missing_or_none_of_gymnasiums_is_refused(spaces, words):
    refused_before_reset = odd.NoSpace(**spaces)
    with pytest.raises(ContactError) as caught:
        met(refused_before_reset)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("where", ["reset", "step"])
def test_what_an_environment_raises_is_said_with_the_call_and_the_line(where):
    said = refused(odd.Stuck(where, "raise"), f"{where}() of arm raised OSError: the licence was lost")
    assert re.search(r"odd_environments\.py, line \d+, in now", said)
    refused(odd.Stuck(where, "sys.exit"), "raised SystemExit: 4")


def test_an_environment_that_ends_at_once_is_not_stepped_further():
    assert met(odd.Ends()).specification.repeatable


@pytest.mark.parametrize(
    ("space", "low", "high"),
    [
        (Box(-1, 1, (1,), np.float32), (-1.0,), (1.0,)),
        (Box(-1, 1, (1,), np.float64), (-1.0,), (1.0,)),
        (Box(-1, 1, (1,), np.float16), (-1.0,), (1.0,)),
        (Box(-1, 1, (2, 3), np.float32), (-1.0,) * 6, (1.0,) * 6),
        (Box(-1, 1, (), np.float64), (-1.0,), (1.0,)),
        (Box(0, np.inf, (1,), np.float32), (0.0,), (np.inf,)),
        (Box(-np.inf, 3, (1,), np.float64), (-np.inf,), (3.0,)),
        (Box(2, 5, (1,), np.float32), (2.0,), (5.0,)),
        (Box(np.float32([-1, 0.5]), np.float32([1, 0.5])), (-1.0,), (1.0,)),
        (Box(np.array([0.5, -1, 2]), np.array([0.5, 1, 2]), dtype=np.float64), (-1.0,), (1.0,)),
        (Box(-np.finfo(np.float32).max, np.finfo(np.float32).max, (1,), np.float32), (-np.inf,), (np.inf,)),
    ],
)
def test_an_environment_gets_actions_of_its_space_to_the_dtype_and_the_shape(space, low, high):
    env = odd.Acts(space)
    found = met(env)
    assert found.specification.action == Continuous(low, high)
    m = len(low)
    controller = Controller({"policy": "linear_gaussian"}, {"gain": np.full((m, 2), 50.0), "log_std": np.zeros(m)})
    noise = np.random.default_rng(0).normal(size=(10, m))
    episode = run_rollout(env, controller, 0, noise, 10, True)
    assert (episode.length, episode.record[1].shape) == (10, (10, m))
    # what is fixed has its value in each action
    fixed = (space.low == space.high).ravel()
    assert found.fixed == {i: float(space.low.ravel()[i]) for i in np.flatnonzero(fixed)}
    taken = np.array([action.ravel() for action in env.taken])
    assert np.array_equal(taken[:, fixed], np.broadcast_to(space.low.ravel()[fixed], (len(taken), fixed.sum())))


@pytest.mark.parametrize("space", [Discrete(3), Discrete(2, start=-1), Discrete(4, dtype=np.int32)])
def test_discrete_actions_have_the_type_that_their_space_samples(space):
    env = odd.Acts(space)
    assert met(env).specification.action == Choice(int(space.n))
    weights = np.random.default_rng(0).normal(size=(int(space.n), 2))
    episode = run_rollout(env, Controller({"policy": "softmax"}, {"weight_0": weights}), 0, None, 5, True)
    assert np.array_equal(episode.record[1] + space.start, env.taken[-5:])


def set_later(low, high):
    """A Box whose limits its maker did not see."""
    space = Box(-1, 1, (len(low),), np.float32)
    space.low, space.high = np.float32(low), np.float32(high)
    return space


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (Box(np.float32([1, 2]), np.float32([1, 2])), ("all of them fixed",)),
        (Box(-1, 1, (0,), np.float32), ("none at all",)),
        (set_later([-1, np.nan], [1, 1]), ("action 1", "nan and 1")),
        (set_later([-1, 2], [1, 1]), ("action 1", "2 and 1")),
        (set_later([np.inf], [np.inf]), ("action 0", "inf and inf")),
    ],
)
def test_limits_between_which_there_is_no_action_are_refused(space, words):
    refused_before_reset = odd.Acts(space)
    with pytest.raises(ContactError) as caught:
        met(refused_before_reset)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (MultiDiscrete([2, 3]), Choice(6)),
        (MultiDiscrete([[2], [2]]), Choice(4)),
        (Box(np.int64([-2, 0]), np.int64([2, 3]), dtype=np.int64), Continuous((-2.0, 0.0), (2.0, 3.0))),
        (Dict(left=Box(-1, 1, (2,)), right=Box(-2, 2, (1,))), Continuous((-1.0, -1.0, -2.0), (1.0, 1.0, 2.0))),
        (Tuple((Box(-1, 1, (1,)), Box(-2, 2, (1,)))), Continuous((-1.0, -2.0), (1.0, 2.0))),
    ],
)
def test_actions_that_no_policy_gives_are_refused_with_a_wrapper_that_serves_them(space, expected):
    env = odd.Sound()
    env.action_space = space
    with pytest.raises(ContactError) as caught:
        met(env)
    code = re.search(r'"return (.*)", and train module:function', str(caught.value))[1]
    env.step = lambda action: odd.Sound.step(env, [0.0]) if space.contains(action) else 1 / 0
    wrapped = eval(code, {"env": env, "gymnasium": gymnasium, "numpy": np})
    found = met(wrapped)
    assert found.specification.action == expected


def test_other_actions_are_refused_in_words():
    for space in (MultiBinary(3), Dict(a=Discrete(2))):
        env = odd.Sound()
        env.action_space = space
        with pytest.raises(ContactError, match=r"policies give a Box of floats or a Discrete.*TransformAction"):
            met(env)


@pytest.mark.parametrize(
    ("what", "words", "size"),
    [
        ("image", ("an image of shape (4, 4, 3), 48 numbers",), 48),
        ("mission", ("mission (text, Text)", "image (an image"), 52),
        ("camera", ("camera (an image",), 50),
        ("nested", ("a.b (text, Text)",), 2),
        ("graph", ("g (a space Graph)",), 2),
    ],
)
def test_observations_that_cannot_be_flattened_are_refused_with_a_wrapper_that_serves_them(what, words, size):
    env = odd.unserved(what)
    with pytest.raises(ContactError) as caught:
        met(env)
    said = str(caught.value)
    assert all(word in said for word in words)
    code = re.search(r'"return (.*)", and train module:function', said)[1]
    env.observation_space.seed(0)
    assert met(eval(code, {"env": env, "gymnasium": gymnasium})).specification.observation_size == size


@pytest.mark.parametrize("what", ["text", "sequence", "tuple"])
def test_observations_that_no_wrapper_of_gymnasium_flattens_are_refused_in_words(what):
    with pytest.raises(ContactError, match=r"policies do not take: .*TransformObservation"):
        met(odd.unserved(what))


def test_parts_are_flattened_as_gymnasium_flattens_them_with_a_name_each():
    env = odd.Mixed()
    found = met(env)
    assert found.layout == {
        "pose.0": (0, 4),
        "pose.1": (4, 7),
        "gears": (7, 12),
        "switches": (12, 14),
        "temperature": (14, 15),
    }
    specification = found.specification
    assert specification.observation_size == 15
    assert specification.observation_names[3:12] == (
        *("pose.0[3]", "pose.1=5", "pose.1=6", "pose.1=7"),
        *("gears[0]=0", "gears[0]=1", "gears[1]=0", "gears[1]=1", "gears[1]=2"),
    )
    assert specification.observation_names[12:] == ("switches[0]", "switches[1]", "temperature")
    controller = Controller({"policy": "linear_gaussian"}, {"gain": np.full((1, 15), 0.1)})
    seen = run_rollout(env, controller, 3, horizon=7, record=True).record[0]
    space, (observation, _) = env.observation_space, env.reset(seed=3)
    for row in seen[:3]:
        assert np.allclose(row, flattening.flatten(space, observation), atol=1e-6)
        action = np.float32([np.clip(row.sum() * 0.1, -1, 1)])
        observation, *_ = env.step(action)


@pytest.mark.parametrize(
    "space",
    [
        MultiDiscrete([3, 2]),
        MultiDiscrete([[3, 2], [1, 4]], start=[[1, 0], [2, -1]]),
        MultiBinary((2, 2)),
        Tuple((Discrete(2), Tuple((Box(-1, 1, (2, 1)), MultiBinary(1))))),
        Dict(b=Discrete(3, start=1), a=Dict(c=Box(0, 255, (3,), np.uint8))),
        Box(0, 1, (2, 2, 2), np.float32),
    ],
)
def test_each_space_is_flattened_as_gymnasium_flattens_it(space):
    space.seed(0)
    for _ in range(5):
        sample = space.sample()
        row = np.zeros(parts(space)[-1].stop)
        writer(space)(row, sample)
        assert np.array_equal(row, flattening.flatten(space, sample))
    assert len([name for part in parts(space) for name in part.names()]) == len(row)


def test_whole_numbers_keep_their_size_and_mixtures_are_measured():
    assert met(odd.Seen(np.array([1, 0]), MultiDiscrete([2, 2]))).specification.observation_scale == (1.0,) * 4
    assert met(odd.Mixed()).specification.observation_scale is None
    assert met(odd.Sound()).layout == {}


def test_an_observation_beyond_its_limits_is_warned_of_with_both():
    (said,) = met(odd.Seen(np.array([1e5, 0.0]))).warnings
    assert "observation[0] is 100000, its limits are -10 and 10" in said
    assert "observation[1]" not in said
    (said,) = met(odd.Seen({"a": np.array(3.0), "b": 0}, Dict(a=Box(-1, 1, ()), b=Discrete(2)))).warnings
    assert "a is 3, its limits are -1 and 1" in said
    # rounding to float32 is no fault
    assert met(odd.Seen(np.array([1 + 1e-7, 0.0]), Box(-1, 1, (2,)))).warnings == []


def test_chance_that_no_seed_repeats_is_warned_of_and_partners_share_no_seed():
    found = met(odd.Noisy())
    assert not found.specification.repeatable
    (said,) = found.warnings
    assert "equal seeds give different rollouts (the observations after step 1 differ)" in said
    assert "self.np_random" in said
    assert met(odd.Sound()).specification.repeatable


def test_limits_that_are_declared_do_not_count_as_magnitudes():
    for limit in (1.0, 900.0, np.inf):
        assert met(odd.Bounded(limit)).specification.observation_scale is None
    assert met(gymnasium.make("Pendulum-v1")).specification.observation_scale == (1.0, 1.0, 8.0)


def test_a_time_limit_that_is_not_declared_is_seen_or_asked_for():
    assert met(odd.Cut(30), None).specification.horizon == 30
    assert met(odd.Cut(30), 12).specification.horizon == 12
    # it is cut where it arrives, which is no time limit
    refused(odd.Cut(near=True), "no time limit", "--horizon N", horizon=None)


def test_alarms_of_an_environment_for_its_own_arithmetic_are_none_for_actions_beyond_float32():
    huge = Controller({"policy": "linear_gaussian"}, {"gain": np.full((1, 2), 1e60)})
    expected = run_rollout(odd.Acts(Box(-1, 1, (1,), np.float32)), huge, 0, horizon=5)
    assert expected.length == 5
    with np.errstate(all="raise"):
        assert run_rollout(odd.Acts(Box(-1, 1, (1,), np.float32)), huge, 0, horizon=5).total == expected.total


def test_an_observation_that_changes_its_shape_on_the_way_is_an_error_and_not_spread_over_the_row():
    for size in (1, 3):
        with pytest.raises(ValueError, match=rf"the observation has shape \({size},\); its space has \(2,\)"):
            run_rollout(odd.Grows(size), Controller({"policy": "linear_gaussian"}, {"gain": np.zeros((1, 2))}), 0)
