"""`Cluster`: n trials on the nodes of a running Ray cluster, on each a supervisor of worker processes. No JAX.

Blocks, timeouts and second attempts are those of `pool`; where a trial runs changes no bit of its result.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from policysearch.runners.node import Supervisor, file_digest, installed
from policysearch.runners.pool import LOST_LIMIT, TrialsLostError, Workers, blocks, check_fit, written
from policysearch.tasks.gymnasium_task import GymnasiumTask
from policysearch.workers.jobs import Episode, Event, HostRollouts, Jobs, gather
from policysearch.workers.worker import ATTEMPTS

INSTALL_RAY = "pip install 'policysearch[ray]'"
#: seconds in which the address of a cluster must answer, and a supervisor must have closed its environments
ANSWER, CLOSING = 5.0, 5.0
#: a block is given to an idle node as well once it takes this many times what others needed for as many trials
OVERDUE = 2.0
#: characters of an error of Ray in an event
SAID = 300
#: calls of this group are answered while trials run
_CONTROL = "control"


class _Node:
    """A node as the driver sees it: starting, or ready."""

    def __init__(self, found: dict[str, Any], actor: Any, count: int):
        self.id = found["NodeID"]
        self.name = f"{found['NodeManagerHostname']} ({found['NodeManagerAddress']}, {self.id[:8]})"
        self.actor, self.count = actor, count
        self.ready = False


class _Call:
    """What a node was asked and has not answered: the trials of a batch, or to start (no trials)."""

    def __init__(self, node: _Node, number: int, trials: list[int]):
        self.node, self.number, self.trials = node, number, trials
        self.since = time.monotonic()


class Cluster:
    """The workers of all nodes of a running Ray cluster for one task; see `Workers`.

    A node that is lost is an event, and its trials go to others. At the end of a batch idle nodes are given what
    others owe for long; the first result counts, and they are equal. Nodes that join take part from the next batch on.

    Args:
        task: what they run.
        address: "auto" for the cluster that this machine is in, or "HOST:PORT".
        workers: processes on each node; by default as many as its CPUs in Ray. Nodes without CPUs take no part.
        timeout: see `Workers`.

    Raises:
        ImportError: Ray is not installed.
        ValueError: a number is out of range, or this process is connected to another cluster.
        ConnectionError: no cluster runs there.

    References:
        Dean & Ghemawat 2004, MapReduce, section 3.6, for what idle nodes do.
    """

    def __init__(self, task: GymnasiumTask, address: str, workers: int | None = None, timeout: float | None = None):
        Workers(task, workers, timeout)  # the same checks
        self.task = task
        self._workers, self._timeout = workers, timeout
        self._lost_in_a_row = self._number = 0
        self._nodes: dict[str, _Node] = {}
        self._calls: dict[Any, _Call] = {}
        self._tried: dict[str, int] = {}
        self._events: list[Event] = []
        self._address = address
        self._joined: bool | None = None
        self._join()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def count(self) -> int:
        """Worker processes on all nodes that are there."""
        return sum(node.count for node in self._nodes.values())

    def start(self, wait: bool = True) -> None:
        """Start a supervisor on each node.

        Args:
            wait: until each has made its environments; otherwise the ones that are ready take the first jobs.

        Raises:
            RuntimeError: no node takes part, or one could not make the environment; the message names it.
        """
        try:
            self._muster()
            while wait and any(not node.ready for node in self._nodes.values()):
                self._answers()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all that runs on the nodes, and leave the cluster if `Cluster` joined it."""
        nodes, self._nodes, self._calls, self._tried = list(self._nodes.values()), {}, {}, {}
        joined, self._joined = self._joined, None
        if joined is None or not _initialised():
            return
        import ray

        closing = [node.actor.close.options(concurrency_group=_CONTROL).remote() for node in nodes if node.ready]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSING)
        for node in nodes:
            ray.kill(node.actor)
        if joined:
            _leave()

    def run(self, jobs: Jobs) -> HostRollouts:
        """Run all trials of some jobs; see `Workers.run`.

        Raises:
            ValueError: the controller does not fit the task.
            RuntimeError: a node cannot make the environment.
            TrialsLostError: too many trials in a row were lost, or all nodes.
        """
        check_fit(self.task, jobs.controller)
        try:
            return self._run(jobs)
        except BaseException:
            self.close()
            raise

    def _join(self) -> None:
        if self._joined is None:
            self._joined = _connected(self._address)

    def _muster(self) -> None:
        """Start a supervisor on each node that has none, unless it lost as many as a trial has attempts."""
        import ray

        self._join()
        remote: Any = ray.remote  # whose types lack this option
        actor = remote(concurrency_groups={_CONTROL: 1})(Supervisor)
        for found in ray.nodes():
            cpus = int(found["Resources"].get("CPU", 0)) if found["Alive"] else 0
            name = found["NodeID"]
            if not cpus or name in self._nodes or self._tried.get(name, 0) >= ATTEMPTS:
                continue
            self._tried[name] = self._tried.get(name, 0) + 1
            count = self._workers or cpus
            made = actor.options(
                num_cpus=0,
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=count,
                scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(name, soft=False),
            ).remote(pickle.dumps(self.task), [os.path.abspath(place) for place in sys.path], count, self._timeout)
            node = self._nodes[name] = _Node(found, made, count)
            self._calls[made.start.remote(installed(), file_digest(self.task))] = _Call(node, 0, [])
        if not self._nodes:
            raise TrialsLostError(
                f"No node of the cluster can run trials{self._last()}. Add one, ray start --address=HOST:PORT, and "
                f"continue; ray status lists what is there.{_raylet_log()}",
                self._events,
            )

    def _last(self) -> str:
        return f"; the last one: {self._events[-1].reason}" if self._events else ": none has CPUs"

    def _run(self, jobs: Jobs) -> HostRollouts:
        import ray

        self._events = []
        self._muster()
        self._number += 1
        message = ray.put(written(jobs, self.task))
        for node in self._nodes.values():
            node.actor.begin.options(concurrency_group=_CONTROL).remote(self._number)
        waiting = blocks(jobs, self.count)
        episodes: dict[int, Episode | None] = {}
        paces: list[float] = []
        while len(episodes) < len(jobs):
            if not self._nodes:
                self._muster()
            for node in self._nodes.values():
                while node.ready and (trials := self._next(node, waiting, episodes, paces)):
                    self._calls[node.actor.run.remote(self._number, [message], trials)] = _Call(
                        node, self._number, trials
                    )
            for call, answer in self._answers():
                owed = [trial for trial in call.trials if trial not in episodes]
                if call.number != self._number:
                    continue
                if answer is None:  # the node was lost
                    held = {trial for other in self._open() for trial in other.trials}
                    waiting.extendleft([trial] for trial in reversed(owed) if trial not in held)
                    continue
                paces.append((time.monotonic() - call.since) / len(call.trials))
                found, events = answer
                self._events += [event for event in events if event.trial in owed or event.trial < 0]
                for trial in owed:
                    episodes[trial] = found[trial]
                    self._count_lost(found[trial])
        ordered = [episodes[trial] for trial in range(len(jobs))]
        return gather(ordered, self._events, self.task.specification.observation_size)

    def _open(self) -> list[_Call]:
        return [call for call in self._calls.values() if call.number == self._number]

    def _next(
        self, node: _Node, waiting: deque[list[int]], episodes: dict[int, Episode | None], paces: list[float]
    ) -> list[int]:
        """The block that a node is given next: one that waits, or what another node owes for too long; [] for none."""
        # a call of an earlier batch holds a worker too
        holds = sum(call.node is node for call in self._calls.values() if call.trials)
        if waiting:
            return waiting.popleft() if holds < node.count * (2 if len(waiting) > self.count else 1) else []
        if holds >= node.count or not paces:
            return []
        typical, now, calls = sum(paces) / len(paces), time.monotonic(), self._open()
        mine = {trial for call in calls if call.node is node for trial in call.trials}
        for call in calls:
            owed = [trial for trial in call.trials if trial not in episodes]
            twice = sum(bool(set(owed) & set(other.trials)) for other in calls) > 1
            late = now - call.since > OVERDUE * typical * len(call.trials)
            if owed and late and not twice and mine.isdisjoint(owed):
                return owed
        return []

    def _answers(self) -> list[tuple[_Call, Any]]:
        """New answers to calls for trials, None where the node was lost; returns within a second."""
        import ray

        done, _ = ray.wait(list(self._calls), num_returns=1, timeout=0.1)
        also, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0) if done else ([], [])
        heard: list[tuple[_Call, Any]] = []
        for reference in also:
            call = self._calls.get(reference)
            if call is None:  # of a node that was lost
                continue
            try:
                answer = ray.get(reference)
            except ray.exceptions.RayError as error:
                heard += self._bury(call.node, error)
                continue
            del self._calls[reference]
            if isinstance(answer, str) and answer:
                raise RuntimeError(f"Node {call.node.name} cannot run {self.task.environment}: {answer}")
            if call.trials and answer is not None:
                heard.append((call, answer))
            call.node.ready = True
        return heard

    def _bury(self, node: _Node, error: Exception) -> list[tuple[_Call, None]]:
        """Take leave of a node, with an event; its open calls."""
        import ray

        said = " ".join(str(error).split())
        if isinstance(error, ray.exceptions.RayTaskError) or getattr(error, "actor_init_failed", False):
            raise RuntimeError(f"Node {node.name} cannot run {self.task.environment}: {said}")
        del self._nodes[node.id]
        open_calls = {reference: call for reference, call in self._calls.items() if call.node is node}
        for reference in open_calls:
            del self._calls[reference]
        with contextlib.suppress(Exception):
            ray.kill(node.actor)
        owed = sum(len(call.trials) for call in open_calls.values() if call.number == self._number)
        if node.ready or self._tried[node.id] == 1:  # Ray may still list it, and a second supervisor then fails too
            reason = f"node {node.name} was lost; {owed} trials go to others. Ray says: {said[:SAID]}"
            self._events.append(Event(-1, "node", reason, "", 1))
        return [(call, None) for call in open_calls.values()]

    def _count_lost(self, episode: Episode | None) -> None:
        self._lost_in_a_row = self._lost_in_a_row + 1 if episode is None else 0
        if self._lost_in_a_row >= LOST_LIMIT:
            count, self._lost_in_a_row = self._lost_in_a_row, 0
            raise TrialsLostError(
                f"{count} trials of {self.task.environment} in a row were lost; the last one: "
                f"{self._events[-1].reason}.",
                self._events,
            )


