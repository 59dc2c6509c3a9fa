"""Whether tests see a mutant: ``python -m benchmarks.mutants --seed 1 --per-room 25``.

A mutant is the code with one operator, bound, condition, call, `raise` or `return` changed. Each runs in a copy of the
tree. Quick tests of its room that enter the changed function judge it; a first run of all tests of the rooms finds out
which these are. A mutant is seen if a test fails twice, or if it hangs. One whose function no test enters is not seen.

Which mutants are drawn depends on the seed and on the text of the functions, so two trees give the same ones where
their functions are the same.

``--record`` adds what was seen to `seen_mutants.jsonl`. ``--again 8`` tries so many of them with the one test that saw
each: the gate does.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]

ROOMS: dict[str, tuple[str, ...]] = {
    "node/volume": ("tests/unit/volume", "tests/unit/writers", "tests/integration", "tests/reference"),
    "node/journal": ("tests/unit/journal", "tests/unit/receive", "tests/integration", "tests/crash"),
    "node/receive": ("tests/unit/receive", "tests/unit/journal", "tests/integration", "tests/protocol"),
    **dict.fromkeys(
        (f"node/index/{name}" for name in ("rows", "rules", "look", "database.py", "reading.py", "work_loop.py")),
        ("tests/unit", "tests/integration", "tests/protocol", "tests/web"),
    ),
    "node/writers": ("tests/unit/writers", "tests/unit/volume", "tests/integration", "tests/reference"),
    "node/conversion": ("tests/unit/conversion", "tests/unit/volume", "tests/integration", "tests/reference"),
    "node/association": ("tests/unit/association", "tests/integration", "tests/protocol"),
    **dict.fromkeys(("node/children", "node/lifecycle"), ("tests/unit", "tests/integration", "tests/web")),
    "node/extensions/dicomweb/bursts.py": ("tests/unit/extensions", "tests/web"),
    **dict.fromkeys(
        (f"node/web/{name}.py" for name in ("access", "authenticators", "passwords", "sessions")),
        ("tests/unit/web", "tests/web"),
    ),
}
"""The folders of tests of each room. One that a tree does not have is left out."""

QUICK = "not slow and not long"
WITHOUT_CORPUS = f"{QUICK} and not corpus"

COPIED = (
    *("node", "tests", "migrations", "docs", "deploy", "examples", ".ci", "LICENSE"),
    *("*.py", "*.toml", "*.md", "*.yml"),
)
NOT_COPIED = shutil.ignore_patterns("node_modules", ".venv", "__pycache__", "_site")

RECORD = Path("benchmarks", "seen_mutants.jsonl")
"""Mutants that a quick test sees: lists of path, function, kind, what stood there, what stands there then, test."""
LEAST_RECORDED = 40
"""So many of the record must stand in the tree, with a quick test; may only rise."""

ENOUGH_TESTS = 200
"""More do not judge one mutant. Counted and not timed, so that the load of the machine changes no outcome."""
HANGS_SECONDS = 300.0
"""A mutant whose tests take so much longer than before hangs."""

TEXTS = frozenset({"debug", "info", "warning", "error", "exception"})
"""Methods of loggers: what stands in their arguments is text."""

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
SIGNS: dict[type[ast.operator], type[ast.operator]] = {ast.Add: ast.Sub, ast.Sub: ast.Add}
EXTREMES = {"min": "max", "max": "min"}
SEQUENCES = (ast.JoinedStr, ast.List, ast.Tuple, ast.Set, ast.Dict)


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    path: str
    line: int
    function: str
    begins: int
    """First line of the function, by which a run of it is known."""
    kind: str
    before: str
    after: str
    start: int
    stop: int
    """Where the text that is replaced stands, in bytes of UTF-8."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.kind}: {' '.join(self.before.split())[:60]} -> {self.after[:60]}"


@dataclass
class Outcome:
    """What became of a mutant."""

    mutant: Mutant
    seen: bool
    by: str
    """The first test that failed, `hangs`, or nothing."""
    tests: int
    seconds: float


# What can be changed


