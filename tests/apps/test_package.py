"""The package from elsewhere: in a zip, as a bare copy, without torch; and what README promises of it runs."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import kinlmr

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))
import fit_clip  # noqa: E402

README = (ROOT / "README.md").read_text()
LOOK = "import kinlmr.skeleton as s; print(s.__file__); print(*s.installed())"


def python(*args, path="", cwd=None):
    """A Python of its own, which sees only ``path`` before the installed packages."""
    env = {**os.environ, "PYTHONPATH": str(path), "PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, *args], env=env, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_skeletons_and_plans_load_without_torch():
    code = "import sys, types; sys.modules['torch'] = None; import importlib.util as u\n"
    code += "package = types.ModuleType('kinlmr'); package.__path__ = [sys.argv[1]]; sys.modules['kinlmr'] = package\n"
    code += "from kinlmr import skeleton, plan; print(plan.compile(skeleton.parse(open(sys.argv[2]).read())).parts[0])"
    done = python("-c", code, str(ROOT / "kinlmr"), str(ROOT / "skeletons/smpl.yaml"))
    assert done.stdout == "root\n"


def test_recover_and_to_world_import_no_sympy():
    """Which torch imports for some of its functions, and which takes longer than all the rest of a first call."""
    code = "import sys, warnings, torch, kinlmr; torch.manual_seed(0); points = 300 * torch.rand(3, 17, 3)\n"
    code += "warnings.filterwarnings('ignore', '.*never stands')  # so may random points\n"
    code += "recovery, _ = kinlmr.recover(kinlmr.load('anny24-coco17'), points, 30)\n"
    code += "kinlmr.to_world(recovery, 30, (640, 480), 700); print('sympy' in sys.modules)"
    assert python("-c", code, path=ROOT).stdout == "False\n"


def test_skeletons_are_found_in_a_zip(tmp_path):
    archive = tmp_path / "kinlmr.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (ROOT / "kinlmr").rglob("*.py"):
            file.write(path, path.relative_to(ROOT))
        for path in (ROOT / "skeletons").glob("*.yaml"):
            file.write(path, f"kinlmr/skeletons/{path.name}")
    code = f"{LOOK}; import kinlmr; print(kinlmr.load_skeleton('smpl_pairs.yaml').name)"
    where, names, loaded = python("-c", code, path=archive, cwd=tmp_path).stdout.splitlines()
    assert where.startswith(str(archive))
    assert "smpl.yaml" in names.split()
    assert loaded == "smpl_pairs"


@pytest.mark.parametrize("checkout", [True, False])
def test_a_bare_checkout_finds_its_skeletons_and_a_broken_wheel_no_strangers(tmp_path, checkout):
    shutil.copytree(ROOT / "kinlmr", tmp_path / "kinlmr", ignore=shutil.ignore_patterns("__pycache__", "*.onnx"))
    shutil.copytree(ROOT / "skeletons", tmp_path / "skeletons")
    if checkout:
        shutil.copy(ROOT / "pyproject.toml", tmp_path)
    where, *names = python("-c", LOOK, path=tmp_path, cwd=tmp_path).stdout.splitlines()
    assert where.startswith(str(tmp_path))
    assert ("smpl.yaml" in " ".join(names)) == checkout


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch's own, while it exports
def test_the_readmes_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README, re.S)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})


def test_a_users_own_skeleton_trains_without_python(tmp_path, monkeypatch, capsys):
    (tmp_path / "dog.yaml").write_text(
        "name: robot_dog\n"
        "joints: {base: null, head: base, hip: base, knee: hip, arm: base, grip: arm}\n"
        "parts: {body: [base], head: [head], leg: [hip, knee], arm: [arm], grip: [grip]}\n"
        "given: {head: [body], leg: [body], arm: [body], grip: [arm, head]}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fit_clip.py", "--skeleton", "dog.yaml", "--steps", "1", "--out", "dog.npz"])
    fit_clip.main()
    assert "robot_dog: 6 joints, 5 parts, 3 levels" in capsys.readouterr().out
    assert kinlmr.load("dog.npz").plan.parts == ("body", "head", "leg", "arm", "grip")


def test_the_gallery_is_drawn(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    import gallery

    monkeypatch.setattr(gallery, "POSES", {name: gallery.POSES[name] for name in ("T-pose", "run")})
    monkeypatch.setattr(sys, "argv", ["gallery.py", "--body", "anny24_lo369", "--out", str(tmp_path / "gallery.png")])
    gallery.main()
    assert (tmp_path / "gallery.png").read_bytes().startswith(b"\x89PNG")
