"""The body that comes along, in ten poses and five shapes, as one picture.

python examples/gallery.py [--body anny24] [--out gallery.png]        needs: pip install -e ".[plot]"
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

import kinlmr

# joint: degrees about x (to the body's left), y (up), z (forward)
POSES = {
    "T-pose": {},
    "stand": {"left_shoulder": (0, 0, -75), "right_shoulder": (0, 0, 75)},
    "hands up": {"left_shoulder": (0, 0, 70), "right_shoulder": (0, 0, -70), "head": (-15, 0, 0)},
    "walk": {
        "left_hip": (-28, 0, 0), "left_knee": (12, 0, 0), "right_hip": (18, 0, 0), "right_knee": (28, 0, 0),
        "left_shoulder": (25, 0, -72), "right_shoulder": (-25, 0, 72), "right_elbow": (0, 25, 0), "spine2": (0, 8, 0),
    },
    "run": {
        "pelvis": (14, 0, 0), "left_hip": (-62, 0, 0), "left_knee": (85, 0, 0),
        "right_hip": (25, 0, 0), "right_knee": (55, 0, 0),
        "left_shoulder": (40, 0, -65), "right_shoulder": (-40, 0, 65),
        "left_elbow": (0, -85, 0), "right_elbow": (0, 85, 0),
    },
    "sit": {
        "left_hip": (-88, 0, 4), "right_hip": (-88, 0, -4), "left_knee": (88, 0, 0), "right_knee": (88, 0, 0),
        "left_shoulder": (0, -45, -60), "right_shoulder": (0, 45, 60),
    },
    "reach": {"spine1": (12, 0, 0), "spine2": (12, 0, 0), "left_shoulder": (0, -75, 10), "right_shoulder": (0, 10, 70)},
    "kick": {
        "pelvis": (-12, 0, 0), "left_hip": (-75, 0, 0), "left_knee": (18, 0, 0), "right_hip": (10, 0, 0),
        "left_shoulder": (0, 25, -25), "right_shoulder": (0, 35, 25),
    },
    "squat": {
        "pelvis": (28, 0, 0), "left_hip": (-105, -12, 22), "right_hip": (-105, 12, -22), "left_knee": (112, 0, 0),
        "right_knee": (112, 0, 0), "left_ankle": (-28, 0, 0), "right_ankle": (-28, 0, 0),
        "left_shoulder": (0, -80, -10), "right_shoulder": (0, 80, 10),
    },
    "turn": {"spine1": (0, 22, 0), "spine2": (0, 22, 0), "neck": (0, 30, 0), "left_shoulder": (0, 30, -30),
             "right_shoulder": (0, 70, 20), "right_elbow": (0, 60, 0)},
}  # fmt: skip


def poses(body: kinlmr.Body) -> torch.Tensor:
    """The ten poses as rotations (10, J, 3, 3)."""
    vectors = torch.zeros(len(POSES), len(body.joints), 3)
    for row, pose in zip(vectors, POSES.values(), strict=True):
        for joint, angles in pose.items():
            row[body.joints.index(joint)] = torch.tensor(angles, dtype=torch.float32).deg2rad()
    return kinlmr.ROTATIONS["axis_angle"].to_matrix(vectors)


def draw(ax: Axes, vertices: torch.Tensor, faces: torch.Tensor, color: tuple[float, float, float]) -> None:
    """Paint a mesh (N, 3), seen from the front and a little from its left, back to front."""
    view = kinlmr.ROTATIONS["axis_angle"].to_matrix(torch.tensor([[0.12, 0, 0], [0, -0.5, 0]]))
    triangles = (vertices @ (view[0] @ view[1]).T)[faces]
    normals = torch.linalg.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normals = normals / normals.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    order = triangles[:, :, 2].mean(1).argsort()
    order = order[normals[order, 2] > 0]
    light = (normals[order] @ torch.tensor([-0.35, 0.55, 0.75])).clamp(0, 1) * 0.75 + 0.25
    shades = (light[:, None] * torch.tensor(color)).clamp(0, 1).numpy()
    flat = list(triangles[order][..., :2].numpy())
    ax.add_collection(PolyCollection(flat, facecolors=shades, edgecolors=shades, linewidths=0.3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--body", default="anny24", help="an embedded body, or a body file with SMPL's joint names")
    parser.add_argument("--out", default="gallery.png", type=Path, help="the picture to write (%(default)s)")
    args = parser.parse_args()

    body = kinlmr.load_body(args.body)
    if body.faces is None:
        raise SystemExit(f"{args.body} has no faces to draw")
    shapes = torch.zeros(5, body.shape_width)
    shapes[1:3, 0] = torch.tensor([2.0, -2.0])
    shapes[3:, 1] = torch.tensor([2.0, -2.0])
    mesh = body(poses(body), shapes[:, None], want=("vertices",))

    columns = len(POSES)
    figure, axes = plt.subplots(5, columns, figsize=(1.7 * columns, 12), facecolor="white")
    colors = [(0.86, 0.72, 0.62), (0.62, 0.78, 0.72), (0.66, 0.72, 0.86), (0.84, 0.66, 0.74), (0.82, 0.80, 0.58)]
    for row, color in enumerate(colors):
        for column, name in enumerate(POSES):
            ax, vertices = axes[row, column], mesh.vertices[row, column]
            middle = (vertices.amin(0) + vertices.amax(0)) / 2
            draw(ax, vertices - middle, body.faces, color)
            ax.set(xlim=(-0.85, 0.85), ylim=(-1.2, 1.2), aspect="equal")
            ax.axis("off")
            if row == 0:
                ax.set_title(name, fontsize=11)
        print(f"shape {row + 1} of 5", flush=True)
    figure.tight_layout(pad=0.2)
    figure.savefig(args.out, dpi=70)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
