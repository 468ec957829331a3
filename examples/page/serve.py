"""Makes the folder dist/ and serves it on this computer only: the page, the networks, the body, the demo clip.

    python serve.py          # then open http://localhost:8000

It needs kinlmr with its extra (`pip install -e ".[onnx]"`) and onnxruntime-web, which it fetches with `npm ci` the
first time; then nothing is downloaded. The step's network is exported once, which takes a minute.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime
import torch

import kinlmr
from kinlmr.files import arrays as files
from kinlmr.video import stage
from kinlmr.world import floor, lock, pose, standing
from kinlmr.world import network as feet
from kinlmr.world import path as way

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
WEIGHTS = HERE.parents[1] / "kinlmr/weights"
SCRIPTS = ("page", "sources", "movenet", "following", "kinlmr", "body", "world", "legs", "vectors", "draw", "export")
COPIED = {  # of npm's onnxruntime-web: WebGPU's and the processor's
    "ort.webgpu.min.mjs": "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs": "wasm/ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm": "wasm/ort-wasm-simd-threaded.asyncify.wasm",
    "ort.wasm.min.mjs": "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs": "wasm/ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm": "wasm/ort-wasm-simd-threaded.wasm",
}


# ---------------------------------------------------------------------------------------------- the network, the body


def network(checkpoint: str, out: Path) -> dict[str, Any]:
    """step.onnx, written if it is not there yet -> what the file says of itself, and the sizes of its inputs."""
    file, made = out / "step.onnx", out / "made.txt"
    path = next((path for path in (Path(checkpoint), WEIGHTS / f"{checkpoint}.npz") if path.is_file()), None)
    what = f"kinlmr {kinlmr.__version__} {checkpoint} {hashlib.sha256(path.read_bytes()).hexdigest() if path else ''}"
    if not file.exists() or not made.exists() or made.read_text() != what:
        made.unlink(missing_ok=True)
        command = [sys.executable, str(HERE.parent / "export_onnx.py"), checkpoint, "--out", str(file)]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(1)  # it has said why
    session = onnxruntime.InferenceSession(str(file))
    told: dict[str, Any] = json.loads(session.get_modelmeta().custom_metadata_map["kinlmr"])
    if "keypoints" not in told:
        raise ValueError(
            f"{checkpoint}: a model of features, not of keypoints; the page has only a detector of keypoints"
        )
    made.write_text(what)
    shapes = {value.name: value.shape[1:] for value in session.get_inputs()}
    return told | {"features": shapes["frame"], "memory": shapes["memory"]}


def planar(template: Any, basis: Any) -> dict[str, Any]:
    """Numbers at rest (3 N) and shape directions (S, 3 N), to the micrometre."""
    return {"template": template.double().numpy().round(6).tolist(), "basis": basis.double().numpy().round(6).tolist()}


def body(name: str, keypoints: str, mesh: str) -> dict[str, Any]:
    """Joints and keypoints of the model's body, and a mesh on the same joints, small enough for a browser."""
    whole, small = kinlmr.load_body(name, keypoints=keypoints), kinlmr.load_body(mesh)
    if (whole.joints, whole.parents) != (small.joints, small.parents):
        raise ValueError(f"the bodies {name!r} and {mesh!r} have other joints; give --mesh one with those of {name!r}")
    if whole.pose_width or small.pose_width or small.faces is None:
        raise ValueError(f"the page draws bodies with faces and without pose directions, not {name!r} with {mesh!r}")
    if any(parent >= k for k, parent in enumerate(whole.parents)):
        raise ValueError(f"body {name!r}: its joints do not stand after their parents")
    at = whole.keypoints
    assert at is not None
    held = [
        [[bone, round(weight, 6)] for bone, weight in enumerate(column) if weight]
        for column in small.weights.T.tolist()
    ]
    return {
        "names": whole.joints,
        "parents": whole.parents,
        "joints": planar(whole.J.view(-1, 3).T.flatten(), whole.J_shapedirs.unflatten(1, (-1, 3)).mT.flatten(1)),
        "points": planar(at.template, at.basis)
        | {"names": at.names, "owner": at.owner.tolist(), "bone": at.bone.tolist(), "mass": at.mass.tolist()},
        "mesh": planar(small.template, small.basis) | {"weights": held, "faces": small.faces.tolist()},
    }


