"""Whose frame it is: frame numbers out of the names and numbers that files give, and where they begin."""

import itertools
import re
from collections.abc import Callable, Sequence

DATE = r"(?<![0-9])(?:19|20)[0-9]{2}(?:[-_.]?[0-9]{2}){2}(?:[T_ -][0-9]{2}(?:[-:.][0-9]{2}){2})?(?![0-9])"
PIECES = re.compile(rf"{DATE}|[0-9]+|[^0-9]+")
DIGITS = 15  # more make no frame number
ENDING = r"\.[a-z][a-z0-9]{1,4}$"  # of a file's name


def numbers(labels: Sequence[int | float | str], where: Callable[[int], str]) -> list[int]:
    """The frame numbers of what each frame is called: numbers, or names that differ in one number.

    A number that is the same in every name, a date, ``1080p``, ``30fps`` and ``cam2`` are none. ValueError: names of
    several videos, or without a number. where: the words for the label of an index.
    """
    if all(isinstance(label, int | float) for label in labels):
        for i, label in enumerate(labels):
            if label < 0 or label != label // 1:  # type: ignore[operator]
                raise ValueError(f"{where(i)}: {label} is no frame number; expected are whole numbers from 0 or 1")
        return [int(label) for label in labels]
    names = [re.sub(ENDING, "", str(label), flags=re.I) for label in labels]
    split = [PIECES.findall(name) for name in names]
    place = _place(split, names, where)
    found = [pieces[place] for pieces in split]
    long = next((i for i, number in enumerate(found) if len(number.lstrip("0")) > DIGITS), None)
    if long is not None:
        raise ValueError(
            f"{where(long)}: {names[long][:40]!r} has no frame number, but one of {len(found[long])} digits"
        )
    return list(map(int, found))


def _place(split: Sequence[Sequence[str]], names: Sequence[str], where: Callable[[int], str]) -> int:
    """Which piece of every name is the frame's number."""
    first = split[0]
    for i, pieces in enumerate(split):
        if len(pieces) != len(first) or any(
            a != b for a, b in zip(pieces, first, strict=False) if not (_counts(a) and _counts(b))
        ):
            raise _several(names, 0, i)
    columns = [k for k in range(len(first)) if _counts(first[k])]
    changing = [k for k in columns if any(pieces[k] != first[k] for pieces in split)]
    for k in changing:
        if _named(first, k):
            raise _several(names, 0, next(i for i, pieces in enumerate(split) if pieces[k] != first[k]))
    if not changing:
        columns = [k for k in columns if not _named(first, k)]
        if not columns:
            raise ValueError(f"{where(0)}: {names[0][:40]!r} has no frame number")
        return columns[-1]
    values = {k: [int(pieces[k][-DIGITS:]) for pieces in split] for k in changing}
    rows = sorted(set(zip(*values.values(), strict=True)))  # numbers that grow together, such as a frame and its time
    if any(a >= b for one, two in itertools.pairwise(rows) for a, b in zip(one, two, strict=True)):
        other = next(i for i, pieces in enumerate(split) if pieces[changing[0]] != first[changing[0]])
        raise _several(names, 0, other)
    return min(changing, key=lambda k: max(values[k]) - min(values[k]))


def _counts(piece: str) -> bool:
    """Whether a piece of a name is a number, and no date."""
    return piece.isascii() and piece.isdigit() and not re.fullmatch(DATE, piece)


def _named(pieces: Sequence[str], k: int) -> bool:
    """Whether the text beside a number says that it is no frame's: cam2, 1080p, 30fps, 1920x1080."""
    before, after = pieces[k - 1] if k else "", pieces[k + 1] if k + 1 < len(pieces) else ""
    return bool(
        re.search(r"(?:cam|camera|view)$", before, re.I)
        or re.match(r"(?:p|i|k|x|fps|hz|kbps|mm|ms|s)(?![a-z])", after, re.I)
        or (before.lower() == "x" and k > 1)
    )


def _several(names: Sequence[str], one: int, two: int) -> ValueError:
    return ValueError(
        f"frames of several videos, such as {names[one][:80]!r} and {names[two][:80]!r}, which differ in more than a "
        "frame number; give each video's by itself"
    )


def first_frame(found: Sequence[int], whole: bool, usual: int | None, frames: int | None) -> tuple[int, str | None]:
    """The number of the video's first frame, and what was assumed, in words.

    found: the numbers; whole: of every frame, not only of those with people; usual: the number with which whoever
    wrote them begins, if that is known; frames: how many the video has.
    """
    low, high = min(found), max(found)
    if low == 0:
        return 0, _beyond(high, 0, frames)
    if frames is not None and high == frames:
        return 1, None
    if frames is not None and high > frames and whole and high - low + 1 == frames:
        return low, f"its frames are numbered {low} to {high}; {low} is taken for the video's first, of {frames}"
    if low == 1 and whole:
        return 1, _beyond(high, 1, frames)
    base = usual if usual is not None else int(low == 1)
    whose = "" if whole else " with somebody"
    said = f"its first frame{whose} is number {low}; taken as counted from {base}: if they count from {1 - base}, "
    return base, _beyond(high, base, frames) or f"{said}all is a frame too {'early' if base else 'late'}"


def _beyond(high: int, base: int, frames: int | None) -> str | None:
    if frames is None or high - base < frames:
        return None
    return f"warning: its frames go on to number {high}, counted from {base}, but the video has {frames}"


def check_times(times: Sequence[float]) -> str | None:
    """What is to be said of frames without numbers whose times jump."""
    gaps = [b - a for a, b in itertools.pairwise(times)]
    usual = sorted(gaps)[len(gaps) // 2] if gaps else 0
    far = next((i for i, gap in enumerate(gaps) if gap > 1.5 * usual), None)
    if far is None:
        return None
    return (
        f"warning: its times go from {times[far]:g} to {times[far + 1]:g} at once; if frames were left out there, give "
        "each its number, as frame"
    )
