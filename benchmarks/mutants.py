"""Breaks the core of the package on purpose, one small change at a time, and counts the changes that no test sees.

uv run --group mutation python benchmarks/mutants.py [MODULE ...] [--sample N] [--seed N] [--own] …

Cosmic Ray makes the mutants and keeps the results; a copy of the sources in build/mutants is what is changed. A process
that has imported JAX, but nothing of the package, is forked for each mutant, because importing JAX takes seconds. Tests
that run the changed lines are known from a coverage run; they go one by one until the first fails. What is mutated,
what is left out and why, and which mutants change nothing that could be seen: `mutants.toml` beside this file.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "MPLBACKEND": "agg"}
# plugins take as long to start as many a test
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"

import argparse
import ast
import fnmatch
import hashlib
import json
import random
import shutil
import signal
import sys
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
COPY = HERE / "build" / "mutants"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COPY / "compiled")

import coverage  # noqa: E402
import equinox  # noqa: E402, F401
import gymnasium  # noqa: E402, F401
import hypothesis  # noqa: E402, F401
import jax  # noqa: E402
import optax  # noqa: E402, F401
import pytest  # noqa: E402
import scipy.stats  # noqa: E402, F401
from cosmic_ray import plugins  # noqa: E402
from cosmic_ray.commands.init import init  # noqa: E402
from cosmic_ray.mutating import mutate_code  # noqa: E402
from cosmic_ray.work_db import WorkDB, use_db  # noqa: E402
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkResult  # noqa: E402

SETTINGS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
#: folders of the modules
ROOMS = ("core", "core/baselines", "methods", "verify")
FLAGS = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "-m", "not slow", "-o", "addopts=--strict-markers"]
#: how many times longer than without a mutant tests may take
PATIENCE = 6


def forked(work: Callable[[], int], seconds: float) -> int:
    """The exit code of `work` in a child with its own process group; −1 where it took too long."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        code = 70
        try:
            with open(COPY / "output.txt", "wb") as sink:
                os.dup2(sink.fileno(), 1)
                os.dup2(sink.fileno(), 2)
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def pytested(arguments: list[str], plugins: tuple[object, ...] = (), bytecode: bool = False) -> int:
    """Runs pytest here, in the copy."""
    os.chdir(COPY)
    sys.dont_write_bytecode = not bytecode
    # the package is installed from the sources themselves, which must not be found
    sys.path[:] = [str(COPY / "src"), str(COPY / "tests"), *(p for p in sys.path if p != str(HERE / "src"))]
    return int(pytest.main([*FLAGS, *arguments], plugins=list(plugins)))


def module_file(module: str) -> Path:
    """The file of a module, in the copy."""
    return next(path for room in ROOMS if (path := COPY / "src" / "policysearch" / room / f"{module}.py").exists())


class Covered:
    """Notes which test runs which lines of the core; compiles all anew for each, so that it runs what it rests on."""

    def __init__(self, file: Path):
        core = [str(module_file(module)) for module in SETTINGS["guards"]]
        self.coverage = coverage.Coverage(data_file=str(file), include=core, config_file=False)
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item):
        self.coverage.switch_context(f"{item.nodeid}|setup")
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        jax.clear_caches()
        self.coverage.switch_context(f"{item.nodeid}|run")
        return (yield)

    def pytest_sessionfinish(self):
        self.coverage.stop()
        self.coverage.save()


class Timed:
    """Notes how long each test takes."""

    def __init__(self, file: Path):
        self.file, self.durations = file, {}

    def pytest_runtest_logreport(self, report):
        if report.outcome != "skipped":
            self.durations[report.nodeid] = self.durations.get(report.nodeid, 0.0) + report.duration

    def pytest_sessionfinish(self):
        self.file.write_text(json.dumps(self.durations))


def copied() -> None:
    """Brings the copy up to date, file by file where it differs."""
    for folder in ("src/policysearch", "tests"):
        for source in (HERE / folder).rglob("*.py"):
            target = COPY / source.relative_to(HERE)
            if not target.exists() or target.read_bytes() != source.read_bytes():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
                os.utime(target)
    shutil.copy2(HERE / "pyproject.toml", COPY / "pyproject.toml")


def fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def mapped(module: str) -> None:
    """Notes for each guard of a module which test runs which line, and how long it takes; again after a change."""
    (COPY / "map").mkdir(parents=True, exist_ok=True)
    core = {name: fingerprint(module_file(name)) for name in SETTINGS["guards"]}
    for name in guards(module):
        file, note = COPY / "tests" / name, COPY / "map" / Path(name).name
        known, data, durations = (note.with_suffix(f".{end}") for end in ("known.json", "coverage", "json"))
        now = core | {"test": fingerprint(file), "conftest": fingerprint(COPY / "tests" / "conftest.py")}
        then = json.loads(known.read_text()) if known.exists() else {}
        if all(then.get(key) == now[key] for key in (module, "test", "conftest")):
            continue
        data.unlink(missing_ok=True)

        def watched(file=file, data=data, durations=durations) -> int:
            return pytested([str(file.relative_to(COPY))], (Covered(data), Timed(durations)), bytecode=True)

        if code := forked(watched, 3600):
            sys.exit(f"{name} fails without a mutant (exit code {code}):\n{(COPY / 'output.txt').read_text()}")
        known.write_text(json.dumps(now))
        print(f"mapped {name}", flush=True)


