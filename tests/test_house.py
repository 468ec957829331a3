"""The house itself: public names, floors, packaging, and every command and snippet of the README."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import kinlmr

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

FLOORS = [
    {"documents", "files", "kernels", "raster", "glb"},
    {"skeleton", "sheets", "gru_kernels", "chain_kernels", "skin_kernels"},
    {"cells"},
    {"plan", "rotations", "camera", "draw", "pickles", "keypoints", "losses", "matmul", "nodes", "rows", "skinning"},
    {"products", "bvh", "kinematics", "database", "metrics", "tracking"},
    {"body"},
    {"schedule", "assembly", "recording"},
    {"assets"},
    {"engine", "retarget", "noise"},
    {"motion"},
    {"clips", "export"},
    {"model"},
    {"builder"},
    {"checkpoint"},
    {"recovery"},
    {"__init__"},
]

PUBLIC = """
    LMR ROTATIONS Body Estimate Mesh Part Plan Recovery Rotation Skeleton State Stream Tracks
    build camera clips compile concat draw export keypoints load load_body load_skeleton losses metrics motion
    project read_database recover rotations save save_body track
"""


def test_public_names_are_frozen():
    assert sorted(kinlmr.__all__) == sorted(PUBLIC.split())
    assert all(hasattr(kinlmr, name) for name in kinlmr.__all__)


def imported(source):
    """The modules a file imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def assert_floors(sources):
    """A file imports only from floors below its own; torch stays off the ground floor; only plan knows networkx."""
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    assert set(sources) == set(floor)
    for name, source in sources.items():
        modules = set(imported(source))
        below = {m.split(".")[1] for m in modules if m.startswith("kinlmr.") and m.split(".")[1] in floor}
        assert all(floor[other] < floor[name] for other in below), name
        packages = {m.split(".")[0] for m in modules}
        assert name not in ("documents", "skeleton", "plan") or "torch" not in packages
        assert name == "plan" or "networkx" not in packages


def sources():
    return {path.stem: path.read_text() for path in (ROOT / "kinlmr").glob("*.py")}


def test_floors():
    assert_floors(sources())


@pytest.mark.parametrize(
    "extra", [("skeleton", "import torch"), ("engine", "from kinlmr import builder"), ("model", "import networkx")]
)
def test_the_law_of_floors_can_fail(extra):
    files = sources()
    files[extra[0]] += f"\n{extra[1]}\n"
    with pytest.raises(AssertionError):
        assert_floors(files)


def test_skeletons_and_plans_load_without_torch():
    code = "import sys, types; sys.modules['torch'] = None; import importlib.util as u\n"
    code += "package = types.ModuleType('kinlmr'); package.__path__ = [sys.argv[1]]; sys.modules['kinlmr'] = package\n"
    code += "from kinlmr import skeleton, plan; print(plan.compile(skeleton.parse(open(sys.argv[2]).read())).parts[0])"
    done = python("-c", code, str(ROOT / "kinlmr"), str(ROOT / "skeletons/smpl.yaml"))
    assert done.stdout == "root\n"


# ------------------------------------------------------------------------------------------------------------ packaging

LOOK = "import kinlmr.skeleton as s; print(s.__file__); print(*s.installed())"


def python(*args, path="", cwd=None):
    """A Python of its own, which sees only ``path`` before the installed packages."""
    env = {**os.environ, "PYTHONPATH": str(path), "PYTHONWARNINGS": "error"}
    return subprocess.run([sys.executable, *args], env=env, cwd=cwd, capture_output=True, text=True, check=True)


