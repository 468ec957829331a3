"""The sides that joints' names tell, and names as SMPL's joints are written."""

from __future__ import annotations

import re
from collections.abc import Sequence

# left_hip, LeftHip, lefthip, mixamorig:LeftUpLeg; HandLeft
_WORD = re.compile(r"(?i:(?<![a-z])(?:left|right))|(?<=[a-z])(?:Left|Right)(?![a-z])")
# l_hip, L_Hip, LHip, hip_l, hip.L, Bip01_L_Thigh; ElbowL. L5 is a vertebra.
_LETTER = re.compile(r"(?<![A-Za-z0-9])[lrLR](?=[_. -]|[A-Z][a-z]|$)|(?<=[a-z])[LR]$")
# lhip, hipl, upperleft, FL_hip, thigh_l1, leg_lft: where there is the same name with the other side's word
_WORDS = (("left", "right"), ("lft", "rgt"), ("l", "r"), ("lf", "rt"))
_PIECE = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # of CamelCase or snake_case; the root is not "oot" on the right
LONGEST = 200  # characters of a name that is searched for them


def sides(names: Sequence[str]) -> list[tuple[str, str]]:
    """For each name its side ("left", "right", or "" for the middle) and the rest of it.

    >>> sides(["LeftHip", "r_knee", "spine1", "lfoot", "rfoot"])
    [('left', 'Hip'), ('right', '_knee'), ('', 'spine1'), ('left', 'foot'), ('right', 'foot')]
    """
    found, known = [], {name for name in names if "root" not in map(str.lower, _PIECE.findall(name))}
    for name in names:
        match = _WORD.search(name) or _LETTER.search(name)
        if match:
            side = "left" if match[0][0] in "lL" else "right"
            found.append((side, name[: match.start()] + name[match.end() :]))
        else:
            found.append(_paired(name, known))
    return found


def _paired(name: str, names: set[str]) -> tuple[str, str]:
    """Side and rest of a name that differs from another of the names by the word of its side alone."""
    for left, right in _WORDS if name in names and len(name) <= LONGEST else ():
        other = {left: right, right: left}
        for match in re.finditer(f"(?i:{left}|{right})", name):
            word, before, after = match[0].lower(), name[: match.start()], name[match.end() :]
            for case in (str.lower, str.title, str.upper):
                if case(word) == match[0] and before + case(other[word]) + after in names:
                    return "left" if word == left else "right", before + after
    return "", name


def plain_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names as SMPL's joints are written: L_Hip, left_hip and LHip are all left_hip."""
    return tuple(
        "_".join(filter(None, (side, rest.strip("_. -").replace(" ", "_").lower()))) for side, rest in sides(names)
    )


def opposite(names: Sequence[str]) -> list[int]:
    """For each name the index of its other side's, such as right_knee's for left_knee; its own where there is none."""
    found = sides(names)
    index = {name: i for i, name in enumerate(found)}
    other = {"left": "right", "right": "left", "": ""}
    return [index.get((other[side], rest), i) if side else i for i, (side, rest) in enumerate(found)]
