"""Train LMR on real human motion, and see whether it worked.

Recordings become clips of 2D keypoints with a detector's noise (kinlmr.clips); the model learns pose, shape and camera
from them, frame by frame. A recording that it never saw is then scored against two baselines: the mean pose, and a
network of the same size that sees one frame at a time. Results go to --out: the model, the figures, a picture.
"""

import argparse
import io
import json
import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import kinlmr
from kinlmr import clips, files, losses, metrics, motion

DATA = Path(__file__).parent / "data" / "motion.npz"
VIEWS = (0.0, math.pi / 2, math.pi, -math.pi / 2)
BATCH, FRAMES, RATE = 16, 16, 2e-3
Network = Callable[[Tensor], kinlmr.Estimate]


class FrameByFrame(nn.Module):
    """The baseline without memory: one frame's features to its estimate, with as many parameters as the model."""

    def __init__(self, model: kinlmr.LMR) -> None:
        super().__init__()
        features, joints = model.options["features"], len(model.plan.order)
        self.start = model.start
        self.sizes = (joints * model.rotation.dimension, model.options["shape"], 3)
        wanted, ends = sum(p.numel() for p in model.parameters()), features + sum(self.sizes)
        width = int((-ends + math.sqrt(ends**2 + 8 * wanted)) / 4)  # ends w + 2 w^2 parameters
        layers = [nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)]
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Linear(width, sum(self.sizes)))

    def forward(self, features: Tensor) -> kinlmr.Estimate:
        pose, shape, camera = self.layers(features).split(self.sizes, -1)
        start = self.start
        return kinlmr.Estimate(
            0.1 * pose.unflatten(-1, start.pose.shape) + start.pose,
            0.1 * shape + start.shape,
            0.1 * camera + start.camera,
        )


def loss_of(model: kinlmr.LMR, estimate: kinlmr.Estimate, batch: clips.Clips, body: kinlmr.Body) -> Tensor:
    """Equation 5 for one batch: parameters, 3D joints, 2D keypoints."""
    rotations, shape = model.matrices(estimate), batch.shape[:, None].expand_as(estimate.shape)
    mesh = body(rotations, estimate.shape, want=("joints", "points"))
    root = mesh.joints[..., :1, :]
    image = kinlmr.project(mesh.points - root, estimate.camera)
    return losses.total(
        losses.parameters(rotations, estimate.shape, batch.rotations, shape, shape_weight=0.01),
        losses.joints(mesh.joints, batch.joints),
        losses.points(image, batch.points[..., :2], batch.points[..., 2]),
        weights=(5.0, 5.0, 1.0),
    )


def mean_start(source: clips.Bank, body: kinlmr.Body, rotation: kinlmr.Rotation) -> kinlmr.Estimate:
    """What refinement starts from: the mean pose of the clips to train on, the mean shape, the usual camera."""
    drawn = clips.draw(source, body, 512, 1, torch.Generator().manual_seed(0))
    mean = kinlmr.rotations.nearest_rotation(drawn.rotations.mean((0, 1)))
    return kinlmr.Estimate(rotation.from_matrix(mean), torch.zeros(10), torch.tensor([0.9, 0, 0]))


def wake(model: kinlmr.LMR) -> None:
    """Start the heads ten times larger than the library does: in so short a training the limbs else learn last."""
    with torch.no_grad():
        for node in model.nodes():
            node.head.weight.mul_(10)


def learn(
    network: Network,
    optimizer: torch.optim.Optimizer,
    model: kinlmr.LMR,
    batch: clips.Clips,
    source: clips.Bank,
    body: kinlmr.Body,
    progress: tuple[int, int],
    rate: float = RATE,
) -> float:
    """One step of training, the loss before it. The rate warms up, then falls along a cosine to the last step."""
    step, steps = progress
    estimate = network(batch.features)
    loss = loss_of(model, estimate, batch, body)
    if not loss.isfinite():
        odd = next((i for i, pose in enumerate(estimate.pose) if not pose.isfinite().all()), 0)
        clip = f"clip {odd} of the batch, {source.where(int(batch.start[odd]))}"
        raise FloatingPointError(f"the loss is {loss.item()} at step {step}, first in {clip}")
    (group,) = optimizer.param_groups
    group["lr"] = rate * min(1.0, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / steps)) + 1e-5
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def score(network: Network, model: kinlmr.LMR, seen: list[clips.Clips], body: kinlmr.Body) -> dict[str, Any]:
    """Metrics over whole recordings, in mm (PVE on every tenth frame); by part; and the joints, for the picture."""
    truths: list[Tensor] = []
    predictions: list[Tensor] = []
    vertex_errors = []
    for clip in seen:
        estimate = network(clip.features)
        rotations, shape = model.matrices(estimate), estimate.shape
        pair = (rotations, shape), (clip.rotations, clip.shape[:, None])
        for joints, (turns, numbers) in zip((predictions, truths), pair, strict=True):
            joints.extend(body(turns, numbers).joints)
        meshes = [body(turns[:, ::10], numbers[:, ::10], want=("joints", "vertices")) for turns, numbers in pair]
        mine, true = (mesh.vertices - mesh.joints[:, :, :1] for mesh in meshes)
        vertex_errors.append(metrics.joint_errors(mine, true, root=None).flatten())
    figures = metrics.evaluate(predictions, truths)
    figures["pve"] = float(torch.cat(vertex_errors).mean())
    errors = [metrics.joint_errors(p, t) for p, t in zip(predictions, truths, strict=True)]
    parts = metrics.by_part(torch.cat(errors), model.plan)
    return {
        **figures,
        "parts": {name: float(error.mean()) for name, error in parts.items()},
        "joints": (predictions, truths),
    }


