"""What people write: a number, a whole number, the name of a parameter, a parameter, `{name}` in a command. No JAX.

Each has one definition here, shared by the shell, files and Python. Anything ambiguous is refused.
"""

from __future__ import annotations

import math
import re
import shlex
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

#: largest whole number that a database holds
LARGEST = 2**63 - 1
PARAMETER = "NAME=INITIAL, NAME=INITIAL:LOW:HIGH, or NAME=INITIAL:LOW:HIGH:log"
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,9})?")
_NOT_FINITE = re.compile(r"[+-]?(inf|infinity|nan)", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*)\}")
#: characters of a word that a message repeats
_SHOWN = 60


def shown(text: str) -> str:
    """A word as a message repeats it: quoted, and shortened if it is long."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}… ({len(text)} characters)"


def number(what: str, text: str) -> float:
    """The number written as text, such as "0.5", "1e-3", "inf" or "nan"; surrounding spaces do not count.

    Args:
        what: the number is, for the message.
        text: as written.

    Raises:
        ValueError: it is not a number, or too large for one. Digits of other scripts, and digits grouped by
            underscores, commas or spaces, are refused.

    Example:
        >>> number("--cost", " 1.5e3")
        1500.0
    """
    word = text.strip()
    if _NOT_FINITE.fullmatch(word):
        return float(word)
    if not _DECIMAL.fullmatch(word):
        comma = " Decimals take a point, not a comma." if "," in word else ""
        raise ValueError(f"{what} is {shown(text)}; it must be a number, such as 0.5 or 1e-3.{comma}")
    value = float(word)
    if math.isinf(value):
        raise ValueError(f"{what} is {shown(text)}; the largest number is 1.8e308.")
    return value


def whole(what: str, text: str) -> int:
    """The whole number written as text, such as "200", or "2e6", because large counts are easier to type that way.

    Raises:
        ValueError: it is not a whole number, or beyond ±2⁶³.

    Example:
        >>> whole("--seed", "2e6")
        2000000
    """
    word = text.strip()
    if _DECIMAL.fullmatch(word):
        value = Decimal(word)
        if value.adjusted() < 19 and value == value.to_integral_value() and abs(value) <= LARGEST:
            return int(value)
        if value.adjusted() >= 18:
            raise ValueError(f"{what} is {shown(text)}; the largest whole number is {LARGEST}.")
    raise ValueError(f"{what} is {shown(text)}; it must be a whole number, such as 3 or 2e6.")


def name(what: str, text: object) -> str:
    """A parameter's name: a Python identifier, in any script, in its normal form (NFKC).

    Python treats two forms of a name as one, a shell and a file do not; so that a name is the same everywhere, the
    other forms are refused.

    Raises:
        ValueError: it is not a valid name.

    Example:
        >>> name("a parameter", "θ_max")
        'θ_max'
    """
    if not isinstance(text, str) or not text.isidentifier():
        said = shown(text) if isinstance(text, str) else repr(text)
        raise ValueError(
            f"{what} is named {said}; a name is letters, digits and underscores, such as kp or θ_1, and does not start "
            "with a digit."
        )
    normal = unicodedata.normalize("NFKC", text)
    if normal != text:
        codes = " ".join(f"U+{ord(character):04X}" for character in normal)
        raise ValueError(f"{what} is named {text!r}, which has the normal form {normal!r} ({codes}); use that name.")
    return str(text)


def words(given: object) -> str:
    """Text kept for readers, in a form that every file can hold: lone surrogates are escaped.

    Example:
        >>> words(OSError("cable off"))
        'cable off'
    """
    return str(given).encode("utf-8", "backslashreplace").decode()


def client(given: object) -> str:
    """The name of the client that runs a trial, by which it is recognised.

    Raises:
        ValueError: not text, or text that no file can hold.
    """
    if not isinstance(given, str) or words(given) != given:
        raise ValueError(f"client is {given!r}; it must be a name as text, such as 'bench 1', or '' for none.")
    return str(given)


class Parameter(NamedTuple):
    """A named number: where it starts, its bounds (±inf for no bound), and whether its scale is logarithmic."""

    name: str
    initial: float
    low: float = -math.inf
    high: float = math.inf
    log: bool = False

    def checked(self) -> Parameter:
        """The parameter itself.

        Raises:
            ValueError: values that a parameter cannot have.
        """
        name("A parameter", self.name)
        for what, value in (("start", self.initial), ("lower bound", self.low), ("upper bound", self.high)):
            if math.isnan(value) or (what == "start" and math.isinf(value)):
                raise ValueError(f"{self.name}: its {what} is {value}; it must be a number.")
        if not self.low < self.high:
            raise ValueError(f"{self.name}: its lower bound {self.low:g} is not below its upper bound {self.high:g}.")
        if not self.low <= self.initial <= self.high:
            raise ValueError(
                f"{self.name} starts at {self.initial:g}, outside its bounds ({self.low:g}, {self.high:g})."
            )
        if self.log and self.initial <= 0:
            raise ValueError(
                f"{self.name} is searched on a logarithmic scale but starts at {self.initial:g}; start above 0."
            )
        if self.log and -math.inf < self.low <= 0:
            raise ValueError(
                f"{self.name} is searched on a logarithmic scale, which has no {self.low:g}; bound it above 0."
            )
        return self


def parameter(text: str) -> Parameter:
    """A parameter as written in the shell, such as kp=4:0.1:100:log.

    Raises:
        ValueError: it is not one; the message says what is allowed.

    Example:
        >>> parameter("kp=4:0.1:100:log")
        Parameter(name='kp', initial=4.0, low=0.1, high=100.0, log=True)
    """
    called, equals, rest = (part.strip() for part in text.partition("="))
    words = [word.strip() for word in rest.split(":")]
    if not equals or len(words) not in (1, 3, 4):
        raise ValueError(f"{shown(text)} is not a parameter; it must look like {PARAMETER}, such as kp=1.0:0:5.")
    name("A parameter", called)
    if len(words) == 4 and words[3] != "log":
        integer = " Whole numbers are not searched: let the trial round." if words[3].lower().startswith("int") else ""
        raise ValueError(
            f"{called}: what follows the bounds is {shown(words[3])}; it must be log, for a logarithmic scale, or be "
            f"left out with its colon.{integer}"
        )
    parts = ("start", "lower bound", "upper bound")
    initial, *bounds = [number(f"{called}: its {part}", word) for part, word in zip(parts, words, strict=False)]
    low, high = bounds or (-math.inf, math.inf)
    return Parameter(called, initial, low, high, len(words) == 4).checked()


def named(what: str, given: Sequence[str], known: Sequence[str], unknown: Callable[[str], str]) -> dict[str, float]:
    """NAME=NUMBER for known names, each at most once.

    Args:
        what: they are, such as a flag.
        given: as written.
        known: names.
        unknown: the message for an unknown name.

    Raises:
        ValueError: an unknown name, something that is not a number, or a name twice.
    """
    chosen: dict[str, float] = {}
    for text in given:
        called, equals, value = (part.strip() for part in text.partition("="))
        if called not in known:
            raise ValueError(unknown(called))
        if not equals:
            raise ValueError(f"{what} is {shown(text)}; it must look like {called}=0.5.")
        if called in chosen:
            raise ValueError(f"{what} gives {called} twice; give it once.")
        chosen[called] = number(f"{what} {called}", value)
    return chosen


def filled(command: Sequence[str], values: Mapping[str, float]) -> list[str]:
    """A command with parameters' values in place of their names in braces; other braces stay.

    Raises:
        ValueError: a name in braces that is not a parameter, or a parameter with more than its name in braces.

    Example:
        >>> filled(["./trial.sh", "--kp={kp}", "{ print $1 }"], {"kp": 1.5})
        ['./trial.sh', '--kp=1.5', '{ print $1 }']
    """

    def value(match: re.Match[str]) -> str:
        inside = match[1]
        if inside in values:
            return repr(float(values[inside]))
        called = re.split(r"[:!.\[]", inside)[0].strip()
        if inside.isidentifier():
            known = ", ".join(map(str, values))
            raise ValueError(f"{match[0]} in {shlex.join(command)} is not a parameter; the parameters are {known}.")
        if called in values:
            raise ValueError(f"{match[0]} in {shlex.join(command)} has more than a name; write {{{called}}}.")
        return match[0]

    return [_BRACES.sub(value, word) for word in command]
