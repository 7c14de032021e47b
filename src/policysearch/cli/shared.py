"""What the commands share: the parser, numbers, the user's task, JAX's setup, results as text."""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import msgspec

from policysearch.core import grammar
from policysearch.core.plain import Plain
from policysearch.methods import flags

if TYPE_CHECKING:
    from policysearch.report.tensorboard import TensorBoard
    from policysearch.tasks import AnyTask

TASK_HELP = "a built-in task, a Gymnasium id (HalfCheetah-v5), module:attr or file.py:attr"
CLUSTER_HELP = (
    "run the trials of a Gymnasium task on a running Ray cluster: auto for the one that this machine is in, or "
    "HOST:PORT; --workers is then for each node [this machine alone]"
)
#: where results go while standard output is reserved for them
_results: TextIO | None = None
#: folder of scalars within a run's folder
SCALARS = "tensorboard"
#: what is said where `--tensorboard` is given to a command of a rig
NO_LOG = "It logs the updates of: policysearch run DIR --tensorboard -- COMMAND."
TENSORBOARD_HELP = "write TensorBoard scalars, to DIR with the run's name in it [tensorboard in the run's folder]"


class Parser(argparse.ArgumentParser):
    """A command's parser. Its complaints are ValueErrors, so that all wrong input is reported the same way.

    Args:
        name: of the command.
        description: what it does.
        options: of `argparse.ArgumentParser`.
    """

    def __init__(self, name: str, description: str, **options: Any):
        super().__init__(prog=f"policysearch {name}", description=description, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise ValueError where argparse would end the process."""
        raise ValueError(f"{message}. See: {self.prog} --help")

    def add_debug(self) -> None:
        """Add the flag that every command has."""
        self.add_argument("--debug", action="store_true", help="show tracebacks")

    def parsed(self, given: list[str], no_log: str = "") -> argparse.Namespace:
        """The arguments of a command, which also takes `--debug`.

        Args:
            given: what was typed.
            no_log: what there is instead of `--tensorboard`, for a command that does not take it.

        Raises:
            ValueError: an unknown flag, or a missing or superfluous argument.
        """
        self.add_debug()
        arguments, extras = self.parse_known_args(given)
        if no_log:
            refuse_scalars(extras, no_log)
        flags.refuse_unknown(extras, self)
        return arguments


@contextlib.contextmanager
def results_only() -> Iterator[None]:
    """While it lasts, standard output gets nothing but what `say` says.

    Anything else that prints, a user's module or a library below Python, does so on standard error.
    """
    global _results
    stream = sys.stdout
    stream.flush()
    with contextlib.ExitStack() as stack:
        try:
            descriptor = stream.fileno()
        except (OSError, ValueError):  # not a file: output that is captured
            _results = stream
        else:
            kept = os.dup(descriptor)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, descriptor)
            _results = stack.enter_context(open(os.dup(kept), "w", encoding="utf-8"))
            os.dup2(_error_output(stack), descriptor)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        try:
            yield
        finally:
            # libraries below Python keep what they print until it is flushed
            stream.flush()
            _results = None


def _error_output(stack: contextlib.ExitStack) -> int:
    """The descriptor of standard error, or of nothing where it is closed."""
    try:
        os.fstat(2)
    except OSError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nothing)
        return nothing
    return 2


def say(text: str) -> None:
    """Print a result, on standard output even within `results_only`."""
    print(text, file=_results or sys.stdout, flush=True)


def shown(folder: str | Path, directory: Path) -> str:
    """A folder as typed from where the command was started."""
    return str(folder).removeprefix(f"{directory}/") if directory != Path("/") else str(folder)


def task(name: str, options: Plain, timeout: float | None = None) -> AnyTask:
    """The task a user named, with another horizon or survival bonus on request.

    Args:
        name: as typed.
        options: horizon and survival_bonus, as far as given.
        timeout: seconds that each call of an environment's first contact may take.
    """
    from policysearch.tasks import resolve

    if ":" in name and ".py:" not in name and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # an installed script does not look for module:attr here
    task = resolve(name, **options, **({} if timeout is None else {"timeout": timeout}))
    if not options or task.runner == "workers":
        return task
    if "survival_bonus" in options or not hasattr(task, "horizon"):
        flag = "--survival-bonus" if "survival_bonus" in options else "--horizon"
        raise ValueError(f"{flag} does not apply to {name}; leave it out.")
    horizon = options["horizon"]
    if horizon < 1:
        raise ValueError(f"--horizon is {horizon}; it must be a whole number, at least 1.")
    task = copy.copy(task)
    object.__setattr__(task, "horizon", horizon)  # tasks are frozen, and not all are plain dataclasses
    return task


def number(flag: str, text: str | None, kind: type) -> Any:
    """The number that a flag got as text, None if it was not given; ValueError if it is not a number."""
    if text is None:
        return None
    return grammar.whole(flag, text) if kind is int else grammar.number(flag, text)


def scalars_place(given: str | None, folder: Path) -> str | None:
    """Where `--tensorboard` writes to: None if it was not given, "" for the run's own folder.

    Raises:
        ValueError: what it needs is not installed.
    """
    if given is None:
        return None
    if find_spec("tensorboardX") is None:
        from policysearch.report.tensorboard import INSTALL_TENSORBOARD

        raise ValueError(f"--tensorboard needs tensorboardX: {INSTALL_TENSORBOARD}.")
    return str(Path(given, folder.resolve().name).resolve()) if given else ""


def scalars(folder: str, place: str | None) -> contextlib.AbstractContextManager[TensorBoard | None]:
    """A log that is closed with its context, where `scalars_place` says; None if not requested."""
    if place is None:
        return contextlib.nullcontext()
    from policysearch.report.tensorboard import TensorBoard

    return TensorBoard(place or Path(folder, SCALARS))


def refuse_scalars(extras: list[str], instead: str) -> None:
    """Raise ValueError if `--tensorboard` is among a command's unknown arguments; `instead` says what there is."""
    if any(extra.split("=")[0] == "--tensorboard" for extra in extras):
        raise ValueError(f"--tensorboard is not for this command. {instead}")


def prepare_jax() -> Path | None:
    """Import JAX with compiled programs kept between runs, unless the user says otherwise.

    Returns:
        The folder where they are kept; None if the user set one, or nothing can be written.
    """
    import jax

    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return None
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "policysearch", "jax")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def as_json(value: object) -> str:
    """Indented JSON; null for numbers that are not finite."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def outcome(result: Plain) -> list[str]:
    """Cost or return, and whether it solves the task, in lines."""
    from policysearch.search.progress import quantity

    noun = "cost" if result["return_mean"] is None else "return"
    number = quantity(result[f"{noun}_mean"], result[f"{noun}_sem"])
    lines = [f"{noun} {number} (mean of {result['rollouts']} rollouts on fresh seeds ± standard error)"]
    if result["failed"]:
        lines[0] += f", {result['failed']} failed"
    if result["solved"] is not None:
        share = result["success_share"]
        seen = "" if share is None else f"; here {100 * share:.0f} %"
        if noun == "return":
            seen = f"; here {result['return_mean']:.4g}"
        criterion = result["criterion"] or "by the task's own criterion"
        lines.append(f"{'solved' if result['solved'] else 'not solved'}: {criterion}{seen}")
    return lines


def rig_parser(name: str, description: str, usage: str | None = None) -> Parser:
    """The parser of a command on the folder of a search on a rig."""
    parser = Parser(name, description, usage=usage)
    parser.add_argument("folder", metavar="DIR", help="folder of the search, from policysearch new")
    return parser
