"""A model's step as one ONNX file, for where there is no Python; checked against PyTorch before it is written.

    python examples/export_onnx.py anny24-coco17 --out step.onnx

Inputs: frame (B, F), for keypoints what `kinlmr.keypoints.normalise` makes of them, and memory (B, V, M), zeros at
first. Outputs: rotations (B, J, 3, 3), each relative to its joint's parent, the root's to the camera; shape (B, S) and
camera (B, 3), if the model has them; memory_after (B, V, M), the next step's memory. B is free, numbers are float32.
Under "kinlmr" the file's metadata has as JSON: joints, parents (-1 for the root), iterations and rotation, and of a
model of keypoints the set, its points, the rate and the body.
"""

import argparse
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import kinlmr
from kinlmr import files

FRAMES, PEOPLE, TOLERANCE = 100, 2, 1e-4  # of the check


class Step(nn.Module):
    """`LMR.step` on plain tensors, with rotation matrices for the pose."""

    def __init__(self, model: kinlmr.LMR) -> None:
        super().__init__()
        self.model = model

    def forward(self, frame: Tensor, memory: Tensor) -> tuple[Tensor, ...]:
        estimate, state = self.model.step(frame, kinlmr.State(memory))
        return (*outputs(self.model, estimate).values(), state.memory)


def outputs(model: kinlmr.LMR, estimate: kinlmr.Estimate) -> dict[str, Tensor]:
    """The estimate (..., J, R), (..., S), (..., 3) by the outputs' names; without what the model leaves out."""
    named = {"rotations": model.matrices(estimate), "shape": estimate.shape, "camera": estimate.camera}
    return {name: value for name, value in named.items() if value.numel()}


def facts(model: kinlmr.LMR) -> dict[str, Any]:
    """What one must know to use the step, as plain JSON."""
    skeleton, options = model.plan.skeleton, model.options
    places = {name: place for place, name in enumerate(skeleton.joints)}
    found: dict[str, Any] = {
        "version": kinlmr.__version__,
        "joints": skeleton.joints,
        "parents": [-1 if name is None else places[name] for name in skeleton.parents],
        "iterations": options["iterations"],
        "rotation": model.rotation.name,
    }
    if "keypoints" in options:
        found |= {name: options[name] for name in ("keypoints", "fps", "body")}
        found |= {name: options[name] for name in ("confidence",) if name in options}
        found["points"] = kinlmr.keypoints.keypoint_sets()[options["keypoints"]]
    return found


def exported(model: kinlmr.LMR) -> bytes:
    """The file, with its weights inside."""
    frame, memory = torch.zeros(2, model.options["features"]), model.initial_state(2).memory
    with torch.no_grad():
        names = [*outputs(model, model.step(frame)[0]), "memory_after"]
    batch = torch.export.Dim("B", min=1, max=1 << 16)
    logging.disable(logging.WARNING)  # what the exporter says of packages that are not needed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                Step(model), (frame, memory), dynamo=True, verbose=False, external_data=False,
                input_names=["frame", "memory"], output_names=names,
                dynamic_shapes={"frame": {0: batch}, "memory": {0: batch}},
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(
            f"a model with rotation {model.rotation.name!r} and cell {model.options['cell']!r} does not export "
            f"({str(error.__cause__ or error).strip().splitlines()[0]}); build it with another, such as '6d' and 'gru'"
        ) from None
    finally:
        logging.disable(logging.NOTSET)
    assert program is not None
    file = program.model_proto
    for node in file.graph.node:  # the exporter's traces, with this machine's paths
        del node.metadata_props[:]
    file.doc_string = (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2].strip()
    file.metadata_props.add(key="kinlmr", value=json.dumps(facts(model)))
    whole: bytes = file.SerializeToString()
    return whole


def clip(model: kinlmr.LMR) -> Tensor:
    """Features (B, T, F) of points that wander; of keypoints with their confidence, and now and then not seen."""
    generator = torch.Generator().manual_seed(0)
    shape = PEOPLE, FRAMES, model.options["features"]
    walk = (0.1 * torch.randn(shape, generator=generator)).cumsum(1).sin()
    if "keypoints" not in model.options:
        return walk
    place, sure = walk.unflatten(-1, (-1, 3)).split((2, 1), -1)
    return torch.where(sure > -0.8, torch.cat([place, (1 + sure) / 2], -1), 0).flatten(2)


@torch.no_grad()
def difference(model: kinlmr.LMR, file: bytes) -> float:
    """The largest between onnxruntime, frame by frame, and PyTorch over the whole clip; one person, and all at once."""
    try:
        import onnxruntime
    except ImportError:
        raise SystemExit('the check needs onnxruntime; pip install -e ".[onnx]"') from None
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    largest = 0.0
    for features in (clip(model), clip(model)[:1]):
        state = model.initial_state(len(features))
        estimate, after = model(features, state=state)
        expected, memory = outputs(model, estimate), state.memory.numpy()
        for t, frame in enumerate(features.unbind(1)):
            *values, memory = session.run(None, {"frame": frame.numpy(), "memory": memory})
            for value, whole in zip(values, expected.values(), strict=True):
                largest = max(largest, float((torch.from_numpy(value) - whole[:, t]).abs().max()))
        largest = max(largest, float((torch.from_numpy(memory) - after.memory).abs().max()))
    return largest


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a checkpoint, or the name of a model that comes with kinlmr")
    parser.add_argument("--out", type=Path, default=Path("step.onnx"), help="the file to write (%(default)s)")
    args = parser.parse_args(argv)
    model = kinlmr.load(args.checkpoint).float().eval()
    file = exported(model)
    largest = difference(model, file)
    said = f"largest difference from PyTorch over {FRAMES} frames: {largest:.1e}"
    if not largest <= TOLERANCE:
        raise ValueError(f"{args.checkpoint}: {said}, more than {TOLERANCE:g}; {args.out} is not written")
    files.write_atomic(args.out, file)
    print(f"{args.out}: {len(file) / 1e6:.1f} MB; {said}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(str(error))
