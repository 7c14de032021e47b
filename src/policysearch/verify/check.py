"""Every estimator and baseline against closed forms. See `bias` and `closed_forms`; `cli.check` is the command.

A row is a method on a problem: the mean of thousands of batches of ten rollouts must be what theory says it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from policysearch.core.settings import unknown
from policysearch.verify.closed_forms import Problem

if TYPE_CHECKING:
    from policysearch.core.method import Method
    from policysearch.verify.bias import Row

#: methods whose gradient is checked; the natural gradient and ARS rescale theirs
METHODS = ("reinforce", "gpomdp", "weight_perturbation", "finite_differences")
PROBLEMS = ("bandit", "bowl", "lqr-check", "lqr")
#: what --quick leaves out takes most of the time
QUICK = ("bandit", "bowl", "lqr-check")


def check(
    methods: Sequence[str] | Mapping[str, Method] | None = None,
    problems: Iterable[str] | None = None,
    *,
    batches: int | None = None,
    seed: int = 0,
    scale: float = 1.0,
    on_row: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Compare gradient estimates with what they must be on average.

    Args:
        methods: names from `METHODS`, each with all its baselines and perturbations; or composed methods by a name of
            your own; None for all names. Steps do not matter, and each composed method runs on the problems that fit.
        problems: names from `PROBLEMS`; None for all.
        batches: how many batches of each row; None for as many as a pilot run finds necessary.
        seed: of all random numbers.
        scale: factor on every estimate, to see that a wrong one is found.
        on_row: called with each row as soon as it is known.

    Returns:
        The rows; those with a `complaint` failed.

    Raises:
        ValueError: a name that is not known, or a method whose estimate has no known expectation.

    Example:
        >>> rows = check(["reinforce"], ["bandit"], batches=2000)  # doctest: +SKIP
        >>> [row.complaint for row in rows if row.complaint]  # doctest: +SKIP
        []
    """
    from policysearch.verify import bias, closed_forms

    names = list(PROBLEMS if problems is None else problems)
    for name in names:
        if name not in PROBLEMS:
            raise ValueError(unknown("problem with closed forms", name, list(PROBLEMS)))
    own = isinstance(methods, Mapping)
    for name in () if own or methods is None else methods:
        if name not in METHODS:
            raise ValueError(unknown("method whose gradient is checked", name, list(METHODS)))
    if batches is not None and batches < 2:
        raise ValueError(f"batches is {batches}; at least 2 are needed for a standard error.")
    rows = []
    for name in names:
        problem = closed_forms.PROBLEMS[name]()
        if isinstance(methods, Mapping):
            chosen = {(label, "", ""): method for label, method in methods.items() if _fits(method, problem)}
        else:
            wanted = METHODS if methods is None else methods
            chosen = {label: method for label, method in bias.catalogue(problem).items() if label[0] in wanted}
        for row in bias.measure(problem, chosen, batches, seed, scale):
            rows.append(row)
            if on_row is not None:
                on_row(row)
    if not rows:
        raise ValueError(
            f"None of these methods has a known estimate on {', '.join(names)}; leave problems out for all."
        )
    return rows


def _fits(method: Method, problem: Problem) -> bool:
    """Whether what the method estimates on a problem is known."""
    from policysearch.core.explore import Coordinates

    if method.space not in problem.spaces:
        return False
    if isinstance(method.explore, Coordinates):
        return problem.smooth
    return method.space == "action" or method.explore.shape in problem.shapes  # type: ignore[attr-defined]
