"""Command-line flags made from settings structs: a field `two_sided` is the flag `--two-sided`. No JAX."""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from policysearch.core import grammar
from policysearch.core.plain import Options
from policysearch.core.settings import PolicySettings, Settings, allowed, choices
from policysearch.methods.settings import METHODS

#: fields whose flag has another name
RENAMED: dict[tuple[type[Settings], str], str] = {(PolicySettings, "kind"): "policy"}


def names(struct: type[Settings]) -> dict[str, str]:
    """Field → flag without dashes in front.

    Example:
        >>> names(METHODS["reinforce"])["learning_rate"]
        'learning-rate'
    """
    fields = (field.name for field in msgspec.structs.fields(struct))
    return {name: RENAMED.get((struct, name), name.replace("_", "-")) for name in fields}


def add(
    parser: argparse._ActionsContainer,
    structs: Iterable[type[Settings]],
    seen: set[str],
    helpful: bool = False,
) -> None:
    """Add the flags of some structs; values stay text until `given` converts them.

    Args:
        parser: a parser or one of its groups.
        structs: of settings.
        seen: flags that the parser already has, which are skipped; those added join it.
        helpful: with each flag's help, read from the text beneath the field.
    """
    for struct in structs:
        hints = typing.get_type_hints(struct, include_extras=True)
        texts = documentation(struct) if helpful else {}
        for field in msgspec.structs.fields(struct):
            flag = names(struct)[field.name]
            if flag in seen:
                continue
            seen.add(flag)
            hint = _plain(hints[field.name])
            text = texts.get(field.name, "").replace("%", "%%")
            default = "by rule" if field.default is None else _words(field.default)
            options: Options = {
                "dest": _destination(flag),
                "default": argparse.SUPPRESS,
                "help": f"{text} [{default}]",
            }
            if hint is bool:
                parser.add_argument(f"--{flag}", action=argparse.BooleanOptionalAction, **options)
            elif typing.get_origin(hint) is tuple:
                parser.add_argument(f"--{flag}", nargs="+", metavar="N", **options)
            else:
                parser.add_argument(f"--{flag}", metavar=_metavar(hints[field.name]), **options)


def given(arguments: argparse.Namespace, struct: type[Settings]) -> Options:
    """What the user set of a struct, converted from text.

    Raises:
        ValueError: text of the wrong kind; the message names the flag, what was given and what is allowed.
    """
    hints = typing.get_type_hints(struct, include_extras=True)
    chosen = {}
    for field, flag in names(struct).items():
        if hasattr(arguments, _destination(flag)):
            chosen[field] = _convert(flag, getattr(arguments, _destination(flag)), hints[field])
    return chosen


def refuse_foreign(arguments: argparse.Namespace, method: str) -> None:
    """Raise ValueError if a flag was given that belongs to other methods only."""
    own = {*names(METHODS[method]).values(), *names(PolicySettings).values()}
    for other in METHODS.values():
        for flag in names(other).values():
            if flag not in own and hasattr(arguments, _destination(flag)):
                owners = [name for name, struct in METHODS.items() if flag in names(struct).values()]
                raise ValueError(
                    f"--{flag} belongs to {', '.join(owners)}; the method here is {method}, which takes "
                    f"{', '.join('--' + known for known in names(METHODS[method]).values())}."
                )


def refuse_unknown(extras: list[str], parser: argparse.ArgumentParser) -> None:
    """Raise ValueError if a parser left something over; for a flag the nearest names are offered."""
    for extra in extras:
        if extra.startswith("-"):
            flag = extra.split("=")[0]
            near = difflib.get_close_matches(flag, list(parser._option_string_actions), n=2, cutoff=0.75)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"{flag} is not a flag of {parser.prog}.{hint} See: {parser.prog} --help")
    if extras:
        raise ValueError(f"{extras[0]!r} is an extra argument; values follow a flag, such as --seed 3.")


def _destination(flag: str) -> str:
    return "set_" + flag.replace("-", "_")


def _plain(hint: object) -> object:
    """A type without None and limits."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(argument for argument in typing.get_args(hint) if argument is not type(None))
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _metavar(hint: object) -> str:
    if names := choices(hint):
        return "|".join(names)
    return "N" if _plain(hint) is int else "X"


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _convert(flag: str, value: Any, hint: object) -> object:
    kind = _plain(hint)
    if typing.get_origin(kind) is tuple:
        return tuple(_convert(flag, entry, typing.get_args(kind)[0]) for entry in value)
    if kind not in (int, float):
        return value
    try:
        return grammar.whole(flag, value) if kind is int else grammar.number(flag, value)
    except ValueError:
        raise ValueError(f"--{flag} is {grammar.shown(value)}; it must be {allowed(hint)}.") from None


def documentation(struct: type[Settings]) -> dict[str, str]:
    """The text beneath each field, which Python itself does not keep; inherited fields included."""
    if struct is Settings:
        return {}
    definition = typing.cast(ast.ClassDef, ast.parse(inspect.getsource(struct)).body[0])
    texts, last = documentation(typing.cast(type[Settings], struct.__base__)), ""
    for statement in definition.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            last = statement.target.id
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and last:
            texts[last], last = str(statement.value.value), ""
    return texts
