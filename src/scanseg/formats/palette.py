"""Colours of labels: stable, distinct, readable with a colour vision deficiency.

The colour of a label depends on its index alone, so the same vocabulary looks the same on every
photo. How the colours were chosen: ``docs/decisions/0051``.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

UNKNOWN_COLOUR = (48, 48, 48)
"""Dark grey of pixels that no word explains."""

_FIRST = (  # farthest-point choice in OKLab under normal, protan, deutan and tritan vision
    (60, 135, 225), (240, 225, 0), (195, 30, 15), (255, 165, 195), (0, 195, 120), (150, 45, 165),
    (180, 135, 0), (105, 225, 255), (0, 120, 90), (225, 75, 150), (180, 150, 255),
    (150, 240, 165), (90, 75, 210), (255, 150, 60), (0, 165, 180), (150, 105, 195),
    (105, 150, 90), (255, 120, 210), (165, 90, 120), (225, 195, 105), (120, 180, 225),
    (195, 90, 0), (210, 120, 135), (135, 120, 255),
)  # fmt: skip

_GOLDEN = 0.6180339887498949  # 1 / golden ratio: consecutive hues lie 137.5 degrees apart
_PLASTIC = 0.7548776662466927  # 1 / plastic ratio, and its square below


@lru_cache(maxsize=16)
def _colours(count: int) -> np.ndarray:
    if count <= len(_FIRST):
        return np.array(_FIRST[:count], dtype=np.uint8).reshape(count, 3)
    index = np.arange(2 * count + 64)
    lightness = 0.56 + 0.32 * (index * _PLASTIC % 1)
    chroma = 0.09 + 0.10 * (index * _PLASTIC**2 % 1)
    hue = 2 * np.pi * (index * _GOLDEN % 1)
    spread = _oklch_to_srgb(lightness, chroma, hue)
    candidates = np.concatenate([np.array(_FIRST, dtype=np.uint8), spread])
    _, first = np.unique(candidates, axis=0, return_index=True)
    return candidates[np.sort(first)[:count]]


def label_colours(count: int) -> np.ndarray:
    """RGB colours of labels 0 .. count-1, (count, 3) uint8, all different up to 20,000 labels.

    A longer vocabulary starts with the colours of a shorter one. The first 24 are told apart best.
    """
    return _colours(count).copy()


def _oklch_to_srgb(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """OKLCH (Ottosson 2020) -> (n, 3) uint8; chroma shrinks until sRGB can show it."""
    chroma = chroma.copy()
    for _ in range(24):
        linear = _oklab_to_linear(lightness, chroma * np.cos(hue), chroma * np.sin(hue))
        outside = ((linear < 0) | (linear > 1)).any(axis=1)
        if not outside.any():
            break
        chroma[outside] *= 0.9
    linear = linear.clip(0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * srgb).astype(np.uint8)


def _oklab_to_linear(lightness: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        axis=-1,
    )
