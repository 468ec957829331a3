"""Makes the folder that the page is served from, dist/: the page's own files, the network, the body and the detector.

    npm ci && python prepare.py && python -m http.server --bind localhost --directory dist

It needs kinlmr with its extra (`pip install -e ".[onnx]"`) and what npm put into node_modules. Nothing is downloaded.
"""

import argparse
import json
import shutil
import struct
import subprocess
import sys
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import flatbuffers
import onnxruntime
from flatbuffers.table import Table

import kinlmr
from kinlmr.files import arrays as files

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
PAGE = ("index.html", "page.js", "kinlmr.js", "body.js", "draw.js")
COPIED = {  # of npm's packages
    "@mediapipe/tasks-vision/vision_bundle.mjs": "vision_bundle.mjs",
    "@mediapipe/tasks-vision/wasm/vision_wasm_internal.js": "wasm/vision_wasm_internal.js",
    "@mediapipe/tasks-vision/wasm/vision_wasm_internal.wasm": "wasm/vision_wasm_internal.wasm",
    "onnxruntime-web/dist/ort.wasm.min.mjs": "ort.wasm.min.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.mjs": "wasm/ort-wasm-simd-threaded.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm": "wasm/ort-wasm-simd-threaded.wasm",
}


# -------------------------------------------------------------------------------------------------------- the network


def network(checkpoint: str, out: Path) -> dict[str, Any]:
    """Writes step.onnx -> what the file says of itself, and the sizes of its inputs."""
    file = out / "step.onnx"
    command = [sys.executable, str(HERE.parent / "export_onnx.py"), checkpoint, "--out", str(file)]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(1)  # it has said why
    session = onnxruntime.InferenceSession(str(file))
    told: dict[str, Any] = json.loads(session.get_modelmeta().custom_metadata_map["kinlmr"])
    if "keypoints" not in told:
        raise ValueError(
            f"{checkpoint}: a model of features, not of keypoints; the page has only a detector of keypoints"
        )
    shapes = {value.name: value.shape[1:] for value in session.get_inputs()}
    return told | {"features": shapes["frame"], "memory": shapes["memory"]}


# ----------------------------------------------------------------------------------------------------------- the body


def planar(template: Any, basis: Any) -> dict[str, Any]:
    """Numbers at rest (3 N) and shape directions (S, 3 N), to the micrometre."""
    return {"template": template.double().numpy().round(6).tolist(), "basis": basis.double().numpy().round(6).tolist()}


def body(name: str, keypoints: str, mesh: str) -> dict[str, Any]:
    """Joints and keypoints of the model's body, and a mesh on the same joints, small enough for a 2D canvas."""
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
        "parents": whole.parents,
        "joints": planar(whole.J.view(-1, 3).T.flatten(), whole.J_shapedirs.unflatten(1, (-1, 3)).mT.flatten(1)),
        "points": planar(at.template, at.basis)
        | {"names": at.names, "owner": at.owner.tolist(), "bone": at.bone.tolist(), "mass": at.mass.tolist()},
        "mesh": planar(small.template, small.basis) | {"weights": held, "faces": small.faces.tolist()},
    }


# -------------------------------------------------------------------------------------------------------- the detector


def task(landmarks: str) -> dict[str, bytes]:
    """The parts of a .task: two BlazePose models of npm, told how to scale pictures: to -1 .. 1, and to 0 .. 1."""
    folder = MODULES / "@mediapipe/pose"
    detector = (folder / "pose_solution_packed_assets.data").read_bytes()  # this one file is all that it packs
    marks = (folder / f"pose_landmark_{landmarks}.tflite").read_bytes()
    return {
        "pose_detector.tflite": with_scaling(detector, 127.5, 127.5),
        "pose_landmarks_detector.tflite": with_scaling(marks, 0.0, 255.0),
    }