class Sites(ast.NodeVisitor):
    """Collects the mutants of one file; visits what is in functions and is no text or annotation."""

    def __init__(self, path: str, text: str) -> None:
        self._path, self._bytes = path, text.encode()
        lines = self._bytes.splitlines(keepends=True)
        self._offsets = [0, *itertools.accumulate(len(line) for line in lines)]
        self._functions: list[tuple[str, int]] = []
        self._scope: list[str] = []
        self.found: list[Mutant] = []
        self.visit(ast.parse(text))

    def _add(self, node: ast.expr | ast.stmt, kind: str, after: ast.AST | str) -> None:
        if not self._functions:
            return
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._offsets[node.lineno - 1] + node.col_offset
        stop = self._offsets[node.end_lineno - 1] + node.end_col_offset
        text = after if isinstance(after, str) else ast.unparse(after)
        if isinstance(node, ast.expr):
            text = f"({text})"
        name, begins = self._functions[-1]
        before = self._bytes[start:stop].decode()
        self.found.append(Mutant(self._path, node.lineno, name, begins, kind, before, text, start, stop))

    # Where nothing is changed

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave out text."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if node.name == "__repr__":
            return
        self._scope.append(node.name)
        begins = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        self._functions.append((".".join(self._scope), begins))
        for statement in node.body:
            self.visit(statement)
        self._functions.pop()
        self._scope.pop()

    visit_FunctionDef = _visit_function
    visit_AsyncFunctionDef = _visit_function

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._scope.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self._scope.pop()

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add(node, "raise removed", "pass")  # what is in it is text

    # What is changed

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self._add(node, "return removed", "pass")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(call := node.value, ast.Call):
            if isinstance(call.func, ast.Attribute) and call.func.attr in TEXTS:
                return
            if isinstance(call.func, ast.Name) and call.func.id == "reached":  # a place at which tests kill the node
                return
            self._add(node, "call removed", "pass")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            return
        self._force(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._force(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._add(node.test, "condition forced", "False")
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._add(test, "condition forced", "True")
        self.generic_visit(node)

    def _force(self, test: ast.expr) -> None:
        for value in ("True", "False"):
            self._add(test, "condition forced", value)

    def visit_Compare(self, node: ast.Compare) -> None:
        for position, operator in enumerate(node.ops):
            changed = copy.deepcopy(node)
            changed.ops[position] = COMPARISONS[type(operator)]()
            self._add(node, "comparison swapped", changed)
        self._move_bounds(node, [node.left, *node.comparators])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        changed = copy.deepcopy(node)
        changed.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self._add(node, "and/or swapped", changed)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._add(node, "not dropped", node.operand)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in SIGNS and not _is_sequence(node.left) and not _is_sequence(node.right):
            changed = copy.deepcopy(node)
            changed.op = SIGNS[type(node.op)]()
            self._add(node, "sign swapped", changed)
            self._move_bounds(node, [node.left, node.right])
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if type(node.op) in SIGNS and not _is_sequence(node.value):
            changed = copy.deepcopy(node)
            changed.op = SIGNS[type(node.op)]()
            self._add(node, "sign swapped", changed)
        self.generic_visit(node)

    def visit_Slice(self, node: ast.Slice) -> None:
        self._move_bounds(node, [part for part in (node.lower, node.upper) if part is not None])
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in (*EXTREMES, "range"):
            self._move_bounds(node, node.args)
            if other := EXTREMES.get(node.func.id):
                self._add(node.func, "min/max swapped", other)
        self.generic_visit(node)

    def _move_bounds(self, _: ast.AST, parts: Sequence[ast.expr]) -> None:
        for part in parts:
            if isinstance(part, ast.Constant) and type(part.value) is int:
                for value in (part.value - 1, part.value + 1):
                    self._add(part, "bound moved", str(value))


def _is_sequence(node: ast.expr) -> bool:
    return isinstance(node, SEQUENCES) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def drawn(tree: Path, room: str, seed: int, count: int) -> list[Mutant]:
    """Return mutants of a room, at most one for each line, in the order in which they were drawn."""
    top = tree / room
    paths = [top] if top.is_file() else sorted(top.rglob("*.py"))
    ranked = []
    for path in paths:
        texts: defaultdict[tuple[str, ...], int] = defaultdict(int)
        for mutant in Sites(str(path.relative_to(tree)), path.read_text(encoding="utf-8")).found:
            texts[key := (mutant.function, mutant.kind, mutant.before, mutant.after)] += 1
            rank = hashlib.sha256(repr((seed, room, key, texts[key])).encode()).hexdigest()
            ranked.append((rank, mutant.path, mutant.line, mutant))
    lines, chosen = set(), []
    for _, path, line, mutant in sorted(ranked, key=lambda entry: entry[:3]):
        if (path, line) not in lines and len(chosen) < count:
            lines.add((path, line))
            chosen.append(mutant)
    return chosen


# Where it is run


class Copy:
    """A copy of a tree, which can be changed, with the interpreter of the tree."""

    def __init__(self, tree: Path, folder: Path) -> None:
        self.folder, self._clock = folder / "tree", int(time.time())
        for pattern in COPIED:
            for path in sorted(tree.glob(pattern)):
                if path.is_dir():
                    shutil.copytree(path, self.folder / path.name, ignore=NOT_COPIED)
                else:
                    shutil.copy(path, self.folder / path.name)
        pace = self.folder / "tests" / "pace.py"  # a loaded machine must not look like a test that sees a mutant
        self._write(pace, re.sub(r"^LIMIT_SECONDS = .*", "LIMIT_SECONDS = 1e9", pace.read_text(), flags=re.MULTILINE))
        self._site = folder / "site"
        self._site.mkdir()
        shutil.copy(HERE / "benchmarks" / "reached.py", self._site / "sitecustomize.py")
        own = tree / ".venv" / "bin" / "python"
        self._python = str(own) if own.exists() else sys.executable
        place = self._run(["-c", "import node; print(node.__file__)"], {}, 60)[1]
        if not place.startswith(str(self.folder)):
            sys.exit(f"the copy is not what runs, but {place}")

    def _write(self, path: Path, text: str) -> None:
        """Write a file with a time that no other version has: compiled modules are told apart by time and size."""
        path.write_text(text, encoding="utf-8")
        self._clock += 2
        os.utime(path, (self._clock, self._clock))

    def _run(self, arguments: Sequence[str], variables: dict[str, str], seconds: float) -> tuple[int | None, str]:
        environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(map(str, (self.folder, self._site)))}
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen(
                [self._python, *arguments], cwd=self.folder, env=environment, process_group=0,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
            status: int | None = None
            try:
                with suppress(subprocess.TimeoutExpired):
                    status = process.wait(seconds)
            finally:  # what its tests started is of its group
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output.seek(0)
            return status, output.read()

    def reached(self, rooms: Sequence[str], paths: Sequence[str], marks: str, workers: int) -> Reached:
        """Run tests, and return which functions of the rooms they entered."""
        file = self._site / "reached"
        variables = {
            "REACHED_FILE": str(file),
            "REACHED_BELOW": os.pathsep.join(str(self.folder / room) for room in rooms),
        }
        here = [path for path in paths if (self.folder / path).exists()]
        arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "sitecustomize", "-n", str(workers)]
        status, output = self._run([*arguments, "-m", marks, *here], variables, 3 * 3600)
        if status not in (0, 1) or not file.exists():
            sys.exit(output[-2000:])
        return Reached(self.folder, file.read_text(encoding="utf-8"))

    def judged(self, mutant: Mutant, tests: Sequence[tuple[str, float]], marks: str) -> Outcome:
        """Run tests on a mutant."""
        hangs = HANGS_SECONDS + 5 * sum(seconds for _, seconds in tests)
        began, failed = time.monotonic(), ""
        with self.changed(mutant):
            if tests:
                failed = self.failed([test for test, _ in tests], marks, hangs)
            if "::" in failed:  # on a loaded machine, a test may fail without a mutant: not twice
                failed = self.failed([failed], marks, hangs)
        return Outcome(mutant, bool(failed), failed, len(tests), round(time.monotonic() - began, 1))

    @contextmanager
    def changed(self, mutant: Mutant) -> Iterator[None]:
        """Change the copy by a mutant, until the end of the context."""
        path = self.folder / mutant.path
        before = path.read_text(encoding="utf-8")
        data = before.encode()
        changed = (data[: mutant.start] + mutant.after.encode() + data[mutant.stop :]).decode()
        ast.parse(changed)
        self._write(path, changed)
        try:
            yield
        finally:
            self._write(path, before)

    def collected(self, paths: Sequence[str], marks: str) -> frozenset[str]:
        """Return the tests of some files that have these marks."""
        here = [path for path in paths if (self.folder / path).exists()]
        arguments = ["-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-n", "0", "-m", marks]
        return frozenset(self._run([*arguments, *here], {}, HANGS_SECONDS)[1].splitlines())

    def failed(self, tests: Sequence[str], marks: str, seconds: float) -> str:
        """Return the first of the tests that fails, `hangs`, why they did not start, or nothing."""
        listed = self._site / "tests"
        listed.write_text("".join(f"{test}\n" for test in tests), encoding="utf-8")
        arguments = ["-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-n", "0", "-m", marks]
        status, output = self._run([*arguments, f"@{listed}"], {}, seconds)
        if status is None:
            return "hangs"
        if summary := re.search(r"^(?:FAILED|ERROR) (.*)", output, flags=re.MULTILINE):
            return max((test for test in tests if summary[1].startswith(test)), key=len, default=summary[1])
        return output[-200:] if status else ""


class Reached:
    """Which tests enter which function, and how long they take."""

    def __init__(self, folder: Path, lines: str) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.failed: set[str] = set()
        entered, shared = defaultdict(set), defaultdict(set)
        for line in lines.splitlines():
            kind, test, value = line.rsplit("\t", 2)
            if kind == "failed":
                self.failed.add(test)
            elif kind == "passed":
                self.seconds[test] += float(value)
            else:
                test, _, phase = test.rpartition(" (")
                function = value.removeprefix(f"{folder}/")
                entered[function].add(test)
                if phase != "call)":  # what fixtures enter that tests share, all tests of the file may see
                    shared[function].add(test.partition("::")[0])
        self._entered, self._shared = entered, shared
        self._breadth = Counter(test for tests in entered.values() for test in tests)

    def tests(self, mutant: Mutant, paths: Sequence[str]) -> list[tuple[str, float]]:
        """Return tests that enter the function of a mutant: those of each file in turn, the narrowest first."""
        function = f"{mutant.path}:{mutant.begins}"
        shared = self._shared.get(function, set())
        here = self._entered.get(function, set())
        files: defaultdict[str, list[str]] = defaultdict(list)
        for test in sorted(self.seconds.keys() - self.failed, key=lambda test: (self._breadth[test], test)):
            file = test.partition("::")[0]
            if (test in here or file in shared) and any(test.startswith(path) for path in paths):
                files[file].append(test)
        turns = itertools.zip_longest(*(files[file] for file in sorted(files)))
        chosen = [test for turn in turns for test in turn if test is not None][:ENOUGH_TESTS]
        return [(test, self.seconds[test]) for test in sorted(chosen, key=lambda test: (self._breadth[test], test))]


def run(options: argparse.Namespace) -> Iterator[tuple[str, Outcome]]:
    """Yield each room with what became of a mutant of it."""
    marks = QUICK if options.corpus else WITHOUT_CORPUS
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        place = Copy(options.tree.resolve(), Path(folder))
        paths = sorted({path for room in options.rooms for path in ROOMS[room]})
        outer = [path for path in paths if not any(path != above and path.startswith(f"{above}/") for above in paths)]
        reached = place.reached(options.rooms, outer, marks, options.workers)
        print(f"{len(reached.seconds)} tests in {sum(reached.seconds.values()):.0f} s", flush=True)
        if reached.failed:
            print(f"failed without a mutant, and left out: {', '.join(sorted(reached.failed))}", flush=True)
        for room in options.rooms:
            for mutant in drawn(options.tree.resolve(), room, options.seed, options.per_room):
                own = reached.tests(mutant, ROOMS[room])
                yield room, place.judged(mutant, own, marks)


# What was seen once


def _key(mutant: Mutant) -> tuple[str, ...]:
    return mutant.path, mutant.function, mutant.kind, mutant.before, mutant.after


def record(tree: Path, outcomes: Sequence[Outcome]) -> None:
    """Add the mutants that tests saw to the record of a tree."""
    path = tree / RECORD
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    lines += [json.dumps([*_key(one.mutant), one.by]) for one in outcomes if one.seen and "::" in one.by]
    path.write_text("".join(f"{line}\n" for line in sorted(set(lines))), encoding="utf-8")


def recorded(tree: Path) -> list[tuple[Mutant, str]]:
    """Return the mutants of the record that stand in exactly one place of a tree's code, each with its test."""
    tests = {tuple(line[:-1]): line[-1] for line in map(json.loads, (tree / RECORD).read_text().splitlines())}
    paths = sorted({path for path, *_ in tests if (tree / path).exists()})
    found: defaultdict[tuple[str, ...], list[Mutant]] = defaultdict(list)
    for path in paths:
        for mutant in Sites(path, (tree / path).read_text("utf-8")).found:
            found[_key(mutant)].append(mutant)
    return [(found[key][0], test) for key, test in sorted(tests.items()) if len(found[key]) == 1]


def tried_again(tree: Path, count: int, least: int = LEAST_RECORDED) -> list[str]:
    """Return what is wrong with the record of a tree: of its mutants, some are tried, which others for another tree."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        place, found = Copy(tree, Path(folder)), recorded(tree)
        quick = place.collected(sorted({test.partition("::")[0] for _, test in found}), QUICK)
        here = [(mutant, test) for mutant, test in found if test in quick]
        print(f"{len(here)} recorded mutants stand in the code, with a quick test", flush=True)
        wrong = [] if len(here) >= least else [f"less than {least} do: draw others, with --record"]
        texts = "".join((tree / path).read_text("utf-8") for path in sorted({mutant.path for mutant, _ in here}))
        chosen = sorted(here, key=lambda one: hashlib.sha256(f"{texts}{one}".encode()).digest())[:count]
        if failed := place.failed([test for _, test in chosen], QUICK, HANGS_SECONDS):
            return [*wrong, f"fails without a mutant: {failed}"]
        for mutant, test in chosen:
            with place.changed(mutant):
                is_seen = bool(place.failed([test], QUICK, HANGS_SECONDS))
            print(f"{'seen' if is_seen else 'not seen'} by {test}: {mutant}", flush=True)
            wrong += [] if is_seen else [f"{mutant} is not seen any more by {test}"]
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-room", type=int, default=25, help="mutants of each room")
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS), metavar="ROOM")
    parser.add_argument("--tree", type=Path, default=HERE, help="a checkout, with an environment in .venv or ours")
    parser.add_argument("--corpus", action="store_true", help="with the tests that need the corpus of real series")
    parser.add_argument("--workers", type=int, default=2, help="of the first run")
    parser.add_argument("--json", type=Path, help="write every outcome to this file")
    parser.add_argument("--record", action="store_true", help=f"add what is seen to {RECORD}")
    parser.add_argument("--again", type=int, metavar="COUNT", help=f"draw none: try mutants of {RECORD}")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    if options.again is not None:
        sys.exit("\n".join(tried_again(options.tree.resolve(), options.again)) or None)
    sums: dict[str, list[int]] = {room: [0, 0, 0] for room in options.rooms}
    written = []
    for room, outcome in run(options):
        sums[room][0] += outcome.seen
        sums[room][1] += 1
        sums[room][2] += outcome.tests == 0
        written.append({"room": room, **asdict(outcome)})
        said = (
            f"seen ({outcome.by})" if outcome.seen else "not seen" if outcome.tests else "not seen: no test enters it"
        )
        print(f"{outcome.seconds:6.1f} s  {outcome.mutant}  {said}, {outcome.tests} tests", flush=True)
        if options.record:
            record(options.tree, [outcome])
        if options.json is not None:
            options.json.write_text(json.dumps(written, indent=1), encoding="utf-8")
    for room, (seen, of, unreached) in sums.items():
        print(f"{room}: {seen} of {of}, no test enters {unreached}")
    print(f"seen: {sum(seen for seen, *_ in sums.values())} of {sum(of for _, of, _ in sums.values())}")


if __name__ == "__main__":
    main()
