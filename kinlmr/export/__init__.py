"""Bodies in motion as files of other tools."""

from kinlmr.export.bvh import save_bvh, write_bvh
from kinlmr.export.meshes import COLORS, save_glb
from kinlmr.export.rigs import RIGS
from kinlmr.export.takes import upright
from kinlmr.export.writers import save_amass, save_csv, save_json, save_smpl, save_trc

__all__ = ["COLORS", "RIGS", "save_amass", "save_bvh", "save_csv", "save_glb", "save_json", "save_smpl", "save_trc",
           "upright", "write_bvh"]  # fmt: skip
