"""Bones of other tools' characters by name: SMPL's joints as Mixamo, Unreal and VRM call them."""

from __future__ import annotations

import os
from pathlib import Path

from kinlmr.body import Body
from kinlmr.files import nearest
from kinlmr.motion import DIALECTS, plain_names

# By rig: units a metre, and the bone of each of SMPL's joints.
RIGS = {
    "mixamo": (100.0, {joint: f"mixamorig:{name}" for joint, name in DIALECTS["mixamo"].items()}
               | {f"{side}_hand": f"mixamorig:{side.title()}HandMiddle1" for side in ("left", "right")}),
    "unreal": (100.0, DIALECTS["unreal"]),
    "vrm": (1.0, DIALECTS["vrm"]),
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
