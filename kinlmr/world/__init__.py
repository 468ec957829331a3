"""From the camera to the floor: motion that stands in the world of a camera at rest."""

from kinlmr.world.inputs import settle, to_world
from kinlmr.world.records import World, WorldState

__all__ = ["World", "WorldState", "settle", "to_world"]
