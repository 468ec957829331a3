"""Train LMR on recorded motion in four to twenty minutes by the machine; what its memory and more recordings are worth.

Recordings become clips of 2D keypoints as a poor detector finds them; the model learns pose, shape and camera. On a
recording that it never saw it is compared with the mean pose; with a network of the same size that sees one frame at a
time, trained alike; and with the shipped weights, which examples/train.py made of hours of training and 78 minutes of
motion without these recordings. Half a minute of motion is enough for the memory to be more than twice as smooth
(Accel), and for little less error: in one run 114 mm against 121, aligned 71 against 82. With more motion LMR errs less
by itself too (docs/anny24-coco17.md).
"""

import argparse
import math
from pathlib import Path

import torch
from networks import Network, PerFrame, loss_of, optimizers_of  # one frame at a time; equation 5; Muon and AdamW
from torch import Tensor, nn

import kinlmr
from kinlmr import metrics, motion
from kinlmr.motion import clips

BATCH, WINDOW, WINDOWS, NOISE = 16, 16, 4, clips.WIDE
FASTER = 5  # than the rates of train.py, which trains for much longer
DATA = Path(__file__).parent / "data" / "motion.npz"
VIEWS = (0.0, math.pi / 2, math.pi, -math.pi / 2)


def learn(network: Network, optimizers: list[torch.optim.Optimizer], clip: clips.Clips, body: kinlmr.Body) -> float:
    """A step for every window of a clip, the state carried from one to the next; the last loss."""
    state = network.initial_state(len(clip.shape))
    for at in range(0, clip.features.shape[1], WINDOW):
        window = clips.Clips(*(x[:, at : at + WINDOW] if x.ndim > 2 else x for x in clip))
        estimate, state = network(window.features, state=kinlmr.State(state.memory.detach()))
        loss = loss_of(network, estimate, window, body)
        network.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
    return loss.item()


def picture(path: Path, found: dict[str, Tensor], truth: Tensor, plan: kinlmr.Plan) -> None:
    """LMR's joints (T, J, 3) red on the true ones grey, in eight frames; and every network's error over time."""
    from matplotlib import pyplot as plt

    root = plan.skeleton.parents.index(None)
    bones = [[plan.skeleton.joints.index(p), j] for j, p in enumerate(plan.skeleton.parents) if p is not None]
    figure = plt.figure(figsize=(13, 6.5), layout="tight")
    for i, frame in enumerate(torch.linspace(0, len(truth) - 1, 8).long().tolist()):
        ax = figure.add_subplot(2, 8, i + 1, aspect="equal", xlim=(-1, 1), ylim=(1, -1), title=f"{frame / 30:.1f} s")
        for joints, color in ((truth, "0.6"), (found["LMR"] - found["LMR"][:, [root]], "tab:red")):
            ax.plot(*joints[frame, bones, :2].permute(2, 1, 0), color=color)
        ax.axis("off")
    ax = figure.add_subplot(2, 1, 2, xlabel="seconds", ylabel="MPJPE, mm", title="a recording that was not trained on")
    for who, joints in found.items():
        ax.plot(torch.arange(len(truth)) / 30, metrics.joint_errors(joints, truth, root).mean(-1), label=who, lw=1)
    ax.legend()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--motion", nargs="+", default=[DATA], help="motion files or folders")
    parser.add_argument("--test", default="cmu_01_01", help="hold out recordings whose name begins so (%(default)s)")
    parser.add_argument("--steps", type=int, default=1000, help="of training (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="where the model and the picture go (%(default)s)"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    body = kinlmr.load_body("anny24", keypoints="coco17")
    recordings = motion.load_motion(args.motion, body)
    test = [m for m in recordings if m.name.startswith(args.test)]
    kept = [m for m in recordings if not m.name.startswith(args.test)]
    if not test or not kept:
        raise SystemExit(f"--test {args.test}: {len(test)} recordings to test on and {len(kept)} to train on")
    source = clips.bank(kept, WINDOW * WINDOWS)

    model = kinlmr.build("smpl.yaml", keypoints="coco17", hidden=128, shape_hidden=256)
    pose = clips.sample(source, body, 512, 1, torch.Generator().manual_seed(0)).rotations.mean((0, 1))
    model.start.pose.copy_(model.rotation.from_matrix(kinlmr.rotations.nearest_rotation(pose)))  # the mean pose
    networks: dict[str, Network] = {"one frame at a time": PerFrame(model), "LMR": model}
    print(model)

    optimizers = {who: optimizers_of(network) for who, network in networks.items()}
    groups = [group for own in optimizers.values() for one in own for group in one.param_groups]
    for step in range(0, args.steps, WINDOWS):
        clip = clips.sample(source, body, BATCH, WINDOW * WINDOWS, torch.Generator().manual_seed(step), NOISE)
        warm, left = min(1, (step + WINDOWS) / 50), (1 + math.cos(math.pi * step / args.steps)) / 2
        for group in groups:  # warm up, then fall along a cosine
            group["lr"] = FASTER * group["rate"] * warm * left
        loss = {who: learn(network, optimizers[who], clip, body) for who, network in networks.items()}
        if step % 100 == 0:
            print(f"step {step}/{args.steps}, loss", *(f"{who} {x:.3f}" for who, x in loss.items()), flush=True)

    mean = PerFrame(model)
    for parameter in mean.parameters():
        nn.init.zeros_(parameter)
    networks = {"mean pose": mean, **networks, "LMR, shipped weights": kinlmr.load("anny24-coco17")}
    sides = [(m, yaw) for m in clips.pieces(test, shortest=3) for yaw in VIEWS]
    seen = [clips.whole(m, body, yaw, torch.Generator().manual_seed(i), NOISE) for i, (m, yaw) in enumerate(sides)]
    found, rows = {}, [f"{'mm, mm/frame^2':20}" + "".join(f"{name:>10}" for name in ("MPJPE", "PA-MPJPE", "Accel"))]
    for who, network in networks.items():
        confidence = network.options.confidence if isinstance(network, kinlmr.LMR) else None
        shown = [kinlmr.keypoints.reported(c.features, confidence) for c in seen]  # as it was trained to see them
        with torch.no_grad():
            answers = [network(features, state=network.initial_state(1))[0] for features in shown]
            joints = [body(network.matrices(answer), answer.shape).joints[0] for answer in answers]
        figures = metrics.evaluate(joints, [c.joints[0] for c in seen], root=body.root)
        rows.append(f"{who:20}" + "".join(f"{figures[key]:10.1f}" for key in ("mpjpe", "pa_mpjpe", "accel")))
        found[who] = joints[0]
    print("\n".join(["", *rows, ""]))
    kinlmr.save(model, args.out / "lmr.npz")
    try:
        picture(args.out / "result.png", found, seen[0].joints[0], model.plan)
    except ModuleNotFoundError:
        print("no picture: pip install matplotlib")
    print(f"{args.out}/ holds lmr.npz and, where matplotlib is installed, result.png")


if __name__ == "__main__":
    main()
