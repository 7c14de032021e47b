"""Trials on a Ray cluster: the bits of local workers, also with nodes that are lost, slow or unfit."""

import contextlib
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from policysearch import Search, evaluate, load, train
from policysearch.cli.main import main
from policysearch.core.controller import Controller
from policysearch.runners import cluster as module
from policysearch.runners.cluster import Cluster
from policysearch.runners.node import Supervisor, file_digest, installed
from policysearch.runners.pool import Workers
from policysearch.tasks import resolve
from policysearch.tasks.gymnasium_task import GymnasiumTask
from policysearch.workers.jobs import Jobs

# the nodes of these tests are started from a process with JAX; users start theirs from a shell
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")

STORE = 100 * 2**20
SOFTMAX = Controller({"policy": "softmax"}, {"weight_0": np.array([[0.1, 0.2, -0.1, 0.3], [-0.2, 0.1, 0.3, -0.1]])})
N = 24


@pytest.fixture(scope="module")
def ray_cluster():
    """A head without CPUs, and two nodes with one each, all on this machine."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # it is read when Ray is imported
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster as Started

    started, patch = Started(), pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    try:
        try:
            started.add_node(num_cpus=0, object_store_memory=STORE, include_dashboard=False)
            for name in "ab":
                started.add_node(num_cpus=1, object_store_memory=STORE, env_vars={"NODE": name})
        except Exception as error:
            pytest.skip(f"Ray cannot start here: {error} {module._raylet_log()}")
        yield started
    finally:
        started.shutdown()
        patch.undo()


@contextlib.contextmanager
def another(started, name):
    """One more node; killed at the end, if not before."""
    node = started.add_node(num_cpus=1, object_store_memory=STORE, env_vars={"NODE": name})
    try:
        yield node
    finally:
        if node in started.list_all_nodes():
            started.remove_node(node, allow_graceful=False)


def jobs(update=0):
    pair = np.arange(N) // 2
    sign = np.where(np.arange(N) % 2, -1.0, 1.0)
    return Jobs(
        controller=SOFTMAX, seed=3, update=update, environment=pair, perturbation=pair, sign=sign, stochastic=True
    )


def task(tmp_path):
    return GymnasiumTask("environments:OnNodes", horizon=500, environment_options={"folder": str(tmp_path)})


def log(tmp_path):
    """(node, process, seed) of every reset so far."""
    file = tmp_path / "log"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def until(condition, seconds=60.0):
    """Whether something becomes true."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def gone(pids):
    """Whether none of these processes runs."""
    for pid in pids:
        with contextlib.suppress(OSError):
            if "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
                return False
    return True


def digests(*given, on_update=lambda search: None, **options):
    """θ and the costs after every update, to the bit, and the events."""
    found = []
    with Search(*given, **options) as search:

        def after(record):
            found.append((np.asarray(search.policy.theta("parameter")).tobytes(), record["cost"]))
            on_update(search)

        search.run(after)
        return found, search.events


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ars", "natural_gradient"])
def test_every_update_is_that_of_local_workers(ray_cluster, method):
    given = {"budget": "4updates", "seed": 2}
    local, _ = digests("CartPole-v1", method, workers=2, **given)
    there, events = digests("CartPole-v1", method, cluster=ray_cluster.address, **given)
    assert there == local
    assert len(local) == 4
    assert not events


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ars", pytest.param("natural_gradient", marks=pytest.mark.cluster)])
def test_a_node_killed_in_mid_update_changes_no_bit_and_is_an_event(ray_cluster, tmp_path, monkeypatch, method):
    given = {"budget": "4updates", "seed": 2}
    (tmp_path / "local").mkdir()
    local, _ = digests(task(tmp_path / "local"), method, workers=2, **given)
    monkeypatch.setattr(module, "OVERDUE", np.inf)  # no other node takes over its trials before it is lost
    with another(ray_cluster, "held") as node:

        def kill():
            until(lambda: any(line[0] == "held" for line in log(tmp_path)))
            ray_cluster.remove_node(node, allow_graceful=False)

        killer = threading.Thread(target=kill)
        killer.start()
        started = lambda search: search._runner.workers.start()  # noqa: E731 (until all nodes are ready)
        there, events = digests(task(tmp_path), method, cluster=ray_cluster.address, on_update=started, **given)
        killer.join()
    assert there == local
    assert {line[0] for line in log(tmp_path)} >= {"a", "b", "held"}
    (lost,) = [event for event in events if event.kind == "node"]
    assert node.node_id[:8] in lost.reason
    assert until(lambda: gone([line[1] for line in log(tmp_path) if line[0] == "held"]))


