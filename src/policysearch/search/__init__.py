"""Searches: the loop, trials that a caller runs, incumbents, evaluation, many seeds, what is shown."""
