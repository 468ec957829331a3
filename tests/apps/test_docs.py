"""The documents: their snippets run, their links lead somewhere, and no option or public name is left out."""

import importlib
import inspect
import re
import shutil
from pathlib import Path

import pytest
import torch

import kinlmr

ROOT = Path(__file__).parents[2]
DOCS = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
EXTRAS = {"torch.onnx": "onnxscript", ".safetensors": "safetensors", "import av": "av"}  # a snippet's word: its package
SNIPPETS = [
    pytest.param(code, id=f"{name}-{number}")
    for name, text in DOCS.items()
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", text, re.S), 1)
]
API, OPTIONS = DOCS["api.md"], DOCS["options.md"]


@pytest.mark.parametrize("code", SNIPPETS)
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch's own, while it exports
def test_snippets_run(code, tmp_path, monkeypatch):
    for word, package in EXTRAS.items():
        if word in code:
            pytest.importorskip(package)
    if ".cuda(" in code and not torch.cuda.is_available():
        pytest.skip("no GPU")
    shutil.copytree(ROOT / "kinlmr/video/data", tmp_path / "kinlmr/video/data")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "snippet", "exec"), {})


def lost(text, folder):
    """The relative links of a text that lead to no file, or to no heading of one."""
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, heading = target.partition("#")
        path = folder / name if name else None
        if path is not None and not path.exists():
            yield target
        elif heading:
            heads = re.findall(r"^#+ (.*)$", path.read_text() if path else text, re.M)
            if heading not in [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]:
                yield target


@pytest.mark.parametrize("name", DOCS)
def test_links_lead_somewhere(name):
    assert not list(lost(DOCS[name], ROOT / "docs"))


def test_the_law_of_links_can_fail():
    text = "# One head\n[a](README.md) [b](https://a.b) [c](#one-head) [d](api.md#losses)"
    assert not list(lost(text, ROOT / "docs"))
    broken = text.replace("README", "READYOU").replace("one-head", "two").replace("losses", "gains")
    assert list(lost(broken, ROOT / "docs")) == ["READYOU.md", "#two", "api.md#gains"]


def test_the_index_names_every_document():
    assert [name for name in DOCS if name != "README.md" and f"({name})" not in DOCS["README.md"]] == []


@pytest.mark.parametrize("function", [kinlmr.build, kinlmr.load_body, kinlmr.recover])
def test_every_option_is_named_with_its_default(function):
    section = OPTIONS.partition(f"## `kinlmr.{function.__name__}`\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*?)\|", section, re.M))
    parameters = {name: p for name, p in inspect.signature(function).parameters.items() if name != "points"}
    assert list(rows) == list(parameters)
    for name, parameter in parameters.items():
        shown = rows[name].strip(" `").replace('"', "'")
        if parameter.default is inspect.Parameter.empty:
            assert shown == ""
        elif isinstance(parameter.default, float):
            assert float(shown) == parameter.default
        else:
            assert shown == repr(parameter.default), name


def test_what_can_be_chosen_is_all_there():
    body = importlib.import_module("kinlmr.body")
    skeletons = importlib.import_module("kinlmr.skeleton").installed()
    sets = {name: len(points) for name, points in body.keypoint_sets().items()}
    assert all(f"`{name}`" in OPTIONS for name in (*skeletons, *kinlmr.engine.CELLS, *body.embedded()))
    assert all(f"| `{name}` | {r.dimension} |" in OPTIONS for name, r in kinlmr.ROTATIONS.items())
    assert all(f"| `{name}` | {count} |" in OPTIONS for name, count in sets.items())


def test_every_public_name_is_named():
    assert [name for name in kinlmr.__all__ if not re.search(rf"`kinlmr\.{name}\b", API)] == []


def resolves(name):
    """Whether a dotted name is a module, or an attribute of one, and no old name of it."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            try:
                found = getattr(found, part)
            except (AttributeError, FutureWarning):  # the second: it has moved
                return False
        return True
    return False


@pytest.mark.parametrize("name", DOCS)
def test_every_name_exists(name):
    names = set(re.findall(r"\bkinlmr(?:\.[A-Za-z_]\w*)+(?![\w/])", DOCS[name]))
    assert sorted(one for one in names if not resolves(one)) == []


def test_the_law_of_names_can_fail():
    names = ("kinlmr.build", "kinlmr.motion.clips.bank", "kinlmr.motion.attic", "attic.clips", "kinlmr.Stream")
    assert [resolves(name) for name in names] == [True, True, False, False, False]


def test_the_promises_tests_exist():
    tests = {path.name: path.read_text() for path in (ROOT / "tests").glob("*/test_*.py")}
    named, file = re.findall(r"`(test_\w+\.py)?::(test_\w+)`", DOCS["reliability.md"]), ""
    assert len(named) > 30
    for where, test in named:
        file = where or file
        assert f"def {test}(" in tests[file], f"{file}::{test}"
