"""Do the tests notice? Mutants of three rooms, and how many of them a test fails on.

    python benchmarks/mutants.py [ROOM ...] [--sample 40 | --share 0.3] [--seed 0] [--minutes 20]
        [--only TEXT] [--again] [--out FILE]

Mutants are made by mutmut's operators; rooms and their tests stand in pyproject.toml, [tool.mutants].
mutmut's own runner leaves out decorated functions and all that stands outside of functions, which is much
of a method; so this one collects the tests once, forks, and runs what covers the mutated line, quickest
first, until a test fails:

- inside a function, the fork gets the mutated code in place of the function's own;
- elsewhere (defaults, constants, options), a fork without the package imports the mutated file.

No mutants: strings, annotations, imports, decorators, what is raised (its text), and `strict` of zip, which
refuses lengths that never differ. Survivors keep the reason that the file of results gives for them.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import os
import random
import re
import sys
import time
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import libcst as cst
from libcst.metadata import (
    MetadataWrapper,
    ParentNodeProvider,
    PositionProvider,
    WhitespaceInclusivePositionProvider,
)
from mutmut.mutation.mutators import mutation_operators, operator_string

if TYPE_CHECKING:
    from collections.abc import Iterator

    from libcst.metadata import CodeRange

ROOT = Path(__file__).resolve().parent.parent
OPERATORS = [(kind, make) for kind, make in mutation_operators if make is not operator_string]
SKIPPED = (cst.Annotation, cst.Import, cst.ImportFrom, cst.Decorator, cst.Raise, cst.BaseString)
ALIVE = ("survived", "uncovered")
NOTICED = ("killed", "timed out")
UNTOUCHED_CALLS = {"len", "isinstance", "TypeVar", "cast"}


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    path: Path
    line: int
    function: str
    in_function: bool
    """Inside a function's body, where its code can be exchanged."""
    before: str
    after: str
    source: str
    nth: int
    """Of the equal changes in one function: 1 for the first."""

    @property
    def name(self) -> str:
        """Say where it is and what changes, without the line number, which moves."""
        file = self.path.relative_to(ROOT / "src" / "blemish")
        again = f" ({self.nth})" if self.nth > 1 else ""
        return f"{file} {self.function}: {self.before} -> {self.after}{again}"


class Mutator(cst.CSTVisitor):
    """Collects (node, its replacement) of a module."""

    METADATA_DEPENDENCIES = (PositionProvider, ParentNodeProvider, WhitespaceInclusivePositionProvider)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[cst.CSTNode, cst.CSTNode, CodeRange, int, str, bool]] = []
        self.scopes: list[str] = []
        self.bodies = 0
        """How many function bodies the node stands in."""

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Mutate a node, and say whether to go on inside it."""
        if isinstance(node, SKIPPED) or self._is_skipped(node):
            return False
        if isinstance(node, (cst.FunctionDef, cst.ClassDef)):
            self.scopes.append(node.name.value)
        if isinstance(node, cst.BaseSuite) and isinstance(self._parent(node), cst.FunctionDef):
            self.bodies += 1
        position = self.get_metadata(PositionProvider, node, None)
        for kind, make in OPERATORS:
            if position and isinstance(node, kind):
                for mutated in make(node):
                    where = ".".join(self.scopes) or "module"
                    span = self.get_metadata(WhitespaceInclusivePositionProvider, node)
                    found = (node, mutated, span, position.start.line, where, self.bodies > 0)
                    self.found.append(found)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        """Leave a scope."""
        if isinstance(original_node, (cst.FunctionDef, cst.ClassDef)):
            self.scopes.pop()
        if isinstance(original_node, cst.BaseSuite) and isinstance(
            self._parent(original_node), cst.FunctionDef
        ):
            self.bodies -= 1

    def _parent(self, node: cst.CSTNode) -> cst.CSTNode | None:
        return self.get_metadata(ParentNodeProvider, node, None)

    def _is_skipped(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Name):
            return node.func.value in UNTOUCHED_CALLS
        if isinstance(node, cst.Arg) and node.keyword:
            return node.keyword.value == "strict"
        if isinstance(node, cst.If) and isinstance(node.test, cst.Name):
            return node.test.value == "TYPE_CHECKING"
        # a name for a type, which annotations alone use
        return isinstance(node, cst.Assign) and isinstance(node.value, cst.Subscript) and not self.scopes


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Make every mutant of a file, each different from the file and from the others."""
    wrapper = MetadataWrapper(cst.parse_module(path.read_text()), unsafe_skip_copy=True)
    mutator = Mutator()
    wrapper.visit(mutator)
    module = wrapper.module
    text = module.code
    seen, equal = {text}, Counter()
    starts = [0, *itertools.accumulate(len(line) for line in text.splitlines(keepends=True))]
    for node, mutated, span, line, where, in_function in mutator.found:
        if isinstance(node, cst.Call) and _touches_strict_alone(node, mutated):
            continue
        start, end = (starts[at.line - 1] + at.column for at in (span.start, span.end))
        before, after = module.code_for_node(node), module.code_for_node(mutated)
        if text[start:end] == before:
            source = text[:start] + after + text[end:]
        else:  # indented further inside the file; the same, but a hundred times slower
            source = module.deep_replace(node, mutated).code  # type: ignore[union-attr]
        if source in seen:
            continue
        seen.add(source)
        before, after = (" ".join(code.split()) for code in (before, after))
        equal[where, before, after] += 1
        nth = equal[where, before, after]
        yield Mutant(path, line, where, in_function, before, after, source, nth)