def test_skeletons_are_found_in_a_zip(tmp_path):
    archive = tmp_path / "kinlmr.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (ROOT / "kinlmr").glob("*.py"):
            file.write(path, f"kinlmr/{path.name}")
        for path in (ROOT / "skeletons").glob("*.yaml"):
            file.write(path, f"kinlmr/skeletons/{path.name}")
    where, names = python("-c", LOOK, path=archive, cwd=tmp_path).stdout.splitlines()
    assert where.startswith(str(archive))
    assert "smpl.yaml" in names.split()
    code = "import kinlmr; print(kinlmr.load_skeleton('mano.yaml').name)"
    assert python("-c", code, path=archive, cwd=tmp_path).stdout == "mano\n"


@pytest.mark.parametrize("checkout", [True, False])
def test_a_bare_checkout_finds_its_skeletons_and_a_broken_wheel_no_strangers(tmp_path, checkout):
    shutil.copytree(ROOT / "kinlmr", tmp_path / "kinlmr", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "skeletons", tmp_path / "skeletons")
    if checkout:
        shutil.copy(ROOT / "pyproject.toml", tmp_path)
    where, *names = python("-c", LOOK, path=tmp_path, cwd=tmp_path).stdout.splitlines()
    assert where.startswith(str(tmp_path))
    assert ("smpl.yaml" in " ".join(names)) == checkout


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


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch's own, while it exports
def test_the_readmes_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README, re.S)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})


def test_the_readmes_files_exist():
    for name in re.findall(r"\]\(([^)#:]+)\)|src=\"([^\":]+)\"", README):
        assert (ROOT / "".join(name)).exists(), name


def unknown_tests(text):
    """Tests that a text names as `test_x.py::test_y`, or `::test_z` of the same file, and that there are not."""
    file = ""
    for named, test in re.findall(r"`(test_\w+\.py)?::(\w+)`", text):
        file = named or file
        path = ROOT / "tests" / file
        if not path.is_file() or f"def {test}(" not in path.read_text():
            yield f"{file}::{test}"


def test_the_promises_name_tests_that_exist():
    text = (ROOT / "docs/reliability.md").read_text()
    assert text.count("::test_") > 20
    assert not list(unknown_tests(text))
    assert list(unknown_tests("`test_house.py::test_floors`, `::test_roofs`")) == ["test_house.py::test_roofs"]


def test_the_readme_shows_the_plan_as_it_is():
    plan = kinlmr.compile(kinlmr.load_skeleton("smpl.yaml"))
    assert plan.mermaid() in README


def test_a_users_own_skeleton_trains_without_python(tmp_path):
    (tmp_path / "dog.yaml").write_text(
        "name: robot_dog\n"
        "joints: {base: null, head: base, hip: base, knee: hip, arm: base, grip: arm}\n"
        "parts: {body: [base], head: [head], leg: [hip, knee], arm: [arm], grip: [grip]}\n"
        "given: {head: [body], leg: [body], arm: [body], grip: [arm, head]}\n"
    )
    script = str(ROOT / "examples/fit_clip.py")
    done = python(script, "--skeleton", "dog.yaml", "--steps", "1", "--out", "dog.npz", path=ROOT, cwd=tmp_path)
    assert "robot_dog: 6 joints, 5 parts, 3 levels" in done.stdout
    assert kinlmr.load(tmp_path / "dog.npz").plan.parts == ("body", "head", "leg", "arm", "grip")


def test_the_gallery_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    script = str(ROOT / "examples/gallery.py")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, script, "--body", "anny24_lo369", "--out", "gallery.png"]
    subprocess.run(command, env=env, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "gallery.png").read_bytes().startswith(b"\x89PNG")


def test_no_path_of_one_machine_is_in_the_tree():
    homes = re.compile(r"(?<![\w.])/(home|work|Users|root|opt)/\w")
    texts = [path for kind in ("py", "md", "toml", "yaml", "txt") for path in ROOT.glob(f"[!.]*/**/*.{kind}")]
    texts += [ROOT / name for name in ("README.md", "CHANGELOG.md", "pyproject.toml", "constraints.txt", ".ci/run")]
    assert len(texts) > 30
    for path in texts:
        assert not homes.search(path.read_text()), path