def picture(path: Path, result: dict[str, Any], model: kinlmr.LMR, fps: float) -> None:
    """Truth against prediction in eight frames of the held-out recording, and every part's error over time."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        print("no picture: pip install matplotlib")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    predictions, truths = result["joints"]
    prediction, truth = (x[0] - x[0][:, :1] for x in (predictions, truths))
    figure = plt.figure(figsize=(13, 6.5))
    skeleton = model.plan.skeleton
    bones = [(skeleton.joints.index(p), j) for j, p in enumerate(skeleton.parents) if p is not None]
    for i, frame in enumerate(torch.linspace(0, len(truth) - 1, 8).long().tolist()):
        ax = figure.add_subplot(2, 8, i + 1)
        for joints, color in ((truth, "0.6"), (prediction, "tab:red")):
            for a, b in bones:
                ax.plot(*joints[frame, [a, b], :2].T.cpu(), color=color, lw=2.2 if color == "0.6" else 1.4)
        ax.set(xlim=(-0.9, 0.9), ylim=(1.1, -1.0), aspect="equal", title=f"{frame / fps:.1f} s")
        ax.axis("off")
    ax = figure.add_subplot(2, 1, 2)
    seconds = torch.arange(len(truth)) / fps
    for name, error in metrics.by_part(metrics.joint_errors(prediction, truth), model.plan).items():
        ax.plot(seconds, error.cpu(), label=name, lw=1)
    title = "a recording that was not trained on: truth grey, prediction red; error by part"
    ax.set(xlabel="seconds", ylabel="MPJPE, mm", title=title)
    ax.legend(ncols=6, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def table(results: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'':22}{'MPJPE':>9}{'PA-MPJPE':>10}{'PVE':>9}{'Accel':>9}   (mm, mm/frame^2)"]
    for name, r in results.items():
        lines.append(f"{name:22}{r['mpjpe']:9.1f}{r['pa_mpjpe']:10.1f}{r['pve']:9.1f}{r['accel']:9.1f}")
    return "\n".join(lines)


class Progress:
    """A bar on a terminal, a line now and then in a log."""

    def __init__(self, steps: int, done: int) -> None:
        self.steps, self.first, self.began, self.shown = steps, done, time.monotonic(), -1

    def __call__(self, step: int, loss: float) -> None:
        rate = (step - self.first) * BATCH * FRAMES / max(time.monotonic() - self.began, 1e-9)
        tenth = 20 * step // self.steps
        text = f"step {step}/{self.steps}  loss {loss:.4f}  {rate:,.0f} frames/s"
        if sys.stderr.isatty():
            print(
                f"\r[{'#' * tenth:20}] {text}   ", end="\n" if step == self.steps else "", file=sys.stderr, flush=True
            )
        elif tenth > self.shown:
            self.shown = tenth
            print(text, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--skeleton", default="smpl.yaml", help="a YAML file over the body's joints, or an installed one"
    )
    parser.add_argument("--rotation", default="6d", choices=kinlmr.ROTATIONS)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--motion", nargs="+", default=[DATA], help="BVH, AMASS or archives; files or folders")
    parser.add_argument("--test", default="cmu_01_01", help="hold out recordings whose name begins so")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--minutes", type=float, help="stop after so long, however many steps that is")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--resume", action="store_true", help="go on from --out's checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        files.write_atomic(args.out / "run.json", json.dumps(vars(args), default=str).encode())
    except OSError as error:
        raise SystemExit(f"--out {args.out} cannot be written: {error}") from None
    torch.manual_seed(args.seed)

    skeleton, rotation = kinlmr.load_skeleton(args.skeleton), kinlmr.ROTATIONS[args.rotation]
    body = kinlmr.load_body("anny24", points="coco17")
    if skeleton.joints != body.joints:
        raise SystemExit(
            f"skeleton {args.skeleton} has other joints than the body; examples/fit_clip.py fits any skeleton"
        )
    recordings = motion.load_motion(args.motion, body)
    held_out = [m for m in recordings if m.name.startswith(args.test)]
    kept = [m for m in recordings if m not in held_out]
    if not held_out or not kept:
        raise SystemExit(
            f"--test {args.test}: {len(held_out)} recordings to test on and {len(kept)} to train on; both need one"
        )
    source = clips.bank(kept, FRAMES)
    start = mean_start(source, body, rotation)
    model = kinlmr.build(skeleton, rotation=rotation, features=3 * 17, hidden=args.hidden, start=start)
    wake(model)
    model, body, source = model.to(args.device), body.to(args.device), source.to(args.device)
    baseline = FrameByFrame(model).to(args.device)
    print(model)
    views = [(m, i, yaw) for m in held_out for i, yaw in enumerate(VIEWS)]
    seen = [clips.whole(m, body, yaw, torch.Generator().manual_seed(i)) for m, i, yaw in views]
    names = ", ".join(m.name for m in held_out[:5]) + ", ..." * (len(held_out) > 5)
    print(f"training on {sum(map(len, kept)) / source.fps:.0f} s of motion, testing on {names} from {len(VIEWS)} sides")

    def mean_pose(features: Tensor) -> kinlmr.Estimate:
        lead = features.shape[:2]
        return kinlmr.Estimate(
            *(x.expand(*lead, *x.shape) for x in (model.start.pose, model.start.shape, model.start.camera))
        )

    results = {"mean pose": score(mean_pose, model, seen, body), "LMR, untrained": score(model, model, seen, body)}

    networks = {"model": model, "baseline": baseline}
    optimizers = {name: torch.optim.AdamW(network.parameters(), RATE) for name, network in networks.items()}
    step, checkpoint = 0, args.out / "checkpoint.pt"
    if args.resume:
        if not checkpoint.is_file():
            raise SystemExit(f"--resume: there is no {checkpoint}")
        saved = torch.load(checkpoint, weights_only=True, map_location=args.device)
        step = saved["step"]
        try:
            for name, network in networks.items():
                network.load_state_dict(saved[name])
                optimizers[name].load_state_dict(saved[f"{name} optimizer"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise SystemExit(f"--resume: {checkpoint} does not fit this run: {error}") from None

    def save() -> None:
        content: dict[str, Any] = {"step": step}
        for name, network in networks.items():
            content |= {name: network.state_dict(), f"{name} optimizer": optimizers[name].state_dict()}
        buffer = io.BytesIO()
        torch.save(content, buffer)
        files.write_atomic(checkpoint, buffer.getvalue())

    stop: list[int] = []  # Ctrl-C lets the step finish, so that what is saved is whole
    before = signal.signal(signal.SIGINT, lambda *_: stop.append(1))
    progress, began = Progress(args.steps, step), time.monotonic()
    try:
        while step < args.steps and not stop and not (args.minutes and time.monotonic() - began > 60 * args.minutes):
            generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
            batch = clips.draw(source, body, BATCH, FRAMES, generator)
            losses_now = {
                name: learn(network, optimizers[name], model, batch, source, body, (step, args.steps))
                for name, network in networks.items()
            }
            step += 1
            progress(step, losses_now["model"])
            if step % 100 == 0:
                save()
    except FloatingPointError as error:
        good = f"; {checkpoint} holds the last good state" if checkpoint.is_file() else ""
        raise SystemExit(f"\n{error}{good}") from None
    finally:
        signal.signal(signal.SIGINT, before)
    save()
    if stop:
        raise SystemExit(f"\nstopped at step {step}; the same command with --resume goes on")

    seconds = time.monotonic() - began
    results["one frame at a time"] = score(baseline, model, seen, body)
    results["LMR"] = score(model.eval(), model, seen, body)
    print(f"\n{table(results)}\n")
    parts = ", ".join(f"{name} {error:.0f}" for name, error in results["LMR"]["parts"].items())
    print(f"LMR by part, MPJPE in mm: {parts}")
    figures = {name: {key: value for key, value in r.items() if key != "joints"} for name, r in results.items()}
    run = {"arguments": vars(args), "steps": step, "seconds": seconds, "torch": torch.__version__, "results": figures}
    files.write_atomic(args.out / "run.json", json.dumps(run, indent=1, default=str).encode())
    kinlmr.save(model, args.out / "lmr.npz")
    picture(args.out / "result.png", results["LMR"], model, source.fps)
    print(f"trained {step} steps in {seconds:.0f} s; {args.out}/ holds lmr.npz, checkpoint.pt, run.json, result.png")


if __name__ == "__main__":
    main()
