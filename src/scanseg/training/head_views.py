"""Views of the training photos: random windows, drawn anew at every step."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

SIDE_MULTIPLE = 32
"""View sides are multiples of the tower's largest stride, so that no view is padded."""


@dataclass(frozen=True)
class View:
    """A window of a photo in units of the photo, and how it is shown.

    Attributes:
        x0, y0, x1, y1: the window, in [0, 1].
        width, height: size in pixels after resizing, multiples of ``SIDE_MULTIPLE``.
        mirrored: flipped left to right.
        brightness, contrast, saturation: factors; 1 leaves the colours alone.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    width: int
    height: int
    mirrored: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0

    def pixels(self, photo: Image.Image) -> Tensor:
        """(1, 3, height, width) uint8 RGB."""
        width, height = photo.size
        box = (self.x0 * width, self.y0 * height, self.x1 * width, self.y1 * height)
        part = photo.resize((self.width, self.height), Image.Resampling.BICUBIC, box=box)
        for enhance, factor in (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        ):
            if factor != 1.0:
                part = enhance(part).enhance(factor)
        if self.mirrored:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(part)).permute(2, 0, 1)[None]

    def sample(self, values: np.ndarray, stride: int = 8) -> np.ndarray:
        """Values of a map over the whole photo at the centres of the view's cells.

        Args:
            values: (rows, columns) map that covers the photo, at any resolution.
            stride: side of a cell in pixels of the view.

        Returns:
            (height / stride, width / stride) array of the nearest values.
        """
        rows, columns = values.shape
        y = (np.arange(self.height // stride) + 0.5) * stride / self.height
        x = (np.arange(self.width // stride) + 0.5) * stride / self.width
        if self.mirrored:
            x = 1.0 - x
        at_y = ((self.y0 + y * (self.y1 - self.y0)) * rows).astype(int).clip(0, rows - 1)
        at_x = ((self.x0 + x * (self.x1 - self.x0)) * columns).astype(int).clip(0, columns - 1)
        return values[np.ix_(at_y, at_x)]


def random_view(
    size: tuple[int, int], sides: tuple[int, int], window: int, rng: random.Random
) -> View:
    """A random square window of a photo at a random scale, mirrored or not, recoloured.

    Args:
        size: (width, height) of the photo.
        sides: least and largest long side, in pixels, to which the photo is thought resized.
        window: side of the window in pixels, a multiple of ``SIDE_MULTIPLE``. A photo that is
            smaller along one axis is stretched along it.
        rng: of all draws.
    """
    scale = sides[0] * (sides[1] / sides[0]) ** rng.random() / max(size)
    shares = [min(1.0, window / (scale * length)) for length in size]
    x0, y0 = (rng.uniform(0, 1 - share) for share in shares)
    jitter = [rng.uniform(0.6, 1.4) for _ in range(3)] if rng.random() < 0.8 else [1.0] * 3
    return View(
        x0,
        y0,
        x0 + shares[0],
        y0 + shares[1],
        window,
        window,
        rng.random() < 0.5,
        *jitter,
    )
