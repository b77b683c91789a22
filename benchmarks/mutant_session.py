"""One pytest session that is collected once and forked for every mutant; see `mutants.py`."""

from __future__ import annotations

import gc
import importlib.util
import math
import os
import pickle
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import coverage
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mutants import Mutant

SRC = Path(__file__).resolve().parent.parent / "src"
LEAST_SECONDS, TIMES_AS_LONG = 20.0, 10.0
"""A mutant's limit in seconds of the processor: so many at least, and so many times those of its tests."""
OUTSIDE_SECONDS = 600.0
"""The same for a mutant outside of functions, whose tests are collected anew."""
PATIENCE = 15.0
"""How many times its limit a fork may take by the clock: it may be starved, or wait for what never comes."""
BROKEN = 3
"""How a fork ends that could not run its tests."""
HEAVY = ("torch", "scipy.stats", "scipy.ndimage", "skimage.metrics", "sklearn.metrics", "tifffile")
"""Imported before any fork, so that a fork need not."""


def run_mutants(
    mutants: list[Mutant], tests: list[str], minutes: float = math.inf
) -> Iterator[tuple[Mutant, str]]:
    """Yield each mutant with killed, survived, uncovered (no test runs its line), timed out or unsettled.

    So many minutes after the tests were measured no other mutant is begun.
    """
    for module in HEAVY:
        __import__(module)
    basetemp = Path(tempfile.mkdtemp(prefix="mutants"))
    inside = [m for m in mutants if m.in_function]
    outside = [m for m in mutants if not m.in_function]
    paths, results = sorted({m.path for m in mutants}), basetemp / "inside.pickle"
    # each part in a fork, so that this process never imports the package
    _outcome(lambda: _session(tests, basetemp, Session(inside, paths, results, basetemp, minutes)), 86_400)
    outcomes, lines, seconds, end = pickle.loads(results.read_bytes())  # noqa: S301 - written by the fork above
    yield from zip(inside, outcomes, strict=False)  # fewer outcomes where time was over
    for m in outside:
        if time.monotonic() > end:
            break
        names = {name for names in lines[str(m.path)].values() for name in names if name in seconds}
        # a file without a function that runs (a table) is imported by all tests
        files = _quickest_first({name.split("::")[0] for name in names or seconds}, seconds)
        work = partial(_collected_anew, m, files, basetemp)
        yield m, _report(m, _outcome(work, OUTSIDE_SECONDS))
    shutil.rmtree(basetemp)


def _quickest_first(files: set[str], seconds: dict[str, float]) -> list[str]:
    took = {file: sum(s for name, s in seconds.items() if name.startswith(f"{file}::")) for file in files}
    return sorted(files, key=took.__getitem__)


def _report(mutant: Mutant, outcome: str) -> str:
    if outcome != "killed":
        print(f"{outcome}: {mutant.line}: {mutant.name}", file=sys.stderr, flush=True)
    return outcome


def _outcome(work: Callable[[], int], seconds: float) -> str:
    """Do the work in a fork, which ends with its status, and give it some time of the processor.

    By the clock a fork may take many times as long. One that then still runs is unsettled: it may wait
    forever, or the machine may be busy, so it says nothing of the tests.
    """
    child = os.fork()
    if child == 0:
        status, stderr = BROKEN, os.dup(2)
        try:
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
            status = work()
        except BaseException:
            os.write(stderr, traceback.format_exc().encode())
        finally:
            os._exit(status)
    end = time.monotonic() + PATIENCE * seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return _named(os.waitstatus_to_exitcode(status))
        time.sleep(0.003)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "unsettled"


def _named(code: int) -> str:
    """Say what a fork's exit code means; a negative one is the signal that ended it."""
    if code in (BROKEN, -signal.SIGKILL):  # outside of its tests, or by the kernel for want of memory
        return "unsettled"
    return {0: "survived", -signal.SIGXCPU: "timed out"}.get(code, "killed")


def _silent() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(null, stream)