def guards(module: str) -> list[str]:
    """Test files that guard a module, below `tests`."""
    tests = COPY / "tests"
    found = [path for name in SETTINGS["guards"][module] for path in tests.rglob(f"test_{name}.py")]
    return [str(path.relative_to(tests)) for path in found]


class Map:
    """Which tests of a module's guards run a line, and their durations."""

    def __init__(self, module: str):
        self.seconds: dict[str, float] = {}
        self.by_line: dict[str, dict[int, set[str]]] = {}
        for name in guards(module):
            note = COPY / "map" / Path(name).name
            here = json.loads(note.with_suffix(".json").read_text())
            self.seconds |= here
            data = coverage.CoverageData(str(note.with_suffix(".coverage")))
            data.read()
            for file in data.measured_files():
                lines = self.by_line.setdefault(file, {})
                for line, contexts in data.contexts_by_lineno(file).items():
                    for context in contexts:
                        test, _, phase = context.partition("|")
                        if phase == "run":
                            lines.setdefault(line, set()).add(test)
                        elif phase:
                            # what a fixture of the module has run is of all its tests
                            lines.setdefault(line, set()).update(here)

    def of(self, module: str, lines: range, seconds: float) -> list[list[str]]:
        """Tests that run one of the lines, the quickest that fit: the module's own file first, then the others."""
        known = self.by_line.get(str(module_file(module)), {})
        found = set().union(*(known.get(line, set()) for line in lines))
        if not found:
            # run at import: all that ever touch the module
            found = set().union(*known.values())
        files: dict[str, list[str]] = {}
        for test in sorted(found & self.seconds.keys(), key=self.seconds.__getitem__):
            files.setdefault(test.partition("::")[0], []).append(test)
        own = f"/test_{SETTINGS['guards'][module][0]}.py"
        order = sorted(
            files, key=lambda file: (not file.endswith(own), sum(map(self.seconds.__getitem__, files[file])))
        )
        first, second, spent = [], [], 0.0
        for file in order:
            for test in files[file]:
                spent += self.seconds[test]
                if spent < seconds:
                    (first if file.endswith(own) else second).append(test)
        return [group for group in (first, second) if group]


class Left:
    """Places of a module whose mutants say nothing: annotations, what an error says, marks of abstract methods.

    And what keeps others from mistakes: the bare star before named arguments, and zip's `strict`.
    """

    def __init__(self, source: str):
        self.spans: list[tuple[tuple[int, int], tuple[int, int]]] = []
        self.statements: list[range] = []
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Raise):
                self._span(node)
            elif isinstance(node, ast.AnnAssign | ast.arg) and node.annotation:
                self._span(node.annotation)
            elif isinstance(node, ast.FunctionDef):
                for part in filter(None, (node.returns, *node.decorator_list)):
                    if part is node.returns or ast.unparse(part) == "abc.abstractmethod":
                        self._span(part)
            elif isinstance(node, ast.keyword) and node.arg == "strict":
                self._span(node.value)
            if isinstance(node, ast.FunctionDef | ast.Lambda) and node.args.kwonlyargs and not node.args.vararg:
                named = node.args.kwonlyargs[0]
                before = [node, *node.args.posonlyargs, *node.args.args, *node.args.defaults]
                place = max((x.lineno, x.col_offset + 1) for x in before if x.lineno <= named.lineno)
                self.spans.append((place, (named.lineno, named.col_offset)))
            if isinstance(node, ast.stmt):
                body = getattr(node, "body", None)
                end = body[0].lineno - 1 if isinstance(body, list) and body else node.end_lineno
                self.statements.append(range(node.lineno, max(end, node.lineno) + 1))

    def _span(self, node: ast.AST) -> None:
        self.spans.append(((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)))

    def out(self, mutation: MutationSpec, source: list[str]) -> bool:
        line, column = mutation.start_pos
        at = (line, len(source[line - 1][:column].encode()))
        if mutation.operator_name == "core/RemoveDecorator":
            at = (line, at[1] + 1)
        return any(start <= at < end for start, end in self.spans)

    def lines(self, line: int) -> range:
        """Of the innermost statement around a line."""
        around = [span for span in self.statements if line in span]
        return min(around, key=len, default=range(line, line + 1))


