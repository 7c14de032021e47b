"""Files that somebody else made: each is refused in one sentence, at once, with little memory, and runs nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from policysearch.core import controller_file
from policysearch.core.controller import Controller
from policysearch.core.interface import Interface

#: reads each file in a process of its own, which has read a good one before; says what came, and at what cost
READER = """
import json, os, resource, sys, time, warnings
warnings.simplefilter("ignore")
from pathlib import Path
kind, good, *files = sys.argv[1:]
if kind == "policy":
    from policysearch.core.controller import Controller
    from policysearch.core.policies import registry
    read = Controller.load
    registry.kinds()  # the package's own code of a kind is imported when it is first met
else:
    from policysearch import LinearGaussian
    from policysearch.core.initial import start
    read = lambda path: start(LinearGaussian([[0.0, 0.0]], bias=[0.0], std=0.1), path)
read(good)
used = []
if kind == "policy":
    sys.addaudithook(lambda event, details: used.append(event) if event in (
        "exec", "compile", "import", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class",
        "ctypes.dlopen", "socket.connect") else None)
def usage():
    now = resource.getrusage(resource.RUSAGE_SELF)
    return now.ru_utime + now.ru_stime, now.ru_maxrss / 1024
for file in files:
    out, into = os.pipe()
    if os.fork() == 0:
        del used[:]
        before = usage()
        try:
            said = ["read", repr(read(file))[:200]]
        except BaseException as error:
            said = [type(error).__name__, str(error)]
        after = usage()
        os.write(into, json.dumps([*said, after[0] - before[0], after[1] - before[1], after[1], used]).encode()[:60000])
        os._exit(0)
    os.close(into)
    print(json.dumps([Path(file).name, json.loads(os.fdopen(out).read())]), flush=True)
    os.wait()
