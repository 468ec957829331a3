"""Train the smoother of smooth.py on recorded motion, and compare it with filters.

    python examples/train_smoother.py --motion FOLDER --noise-of BASELINE.pt --validate SUBJECT --leave SUBJECT

What is to be smoothed is what a network makes of keypoints one frame at a time: BASELINE.pt of `train.py --baseline`,
on clips seen by a poor detector. Half of the clips get other noise as well, so that the smoother learns smoothing
rather than one network's errors. `--test` scores a trained one and the filters, each at its best setting on the
validation subjects, on other subjects; prints Markdown.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from networks import Network, load_network
from smooth import FPS, Method, built, filtered, running_mean, smooth
from torch import Generator, Tensor, nn
from train import NOISES, VIEWS, chosen, watched

import kinlmr
from kinlmr import metrics, motion
from kinlmr.motion import clips
from kinlmr.motion.recording import resampled
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_axis_angle

BATCH, FRAMES, RATE, SMOOTH = 16, 64, 2e-3, 20.0  # SMOOTH weighs the acceleration
CUTOFFS, BETAS = (0.05, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 4.5), (0.2, 0.5, 1.0, 2.0)  # what the filters are tried at


# ---------------------------------------------------------------------------------------------------------------- noise


@torch.no_grad()
def per_frame(network: Network, clip: clips.Clips) -> kinlmr.Estimate:
    return network(clip.features, state=network.initial_state(len(clip.features)))[0]


@torch.no_grad()
def disturbed(network: Network, clip: clips.Clips, generator: Generator) -> Tensor:
    """What a model of single frames makes of clips: rotations (B, T, J, 3, 3).

    Of half of the clips it is the network's. Of the others its error is scaled, and joints jitter, drift slowly, and in
    spells of one to four frames the body is mirrored.
    """
    found, truth = network.matrices(per_frame(network, clip)), clip.rotations
    batch, frames, joints = truth.shape[:3]
    rand = lambda *size: torch.rand(*size, generator=generator)  # noqa: E731
    normal = lambda *size: torch.randn(*size, generator=generator)  # noqa: E731
    error = matrix_to_axis_angle(truth.mT @ found) * (0.1 + 1.1 * rand(batch, 1, 1, 1))
    jitter = 0.1 * rand(batch, 1, 1, 1) * 2 * rand(batch, 1, joints, 1) * normal(batch, frames, joints, 3)
    phase = 2 * math.pi * torch.arange(frames)[:, None, None] / 30 * 0.5 * rand(batch, 1, joints, 3)
    drift = 0.1 * rand(batch, 1, 1, 1) * (phase + 2 * math.pi * rand(batch, 1, joints, 3)).sin()
    other = truth @ axis_angle_to_matrix(error + jitter + drift)
    begins = rand(batch, frames + 4) < 0.05 * rand(batch, 1) ** 2
    length = 1 + (4 * rand(batch, 1)).long()
    flipped = torch.stack([begins[:, 4 - k : frames + 4 - k] & (k < length) for k in range(4)]).any(0)
    mirrored = clips.mirror(other, kinlmr.load_skeleton("smpl.yaml").joints)
    other = torch.where(flipped[..., None, None, None], mirrored, other)
    return torch.where((rand(batch) < 0.5)[:, None, None, None, None], other, found)


# ------------------------------------------------------------------------------------------------------------- training


def loss_of(rotations: Tensor, clip: clips.Clips, body: kinlmr.Body) -> Tensor:
    """Rotations, joints about the root, and their first and second differences: mean squares and mean distances."""
    joints = body(rotations, clip.shape[:, None]).joints
    joints, truth = joints - joints[..., :1, :], clip.joints
    pose = (rotations - clip.rotations).square().mean()
    terms = [(joints.diff(k, 1) - truth.diff(k, 1)).norm(dim=-1).mean() if k else (joints - truth).norm(dim=-1).mean()
             for k in range(3)]  # fmt: skip
    return 5 * pose + 8 * terms[0] + 8 * terms[1] + SMOOTH * terms[2]


def train(
    model: kinlmr.LMR,
    network: Network,
    source: clips.Bank,
    body: kinlmr.Body,
    steps: int,
    seed: int,
    told: Callable[[int, float], None],
) -> None:
    optimizer, mean = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01), math.nan
    for step in range(steps):
        generator = Generator().manual_seed(seed * 1_000_003 + step)
        noise = NOISES["usual" if step % 2 else "wide"]
        clip = clips.draw(source, body, BATCH, FRAMES, generator, noise)
        rotations, _ = smooth(model, disturbed(network, clip, generator))
        loss = loss_of(rotations, clip, body)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.step()
        mean = loss.item() if math.isnan(mean) else 0.98 * mean + 0.02 * loss.item()
        told(step + 1, mean)


# -------------------------------------------------------------------------------------------------------------- figures


@torch.inference_mode()
def score(method: Method | None, network: Network, seen: Sequence[clips.Clips], body: kinlmr.Body) -> dict[str, float]:
    """MPJPE, PA-MPJPE and Accel of a network's frames after a method; its shape then is the mean so far. None: raw."""
    joints = []
    for clip in seen:
        estimate = per_frame(network, clip)
        rotations, shape = network.matrices(estimate), estimate.shape
        if method is not None:
            rotations, shape = method(rotations), running_mean(shape)
        joints.append(body(rotations, shape).joints)
    return metrics.evaluate(joints, [clip.joints for clip in seen])


