"""What JSON of a whole video lists: frames by their numbers, and the people in each.

A document is frames: a list of them, an object of them by the picture's name, or a list of people who name their frame.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from kinlmr.video.readers.keys import FRAMES, INDEX, MARKS, NUMBER, PEOPLE, POINTS, TIME, VIDEO, WORLD, at, key_of
from kinlmr.video.readers.numbering import check_times
from kinlmr.video.readers.people import Person, is_mark, people

Label = int | float | str
Item = tuple[Label | None, Any]


class Listing(NamedTuple):
    """Frames by number or name, each with its people; whole: frames without anybody are among them.

    usual: the number that whoever wrote it begins with, if known; one: what a frame is called in errors; names: of the
    points; note: what is to be said.
    """

    frames: list[tuple[Label, list[Person]]]
    whole: bool
    usual: int | None
    one: str = "frame"
    names: list[str] | None = None
    note: str | None = None


def document(content: Any) -> Listing | None:
    """What a JSON of a whole video lists; None of one that is unknown."""
    if (items := _items(content)) is None:
        return None
    frames: list[tuple[Label | None, list[Person]]] = []
    entries = any(key_of(item, ("imageid",)) for _, item in items)
    one = "entry" if entries else "frame"
    some = any(label is not None for label, _ in items)
    for i, (label, item) in enumerate(items):
        found = people(item, f"{one} {i}")
        if found is None and i == 0 and not entries:
            return None
        if found is None or (found and label is None and (some or (len(items) > 1 and _is_person(item)))):
            raise ValueError(
                f"entry {i} has no people, or no frame number (image_id, frame, ...) for them: it is {describe(item)}"
            )
        frames.append((label, found))
    _check_one_video(items)
    times = [at(item, TIME) for _, item in items]
    note = check_times(times) if not some and all(isinstance(t, int | float) for t in times) else None
    labelled = [(i if label is None else label, found) for i, (label, found) in enumerate(frames)
                if label is not None or not some]  # fmt: skip
    every = key_of(content, ("images",)) or any(key_of(item, ("instances",)) for _, item in items)
    whole = bool(every) or any(not found for _, found in labelled)
    return Listing(labelled, whole, _usual(items), one, _names(content), note)


def frame(content: Any, where: str) -> list[Person] | None:
    """The people of a file that is one frame; None if it is none. ValueError: it is a whole video's."""
    numbers = {str(_label(part)) for part in content if key_of(part, NUMBER)} if isinstance(content, list) else {}
    if key_of(content, ("frames", "instanceinfo")) or len(numbers) > 1:
        raise ValueError(f"{where} is of a whole video, {describe(content)}; give that file by itself")
    return people(content, where)


def describe(content: Any) -> str:
    """What a JSON holds, in words."""
    if isinstance(content, dict):
        return f"an object with {', '.join(list(content)[:8])[:200] or 'nothing'}"
    if isinstance(content, list):
        return f"a list of {len(content)}" + (f", first {describe(content[0])}" if content else "")
    return f"{type(content).__name__} {str(content)[:40]!r}"


def _items(content: Any) -> list[Item] | None:
    """The frames or people of a document, with their numbers or names where they have some."""
    if isinstance(content, dict):
        pictures, annotations = at(content, ("images",)), at(content, ("annotations",))
        if isinstance(pictures, list) and isinstance(annotations, list):
            return _annotated(pictures, annotations)
        inside = at(content, FRAMES)
        if isinstance(inside, dict) or (isinstance(inside, list) and inside and not is_mark(inside[0])):
            return _items(inside)
        if key_of(content, (*POINTS, *PEOPLE, *WORLD)):
            return [(None, content)]
        named = content and all(re.search("[0-9]", key) for key in content)
        return list(content.items()) if named else None
    if not isinstance(content, list) or not content:
        return None
    return [(None, content)] if is_mark(content[0]) else [(_label(item), item) for item in content]


def _annotated(pictures: list[Any], annotations: list[Any]) -> list[Item]:
    """COCO's annotations, by the pictures' names."""
    try:
        names = {picture["id"]: str(picture.get("file_name", picture["id"])) for picture in pictures}
        found: dict[str, list[Any]] = {name: [] for name in names.values()}
        for person in annotations:
            found[names[person["image_id"]]].append(person)
    except (KeyError, TypeError, AttributeError):
        raise ValueError("an annotation has no image_id that is the id of one of its images") from None
    return list(found.items())


def _label(item: Any) -> Label | None:
    label = at(item, NUMBER)
    return label if isinstance(label, int | float | str) and not isinstance(label, bool) else None


def _is_person(item: Any) -> bool:
    """Whether an entry of a list is one person, so that its place in the list is no frame number."""
    return key_of(item, POINTS) is not None and not key_of(item, (*PEOPLE, *MARKS))


def _usual(items: Sequence[Item]) -> int | None:
    """0 of an index, and of N.jpg, as AlphaPose calls a video's frames; else unknown."""
    numbered = [(label, item) for label, item in items if label is not None]
    index = all(key_of(item, INDEX) and key_of(item, INDEX) == key_of(item, NUMBER) for _, item in numbered)
    plain = all(re.fullmatch(r"(0|[1-9][0-9]*)\.\w+", str(label)) for label, _ in numbered)
    return 0 if index or plain else None


def _check_one_video(items: Sequence[Item]) -> None:
    named = {str(value)[:80] for _, item in items if isinstance(value := at(item, VIDEO), int | str)}
    if len(named) > 1:
        raise ValueError(f"frames of several videos, {', '.join(sorted(named)[:3])}; give each video's by itself")


def _names(content: Any) -> list[str] | None:
    """What a document calls its points."""
    names = at(at(content, ("metainfo",)) or content, ("keypointid2name", "keypointnames", "names"))
    kinds = at(content, ("categories",))
    if names is None and isinstance(kinds, list) and kinds:
        names = at(kinds[0], ("keypoints",))
    if isinstance(names, dict):
        names = list(names.values())
    return list(map(str, names)) if isinstance(names, list) else None
