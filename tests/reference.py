"""LMR as plainly as it can be written: a loop over iterations, parts, frames and layers, on a checkpoint's tensors.

Nothing of kinlmr's graph or engine is used: the order of the parts, who is given what, and every cell are worked out
here again, with torch's own GRUCell, LSTMCell and linear.
"""

import torch
from torch import nn
from torch.nn.functional import linear


def given(skeleton):
    """part -> the parts it reads, as sets."""
    parts = [part.name for part in skeleton.parts]
    if skeleton.given == "none":
        return {part: set() for part in parts}
    if not isinstance(skeleton.given, str):
        return {part: set(dict(skeleton.given).get(part, ())) for part in parts}
    owner = {joint: part.name for part in skeleton.parts for joint in part.joints}
    direct = {part: set() for part in parts}
    for joint, parent in zip(skeleton.joints, skeleton.parents, strict=True):
        if parent is not None and owner[joint] != owner[parent]:
            direct[owner[joint]].add(owner[parent])
    if skeleton.given == "parents":
        return direct
    closed = {part: set(above) for part, above in direct.items()}
    for _ in parts:
        closed = {part: above | {b for a in above for b in closed[a]} for part, above in closed.items()}
    return closed


def plan_order(skeleton):
    """Generation by generation: parts that are given only parts already placed, as declared."""
    reads, placed = given(skeleton), []
    while len(placed) < len(skeleton.parts):
        placed += [p.name for p in skeleton.parts if p.name not in placed and reads[p.name] <= set(placed)]
    return placed


class Stream:
    """One recurrent node in one iteration: stacked cells and their state along time."""

    def __init__(self, tensors, prefix, kind, batch):
        weights = {
            name[len(prefix) + 5 :]: value for name, value in tensors.items() if name.startswith(prefix + ".rnn.")
        }
        layers = sum(name.startswith("weight_hh") for name in weights)
        self.head = tensors[prefix + ".head.weight"], tensors[prefix + ".head.bias"]
        self.cells, self.states = [], []
        for layer in range(layers):
            w = {n: weights[f"{n}_l{layer}"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
            hidden = w["weight_hh"].shape[1]
            cell = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}[kind](w["weight_ih"].shape[1], hidden).to(w["weight_ih"])
            cell.weights = w
            self.cells.append(cell)
            zero = w["weight_ih"].new_zeros(batch, hidden)
            self.states.append(zero if kind == "gru" else (zero, zero))

    def __call__(self, x):
        for layer, cell in enumerate(self.cells):
            self.states[layer] = torch.func.functional_call(cell, cell.weights, (x, self.states[layer]))
            x = self.states[layer] if isinstance(cell, nn.GRUCell) else self.states[layer][0]
        return linear(x, *self.head)


def lmr(tensors, skeleton, features, iterations, cell="gru", camera_input="previous", shape_input="previous"):
    """features (B, T, F) -> pose (B, T, J, R), shape (B, T, S), camera (B, T, 3)."""
    batch, frames, _ = features.shape
    order, reads = plan_order(skeleton), given(skeleton)
    joints = {part.name: [skeleton.joints.index(j) for j in part.joints] for part in skeleton.parts}
    start = {f"part {p}": tensors["start.pose"][joints[p]].flatten() for p in order}
    start |= {"shape": tensors["start.shape"], "camera": tensors["start.camera"]}
    frame = [{name: value.expand(batch, -1) for name, value in start.items()} for _ in range(frames)]
    first = dict(frame[0])
    for _ in range(iterations):
        streams = {p: Stream(tensors, f"parts.{p}", cell, batch) for p in order}
        camera = Stream(tensors, "camera", cell, batch)
        for t in range(frames):
            phi, now = features[:, t], dict(frame[t])
            for p in order:
                x = [phi, now[f"part {p}"], now["shape"], *(now[f"part {g}"] for g in order if g in reads[p])]
                now[f"part {p}"] = now[f"part {p}"] + streams[p](torch.cat(x, -1))
            pose = [now[f"part {p}"] for p in order]
            before = first["shape"] if shape_input == "mean" else now["shape"]
            x = torch.cat([phi, *pose, before], -1)
            for layer in ("fc1", "fc2"):
                x = linear(x, tensors[f"shape.{layer}.weight"], tensors[f"shape.{layer}.bias"]).relu()
            now["shape"] = before + linear(x, tensors["shape.head.weight"], tensors["shape.head.bias"])
            before = first["camera"] if camera_input == "initial" else now["camera"]
            now["camera"] = before + camera(torch.cat([phi, *pose, now["shape"], before], -1))
            frame[t] = now
    width = tensors["start.pose"].shape[1]
    pose = tensors["start.pose"].new_zeros(batch, frames, len(skeleton.joints), width)
    for p in order:
        pose[:, :, joints[p]] = torch.stack([f[f"part {p}"] for f in frame], 1).view(batch, frames, -1, width)
    return pose, torch.stack([f["shape"] for f in frame], 1), torch.stack([f["camera"] for f in frame], 1)