@pytest.mark.slow
@pytest.mark.cluster
def test_what_a_slow_node_owes_is_given_to_another_and_its_late_answer_is_not_counted(ray_cluster, tmp_path):
    (tmp_path / "local").mkdir()
    with Workers(task(tmp_path / "local"), workers=1) as workers:
        first, second = workers.run(jobs()), workers.run(jobs(update=1))
    with another(ray_cluster, "held"), Cluster(task(tmp_path), ray_cluster.address) as pool:
        pool.start()
        came = pool.run(jobs())  # it would not end if its trials had to wait for that node
        held = [line[2] for line in log(tmp_path) if line[0] == "held"]
        assert held
        assert all(sum(line[2] == seed for line in log(tmp_path)) > 2 for seed in held)  # a pair is two
        (tmp_path / "release").touch()
        again = pool.run(jobs(update=1))
        assert until(lambda: pool._answers() or not pool._calls)
    for a, b in ((came, first), (again, second)):
        assert np.array_equal(a.totals, b.totals)
        assert np.array_equal(a.lengths, b.lengths)
        assert a.stages == b.stages
        assert not a.events


@pytest.mark.slow
@pytest.mark.cluster
def test_attempts_timeouts_and_lost_trials_are_those_of_local_workers(ray_cluster):
    controller = Controller(
        {"policy": "linear_gaussian", "searched": ["gain"]}, {"gain": np.zeros((2, 2)), "log_std": np.zeros(2)}
    )
    given = Jobs(controller=controller, seed=7, update=2, environment=np.arange(16))
    found = []
    for fault in ("hang", "die", "raise"):
        drift = GymnasiumTask(
            "environments:Drift", horizon=30, environment_options={"fault": fault, "share": 0.15}, timeout=20
        )
        with Workers(drift, 2, timeout=1.0) as workers:
            local = workers.run(given)
        with Cluster(drift, ray_cluster.address, timeout=1.0) as pool:
            there = pool.run(given)
        assert np.array_equal(there.totals, local.totals, equal_nan=True)
        assert np.array_equal(there.outcome, local.outcome)
        same = [[(event.trial, event.kind, event.attempt) for event in came.events] for came in (there, local)]
        assert same[0] == same[1]
        found += same[0]
    assert {kind for _, kind, _ in found} == {"timeout", "died", "raised"}


@pytest.mark.slow
@pytest.mark.cluster
def test_a_node_that_cannot_make_the_environment_is_named_with_its_error(ray_cluster, tmp_path):
    with another(ray_cluster, "broken") as node, Cluster(task(tmp_path), ray_cluster.address) as pool:
        with pytest.raises(RuntimeError, match="No module named 'simulator'") as caught:
            pool.start()
        assert node.node_id[:8] in str(caught.value)


@pytest.mark.slow
@pytest.mark.cluster
def test_without_a_node_that_can_run_trials_the_search_ends_with_what_it_has(ray_cluster, tmp_path, monkeypatch):
    with Cluster(task(tmp_path), ray_cluster.address) as pool:
        import ray

        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {}, "NodeID": "head"}])
        with pytest.raises(module.TrialsLostError, match="none has CPUs"):
            pool.run(jobs())


