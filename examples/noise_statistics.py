"""Print what a detector's errors and confidences are like, and beside them those of the training's noise.

    python examples/noise_statistics.py --aist FOLDER --clips aist_ch01 aist_ch07
    python examples/noise_statistics.py --video FILE.npz

--aist: keypoints that a detector found in AIST++ (`aist.py`) against the picture of their 3D truth, and the noise
`kinlmr.motion.noise.REAL` on the same poses. Points without a truth are left out. Errors are in thousandths of the
box's side, 1.25 times the person's extent. Over the 12 points of the limbs:

    error            median, 90 % and 99 % of the distance
    by confidence    the same, median and 90 %, of points of such a confidence
    spread           1.48 times the median of an error's absolute value, across and down, by joint
    correlation      of an error, or a confidence, with itself so many frames later
    doubts           how often a second a point's confidence falls below 0.3, and how long it stays there in the mean
    in one place     frames in which left and right are found together (25) though they are not (60)

--video: of keypoints without a truth, .npz with coco17 (T, 17, 3) and fps, what can be told: confidences alone.
"""

import argparse
from pathlib import Path

import aist
import torch
from evaluate import read_video
from real import at_rate
from scores import LIMBS
from torch import Tensor

from kinlmr.body import keypoint_sets
from kinlmr.motion.noise import REAL, disturb

LAGS, DOUBT, BOX = (1, 2, 4, 8, 15), 0.3, 1.25
LEVELS = ((0.0, 0.1), (0.2, 0.3), (0.5, 0.6), (0.7, 0.8), (0.9, 1.01))
PAIRS = {name: 5 + 2 * i for i, name in enumerate(("shoulder", "elbow", "wrist", "hip", "knee", "ankle"))}
Rows = dict[str, list[float]]


