"""Mutation testing: change one thing in a file of kinlmr, run the tests that run its line, see whether one fails.

    python .ci/mutate.py rotations plan          all mutants of these files; --sample 60 takes that many at random

A mutant is one changed comparison, operator, condition, number or truth value, a return of None, a call or a raise
left out. Texts are left alone (strings, f-strings, what is inside a raise), and so are annotations. Each mutant runs
in a fork of a process that has torch, but not kinlmr, imported. Hypothesis draws few examples, always the same.
"""

import argparse
import ast
import difflib
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
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a fork has no other threads
ROOT = Path(__file__).resolve().parents[1]
SLOW = ("test_bombs_are_refused_in_little_memory",)  # runs in a process of its own, which would not see the mutant
MORE = {"documents": ("skeleton",), "keypoints": ("recovery", "frozen"), "assets": ("body",)}  # whose tests run it too
SECONDS = 60  # of computing; a mutant that takes longer is counted as killed
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

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        cost = self.wanted
        if cost is None:
            items[:] = [item for item in items if item.name not in SLOW]
        else:
            items[:] = sorted((item for item in items if item.nodeid in cost), key=lambda item: cost[item.nodeid])

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


def forked(name: str, tests: Tests, *options: str, mutant: Mutant | None = None, tree: ast.AST | None = None) -> int:
    """pytest's exit status, or minus the signal that ended it, in a fork that sees the mutant."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    import pytest
    import torch

    file, read = ROOT / "kinlmr" / f"{name}.py", SourceFileLoader.get_code
    if mutant and tree:
        put(*mutant[1:])
        code = compile(ast.fix_missing_locations(tree), file, "exec")
        SourceFileLoader.get_code = lambda s, n: code if s.path == str(file) else read(s, n)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        signal.alarm(10 * SECONDS)
        try:
            importlib.import_module(f"kinlmr.{name}")  # before pytest does, which rewrites the files it is given
        except Exception:
            os._exit(1)
    torch.set_num_threads = lambda n: None
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    files = [f"tests/test_{n}.py" for n in (name, *MORE.get(name, ()))]
    chosen = [*filter(os.path.exists, files), f"kinlmr/{name}.py", "-xq",
              "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]  # fmt: skip
    status = pytest.main([*chosen, "--hypothesis-profile=mutate", *options], plugins=[tests])
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
        for mutant in sorted(tried, key=lambda m: m[0]):
            runs = {context.split("|")[0] for context in lines[mutant[0]]}
            wanted = {test: cost for test, cost in seconds.items() if "" in runs or test in runs}
            if forked(name, Tests(wanted), mutant=mutant, tree=tree) == 0:
                survived += 1
                print(f"{name}:{mutant[0]} survived", *shown(tree, mutant), sep="\n", flush=True)
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
