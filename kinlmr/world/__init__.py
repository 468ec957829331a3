"""From the camera to the floor: motion that stands in the world of a camera at rest."""

from kinlmr.world.records import World

__all__ = ["World"]
