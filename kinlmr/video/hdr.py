"""HDR pictures, of PQ or HLG, as ordinary ones: for the detector, and for the overlay, which is H.264 of 8 bits.

BT.2100's tables 4 and 5 have the curves, BT.2087 the colours. White paper, 203 nits by BT.2408, gets 85 % of the light
of the ordinary white, and what is brighter is pressed into the rest.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from kinlmr.files import Array

PQ, HLG = 16, 18  # transfer characteristics of ITU-T H.273, as videos name them
PAPER, PEAK = 203.0, 1000.0  # nits of a white page; HLG's brightest
KNEE, ROOM = 0.6, 0.4  # of the ordinary white: above the knee light is pressed into the room that is left
COLORS = np.array(  # RGB of BT.2020 to BT.709, linear
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
LUMINANCE = np.array([0.2627, 0.678, 0.0593], np.float32)  # of BT.2020's RGB


def ordinary(picture: NDArray[np.uint8], transfer: int) -> NDArray[np.uint8]:
    """A picture (H, W, 3) of RGB by BT.2020 and a transfer `PQ` or `HLG` -> RGB by sRGB; of another it stays."""
    if transfer not in (PQ, HLG):
        return picture
    light = curve(transfer)[picture]
    if transfer == HLG:  # from the scene's light to the display's
        light *= np.power(np.maximum(light @ LUMINANCE, 1e-6), 0.2)[..., None] * (PEAK / PAPER)
    light = np.maximum(light @ COLORS.T, 0)
    over = np.maximum(light - KNEE, 0)
    light = np.minimum(light, KNEE) + ROOM * (1 - np.exp(-over / ROOM))
    return encoded()[(np.minimum(light, 1) * (len(encoded()) - 1) + 0.5).astype(np.uint16)]


@functools.cache
def curve(transfer: int) -> Array:
    """Of each value of 8 bits: PQ's light on the display, 1 for paper; HLG's in the scene, 1 for the brightest."""
    value = np.arange(256) / 255
    if transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(value <= 0.5, value**2 / 3, (np.exp((value - c) / a) + b) / 12).astype(np.float32)
    root = value ** (1 / 78.84375)
    light = (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
    return (10000 / PAPER * light).astype(np.float32)


@functools.cache
def encoded() -> NDArray[np.uint8]:
    """sRGB's values of 8 bits (IEC 61966-2-1) of light from 0 to 1, in even steps."""
    light = np.linspace(0, 1, 1 << 14)
    value = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.asarray(np.round(255 * value), np.uint8)
