"""The house itself: public names, floors, packaging, and every command and snippet of the README."""

import ast
import functools
import importlib
import pkgutil
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import kinlmr
from kinlmr import _moved

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

WINGS = ("body", "engine", "export", "files", "kernels", "motion", "recovery", "video", "world")
NEVER = {  # what a wing, or the paper (the files of kinlmr itself), does not import; "" is the paper
    "": {"recovery", "motion", "export", "video", "world"},
    "engine": {"", "body", "export", "files", "motion", "recovery", "video", "world"},
    "kernels": {"", "body", "engine", "export", "files", "motion", "recovery", "video", "world"},
    "files": {"", "body", "engine", "export", "kernels", "motion", "recovery", "video", "world"},
    "body": {"engine", "export", "motion", "recovery", "video", "world"},
}
THE_MODEL = {
    f"kinlmr.{name}" for name in ("model", "options", "build", "checkpoint", "keypoints", "reference", "state")
}
EXTRAS = {"av", "onnxruntime", "mediapipe", "matplotlib", "ray", "safetensors", "triton"}
OWN = {"torch", "numpy", "networkx", "einops", "yaml", "kinlmr", "__future__"}

PUBLIC = """
    LMR ROTATIONS Body Estimate Mesh Part Plan Recovery RecoveryState Rotation Skeleton State Tracks
    build camera compile concat export keypoints load load_body load_skeleton losses metrics motion
    World WorldState project read_database recover recover_clip rotations save save_body to_world track video
"""


def test_public_names_are_frozen():
    assert sorted(kinlmr.__all__) == sorted(PUBLIC.split())
    assert all(hasattr(kinlmr, name) for name in kinlmr.__all__)


def rooms():
    """The files of kinlmr by module, such as kinlmr.engine.sweep; a wing's __init__ under the wing's name."""
    found = {}
    for path in (ROOT / "kinlmr").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


@functools.cache
def imports(source, inside=True):
    """(module, name) of every import of a file; ``inside``: those of functions too."""
    tree, found = ast.parse(source), []
    for node in ast.walk(tree) if inside else tree.body:
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found += [(node.module, alias.name) for alias in node.names]
    return found


def wing(module):
    """The wing of a module of kinlmr; "" for the paper."""
    second = [*module.split("."), ""][1]
    return second if second in WINGS else ""


def assert_walls(sources):
    """Nobody imports what the walls forbid, nor another wing's private names; there is no circle."""
    shown = {name: re.findall(r'"(\w+)"', sources[f"kinlmr.{name}"].partition("__all__")[2]) for name in WINGS}
    edges = {}
    for room, source in sources.items():
        own, packages = wing(room), {module.split(".")[0] for module, _ in imports(source, inside=False)}
        assert packages <= OWN | set(sys.stdlib_module_names), (room, packages)
        assert not {m.split(".")[0] for m, _ in imports(source)} & {"av", "onnxruntime", "mediapipe"} or own == "video"
        assert room == "kinlmr.plan" or "networkx" not in packages, room
        assert room not in ("kinlmr.skeleton", "kinlmr.plan") or "torch" not in packages, room
        edges[room] = set()
        for module, name in imports(source):
            if module.split(".")[0] != "kinlmr":
                continue
            target = f"{module}.{name}" if f"{module}.{name}" in sources else module
            edges[room].add(target)
            there = wing(target)
            if room == "kinlmr" or there == own:
                continue
            assert there not in NEVER.get(own, ()), f"{room} imports {target}"
            assert not (own == "body" and target in THE_MODEL), f"{room} imports {target}"
            if there and module != "kinlmr":
                first = [*module.split(".")[2:], name][0]
                assert first in shown[there], f"{room} imports {module}.{name}"
                assert not name.startswith("_"), f"{room} imports {module}.{name}"
    for room in edges:  # a wing's __init__ only hands names on: what it imports is not its own
        edges[room] = {other for other in edges[room] if other != f"kinlmr.{wing(room)}"} - {"kinlmr"}
    graph = TopologicalSorter(edges)
    graph.prepare()  # CycleError


def test_walls():
    assert_walls(rooms())


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("kinlmr.skeleton", "import torch"),
        ("kinlmr.model", "import networkx"),
        ("kinlmr.model", "from kinlmr.recovery import recover"),
        ("kinlmr.engine.sweep", "from kinlmr.body import Body"),
        ("kinlmr.kernels.skin", "from kinlmr.files import Array"),
        ("kinlmr.files.arrays", "from kinlmr.camera import fit"),
        ("kinlmr.body.model", "from kinlmr.keypoints import normalise"),
        ("kinlmr.motion.clips", "from kinlmr.body.skinning import _mix"),
        ("kinlmr.motion.clips", "from kinlmr.body.kinematics import Fronts"),
        ("kinlmr.export.writers", "import av"),
        ("kinlmr.losses", "import scipy"),
        ("kinlmr.engine.cells", "from kinlmr.engine.sweep import run"),
    ],
)
def test_the_law_of_walls_can_fail(room, line):
    files = rooms()
    files[room] += f"\n{line}\n"
    with pytest.raises((AssertionError, CycleError)):
        assert_walls(files)


def test_what_moved_is_found_under_its_old_name(monkeypatch):
    with pytest.warns(FutureWarning, match="kinlmr.draw is now kinlmr.video.draw"):
        assert kinlmr.draw is kinlmr.video.draw
    for old in ("matmul", "clips"):
        monkeypatch.delitem(sys.modules, f"kinlmr.{old}", raising=False)
        with pytest.warns(FutureWarning, match=f"kinlmr.{old} is now kinlmr.{_moved.MODULES[old]}"):
            assert importlib.import_module(f"kinlmr.{old}") is pkgutil.resolve_name(f"kinlmr.{_moved.MODULES[old]}")
        monkeypatch.delitem(sys.modules, f"kinlmr.{old}")
    for room in _moved.MODULES:
        assert f"kinlmr.{_moved.MODULES[room]}" in rooms(), room
    with pytest.raises(AttributeError, match="no attribute 'attic'"):
        kinlmr.attic  # noqa: B018


