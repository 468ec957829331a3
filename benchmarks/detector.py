"""What the detector that comes along costs a frame, of 1, 2 and 4 people, on one thread and on two.

    python benchmarks/detector.py [--frames 40] [--people 1 2 4] [--threads 1 2] [--fast]

The people are copies of the woman of the clip that comes along, side by side in twos, 160 x 180 pixels each. CPU
is the process's time a frame, of all threads together, looks for newcomers among them, after the first `WARM` frames;
wall the time of the fastest quarter of the frames. Sizes of pictures change little: both networks see a fixed size.
The last two columns have the same with all that a live frame needs before it is drawn: who is whom, body, floor.
"""

import argparse
import functools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from engine import machine

import kinlmr
from kinlmr.files import Array
from kinlmr.video import movenet
from kinlmr.video.crowd import Crowd
from kinlmr.video.detectors import Detector, detected
from kinlmr.video.frames import Shot, open_video

CLIP = Path(movenet.__file__).parent / "data/demo.mp4"
RATE = 30.0
FIRST, COUNT, WARM = 60, 40, 31  # the frames in which the woman walks; those that are not counted


def crowd(frames: int, people: int) -> list[Array]:
    """Pictures with so many people, who walk to and fro."""
    middle = np.load(CLIP.with_suffix(".npz"))["keypoints"][0, FIRST : FIRST + COUNT, :, 0].mean(1).astype(int)
    shots = [shot.picture for shot in open_video(CLIP).shots][FIRST : FIRST + COUNT]
    alone = [picture[170:350, x - 80 : x + 80] for picture, x in zip(shots, middle, strict=True)]
    order = [*range(COUNT), *reversed(range(COUNT))]
    wide = min(people, 2)
    return [np.tile(alone[order[k % len(order)]], (-(-people // wide), wide, 1)) for k in range(frames)]


def measured(answers: Iterator[Array]) -> tuple[int, float, float]:
    """How many were seen in the last picture, CPU and wall milliseconds a frame."""
    cpu, wall = list[float](), list[float]()
    begun, clock = time.process_time(), time.perf_counter()
    seen = 0
    for answer in answers:
        seen = len(answer)
        cpu.append(time.process_time() - begun)
        wall.append(time.perf_counter() - clock)
        begun, clock = time.process_time(), time.perf_counter()
    return seen, 1000 * float(np.mean(cpu[WARM:])), 1000 * float(np.percentile(wall[WARM:], 25))


def recovered(pictures: list[Array], detect: Detector, people: int) -> Iterator[Array]:
    """The keypoints of each picture, once everybody in it is recovered and stands, as for ``kinlmr --camera``."""
    model, body, size = kinlmr.load("anny24-coco17"), kinlmr.load_body("anny24_lo1229"), pictures[0].shape[1::-1]
    place = functools.partial(kinlmr.to_world, fps=RATE, size=size, focal=float(np.hypot(*size)), body=body)
    people_now = Crowd(model.live(), RATE, place)
    shots = (Shot(t, t / RATE, picture, np.zeros((0, 17, 3), np.float32)) for t, picture in enumerate(pictures))
    for shot in detected(shots, detect, "coco17", 1.0, people, RATE):
        list(people_now.take(shot.keypoints[:, None], shot.number))
        yield shot.keypoints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--people", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--fast", action="store_true", help="of the fast one only")
    args = parser.parse_args()
    print(machine("cpu"))
    print("| detector | people | seen | threads | CPU ms a frame | wall ms | with body: CPU ms | wall ms |")
    print("|---|---|---|---|---|---|---|---|")
    for fast in (True,) if args.fast else (False, True):
        for people in args.people:
            pictures = crowd(WARM + args.frames, people)
            for threads in args.threads:
                torch.set_num_threads(threads)
                seen, cpu, wall = measured(map(movenet.movenet(people, fast), pictures))
                _, *whole = measured(recovered(pictures, movenet.movenet(people, fast), people))
                times = " | ".join(f"{time:.1f}" for time in (cpu, wall, *whole))
                print(f"| {'--fast' if fast else 'movenet'} | {people} | {seen} | {threads} | {times} |", flush=True)


if __name__ == "__main__":
    main()