def whole(recordings: Sequence[motion.Motion], body: kinlmr.Body, noise: clips.Noise) -> list[clips.Clips]:
    """Recordings between their cuts, each seen whole from four sides."""
    found = []
    for i, piece in enumerate(clips.pieces(recordings, shortest=3)):
        sides = [
            clips.whole(piece, body, yaw, Generator().manual_seed(4 * i + k), noise) for k, yaw in enumerate(VIEWS)
        ]
        found.append(clips.Clips(*map(torch.cat, zip(*sides, strict=True))))
    return found


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown; Accel also as a share of the first row's."""
    first = next(iter(rows.values()))["accel"]
    lines = ["| | MPJPE, mm | PA-MPJPE | Accel, mm/frame² | of the input's |", "|---|---|---|---|---|"]
    return "\n".join(lines + [
        f"| {name} | {r['mpjpe']:.1f} | {r['pa_mpjpe']:.1f} | {r['accel']:.1f} | {100 * r['accel'] / first:.0f} % |"
        for name, r in rows.items()
    ])  # fmt: skip


@torch.inference_mode()
def tried(beta: float, network: Network, seen: Sequence[clips.Clips], body: kinlmr.Body) -> list[tuple[float, float]]:
    """MPJPE and Accel of the one-euro filter of every cutoff of CUTOFFS."""
    count, found = len(CUTOFFS), torch.zeros(2, len(CUTOFFS))
    for clip in seen:
        estimate = per_frame(network, clip)
        batch, frames = estimate.pose.shape[:2]
        many = lambda x: x.repeat(count, *[1] * (x.ndim - 1))  # noqa: E731
        cutoffs = torch.tensor(CUTOFFS).repeat_interleave(batch)[:, None, None]
        rotations = filtered(FPS, cutoffs, beta)(many(network.matrices(estimate)))
        pair = body(rotations, many(running_mean(estimate.shape))).joints, many(clip.joints)
        for row, metric in zip(found, (metrics.mpjpe, metrics.accel), strict=True):
            row += metric(*pair).view(count, batch).sum(1) * frames
    found /= sum(clip.features.shape[:2].numel() for clip in seen)
    return [(mpjpe, accel) for mpjpe, accel in found.T.tolist()]


def best(
    name: str, betas: Sequence[float], network: Network, seen: list[clips.Clips], body: kinlmr.Body, accel: float
) -> dict[str, Method]:
    """A filter at two settings: the calmest whose MPJPE is at most the input's, and the least wrong whose Accel is at
    most ``accel``; where there is none, the least wrong and the calmest."""
    raw = score(None, network, seen, body)["mpjpe"]
    every = {(cutoff, beta): figures for beta in betas
             for cutoff, figures in zip(CUTOFFS, tried(beta, network, seen, body), strict=True)}  # fmt: skip
    settings = {
        "no worse": min(every, key=lambda k: (max(every[k][0], raw), every[k][1])),
        "as calm": min(every, key=lambda k: (max(every[k][1], accel), every[k][0])),
    }
    return {f"{name}, {why}: {cutoff:g} Hz, beta {beta:g}": filtered(FPS, cutoff, beta)
            for why, (cutoff, beta) in settings.items()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--motion", nargs="+", required=True, help="BVH, AMASS or archives; files or folders")
    parser.add_argument("--noise-of", required=True, help="a baseline.pt of train.py, whose frames are smoothed")
    parser.add_argument("--validate", nargs="+", required=True, help="subjects or beginnings of names")
    parser.add_argument("--leave", nargs="*", default=[], help="subjects or beginnings of names: left out")
    parser.add_argument("--test", nargs="*", help="score --model on these subjects, beside the filters; no training")
    parser.add_argument("--model", help="a checkpoint or a shipped model: to be tested, or to go on from")
    parser.add_argument("--steps", type=int, default=1500, help="in all (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of all that is drawn (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/smooth24.npz"), help="the model to write (%(default)s)")
    args = parser.parse_args()
    try:
        body, network = kinlmr.load_body("anny24", points="coco17"), load_network(args.noise_of)
        recordings = motion.load_motion(args.motion, body)
        left, validation = chosen(recordings, args.leave), chosen(recordings, args.validate)
        validation = [m for m in validation if not any(m is other for other in left)]
        seen = watched(validation, body, NOISES["usual"])
        if args.test:
            model = kinlmr.load(args.model).eval()
            accel = score(lambda x: smooth(model, x)[0], network, seen, body)["accel"]
            filters = best("exponential", (0.0,), network, seen, body, accel)
            filters |= best("one-euro", BETAS, network, seen, body, accel)
            methods = {"input": None, **filters, "LMR": lambda x: smooth(model, x)[0]}
            test = whole(
                [m for m in chosen(recordings, args.test) if not any(m is x for x in left)], body, NOISES["usual"]
            )
            for who, of in (("validation", seen), ("test", test)):
                print(f"### {who}\n\n{table({name: score(m, network, of, body) for name, m in methods.items()})}\n")
            return
        hidden = {id(m) for m in (*left, *validation)}
        kept = [m for m in recordings if id(m) not in hidden]
        slow = [replace(resampled(m, 2 * m.fps), fps=m.fps) for m in kept[::3]]  # as at 60 frames a second
        source = clips.bank([*kept, *slow], FRAMES)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None
    torch.manual_seed(args.seed)
    model, begun = kinlmr.load(args.model).train() if args.model else built(), time.process_time()

    def told(step: int, loss: float) -> None:
        if step % 100 == 0 or step == args.steps:
            print(f"step {step}/{args.steps}  loss {loss:.4f}  {time.process_time() - begun:.0f} s of CPU", flush=True)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            kinlmr.save(model, args.out, half=True)
        if step % 1000 == 0 or step == args.steps:
            print(table({"input": score(None, network, seen, body),
                         "LMR": score(lambda x: smooth(model, x)[0], network, seen, body)}), flush=True)  # fmt: skip

    print(model)
    train(model, network, source, body, args.steps, args.seed, told)


if __name__ == "__main__":
    main()