@pytest.mark.parametrize(("old", "new"), _moved.NAMES.items())
def test_what_was_renamed_is_found_under_its_old_name(old, new):
    module, _, name = f"kinlmr.{old}".rpartition(".")
    with pytest.warns(FutureWarning, match=f"^kinlmr.{old} is now kinlmr.{new}$") as seen:
        found = getattr(importlib.import_module(module), name)
    assert found is pkgutil.resolve_name(f"kinlmr.{new}")
    assert seen[0].filename == __file__
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'attic'"):
        importlib.import_module(module).attic  # noqa: B018


def test_the_table_of_words_has_every_old_name():
    table = (ROOT / "CONTRIBUTING.md").read_text()
    for old, new in {**_moved.MODULES, **_moved.NAMES}.items():
        assert f"| `kinlmr.{old}` | `kinlmr.{new}` |" in table, old


def test_tab_completion_shows_what_users_need():
    assert {name for name in dir(kinlmr) if not name.startswith("_")} == set(PUBLIC.split())


# ------------------------------------------------------------------------------------------------------------ packaging


def assert_pinned(pins, requirements, version):
    """On a Python, every requirement but kinlmr itself has one pin, and that fits it."""
    requirement = pytest.importorskip("packaging.requirements").Requirement
    here = lambda texts: [r for r in map(requirement, texts) if not r.marker or r.marker.evaluate(version)]  # noqa: E731
    pinned = here(pins)
    for wanted in here(requirements):
        found = [pin for pin in pinned if pin.name.lower() == wanted.name.lower()]
        assert len(found) == (wanted.name != "kinlmr"), (wanted.name, version)
        assert all(wanted.specifier.contains(str(pin.specifier).removeprefix("==")) for pin in found), wanted


@pytest.mark.parametrize("minor", range(10, 15))
def test_every_python_has_one_pin_of_every_requirement(minor):
    project = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = sum(project["optional-dependencies"].values(), project["dependencies"])
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    version = {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.0", "sys_platform": "linux"}
    assert_pinned(pins, requirements, version)
    for broken in (pins[1:], [*pins, pins[0]], ["torch==2.0", *pins[1:]]):
        with pytest.raises(AssertionError):
            assert_pinned(broken, requirements, version)


# ---------------------------------------------------------------------------------------------------- the tree of files

HEAVY = ("kinlmr/bodies", "kinlmr/weights")
ORIGIN = re.compile(r"\b(from|derived|drawn|drew|made|written|trained|recorded)\b", re.I)
LICENCE = re.compile(r"\b(licen[cs]ed?|terms|CC0|Apache-2\.0|BSD|MIT)\b", re.I)


def is_text(content):
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def assert_lean(files):
    """No file over 1 MB but bodies and weights; beside a binary a NOTICE or README.md names it, origin and licence."""
    for path, content in files.items():
        folder, _, name = path.rpartition("/")
        assert len(content) <= 1_000_000 or folder in HEAVY, f"{path} has {len(content):,} bytes"
        if not is_text(content):
            beside = [files.get(f"{folder}/{notice}".lstrip("/"), b"").decode() for notice in ("NOTICE", "README.md")]
            said = any(name in text and ORIGIN.search(text) and LICENCE.search(text) for text in beside)
            assert said, f"{path} is not text; say where it is from, and its licence, in {folder}/README.md"


def tracked():
    """Every file that git tracks, by its path: its bytes."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return {name: (ROOT / name).read_bytes() for name in done.stdout.split("\0") if (ROOT / name).is_file()}


def test_no_tracked_file_is_heavy_or_of_unknown_origin():
    assert_lean(tracked())


@pytest.mark.parametrize(
    "extra",
    [
        {"package.deb": b"!<arch>\0"},
        {"README.md": b"package.deb", "package.deb": b"!<arch>\0"},
        {"docs/README.md": b"a.png was drawn by examples/a.py. Licence: as the package.", "docs/b.png": b"\x89PNG"},
        {"kinlmr/bodies/b.npz": b"PK\3\4\0"},
        {"kinlmr/rows.txt": b"0 " * 600_000},
    ],
)
def test_the_law_of_files_can_fail(extra):
    assert_lean({"kinlmr/bodies/NOTICE": b"a.npz: made by us, CC0.", "kinlmr/bodies/a.npz": b"PK\0" * 400_000})
    with pytest.raises(AssertionError):
        assert_lean(extra)


# --------------------------------------------------------------------------------------------------------- what it says


def test_the_readmes_files_exist():
    for name in re.findall(r"\]\(([^)#:]+)\)|src=\"([^\":]+)\"", README):
        assert (ROOT / "".join(name)).exists(), name


def test_the_readme_shows_the_plan_as_it_is():
    plan = kinlmr.compile(kinlmr.load_skeleton("smpl.yaml"))
    assert plan.mermaid() in README


def test_no_path_of_one_machine_is_in_the_tree():
    homes = re.compile(r"(?<![\w.])/(home|work|Users|root|opt)/\w")
    texts = [path for kind in ("py", "md", "toml", "yaml", "txt") for path in ROOT.glob(f"[!.]*/**/*.{kind}")]
    texts += [ROOT / name for name in ("README.md", "CHANGELOG.md", "pyproject.toml", "constraints.txt", ".ci/run")]
    assert len(texts) > 30
    for path in texts:
        assert not homes.search(path.read_text()), path