def constants(module: ModuleType) -> dict[str, Any]:
    """A module's own numbers by their names, pairs of numbers as lists, a NamedTuple as an object."""
    kinds = int, float, tuple
    named = {name: value for name, value in vars(module).items() if name.isupper() and isinstance(value, kinds)}
    return {name: value._asdict() if hasattr(value, "_asdict") else value for name, value in named.items()}


def world(name: str) -> dict[str, Any]:
    """What world.js and the side view need: constants, the network of contacts and up, the body's legs."""
    whole, modules = kinlmr.load_body(name), (standing, feet, pose, way, floor, lock, stage)
    stand = standing.stand_of(whole)
    weights = feet.shipped(torch.device("cpu"), torch.float64).state_dict()
    return {
        "constants": {module.__name__.split(".")[-1]: constants(module) for module in modules},
        "network": {key: value.tolist() for key, value in weights.items()},
        "legs": stand.legs.joints,
        "joints": stand.joints,
        "sole": stand.sole.tolist(),
    }


# ---------------------------------------------------------------------------------------------------------- the folder


def make(model: str, mesh: str, out: Path) -> None:
    """Everything that the page needs, in a folder."""
    runtime = MODULES / "onnxruntime-web/dist"
    if any(not (runtime / name).exists() for name in COPIED):
        npm = shutil.which("npm")
        if npm is None:
            raise ValueError("npm is not here, which fetches onnxruntime-web: install Node 20 or later")
        subprocess.run([npm, "ci", "--omit=dev", "--no-audit", "--no-fund"], cwd=HERE, check=True)
    (out / "wasm").mkdir(parents=True, exist_ok=True)
    told = network(model, out)
    sets = json.loads((resources.files("kinlmr") / "bodies/keypoints.json").read_text("utf-8"))["sets"]
    told |= {"detected": sets["coco17"], "wanted": sets[told["keypoints"]]}
    files.write_atomic(out / "model.json", json.dumps(told).encode())
    parts = {"body": body(told["body"], told["keypoints"], mesh), "world": world(told["body"])}
    for part, content in parts.items():
        files.write_atomic(out / f"{part}.json", json.dumps(content, separators=(",", ":")).encode())
    for name, place in COPIED.items():
        shutil.copyfile(runtime / name, out / place)
    pages = [HERE / "index.html", *(HERE / f"{name}.js" for name in SCRIPTS)]
    for path in [*pages, *WEIGHTS.glob("movenet-*.onnx"), WEIGHTS.parent / "video/data/demo.mp4"]:
        shutil.copyfile(path, out / path.name)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.0f} MB", flush=True)


class Handler(SimpleHTTPRequestHandler):
    """Files, with the headers without which a browser gives a page one thread."""

    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="anny24-coco17", help="a shipped model's name, or a checkpoint with keypoints= (%(default)s)"
    )
    parser.add_argument("--mesh", default="anny24_lo1229", help="the embedded body that is drawn (%(default)s)")
    parser.add_argument("--out", type=Path, default=HERE / "dist", help="the folder to serve (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (%(default)s)")
    parser.add_argument("--make", action="store_true", help="make the folder only")
    args = parser.parse_args(argv)
    make(args.model, args.mesh, args.out)
    if not args.make:
        server = ThreadingHTTPServer(("localhost", args.port), partial(Handler, directory=str(args.out)))
        print(f"http://localhost:{server.server_address[1]} (Ctrl-C ends it)", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
