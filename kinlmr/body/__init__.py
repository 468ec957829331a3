"""A batched SMPL for every family of body models: joints, keypoints and meshes, and the files they come from."""

from typing import Any

from kinlmr import _moved
from kinlmr.body.assets import embedded, load_body, save_body
from kinlmr.body.kinematics import rotate_joint
from kinlmr.body.model import Body, Mesh
from kinlmr.body.points import Keypoints, keypoint_sets, read_sets
from kinlmr.body.surface import area, closed, normals, volume

__all__ = [
    "Body",
    "Keypoints",
    "Mesh",
    "area",
    "closed",
    "embedded",
    "keypoint_sets",
    "load_body",
    "normals",
    "read_sets",
    "rotate_joint",
    "save_body",
    "volume",
]


def __getattr__(name: str) -> Any:
    return _moved.moved(__name__, name)
