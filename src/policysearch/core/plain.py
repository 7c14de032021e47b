"""Names for the types of what is written as JSON. No JAX."""

from __future__ import annotations

from typing import Any

#: a JSON object: None, booleans, numbers, texts, lists and objects by name
Plain = dict[str, Any]
#: settings, or arguments of a task, by name; each has the type of its field
Options = dict[str, Any]
