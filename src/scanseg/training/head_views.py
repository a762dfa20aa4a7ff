"""Views of the training photos and the frozen tower's features for them, precomputed on disk.

A *view* is a part of a photo, perhaps mirrored and recoloured, at a certain size. The tower never
changes, so its features are computed once per view (float16) and training only reads them.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from scanseg.training.head_photos import Photo

if TYPE_CHECKING:
    from scanseg.contracts import ClipTokens
    from scanseg.encoders.embedded import EmbeddedEncoder

log = logging.getLogger(__name__)
SIDE_MULTIPLE = 32
"""View sides are multiples of the tower's largest stride, so that no view is padded."""
FEATURE_LIMIT = 6e4
"""Below the largest float16."""


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


def views_of(
    size: tuple[int, int], sides: Sequence[int], crops: Sequence[int], rng: random.Random
) -> list[View]:
    """Views of a photo: whole ones and random crops, alternately mirrored.

    Args:
        size: (width, height) of the photo.
        sides: long sides of the whole views in pixels.
        crops: long sides of crops that show 40 to 75 % of each side of the photo.
        rng: where the crops lie, and the colours of all views but the first two.
    """
    views = []
    for number, side in enumerate([*sides, *crops]):
        x0, y0, x1, y1 = 0.0, 0.0, 1.0, 1.0
        if number >= len(sides):
            share = rng.uniform(0.4, 0.75)
            x0, y0 = rng.uniform(0, 1 - share), rng.uniform(0, 1 - share)
            x1, y1 = x0 + share, y0 + share
        scale = side / max(size)
        jitter = [1.0] * 3 if number < 2 else [rng.uniform(0.65, 1.35) for _ in range(3)]
        views.append(
            View(
                x0, y0, x1, y1,
                _round_up(size[0] * scale),
                _round_up(size[1] * scale),
                number % 2 == 1,
                *jitter,
            )
        )  # fmt: skip
    return views


def _round_up(side: float) -> int:
    return max(SIDE_MULTIPLE, round(side / SIDE_MULTIPLE) * SIDE_MULTIPLE)


def feature_path(work: Path, photo: Photo) -> Path:
    """Where the views of a photo are kept."""
    return work / "features" / photo.source / f"{photo.stem}.pt"


def make_features(
    photos: Sequence[Photo],
    encoder: EmbeddedEncoder,
    work: Path,
    *,
    sides: Sequence[int],
    crops: Sequence[int],
) -> None:
    """Compute and store the features of every photo that has none yet; safe to interrupt.

    Each file is a list of ``{"view": dict, "s8", "s16", "s32": (V, rows, columns) float16,
    "conse": (D, rows, columns) float16, "pooled": (D,) float16}``.
    """
    for photo in photos:
        path = feature_path(work, photo)
        if path.is_file():
            continue
        image = photo.open()
        stored = []
        for view in views_of(image.size, sides, crops, random.Random(photo.key)):
            with torch.inference_mode():
                tokens = encoder.encode_image(view.pixels(image), layers=(1, 2, 3))
            stored.append({"view": asdict(view), **feature_maps(tokens)})
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        torch.save(stored, partial)
        os.replace(partial, path)
        log.info("features: %s", photo.key)


def feature_maps(tokens: ClipTokens) -> dict[str, Tensor]:
    """The maps of one photo (B = 1) in the form in which they are stored."""

    def as_map(layer: int) -> Tensor:
        values = tokens.patches[layer][0].T.unflatten(1, tokens.grids[layer])  # (V, rows, columns)
        return values.clamp(-FEATURE_LIMIT, FEATURE_LIMIT).half()

    assert tokens.dense is not None
    return {
        "s8": as_map(1),
        "s16": as_map(2),
        "s32": as_map(3),
        "conse": tokens.dense[0].half(),
        "pooled": tokens.pooled[0].half(),
    }
