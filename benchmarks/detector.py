"""What the detector that comes along costs a frame, of 1, 2 and 4 people, on one thread and on two.

    python benchmarks/detector.py [--frames 40] [--people 1 2 4] [--threads 1 2]

The people are copies of the woman of the clip that comes along, side by side in twos, 160 x 180 pixels each. CPU
is the process's time a frame, of all threads together, looks for newcomers among them, after the first `WARM` frames;
wall the time of the fastest quarter of the frames. Sizes of pictures change little: both networks see a fixed size.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from engine import machine

from kinlmr.files import Array
from kinlmr.video import movenet
from kinlmr.video.frames import open_video

CLIP = Path(movenet.__file__).parent / "data/demo.mp4"
FIRST, COUNT, WARM = 60, 40, 31  # the frames in which the woman walks; those that are not counted


def crowd(frames: int, people: int) -> list[Array]:
    """Pictures with so many people, who walk to and fro."""
    middle = np.load(CLIP.with_suffix(".npz"))["keypoints"][0, FIRST : FIRST + COUNT, :, 0].mean(1).astype(int)
    shots = [shot.picture for shot in open_video(CLIP).shots][FIRST : FIRST + COUNT]
    alone = [picture[170:350, x - 80 : x + 80] for picture, x in zip(shots, middle, strict=True)]
    order = [*range(COUNT), *reversed(range(COUNT))]
    wide = min(people, 2)
    return [np.tile(alone[order[k % len(order)]], (-(-people // wide), wide, 1)) for k in range(frames)]


def measured(pictures: list[Array], people: int, fast: bool) -> tuple[int, float, float]:
    """How many were seen in the last picture, CPU and wall milliseconds a frame."""
    detect, cpu, wall = movenet.movenet(people, fast), list[float](), list[float]()
    found = np.zeros(0)
    for picture in pictures:
        begun, clock = time.process_time(), time.perf_counter()
        found = detect(picture)
        cpu.append(time.process_time() - begun)
        wall.append(time.perf_counter() - clock)
    return len(found), 1000 * float(np.mean(cpu[WARM:])), 1000 * float(np.percentile(wall[WARM:], 25))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--people", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    print(machine("cpu"))
    print("| detector | people | seen | threads | CPU ms a frame | wall ms |\n|---|---|---|---|---|---|")
    for fast in (False, True):
        for people in args.people:
            pictures = crowd(WARM + args.frames, people)
            for threads in args.threads:
                torch.set_num_threads(threads)
                seen, cpu, wall = measured(pictures, people, fast)
                name = "--fast" if fast else "movenet"
                print(f"| {name} | {people} | {seen} | {threads} | {cpu:.1f} | {wall:.1f} |", flush=True)


if __name__ == "__main__":
    main()
