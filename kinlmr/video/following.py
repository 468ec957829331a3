"""Several people followed through a video: a look over the whole picture for who is there, a close look at each.

`Follower` needs no network: two functions look for it. It is what the detectors that come along have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kinlmr.files import Array
from kinlmr.video.persons import (
    COCO,
    LEARN,
    TOUCH,
    Window,
    apart,
    box,
    covered,
    moved,
    size,
    steadied,
    touching,
)

NEW, LEAST, STAY = 0.15, 0.4, 0.3  # of a look's newcomer, the score; of a close look's, of one followed, the confidence
SAME, REACH = (
    0.2,
    0.4,
)  # of a size: nearer on average are the same person; as far from where one is expected it may be one
APART, JUMP = 0.2, 0.15  # of a size: points in two positions; a look's and a close look's disagree
OVER = 0.1  # of the smaller box: two whose boxes have more in common are close
RATE = 30.0  # what follows counts frames of so many a second, whatever the video's
FIRST, LOST, CLOSE = 3, 3, 2  # frames between looks: at first, while somebody is away, while two are close
BEGIN, AWAY, BLIND = 30, 30, 10  # frames: what is first; until who is away is given up; how long a close look is tried
FULL, HOLD = 30, 1.3  # frames after which a person counts by size alone; how much more who is followed counts
Looks = Sequence[tuple[Array, float]]  # keypoints (17, 3) and a score, of each whom a look saw


@dataclass
class Person:
    """keypoints (17, 3): as last seen, then moved on; motion (2): pixels a frame; seen, away: frames; size: pixels.

    Frames are those of `RATE`.
    """

    keypoints: Array
    window: Window
    size: float
    motion: Array = field(default_factory=lambda: np.zeros(2))
    seen: float = 1
    away: float = 0
    followed: bool = False

    @property
    def claim(self) -> float:
        """Of more people than wanted, those of the largest claims are followed."""
        return claim(self.size, self.seen / FULL, self.followed)


class Follower:
    """A detector (`kinlmr.video.detectors.Detector`): it remembers, so frames of one video go in, one by one.

    look    a frame (H, W, 3) -> everybody in it, roughly
    close   a frame and a `Window` -> the keypoints (K, 3) of the person in its middle, the first 17 being COCO's
    square  keypoints (17, 3) -> the window that ``close`` wants about them
    people  are followed at most: the largest, once they were seen for a second; one who is followed counts `HOLD` times
    every   frames of `RATE` from one look to the next, if all is quiet. There are more at first, while nobody or too
            few of those who were just there are seen, and while two are close together

    Of two who are close together, a close look takes the limbs of the other: where one lies on the other's, it looks
    again, with the other painted over. The look over all keeps them apart, if it sees both: what they disagree on is
    the latter's. Whom two close looks see, is seen by the one who was expected there, and so
    is a point that was expected in two positions; the other one's is the look's, or as expected, and not sure.
    """

    def __init__(
        self,
        look: Callable[[NDArray[np.uint8]], Looks],
        close: Callable[[NDArray[np.uint8], Window], Array],
        square: Callable[[Array], Window],
        people: int = 4,
        every: int = 6,
    ) -> None:
        self.look, self.close, self.square, self.people, self.every = look, close, square, people, every
        self.persons, self.step, self.clock, self.looked = list[Person](), 1.0, 0.0, -1e9

    def __call__(self, frame: NDArray[np.uint8], /, step: float = 1.0) -> Array:
        """A frame, and how many frames of `RATE` after the last it comes -> the keypoints (P, K, 3) of those seen."""
        self.step = step
        for person in self.persons:
            person.keypoints = moved(person.keypoints, step * person.motion)
        followed = self.chosen()
        answers = [self.answer(frame, person) for person in followed]
        looks: list[Array | None] = [None] * len(self.persons)
        newcomers = list[Array]()
        since, due = 0.0, self.due() or doubtful(followed, answers)
        if due:
            looks, newcomers = self.matched(self.look(frame))
            since, self.looked = self.clock - self.looked, self.clock
        seen_by = dict(zip(map(id, self.persons), looks, strict=True))
        rough = [seen_by[id(person)] for person in followed]
        here = [person for person in self.persons if not person.away]
        for k, person in enumerate(followed):
            if others := [other for other in here if other is not person and near(person, other)]:
                if due and any(seen_by[id(other)] is None for other in others):  # it took two for one
                    rough[k] = None
                answers[k] = checked(answers[k], rough[k], person.keypoints, due)
        settle(followed, answers, rough)
        for person, answer in zip(followed, answers, strict=True):
            self.update(person, answer, step)
        for person in self.persons:
            if not any(person is other for other in followed):
                self.update(person, seen_by[id(person)], since if due else 0.0)
        taken = [answer for answer in answers if answer is not None]
        for points in newcomers:
            if all(apart(points, other) > SAME for other in taken):
                self.persons.append(Person(points, self.square(points), size(points)))
                if len(followed) < self.people and (answer := self.welcome(frame, self.persons[-1], taken)) is not None:
                    followed.append(self.persons[-1])
                    taken.append(answer)
        self.persons = [p for p in self.persons if p.away <= max(AWAY if p.seen > BLIND else FIRST, step)]
        self.clock += step
        count = max(map(len, taken), default=COCO)
        return np.array([widened(one, count) for one in taken], np.float32).reshape(-1, count, 3)

    def chosen(self) -> list[Person]:
        """Those who are followed in this frame."""
        order = sorted(self.persons, key=lambda person: -person.claim)
        for k, person in enumerate(order):
            person.followed = k < self.people
        return order[: self.people]

    def answer(self, frame: NDArray[np.uint8], person: Person) -> Array | None:
        """What a close look sees of a person, if it is that person."""
        hidden = person.away and any(
            other is not person and not other.away and apart(other.keypoints, person.keypoints) < SAME
            for other in self.persons
        )
        if person.away > BLIND or hidden:
            return None
        points = self.close(frame, person.window)
        others = [other.keypoints for other in self.persons if other is not person and not other.away]
        others = [other for other in others if touching(points, other)]
        if others:
            again = self.close(covered(frame, others), person.window)
            less = sum(touching(again, other) for other in others) < sum(touching(points, other) for other in others)
            if less and again[:COCO, 2].mean() >= points[:COCO, 2].mean():
                points = again
        return points if fits(points, person.keypoints, STAY if person.seen > BLIND else LEAST) else None

    def due(self) -> bool:
        """Whether to look for who is there, in this frame."""
        since = self.clock - self.looked + self.step / 2  # the nearest frame
        here = [person for person in self.persons if not person.away]
        if not here or self.clock < BEGIN:
            return since >= (1 if not here else min(FIRST, self.every))
        if any(person.away for person in self.persons):
            return since >= min(LOST, self.every)
        if any(near(one, other) for k, one in enumerate(here) for other in here[:k]):
            return since >= min(CLOSE, self.every)
        return since >= self.every

    def matched(self, found: Looks) -> tuple[list[Array | None], list[Array]]:
        """A look's answer for each person, or None; and the newcomers, the surest first."""
        pairs = sorted(
            (distance, k, m)
            for k, person in enumerate(self.persons)
            for m, (points, _) in enumerate(found)
            if (distance := apart(points, person.keypoints)) < REACH * (1 + person.away / BLIND)
        )
        answers: list[Array | None] = [None] * len(self.persons)
        taken = set[int]()
        for _, k, m in pairs:
            if answers[k] is None and m not in taken:
                answers[k] = found[m][0]
                taken.add(m)
        rest = [one for m, one in enumerate(found) if m not in taken]
        return answers, [points for points, score in sorted(rest, key=lambda one: -one[1]) if score > NEW]

    def welcome(self, frame: NDArray[np.uint8], person: Person, others: list[Array]) -> Array | None:
        """A newcomer is looked at closely, twice, the second time in a better window; None, and away, if not seen."""
        points: Array | None = None
        for _ in range(2):
            points = self.close(frame, person.window)
            if not fits(points, person.keypoints) or any(apart(points, other) < SAME for other in others):
                person.away = 1
                return None
            person.keypoints, person.window = points[:COCO], self.square(points[:COCO])
        person.size, person.followed = size(person.keypoints), True
        return points

    def update(self, person: Person, answer: Array | None, frames: float) -> None:
        """A person with what was seen in this frame, in place, so many frames after the last; 0: nobody looked."""
        window = person.window
        if answer is None:
            person.away += self.step * (frames > 0 or person.away > 0)
            person.motion = 0.9**self.step * person.motion
            x, y = self.step * person.motion
            person.window = window._replace(x=window.x + x, y=window.y + y)
            return
        points = answer[:COCO]
        weight = points[:, 2:] * person.keypoints[:, 2:] + 1e-9
        rate = max(LEARN, self.step / (person.seen + self.step)) / (self.step + person.away)
        person.motion = person.motion + rate * (weight * (points - person.keypoints)[:, :2]).sum(0) / weight.sum()
        person.window = steadied(window, self.square(points), self.step * person.motion, person.away > 0)
        person.keypoints, person.seen, person.away = points, person.seen + frames, 0
        person.size += LEARN * (size(points) - person.size)


