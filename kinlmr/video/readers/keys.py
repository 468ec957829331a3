"""The keys of detectors' JSON, however they are spelled: framenumber is frame_number, frameNumber and Frame-Number."""

import functools
import re
from typing import Any

MARKS = ("poselandmarks", "landmarks", "landmark")
POINTS = ("posekeypoints2d", "keypoints", *MARKS, "keypoints2d", "joints")
PEOPLE = ("people", "instances", "persons", "bodies", "poses", "detections")
FRAMES = ("frames", "instanceinfo", "predictions", "results", "poselandmarks", "landmarks")
WORLD = ("poseworldlandmarks", "worldlandmarks", "posekeypoints3d", "keypoints3d")
FRAME = ("frame", "framenumber", "frameindex", "frameidx", "frameid", "frameno", "framenum", "framenr", "framecount")
INDEX = ("frameindex", "frameidx", "index")  # which count from 0
NUMBER = (*FRAME, "imageid", "imagename", "imgname", "filename", "image", "index")
VIDEO = ("video", "videoid", "videoname", "vidid", "clip", "clipid", "camera", "cameraid", "camid")
TIME = ("timestampms", "timestamp", "timems", "time")
ID = ("trackid", "trackingid", "trackerid", "idx", "personid", "instanceid", "id")
SURE = (
    *("visibility", "visible", "confidence", "conf", "score", "likelihood", "inframelikelihood", "presence", "vis"),
    *("probability", "prob", "certainty", "v", "c"),
)
SCORES = (
    *("keypointscores", "keypointsscores", "keypointscore", "keypointsconf", "kpscore", "scores", "score"),
    *("confidences", "confidence", "conf", "visible", "visibility"),
)


def plain(key: str) -> str:
    """A name in small letters, without signs."""
    return re.sub("[^a-z0-9]", "", key.lower())


@functools.lru_cache(10_000)
def _first(keys: tuple[str, ...], wanted: tuple[str, ...]) -> str | None:
    there = {plain(key): key for key in keys}
    return next((there[name] for name in wanted if name in there), None)


def key_of(entry: Any, wanted: tuple[str, ...]) -> str | None:
    """The first of the wanted keys that an object has, as it spells it; None of what is no object."""
    return _first(tuple(entry), wanted) if isinstance(entry, dict) else None


def at(entry: Any, wanted: tuple[str, ...]) -> Any:
    """What an object has under the first of the wanted keys that it has."""
    key = key_of(entry, wanted)
    return None if key is None else entry[key]