def quantiles(x: Tensor, *shares: float) -> list[float]:
    x = x[:: len(x) // 1_000_000 + 1]  # more than torch's quantile takes
    return [float(v) for v in x.quantile(x.new_tensor(shares))] if len(x) else [torch.nan] * len(shares)


def of_confidence(confidence: Tensor, fps: float) -> Rows:
    """Of confidences (V, T, 17)."""
    limbs = confidence[:, :, LIMBS]
    low, apart = limbs < DOUBT, limbs - limbs.mean()
    begins = (low[:, 1:] & ~low[:, :-1]).float().mean() * fps
    return {
        "confidence, 5 25 50 75 95 %": quantiles(limbs.flatten(), 0.05, 0.25, 0.5, 0.75, 0.95),
        "not found, %": [100 * float((limbs == 0).float().mean())],
        "confidence by joint": [float(confidence[:, :, [k, k + 1]].mean()) for k in PAIRS.values()],
        "below 0.3 by joint, %": [100 * float((confidence[:, :, [k, k + 1]] < DOUBT).float().mean())
                                  for k in PAIRS.values()],
        "doubts a second, and ms of one": [float(begins), 1000 * float(low.float().mean() / begins.clamp_min(1e-9))],
        "confidence's correlation": [float((apart[:, lag:] * apart[:, :-lag]).mean() / apart.square().mean())
                                     for lag in LAGS],
    }  # fmt: skip


def of_error(found: Tensor, image: Tensor, known: Tensor) -> Rows:
    """Of keypoints (V, T, 17, 3) and their truth's picture (V, T, 17, 2), where it is known (V, T, 17)."""
    side = BOX * (image.amax(2) - image.amin(2)).amax(-1)[..., None, None] / 1000
    error = torch.where(known[..., None], (found[..., :2] - image) / side, torch.nan)
    distance, sure = error.norm(dim=-1)[:, :, LIMBS], found[:, :, LIMBS, 2]
    at = distance.isfinite()
    distance, sure = distance[at], sure[at]
    ranks = torch.stack([x.argsort().argsort().double() for x in (distance, sure)])
    rows = {"error, 50 90 99 %": quantiles(distance, 0.5, 0.9, 0.99)}
    for low, high in LEVELS:
        rows[f"at confidence {low} to {min(high, 1):g}"] = quantiles(distance[(sure >= low) & (sure < high)], 0.5, 0.9)
    rows["rank correlation with confidence"] = [float(torch.corrcoef(ranks)[0, 1])]
    for axis, name in enumerate(("across", "down")):
        both = [error[:, :, [k, k + 1], axis] for k in PAIRS.values()]
        rows[f"spread {name} by joint"] = [1.48 * float(x.abs().nanmedian()) for x in both]
    calm = error[:, :, LIMBS].clamp(-60, 60)
    rows["error's correlation"] = []
    for lag in LAGS:
        a, b = calm[:, lag:], calm[:, :-lag]
        at = a.isfinite() & b.isfinite()
        a, b = a[at], b[at]
        rows["error's correlation"].append(float((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt()))
    apart = lambda x, k: (x[:, :, k, :2] - x[:, :, k + 1, :2]).norm(dim=-1) / side[..., 0, 0]  # noqa: E731
    rows["in one place, wrists ankles, %"] = []
    for k in (PAIRS["wrist"], PAIRS["ankle"]):
        one = (apart(found, k) < 25) & (apart(image, k) > 60)
        rows["in one place, wrists ankles, %"].append(100 * float(one[known[:, :, [k, k + 1]].all(-1)].float().mean()))
    return rows


def of_clip(path: Path, fps: float, seed: int) -> dict[str, Rows]:
    """The rows of a clip of AIST++ as it is, and of the training's noise on the same poses."""
    clip = at_rate(aist.read(path), fps)
    truth, image = clip.in_cameras().float(), clip.in_picture().float()
    known = image.isfinite().all(-1)
    image = torch.where(known[..., None], image, clip.keypoints[..., :2])
    truth = torch.where(known[..., None], truth, truth.nanmean(2, keepdim=True).nan_to_num())
    names = keypoint_sets()["coco17"]
    seen = disturb(image, truth, names, fps, torch.Generator().manual_seed(seed), REAL)
    both = {"real": clip.keypoints, "noise": torch.cat([seen[0], seen[1][..., None]], -1)}
    return {f"{clip.name}, {who}": of_error(x, image, known) | of_confidence(x[..., 2], fps) for who, x in both.items()}


def report(found: dict[str, Rows]) -> str:
    first = next(iter(found.values()))
    cell = lambda row: " ".join("-" if x != x else f"{x:.2f}" if abs(x) < 1 else f"{x:.1f}" for x in row)  # noqa: E731
    rows = {name: [cell(own[name]) for own in found.values()] for name in first}
    head = f"joints: {', '.join(PAIRS)}; correlations after {', '.join(map(str, LAGS))} frames\n\n"
    lines = [f"| | {' | '.join(found)} |", "|" + "---|" * (len(found) + 1)]
    return head + "\n".join(lines + [f"| {name} | {' | '.join(row)} |" for name, row in rows.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aist", type=Path, metavar="FOLDER", help="of AIST++, as examples/real.py takes it")
    parser.add_argument("--clips", nargs="+", default=[], help="beginnings of names; all without it")
    parser.add_argument("--video", nargs="+", default=[], help=".npz of keypoints without a truth, see above")
    parser.add_argument("--fps", type=float, default=30, help="of AIST++'s 60 frames a second (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (%(default)s)")
    args = parser.parse_args()
    if not args.aist and not args.video:
        parser.error("nothing to read: give --aist, --video or both")
    try:
        if args.aist:
            found: dict[str, Rows] = {}
            for path in aist.paths(args.aist, args.clips)[0]:
                found |= of_clip(path, args.fps, args.seed)
            print(report(found) + "\n")
        if args.video:
            videos = {Path(name).stem: read_video(name) for name in args.video}
            print(report({name: of_confidence(x[None, ..., 2], fps) for name, (x, _, fps) in videos.items()}))
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
