"""Mutation testing: change one thing in a file of kinlmr, run the tests that run its line, see whether one fails.

    python .ci/mutate.py rotations plan          all mutants of these files; --sample 60 takes that many at random

A mutant is one changed comparison, operator, condition, number or truth value, a return of None, a call or a raise
left out. Texts are left alone (strings, f-strings, what is inside a raise), and so are annotations. Hypothesis draws
few examples, always the same. The tests are collected once, and each mutant runs in a fork that puts its code into the
functions that are there; a mutant of what runs at import, in a fork that has torch, but not kinlmr, imported.
"""

import argparse
import ast
import difflib
import gc
import importlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a fork has no other threads
ROOT = Path(__file__).resolve().parents[1]
SLOW = ("test_bombs_are_refused_in_little_memory",)  # runs in a process of its own, which would not see the mutant
MORE = {"documents": ("skeleton",), "keypoints": ("assets", "recovery", "frozen"), "assets": ("body",),
        "assembly": ("assets", "body"), "kinematics": ("body",), "nodes": ("model",)}  # fmt: skip  # more tests
SECONDS = 60  # of computing; a mutant that takes longer is counted as killed
UNTOLD = 99  # the exit status of a fork that could not put the mutant into the functions
OPERATORS = {ast.Add: ast.Sub, ast.Mult: ast.Div, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
             ast.MatMult: ast.Mult, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.Sub: ast.Add, ast.Div: ast.Mult,
             ast.BitAnd: ast.BitOr, ast.RShift: ast.LShift, ast.And: ast.Or, ast.Or: ast.And, ast.USub: ast.UAdd,
             ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
             ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}  # fmt: skip
Mutant = tuple[int, Any, Any, Any]  # a line, a node or list, its field or place, what to put there


def text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def mutants(node: ast.AST, line: int = 0) -> Iterator[Mutant]:
    line = getattr(node, "lineno", line)
    negated = lambda test: ast.UnaryOp(ast.Not(), test)  # noqa: E731
    match node:
        case ast.Compare():
            for i, op in enumerate(node.ops):
                yield line, node.ops, i, OPERATORS[type(op)]()
        case ast.BinOp() if not text(node.left) and not text(node.right):
            yield line, node, "op", OPERATORS[type(node.op)]()
        case ast.BoolOp() | ast.AugAssign():
            yield line, node, "op", OPERATORS[type(node.op)]()
        case ast.UnaryOp(op=ast.USub()):
            yield line, node, "op", ast.UAdd()
        case ast.UnaryOp(op=ast.Not() | ast.Invert()):
            yield line, node, "operand", ast.UnaryOp(node.op, node.operand)
        case ast.Constant(value=bool()):
            yield line, node, "value", not node.value
        case ast.Constant(value=int() | float()):
            yield line, node, "value", node.value + 1
        case ast.Return(value=ast.expr()) if not text(node.value):
            yield line, node, "value", ast.Constant(None)
        case ast.Expr(value=ast.Call()):
            yield line, node, "value", ast.Constant(None)
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test) if not isinstance(test, ast.Compare):
            yield line, node, "test", negated(test)
        case ast.comprehension():
            for i, test in enumerate(node.ifs):
                yield test.lineno, node.ifs, i, negated(test)
    for field, value in ast.iter_fields(node):
        for i, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.Raise):
                yield child.lineno, value, i, ast.Pass()
            elif isinstance(child, ast.AST) and not text(child) and field not in ("annotation", "returns"):
                yield from mutants(child, line)


def put(owner: Any, key: Any, new: Any) -> Any:
    """Put something into a node or list, and return what was there."""
    if isinstance(owner, list):
        old, owner[key] = owner[key], new
    else:
        old = getattr(owner, key)
        setattr(owner, key, new)
    return old


class Tests:
    """Runs the wanted tests only, the quickest first, and notes how long each took."""

    def __init__(self, wanted: dict[str, float] | None = None) -> None:
        self.wanted, self.seconds = wanted, dict[str, float]()

    def choose(self, items: list[Any]) -> None:
        cost = self.wanted
        if cost is None:
            items[:] = [item for item in items if item.name not in SLOW]
        else:
            items[:] = sorted((item for item in items if item.nodeid in cost), key=lambda item: cost[item.nodeid])

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        self.choose(items)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


class Forks(Tests):
    """Collects once; then tells of each job whether its wanted tests pass, in a fork where functions are the mutant's.

    A job is a tree's mutant and its wanted tests. One byte an answer: 1 they pass, 0 they fail, ? it cannot be told so.
    """

    def __init__(self, file: Path, tree: ast.AST, jobs: list[tuple[Mutant, dict[str, float]]], answers: int) -> None:
        super().__init__()
        self.file, self.tree, self.jobs, self.answers = file, tree, jobs, answers

    def pytest_runtestloop(self, session: Any) -> None:
        for mutant, wanted in self.jobs:
            if not (pid := os.fork()):
                limit()
                try:
                    put(*mutant[1:])
                    swap(self.file, self.tree)
                except Exception:  # such as a function that no longer needs what surrounds it
                    os._exit(UNTOLD)
                self.wanted = wanted
                self.choose(session.items)
                return  # pytest goes on with these items
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            os.write(self.answers, b"1" if status == 0 else b"?" if status == UNTOLD else b"0")
        os._exit(0)