@pytest.mark.slow
@pytest.mark.cluster
def test_nothing_is_left_on_the_nodes_after_close(ray_cluster, tmp_path):
    with Cluster(task(tmp_path), ray_cluster.address, workers=2) as pool:
        pool.run(jobs())
        assert pool.count == 2 * len(pool._nodes) >= 4
        pids = {line[1] for line in log(tmp_path) if line[0] != "here"}
        assert pids
        assert not gone(pids)
    assert until(lambda: gone(pids))
    import ray

    assert not ray.is_initialized()


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_on_the_nodes_after_the_death_of_the_driver(ray_cluster, tmp_path, number):
    run = (
        "import sys; from policysearch import GymnasiumTask, train; "
        "train(GymnasiumTask('environments:OnNodes', horizon=500, environment_options={'folder': sys.argv[1]}), "
        "'ars', budget='1000000updates', cluster=sys.argv[2])"
    )
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    with another(ray_cluster, "held"):  # where a trial runs that does not end
        driver = subprocess.Popen(
            [sys.executable, "-c", run, str(tmp_path), ray_cluster.address],
            env=os.environ | {"PYTHONPATH": path},
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            assert until(lambda: {line[0] for line in log(tmp_path)} >= {"a", "b", "held"})
            pids = {line[1] for line in log(tmp_path)}
            assert not gone(pids)
        finally:
            driver.send_signal(number)
            driver.wait(30)
        assert until(lambda: gone(pids))


@pytest.mark.slow
@pytest.mark.cluster
def test_commands_on_a_cluster_give_the_local_policy(ray_cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)  # what auto finds on a node
    common = ["CartPole-v1", "--method", "ars", "--seed", "5", "--json"]
    found = {}
    for where, more in (("local", ["--workers", "1"]), ("there", ["--cluster", "auto"])):
        assert main(["train", *common, "--budget", "2updates", "--out", where, *more]) == 0
        assert main(["resume", where, "--budget", "4updates", "--json", *more]) == 0
        capsys.readouterr()
        assert main(["evaluate", where, "--seed", "9", "--json", *more]) == 0
        found[where] = json.loads(capsys.readouterr().out)
        compared = ["compare", "CartPole-v1", "--methods", "ars,cma", "--seeds", "1", "--budget", "120", "--json"]
        assert main([*compared, "--points", "2", "--out", f"{where}-compared", *more]) == 0
        found[where]["compared"] = json.loads(capsys.readouterr().out)["words"]
    assert found["there"] == found["local"]
    local, there = (load(Path(where, "policy.safetensors")).theta() for where in ("local", "there"))
    assert np.array_equal(local, there)
    assert json.loads(Path("there/config.json").read_text())["cluster"] == "auto"


def test_a_supervisor_refuses_a_file_that_is_missing_or_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text("from environments import Drift\n")
    sent = GymnasiumTask("mine.py:Drift", horizon=30)
    digest, versions = file_digest(sent), installed()
    file.write_text("from environments import Drift  # edited\n")
    supervisor = Supervisor(pickle.dumps(sent), [], 1, None)
    assert f"{file} is another file there" in supervisor.start(versions, digest)
    file.unlink()
    assert f"{file} is not there" in supervisor.start(versions, digest)
    sent.directory = str(tmp_path / "nowhere")
    assert "nowhere is not there" in Supervisor(pickle.dumps(sent), [], 1, None).start(versions, digest)


def test_a_supervisor_with_other_versions_says_which():
    sent = pickle.dumps(GymnasiumTask("CartPole-v1"))
    versions = installed()
    assert set(versions) >= {"Python", "policysearch", "numpy", "gymnasium"}
    said = Supervisor(sent, [], 1, None).start(versions | {"numpy": "0.1"}, "")
    assert re.search(r"numpy [\d.]+, not 0\.1", said)


def test_a_supervisor_answers_calls_for_a_batch_that_is_over_without_running_them():
    supervisor = Supervisor(pickle.dumps(GymnasiumTask("CartPole-v1")), [], 1, None)
    supervisor.begin(2)
    assert supervisor.run(1, [], [0]) is None


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'policysearch[ray]'")):
        train("CartPole-v1", "ars", budget="1updates", cluster="auto")


def test_without_a_cluster_the_error_says_how_to_start_one(tmp_path, monkeypatch, capsys):
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.chdir(tmp_path)
        assert main(["train", "CartPole-v1", "--budget", "1updates", "--cluster", address]) == 2
    said = capsys.readouterr().err
    assert address in said
    assert "ray start --head" in said


@pytest.mark.parametrize("address", ["", "here", "host:", ":6379"])
def test_an_address_is_auto_or_a_host_with_a_port(address):
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(ValueError, match="give auto, or HOST:PORT"):
        Cluster(GymnasiumTask("CartPole-v1"), address)


def test_a_cluster_is_refused_for_a_task_that_needs_no_workers():
    with pytest.raises(ValueError, match="it is for Gymnasium tasks"):
        train("bowl", budget="1updates", cluster="auto")
    with pytest.raises(ValueError, match="it is for Gymnasium tasks"):
        evaluate(resolve("bowl"), Search("bowl").policy.controller(), cluster="auto")


def test_the_end_of_the_log_of_a_raylet_is_shown_with_the_remedy_for_a_slow_agent(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert module._raylet_log() == ""
    logs = tmp_path / "ray/session_latest/logs"
    logs.mkdir(parents=True)
    (logs / "raylet.err").write_text("one\n\ntwo\nthe dashboard agent did not register\nfour\n")
    said = module._raylet_log()
    assert "two\nthe dashboard agent did not register\nfour" in said
    assert "one" not in said
    assert "--include-dashboard=false" in said
