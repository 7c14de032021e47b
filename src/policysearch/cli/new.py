"""`policysearch new`: start a search on your own machine, whose folder holds all of it between two commands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from policysearch.cli import shared
from policysearch.core import grammar
from policysearch.core.settings import Budget, unknown
from policysearch.methods import flags
from policysearch.methods.settings import METHODS, method_settings, unknown_method

#: methods for the numbers of a rig: those that perturb parameters
RIG_METHODS = ("finite_differences", "weight_perturbation", "ars", "pgpe", "cem")


def main(given: list[str]) -> int:
    """`policysearch new`: start a search; the exit code."""
    parser = _new_parser(list(RIG_METHODS), helpful=False)
    arguments, extras = parser.parse_known_args(given)
    if arguments.method not in METHODS:
        raise ValueError(unknown_method(arguments.method))
    if arguments.method not in RIG_METHODS:
        raise ValueError(
            f"{arguments.method} needs every stage of a feedback law; named numbers are searched by one of "
            f"{', '.join(RIG_METHODS)}. In Python, Rig and a Specification serve feedback laws on a rig."
        )
    if arguments.help:
        print(_new_parser([arguments.method], helpful=True).format_help(), end="")
        return 0
    shared.refuse_scalars(extras, shared.NO_LOG)
    flags.refuse_unknown(extras, parser)
    if arguments.folder is None or not arguments.parameters:
        raise ValueError(f"new what? Give DIR and --parameters {grammar.PARAMETER}. See: policysearch new --help")
    flags.refuse_foreign(arguments, arguments.method)
    settings = method_settings(arguments.method, flags.given(arguments, METHODS[arguments.method]))
    seed = shared.number("--seed", arguments.seed, int)
    failure_cost = shared.number("--failure-cost", arguments.failure_cost, float)
    if arguments.budget is not None:
        Budget.parse(arguments.budget)
    numbers = [grammar.parameter(text) for text in arguments.parameters]
    names = [number.name for number in numbers]
    scales = _scales(_named(arguments.scales, names, "--scales"), numbers)
    largest = _named(arguments.largest_step, names, "--largest-step")
    shared.prepare_jax()
    from policysearch.core.policies import Parameters
    from policysearch.core.specification import Specification
    from policysearch.search.rig import Rig

    policy = Parameters(
        names,
        [number.initial for number in numbers],
        bounds={number.name: (number.low, number.high) for number in numbers},
        scale=scales,
        log=[number.name for number in numbers if number.log],
    )
    rig = Specification(name=Path(arguments.folder).resolve().name, repeatable=False)
    options = {"budget": arguments.budget, "seed": seed, "failure_cost": failure_cost, "folder": arguments.folder}
    options |= {"largest_step": largest or None, "measure": _measure(arguments.measure)}
    with Rig(rig, settings, policy=policy, **options) as search:
        print(f"{arguments.folder}: {search.method_name} of {', '.join(names)}, {search.layout.size} trials per update")
    print(f"next: policysearch ask {arguments.folder}")
    return 0


def _new_parser(methods: Sequence[str], helpful: bool) -> shared.Parser:
    parser = shared.Parser(
        "new",
        add_help=False,
        description="Start a search for named numbers on a rig; continue it with ask, tell, run and status.",
    )
    parser.add_argument("folder", nargs="?", metavar="DIR", help="a new folder")
    parser.add_argument("--parameters", nargs="+", action="extend", metavar="P", help=grammar.PARAMETER)
    parser.add_argument(
        "--scales",
        nargs="+",
        action="extend",
        metavar="NAME=S",
        help="size of one unit of the search, in the parameter's unit, or as an exponent of e where log "
        "[half the range; without a range, the initial value]",
    )
    parser.add_argument("--method", default="weight_perturbation", help="[%(default)s]", metavar="M")
    parser.add_argument("--budget", metavar="B", help="40 (trials) or 5updates [1000updates]")
    parser.add_argument("--seed", default="0", metavar="S", help="random seed [0]")
    parser.add_argument("--failure-cost", metavar="C", help="cost of a failed trial [the worst of its update]")
    parser.add_argument(
        "--largest-step",
        nargs="+",
        action="extend",
        metavar="NAME=S",
        help="largest change per update, in the parameter's unit, or as a factor where log [no limit]",
    )
    parser.add_argument(
        "--measure",
        metavar="EVERY:TRIALS",
        help="measure the parameters themselves, and the best so "
        "far, with TRIALS trials each after every EVERY updates [never]",
    )
    parser.add_debug()
    parser.add_argument("--help", "-h", action="store_true", help="show this help, with the flags of --method")
    flags.add(parser.add_argument_group("method"), [METHODS[name] for name in methods], set(), helpful)
    return parser


def _measure(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    words = text.split(":")
    if len(words) != 2:
        raise ValueError(f"--measure is {text!r}; it must look like 5:4, for 4 trials after every 5 updates.")
    return grammar.whole("--measure EVERY", words[0]), grammar.whole("--measure TRIALS", words[1])


def _scales(chosen: dict[str, float], numbers: list[grammar.Parameter]) -> list[float]:
    """The size of one unit of the search for each number: as given, else half its range."""
    scales = []
    for number in numbers:
        low, high = number.low, number.high
        if number.log:
            rule = math.log(high / low) / 2 if 0 < low < high < math.inf else 1.0
        else:
            rule = (high - low) / 2 if math.isfinite(high - low) else abs(number.initial) or 1.0
        scales.append(chosen.get(number.name, rule))
    return scales


def _named(given: Sequence[str] | None, names: Sequence[str], flag: str) -> dict[str, float]:
    """NAME=NUMBER for known names."""
    return grammar.named(flag, given or [], names, lambda name: unknown("parameter", name, list(names)))
