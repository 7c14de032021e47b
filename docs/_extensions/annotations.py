"""Annotations in the reference as the source writes them: `Count`, `ArrayLike`, `Float[Array, 'n']`."""

import re

import jaxtyping
import numpy as np
from docutils import nodes
from sphinx import addnodes
from sphinx.util.typing import stringify_annotation

from policysearch.core import settings

#: names that the reference explains or every reader knows
NAMES = {name: getattr(settings, name) for name in ("Count", "Positive", "NonNegative", "Share")}
LONG = {
    **{stringify_annotation(value): name for name, value in NAMES.items()},
    stringify_annotation(np.typing.ArrayLike): "ArrayLike",
    stringify_annotation(jaxtyping.ArrayLike): "ArrayLike",
    "jaxlib._jax.Array": "Array",
}


def short(text):
    """The same annotation or signature in the names of the source."""
    for long, name in LONG.items():
        text = text.replace(long, name)
    # what is left of Annotated[float, bounds] is the type; where a default has no repr, modules are marked by a tilde
    text = re.sub(r"(?:typing\.)?Annotated\[(\w+), [^\]]*\]", r"\1", text)
    return re.sub(r"~(\w+\.)*(\w+)", r"\2", text)


def _signature(app, what, name, obj, options, signature, returns):
    return (signature and short(signature)), (returns and short(returns))


def _setting(app, what, name, obj, options, lines):
    # napoleon takes what stands before the first colon of such a line for a type
    if what == "attribute" and lines:
        lines[0] = lines[0].replace(": ", " – ", 1)


def _properties(app, doctree):
    for signature in doctree.findall(addnodes.desc_signature):
        for text in list(signature.findall(nodes.Text)):
            if text.astext() == "jaxlib._jax.Array":
                text.parent.replace(text, nodes.Text("Array"))


def setup(app):
    """Rewrite every signature and property; attributes take the names from `autodoc_type_aliases`."""
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-docstring", _setting, priority=400)
    app.connect("doctree-read", _properties)
    app.config.autodoc_type_aliases = {name: name for name in (*NAMES, "ArrayLike")}
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
