"""Bodies in motion as files of other tools."""

from kinlmr.export.bvh import write_bvh
from kinlmr.export.writers import COLORS, save_amass, save_bvh, save_glb, save_json, save_smpl, save_trc, upright

__all__ = ["COLORS", "save_amass", "save_bvh", "save_glb", "save_json", "save_smpl", "save_trc", "upright", "write_bvh"]