def _touches_strict_alone(node: cst.Call, mutated: cst.CSTNode) -> bool:
    """Say whether a mutant of a call changes or drops zip's `strict`, and nothing else."""
    before, after = (
        [arg.value for arg in call.args if not (arg.keyword and arg.keyword.value == "strict")]
        for call in (node, cst.ensure_type(mutated, cst.Call))
    )
    return len(before) < len(node.args) and before == after


def chosen_of(paths: list[Path], share: float, seed: int, only: str) -> list[Mutant]:
    """Draw a share of the mutants of each file, one at least."""
    chosen = []
    for path in paths:
        mutants = [m for m in mutants_of(path) if only in m.name]
        drawn = random.Random(f"{seed} {path.name}").sample(range(len(mutants)), _count(len(mutants), share))
        chosen += [mutants[i] for i in sorted(drawn)]
    return chosen


def _count(n: int, share: float) -> int:
    return min(n, max(1, round(share * n)))


def sample_of(paths: list[Path], size: int, seed: int) -> tuple[list[Mutant], float]:
    """Draw so many of all mutants of the files, in random order, and say what share of them that is."""
    mutants = [m for path in paths for m in mutants_of(path)]
    drawn = random.Random(seed).sample(range(len(mutants)), min(size, len(mutants)))
    return [mutants[i] for i in drawn], round(len(drawn) / len(mutants), 4)


def tests_of(mutants: list[Mutant], tests: list[str]) -> list[str]:
    """Keep those test files that name a mutated file: less to measure where few mutants are drawn.

    Of a file that none names, whatever tests it is not told by names, so all are kept.
    """
    files = [file for each in tests for file in _test_files(ROOT / each)]
    words = {file: set(re.findall(r"\w+", file.read_text())) for file in files}
    kept: set[Path] = set()
    for stem in {m.path.stem for m in mutants}:
        kept |= {file for file in files if stem in words[file]} or set(files)
    return [str(file.relative_to(ROOT)) for file in files if file in kept]


def _test_files(path: Path) -> list[Path]:
    return sorted(path.rglob("test_*.py")) if path.is_dir() else [path]


def table_of(results: list[tuple[Mutant, str]], share: float, known: dict[str, dict[str, str]]) -> dict:
    """Count a room's mutants, and list its survivors with what is known of them.

    Unsettled ones are listed, and left out of all that is counted.
    """
    unsettled = [m.name for m, outcome in results if outcome == "unsettled"]
    results = [(m, outcome) for m, outcome in results if outcome != "unsettled"]
    survivors = [
        {"mutant": m.name, **known.get(m.name, {"kind": "open", "reason": ""})}
        for m, outcome in results
        if outcome in ALIVE
    ]
    counts = {
        "share_of_mutants": share,
        "mutants": len(results),
        "killed": sum(outcome == "killed" for _, outcome in results),
        "timed_out": sum(outcome == "timed out" for _, outcome in results),
        "unsettled": unsettled,
        "by_file": {
            str(path.relative_to(ROOT / "src" / "blemish")): f"{killed} / {total}"
            for path, killed, total in _by_file(results)
        },
    }
    return summed(counts, survivors)