# ---------------------------------------------------------------------------------------------------------- who is whom


def claim(size: float, seconds: float, held: bool) -> float:
    """How much a person counts where there are too many: by size and, up to a second, by how long they were seen.

    Who is among those taken counts `HOLD` times, so that two of a size do not take turns.
    """
    return size * min(seconds, 1.0) * (HOLD if held else 1.0)


def settle(people: Sequence[Person], answers: list[Array | None], looks: Sequence[Array | None]) -> None:
    """Two who overlap stay two: answers that are another's become the look's, or None, in place."""
    expected = [person.keypoints for person in people]
    for j in range(len(people)):
        for i in range(j):
            one, two = answers[i], answers[j]
            if one is None or two is None:
                continue
            errors = [apart(answer, expected[k]) for answer, k in ((one, i), (two, j))]
            if apart(one, two) < SAME and apart(expected[i], expected[j]) > apart(one, two):
                loser, kept = (i, two) if errors[0] > errors[1] else (j, one)
                answers[loser] = other_than(looks[loser], kept)
            else:
                answers[i], answers[j] = limbs(one, expected[i], looks[i], two, expected[j], looks[j])
    for k, answer in enumerate(answers):
        if answer is None:  # not seen closely, but by the look, and nobody else
            rough = looks[k]
            others = [other for other in answers if other is not None]
            if rough is not None and rough[:, 2].mean() > LEAST and all(apart(rough, other) > SAME for other in others):
                answers[k] = rough


