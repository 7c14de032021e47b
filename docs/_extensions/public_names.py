"""Warns of a public name without a docstring of its own, and of one that the reference leaves out."""

import inspect

from sphinx.util import logging

import policysearch

logger = logging.getLogger(__name__)


def documented(name):
    """Whether the object says by itself what it is; of a plain value the reference says it."""
    value = getattr(policysearch, name)
    if not (inspect.isclass(value) or callable(value)):
        return True
    text = value.__doc__ or ""
    # a dataclass without a docstring gets its signature as one
    return bool(text.strip()) and not text.startswith(f"{name}(")


def _check(app, environment):
    known = {name for name, *_ in environment.get_domain("py").get_objects()}
    for name in policysearch.__all__:
        if not documented(name):
            logger.warning("policysearch.%s has no docstring", name, type="public_names")
        if f"policysearch.{name}" not in known:
            logger.warning("policysearch.%s is missing from the reference", name, type="public_names")


def setup(app):
    """Check when all pages are read."""
    app.connect("env-check-consistency", _check)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
