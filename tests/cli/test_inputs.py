"""What people type, and where their folders are: one grammar an input, and what is wrong is said and leaves nothing."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from policysearch import Parameters, Rig, Specification, WeightPerturbation, open_run
from policysearch.cli.main import main
from policysearch.core import grammar
from policysearch.core.grammar import filled
from policysearch.core.initial import start
from policysearch.runs import databases

NEW = ["new", "rig", "--parameters", "kp=1.0:0:5", "--rollouts", "4", "--budget", "40"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "unused"))


@pytest.fixture
def rig(tmp_path):
    """A search whose first trial has been handed out."""
    with search_of(tmp_path / "rig") as search:
        search.ask()
    return "rig"


def search_of(folder=None):
    policy = Parameters(["kp", "kd"], [4.0, 0.5])
    method = WeightPerturbation(rollouts=4, std=1.0)
    return Rig(Specification(name="rig", repeatable=False), method, policy=policy, budget=40, folder=folder)


def said(capsys, *arguments):
    capsys.readouterr()
    assert main(arguments) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    """The error message for wrong input: one line, no traceback."""
    capsys.readouterr()
    assert main(arguments) == 2
    words = capsys.readouterr().err
    assert "Traceback" not in words
    assert words.count("\n") == 1
    assert len(words) < 600
    return words


# numbers

NUMBERS = {
    "1": 1.0,
    " 1.5 ": 1.5,
    "+.5": 0.5,
    "-2.": -2.0,
    "1e3": 1000.0,
    "1E-3": 0.001,
    "inf": math.inf,
    "-Infinity": -math.inf,
}
NO_NUMBERS = ["", "1_5", "1,5", "１", "٣", "0x10", "1e", "1 5", "--1", "1e999", "½", "1.2.3", "e5", "infinite", "1d3"]


@pytest.mark.parametrize("text", NUMBERS)
def test_a_number_is_read(text):
    assert grammar.number("x", text) == NUMBERS[text]


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_number_is_refused_in_every_place_alike(text, capsys, rig):
    for what, arguments in {
        "--cost": ["tell", rig, "0", f"--cost={text}"],
        "--failure-cost": ["new", "x", "--parameters", "kp=1", f"--failure-cost={text}"],
        "kp: its start": ["new", "x", "--parameters", f"kp={text}"],
        "kp: its upper bound": ["new", "x", "--parameters", f"kp=1:0:{text}"],
        "--scales kp": ["new", "x", "--parameters", "kp=1", "--scales", f"kp={text}"],
        "--largest-step kp": ["new", "x", "--parameters", "kp=1", "--largest-step", f"kp={text}"],
        "--std": ["new", "x", "--parameters", "kp=1", f"--std={text}"],
    }.items():
        assert f"{what} is {text!r}; " in refused(capsys, *arguments)
    Path("log.csv").write_text(f't,cost\n0,"{text}"\n')
    assert f"log.csv, line 2, column 2 (cost) is {text!r}; " in refused(
        capsys, "tell", rig, "0", "--rollout", "log.csv"
    )
    assert open_run(rig).trials[0].status == "asked"
    assert not Path("x").exists()


@pytest.mark.parametrize("text", [*NO_NUMBERS, "1.5", "1e-1", "inf", "nan", str(2**63), "1e19", "-" + str(2**70)])
def test_what_is_no_whole_number_is_refused_in_every_place_alike(text, capsys, rig):
    for what, arguments in {
        "TRIAL": ["tell", rig, "--cost=1", "--", text],
        "--seed": ["new", "x", "--parameters", "kp=1", f"--seed={text}"],
        "--rollouts": ["new", "x", "--parameters", "kp=1", f"--rollouts={text}"],
        "--measure EVERY": ["new", "x", "--parameters", "kp=1", f"--measure={text}:2"],
    }.items():
        assert f"{what} is {text!r}; " in refused(capsys, *arguments)
    assert not Path("x").exists()


@given(st.one_of(st.text(max_size=8), st.from_regex(r"[-+0-9._eE ,]{0,8}", fullmatch=True)))
@example("1_0")
@example("1e999999999")
def test_what_is_read_as_a_number_is_what_python_reads_and_every_plain_number_is(text):
    plain = re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text.strip(), re.ASCII)
    try:
        found = grammar.number("x", text)
    except ValueError:
        assert not plain or math.isinf(float(text)) or len(text) > 20
    else:
        assert plain or text.strip().lower().lstrip("+-") in ("inf", "infinity", "nan")
        assert found == float(text) or math.isnan(found)
    with contextlib.suppress(ValueError):
        assert grammar.whole("x", text) == found


# names

NAMES = ["kp", "_", "θ", "ключ", "कि", "長さ", "log", "lambda", "e1", "é"]
NO_NAMES = ["", "1kp", "k p", "k-p", "kp.x", "k\u00adp", "µ", "ﬁ", "ｋｐ", "e\u0301", "²", "😀", "a\ud800"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_any_script_works_in_every_place(name, capsys):
    text = f"{name}=1:0:5"
    folder = f"rig-{name}"
    said(capsys, "new", folder, "--parameters", text, "--scales", f"{name}=0.5", "--largest-step", f"{name}=1")
    trial = json.loads(said(capsys, "ask", folder))
    assert filled([f"--{name}={{{name}}}"], trial["values"]) == [f"--{name}={trial['values'][name]!r}"]
    said(capsys, "tell", folder, "0", "--cost", "1")
    assert name in said(capsys, "status", folder)
    policy = Parameters([name], [1.0], bounds={name: (0.0, 5.0)})
    assert start(policy, {name: 2.0}).values()[name] == 2.0
    Path("initial.json").write_text(json.dumps({name: 3.0}), encoding="utf-8")
    assert start(policy, "initial.json").values()[name] == 3.0


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_is_refused_in_every_place(name, capsys):
    assert "is named" in refused(capsys, "new", "x", "--parameters", f"{name}=1")
    with pytest.raises(ValueError, match="is named"):
        Parameters([name], [1.0])
    assert not Path("x").exists()


def test_braces_are_filled_by_name_and_by_nothing_else():
    values = {"kp": 1.5, "θ": np.float64(2.0)}
    assert filled(["{kp}", "-{θ}-{kp}", '{"a": {kp}}', "{}", "{ print $1 }", "{1}"], values) == [
        "1.5",
        "-2.0-1.5",
        '{"a": 1.5}',
        "{}",
        "{ print $1 }",
        "{1}",
    ]
    for text in ("{ki}", "{ключ}", "{KP}"):
        with pytest.raises(ValueError, match="is not a parameter; the parameters are kp, θ"):
            filled([text], values)
    for text in ("{kp:.3f}", "{ kp }", "{kp!r}", "{kp.real}"):
        with pytest.raises(ValueError, match=r"has more than a name; write \{kp\}"):
            filled([text], values)


# parameters


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kp=4:0.1:100:Log", "what follows the bounds is 'Log'; it must be log"),
        ("kp=4:0.1:100:LOG", "it must be log"),
        ("kp=4:0.1:100:lgo", "it must be log"),
        ("kp=4:0.1:100:", "what follows the bounds is ''; it must be log, for a logarithmic scale, or be left out"),
        ("kp=4:0.1:100:int", "Whole numbers are not searched: let the trial round"),
        ("kp=4:0.1:100:log:log", "must look like NAME=INITIAL"),
        ("kp=4:log", "must look like NAME=INITIAL"),
        ("kp=1:0", "must look like NAME=INITIAL"),
        ("kp", "must look like NAME=INITIAL"),
        ("kp:1", "must look like NAME=INITIAL"),
        ("kp=1:5:0", "its lower bound 5 is not below its upper bound 0"),
        ("kp=1:1:1", "its lower bound 1 is not below its upper bound 1"),
        ("kp=9:0:5", "starts at 9, outside its bounds (0, 5)"),
        ("kp=nan", "its start is nan"),
        ("kp=inf", "its start is inf"),
        ("kp=1:nan:5", "its lower bound is nan"),
        ("kp=1:0:nan", "its upper bound is nan"),
        ("kp=1:-1:5:log", "which has no -1; bound it above 0"),
        ("kp=1:0:5:log", "which has no 0; bound it above 0"),
        ("kp=0:-1:5:log", "starts at 0; start above 0"),
        ("kp=1::5", "its lower bound is ''"),
        ("kp=1e300", "out of range for float32"),
    ],
)
def test_a_parameter_that_is_none_is_refused_with_what_is_allowed(text, words, capsys):
    assert words in refused(capsys, "new", "x", "--parameters", text)
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--parameters", "kp=1", "kp=2"], "must be distinct"),
        (["--parameters", "kp=1", "--parameters", "kp=2"], "must be distinct"),
        (["--parameters", "kp", "=", "1"], "'kp' is not a parameter"),
        (["--parameters", "kp=1", "--scales", "kp=1", "kp=2"], "--scales gives kp twice"),
        (["--parameters", "kp=1", "--scales", "kp=1", "--scales", "kp=2"], "--scales gives kp twice"),
        (["--parameters", "kp=1", "--scales", "KP=1"], "'KP' is not a known parameter"),
        (["--parameters", "kp=1", "--scales", "kp"], "must look like kp=0.5"),
        (["--parameters", "kp=1", "--scales", "kp=0"], "scale positive"),
        (["--parameters", "kp=1", "--scales", "kp=nan"], "scale positive"),
        (["--parameters", "kp=1", "--largest-step", "kp=inf"], "must be an amount above 0"),
        (["--parameters", "kp=1", "--measure", "²:2"], "--measure EVERY is '²'"),
        (["--parameters", "kp=1", "--measure", "5"], "must look like 5:4"),
    ],
)
def test_what_is_said_of_parameters_twice_or_wrongly_is_refused(more, words, capsys):
    assert words in refused(capsys, "new", "x", *more)
    assert not Path("x").exists()


def test_parameters_may_be_given_in_parts_and_with_spaces(capsys):
    said(capsys, "new", "x", "--parameters", "kp = 1 : 0 : 5", "--parameters", "kd=2:1:inf:log", "--scales", "kp = 2")
    assert json.loads(said(capsys, "status", "x", "--json"))["parameters"] == {"kp": 1.0, "kd": 2.0}


WORDS = st.sampled_from(["", "log", "Log", "int", "0", "1", "-1", "5", "nan", "inf", "-inf", "1_0", "１", " 2 ", "1e3"])
TYPED = st.one_of(
    st.builds(
        lambda name, words: f"{name}={':'.join(words)}",
        st.sampled_from([*NAMES, *NO_NAMES, "kp ", " kp"]),
        st.lists(WORDS, max_size=5),
    ),
    st.text(max_size=12),
)


@given(TYPED)
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_parameter_that_the_shell_takes_is_one_that_python_takes_with_the_same_numbers(text):
    try:
        found = grammar.parameter(text)
    except ValueError:
        return
    policy = Parameters(
        [found.name], [found.initial], bounds={found.name: (found.low, found.high)}, log=[found.name] * found.log
    )
    # the plainest reading: the name, then numbers between colons, then perhaps log
    name, rest = text.split("=")
    words = [word.strip() for word in rest.split(":")]
    log = words[-1] == "log"
    numbers = [float(word) for word in words[: len(words) - log]]
    assert found.name == name.strip()
    assert found.log == log
    assert [found.initial, found.low, found.high][: len(numbers)] == numbers
    assert policy.values()[found.name] == pytest.approx(found.initial, rel=1e-6)
    assert filled([f"{{{found.name}}}"], {found.name: 2.0}) == ["2.0"]


@given(
    trial=st.one_of(st.integers(-3, 3).map(str), st.text(max_size=5), st.sampled_from(["1e0", "0.0", str(2**63)])),
    outcome=st.one_of(
        st.tuples(
            st.just("--cost"), st.one_of(st.floats().map(repr), st.text(max_size=5), st.sampled_from(NO_NUMBERS))
        ),
        st.tuples(st.sampled_from(["--failed", "--lost", "--abandoned"]), st.text(max_size=5)),
    ),
    more=st.lists(st.sampled_from(["--retry", "--json", "--notes=\ud800", "--notes=é"]), max_size=2, unique=True),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_told_is_taken_as_it_reads_or_refused_in_a_line(capsys, tmp_path, trial, outcome, more):
    folder = tmp_path / "fuzzed"
    shutil.rmtree(folder, ignore_errors=True)
    with search_of(folder) as search:
        search.ask()
    flag, value = outcome
    capsys.readouterr()
    code = main(["tell", str(folder), f"{flag}={value}", *more, "--", trial])
    err = capsys.readouterr().err
    assert "Traceback" not in err
    kept = open_run(folder).trials[0]
    if code == 2:
        assert err.startswith("policysearch: ")
        assert kept.status == "asked"
        return
    assert code == 0
    assert float(trial) == 0
    if flag == "--cost":
        cost = float(value)
        assert (kept.status, kept.cost) == (("done", cost) if math.isfinite(cost) else ("failed", None))
        assert set(value.strip().lower()) <= set("0123456789.e+-infatynty")
    else:
        assert (kept.status, kept.reason) == (flag[2:], value.encode("utf-8", "backslashreplace").decode())


# rows that cannot be read back


@pytest.mark.parametrize("client", [5, None, b"a", "\ud800", ["a"], float("nan"), True])
def test_a_client_that_is_no_name_is_refused_and_nothing_is_written(client, tmp_path):
    with search_of(tmp_path / "rig") as search:
        with pytest.raises(ValueError, match=r"client is .*; it must be a name"):
            search.ask(client)
        assert search.pending == []
        assert search.ask("bench 1").number == 0
    assert [trial.client for trial in open_run(tmp_path / "rig").trials.values()] == ["bench 1"]


@pytest.mark.parametrize("words", ["", "a\0b", "\ud800", "é" * 10_000, 5, None, np.str_("x"), OSError("cable"), 2**70])
def test_words_of_any_kind_are_kept_and_the_run_can_be_read(words, tmp_path):
    with search_of(tmp_path / "rig") as search:
        search.tell(search.ask(np.str_("bench")), failed=words if words is not None else "None", notes=words)
        search.halt(words or "why")
        search.release(by=words)
    with Rig.open(tmp_path / "rig") as search:
        assert search.halted == ""
        kept = open_run(tmp_path / "rig").trials[0]
        assert kept.reason == kept.notes == str(words).encode("utf-8", "backslashreplace").decode()
        assert search.ask("bench").number == 1


@pytest.mark.parametrize("cost", ["1", "1_0", b"1", True, [1.0, 2.0], {}, 10**400, object()])
def test_a_cost_that_is_no_number_is_refused_and_nothing_is_written(cost, tmp_path):
    with search_of(tmp_path / "rig") as search:
        trial = search.ask()
        with pytest.raises(ValueError, match=r"cost is .*; it must be a number"):
            search.tell(trial, cost=cost)
        search.tell(trial, cost=np.float32(2.0))
    assert open_run(tmp_path / "rig").trials[0].cost == 2.0


@pytest.mark.parametrize("trial", [-1, 2**63, 2**70, 1.0, "0", None, True, np.float64(0)])
def test_a_trial_number_that_is_none_is_refused(trial, tmp_path):
    with search_of(tmp_path / "rig") as search:
        search.ask()
        with pytest.raises(ValueError, match=r"trial is .*; give what ask\(\) returned"):
            search.tell(trial, cost=1.0)
        with pytest.raises(ValueError, match="retry is 'no'"):
            search.tell(np.int64(0), lost="x", retry="no")
        search.tell(np.int64(0), cost=1.0)


def test_settings_of_numpy_are_written_as_numbers_and_what_cannot_be_is_refused_and_leaves_nothing(tmp_path):
    rig, policy = Specification(name="rig", repeatable=False), Parameters(["kp"], [1.0])
    options = {"policy": policy, "budget": 40}
    with Rig(rig, "ars", **options, failure_cost=np.float64(2.0), folder=tmp_path / "run"):
        assert open_run(tmp_path / "run").configuration["failure_cost"] == 2.0
    odd = Specification(name="rig\ud800", repeatable=False)
    with pytest.raises(ValueError, match=r"This cannot be recorded \(configuration\).*Nothing was written"):
        Rig(odd, "ars", **options, folder=tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


# places


def policysearch(first, *arguments, cwd):
    """The command as a process of its own, after another one of the shell; its exit code and what it said."""
    command = ["sh", "-c", f'{first} && exec "$@"', "sh", sys.executable, "-m", "policysearch", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip()


@contextlib.contextmanager
def small_disk(place):
    """A file system of 64 kB."""
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "x", place], check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@contextlib.contextmanager
def read_only(place):
    """A folder in which nothing can be written."""
    if os.geteuid():
        place.chmod(0o555)
        try:
            yield
        finally:
            place.chmod(0o755)
        return
    if subprocess.run(["mount", "--bind", "-o", "ro", place, place], check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def test_on_a_full_disk_new_says_so_leaves_nothing_and_works_once_there_is_room(tmp_path, capsys):
    with small_disk(tmp_path / "disk") as disk:
        folder, ballast = disk / "a" / "rig", disk / "ballast"
        for size in (64, 56, 48, 40, 24):
            ballast.write_bytes(bytes(1024 * size))
            words = refused(capsys, NEW[0], str(folder), *NEW[2:])
            assert "full" in words
            assert str(disk / "a") in words
            assert [path.name for path in disk.iterdir()] == ["ballast"]
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        said(capsys, NEW[0], str(folder), *NEW[2:])


def test_a_disk_that_is_full_while_a_run_is_opened_leaves_no_lock_in_this_process(tmp_path, capsys):
    with small_disk(tmp_path / "disk") as disk:
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        with search_of(disk / "rig") as search:
            search.ask()
        with (disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(512))
        for _ in range(2):
            with pytest.raises(OSError, match=r"full|No space"):
                Rig.open(disk / "rig")
        assert "full" in refused(capsys, "ask", str(disk / "rig"))
        (disk / "ballast").unlink()
        with Rig.open(disk / "rig") as search:
            assert search.ask().number == 0


@pytest.mark.parametrize("blocks", [0, 2, 8, 40])
def test_where_files_may_not_grow_new_says_so_and_leaves_nothing(tmp_path, blocks):
    code, words = policysearch(f"ulimit -f {blocks}", NEW[0], "a/rig", *NEW[2:], cwd=tmp_path)
    assert code == 2
    assert "a/rig" in words
    assert not (tmp_path / "a").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "closed").mkdir()
    shutil.copytree(Path(policy_of(tmp_path)), tmp_path / "closed" / "rig")
    with read_only(tmp_path / "closed"):
        for command in (["ask"], ["tell", "0", "--cost", "1"], ["resume"]):
            words = refused(capsys, command[0], "closed/rig", *command[1:])
            assert "closed/rig/run.lock" in words
            assert "read-only" in words or "permissions" in words
        words = refused(capsys, NEW[0], "closed/new", *NEW[2:])
        assert "closed/new" in words
        assert "trials: 1 asked" in said(capsys, "status", "closed/rig")


def policy_of(tmp_path):
    with search_of(tmp_path / "made") as search:
        search.ask()
    return tmp_path / "made"


def test_a_killed_run_in_a_place_that_cannot_be_written_is_read_whole(tmp_path, capsys):
    (tmp_path / "closed").mkdir()
    with search_of(tmp_path / "live") as search:
        for _ in range(3):
            search.tell(search.ask(), cost=1.0)
        shutil.copytree(
            tmp_path / "live", tmp_path / "closed" / "rig", ignore=shutil.ignore_patterns("*-shm", "*.lock")
        )
    assert (tmp_path / "closed" / "rig" / "run.sqlite-wal").stat().st_size
    with read_only(tmp_path / "closed"):
        assert "trials: 3 done" in said(capsys, "status", "closed/rig")
        before = sorted(path.name for path in (tmp_path / "closed" / "rig").iterdir())
    assert "run.sqlite-shm" not in before


def test_a_working_directory_that_was_deleted_is_said_to_be(tmp_path):
    place = tmp_path / "gone"
    place.mkdir()
    code, words = policysearch("rmdir ../gone", *NEW, cwd=place)
    assert (code, words) == (
        2,
        "policysearch: the working directory was deleted; change to one that exists (cd), and try again.",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tell", "rig", "0", "--rollout", "no.csv"], "no.csv cannot be used: there is no such file or folder"),
        (["tell", "rig", "0", "--rollout", "."], ". cannot be used: it is a folder; give a file"),
        (["new", "file/rig", "--parameters", "kp=1"], "file"),
        (["new", "x" * 300, "--parameters", "kp=1"], "the name is too long"),
        (["status", "file"], "no folder file"),
    ],
)
def test_a_file_that_is_none_is_named_with_what_to_do(arguments, words, capsys, rig):
    Path("file").write_text("")
    assert words in refused(capsys, *arguments)


def test_debug_shows_where_an_error_of_the_system_came_from(capsys, rig):
    assert main(["tell", rig, "0", "--rollout", "no.csv", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_terminal_that_lacks_the_letters_of_a_name_gets_them_spelled_out(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "policysearch", "new", "rig", "--parameters", "θ=1"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"of \\u03b8," in done.stdout


def test_errors_of_the_disk_are_no_damage(tmp_path):
    """A folder of another user, or on a disk that fails."""
    for code, words in ((13, "its disk is full"), (10, "reports an error"), (5, "keeps it busy")):
        error = sqlite3.OperationalError("whatever")
        error.sqlite_errorcode = code
        with pytest.raises(OSError, match=words), databases.explained(tmp_path / "run.sqlite"):
            raise error
    with search_of(tmp_path / "rig") as search:
        search.ask()
    with pytest.raises(RuntimeError, match="was closed by this process; open the run again"):
        search.ask()