def with_scaling(model: bytes, mean: float, std: float) -> bytes:
    """A TFLite model with metadata: its one input is (pixel - mean) / std.

    The old file stays as it is, at the end of the new one; before it stands a new root table (schema.fbs: Model), whose
    fields point into the old file, and whose lists of buffers and of metadata have one more. The metadata are a
    flatbuffer of their own (metadata_schema.fbs: ModelMetadata).
    """
    if model[4:8] != b"TFL3":
        raise ValueError("node_modules/@mediapipe/pose: not a TFLite model where one was expected; run npm ci again")
    old = Table(model, struct.unpack_from("<I", model)[0])
    file = flatbuffers.Builder(len(model) + 65536)
    file.Prep(16, len(model))
    end = file.CreateByteVector(model) - 4  # places count from the end: what was at p is at end - p

    def field(slot: int) -> int:
        return old.Offset(4 + 2 * slot) + old.Pos if old.Offset(4 + 2 * slot) else 0

    def moved(slot: int) -> int:
        return end - old.Indirect(field(slot)) if field(slot) else 0

    def rows(slot: int) -> list[int]:
        if not (offset := old.Offset(4 + 2 * slot)):
            return []
        return [end - old.Indirect(old.Vector(offset) + 4 * k) for k in range(old.VectorLen(offset))]

    def listed(items: list[int]) -> int:
        file.StartVector(4, len(items), 4)
        for item in reversed(items):
            file.PrependUOffsetTRelative(item)
        return file.EndVector()

    content = file.CreateByteVector(metadata(mean, std))
    buffer = table(file, 1, {0: content})
    buffers = [*rows(4), buffer]
    name = file.CreateString("TFLITE_METADATA")
    file.StartObject(2)
    file.PrependUOffsetTRelativeSlot(0, name, 0)
    file.PrependUint32Slot(1, len(buffers) - 1, 0)
    entry = file.EndObject()
    slots = {1: moved(1), 2: moved(2), 3: moved(3), 4: listed(buffers), 5: moved(5), 6: listed([*rows(6), entry])}
    file.StartObject(7)
    file.PrependUint32Slot(0, struct.unpack_from("<I", model, field(0))[0], 0)  # the schema's version
    for slot, item in slots.items():
        file.PrependUOffsetTRelativeSlot(slot, item, 0)
    file.Finish(file.EndObject(), b"TFL3")
    return bytes(file.Output())


def metadata(mean: float, std: float) -> bytes:
    """ModelMetadata > SubGraphMetadata > TensorMetadata of the input > ProcessUnit > NormalizationOptions."""
    file = flatbuffers.Builder(256)

    def numbers(value: float) -> int:
        file.StartVector(4, 1, 4)
        file.PrependFloat32(value)
        return file.EndVector()

    def one(item: int) -> int:
        file.StartVector(4, 1, 4)
        file.PrependUOffsetTRelative(item)
        return file.EndVector()

    options = table(file, 2, {0: numbers(mean), 1: numbers(std)})
    file.StartObject(2)
    file.PrependUint8Slot(0, 1, 0)  # which kind of options
    file.PrependUOffsetTRelativeSlot(1, options, 0)
    unit = one(file.EndObject())
    tensor = one(table(file, 7, {4: unit}))
    graph = one(table(file, 10, {2: tensor}))
    file.Finish(table(file, 8, {3: graph}), b"M001")
    return bytes(file.Output())


def table(file: Any, slots: int, items: dict[int, int]) -> int:
    """A table of so many slots, some of which point to things."""
    file.StartObject(slots)
    for slot, item in items.items():
        file.PrependUOffsetTRelativeSlot(slot, item, 0)
    made: int = file.EndObject()
    return made


# ---------------------------------------------------------------------------------------------------------- the folder


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="anny24-coco17", help="a shipped model's name, or a checkpoint with keypoints= (%(default)s)"
    )
    parser.add_argument("--mesh", default="anny24_lo1229", help="the embedded body that is drawn (%(default)s)")
    parser.add_argument(
        "--landmarks", default="full", choices=("lite", "full", "heavy"), help="MediaPipe's model (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=HERE / "dist", help="the folder to serve (%(default)s)")
    args = parser.parse_args(argv)
    if missing := [name for name in (*COPIED, "@mediapipe/pose") if not (MODULES / name).exists()]:
        raise ValueError(f"node_modules lacks {missing[0]}; run npm ci in {HERE}")
    (args.out / "wasm").mkdir(parents=True, exist_ok=True)
    told = network(args.model, args.out)
    sets = json.loads((resources.files("kinlmr") / "bodies/keypoints.json").read_text("utf-8"))["sets"]
    told |= {"detected": sets["mediapipe33"], "wanted": sets[told["keypoints"]]}
    files.write_atomic(args.out / "model.json", json.dumps(told).encode())
    text = json.dumps(body(told["body"], told["keypoints"], args.mesh), separators=(",", ":"))
    files.write_atomic(args.out / "body.json", text.encode())
    with zipfile.ZipFile(args.out / "pose.task", "w") as packed:  # stored: MediaPipe reads it in place
        for name, content in task(args.landmarks).items():
            packed.writestr(name, content)
    for name, place in COPIED.items():
        shutil.copyfile(MODULES / name, args.out / place)
    for name in PAGE:
        shutil.copyfile(HERE / name, args.out / name)
    shutil.copyfile(HERE.parents[1] / "kinlmr/video/data/demo.mp4", args.out / "demo.mp4")
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{args.out}: {size / 1e6:.0f} MB; python -m http.server --bind localhost --directory {args.out}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(str(error))
