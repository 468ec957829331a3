"""What the numbers of keypoints mean: places and confidences, and which set's points they are."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinlmr.body import keypoint_sets
from kinlmr.video.readers.keys import plain

Array = NDArray[Any]
# OpenPose's 18 points, as coco17's order picks them; point 1, the neck, is left out.
COCO18 = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)
SETS = {17: "coco17", 25: "body25", 33: "mediapipe33"}
WIDER = (26, 133, 136)  # Halpe and COCO-WholeBody: coco17 and more after it
BODY25B = "body25b"  # OpenPose's BODY_25B, which is no set of kinlmr's: coco17 and more after it
LARGEST = 100.5  # a confidence in percent, and what rounding may add
SMALLEST = 3.0  # pixels: a smaller person is given in metres, or in shares of the picture
CENTRED = 0.02  # of a person's size: hips nearer to (0, 0), in most frames, are the origin


def floats(values: Any) -> Array:
    """Numbers in float32, NaN for null; what is too large for it becomes infinite, which `cleaned` refuses."""
    try:
        with np.errstate(over="ignore"):
            return np.asarray(values).astype(np.float32)
    except (OverflowError, TypeError, ValueError):
        raise ValueError("points that are not numbers, or not as many of each") from None


def cleaned(x: Array, where: Callable[[tuple[int, ...]], str]) -> Array:
    """Points (..., K, 3) as x, y and confidence: zeros where one was not seen, else with a confidence in (0, 1].

    NaN, null, and a confidence of 0 or below are not seen. If any confidence is above 1, all are divided by the
    largest, so their order stays. where: the words for a person's place in the array.
    """
    seen = (x[..., 2] > 0) & ~np.isnan(x).any(-1)
    odd = seen & ~np.isfinite(x).all(-1)
    if odd.any():
        place = tuple(np.argwhere(odd)[0].tolist())
        raise ValueError(
            f"point {place[-1]} of {where(place[:-1])} is {x[place].tolist()}: not finite, but its confidence is not "
            "0; set the confidence of points that were not found to 0"
        )
    largest = check_confidence(x[..., 2])
    x = np.where(seen[..., None], x, np.float32(0))
    x[..., 2] /= max(1, largest)
    return x


def check_confidence(sure: Array) -> float:
    """The largest confidence, 0 of none. ValueError: they are no confidences, but the third axis of space."""
    known = sure[~np.isnan(sure)]
    least, largest = float(known.min(initial=0)), float(known.max(initial=0))
    below = known[known < -0.05]  # -1 alone is how some say that a point was not found
    if largest > LARGEST or (len(below) > 0.02 * len(known) and len(np.unique(below)) > 1):
        raise ValueError(
            f"the third numbers go from {least:.5g} to {largest:.5g}: these look like points in space, x, y, z; "
            "expected are x, y in pixels of the picture and a confidence of 0 to 1, of 0 to 100 at most"
        )
    return largest


def check_picture(x: Array, name: str) -> None:
    """Refuse points (..., K, 3), cleaned, of the set ``name``, that lie about an origin and not in a picture."""
    places = x[..., :2][x[..., 2] > 0]
    hips = x[..., [keypoint_sets()[name].index(f"{side}_hip") for side in ("left", "right")], :]
    middle = hips[..., :2].mean(-2)[(hips[..., 2] > 0).all(-1)]
    sides = sizes(x)
    centred = len(middle) > 0 and np.median(np.abs(middle).max(-1)) < CENTRED * np.median(sides)
    if len(places) and (centred or (np.mean(places < 0, 0) > 0.2).all()):
        raise ValueError(
            "its people stand about the origin (0, 0): these look like points in space, such as MediaPipe's world "
            "landmarks, which are metres about the hips; give the landmarks of the picture (pose_landmarks), or pixels"
        )


def sizes(x: Array) -> Array:
    """The longer side (N) of the box around each person's seen points, of those N in (..., K, 3) who have two."""
    people = x.reshape(-1, *x.shape[-2:])
    people = people[(people[..., 2] > 0).sum(1) > 1]
    seen = people[..., 2:] > 0
    high, low = (np.where(seen, sign * people[..., :2], -np.inf).max(1, initial=-np.inf) * sign for sign in (1, -1))
    return (high - low).max(-1)


def check_pixels(x: Array) -> None:
    """Refuse people so small that their points are no pixels."""
    sides = sizes(x)
    if len(sides) and np.median(sides) < SMALLEST:
        raise ValueError(
            f"its people are {np.median(sides):.2g} pixels large, as if they were normalised to 0..1, or points in "
            "space in metres; expected are pixels: multiply x by the picture's width and y by its height"
        )


# ----------------------------------------------------------------------------------------------------------------- sets


def named(points: Array, source: str | None = None, names: Sequence[str] | None = None) -> tuple[Array, str]:
    """Points (..., K, 3) as they are detected -> points of a set that kinlmr knows, and its name.

    source: the set that they are of; names (K): what the file calls them. Without either, their number decides.
    """
    count = points.shape[-2]
    if source is not None:
        return _of_set(points, source, names)
    if names is not None and (len(names) != count or len({re.sub("[0-9]", "", name) for name in names}) > 1):
        if len(names) != count or (found := by_names(names)) is None:  # kp_0, kp_1, ... are no names
            raise ValueError(_different(names, SETS.get(count, "coco17")))
        name, order = found
        return points[..., order, :], name
    if count in WIDER:
        return points[..., :17, :], "coco17"
    if count == 18:
        return points[..., COCO18, :], "coco17"
    if count not in SETS:
        raise ValueError(
            f"{count} points a person; known are "
            + ", ".join(f"{k} ({name})" for k, name in SETS.items())
            + ", 18 (OpenPose's COCO), 26 and 136 (Halpe), 133 (COCO-WholeBody)"
        )
    return points, SETS[count]


