"""Which joint of a file is which of a body: by the names that makers give to limbs, and by the tree."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from kinlmr.body import Body
from kinlmr.files import nearest
from kinlmr.motion.names import plain_names, sides

SIDES = ("left", "right")
_LIMBS = {"hip": "UpLeg", "knee": "Leg", "ankle": "Foot", "foot": "ToeBase", "collar": "Shoulder", "shoulder": "Arm",
          "elbow": "ForeArm", "wrist": "Hand"}  # fmt: skip
_BOTH = {f"{side}_{joint}": f"{side.title()}{name}" for side in SIDES for joint, name in _LIMBS.items()}
_TRUNK = "pelvis", "spine1", "spine2", "spine3", "neck", "head"
_UNREAL = dict(zip(_TRUNK, ("pelvis", "spine_01", "spine_02", "spine_03", "neck_01", "head"), strict=True))
_VRM = dict(zip(_TRUNK, ("hips", "spine", "chest", "upperChest", "neck", "head"), strict=True))
_MORE = {  # Unreal's and VRM's; SMPL's hand lies where the middle finger begins
    "collar": ("clavicle", "Shoulder"), "shoulder": ("upperarm", "UpperArm"), "elbow": ("lowerarm", "LowerArm"),
    "wrist": ("hand", "Hand"), "hand": ("middle_01", "MiddleProximal"), "hip": ("thigh", "UpperLeg"),
    "knee": ("calf", "LowerLeg"), "ankle": ("foot", "Foot"), "foot": ("ball", "Toes"),
}  # fmt: skip
# Makers' names in full, to build `names=` of one's own from.
DIALECTS = {
    "cmu": {"pelvis": "Hips", "spine1": "LowerBack", "spine2": "Spine", "spine3": "Spine1", "neck": "Neck",
            "head": "Head", **_BOTH},
    "mixamo": {"pelvis": "Hips", "spine1": "Spine", "spine2": "Spine1", "spine3": "Spine2", "neck": "Neck",
               "head": "Head", **_BOTH},
    "unreal": _UNREAL | {f"{side}_{joint}": f"{bone}_{side[0]}"
                         for side in SIDES for joint, (bone, _) in _MORE.items()},
    "vrm": _VRM | {f"{side}_{joint}": f"{side}{bone}" for side in SIDES for joint, (_, bone) in _MORE.items()},
}  # fmt: skip
# What makers call a limb's joints, the surest first; a name that one joint has taken is no other's.
_WORDS = {
    "hip": ("UpLeg", "UpperLeg", "Thigh", "Hip"),
    "knee": ("Leg", "LowerLeg", "LowLeg", "Shin", "Calf", "Knee"),
    "ankle": ("Ankle", "Foot"),
    "foot": ("ToeBase", "Toe", "Toes", "Toe0", "Ball", "Foot"),
    "shoulder": ("UpperArm", "UpArm", "Arm", "Shldr", "Shoulder"),
    "elbow": ("ForeArm", "LowerArm", "LowArm", "Elbow"),
    "wrist": ("Wrist", "Hand"),
    "hand": ("Hand",),
    "collar": ("Collar", "Clavicle", "Shoulder"),
}
_NEEDED = ("hip", "knee", "shoulder", "elbow")
NEEDED = "pelvis", *(f"{side}_{joint}" for side in SIDES for joint in _NEEDED)  # of a body that words can be found for


class Skeletal(Protocol):
    """What has joints: their names, and their parents, -1 without one."""

    @property
    def names(self) -> list[str]: ...
    @property
    def parents(self) -> list[int]: ...


def joint_map(file: Skeletal, body: Body, names: Mapping[str, str] | None) -> dict[int, int]:
    """The body's joint -> the file's, for the joints that both have. ``names``: as names; None: found."""
    if names is not None:
        return _given(file, body, names)
    index = {name: j for j, name in enumerate(plain_names(body.joints))}
    bare = _bare(file.names)
    own = {name: i for i, name in enumerate(plain_names(bare))}
    unnamed = [body.joints[j] for name, j in index.items() if name not in own]
    if not unnamed:
        return {j: own[name] for name, j in index.items()}
    found, lacking = _by_words(file, bare)
    others = [name for i, name in enumerate(bare) if i not in found.values()]
    missing = [_nearest_word(words, others) for words in lacking]
    if not index.keys() >= set(NEEDED) or (missing and len(unnamed) < len(missing)):
        missing = unnamed
    if missing:
        shown = ", ".join(f"{name!r}{nearest(name, others)}" for name in missing)
        raise ValueError(
            f"its joints are not named as this body's, nor as a known maker's: it lacks {shown}. "
            "Give names=, the body's joint -> the file's"
        )
    return {index[name]: i for name, i in found.items() if name in index}


def _given(file: Skeletal, body: Body, names: Mapping[str, str]) -> dict[int, int]:
    index = {name: i for i, name in enumerate(file.names)} | {name: i for i, name in enumerate(_bare(file.names))}
    names = {joint: "_".join(name.split()) for joint, name in names.items()}
    if absent := [name for name in names.values() if name not in index]:
        shown = ", ".join(f"{name!r}{nearest(name, index)}" for name in absent)
        raise ValueError(f"names= has joints that it lacks: {shown}")
    if unknown := [joint for joint in names if joint not in body.joints]:
        raise ValueError(f"body {body.name!r} has no joint {', '.join(map(repr, unknown))}")
    if body.joints[body.root] not in names:
        raise ValueError("names= must name the body's root")
    return {body.joints.index(joint): index[name] for joint, name in names.items()}


def _by_words(file: Skeletal, bare: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, ...]]]:
    """SMPL's joint -> the file's: limbs by their words, the trunk by the tree; and the words of what is lacking."""
    words = {f"{side}{_letters(rest)}": i for i, (side, rest) in reversed([*enumerate(sides(bare))])}
    found: dict[str, int] = {}
    lacking = []
    for side in SIDES:
        for joint, choices in _WORDS.items():
            free = [words[key] for word in choices if (key := side + word.lower()) in words]
            free = [i for i in free if i not in found.values()]
            if free:
                found[f"{side}_{joint}"] = free[0]
            elif joint in _NEEDED:
                lacking.append(tuple(side.title() + word for word in choices))
    if not lacking:
        top = next((i for end in ("head", "neck") for key, i in words.items() if key.endswith(end)), None)
        found |= _trunk(file, found, top)
    return found, lacking


def _trunk(file: Skeletal, limbs: Mapping[str, int], top: int | None) -> dict[str, int]:
    """Pelvis, spine, neck and head: what lies from the hips over the shoulders to the top, whatever its names."""
    pelvis = _common(file.parents, limbs["left_hip"], limbs["right_hip"])
    chest = _common(file.parents, limbs["left_shoulder"], limbs["right_shoulder"])
    below = _upwards(file.parents, pelvis)
    path = [i for i in reversed(_upwards(file.parents, chest if top is None else top)) if i not in below]
    neck = next((k for k, i in enumerate(path) if re.search("(?i)neck|head", file.names[i])), len(path))
    if chest in path:
        neck = min(neck, path.index(chest) + 1)
    spine, rest = path[:neck], path[neck:]
    found = {"pelvis": pelvis}
    if spine:
        found["spine1"] = spine[0]
    if len(spine) > 1:
        found["spine3"] = spine[-1]
    if len(spine) > 2:
        found["spine2"] = spine[round((len(spine) - 1) / 2)]
    if rest and "head" in file.names[rest[-1]].lower():
        found["head"] = rest.pop()
    if rest:
        found["neck"] = rest[0]
    return found


def _bare(names: Sequence[str]) -> list[str]:
    """Names without a namespace, and without the prefix that all but the root have in common."""
    names = [name.split(":")[-1] for name in names]
    prefix = os.path.commonprefix(names[1:])  # noqa: RUF071 of letters
    return [name.removeprefix(prefix) or name for name in names]


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _nearest_word(words: Sequence[str], names: Sequence[str]) -> str:
    return next((word for word in words if nearest(word, names)), words[0])


def _upwards(parents: Sequence[int], joint: int) -> list[int]:
    """A joint and what it hangs on, up to the root."""
    path = [joint]
    while parents[path[-1]] >= 0:
        path.append(parents[path[-1]])
    return path


def _common(parents: Sequence[int], one: int, two: int) -> int:
    """The joint that two hang on together."""
    above = set(_upwards(parents, two))
    return next(i for i in _upwards(parents, one) if i in above)
