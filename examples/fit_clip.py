"""Fit LMR to one made-up clip, for any skeleton: build, data, loop, result. No body is needed.

The clip is made here: every joint swings with a few frequencies of its own, and a frame's features are a fixed random
mixture of its joints' rotations, with noise. The model sees only the features, one frame at a time.
"""

import argparse
import time

import torch

import kinlmr


def make_clip(joints: int, features: int, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth motion -> features (1, T, F) and the joints' rotation matrices (1, T, J, 3, 3)."""
    time = torch.arange(frames)[:, None, None] / 30
    speed, phase = 0.2 + 1.5 * torch.rand(2, joints, 3), 6.3 * torch.rand(2, joints, 3)
    vectors = 0.5 * torch.sin(6.3 * speed[:, None] * time + phase[:, None]).sum(0)
    matrices = kinlmr.rotations.axis_angle_to_matrix(vectors)
    mixture = torch.randn(9 * joints, features) / (9 * joints) ** 0.5
    seen = matrices.flatten(1) @ mixture + 0.02 * torch.randn(frames, features)
    return seen[None], matrices[None]


def degrees(prediction: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean angle between rotations (..., 3, 3)."""
    return kinlmr.rotations.matrix_to_axis_angle(prediction.mT @ truth).norm(dim=-1).rad2deg().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--skeleton", default="smpl.yaml", help="a YAML file, or the name of an installed one (%(default)s)"
    )
    parser.add_argument(
        "--rotation", default="6d", choices=kinlmr.ROTATIONS, help="how rotations are written (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=150, help="of training (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="%(default)s here")
    parser.add_argument("--seed", type=int, default=0, help="of the clip and the weights (%(default)s)")
    parser.add_argument("--out", help="where to save the fitted model (.npz)")
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    model = kinlmr.build(args.skeleton, rotation=args.rotation, features=128, hidden=64).to(args.device)
    print(model)
    joints = len(model.plan.skeleton.joints)
    features, truth = (x.to(args.device) for x in make_clip(joints, 128, frames=90))

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    before = degrees(model.matrices(model(features)), truth)
    began = time.monotonic()
    for step in range(args.steps):
        loss = (model.matrices(model(features)) - truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 0 or step == args.steps - 1:
            rate = (step + 1) * truth.shape[1] / (time.monotonic() - began)
            print(f"step {step:4}  loss {loss.item():.5f}  {rate:6.0f} frames/s", flush=True)

    after = degrees(model.matrices(model(features)), truth)
    print(f"mean joint error: {before:.1f} degrees before, {after:.1f} after {args.steps} steps")
    if args.out:
        kinlmr.save(model, args.out)
        print(f"saved {args.out}; kinlmr.load({args.out!r}) gives the model back")


if __name__ == "__main__":
    main()
