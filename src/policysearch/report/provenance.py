"""The sections of a report about settings, versions and the command: everything needed to repeat a run. No JAX."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

import msgspec

from policysearch.core.plain import Plain
from policysearch.methods import flags
from policysearch.methods.settings import METHODS, by_rule
from policysearch.report.page import Page

#: marks a value that was not set
BY_RULE = "(by rule)"
#: entries with a place of their own
_KNOWN = (
    *("settings", "given", "chosen", "command", "versions", "specification", "platform", "started", "directory"),
    # the method again as its parts, and whether its task can be made from the name
    *("parts", "named"),
)


def settings(page: Page, configuration: Plain) -> None:
    """Add the method's settings, then everything else that was chosen.

    Args:
        page: to add to.
        configuration: as a run's config.json has it.
    """
    given, used = (configuration.get(name) or {} for name in ("given", "settings"))
    chosen = configuration.get("chosen") or by_rule(given, used)
    method = str(configuration.get("method"))
    texts: Mapping[str, str] = {}
    defaults: Plain = {}
    if method in METHODS:
        texts = flags.documentation(METHODS[method])
        defaults = {field.name: field.default for field in msgspec.structs.fields(METHODS[method])}
    names = list(dict.fromkeys([*given, *used]))
    if names:
        rows = [
            [
                name,
                _used(name, given, used, chosen),
                "yes" if given.get(name) is not None and given[name] != defaults.get(name) else "",
                texts.get(name, ""),
            ]
            for name in names
        ]
        caption = f"Settings of {method} as used. Those that were not set are defaults, or were chosen by rule."
        head = ["setting", "value", "set", "meaning"]
        kept = [place for place in range(len(head)) if any(row[place] for row in rows)]
        page.table([head[place] for place in kept], [[row[place] for place in kept] for row in rows], caption)
    rest = {name: entry for name, entry in configuration.items() if name not in _KNOWN and entry not in (None, {})}
    page.table(
        ["", "value"], [[name, value(entry)] for name, entry in rest.items()], "Everything else that was requested."
    )


def _used(name: str, given: Plain, used: Plain, chosen: Plain) -> str:
    """The value of a setting, marked if it was left open and a rule decided."""
    known = used.get(name, given.get(name))
    if name not in given or given[name] is not None:
        return value(known)
    known = chosen.get(name, known)
    return value(known) if known is None else f"{value(known)} {BY_RULE}"


def origin(page: Page, configuration: Plain) -> None:
    """Add the command, when and where it ran, and the versions.

    Args:
        page: to add to.
        configuration: as a run's config.json has it.
    """
    rows = []
    command = configuration.get("command")
    if isinstance(command, list):
        rows.append(["command", shlex.join(map(str, command))])
    rows += [[name, str(configuration[name])] for name in ("started", "directory", "platform") if name in configuration]
    versions = configuration.get("versions")
    if isinstance(versions, dict):
        rows += [[f"{name} version", str(version)] for name, version in versions.items()]
    if rows:
        page.table(["", "value"], rows, "The command that started the run, where and when it ran, and the versions.")
    else:
        page.text("The command and the versions are unknown.")


def value(content: object) -> str:
    """A value from JSON for people to read.

    Example:
        >>> value(None), value(True), value([32, 32]), value({"horizon": 9})
        ('–', 'yes', '32, 32', 'horizon 9')
    """
    if content is None or content in ({}, []):
        return "–"
    if isinstance(content, bool):
        return "yes" if content else "no"
    if isinstance(content, float):
        return f"{content:.6g}"
    if isinstance(content, (list, tuple)):
        return ", ".join(map(value, content))
    if isinstance(content, dict):
        return ", ".join(f"{name} {value(entry)}" for name, entry in content.items())
    return content if isinstance(content, str) else msgspec.json.encode(content).decode()