"""
GAIN = {"parameters.gain": np.array([[-0.5, -0.8]])}
INTERFACE = {
    "limits": {"low": [-1.0], "high": [1.0]},
    "observation_names": ["angle [rad]", "rate [rad/s]"],
    "action_names": ["torque [N m]"],
    "dt": 0.05,
    "hold": 1,
}
DESCRIPTION = {
    "format": 2,
    "version": "0.1.0",
    "interface": INTERFACE,
    "description": {"policy": "linear_gaussian"},
    "parameters": ["gain"],
    "constants": [],
}


def raw(header, tensors=b""):
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + tensors


def claims(shape, size, dtype="F64", tensors=b"", name="parameters.gain"):
    return raw({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}, tensors)


def signed(description=DESCRIPTION, arrays=GAIN):
    """A file whose SHA-256 is right, whatever is in it."""
    text = description if isinstance(description, str) else json.dumps(description)
    content = save({name: np.asarray(value, order="C") for name, value in arrays.items()})
    header, tensors = controller_file._split(content)
    metadata = {"policysearch": text, "sha256": controller_file._digest(arrays, text)}
    return raw({"__metadata__": metadata, **header}, tensors)


def describes(**changes):
    return signed({**DESCRIPTION, **changes})


def limited(low, high):
    return connected(limits={"low": low, "high": high})


def connected(**changes):
    return describes(interface={**INTERFACE, **changes})


class Payload:
    def __reduce__(self):
        return os.system, ("touch executed",)


def archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:  # what torch.save writes
        packed.writestr("archive/data.pkl", pickle.dumps(Payload()))
    return file.getvalue()


def neither():
    """True and False are 1 and 0; here is a 2, with the right SHA-256."""
    mask = np.array([[2, 1]], np.uint8).view(bool)
    description = {**DESCRIPTION, "constants": ["mask"]}
    return signed(description, {"parameters.gain": np.zeros(2), "constants.mask": mask})


#: name → a file, and what is said of it
POLICIES = {
    "a pickle": (pickle.dumps(Payload()), "its header claims"),
    "a pickle in an archive": (archive(), "its header claims"),
    "a pickle as description": (signed(pickle.dumps(Payload(), 0).decode()), "not valid JSON"),
    "nothing": (b"", "the file has 0"),
    "a header longer than the file": ((10**6).to_bytes(8, "little") + b"{}", "claims 1000000 bytes and the file has"),
    "a header of 2^63 bytes": ((2**63).to_bytes(8, "little") + b"{}", "claims 9223372036854775808 bytes"),
    "a header of 5 MB": (raw(b'{"a":' + b" " * 5_000_000 + b"0}"), "has a header of 5000007 bytes"),
    "a billion entries": (claims([10**9], 8 * 10**9), "claims arrays of 8000000000 bytes, and 0 follow"),
    "10^12 bytes": (claims([10**12], 10**12, "BOOL"), "claims arrays of 1000000000000 bytes"),
    "10^12 bytes beside nothing": (claims([10**12, 0], 0), "has an invalid shape or place"),
    "a shape that overflows": (claims([2**32, 2**32], 0), "claims 0 bytes"),
    "a shape below zero": (claims([-1], -8), "has an invalid shape or place"),
    "a shape of fractions": (claims([1.5], 12, tensors=bytes(12)), "has an invalid shape or place"),
    "a shape of 1000 axes": (claims([1] * 1000, 8, tensors=bytes(8)), "has an invalid shape or place"),
    "arrays over each other": (
        raw({n: {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]} for n in ("a", "b")}, bytes(8)),
        "starts at byte 0, where 8 is expected",
    ),
    "100 000 arrays": (
        raw({f"a{i}": {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)}),
        "has a header of",
    ),
    "10 000 arrays": (
        raw({f"a{i}": {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]} for i in range(10_000)}),
        "no policy",
    ),
    "an entry that is none": (raw({"a": 1}), "is not described"),
    "a header that is no table": (raw([]), "not a table of arrays"),
    "a deep header": (raw(b"[" * 500_000), "not valid JSON"),
    "a deep description": (signed("[" * 400_000), "not valid JSON"),
    "a closed deep description": (signed("[" * 200_000 + "]" * 200_000), "not valid JSON"),
    "a wide description": (signed("[" + "[]," * 300_000 + "0]"), "names no format"),
    "a number of many digits": (signed('{"format": 1' + "0" * 100_000 + "}"), "not valid JSON"),
    "a description that is none": (signed("[]"), "names no format"),
    "a description that is text": (describes(description="x"), "its description is not a table"),
    "a format that is text": (describes(format="1"), "names no format"),
    "a newer format": (describes(format=3), "has format 3"),
    "a format before the first": (describes(format=0), "names format 0"),
    "no version": (signed({k: v for k, v in DESCRIPTION.items() if k != "version"}), "its version is not a name"),
    "a version of two lines": (describes(version="1\n2"), "its version is not a name"),
    "a version that is a number": (describes(version=1), "its version is not a name"),
    "no interface": (describes(interface=None), "an interface has limits, observation_names"),
    "an interface that is a list": (describes(interface=[1]), "an interface has limits, observation_names"),
    "an interface with more": (connected(code="import os"), "and nothing else"),
    "limits that are a list": (connected(limits=[-1, 1]), "limits have low and high"),
    "limits without an upper one": (connected(limits={"low": [-1]}), "limits have low and high"),
    "limits that are text": (limited("-1", "1"), "low is not a list of limits"),
    "limits of text": (limited(["-1"], ["1"]), "low is ('-1',); give a sequence of numbers"),
    "limits of truth": (limited([False], [True]), "low is (False,); give a sequence of numbers"),
    "limits of lists": (limited([[-1]], [[1]]), "give a sequence of numbers"),
    "limits of many digits": (limited([-(10**400)], [1]), "give a sequence of numbers"),
    "limits that are not a number": (limited([float("nan")], [1.0]), "low has a limit that is not finite"),
    "limits that are infinite": (limited([-1.0], [float("inf")]), "high has a limit that is not finite"),
    "limits that cross": (limited([1], [-1]), "The limits of action 0 are 1 and -1"),
    "more lower limits": (limited([-1, -1], [1]), "2 lower and 1 upper limits"),
    "limits of two actions": (
        limited([-1, -1], [1, 1]),
        "Limits of 2 actions were given; a linear_gaussian",
    ),
    "no limits at all": (limited([], []), "Limits of 0 actions were given"),
    "limits of a choice": (
        signed(
            {**DESCRIPTION, "description": {"policy": "softmax"}, "parameters": ["weight_0"]},
            {"parameters.weight_0": np.zeros((1, 2))},
        ),
        "Limits were given; a softmax controller gives a choice",
    ),
    "names of other observations": (connected(observation_names=["angle"]), "1 observation_names were given"),
    "names of other actions": (connected(action_names=["a", "b"]), "2 action_names were given"),
    "names that are one text": (
        connected(observation_names="ab"),
        "observation_names is 'ab'; give a sequence of names",
    ),
    "names that come twice": (connected(observation_names=["a", "a"]), "observation_names has 'a' twice"),
    "a name of two lines": (connected(action_names=["a\nb"]), "up to 200 printable characters"),
    "a name of 10 000 characters": (connected(action_names=["a" * 10_000]), "up to 200 printable characters"),
    "no time step": (connected(dt=0), "dt is 0; it must be a number of seconds"),
    "a time step that is not a number": (connected(dt=float("nan")), "dt is nan"),
    "a time step without end": (connected(dt=float("inf")), "dt is inf"),
    "a time step of many digits": (connected(dt=10**400), "it must be a number of seconds"),
    "a time step that is text": (connected(dt="0.02"), "dt is '0.02'"),
    "held for no stage": (connected(hold=0), "hold is 0"),
    "held for half a stage": (connected(hold=0.5), "hold is 0.5"),
    "held for truth": (connected(hold=True), "hold is True"),
    "a policy that is a list": (describes(description={"policy": []}), "its policy is not a name"),
    "a policy nobody knows": (describes(description={"policy": "os.system"}), "'os.system'; choose one of"),
    "an activation that is a list": (
        describes(description={"policy": "neural_gaussian", "activation": [1]}),
        "its activation is not a name",
    ),
    "names that are numbers": (
        describes(description={"policy": "parameters", "names": [1]}),
        "are not a list of names",
    ),
    "arrays that are not there": (describes(parameters=["gain", "bias"]), "differ from those its description names"),
    "arrays that are not named": (describes(parameters=[]), "differ from those its description names"),
    "a name that leaves the folder": (
        signed({**DESCRIPTION, "parameters": ["../gain"]}, {"parameters.../gain": np.zeros((1, 2))}),
        "'parameters.../gain' is not the name of an array",
    ),
    "a name of a file": (
        signed({**DESCRIPTION, "parameters": ["/etc/gain"]}, {"parameters./etc/gain": np.zeros((1, 2))}),
        "'parameters./etc/gain' is not the name of an array",
    ),
    "a wrong SHA-256": (signed().replace(b"\xe0\xbf", b"\xe1\xbf"), "contents and SHA-256 disagree"),
    "a changed description": (signed().replace(b"linear", b"linerr"), "contents and SHA-256 disagree"),
    "a shape that does not fit": (signed(arrays={"parameters.gain": np.zeros(3)}), "gain has shape (3,)"),
    "a bias that does not fit": (
        signed({**DESCRIPTION, "parameters": ["bias", "gain"]}, {**GAIN, "parameters.bias": np.zeros(7)}),
        "bias has shape (7,)",
    ),
    "a mask that does not fit": (
        signed({**DESCRIPTION, "constants": ["mask"]}, {**GAIN, "constants.mask": np.ones((3, 3), bool)}),
        "gain has shape (1, 2)",
    ),
    "a mask of infinities": (
        signed({**DESCRIPTION, "constants": ["mask"]}, {**GAIN, "constants.mask": np.full((1, 2), np.inf)}),
        "is not a policy",
    ),
    "neither true nor false": (neither(), "neither true nor false"),
    **{
        f"of type {kind}": (claims([1], size, kind, bytes(size)), f"of type '{kind}'")
        for kind, size in {"I64": 8, "U8": 1, "F16": 2, "BF16": 2, "F32": 4, "F8_E4M3": 1, "O": 8}.items()
    },
    "of type nothing": (claims([1], 8, None, bytes(8)), "of type None"),
    "not a number": (signed(arrays={"parameters.gain": np.array([[np.nan, 1.0]])}), "'gain' is not finite"),
    "infinite": (signed(arrays={"parameters.gain": np.array([[np.inf, 1.0]])}), "'gain' is not finite"),
    "a scale that is no number": (
        signed({**DESCRIPTION, "constants": ["low"]}, {**GAIN, "constants.low": np.array([np.nan])}),
        "'low' has NaN",
    ),
}
#: initial values: JSON by anybody's hand
INITIAL = {
    "deep": (b'{"gain": ' + b"[" * 1_000_000, "is not JSON"),
    "closed and deep": (b'{"gain": ' + b"[" * 500_000 + b"]" * 500_000 + b"}", "is not JSON"),
    "somewhat deep": (b'{"gain": ' + b"[" * 100 + b"]" * 100 + b"}", "is not an array of numbers"),
    "large": (b'{"gain": [' + b"0," * 4_000_000 + b"0]}", "has 8000013 bytes"),
    "wide": (b'{"gain": [' + b"[]," * 300_000 + b"[]]}", "with a gain of shape (300001, 0)"),
    "many names": (json.dumps(dict.fromkeys(map(str, range(60_000)), 1)).encode(), "initial has 0, 1, 2"),
    "cut": (b'{"gain": [[1,', "is not JSON"),
    "no UTF-8": (b'{"\xff": 1}', "is not JSON"),
    "not a number": (b'{"gain": [[NaN, 1]]}', "is not JSON"),
    "out of range": (b'{"gain": [[1' + b"0" * 400 + b", 1]]}", ""),
    "text": (b'{"gain": [["a", "b"]]}', "is not an array of numbers"),
    "nothing": (b'{"gain": [[null, null]]}', "gain is not finite"),
    "tables": (b'{"gain": {"a": 1}}', "is not an array of numbers"),
    "uneven": (b'{"gain": [[1, 2], [3]]}', "is not an array of numbers"),
    "a bias that does not fit": (b'{"gain": [[1, 2]], "bias": [1, 2, 3]}', "bias has shape (3,); it must be (1,)"),
    "a list": (b"[1]", "give an object"),
}


def answers(kind, cases, good, folder, suffix):
    files = []
    for name, (content, _) in cases.items():
        files.append(folder / f"{name}{suffix}")
        files[-1].write_bytes(content)
    command = [sys.executable, "-c", READER, kind, str(good), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """What came of each policy file."""
    folder = tmp_path_factory.mktemp("policies")
    Controller({"policy": "linear_gaussian"}, {"gain": np.array([[-0.5, -0.8]])}).save(folder / "good")
    return folder, answers("policy", POLICIES, folder / "good", folder, ".safetensors")


@pytest.fixture(scope="module")
def initial(tmp_path_factory):
    """What came of each file with initial values."""
    folder = tmp_path_factory.mktemp("initial")
    (folder / "good.json").write_text('{"gain": [[1, 2]], "bias": [0]}')
    return answers("initial", INITIAL, folder / "good.json", folder, ".json")


@pytest.mark.parametrize("name", POLICIES)
def test_a_hostile_policy_file_is_refused_at_once_and_runs_nothing(policies, name):
    folder, came = policies
    kind, words, seconds, _, peak, used = came[f"{name}.safetensors"]
    assert (kind, POLICIES[name][1] in words) == ("ValueError", True), (kind, words)
    assert f"{name}.safetensors" in words
    assert "\n" not in words
    assert len(words) < 1000
    assert seconds < 1.0
    assert peak < 200
    assert used == []
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("name", INITIAL)
def test_a_hostile_file_of_initial_values_is_refused_at_once(initial, name):
    kind, words, seconds, grown, _, _ = initial[f"{name}.json"]
    assert (kind, INITIAL[name][1] in words) == ("ValueError", True), (kind, words)
    assert len(words) < 1000
    assert seconds < 1.0
    assert grown < 200


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.sampled_from([10**400, "angle [rad]", "", "a\nb", "linear_gaussian", "softmax", "parameters", "tanh", "0.1.0"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*INTERFACE, "low", "high"]), inner),
    max_leaves=8,
)


def loaded(folder, content):
    """A controller from bytes, which acts within its limits; None where ValueError says what is wrong with the file."""
    path = folder / "policy.safetensors"
    path.write_bytes(content)
    said = f"{path} "
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            controller = Controller.load(path)
    except ValueError as error:
        controller, said = None, str(error)
    assert said.startswith(str(path))
    assert "\n" not in said
    if controller is None:
        return None
    assert controller.interface == Interface.from_plain(json.loads(json.dumps(controller.interface.plain())))
    assert controller.policy in repr(controller)
    if controller.interface.limits is not None and controller.observation_size:
        action = controller.mode(np.ones(controller.observation_size))
        assert np.all((action >= controller.interface.limits.low) & (action <= controller.interface.limits.high))
    return controller


@settings(max_examples=300, deadline=None, derandomize=True)
@given(name=st.sampled_from(["limits", "low", "high", *list(INTERFACE)[1:], "version", "description"]), value=JSON)
def test_a_file_with_anything_in_its_description_is_read_or_refused_in_a_sentence(tmp_path_factory, name, value):
    folder = tmp_path_factory.getbasetemp()
    if name in ("low", "high"):
        content = connected(limits={**INTERFACE["limits"], name: value})
    else:
        content = connected(**{name: value}) if name in INTERFACE else describes(**{name: value})
    loaded(folder, content)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_file_with_any_bytes_changed_is_refused_in_a_sentence(tmp_path_factory, data):
    folder, content = tmp_path_factory.getbasetemp(), bytearray(signed())
    places = data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4, unique=True))
    before = bytes(content)
    for place in places:
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    assert (loaded(folder, bytes(content)) is not None) == (bytes(content) == before)


def test_what_these_tests_change_is_read_as_it_is(tmp_path):
    assert loaded(tmp_path, signed()).mode([10.0, 0.0]) == [-1.0]


def test_a_sparse_file_as_long_as_it_claims_is_not_read(tmp_path):
    path = tmp_path / "policy.safetensors"
    path.write_bytes(claims([10**12], 10**12, "BOOL"))
    os.truncate(path, path.stat().st_size + 10**12)
    with pytest.raises(ValueError, match="policy files have up to"):
        Controller.load(path)


def test_a_file_of_these_tests_is_read_where_it_has_no_fault(tmp_path):
    (tmp_path / "policy.safetensors").write_bytes(signed())
    assert Controller.load(tmp_path / "policy.safetensors").parameters["gain"][0, 1] == -0.8


def test_a_policy_that_no_file_can_hold_is_not_written(tmp_path):
    names = [f"{i:0100d}" for i in range(20_000)]
    constants = {name: np.ones(20_000) for name in ("initial", "scale", "low", "high", "log")}
    controller = Controller({"policy": "parameters", "names": names}, {"values": np.zeros(20_000)}, constants)
    with pytest.raises(ValueError, match="bytes for description"):
        controller.save(tmp_path / "policy.safetensors")
    assert list(Path(tmp_path).iterdir()) == []