def mutants(
    module: str, sample: int | None, seed: int, database: WorkDB
) -> Iterator[tuple[str, MutationSpec, str, str, str]]:
    """(job, mutation, mutated source, line before, line after) of those that say something, a seeded sample of them."""
    path = module_file(module)
    source = path.read_text()
    left, lines, chosen = Left(source), source.split("\n"), []
    for item in database.work_items:
        mutation = item.mutations[0]
        wanted = any(fnmatch.fnmatch(mutation.operator_name, f"core/{pattern}") for pattern in SETTINGS["operators"])
        if wanted and not left.out(mutation, lines):
            chosen.append((item.job_id, mutation))
    chosen.sort(key=lambda pair: (pair[1].start_pos, pair[1].operator_name, pair[1].occurrence))
    # larger samples contain the smaller ones
    random.Random(seed).shuffle(chosen)
    chosen = chosen[:sample]
    for job, mutation in chosen:
        mutated = mutate_code(source, plugins.get_operator(mutation.operator_name)(), mutation.occurrence)
        new = mutated.split("\n")
        differ = [i for i, (a, b) in enumerate(zip(lines, new, strict=False)) if a != b]
        if not differ:
            continue
        yield job, mutation, mutated, lines[differ[0]].strip(), new[differ[0]].strip()


def explore(module: str, sample: int | None, seed: int, seconds: float, fresh: bool) -> tuple[int, int, int, list[str]]:
    """How many mutants there were, were killed and are known to change nothing; and the others in words."""
    path = module_file(module)
    source, original = path.read_text(), path.stat()
    file = COPY / f"{module}.{fingerprint(path)[:12]}.sqlite"
    new = not file.exists()
    known = [row for row in SETTINGS["equivalent"] if row["module"] == module]
    left, map_ = Left(source), Map(module)
    killed = equivalent = count = 0
    survivors = []
    with use_db(str(file)) as database:
        if new:
            init([path], database, {})
        results = dict(database.results)
        for job, mutation, mutated, before, after in mutants(module, sample, seed, database):
            count += 1
            if any(row["before"] == before and after in row["after"] for row in known):
                equivalent += 1
                continue
            result = results.get(job)
            if fresh or result is None or not result.is_killed:
                began = time.monotonic()
                outcome, output = TestOutcome.SURVIVED, "no test runs this line"
                try:
                    path.write_text(mutated)
                    # bytecode is told apart by whole seconds and size only
                    os.utime(path, (original.st_atime, original.st_mtime + 1000 + count))
                    for group in map_.of(module, left.lines(mutation.start_pos[0]), seconds):
                        expected = sum(map(map_.seconds.__getitem__, group))
                        code = forked(lambda group=group: pytested(group), 20 + PATIENCE * expected)
                        output = (COPY / "output.txt").read_text(errors="replace")[-2000:]
                        if code == 70:
                            sys.exit(f"The tests could not be run:\n{output}")
                        if code:
                            outcome = TestOutcome.KILLED
                            break
                finally:
                    path.write_text(source)
                    os.utime(path, (original.st_atime, original.st_mtime))
                result = WorkResult(WorkerOutcome.NORMAL, output, outcome, f"- {before}\n+ {after}")
                database.set_result(job, result)
                mark = "killed" if result.is_killed else "SURVIVED"
                place = f"{module}.py:{mutation.start_pos[0]}"
                print(f"{time.monotonic() - began:5.1f} s {mark:8} {place} {after}", flush=True)
            if result.is_killed:
                killed += 1
            else:
                operator = mutation.operator_name.removeprefix("core/")
                survivors.append(f"{module}.py:{mutation.start_pos[0]} {operator}\n  - {before}\n  + {after}")
    return count, killed, equivalent, survivors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("modules", nargs="*", default=[], help="all of mutants.toml unless given")
    parser.add_argument("--sample", type=int, help="so many mutants of a module at most, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--seconds", type=float, default=SETTINGS["seconds"], help="of tests that each must pass")
    parser.add_argument("--own", action="store_true", help="by the tests of the first file that guards a module only")
    parser.add_argument("--fresh", action="store_true", help="test those again that were killed by an earlier run")
    given = parser.parse_args()
    if given.own:
        SETTINGS["guards"] = {module: names[:1] for module, names in SETTINGS["guards"].items()}
    copied()
    table, all_survivors = [], []
    for module in given.modules or SETTINGS["guards"]:
        mapped(module)
        count, killed, equivalent, survivors = explore(module, given.sample, given.seed, given.seconds, given.fresh)
        table.append((module, count, killed, equivalent, len(survivors)))
        all_survivors += survivors
    print("\n".join(all_survivors))
    table.append(("all", *(sum(column) for column in list(zip(*table, strict=True))[1:])))
    print(f"{'module':12} {'mutants':>7} {'killed':>7} {'equivalent':>10} {'survived':>8} {'killed of the others':>21}")
    for module, count, killed, equivalent, survived in table:
        share = killed / max(count - equivalent, 1)
        print(f"{module:12} {count:7} {killed:7} {equivalent:10} {survived:8} {share:21.1%}")


if __name__ == "__main__":
    main()