def doubtful(people: Sequence[Person], answers: Sequence[Array | None]) -> bool:
    """Whether somebody who was just there is not seen closely, or two close looks see one person."""
    some = [answer for answer in answers if answer is not None]
    return any(answer is None and not person.away for person, answer in zip(people, answers, strict=True)) or any(
        apart(one, two) < SAME for k, one in enumerate(some) for two in some[:k]
    )


def checked(answer: Array | None, look: Array | None, expected: Array, due: bool) -> Array | None:
    """A close look's answer about one in a crowd, as far as the look, or what was expected, agrees."""
    if answer is None or (due and look is None):
        return answer
    if look is not None and apart(answer, look) > SAME:
        return look
    other = expected if look is None else look
    wrong = np.linalg.norm((answer[:COCO] - other)[:, :2], axis=1) > JUMP * size(expected)
    answer = answer.copy()
    for k in np.flatnonzero(wrong & (other[:, 2] > answer[:COCO, 2] / 2)):
        answer[k] = other[k] * [1, 1, 1.0 if look is not None else 0.3]
    return answer


def widened(points: Array, count: int) -> Array:
    """COCO's points (17, 3) as the first of ``count``; the rest are not seen."""
    return np.pad(points, [(0, count - len(points)), (0, 0)])


def other_than(points: Array | None, other: Array) -> Array | None:
    return None if points is None or apart(points, other) < SAME else points


def limbs(
    one: Array, expected: Array, look: Array | None, two: Array, awaited: Array, other: Array | None
) -> tuple[Array, Array]:
    """Both answers, where a point in one position belongs to whom it was expected of."""
    reach = min(size(expected), size(awaited))
    away = lambda a, b: np.linalg.norm((a[:COCO] - b[:COCO])[:, :2], axis=1)  # noqa: E731
    both = (away(one, two) < TOUCH * reach) & (away(expected, awaited) > APART * reach)
    if not both.any():
        return one, two
    mine = away(one, expected) <= away(two, awaited)
    return mended(one, both & ~mine, expected, look, two), mended(two, both & mine, awaited, other, one)


def mended(points: Array, wrong: Array, expected: Array, look: Array | None, other: Array) -> Array:
    """Keypoints whose ``wrong`` (17) ones are the look's, or, where that is wrong too, as expected, and not sure."""
    points = points.copy()
    for k in np.flatnonzero(wrong):
        if look is not None and np.linalg.norm((look - other[:COCO])[k, :2]) > TOUCH * size(expected):
            points[k] = look[k]
        else:
            points[k, :2], points[k, 2] = expected[k, :2], 0.1 * points[k, 2]
    return points


def fits(points: Array, expected: Array, least: float = LEAST) -> bool:
    """Whether a close look sees somebody, who may be whom it is about."""
    return bool(points[:COCO, 2].mean() >= least and apart(points, expected) < REACH)


def near(one: Person, other: Person) -> bool:
    """Whether two people's boxes overlap by more than a little."""
    (low, high), (lower, higher) = box(one.keypoints), box(other.keypoints)
    common = (np.minimum(high, higher) - np.maximum(low, lower)).clip(0)
    return bool(common.prod() > OVER * min((high - low).prod(), (higher - lower).prod()))