def _session(tests: list[str], basetemp: Path, plugin: object) -> int:
    from hypothesis import HealthCheck, Phase, settings

    settings.register_profile(
        "mutants",
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    options = [
        "-qs",
        "-p",
        "no:cacheprovider",
        "--tb=no",
        "-m",
        "not slow",
        f"--basetemp={basetemp / 'tests'}",
    ]
    return pytest.main([*options, "--hypothesis-profile=mutants", *tests], plugins=[plugin])


def _collected_anew(mutant: Mutant, tests: list[str], basetemp: Path) -> int:
    """Import the mutated file in place of its original, and run the tests until one fails."""

    class Loader(SourceFileLoader):
        def get_code(self, fullname: str) -> CodeType:
            return compile(mutant.source, str(mutant.path), "exec")

    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> Any:
            if name != _module_name(mutant.path):
                return None
            return importlib.util.spec_from_file_location(
                name, mutant.path, loader=Loader(name, str(mutant.path))
            )

    class StopAtFirst:
        @staticmethod
        def pytest_collection_modifyitems(session: pytest.Session) -> None:
            session.shouldfail = False
            session.config.option.maxfail = 1

    _silent()
    sys.meta_path.insert(0, Finder())  # type: ignore[arg-type]
    return min(_session(tests, basetemp, StopAtFirst()), 1)


def _module_name(path: Path) -> str:
    parts = list(path.relative_to(SRC).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class Session:
    """A pytest plugin: in place of running the tests, it runs them on each mutant, each in a fork."""

    def __init__(
        self, mutants: list[Mutant], paths: list[Path], results: Path, basetemp: Path, minutes: float
    ) -> None:
        self.mutants, self.paths, self.results, self.basetemp = mutants, paths, results, basetemp
        self.minutes = minutes

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Measure, then mutate."""
        for path in self.paths:
            importlib.import_module(_module_name(path))  # some are imported by a test's run alone
        functions = functions_of(self.paths)
        covering = Coverage(session, self.paths, self.basetemp / "coverage.pickle")
        outcomes, end = [], time.monotonic() + 60 * self.minutes
        for mutant in self.mutants:
            if time.monotonic() > end:
                break
            items = covering.items_of(mutant)
            seconds = sum(covering.seconds[item.nodeid] for item in items)
            limit = max(LEAST_SECONDS, TIMES_AS_LONG * seconds)
            work = partial(_exchanged, mutant, functions[str(mutant.path)], items)
            outcomes.append(_report(mutant, _outcome(work, limit) if items else "uncovered"))
        self.results.write_bytes(pickle.dumps((outcomes, covering.lines, covering.seconds, end)))
        return True


class Coverage:
    """Which tests run which lines, and for how many seconds of the processor; measured in a fork, once."""

    def __init__(self, session: pytest.Session, paths: list[Path], file: Path) -> None:
        def measure() -> int:
            _silent()
            found = _measured(session.items, paths)
            file.write_bytes(pickle.dumps(found))
            return 0

        _outcome(measure, 3600)
        # lines: by path, then by line, the tests that run it
        self.lines, self.seconds = pickle.loads(file.read_bytes())  # noqa: S301 - written by the fork above
        self.items = {item.nodeid: item for item in session.items if item.nodeid in self.seconds}
        for item in session.items:
            if item.nodeid not in self.seconds:
                print(f"fails without a mutant, so it is left out: {item.nodeid}", file=sys.stderr)

    def items_of(self, mutant: Mutant) -> list[pytest.Item]:
        """The tests that run the mutant's line, file by file and quickest first, as files share fixtures."""
        names = [n for n in self.lines[str(mutant.path)].get(mutant.line, ()) if n in self.seconds]
        by_file: dict[str, list[str]] = {}
        for name in sorted(names, key=self.seconds.__getitem__):
            by_file.setdefault(name.split("::")[0], []).append(name)
        whole = {file: sum(self.seconds[n] for n in names) for file, names in by_file.items()}
        return [self.items[name] for file in sorted(by_file, key=whole.__getitem__) for name in by_file[file]]


class Contexts:
    """Tells coverage whose lines run: a test's own, or those of a fixture that several tests share."""

    def __init__(self, cov: coverage.Coverage) -> None:
        self.cov, self.failed, self.now = cov, set(), ""
        self.fixtures: dict[str, set[str]] = {}

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        before, self.now = self.now, name
        self.cov.switch_context(name)
        yield
        self.now = before
        self.cov.switch_context(before)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        """Count what a test runs as its own."""
        with self._named(item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Any:
        """Count what a shared fixture runs as its own."""
        if fixturedef.scope == "function":
            return (yield)
        with self._named(f"fixture {fixturedef.argname} of {fixturedef.baseid}"):
            return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember what fails without a mutant."""
        if report.failed:
            self.failed.add(report.nodeid)


def _measured(items: list[pytest.Item], paths: list[Path]) -> tuple[dict, dict[str, float]]:
    cov = coverage.Coverage(data_file=None, include=[str(p) for p in paths], messages=False)
    contexts = Contexts(cov)
    items[0].config.pluginmanager.register(contexts)
    seconds = {}
    cov.start()
    for item, following in zip(items, [*items[1:], None], strict=True):
        began = time.process_time()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if item.nodeid not in contexts.failed:
            seconds[item.nodeid] = time.process_time() - began
    cov.stop()
    users: dict[str, list[str]] = {}
    for item in items:
        for definitions in item._fixtureinfo.name2fixturedefs.values():  # type: ignore[attr-defined]
            for f in definitions:
                users.setdefault(f"fixture {f.argname} of {f.baseid}", []).append(item.nodeid)
    lines: dict[str, dict[int, set[str]]] = {}
    for path in map(str, paths):
        by_line = cov.get_data().contexts_by_lineno(path)
        lines[path] = {
            line: {test for name in names for test in users.get(name, [name])}
            for line, names in by_line.items()
        }
    return lines, seconds


def _exchanged(mutant: Mutant, functions: list[FunctionType], items: list[pytest.Item]) -> int:
    """Give the mutant's function its mutated code, and run tests until one fails."""
    _silent()
    exchange(mutant, functions)
    session = items[0].session
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return 1
    return 0


def functions_of(paths: list[Path]) -> dict[str, list[FunctionType]]:
    """Find the function objects of files, decorated ones and methods too."""
    found: dict[str, list[FunctionType]] = {str(path): [] for path in paths}
    gc.unfreeze()  # what the tests have frozen is not listed
    for function in gc.get_objects():
        if type(function) is FunctionType and function.__code__.co_filename in found:
            found[function.__code__.co_filename].append(function)
    return found


def exchange(mutant: Mutant, functions: list[FunctionType]) -> None:
    """Put the mutated file's code into the function objects that were made from the original."""
    mutated = {}
    todo = [compile(mutant.source, str(mutant.path), "exec")]
    while todo:
        code = todo.pop()
        mutated[code.co_qualname, code.co_firstlineno] = code
        todo += [c for c in code.co_consts if isinstance(c, CodeType)]
    exchanged = 0
    for function in functions:
        key = function.__code__.co_qualname, function.__code__.co_firstlineno
        if key in mutated and len(mutated[key].co_freevars) == len(function.__code__.co_freevars):
            function.__code__ = mutated[key]
            exchanged += 1
    if not exchanged:
        raise LookupError(f"{mutant.name}: no function to exchange")