def swap(file: Path, tree: ast.AST) -> None:
    """Give the functions of a file that are there the code that a changed tree has for them."""
    new: dict[tuple[str, int], CodeType | None] = {}  # None where two of a line have one name: that fails
    rest = [compile(ast.fix_missing_locations(tree), file, "exec")]
    while rest:
        for code in (c for c in rest.pop().co_consts if isinstance(c, CodeType)):
            rest.append(code)
            place = code.co_name, code.co_firstlineno
            new[place] = None if place in new else code
    for function in gc.get_objects():
        if type(function) is FunctionType and function.__code__.co_filename == str(file):
            function.__code__ = new[function.__code__.co_name, function.__code__.co_firstlineno]


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    signal.alarm(10 * SECONDS)


def pytest_of(name: str, tests: Tests, *options: str) -> int:
    import pytest
    import torch

    torch.set_num_threads = lambda n: None
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    files = [f"tests/test_{n}.py" for n in (name, *MORE.get(name, ()))] + [f"kinlmr/{name}.py"]
    chosen = [*filter(os.path.exists, files), "-xq", "-p", "no:cacheprovider",
              "-W", "ignore::pytest.PytestAssertRewriteWarning", "--hypothesis-profile=mutate"]  # fmt: skip
    return int(pytest.main([*chosen, *options], plugins=[tests]))


def forked(name: str, tests: Tests, *options: str, mutant: Mutant | None = None, tree: ast.AST | None = None) -> int:
    """pytest's exit status, or minus the signal that ended it, in a fork that imports the mutant."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    file, read = ROOT / "kinlmr" / f"{name}.py", SourceFileLoader.get_code
    if mutant and tree:
        put(*mutant[1:])
        code = compile(ast.fix_missing_locations(tree), file, "exec")
        SourceFileLoader.get_code = lambda s, n: code if s.path == str(file) else read(s, n)
        limit()
        try:
            importlib.import_module(f"kinlmr.{name}")  # before pytest does, which rewrites the files it is given
        except Exception:
            os._exit(1)
    status = pytest_of(name, tests, *options)
    if not mutant:
        Path(os.environ["COVERAGE_FILE"] + ".json").write_text(json.dumps(tests.seconds))
    os._exit(status)


def main() -> None:
    import coverage
    import hypothesis

    for module in ("torch", "torch.func", "networkx", "einops", "yaml", "scipy.spatial", "pytest"):
        __import__(module)  # once, for every fork
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="files of kinlmr/, without .py")
    parser.add_argument("--sample", type=int, default=10**9, help="at most so many mutants of each file")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    every = list(hypothesis.HealthCheck)
    hypothesis.settings.register_profile(
        "mutate", max_examples=15, derandomize=True, database=None, deadline=None, suppress_health_check=every
    )
    for name in args.names:
        source = Path(f"kinlmr/{name}.py").read_text()
        with tempfile.TemporaryDirectory() as folder:
            os.environ["COVERAGE_FILE"] = f"{folder}/lines"
            if forked(name, Tests(), "--cov=kinlmr", "--cov-context=test", "--cov-report="):
                sys.exit(f"{name}: its tests fail without a mutant, or there are none")
            seconds = json.loads(Path(f"{folder}/lines.json").read_text())
            data = coverage.CoverageData(f"{folder}/lines")
            data.read()
            lines = data.contexts_by_lineno(str(ROOT / "kinlmr" / f"{name}.py"))
        tree = ast.parse(source)
        possible = list(mutants(tree))
        covered = [m for m in possible if lines.get(m[0])]
        tried = random.Random(args.seed).sample(covered, min(args.sample, len(covered)))
        survived, began = 0, time.time()
        imported, jobs = list[tuple[Mutant, dict[str, float]]](), list[tuple[Mutant, dict[str, float]]]()
        for mutant in sorted(tried, key=lambda m: m[0]):
            runs = {context.split("|")[0] for context in lines[mutant[0]]}
            wanted = {test: cost for test, cost in seconds.items() if "" in runs or test in runs}
            (imported if "" in runs else jobs).append((mutant, wanted))
        answers, answer = os.pipe()
        if not (host := os.fork()):
            importlib.import_module(f"kinlmr.{name}")
            os._exit(pytest_of(name, Forks(ROOT / "kinlmr" / f"{name}.py", tree, jobs, answer)))
        os.close(answer)
        for place, (mutant, wanted) in enumerate(jobs + imported):
            told = os.read(answers, 1) if place < len(jobs) else b"?"
            if told not in (b"0", b"1"):
                told = b"1" if forked(name, Tests(wanted), mutant=mutant, tree=tree) == 0 else b"0"
            if told == b"1":
                survived += 1
                print(f"{name}:{mutant[0]} survived", *shown(tree, mutant), sep="\n", flush=True)
        os.close(answers)
        os.waitpid(host, 0)
        rate = f"{len(tried) - survived} killed, {100 * (1 - survived / max(1, len(tried))):.1f} %"
        uncovered = len(possible) - len(covered)
        print(f"{name}: {len(tried)} of {len(covered)} mutants tried, {rate}; {uncovered} on lines no test runs; "
              f"{time.time() - began:.0f} s", flush=True)  # fmt: skip


def shown(tree: ast.AST, mutant: Mutant) -> list[str]:
    """The lines that the mutant changes."""
    _, owner, key, new = mutant
    before = ast.unparse(tree).splitlines()
    old = put(owner, key, new)
    after = ast.unparse(tree).splitlines()
    put(owner, key, old)
    return list(difflib.unified_diff(before, after, n=0, lineterm=""))[3:]  # without the names of files and the place


if __name__ == "__main__":
    main()
