"""Asks, tells, retries, crashes and openings in any order: each result is used and counted exactly once."""

from __future__ import annotations

import itertools
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from policysearch import Parameters, Rig, Specification, WeightPerturbation, open_run
from policysearch.runs.inbox import Inbox, Message

RIG = Specification(name="servo", repeatable=False)
METHOD = WeightPerturbation(rollouts=4, std=1.0)
OUTCOMES = st.sampled_from(["cost", "failed", "lost", "abandoned", "timed_out"])


def started(folder=None):
    return Rig(RIG, METHOD, policy=Parameters(["kp", "kd"], [4.0, 0.1]), measure=(2, 2), folder=folder)


def said(outcome, trial):
    """What is told of a trial: a function of the two."""
    return {outcome: trial.values["kp"] ** 2 + trial.number if outcome == "cost" else f"because of {trial.number}"}


class RigStates(RuleBasedStateMachine):
    """A search in a folder, and a model of it: what was told last of each trial.

    out: trials that were handed out and not told, by number. final: number → outcome and trial, of those that count.
    old: attempts that were given up. again: numbers of trials that are to be asked once more. clients: who asked what
    is out. unclaimed: what is out and was asked by nobody in particular before the search was opened.
    """

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.copies = itertools.count()
        self.out, self.final, self.old, self.again = {}, {}, [], set()
        self.clients, self.unclaimed = {}, set()

    @initialize()
    def begin(self):
        self.search = started(self.root / "run")
        self.folder = self.root / "run"

    def told(self, trial, outcome, retry):
        del self.out[trial.number]
        if retry:
            self.old.append(trial)
            self.again.add(trial.number)
        else:
            self.final[trial.number] = (outcome, trial)

    @rule(clients=st.lists(st.sampled_from(["", "", "bench"]), min_size=1, max_size=4))
    def ask_some(self, clients):
        for client in clients:
            self.ask(client)

    def ask(self, client):
        try:
            trial = self.search.ask(client)
        except RuntimeError:  # all are out
            assert len(self.out) + len(self.final) >= 4
            assert self.out
            return
        before = self.out.get(trial.number)
        assert trial.number not in self.final
        if before is not None:  # its own again, or one that nobody claimed before a crash
            assert (client and self.clients[trial.number] == client) or trial.number in self.unclaimed
            self.unclaimed.discard(trial.number)
            assert (before.attempt, before.values) == (trial.attempt, trial.values)
        elif trial.number in self.again:
            self.again.remove(trial.number)
            assert trial.attempt > 1
        else:
            assert trial.attempt == 1
        self.out[trial.number] = trial
        if before is None:
            self.clients[trial.number] = client

    @precondition(lambda self: self.out)
    @rule(data=st.data(), outcome=OUTCOMES, retry=st.booleans(), by_number=st.booleans(), twice=st.booleans())
    def tell(self, data, outcome, retry, by_number, twice):
        trial = self.out[data.draw(st.sampled_from(sorted(self.out)))]
        retry = retry and outcome not in ("cost", "failed")
        updates = self.search.updates
        given = said(outcome, trial) | {"retry": retry}
        self.search.tell(trial.number if by_number else trial, **given)
        self.told(trial, outcome, retry)
        if twice and not retry:
            theta = np.asarray(self.search.policy.theta())
            now = self.search.updates
            self.search.tell(trial, **given)
            assert self.search.updates == now <= updates + 1
            assert np.array_equal(np.asarray(self.search.policy.theta()), theta)

    @rule(retry=st.booleans())
    def fill(self, retry):
        """Tell what is left of the update, the last trial perhaps as lost and to be asked again."""
        updates = self.search.updates
        for _ in range(40):
            if not self.out:
                self.ask("")
            trial = self.out[min(self.out)]
            last = len(self.search.pending) == 1 and len(self.final) + 1 - self.search.rollouts == self.size()
            given = {"lost": "cable", "retry": True} if retry and last else said("cost", trial)
            self.search.tell(trial, **given)
            self.told(trial, "cost", retry and last)
            if retry and last:
                assert self.search.updates == updates
            if last:
                return
        raise AssertionError("an update has no end")

    def size(self):
        """Trials of the update that is open."""
        return self.search.layout.size + self.search.measuring.size(self.search.updates)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), outcome=OUTCOMES)
    def leave(self, data, outcome):
        """Somebody else tells it; the owner takes it with the next thing that it does."""
        trial = self.out[data.draw(st.sampled_from(sorted(self.out)))]
        message = Message(trial=trial.number, attempt=trial.attempt, given=said(outcome, trial))
        Inbox(self.folder).leave(message)
        assert trial.number not in [waiting.number for waiting in self.search.pending]
        self.told(trial, outcome, False)

    @precondition(lambda self: self.final)
    @rule(data=st.data())
    def tell_something_else(self, data):
        _, trial = self.final[data.draw(st.sampled_from(sorted(self.final)))]
        with pytest.raises(ValueError, match="told already"):
            self.search.tell(trial, cost=-1.0)

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def tell_an_old_attempt(self, data):
        trial = data.draw(st.sampled_from(self.old))
        with pytest.raises(ValueError, match=r"asked again|told already"):
            self.search.tell(trial, cost=-1.0)

    @rule()
    def tell_a_trial_that_was_never_asked(self):
        with pytest.raises(ValueError, match="is not open"):
            self.search.tell(10_000, cost=1.0)

    @rule()
    def crash(self):
        """The files as kill -9 leaves them, opened again."""
        folder = self.root / f"copy{next(self.copies)}"
        shutil.copytree(self.folder, folder)
        self.search.close()
        self.search, self.folder = Rig.open(folder), folder
        self.unclaimed = {number for number in self.out if not self.clients[number]}

    @rule()
    def reopen(self):
        self.search.close()
        self.search = Rig.open(self.folder)
        self.unclaimed = {number for number in self.out if not self.clients[number]}

    @invariant()
    def all_that_was_told_is_there_once(self):
        if not hasattr(self, "search"):
            return
        assert {trial.number for trial in self.search.pending} == set(self.out)
        assert self.search.updates == len(self.search.records)

    def teardown(self):
        if not hasattr(self, "search"):
            return
        while self.out or self.again or len(self.final) != self.search.rollouts:
            trial = next(iter(self.out.values()), None)
            if trial is None:
                self.ask("")
                continue
            self.search.tell(trial, **said("cost", trial))
            self.told(trial, "cost", False)
        self.search.close()
        kept = open_run(self.folder).trials
        assert {number: trial.status.replace(" ", "_") for number, trial in kept.items()} == {
            number: "done" if outcome == "cost" else outcome for number, (outcome, _) in self.final.items()
        }
        # a search that is told the same, in order and without a crash, is at the same parameters to the bit
        plain, counts = started(), dict(self.search.counts)
        for number in sorted(self.final):
            outcome, _ = self.final[number]
            trial = plain.ask()
            assert trial.number == number
            plain.tell(trial, **said(outcome, trial))
        assert np.array_equal(np.asarray(plain.policy.theta()), np.asarray(self.search.policy.theta()))
        assert plain.counts == counts
        assert sum(counts[name] for name in ("gradient", "evaluation")) == len(self.final)
        assert all(math.isfinite(value) for value in self.search.policy.values().values())
        shutil.rmtree(self.root)


RigStates.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None, derandomize=True)
TestTrialStates = RigStates.TestCase
