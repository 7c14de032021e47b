"""Processes that end at any moment: nothing acknowledged is lost, and the search ends with the same policy."""

from __future__ import annotations

import pytest

from policysearch import Search
from policysearch.journal import Journal
from test_trials import digest, finish, servo


class StopError(Exception):
    """Ends a process, as far as its files are concerned."""


@pytest.mark.parametrize("update", [1, 6])
def test_an_update_whose_policy_file_was_not_written_gets_it_when_the_search_is_opened(tmp_path, monkeypatch, update):
    """Cut between the row of an update, the last one of the search among them, and its policy file."""
    with monkeypatch.context() as patched, servo(tmp_path / "cut") as search:

        def save(self, controller):
            if search.updates == update:
                raise StopError
            written(self, controller)

        written = Journal.save
        patched.setattr(Journal, "save", save)
        with pytest.raises(StopError):
            finish(search)
    with Search.open(tmp_path / "cut") as search:
        assert search.updates == update
    with servo(tmp_path / "whole", budget=4 * update) as search:
        finish(search)
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
