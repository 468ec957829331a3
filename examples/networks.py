"""What examples/train.py trains and by what: LMR, the network to compare it with, their loss and their optimizers."""

import math
import pickle
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import kinlmr
from kinlmr import losses
from kinlmr.motion import clips

DEPTH = 1.0  # of the bones' directions in depth, in the loss
BONES = (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist"))
RATES = 2e-3, 1e-3, 2e-4  # of Muon, of AdamW, and of AdamW for the shape network, whose ReLUs die at a higher one


class PerFrame(nn.Module):
    """The network to beat: a frame's features to its estimate, as many parameters as the model; its state is empty."""

    INNER = "layers.2.weight", "layers.4.weight"

    def __init__(self, model: kinlmr.LMR) -> None:
        super().__init__()
        self.start, self.rotation, features = model.start, model.rotation, model.options["features"]
        self.sizes = [x.numel() for x in (self.start.pose, self.start.shape, self.start.camera)]
        ends, wanted = features + sum(self.sizes), sum(p.numel() for p in model.parameters())
        width = int((-ends + math.sqrt(ends**2 + 8 * wanted)) / 4)  # ends w + 2 w^2 parameters
        inner = (nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.layers = nn.Sequential(nn.Linear(features, width), *inner, nn.Linear(width, sum(self.sizes)))

    def initial_state(self, batch: int) -> kinlmr.State:
        return kinlmr.State(self.start.pose.new_zeros(batch, 0))

    def forward(self, features: Tensor, state: kinlmr.State) -> tuple[kinlmr.Estimate, kinlmr.State]:
        pose, shape, camera = (0.1 * self.layers(features)).split(self.sizes, -1)
        start, pose = self.start, pose.unflatten(-1, self.start.pose.shape)
        return kinlmr.Estimate(start.pose + pose, start.shape + shape, start.camera + camera), state

    def matrices(self, estimate: kinlmr.Estimate) -> Tensor:
        return self.rotation.to_matrix(estimate.pose)


Network = kinlmr.LMR | PerFrame


def loss_of(
    network: Network, estimate: kinlmr.Estimate, clip: clips.Clips, body: kinlmr.Body, image: Tensor | float = 1.0
) -> Tensor:
    """Equation 5: parameters, 3D joints, 2D keypoints; the joints' velocities, which keep a motion smooth; and how far
    the limbs' bones point towards the camera, which keypoints leave open.

    image weighs the 2D keypoints.
    """
    rotations, shape = network.matrices(estimate), clip.shape[:, None].expand_as(estimate.shape)
    mesh = body(rotations, estimate.shape, want=("joints", "keypoints"))
    joints, points = (x - mesh.joints[..., [body.root], :] for x in (mesh.joints, mesh.keypoints))
    smpl = losses.parameters(rotations, estimate.shape, clip.rotations, shape, shape_weight=0.05)
    flat = losses.keypoints(kinlmr.project(points, estimate.camera), clip.keypoints[..., :2], clip.keypoints[..., 2])
    velocity = (joints.diff(dim=1) - clip.joints.diff(dim=1)).abs().sum(-1).mean()
    paper = losses.total(
        smpl, losses.joints(joints, clip.joints, root=body.root), image * flat, weights=(5.0, 8.0, 1.0)
    )
    deep = (in_depth(joints, body.joints) - in_depth(clip.joints, body.joints)).abs().mean()
    return paper + 8 * velocity + DEPTH * deep


def in_depth(joints: Tensor, names: Sequence[str]) -> Tensor:
    """The depth of the limbs' bones (..., 8), each of length one: -1 towards the camera, 1 away from it."""
    upper, lower = ([names.index(f"{side}_{pair[i]}") for side in ("left", "right") for pair in BONES] for i in (0, 1))
    bones = joints[..., lower, :] - joints[..., upper, :]
    return bones[..., 2] / bones.norm(dim=-1).clamp_min(1e-6)


def model_of(options: dict[str, Any]) -> kinlmr.LMR:
    return kinlmr.build("smpl.yaml", keypoints="coco17", **options)


def weights_of(name: str) -> dict[str, Tensor]:
    """Of a model by path or shipped name, or the averaged ones of a run's constant.pt or checkpoint.pt."""
    try:
        if not name.endswith(".pt"):
            return kinlmr.load(name).state_dict()
        saved = torch.load(name, weights_only=True, map_location="cpu")
    except (OSError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise SystemExit(f"--start {name}: {error}") from None
    if not isinstance(saved, dict) or "average" not in saved:
        raise SystemExit(f"--start {name}: no checkpoint of this script; give a model.npz, a constant.pt or a name")
    return dict(saved["average"])


def begin_with(model: kinlmr.LMR, names: Sequence[str]) -> None:
    """Give a model the mean weights of checkpoints, all but those of the shape network if that has another width."""
    own, all_given = model.state_dict(), [weights_of(name) for name in names]
    differ = set()
    for name, given in zip(names, all_given, strict=True):
        others = {key for key, value in own.items() if key not in given or given[key].shape != value.shape}
        if wrong := sorted(key for key in others if not key.startswith("shape.")):
            sized = "has another size there; give --hidden its hidden size"
            why = sized if wrong[0] in given else "is not there; give an LMR of smpl.yaml"
            raise SystemExit(f"--start {name}: {wrong[0]} {why}")
        differ |= others
    kept = [key for key in own if not (differ and key.startswith("shape."))]
    model.load_state_dict(own | {key: torch.stack([given[key] for given in all_given]).mean(0) for key in kept})


def load_network(path: str) -> Network:
    """A model by the path or the shipped name of its checkpoint, or the per-frame network of a baseline.pt."""
    if not path.endswith(".pt"):
        return kinlmr.load(path).eval()
    saved = torch.load(path, weights_only=True)
    network = PerFrame(model_of(saved["options"]))
    network.load_state_dict(saved["weights"])
    return network.eval()


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon in float32: torch's multiplies in bfloat16, which takes ten times as long on a CPU without it.

    The momentum of a matrix, made nearly orthogonal by five steps of Newton and Schulz (Jordan et al. 2024), and as
    long as AdamW's steps are.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(groups, {"momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                average = self.state[p]["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(average, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-0.2 * group["lr"] * max(p.shape) ** 0.5)


def orthogonal(x: Tensor) -> Tensor:
    """A matrix with the singular vectors of x, and singular values near one."""
    wide = x.mT if x.shape[0] > x.shape[1] else x
    wide = wide / wide.norm().clamp_min(1e-7)
    for _ in range(5):
        gram = wide @ wide.mT
        wide = 3.4445 * wide + (2.0315 * (gram @ gram) - 4.775 * gram) @ wide
    return wide.mT if x.shape[0] > x.shape[1] else wide


def optimizers_of(network: Network) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between hidden layers, AdamW for the rest."""
    named = dict(network.named_parameters())
    inner = [n for n, p in named.items() if p.ndim == 2 and (".rnn." in n or n in PerFrame.INNER)]
    shape = [name for name in named if name.startswith("shape.")]
    muon, rest, own = (
        {"params": [named[n] for n in names], "lr": rate, "rate": rate}
        for names, rate in zip((inner, [n for n in named if n not in {*inner, *shape}], shape), RATES, strict=True)
    )
    groups = [rest] + ([own | {"weight_decay": 0.0}] if shape else [])
    return [Muon([muon]), torch.optim.AdamW(groups, weight_decay=0.01, fused=True)]