def _of_set(points: Array, source: str, names: Sequence[str] | None) -> tuple[Array, str]:
    sets = {name: len(own) for name, own in keypoint_sets().items()} | {BODY25B: 25}
    count = points.shape[-2]
    name = next((known for known in sets if plain(known) == plain(source)), source)
    if sets.get(name) != count:
        known = ", ".join(f"{known} ({size})" for known, size in sets.items())
        raise ValueError(f"keypoints of the set {source!r} with {count} points; there are {known}")
    if name == BODY25B:
        return points[..., :17, :], "coco17"
    if names is not None and list(map(_common, names)) != list(map(_common, keypoint_sets()[name])):
        raise ValueError(_different(names, name))
    return points, name


def by_names(names: Sequence[str], least: Sequence[str] = ()) -> tuple[str, list[int]] | None:
    """The largest set whose points are all among these names, and where each is; None if there is none.

    least: names that suffice; then the set that has most of them, with -1 for a point that is missing.
    """
    given = list(map(_common, names))
    feet = {f"{side}foot": f"{side}ankle" for side in ("left", "right") if f"{side}ankle" not in given}  # H36M's
    given = [feet.get(name, name) for name in given]
    best: tuple[str, list[int]] | None = None
    for name, own in keypoint_sets().items():
        order = [given.index(point) if point in given else -1 for point in map(_common, own)]
        enough = least and all(_common(point) in given for point in least)
        held = len(order) - order.count(-1)
        if (enough or held == len(own)) and (best is None or held > len(best[1]) - best[1].count(-1)):
            best = name, order
    return best


PARTS = (
    *("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "heel", "bigtoe", "smalltoe", "mouth"),
    *("foot", "thumb", "index", "pinky"),
)
OTHER = {
    **dict.fromkeys(("hip", "mhip", "root", "pelvis"), "midhip"),
    **dict.fromkeys(("thorax", "upperneck"), "neck"),
    **dict.fromkeys(("neckbase", "necknose"), "nose"),  # of Human3.6M, whose face is one point
    "head": "headtop",
    "spine": "spine2",
}


def _common(name: str) -> str:
    """One spelling of MOUTH_LEFT, leftMouth, LMouth and left_mouth; of what a point is called otherwise."""
    text = plain(name)
    for short, side in (("l", "left"), ("r", "right")):
        if text[:1] == short and text[1:] in PARTS:
            return side + text[1:]
        if text.endswith(side) and text[: -len(side)] in PARTS:
            return side + text[: -len(side)]
    return OTHER.get(text, text)


def _different(names: Sequence[str], name: str) -> str:
    """What of the names is not as in a set."""
    expected = keypoint_sets()[name]
    wrong = [f"{a} ({b})" for a, b in zip(names, expected, strict=False) if _common(a) != _common(b)]
    return (
        f"its {len(names)} names are not those of {name}, {len(expected)}; different, with what was expected: "
        f"{', '.join(wrong[:40]) or 'none'}"
    )


# -------------------------------------------------------------------------------------------------------------- anatomy

SIDES, JOINTS = ("left", "right"), ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
LIMBS = [f"{side}_{joint}" for joint in JOINTS for side in SIDES]
# Bones, and their lengths as shares of a person's height.
ALONG = {("shoulder", "elbow"): 0.19, ("elbow", "wrist"): 0.15, ("hip", "knee"): 0.25, ("knee", "ankle"): 0.25,
         ("shoulder", "hip"): 0.29}  # fmt: skip
BONES = {(f"{side}_{a}", f"{side}_{b}"): share for (a, b), share in ALONG.items() for side in SIDES}
BONES |= {("left_shoulder", "right_shoulder"): 0.2, ("left_hip", "right_hip"): 0.11}
LOOKED_AT = 200  # people


def other_set(x: Array) -> str | None:
    """The set that points (..., K, 3) are rather of than of the one that their number says, by a body's proportions."""
    rivals = {17: ("coco17", "h36m17"), 25: ("body25", BODY25B)}.get(x.shape[-2])
    if rivals is None:
        return None
    people = x.reshape(-1, *x.shape[-2:])
    people = people[:: max(1, len(people) // LOOKED_AT)]
    own, other = (_misfit(people, "coco17" if name == BODY25B else name) for name in rivals)
    return rivals[1] if other < 0.8 * own else None


def _misfit(people: Array, name: str) -> float:
    """How far the bones of people (N, K, 3) fall short of the one that is longest for a body: 0 of a body seen flat."""
    points = keypoint_sets()[name]
    one, two = (people[:, [points.index(bone[end]) for bone in BONES]] for end in (0, 1))
    long = np.linalg.norm((one - two)[..., :2], axis=-1) / list(BONES.values())
    known = (one[..., 2] > 0) & (two[..., 2] > 0)
    rows = [row[seen] for row, seen in zip(long, known, strict=True) if seen.sum() >= 6 and row[seen].any()]
    return float(np.median([1 - row.mean() / row.max() for row in rows])) if rows else 0.0
