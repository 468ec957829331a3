"""Bones of other tools' characters by name: SMPL's joints as Mixamo, Unreal and VRM call them."""

from __future__ import annotations

import os
from pathlib import Path

from kinlmr.body import Body
from kinlmr.files import nearest
from kinlmr.motion import DIALECTS, plain_names

_SIDES = ("left", "right")
_UNREAL = {"pelvis": "pelvis", "spine1": "spine_01", "spine2": "spine_02", "spine3": "spine_03", "neck": "neck_01",
           "head": "head"}  # fmt: skip
_VRM = {"pelvis": "hips", "spine1": "spine", "spine2": "chest", "spine3": "upperChest", "neck": "neck", "head": "head"}
_LIMBS = {  # SMPL's: Unreal's, VRM's
    "collar": ("clavicle", "Shoulder"), "shoulder": ("upperarm", "UpperArm"), "elbow": ("lowerarm", "LowerArm"),
    "wrist": ("hand", "Hand"), "hand": ("middle_01", "MiddleProximal"), "hip": ("thigh", "UpperLeg"),
    "knee": ("calf", "LowerLeg"), "ankle": ("foot", "Foot"), "foot": ("ball", "Toes"),
}  # fmt: skip
# By rig: units a metre, and the bone of each of SMPL's joints. SMPL's hand lies where the middle finger begins.
RIGS = {
    "mixamo": (100.0, {joint: f"mixamorig:{name}" for joint, name in DIALECTS["mixamo"].items()}
               | {f"{side}_hand": f"mixamorig:{side.title()}HandMiddle1" for side in _SIDES}),
    "unreal": (100.0, _UNREAL | {f"{side}_{joint}": f"{bone}_{side[0]}"
                                 for side in _SIDES for joint, (bone, _) in _LIMBS.items()}),
    "vrm": (1.0, _VRM | {f"{side}_{joint}": f"{side}{bone}"
                         for side in _SIDES for joint, (_, bone) in _LIMBS.items()}),
}  # fmt: skip


def rig_of(path: str | os.PathLike[str], rig: str | os.PathLike[str] | None) -> str | Path | None:
    """The name of a rig, or a file's path; a ValueError for what is neither, naming the file that is to be written."""
    if rig is None or rig in RIGS:
        return str(rig) if rig else None
    found = Path(rig)
    if not found.suffix:
        raise ValueError(
            f"{os.fspath(path)}: rig is {str(rig)!r}, expected {', '.join(RIGS)}, or a .bvh, .glb or .vrm file"
            f"{nearest(str(rig), RIGS)}"
        )
    return found


def units_of(rig: str | None) -> float:
    """A rig's units a metre."""
    return RIGS[rig][0] if rig else 1.0


def renamed_joints(body: Body, rig: str | None) -> tuple[str, ...]:
    """The body's joints by a rig's names; those that it does not have keep their own."""
    if rig is None:
        return body.joints
    names = RIGS[rig][1]
    plain = plain_names(body.joints)
    if missing := [name for name in names if name not in plain and not name.endswith("_hand")]:
        raise ValueError(
            f"body {body.name!r} has no {', '.join(missing[:3])}: the names of {rig} are for bodies with SMPL's joints"
        )
    return tuple(names.get(name, own) for name, own in zip(plain, body.joints, strict=True))