#: how many `Cluster` use the connection that the first of them made
_users = 0


def _initialised() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _leave() -> None:
    """Disconnect with the last user."""
    global _users
    import ray

    _users -= 1
    if _users <= 0:
        ray.shutdown()


def _connected(address: str) -> bool:
    """Connect this process to a running cluster; False if it was connected already, by other code."""
    global _users
    # started by `uv run`, Ray would copy the working directory to each node and install everything there anew
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
    except ImportError:
        raise ImportError(f"A cluster needs Ray: {INSTALL_RAY}, on each node.") from None
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdecimal()):
        raise ValueError(f"cluster is {address!r}; give auto, or HOST:PORT as ray start --head shows it.")
    if ray.is_initialized():
        here = ray.get_runtime_context().gcs_address
        if address not in ("auto", here):
            raise ValueError(f"cluster is {address!r}; this process is connected to {here} already.")
        _users += bool(_users)
        return bool(_users)
    if address != "auto":
        try:
            socket.create_connection((host, int(port)), ANSWER).close()  # Ray itself would try for minutes
        except OSError as error:
            raise ConnectionError(f"No Ray cluster answers at {address}: {error}. {_start_one()}") from None
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        # what environments print is in Ray's logs on their nodes; Ray would mix it into standard output here
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        said = " ".join(str(error).split())
        raise ConnectionError(f"No Ray cluster to connect to: {said} {_start_one()}{_raylet_log()}") from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)  # Ray's own would end a search in mid-update
    _users = 1
    return True


def _start_one() -> str:
    return (
        "Start one with: ray start --head. Every other node, and a machine that only drives, joins with: "
        "ray start --address=HOST:PORT (--num-cpus=0 where no trials shall run). Nothing was run or lost."
    )


def _raylet_log() -> str:
    """The last words of this machine's raylet, Ray's process on each node, if it left any."""
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray/session_latest/logs/raylet.err")
    try:
        lines = [line for line in file.read_text(errors="replace").splitlines() if line.strip()][-3:]
    except OSError:
        return ""
    if not lines:
        return ""
    said = f"\nThe end of {file}:\n" + "\n".join(lines)
    if "agent" in said:
        said += (
            "\nAn agent of Ray had failed or not answered in time, as on a slow disk or a busy machine; its log is "
            "beside this file. Start again: ray start … --include-dashboard=false"
        )
    return said
