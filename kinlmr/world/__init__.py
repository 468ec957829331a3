"""From the camera to the floor: motion that stands in the world of a camera at rest."""

from kinlmr.world import floor, network, pose
from kinlmr.world.inputs import settle, to_world
from kinlmr.world.lock import knee_change
from kinlmr.world.records import World, WorldState
from kinlmr.world.standing import sole_heights

__all__ = ["World", "WorldState", "floor", "knee_change", "network", "pose", "settle", "sole_heights", "to_world"]
