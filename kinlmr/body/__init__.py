"""A batched SMPL for every family of body models: joints, keypoints and meshes, and the files they come from."""

from kinlmr.body.assets import embedded, load_body, save_body
from kinlmr.body.kinematics import turn_joint
from kinlmr.body.model import Body, Mesh
from kinlmr.body.points import Points, keypoint_sets, read_sets
from kinlmr.body.surface import area, closed, normals, volume

__all__ = [
    "Body",
    "Mesh",
    "Points",
    "area",
    "closed",
    "embedded",
    "keypoint_sets",
    "load_body",
    "normals",
    "read_sets",
    "save_body",
    "turn_joint",
    "volume",
]