def again(table: dict, results: list[tuple[Mutant, str]]) -> dict:
    """Take from a table the survivors that a test kills by now."""
    killed_now = {m.name for m, outcome in results if outcome in NOTICED}
    gone = [s for s in table["survivors"] if s["mutant"] in killed_now]
    table["killed"] += len(gone)
    for survivor in gone:
        file = survivor["mutant"].split()[0]
        killed, total = table["by_file"][file].split(" / ")
        table["by_file"][file] = f"{int(killed) + 1} / {total}"
    return summed(table, [s for s in table["survivors"] if s not in gone])


def summed(table: dict, survivors: list[dict[str, str]]) -> dict:
    """Say how many survivors change a result."""
    kinds = Counter(s["kind"] for s in survivors)
    alive = sum(kinds[kind] for kind in ("open", "real"))
    matter = table["mutants"] - len(survivors) + alive
    return table | {
        "survived": len(survivors),
        "survivors_by_kind": dict(sorted(kinds.items())),
        "change_a_result": matter,
        "survivors_that_change_a_result": alive,
        "survivors_that_change_a_result_percent": round(100 * alive / matter, 2) if matter else 0.0,
        "survivors": survivors,
    }


def _by_file(results: list[tuple[Mutant, str]]) -> Iterator[tuple[Path, int, int]]:
    for path in dict.fromkeys(m.path for m, _ in results):
        outcomes = [outcome for m, outcome in results if m.path == path]
        yield path, sum(o in NOTICED for o in outcomes), len(outcomes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rooms", nargs="*")
    parser.add_argument("--share", type=float, default=1.0, help="of each file's mutants, drawn by --seed")
    parser.add_argument("--sample", type=int, help="so many of a room's mutants, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="then no other mutant is begun")
    parser.add_argument("--only", default="", help="mutants whose name holds this; nothing is written")
    parser.add_argument("--again", action="store_true", help="the survivors that the file of results lists")
    parser.add_argument("--tests", nargs="*", help="these instead of the room's; with --again, new ones")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "mutants.json")
    options = parser.parse_args()
    from mutant_session import run_mutants

    os.chdir(ROOT)
    found = importlib.util.find_spec("blemish")
    if found is None or not Path(str(found.origin)).is_relative_to(ROOT):
        parser.error(
            f"Python finds blemish at {found and found.origin}, not in {ROOT}; set PYTHONPATH to src"
        )
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutants"]
    stored = json.loads(options.out.read_text()) if options.out.exists() else {"rooms": {}}
    for room in options.rooms or list(settings):
        began = time.monotonic()
        table = stored["rooms"].get(room, {})
        known = {s["mutant"]: {k: s[k] for k in ("kind", "reason")} for s in table.get("survivors", [])}
        paths = sorted(p for source in settings[room]["sources"] for p in (ROOT / source).rglob("*.py"))
        share = 1.0 if options.again else options.share
        if options.sample:
            mutants, share = sample_of(paths, options.sample, options.seed)
        else:
            mutants = chosen_of(paths, share, options.seed, options.only)
        if options.again:
            mutants = [m for m in mutants if m.name in known]
        print(f"{room}: {len(mutants)} mutants of {len(paths)} files", file=sys.stderr)
        tests = options.tests or settings[room]["tests"]
        tests = tests_of(mutants, tests) if options.sample else tests
        results = sorted(run_mutants(mutants, tests, options.minutes), key=lambda r: (r[0].path, r[0].line))
        if options.only:
            continue
        if options.again:
            table = again(table, results)
        else:
            minutes = round((time.monotonic() - began) / 60, 1)
            table = {"minutes": minutes, "seed": options.seed, **table_of(results, share, known)}
        stored["rooms"][room] = table
        options.out.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n")
        shown = {k: v for k, v in table.items() if k not in ("survivors", "by_file")}
        print(json.dumps(shown, indent=1), file=sys.stderr)


if __name__ == "__main__":
    main()
