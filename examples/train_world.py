"""Train the network of contacts and up (`kinlmr.world`) on recordings with their paths, seen by cameras at rest.

    python examples/train_world.py --motion FOLDER --leave SUBJECT ... --validate SUBJECT ... --out out/world

First every piece of the recordings is seen by a camera and recovered. Each set that is done is kept in OUT, and so is
the training every 200 steps: the same command goes on where it ended. A piece whose feet travel while the root stays,
as on a treadmill, is left out and named. OUT/world.npz is the network, at most 300 kB. At the end it says what it found
of those of --validate: precision and recall of contacts, and the median angle by which up is off in the first frame,
after half a second, and at the end; a frame's own, and the mean so far.

The same pieces are learned at 30, 25 and 15 frames a second and mirrored, a quarter of them at 120, 60, 30 and 24
too, so that rates agree; a quarter of the samples has no keypoints. One thread; about ten minutes for 33 minutes of
motion, two of them to recover it.
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import torch
from scores import table
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, normalize
from train import chosen
from world_clips import FOCAL, SIZE, observe, standing, treadmill

import kinlmr
from kinlmr import motion
from kinlmr.motion import clips
from kinlmr.world import network

# name: rate, every how many pieces, cameras, noises
SETS = {"a": (30.0, 1, ("any", "down 1 to 15"), ("slow", "limbs", "off", "wide")),
        "b": (30.0, 1, ("any", "level"), ("off", "slow", "limbs", "wide")),
        "fast": (60.0, 4, ("any", "down 1 to 15"), ("slow", "limbs", "off")),
        "validation": (30.0, 1, ("any", "down 1 to 15"), ("slow", "limbs", "off"))}  # fmt: skip
VARIANTS = (
    ("a", 1.0, False),
    ("b", 1.0, False),
    ("a", 1.0, True),
    ("b", 1.0, True),
    ("a", 1.2, True),
    ("b", 2.0, False),
    ("fast", 1.0, False),
    ("fast", 1.0, True),
    ("fast", 0.5, False),
    ("fast", 0.5, True),
    ("fast", 2.0, True),
    ("fast", 2.5, False),
)  # of each set: frames that one frame of the variant is, and whether it is mirrored
LONGEST, SHORTEST, TOGETHER = 13.3, 3.4, 32  # seconds of a piece; pieces recovered at once
WINDOW, BATCH = 90, 32  # ticks of a sample, samples of a step
EARLY, LESS = 10, 0.2  # ticks of a sample that count less, as nobody knows much yet, and how much
RATE, DECAY, SAVED = 3e-3, 3e-2, 200
NO_KEYPOINTS, SHAKE = 0.25, 0.08  # chance; standard deviations of noise on the features, at most
KEYPOINTS = slice(96, 126)  # the features that are zero without keypoints
SPEEDS = slice(30, 63), slice(63, 96), slice(96, 108), slice(108, 120)  # velocities by `network.TAUS`, twice
UP, OFF = 2.0, 0.1  # weights of the terms of up and of how far the place is off


class Sample(NamedTuple):
    """A piece at one rate: features (T, F), which feet stand (T, 4), up (3), how far the place of the root is off along
    the ray and across it (T, 2), metres."""

    features: Tensor
    stands: Tensor
    up: Tensor
    off: Tensor


# --------------------------------------------------------------------------------------------------------------- pieces


def recovered(recordings: list[motion.Motion], body: kinlmr.Body, name: str) -> list[tuple[Tensor, ...]]:
    """Pieces as `Signals` (1, T, ...), then which feet stand, up, the true path in the camera's axes, and the rate."""
    fps, thin, views, noises = SETS[name]
    model = kinlmr.load("anny24-coco17")
    found: list[tuple[Tensor, ...]] = []
    same = [m if motion.same_rate(m.fps, fps) else motion.resampled(m, fps) for m in recordings]
    pieces = clips.pieces(same, round(LONGEST * fps * min(1, 30 / fps)), round(SHORTEST * fps * min(1, 30 / fps)))
    for piece in [p for p in pieces if treadmill(p, body)]:
        print(f"{piece.name}: feet travel while the root stays; left out", flush=True)
    pieces = sorted((p for p in pieces if not treadmill(p, body)), key=lambda p: (len(p), p.name))[::thin]
    first = 5000 + 2000 * list(SETS).index(name)
    for start in range(0, len(pieces), TOGETHER):
        some = pieces[start : start + TOGETHER]
        seen = []
        for i, piece in enumerate(some, start):
            noise = noises[(i // len(views) + i) % len(noises)]
            seen.append(observe(piece, body, views[i % len(views)], noise, first + i))
        keypoints = torch.nn.utils.rnn.pad_sequence([x.keypoints for x in seen], batch_first=True)
        recovery, _ = kinlmr.recover(model, keypoints, fps)
        for piece, one, own in zip(some, seen, zip(*recovery, strict=True), strict=True):
            mine = kinlmr.Recovery(*(x[None, : len(piece)] for x in own))
            signals = seen_by(mine, one.keypoints[None], body)
            up, path = one.camera @ torch.tensor([0.0, 1.0, 0.0]), one.joints[:, body.root] @ one.camera.mT
            found.append(
                (*signals, standing(one.joints, body.joints, fps).flatten(1).float(), up, path, torch.tensor(fps))
            )
        print(f"{name}: {min(start + TOGETHER, len(pieces))} of {len(pieces)} pieces recovered", flush=True)
    return found


@torch.no_grad()
def seen_by(recovery: kinlmr.Recovery, keypoints: Tensor, body: kinlmr.Body) -> network.Signals:
    """What the network is shown of a recovery (1, T, ...)."""
    rotations, translation = recovery.in_camera(SIZE, FOCAL, body)
    joints = body(rotations, recovery.shape.mean(1, keepdim=True)).joints
    known = translation.isfinite().all(-1)
    place = torch.where(known[..., None], translation + joints[..., body.root, :], 0)
    about = (joints - joints[..., [body.root], :])[..., [body.joints.index(name) for name in network.JOINTS], :]
    camera = torch.eye(3).expand(*known.shape, 3, 3)
    return network.Signals(
        about, place, known, rotations[..., body.root, :, :], *network.rays_of(keypoints, SIZE, FOCAL), camera
    )


def sample_of(piece: tuple[Tensor, ...], ratio: float, mirrored: bool) -> Sample | None:
    """A piece at its rate divided by ``ratio``, as the network's ticks see it; None of one too short."""
    signals, (stands, up, path, fps) = network.Signals(*piece[:7]), piece[7:]
    if mirrored:
        flip, pairs = torch.tensor([-1.0, 1.0, 1.0]), motion.opposite(network.JOINTS)
        points, sides = [1, 0, 3, 2, 5, 4], [2, 3, 0, 1]
        signals = signals._replace(
            joints=signals.joints[:, :, pairs] * flip,
            place=signals.place * flip,
            root=signals.root * flip[:, None] * flip,
            rays=signals.rays[:, :, points] * flip,
            confidence=signals.confidence[..., points],
        )
        stands, up, path = stands[:, sides], up * flip, path * flip
    if ratio != 1:
        at = torch.arange(int((len(path) - 1) / ratio)) * ratio
        low, share = at.long(), at % 1
        between = lambda x: torch.lerp(x[:, low], x[:, low + 1], share.view(-1, *[1] * (x.ndim - 2)))  # noqa: E731
        both = signals.seen[:, low] & signals.seen[:, low + 1]
        confidence = torch.minimum(signals.confidence[:, low], signals.confidence[:, low + 1])
        rest = {name: between(getattr(signals, name)) for name in ("joints", "place", "root", "rays", "camera")}
        signals = network.Signals(seen=both, confidence=confidence, **rest)
        stands, path = stands[(at + 0.5).long()], torch.lerp(path[low], path[low + 1], share[:, None])
    rate = float(fps) / ratio
    features, _ = network.features(signals, 1 / rate, network.start(1, path)[0])
    place, ticks = signals.place[0], slice(None, None, max(1, round(rate / network.TICK)))
    known = signals.seen[0]
    if len(place[ticks]) < WINDOW // 2 or not known[5:].all():
        return None
    off = place - path
    off = off - off[known].median(0).values  # the camera's own place is not in the recording
    ray = normalize(place, dim=-1)
    along = (off * ray).sum(-1, keepdim=True)
    off = torch.cat([along.abs(), (off - along * ray).norm(dim=-1, keepdim=True)], -1)
    return Sample(features[0, ticks], stands[ticks], up, off[ticks])


# ------------------------------------------------------------------------------------------------------------- training


def batch(samples: list[Sample], chances: Tensor, spread: Tensor, generator: torch.Generator) -> Sample:
    """BATCH windows of WINDOW ticks; a short piece stands still at first."""
    rand, windows = (lambda: torch.rand((), generator=generator)), []
    for which in torch.multinomial(chances, BATCH, True, generator=generator).tolist():
        one = samples[which]
        count = min(WINDOW, len(one.stands))
        start = int(rand() * (len(one.stands) - count + 1))
        parts = [x[start : start + count] for x in (one.features, one.stands, one.off)]
        features, stands, off = (torch.cat([x[:1].expand(WINDOW - count, -1), x]) for x in parts)
        noise = SHAKE * rand() * spread * torch.randn(features.shape, generator=generator)
        features = features * begun(features[0, -1]) + noise
        if rand() < NO_KEYPOINTS:
            features[:, KEYPOINTS] = 0
        windows.append(Sample(features, stands, one.up.expand(WINDOW, 3), off))
    return Sample(*map(torch.stack, zip(*windows, strict=True)))


def begun(rate: Tensor) -> Tensor:
    """What features (WINDOW, F) are multiplied by if somebody was first seen as the window begins: the running means
    follow from there. rate: the feature that tells it."""
    factor = torch.ones(WINDOW, network.FEATURES)
    seconds = torch.arange(WINDOW) * rate.exp() * (-rate).exp().round().clamp_min(1) / network.TICK
    for part, tau in zip(SPEEDS, network.TAUS * 2, strict=True):
        factor[:, part] = -torch.expm1(-seconds / tau)[:, None]
    return factor


def loss_of(net: network.Network, clip: Sample) -> tuple[Tensor, list[float]]:
    """The loss, and its terms: contacts, up, and the place's error under a Laplace distribution."""
    answer = net(clip.features, clip.features.new_zeros(BATCH, net.gru.hidden_size))[0]
    weight = answer.new_ones(WINDOW, 1)
    weight[:EARLY] = LESS
    weight = weight / weight.mean()
    contact = (weight * binary_cross_entropy_with_logits(answer[..., :4], clip.stands, reduction="none")).mean()
    tilt = (weight * (answer[..., 4:7] - clip.up).square()).mean() * 3
    spread = answer[..., 7:].clamp(-6, 1)
    place = (weight * (spread + clip.off.clamp(0.003, 0.6) * (-spread).exp())).mean()
    return contact + UP * tilt + OFF * place, [float(x.detach()) for x in (contact, tilt, place)]


def train(samples: list[Sample], out: Path, steps: int, seed: int) -> network.Network:
    torch.manual_seed(seed)
    net, generator, first = network.Network(), torch.Generator().manual_seed(seed), 0
    every = torch.cat([x.features[5:] for x in samples])
    spread = every.std(0).clamp_min(1e-3)
    net.mean.copy_(every.mean(0))
    net.scale.copy_(1 / spread)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
    if (kept := out / "training.pt").is_file():
        state = torch.load(kept)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        first = state["step"]
    chances = torch.tensor([float(len(x.stands)) for x in samples])
    began = time.monotonic()
    for step in range(first, steps):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        loss, terms = loss_of(net, batch(samples, chances, spread, generator))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % SAVED == 0 or step + 1 == steps:
            state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "generator": generator.get_state()}
            torch.save(state | {"step": step + 1}, out / "training.part")
            (out / "training.part").replace(kept)
            told = "  ".join(f"{name} {x:.4f}" for name, x in zip(("contacts", "up", "place"), terms, strict=True))
            print(
                f"step {step + 1}/{steps}  {told}  {(step + 1 - first) / (time.monotonic() - began):.1f} steps/s",
                flush=True,
            )
    return net.eval()


@torch.no_grad()
def report(net: network.Network, samples: list[Sample]) -> str:
    """How well contacts and up of samples are found, as a table."""
    counts, off = torch.zeros(3, 4), []
    for one in samples:
        answer = net(one.features[None], torch.zeros(1, net.gru.hidden_size))[0][0]
        said, stands = answer[:, :4] > 0, one.stands > 0.5
        counts += torch.stack([(said & stands).sum(0), said.sum(0), stands.sum(0)])
        ups = normalize(torch.stack([answer[:, 4:7], answer[:, 4:7].cumsum(0)]), dim=-1) @ one.up
        off.append(torch.rad2deg(torch.acos(ups[:, [0, 15, -1]].clamp(-1, 1))))
    hits, said, stands = (x.view(2, 2).sum(0) for x in counts)
    shares = torch.stack([hits / said, hits / stands], 1).mul(100).flatten().tolist()
    one, mean = torch.stack(off).median(0).values.tolist()
    columns = ["ankles: precision, %", "recall", "toes: precision, %", "recall",
               "up, degrees: first", "half a second", "end"]  # fmt: skip
    return table("validation", columns, {"a frame": [*shares, *one], "the mean so far": [torch.nan] * 4 + mean})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--motion", nargs="+", required=True, help="BVH, AMASS or archives, with their paths")
    parser.add_argument("--leave", nargs="*", default=[], help="subjects or beginnings of names: left out")
    parser.add_argument("--validate", nargs="+", required=True, help="the same: scored in the end")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/world"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    body = kinlmr.load_body("anny24_lo369", keypoints="coco17")
    recordings = motion.load_motion(args.motion, body)
    leave = chosen(recordings, args.leave) if args.leave else []
    recordings = [m for m in recordings if not any(m is other for other in leave)]
    validation = chosen(recordings, args.validate)
    training = [m for m in recordings if not any(m is other for other in validation)]
    for name in SETS:
        if not (kept := args.out / f"{name}.pt").is_file():
            some = validation if name == "validation" else training
            torch.save(recovered(some, body, name), kept.with_suffix(".part"))
            kept.with_suffix(".part").replace(kept)
    sets = {name: torch.load(args.out / f"{name}.pt") for name in SETS}
    samples, held = (
        [x for name, ratio, mirrored in some for piece in sets[name] if (x := sample_of(piece, ratio, mirrored))]
        for some in (VARIANTS, [("validation", 1.0, False)])
    )
    net = train(samples, args.out, args.steps, args.seed)
    network.save(net, args.out / "world.npz")
    print(f"{args.out / 'world.npz'}: {(args.out / 'world.npz').stat().st_size / 1000:.0f} kB\n")
    print(report(net, held))


if __name__ == "__main__":
    main()
